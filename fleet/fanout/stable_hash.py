"""A hash of functions and values that is the same in every process: what the cache asks "did this change?".

Pickled bytes are no key: sets and interned strings make them differ from one start of Python to the next. Here every value is
hashed by what it *is*; a function by its bytecode, constants, closure, defaults and the globals it reads, and through them by the
helper functions of the user's own modules. Installed packages count by name and version.
"""

from __future__ import annotations

import dis
import sys
import sysconfig
import types
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from fleet.errors import ConfigError

_SIMPLE = (int, str, float, bool, type(None), complex)
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_CODE_FLAGS = 0x0F | 0x20 | 0x80 | 0x200  # varargs, varkeywords, nested, generator, coroutine...: what changes the meaning
_SKIPPED = {"__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__annotations__", "__firstlineno__",
            "__static_attributes__", "__annotate__", "__annotations_cache__"}  # fmt: skip


def text_of(value: Any) -> str:
    """Return 32 hexadecimal digits that stand for a value.

    Raises:
        ConfigError: the value holds something that has no stable content (an open file, a lock).
    """
    if type(value) in _SIMPLE:
        return blake2b(f"{type(value).__name__}:{value!r}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return _Hash().of(value).hex()


def parts_of(function: Any) -> dict[str, str]:
    """Return what a function depends on: label -> short text or digest. Two functions with equal parts do the same."""
    function = getattr(function, "__wrapped__", None) or function
    walk = _Hash()
    if isinstance(function, types.FunctionType):
        return {label: _short(value, walk) for label, value in _dependencies(function)}
    return {"object": walk.of(function).hex()}


def difference(name: str, old: dict[str, str], new: dict[str, str]) -> str:
    """Say in a few words why a function counts as changed."""
    if old == new:
        return ""
    for label in new:
        if label in old and old[label] != new[label]:
            shown = label != "code" and not old[label].startswith("#") and not new[label].startswith("#")
            return f"`{name}` changed: {label}" + (f" {old[label]} -> {new[label]}" if shown else "")
    gone = sorted(set(old) ^ set(new))
    return f"`{name}` changed: {gone[0]}" if gone else f"`{name}` changed"


def _short(value: Any, walk: _Hash) -> str:
    if type(value) in _SIMPLE and len(repr(value)) <= 40:
        return repr(value)
    return "#" + walk.of(value).hex()


def _dependencies(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield (label, value) of everything a function's result may depend on, its arguments apart."""
    yield "code", _Code(function.__code__)
    yield from _constants(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"closure variable {name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"default argument {index}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default of {name}", value
    attributes = set(_names(function.__code__))
    for name in sorted(set(_globals(function.__code__))):
        if name in function.__globals__:
            value = function.__globals__[name]
            kind = "helper function" if isinstance(value, types.FunctionType) else "global"
            yield f"{kind} {name}", value
            if isinstance(value, types.ModuleType) and _is_users(value.__name__):
                yield from ((f"{name}.{a}", vars(value)[a]) for a in sorted(attributes) if a in vars(value))


class _Code:
    """Marks bytecode without its constants, which are hashed one by one."""

    def __init__(self, code: types.CodeType) -> None:
        self.content = (sys.version_info[:2], *self._walk(code))

    def _walk(self, code: types.CodeType) -> Iterator[Any]:
        yield (code.co_code, code.co_names, code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount,
               code.co_flags & _CODE_FLAGS, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
               getattr(code, "co_exceptiontable", b""))  # fmt: skip
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from self._walk(constant)


def _constants(code: types.CodeType, prefix: str = "constant") -> Iterator[tuple[str, Any]]:
    for index, value in enumerate(code.co_consts):
        if isinstance(value, types.CodeType):
            yield from _constants(value, f"{prefix} in {value.co_name},")
        else:
            yield f"{prefix} {index}:", value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def _is_users(module: str) -> bool:
    """Say whether a module is the user's own: not Python's, not installed, not fleet."""
    top = module.partition(".")[0]
    if top == "fleet" or top in sys.builtin_module_names:
        return False
    if top == "__main__":
        return True
    path = getattr(sys.modules.get(module), "__file__", None)
    return path is not None and not path.startswith(_LIBRARIES) and "-packages/" not in path.replace("\\", "/")


class _Hash:
    """One walk over a value; a value that holds itself is cut where it comes round."""

    def __init__(self) -> None:
        self.way: list[int] = []  # ids of the values that hold the one at hand

    def of(self, value: Any) -> bytes:
        kind = type(value)
        if kind in _SIMPLE:
            return _digest(kind.__name__, repr(value).encode("utf-8", "surrogatepass"))
        if kind in (bytes, bytearray):
            return _digest(kind.__name__, value)
        if id(value) in self.way:
            return _digest("cycle", str(len(self.way) - self.way.index(id(value))).encode())
        self.way.append(id(value))
        try:
            return self._of_compound(value, kind)
        finally:
            self.way.pop()

    def _of_compound(self, value: Any, kind: type) -> bytes:
        if kind in (tuple, list):
            return _digest(kind.__name__, *map(self.of, value))
        if kind is dict:
            return _digest("dict", *sorted(self.of(key) + self.of(part) for key, part in value.items()))
        if kind in (set, frozenset):
            return _digest("set", *sorted(map(self.of, value)))
        if kind is _Code:
            return _digest("code", self.of(value.content))
        if isinstance(value, types.FunctionType):
            if value.__name__ != "<lambda>" and not _is_users(value.__module__ or "__main__"):
                return self._of_name(value)
            return _digest("function", *(_digest(label, self.of(part)) for label, part in _dependencies(value)))
        if isinstance(value, types.ModuleType):
            return _digest("module", value.__name__.encode(), str(getattr(value, "__version__", "")).encode())
        if isinstance(value, types.MethodType):
            return _digest("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, (types.BuiltinFunctionType, types.CodeType)):
            return self._of_name(value)
        return self._of_array(value) or self._of_object(value)

    def _of_name(self, value: Any) -> bytes:
        owner = getattr(value, "__self__", None)
        bound = b"" if owner is None or isinstance(owner, types.ModuleType) else self.of(owner)
        module = getattr(value, "__module__", "") or ""
        version = str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))
        return _digest("name", f"{module}.{getattr(value, '__qualname__', value)} {version}".encode(), bound)

    def _of_class(self, value: type) -> bytes:
        if not _is_users(value.__module__):
            return self._of_name(value)
        members = [(name, part) for name, part in vars(value).items() if name not in _SKIPPED]
        unwrapped = [(name, getattr(part, "__func__", None) or getattr(part, "fget", None) or part) for name, part in members]
        known = [(n, p) for n, p in unwrapped if not isinstance(p, (types.GetSetDescriptorType, types.MemberDescriptorType))]
        bases = [self.of(base) for base in value.__bases__]
        return _digest("class", value.__qualname__.encode(), *bases, *(_digest(n, self.of(p)) for n, p in sorted(known, key=_name)))

    def _of_array(self, value: Any) -> bytes:
        """Hash a NumPy array by dtype, shape and bytes, without importing NumPy; b"" for anything else."""
        dtype = getattr(value, "dtype", None)
        if type(value).__module__ != "numpy" or dtype is None or dtype.hasobject or not hasattr(value, "tobytes"):
            return b""
        whole = memoryview(value).cast("B") if value.flags.c_contiguous and value.nbytes and value.shape else value.tobytes()
        return _digest("array", repr(dtype.descr).encode(), repr(value.shape).encode(), whole)

    def _of_object(self, value: Any) -> bytes:
        try:
            made = value.__reduce_ex__(4)
        except Exception as error:
            raise ConfigError(
                f"a {type(value).__name__} has no stable content to hash: {error}",
                at="the cache key of a member",
                fix="keep it out of items, closures and globals (make it inside the function)",
            ) from error
        if isinstance(made, str):
            return _digest("name", f"{type(value).__module__}.{made}".encode())
        function, arguments, state, items, pairs = (*made, None, None, None, None)[:5]
        parts = [self.of(function), self.of(arguments), self.of(state)]
        parts += [self.of(part) for part in items or ()]
        parts += sorted(self.of(key) + self.of(part) for key, part in pairs or ())
        return _digest("object", *parts)


def _name(pair: tuple[str, Any]) -> str:
    return pair[0]


def _digest(kind: str, *parts: Any) -> bytes:
    made = blake2b(kind.encode(), digest_size=16)
    for part in parts:
        size = part.nbytes if isinstance(part, memoryview) else len(part)
        made.update(b"|%d:" % size)
        made.update(part)
    return made.digest()
