"""One checker of values for Python, YAML and the command line.

A block of settings is a tuple of :class:`Field`. :func:`check` turns what a user wrote into a complete dict or raises
a ConfigError that names the place, the value, and the nearest name or the allowed range. Nothing is ever adjusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fleet.errors import ConfigError


class Field(NamedTuple):
    """One setting.

    ``kind`` is one of ``bool, int, float, str, list`` (of ``items``); an int is accepted where a float is asked for, a bool never
    as a number.
    """

    name: str
    kind: type
    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    none_ok: bool = False  # None means "fleet chooses", said in ``meaning``
    settings: Mapping[str, tuple[Field, ...]] = {}  # choice -> what {"name": the choice, ...} may set besides
    below: float | None = None
    items: type = str  # of a list; ``low``, ``high`` and ``below`` are theirs

    def expected(self) -> str:
        """Say what this field takes: ``an int >= 1``."""
        if self.choices:
            form = ', or {"name": one of these, ...}' if self.settings else ""
            return "one of " + ", ".join(self.choices) + form
        if self.kind is list:
            item = Field("", self.items, None, "", self.low, self.high, below=self.below).expected()
            return f"a list, each of it {item}"
        text = {bool: "True or False", int: "an int", float: "a number", str: "a string"}[self.kind]
        if self.low is not None and self.high is not None:
            return f"{text} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{text} >= {self.low:g}" + (f" and below {self.below:g}" if self.below is not None else "")
        return text

    def accepts(self, value: Any) -> bool:
        """Return whether ``value`` has the right type and lies in range."""
        if value is None:
            return self.none_ok
        if self.kind is list:
            one = Field("", self.items, None, "", self.low, self.high, below=self.below)
            return isinstance(value, (list, tuple)) and all(one.accepts(item) for item in value)
        if self.kind is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
                return False
        elif self.kind is int:
            if isinstance(value, bool) or not isinstance(value, int):
                return False
        elif not isinstance(value, self.kind):
            return False
        if self.choices and value not in self.choices:
            return False
        if self.below is not None and value >= self.below:
            return False
        return not (self.low is not None and value < self.low) and not (self.high is not None and value > self.high)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like ``word``, or None if nothing is close."""
    import difflib  # only needed once something is already wrong

    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest one, and all that exist."""
    names = sorted(candidates)
    near = nearest(word, names)
    there = f"there is: {', '.join(names)}" if names else "nothing can be set here"
    return f"did you mean {near!r}? {there}" if near else there


def check(fields: Iterable[Field], values: Mapping[str, Any], *, block: str, at: Callable[..., str]) -> dict[str, Any]:
    """Return all fields of a block: what ``values`` sets, else the defaults.

    Args:
        block: name of the block, as the user writes it (``buckets``); "" for the top level.
        at: field name, and what is inside it -> place, for the error.

    Raises:
        ConfigError: an unknown name, a wrong type, a value out of range.
    """
    known = {f.name: f for f in fields}
    values = dict(values)
    for name, value in values.items():
        path = f"{block}.{name}" if block else str(name)
        if name not in known:
            raise ConfigError(f"there is no {path}", at=at(name), fix=did_you_mean(str(name), known))
        if known[name].settings and isinstance(value, Mapping):
            values[name] = _check_settings(known[name], value, path, lambda *keys, name=name: at(name, *keys))
            continue
        if not known[name].accepts(value):
            field = known[name]
            raise ConfigError(
                f"{path} must be {field.expected()}, got {value!r}",
                at=at(name),
                fix=f"use a value in range, or delete it to take the default ({field.default})",
            )
    complete = {f.name: values.get(f.name, f.default) for f in known.values()}
    return {name: tuple(v) if known[name].kind is list and v is not None else v for name, v in complete.items()}


def _check_settings(field: Field, value: Mapping[str, Any], path: str, at: Callable[..., str]) -> dict[str, Any]:
    """Return ``{"name": a choice, what is set for it}``, in the fields' order."""
    name = value.get("name")
    check([field._replace(name="name", settings={}, none_ok=False)], {"name": name}, block=path, at=at)
    rest = {k: v for k, v in value.items() if k != "name"}
    checked = check(field.settings[str(name)], rest, block=path, at=at)
    return {"name": name, **{k: v for k, v in checked.items() if k in rest}}


class Document:
    """A YAML file: its plain data, and the line of every key."""

    def __init__(self, path: str, value: Any, lines: dict[tuple[str, ...], int]) -> None:
        self.path, self.value, self._lines = path, value, lines

    def at(self, *keys: str) -> str:
        """Return ``fleet.yaml:12  $.strategy.buckets`` for a path of keys."""
        line = next((self._lines[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in self._lines), 1)
        return f"{self.path}:{line}  $" + "".join("." + k for k in keys)


def load_yaml(path: str) -> Document:
    """Read a YAML file of nested mappings.

    Raises:
        ConfigError: the file is missing or no YAML, its top is no mapping, or a key is given twice.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            node = yaml.compose(file, Loader=yaml.SafeLoader)
            file.seek(0)
            value = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration: {error}", at=path, fix="give the path of a readable YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"not valid YAML: {problem}", at=f"{path}{line}", fix="correct the line; indent with spaces") from None
    lines: dict[tuple[str, ...], int] = {}
    document = Document(path, {} if value is None else value, lines)
    if node is not None:
        _collect_lines(node, (), document, lines)
    if not isinstance(document.value, dict):
        raise ConfigError("the file must be a mapping of names to values", at=f"{path}:1", fix="begin with e.g. 'strategy:'")
    return document


def _collect_lines(node: Any, keys: tuple[str, ...], document: Document, lines: dict[tuple[str, ...], int]) -> None:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = (*keys, str(key.value))
        if path in lines:
            raise ConfigError(
                f"{'.'.join(path)} is given twice, first in line {lines[path]}",
                at=f"{document.path}:{key.start_mark.line + 1}",
                fix="delete one of the two",
            )
        lines[path] = key.start_mark.line + 1
        _collect_lines(value, path, document, lines)
