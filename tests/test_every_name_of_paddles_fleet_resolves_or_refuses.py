"""A script written for paddle.distributed.fleet finds each of its names in fleet, or a refusal that says what to use."""

from __future__ import annotations

import json

import pytest
from several import alone

import fleet
from fleet import paddle_names
from fleet.errors import ConfigError

# The list is the installed Paddle's, so a new version of it that adds a name fails here.
LIST = """
import json
import paddle.distributed.fleet as theirs
names = {n for n in dir(theirs) if not n.startswith("_")} | {n for n in dir(theirs.fleet) if not n.startswith("_")}
print(json.dumps(sorted(names | set(theirs.__all__))))
"""


@pytest.fixture(scope="module")
def paddles() -> list[str]:
    done = alone(LIST, timeout_s=60)
    assert done.status == 0, done.err
    found: list[str] = json.loads(done.out.splitlines()[-1])
    return found


def test_each_name(paddles: list[str]) -> None:
    assert len(paddles) > 60
    silent = []
    for name in paddles:
        try:
            getattr(fleet, name)
        except ConfigError as error:
            assert error.at == f"fleet.{name}" and len(error.fix) > 10
        except AttributeError:
            silent.append(name)
    assert silent == []


def test_the_calls_of_the_documentation_are_ours() -> None:
    ours = "init worker_index worker_num is_first_worker is_worker is_server barrier_worker init_worker init_server run_server"
    for name in (
        *ours.split(),
        "stop_worker",
        "server_num",
        "server_index",
        "server_endpoints",
        "worker_endpoints",
        "PaddleCloudRoleMaker",
        "UserDefinedRoleMaker",
        "distributed_scaler",
    ):
        assert callable(getattr(fleet, name))


@pytest.mark.parametrize("name", ["HDFSClient", "LocalFS", "fused_allreduce_gradients"])
def test_utils_refuse_by_name(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(fleet.utils, name)
    assert caught.value.at == f"fleet.utils.{name}"


def test_nothing_is_both_ours_and_refused() -> None:
    assert not set(paddle_names._OURS) & set(paddle_names._INSTEAD)
