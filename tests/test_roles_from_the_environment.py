"""Who this process is: fleet's variables, Paddle's, torchrun's, none; contradictions and garbage are refused."""

from __future__ import annotations

import pytest

from fleet import env
from fleet.errors import ConfigError, RendezvousError

FLEET = {"FLEET_RANK": "1", "FLEET_WORLD_SIZE": "4", "FLEET_LOCAL_RANK": "1", "FLEET_LOCAL_SIZE": "4"}
PADDLE = {"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINERS_NUM": "4"}
TORCH = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
PORTS = "10.0.0.1:6000,10.0.0.2:6000"


@pytest.mark.parametrize(
    ("given", "source"),
    [
        (FLEET, "fleet.launch"),
        (PADDLE, "PADDLE_* variables"),
        (TORCH, "torchrun's variables"),
        (FLEET | PADDLE | TORCH, "fleet.launch"),
    ],
)
def test_each_family(given: dict[str, str], source: str) -> None:
    role = env.detect(given)
    assert (role.kind, role.rank, role.world_size, role.local_rank, role.local_size) == ("trainer", 1, 4, 1, 4)
    assert role.source == source and role.name == "trainer 1" and not role.is_server and role.server_index == -1


@pytest.mark.parametrize("given", [{}, {"RANK": "", "WORLD_SIZE": ""}, {"FLEET_ROLE": "trainer"}, {"TRAINING_ROLE": "TRAINER"}])
def test_alone(given: dict[str, str]) -> None:
    role = env.detect(given)
    assert (role.rank, role.world_size, role.local_rank, role.local_size, role.servers) == (0, 1, 0, 1, ())
    assert role.source.startswith("alone")


@pytest.mark.parametrize(
    "given",
    [
        TORCH | PADDLE | {"PADDLE_TRAINERS_NUM": "1", "PADDLE_TRAINER_ID": "0"},
        FLEET | TORCH | {"RANK": "2"},
        FLEET | {"WORLD_SIZE": "1", "RANK": "0"},
    ],
)
def test_contradictions_stop(given: dict[str, str]) -> None:
    with pytest.raises(RendezvousError) as caught:
        env.detect(given)
    assert "but" in caught.value.what and "unset" in caught.value.fix


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "one", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2x"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"PADDLE_TRAINER_ID": "3"},
        {"FLEET_RANK": "0", "FLEET_WORLD_SIZE": "-2"},
        {"FLEET_ROLE": "sever"},
        {"TRAINING_ROLE": "PSEVER"},
        FLEET | {"FLEET_LOCAL_RANK": "7"},
        FLEET | {"FLEET_LOCAL_SIZE": "none"},
    ],
)
def test_garbage_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        env.detect(given)
    assert caught.value.at == "environment"


def test_a_server_of_ours() -> None:
    role = env.detect(
        {"FLEET_ROLE": "server", "FLEET_SERVER_INDEX": "1", "FLEET_SERVERS": "unix:/a,unix:/b", "FLEET_WORLD_SIZE": "3"}
    )
    assert (role.kind, role.rank, role.world_size, role.server_index, role.servers) == ("server", -1, 3, 1, ("unix:/a", "unix:/b"))
    assert role.is_server and role.name == "server 1"


def test_a_server_of_an_old_script() -> None:
    given = {
        "TRAINING_ROLE": "PSERVER",
        "PADDLE_PSERVERS_IP_PORT_LIST": PORTS,
        "POD_IP": "10.0.0.2",
        "PADDLE_PORT": "6000",
        **PADDLE,
    }
    role = env.detect(given)
    assert (role.server_index, role.world_size, role.servers[1]) == (1, 4, "tcp:10.0.0.2:6000")
    with pytest.raises(ConfigError, match="not among the servers"):
        env.detect(given | {"PADDLE_PORT": "6001"})


def test_a_trainer_knows_the_servers() -> None:
    assert env.detect(PADDLE | {"PADDLE_PSERVERS_IP_PORT_LIST": PORTS}).servers == ("tcp:10.0.0.1:6000", "tcp:10.0.0.2:6000")
    assert env.detect({"FLEET_SERVERS": "unix:/a"}).servers == ("unix:/a",)
