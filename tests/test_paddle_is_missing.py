"""Without Paddle, or with one too old, fleet imports, and the first call that needs it names the command that installs it."""

from __future__ import annotations

import sys
import types

import pytest
from several import alone

from fleet import paddle_wheel
from fleet.errors import ConfigError

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "paddle":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import fleet
fleet.init()
"""


@pytest.mark.parametrize(
    "call",
    [
        "fleet.distributed_model(object())",
        "fleet.distributed_optimizer(object())",
        "fleet.parameter_server.Embedding(8)",
        "fleet.save(object(), 'model.pdparams')",
        "fleet.load(object(), 'model.pdparams')",
        "fleet.Checkpointer('somewhere', model=object(), optimizer=object())",
    ],
)
def test_the_first_call_says_how_to_install_it(call: str) -> None:
    done = alone(BLOCK + call)
    assert done.status == 1
    assert "ConfigError: PaddlePaddle is not installed" in done.err, done.err[-800:]
    assert "pip install '.[cpu]'" in done.err


def test_what_needs_no_paddle_works() -> None:
    done = alone(BLOCK + "print(fleet.all_reduce(2), fleet.DistributedStrategy().batch, fleet.metrics.mean([1, 3]), fleet.rank())\n"
                 "from fleet.data import ArrayLoader\nimport fleet.parameter_server.server")  # fmt: skip
    assert done.status == 0 and done.out.split() == ["2", "global", "2.0", "0"], done.err


VERSIONS = {"2.5.2": True, "2.6.1": True, "2.6.2": False, "3.3.1": False, "3.4.0.dev1": False, "0.0.0": False}


@pytest.mark.parametrize(("version", "refused"), VERSIONS.items())
def test_a_paddle_that_is_too_old(monkeypatch: pytest.MonkeyPatch, version: str, refused: bool) -> None:
    stand_in = types.ModuleType("paddle")
    stand_in.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paddle", stand_in)
    if refused:
        with pytest.raises(ConfigError, match=f"Paddle {version} is older"):
            paddle_wheel.load("fleet.distributed_model()")
    else:
        assert paddle_wheel.load("fleet.distributed_model()") is stand_in
