"""Arguments of a model's forward, nested in lists and dicts, as a flat list and back.

A structure is JSON: a number stands for a leaf.
"""

from __future__ import annotations

from typing import Any

from fleet.errors import ConfigError


def of(value: Any, leaves: list[Any]) -> Any:
    """Return the structure of ``value`` and append its leaves to ``leaves``."""
    if isinstance(value, (list, tuple)):
        return [of(v, leaves) for v in value]
    if isinstance(value, dict):
        return {name: of(v, leaves) for name, v in value.items()}
    leaves.append(value)
    return len(leaves) - 1


def pack(structure: Any, leaves: list[Any]) -> Any:
    """Return the value whose leaves were given."""
    if isinstance(structure, list):
        return [pack(s, leaves) for s in structure]
    if isinstance(structure, dict):
        return {name: pack(s, leaves) for name, s in structure.items()}
    return leaves[structure]


def flatten(structure: Any, value: Any, at: str) -> list[Any]:
    """Return the leaves of ``value``, in the order of the structure.

    Raises:
        ConfigError: it is not of that structure; a leaf of it may be anything.
    """
    if isinstance(structure, list):
        if not isinstance(value, (list, tuple)) or len(value) != len(structure):
            got = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
            fix = "call it as the model's forward was called"
            raise ConfigError(f"expected {len(structure)} values, got {got}", at=at, fix=fix)
        return [leaf for i, (s, v) in enumerate(zip(structure, value, strict=True)) for leaf in flatten(s, v, f"{at}[{i}]")]
    if isinstance(structure, dict):
        if not isinstance(value, dict) or not structure.keys() <= value.keys():
            got = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise ConfigError(f"expected a dict of {', '.join(structure)}, got {got}", at=at, fix="give every field of the export")
        return [leaf for name, s in structure.items() for leaf in flatten(s, value[name], f"{at}[{name!r}]")]
    return [value]
