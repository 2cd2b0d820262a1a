"""Under torchrun's variables, whose port its own agent holds; and a process that ends in the middle of a backward."""

from __future__ import annotations

import socket

import equal
from trainers import Trainers


def test_torchruns_variables() -> None:
    with socket.socket() as agent:
        agent.bind(("127.0.0.1", 0))
        agent.listen()
        port = str(agent.getsockname()[1])

        def variables(rank: int) -> dict[str, str]:
            ours = {name: "" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CONTROL")}
            return {f"FLEET_{name}": value for name, value in ours.items()} | {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "a test",
            }  # fmt: skip

        with Trainers(2, env=variables) as trainers:
            equal.reduced_equals_alone(trainers.run("collective.jobs:compare", build="two_layers", steps="one_backward"))
            assert trainers.end() == [0, 0]


def test_interrupted_while_it_waits_for_the_others() -> None:
    """Ctrl-C in backward, the sender's thread still in its meeting: the process ends by itself, and at once."""
    with Trainers(2) as trainers:
        first, second = trainers.run("collective.jobs:interrupted")
        assert first == "KeyboardInterrupt, then ConfigError: an earlier backward was broken off by KeyboardInterrupt()"
        assert second == "slept"
        assert trainers.end() == [0, 0]
        assert "Traceback" not in trainers.log(0) + trainers.log(1)
