"""``_core.pyi`` names what the built core has: every function and method, with the same arguments in the same order."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from fleet.parameter_server import native

STUB = Path(native.__file__).with_name("_core.pyi")


def arguments_of(function: Any) -> list[tuple[str, bool]] | None:
    """Return the arguments that pybind11 notes in a docstring, and which have a default; None of a property."""
    signature = re.match(r"\w+\((.*)\) -> ", function.__doc__ or "")
    if signature is None:
        return None
    text = signature[1]
    while (shorter := re.sub(r"\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)", "0", text)) != text:  # types and defaults with commas in them
        text = shorter
    parts = [part.strip() for part in text.split(",") if part.strip() not in ("", "*")]
    return [(part.split(":")[0].split("=")[0].strip(), "=" in part) for part in parts]


def declared(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    a = function.args
    plain = len(a.args) - len(a.defaults)
    return [(arg.arg, i >= plain) for i, arg in enumerate(a.args)] + [
        (arg.arg, default is not None) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)
    ]


def public(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in dir(thing) if not name.startswith("_") or name == "__init__"}


def test_every_name_and_argument() -> None:
    core = native.load()
    body = ast.parse(STUB.read_text()).body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    dicts = {node.name for node in body if isinstance(node, ast.ClassDef) and [ast.unparse(b) for b in node.bases] == ["TypedDict"]}
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef) and node.name not in dicts}
    has = {name: value for name, value in public(core).items() if name != "__init__"}
    assert set(functions) | set(classes) == set(has)
    for name, function in functions.items():
        assert declared(function) == arguments_of(has[name]), name
    for name, kind in classes.items():
        bodies = [*(classes[base.id].body for base in kind.bases if isinstance(base, ast.Name)), kind.body]
        methods = {node.name: node for body in bodies for node in body if isinstance(node, ast.FunctionDef)}
        members = public(has[name])
        assert set(methods) == set(members), name
        for method, node in methods.items():
            if not node.decorator_list:
                assert declared(node) == arguments_of(members[method]), f"{name}.{method}"
