"""Which variable keeps a value from being pickled: "closure variable 'db' of train", "['model'].lock"."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from fleet.errors import NotPicklable
from fleet.fanout.chain import Level, name_of
from fleet.fanout.parcel import Keep, Packed, pack

_DEPTH = 6  # deep enough for a result in a dict in a list of objects; each level costs a pickling attempt


def not_picklable(value: Any, error: BaseException, *, what: str, at: str) -> NotPicklable:
    """Return the error that names the variable. ``what``: "the function `train`", "the result"..."""
    trail, culprit = _find(value, _DEPTH, set())
    held = f": {trail} holds a {_kind(culprit)}" if trail else f" (it is a {_kind(culprit)})"
    return NotPicklable(
        f"{what} cannot be sent between processes{held}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        at=at,
        fix='make it inside the function (once per worker), return plain data, or use backend="thread", which pickles nothing',
    )


def packed_level(level: Level, keep: Keep | None = None) -> Packed:
    """Pickle a level's functions, or name the one that cannot be, and its variable.

    Raises:
        NotPicklable: as said.
    """
    try:
        return pack(level, keep)
    except OSError:
        raise
    except Exception as error:
        for function in level.functions():
            try:
                pack(function)
            except Exception as reason:
                name = name_of(function)
                raise not_picklable(function, reason, what=f"the function {name}", at=f"the chain, at {name}") from reason
        raise not_picklable(level.inner, error, what="the list of the inner spread", at=".spread()") from error


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _fails(value: Any) -> bool:
    try:
        pack(value)
    except Exception:  # noqa: BLE001  that it fails is the answer
        return True
    return False


def _find(value: Any, depth: int, seen: set[int]) -> tuple[str, Any]:
    """Return the way from a value to the innermost part that cannot be pickled, and that part."""
    if depth and id(value) not in seen:
        seen.add(id(value))
        for name, part in _parts(value):
            if _fails(part):
                trail, culprit = _find(part, depth - 1, seen)
                return name + trail, culprit
    return "", value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.MethodType):
        yield "its object", value.__self__
    elif isinstance(value, types.FunctionType):
        name = value.__name__
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if _filled(cell):
                yield f"closure variable {variable!r} of {name}", cell.cell_contents
        for variable in _global_names(value.__code__):
            if variable in value.__globals__:
                yield f"global variable {variable!r} of {name}", value.__globals__[variable]
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield f"a default argument of {name}", default
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif hasattr(value, "func") and hasattr(value, "args"):  # functools.partial
        yield "its function: ", value.func
        yield from ((f"argument {i}", part) for i, part in enumerate(value.args))
    else:
        yield from ((f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)
