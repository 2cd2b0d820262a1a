"""What Python knows of the row optimizers without the core is what the core lists; each is in the documents."""

from __future__ import annotations

from pathlib import Path

from core_oracle import core

from fleet.parameter_server import spec

ROOT = Path(__file__).resolve().parents[2]


def test_names_constants_and_ranges() -> None:
    listed = core.row_optimizers()
    assert list(listed) == list(spec.OPTIMIZERS)
    for name, constants in spec.OPTIMIZERS.items():
        assert listed[name] == {constant: tuple(map(float, numbers)) for constant, numbers in constants.items()}


def test_each_is_documented() -> None:
    page, wire = (ROOT / "docs" / "row_optimizer.md").read_text(), (ROOT / "docs" / "wire.md").read_text()
    for name, constants in spec.OPTIMIZERS.items():
        assert f"`{name}`" in page and f"`{name}`" in wire
        for constant in constants:
            assert f"`{constant}`" in page and f"`{constant}`" in wire
