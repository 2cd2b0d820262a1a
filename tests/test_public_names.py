"""The public face: sorted, every name resolves and is documented, and none is shadowed by a module of the same name."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import get_args

import pytest

import fleet

FACE = Path(fleet.__file__)


def test_the_list_is_sorted_and_holds_every_home() -> None:
    assert fleet.__all__ == sorted(set(fleet.__all__))
    assert set(fleet._HOME) <= set(fleet.__all__) and list(fleet._HOME) == sorted(fleet._HOME)
    assert dir(fleet) == fleet.__all__


@pytest.mark.parametrize("name", fleet.__all__)
def test_it_resolves_and_is_documented(name: str) -> None:
    found = getattr(fleet, name)
    assert inspect.getdoc(found), f"fleet.{name} has no docstring"
    assert getattr(fleet, name) is found
    if inspect.isfunction(found):
        first = str(inspect.getdoc(found)).splitlines()[0]
        assert first.endswith(".") or first.endswith(":"), first
        assert inspect.signature(found).return_annotation is not inspect.Signature.empty


def test_type_checkers_see_the_same_names() -> None:
    block = next(n for n in ast.parse(FACE.read_text()).body if isinstance(n, ast.If))
    seen = {alias.name for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert seen == set(fleet.__all__)


def test_no_module_shadows_a_name() -> None:
    modules = {p.stem for p in FACE.parent.glob("*.py")} | {p.name for p in FACE.parent.iterdir() if (p / "__init__.py").exists()}
    assert modules & set(fleet._HOME) == set()


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'distribute_model'"):
        fleet.distribute_model  # noqa: B018
    assert not hasattr(fleet, "__wrapped__") and get_args(fleet) == ()
