"""An error cannot be built without a place and a remedy, reads in three lines, and survives pickling."""

from __future__ import annotations

import inspect
import pickle

import pytest

from fleet import errors
from fleet.errors import ConfigError, FleetError, StrategyConflict

KINDS = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, FleetError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: type[FleetError]) -> None:
    with pytest.raises(TypeError):
        kind("what")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        kind("what", at="here")  # type: ignore[call-arg]
    error = kind("what went wrong", at="$.here", fix="do this")
    assert str(error) == "what went wrong\n  at:  $.here\n  fix: do this"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and (again.what, again.at, again.fix) == (error.what, error.at, error.fix)
    assert inspect.getdoc(kind)


def test_the_tree() -> None:
    assert issubclass(ConfigError, ValueError) and issubclass(StrategyConflict, ConfigError)
    assert {k.__name__ for k in KINDS if k.__bases__ == (FleetError,)} == {
        "RendezvousError", "PeerLost", "TableError", "SnapshotError", "TaskError",
    }  # fmt: skip
    for kind in KINDS:
        assert kind.__name__ in str(errors.__doc__)
