"""From a batch to the ids that it will look up: what ``distributed_loader(ids=...)`` announces ahead of the batch's turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fleet.errors import ConfigError

if TYPE_CHECKING:
    from fleet.parameter_server.session import Session


def announcer(session: Callable[[], Session | None], ids: Mapping[Any, Any] | Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return a function that takes a coming batch and tells the session which rows it will read.

    Args:
        session: returns the job's session, None while there is none.
        ids: key or index of a batch -> embedding, or a function from a batch to {embedding: ids} or [(embedding, ids), ...].
    """
    import paddle

    from fleet.parameter_server.embedding import Embedding

    def announce(batch: Any) -> None:
        tables = session()
        if tables is None:
            return  # the optimizer comes later; until then nobody looks rows up
        found = ids(batch) if callable(ids) else [(embedding, _given(batch, key)) for key, embedding in ids.items()]
        if isinstance(found, Mapping):
            found = list(found.items())
        if not isinstance(found, list) or not all(isinstance(item, tuple) and len(item) == 2 for item in found):
            what = f"the function given as ids returned a {type(found).__name__}"
            fix = "let it return {embedding: ids}, or [(embedding, ids), ...] if an embedding reads several fields"
            raise ConfigError(what, at="distributed_loader(ids=)", fix=fix)
        wanted: dict[str, list[Any]] = {}
        learns = paddle.is_grad_enabled()
        for embedding, value in found:
            if not isinstance(embedding, Embedding):
                fix = "name an embedding of the model given to distributed_model, and call distributed_optimizer before the loader"
                what = f"ids for a {type(embedding).__name__}, which has no table"
                raise ConfigError(what, at="distributed_loader(ids=)", fix=fix)
            learns = learns and embedding.training
            ragged = value if isinstance(value, tuple) and len(value) == 2 else (value,)
            wanted.setdefault(str(embedding.table_name), []).append(embedding.look(*ragged).ids)
        tables.announce(wanted, create=learns)

    return announce


def _given(batch: Any, key: Any) -> Any:
    """Return a field's ids; of a pair of keys the ragged ids and their lengths."""
    if isinstance(key, tuple) and len(key) == 2 and not (isinstance(batch, Mapping) and key in batch):
        return _field(batch, key[0]), _field(batch, key[1])
    return _field(batch, key)


def _field(batch: Any, key: Any) -> Any:
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError) as error:
        there = f"keys {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else f"{len(batch)} fields, counted from 0"
        fix = f"a batch of this loader has {there}"
        what = f"a batch has no field {key!r} ({type(error).__name__})"
        raise ConfigError(what, at="distributed_loader(ids=)", fix=fix) from None
