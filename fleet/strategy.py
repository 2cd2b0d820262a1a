"""DistributedStrategy: what a job asks for, checked at assignment.

A strategy is a few plain fields and blocks. A block is off (None or False), on with its defaults (True), or a dict that
sets fields. The blocks are declared beside the code that obeys them, in ``collective/strategies/`` and
``parameter_server/block.py``; this file collects the declarations and holds no list of its own. A name that is not
declared does not exist: it raises ConfigError with what there is, and is never accepted and ignored.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fleet import config, old_spellings
from fleet.collective.strategies import custom
from fleet.collective.strategies.hooks import Strategy
from fleet.config import Field
from fleet.errors import ConfigError, StrategyConflict

PLAIN: tuple[Field, ...] = (
    Field("batch", str, "global", "global: the script's batch is the global one; per_trainer: each trainer takes it",
          choices=("global", "per_trainer")),
    Field("seed", int, 0, "seed of shuffles and of new rows", low=0, high=2**63 - 1),
    Field("timeout_s", float, 60.0, "how long to wait for a late trainer or a server", low=0.1, high=86400),
)  # fmt: skip


class Block(NamedTuple):
    """What one strategy file declares."""

    name: str
    fields: tuple[Field, ...]
    conflicts: Mapping[str, str]  # name of another block -> why both cannot be on
    complete: Callable[[dict[str, Any], Callable[..., str]], dict[str, Any]]  # fills in what its fields imply, or refuses
    encodes: bool  # it is a codec: a bucket has one encoding

    def checked(self, given: Mapping[str, Any], at: Callable[..., str]) -> dict[str, Any]:
        """Return every field of the block: what is given, else what is implied or the default."""
        return self.complete(config.check(self.fields, given, block=self.name, at=at), at)


@functools.cache
def blocks() -> dict[str, Block]:
    """Return every declared block by name, in the order in which a step applies them."""
    from fleet.parameter_server import block

    found = {kind.name: _block_of(kind) for kind in kinds().values()}
    return {**found, block.NAME: Block(block.NAME, block.FIELDS, block.CONFLICTS, block.complete, False)}


@functools.cache
def kinds() -> dict[str, type[Strategy]]:
    """Return the classes of all strategies of collective training by name, in ORDER."""
    from fleet.collective import strategies

    found: dict[str, type[Strategy]] = {}
    for place in strategies.ORDER:
        module, _, kind = place.partition(".")
        if kind:
            made = getattr(importlib.import_module(f"fleet.collective.strategies.{module}"), kind)
            found[made.name] = made
    return found


def _block_of(kind: type[Strategy]) -> Block:
    return Block(kind.name, kind.fields, kind.conflicts, kind.complete, kind.encodes)


class DistributedStrategy:
    """State how a job is run.

    Example:
        >>> import fleet
        >>> s = fleet.DistributedStrategy(parameter_server={"consistency": "async"})
        >>> s.parameter_server["prefetch"]
        1

    Raises:
        ConfigError: an unknown name, a wrong type, a value out of range; at the assignment, with the place.
        StrategyConflict: two blocks that exclude each other.
    """

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_set", {})
        object.__setattr__(self, "dp_degree", -1)  # of hybrid_configs: the trainers that the script counts on; -1: any number
        object.__setattr__(self, "_old_configs", set())  # blocks that were set by NAME_configs
        object.__setattr__(self, "_old_k_steps", 0)  # of a_sync_configs, until a_sync is set
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self._assign(name, value, lambda *keys: "DistributedStrategy" + "".join("." + k for k in keys))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _OLD_NAMES:
            return _OLD_NAMES[name](self)
        if name == "custom":
            return self._set.get("custom", ())
        if name.endswith("_configs") and name[:-8] in blocks():
            name = name[:-8]
        values = self.effective()
        if name not in values:
            raise AttributeError(str(_unknown(name, f"DistributedStrategy.{name}")))
        value = values[name]
        return MappingProxyType(value) if isinstance(value, dict) else value  # a write into it would pass unchecked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DistributedStrategy) and self.effective() == other.effective()

    def __hash__(self) -> int:
        return hash(repr(self.effective()))  # every block lists its fields in the order of their declaration

    def __repr__(self) -> str:
        return "DistributedStrategy(" + ", ".join(f"{k}={v!r}" for k, v in self._set.items()) + ")"

    def is_set(self, name: str) -> bool:
        """Return whether the script or a file has set this field or block."""
        return name in self._set

    def effective(self) -> dict[str, Any]:
        """Return every field and block that is in force, defaults filled in; a block that is off is None."""
        values: dict[str, Any] = {f.name: self._set.get(f.name, f.default) for f in PLAIN}
        values["custom"] = [custom.described(strategy) for strategy in self.custom]
        for name, block in blocks().items():
            given = self._set.get(name)
            # It was checked when it was set: this cannot fail.
            values[name] = None if given is None else block.checked(given, lambda *keys: ".".join(keys))
        return values

    def fill_from(self, document: config.Document) -> None:
        """Take from a file's ``strategy:`` the fields and blocks that are not set yet."""
        found = document.value.get("strategy") or {}
        if not isinstance(found, dict):
            raise ConfigError("strategy must be a mapping", at=document.at("strategy"), fix="write 'strategy:' and indented names")
        for name, value in found.items():
            if not self.is_set(name):
                self._assign(name, value, lambda *keys: document.at("strategy", *keys))

    def to_yaml(self, path: str | None = None) -> str:
        """Return what is set as YAML text, and write it to ``path`` if given."""
        import yaml

        if self.custom:
            what, fix = "strategies of your own cannot be written to a file", "give custom=[...] in the script"
            raise ConfigError(what, at="DistributedStrategy.to_yaml()", fix=fix)
        written = {name: value for name, value in self._set.items() if name != "custom"}
        text: str = yaml.safe_dump({"strategy": written}, sort_keys=False)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text

    @classmethod
    def from_yaml(cls, path: str) -> DistributedStrategy:
        """Read the ``strategy:`` of a file."""
        strategy = cls()
        strategy.fill_from(config.load_yaml(path))
        return strategy

    def _assign(self, name: str, value: Any, at: Callable[..., str]) -> None:
        if name in _OLD_SETTERS:
            _OLD_SETTERS[name](self, value, at)
            return
        if old_spellings.refuse(name, value, at):
            return  # it asks for nothing
        if name == "hybrid_configs" and isinstance(value, dict):
            object.__setattr__(self, "dp_degree", value.get("dp_degree", -1))
        translated = old_spellings.translated(name, value, lambda block: self._set.get(block) or {}, at)
        if translated is not None:
            if translated[1] is not None:
                self._assign(*translated, at)
            return
        if name.endswith("_configs") and name[:-8] in blocks():
            # The form of paddle.distributed.fleet: strategy.amp = True, then strategy.amp_configs = {...}.
            name = name[:-8]
            if not isinstance(value, dict):
                raise ConfigError(f"{name}_configs must be a dict, got {value!r}", at=at(name), fix="give the fields to set")
            self._old_configs.add(name)
        elif value is True and name in self._old_configs:
            value = self._set[name] or {}  # strategy.amp = True behind its amp_configs turns on what these say
        plain = {f.name: f for f in PLAIN}
        if name == "custom":
            self._set_custom(value, at)
        elif name in plain:
            config.check([plain[name]], {name: value}, block="", at=lambda field: at(field))
            self._set[name] = value
        elif name in blocks():
            self._set_block(blocks()[name], value, at)
        else:
            raise _unknown(name, at(name))

    def _set_block(self, block: Block, value: Any, at: Callable[..., str]) -> None:
        if value is None or value is False:
            self._set[block.name] = None
            return
        if value is not True and not isinstance(value, dict):
            raise ConfigError(
                f"{block.name} must be True, False or a dict, got {value!r}",
                at=at(block.name),
                fix="True takes the defaults; a dict sets " + ", ".join(f.name for f in block.fields),
            )
        given = {} if value is True else value
        block.checked(given, lambda *keys: at(block.name, *keys))
        self._refuse_conflicts(block, at)
        self._set[block.name] = dict(given)

    def _set_custom(self, value: Any, at: Callable[..., str]) -> None:
        given = custom.checked(value, [*(f.name for f in PLAIN), *blocks()], at("custom"))
        before = self._set.pop("custom", ())
        try:
            for k, strategy in enumerate(given):
                self._set["custom"] = given[:k]
                self._refuse_conflicts(_block_of(type(strategy)), at)
        except StrategyConflict:
            self._set["custom"] = before
            raise
        self._set["custom"] = given

    def _refuse_conflicts(self, block: Block, at: Callable[..., str]) -> None:
        on = [b for b in blocks().values() if self._set.get(b.name) is not None] + [_block_of(type(s)) for s in self.custom]
        for other in on:
            why = block.conflicts.get(other.name) or other.conflicts.get(block.name)
            if not why and block.encodes and other.encodes:
                why = "both say how gradients are encoded, and a bucket has one encoding"
            if why and other.name != block.name:
                what = f"{block.name} and {other.name} exclude each other: {why}"
                raise StrategyConflict(what, at=at(block.name), fix=f"turn one of them off: {other.name}=None")


def _unknown(name: str, at: str) -> ConfigError:
    names = [f.name for f in PLAIN] + list(blocks()) + ["custom"]
    return ConfigError(f"there is no strategy {name!r} in this version of fleet", at=at, fix=config.did_you_mean(name, names))


# a_sync and a_sync_configs of paddle.distributed.fleet: False is sync; True is geo with k_steps > 0, else async (as Paddle's
# parameter_server_optimizer chose; half_async had no form of its own there). They may be set in either order.
def _set_a_sync(strategy: DistributedStrategy, value: Any, at: Callable[..., str]) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"a_sync must be True or False, got {value!r}", at=at("a_sync"), fix="True is async, False is sync")
    _take_old_form(strategy, value, strategy._old_k_steps, at)


def _set_a_sync_configs(strategy: DistributedStrategy, value: Any, at: Callable[..., str]) -> None:
    if not isinstance(value, dict) or set(value) - {"k_steps"}:
        raise ConfigError(f"a_sync_configs takes k_steps only, got {value!r}", at=at("a_sync_configs"), fix="give {'k_steps': 0}")
    k_steps = value.get("k_steps", 0)
    if isinstance(k_steps, bool) or not isinstance(k_steps, int) or k_steps < -1:
        what = f"a_sync_configs k_steps must be an int, got {k_steps!r}"
        raise ConfigError(what, at=at("a_sync_configs", "k_steps"), fix="0 is async; above 0 is geo")
    block = strategy._set.get("parameter_server")
    if block is not None:
        _take_old_form(strategy, block.get("consistency") in ("async", "geo"), k_steps, at)
    elif k_steps > 0:
        _take_old_form(strategy, True, k_steps, at)  # as there, where a_sync is on unless it is turned off
    object.__setattr__(strategy, "_old_k_steps", k_steps)


def _take_old_form(strategy: DistributedStrategy, a_sync: bool, k_steps: int, at: Callable[..., str]) -> None:
    kept = dict(strategy._set.get("parameter_server") or {})
    kept.pop("k_steps", None)
    if not a_sync and k_steps > 0:
        what = "a_sync=False asks for sync, a_sync_configs k_steps > 0 for geo"
        raise StrategyConflict(what, at=at("a_sync"), fix="leave k_steps away for sync, or set a_sync=True for geo")
    wanted = {"consistency": "geo", "k_steps": k_steps} if k_steps > 0 else {"consistency": "async" if a_sync else "sync"}
    strategy._assign("parameter_server", {**kept, **wanted}, at)


_OLD_SETTERS: dict[str, Callable[[DistributedStrategy, Any, Callable[..., str]], None]] = {
    "a_sync": _set_a_sync,
    "a_sync_configs": _set_a_sync_configs,
}
_OLD_NAMES: dict[str, Callable[[DistributedStrategy], Any]] = {
    "a_sync": lambda s: (s.parameter_server or {}).get("consistency") in ("async", "geo"),
    "a_sync_configs": lambda s: {"k_steps": (s.parameter_server or {}).get("k_steps") or 0},
}
