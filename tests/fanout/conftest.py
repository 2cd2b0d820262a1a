"""Functions as members, from a file of their own; every backend that is there."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def _runs_leave_nothing_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose error points into its temporary directory keeps it: here, among pytest's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("runs")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("cloudpickle") is None:
        for item in items:
            if "/fanout/" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="cloudpickle, which fan-out needs, is not installed"))
