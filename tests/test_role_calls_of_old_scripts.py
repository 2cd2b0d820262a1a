"""A script written for Paddle's parameter server, started by another launcher, runs its role calls with its import changed."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from several import alone, clean_environ

SCRIPT = """
import sys
import fleet                                   # was: import paddle.distributed.fleet as fleet
role = fleet.PaddleCloudRoleMaker()
fleet.init(role)
if fleet.is_server():
    assert not fleet.is_worker() and fleet.server_index() == 0
    fleet.init_server()
    fleet.run_server()
else:
    assert fleet.is_worker() and fleet.is_first_worker() == (fleet.worker_index() == 0) and fleet.worker_num() == 1
    assert fleet.server_num() == 1 and fleet.server_endpoints() == ["tcp:" + sys.argv[1]]
    assert fleet.server_endpoints(to_string=True) == "tcp:" + sys.argv[1] and fleet.worker_endpoints() == ["127.0.0.1:7001"]
    assert (fleet.node_num(), fleet.nranks(), fleet.rank_in_node()) == (1, 1, 0)
    from fleet.parameter_server.client import Client
    from fleet.parameter_server.consistency.mode import Mode
    from fleet.parameter_server.link import SocketLink
    import numpy as np
    from fleet.parameter_server.spec import TableSpec
    fleet.init_worker()
    client = Client([SocketLink("tcp:" + sys.argv[1], 0, "s" * 32, 0, 1, 20.0, 1)], Mode("async"), 20.0)
    fleet.runtime.current("test").closers.append(client.close)
    table = client.open(TableSpec("rows", 4, "sgd", (), "uniform", (-0.01, 0.01), 0, 0))
    keys = np.array([5, 9], dtype=np.uint64)
    client.assign(table, keys, np.ones((2, 4), np.float32))
    assert client.read(table, keys).sum() == 8
    fleet.barrier_worker()
    fleet.stop_worker()
assert "paddle" not in sys.modules
"""


def test_a_server_and_a_trainer_of_paddles_variables() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    both = {"PADDLE_PSERVERS_IP_PORT_LIST": endpoint, "PADDLE_TRAINERS_NUM": "1", "FLEET_SECRET": "s" * 32}
    environ = clean_environ(**both, TRAINING_ROLE="PSERVER", POD_IP="127.0.0.1", PADDLE_PORT=endpoint.split(":")[1])
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, "-c", SCRIPT, endpoint], text=True, env=environ, **pipes)
    try:
        done = alone(
            SCRIPT, endpoint, **both, TRAINING_ROLE="TRAINER", PADDLE_TRAINER_ID="0", PADDLE_TRAINER_ENDPOINTS="127.0.0.1:7001"
        )
        assert done.status == 0, done.err
        out, err = server.communicate(timeout=20)  # it ends by itself once its only trainer has
        assert server.returncode == 0 and "all trainers have ended" in out, err
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(("call", "words"), [("fleet.init_server('model_dir')", "servers do not load models themselves"),
                                             ("fleet.run_server()", "this process is not a server")])  # fmt: skip
def test_what_is_refused(call: str, words: str) -> None:
    done = alone(f"import fleet\nfleet.init()\n{call}")
    assert done.status == 1 and words in done.err and "fix:" in done.err


def test_a_server_without_a_secret() -> None:
    done = alone("import fleet\nfleet.init()\nfleet.run_server()", TRAINING_ROLE="PSERVER", POD_IP="127.0.0.1", PADDLE_PORT="7",
                 PADDLE_PSERVERS_IP_PORT_LIST="127.0.0.1:7")  # fmt: skip
    assert done.status == 1 and "FLEET_SECRET" in done.err and "fix:" in done.err


BY_HAND = """
import sys
import fleet
rank, endpoint = int(sys.argv[1]), sys.argv[2]
fleet.init(fleet.UserDefinedRoleMaker(current_id=rank, role=fleet.Role.WORKER, worker_endpoints=[endpoint, "127.0.0.1:1"]))
assert (fleet.worker_index(), fleet.worker_num()) == (rank, 2)
assert fleet.util.all_reduce([rank + 1]).tolist() == [3]
print(fleet.util.get_file_shard(list("abcde")))
"""


def test_roles_stated_by_hand() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    command, environ = [sys.executable, "-c", BY_HAND], clean_environ(FLEET_SECRET="s" * 32)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen([*command, str(rank), endpoint], text=True, env=environ, **pipes) for rank in (0, 1)]
    try:
        ends = [process.communicate(timeout=30) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], ends
    assert [out.strip() for out, _ in ends] == ["['a', 'b', 'c']", "['d', 'e']"]


@pytest.mark.parametrize(("call", "words"), [
    ("fleet.UserDefinedRoleMaker(worker_num=2)", "2 workers need a place to meet"),
    ("fleet.UserDefinedRoleMaker(worker_num=3, worker_endpoints=['a:1', 'b:2'])", "worker_num is 3"),
    ("fleet.UserDefinedRoleMaker(current_id=2, worker_endpoints=['a:1', 'b:2'])", "current_id 2 is not below 2"),
    ("fleet.UserDefinedRoleMaker(curent_id=2)", "no such argument: curent_id"),
    ("fleet.init(fleet.UserDefinedRoleMaker(current_id=1, worker_endpoints=['a:1', 'b:2']))", "PADDLE_TRAINERS_NUM=1"),
    ("fleet.init(); fleet.util.all_reduce([1], comm_world='server')", "comm_world is 'server'"),
    ("fleet.init(); fleet.util.get_file_shard('a')", "files must be a list"),
    ("fleet.distributed_scaler(3)", "not a GradScaler: int"),
])  # fmt: skip
def test_what_role_makers_and_util_refuse(call: str, words: str) -> None:
    done = alone(f"import fleet\n{call}", PADDLE_TRAINER_ID="0", PADDLE_TRAINERS_NUM="1")
    assert done.status == 1 and words in done.err and "fix:" in done.err, done.err
