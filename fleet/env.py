"""Every environment variable that fleet reads or writes, in one table, and who this process is.

Nothing else in fleet touches ``os.environ`` for its settings. ``docs/env.md`` is printed from TABLE by
``python -m fleet.env``.

Source of the foreign names: Paddle 3.3 ``parallel.py``, torchrun's documentation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from fleet.errors import ConfigError, RendezvousError


class Variable(NamedTuple):
    """One variable: who writes it, what it means, and what holds if it is absent."""

    name: str
    writer: str  # "launcher", "user" or "launcher, user"
    meaning: str
    default: str = ""


TABLE: tuple[Variable, ...] = (
    # What a user may set.
    Variable("FLEET_LOG_LEVEL", "user", "lowest level that fleet's logger prints", "INFO"),
    Variable("FLEET_SECRET", "launcher, user", "job secret that every connection to a server proves to know", "none"),
    Variable("FLEET_SERVERS", "launcher, user", "endpoints of the servers, comma-separated: unix:/PATH or tcp:HOST:PORT", "none"),
    Variable("FLEET_CONFIG", "launcher, user", "YAML file whose strategy fills what the script leaves unset", "none"),
    Variable("FLEET_DEVICE", "launcher, user", "cpu or gpu", "gpu if Paddle sees one, else cpu"),
    Variable("FLEET_METRICS_PORT", "launcher, user", "server k serves Prometheus metrics on 127.0.0.1, this port + k", "off"),
    Variable("FLEET_TUNE", "launcher, user", "on or off: what docs/tuning.md measures", "on"),
    Variable("FLEET_SIMD", "user", "SIMD level of the C++ core: portable, avx2, avx512 or auto; all give the same bits", "auto"),
    Variable("FLEET_REQUIRE_CORE", "user", "1: installing fleet fails if the C++ core cannot be built", "0"),
    Variable("FLEET_SHARED_MEMORY", "user", "off: gradients of trainers on one host go through Gloo", "on"),
    # Who this process is.
    Variable("FLEET_RUN_ID", "launcher", "name of the run; the keeper finds the run's processes by it", "none"),
    Variable("FLEET_LOG_DIR", "launcher", "directory of the run's files, one per process", "none"),
    Variable("FLEET_SOCKET_DIR", "launcher", "private directory of the run's AF_UNIX sockets", "a temporary one"),
    Variable("FLEET_CONTROL", "launcher", "socket of the control channel, hosted by trainer 0", "from MASTER_PORT and user"),
    Variable("FLEET_ROLE", "launcher", "trainer or server", "trainer"),
    Variable("FLEET_RANK", "launcher", "rank among the trainers", "0"),
    Variable("FLEET_WORLD_SIZE", "launcher", "number of trainers", "1"),
    Variable("FLEET_LOCAL_RANK", "launcher", "rank on this node", "0"),
    Variable("FLEET_LOCAL_SIZE", "launcher", "trainers on this node", "1"),
    Variable("FLEET_SERVER_INDEX", "launcher", "index among the servers", "0"),
    Variable("FLEET_SERVER_MEMORY", "launcher", "bytes that a server may take; 0: no limit", "0"),
    Variable("FLEET_SERVER_RESTARTS", "launcher", "losses of a server that the launcher answers by starting again", "0"),
    Variable("FLEET_TRAINER_RESTARTS", "launcher", "losses of a trainer that the launcher answers by starting again", "0"),
    Variable("FLEET_REJOIN", "launcher", "1: this process alone was started again, the others of the job go on", "0"),
    Variable("FLEET_FANOUT_RUN", "fan-out", "id of a pool of workers; their children are found by it", "none"),
    Variable("FLEET_PROGRESS", "launcher", "columns of the console, if it can redraw trainer 0's line; else 0", "the terminal's"),
    # Paddle's own names, written for scripts that read them.
    Variable("PADDLE_TRAINER_ID", "launcher", "rank, as Paddle reads it", "0"),
    Variable("PADDLE_TRAINERS_NUM", "launcher", "world size, as Paddle reads it", "1"),
    Variable("PADDLE_RANK_IN_NODE", "launcher", "local rank, as Paddle reads it", "0"),
    Variable("PADDLE_LOCAL_SIZE", "launcher", "trainers on this node, as Paddle's launcher says", "1"),
    Variable("PADDLE_MASTER", "launcher", "endpoint of Paddle's store, bound by trainer 0", "none"),
    Variable("PADDLE_TRAINER_ENDPOINTS", "launcher", "endpoints of all trainers, comma-separated", "none"),
    Variable("PADDLE_CURRENT_ENDPOINT", "launcher", "endpoint of this trainer", "none"),
    Variable("PADDLE_DISTRI_BACKEND", "launcher", "gloo or nccl", "by device"),
    Variable("PADDLE_PSERVERS_IP_PORT_LIST", "user", "endpoints of the servers, as other launchers give them", "none"),
    Variable("PADDLE_PORT", "user", "port of this server, as other launchers give it", "none"),
    Variable("POD_IP", "user", "address of this server, as other launchers give it", "127.0.0.1"),
    Variable("TRAINING_ROLE", "launcher, user", "TRAINER or PSERVER, as Paddle reads it", "TRAINER"),
    Variable("FLAGS_selected_gpus", "launcher", "the GPU of this trainer, as Paddle reads it", "none"),
    # torchrun's names.
    Variable("RANK", "launcher", "rank, as torchrun says", "0"),
    Variable("WORLD_SIZE", "launcher", "world size, as torchrun says", "1"),
    Variable("LOCAL_RANK", "launcher", "local rank, as torchrun says", "0"),
    Variable("LOCAL_WORLD_SIZE", "launcher", "trainers on this node, as torchrun says", "1"),
    Variable("MASTER_ADDR", "launcher", "address of trainer 0's store, as torchrun says", "none"),
    Variable("MASTER_PORT", "launcher", "port of trainer 0's store, as torchrun says", "none"),
    Variable("TORCHELASTIC_RUN_ID", "launcher", "name of the run, as torchrun says", "none"),
    # Other launchers', read to notice that fleet.launch was started inside one of them.
    Variable("OMPI_COMM_WORLD_SIZE", "user", "number of processes that mpirun started", "none"),
    Variable("OMPI_COMM_WORLD_RANK", "user", "rank among the processes that mpirun started", "none"),
    Variable("SLURM_STEP_NUM_TASKS", "user", "number of tasks that srun started", "none"),
    Variable("SLURM_PROCID", "user", "rank among the tasks that srun started", "none"),
    # Other people's, written or read.
    Variable("CUDA_VISIBLE_DEVICES", "launcher, user", "GPUs that this process may see", "all"),
    Variable("OMP_NUM_THREADS", "launcher, user", "threads of one process", "cores / processes under fleet.launch"),
    Variable("GLIBC_TUNABLES", "launcher, user", "malloc thresholds (docs/tuning.md); a user's own are kept", "glibc's"),
    Variable("MKL_DEBUG_CPU_TYPE", "launcher, user", "5: MKL uses AVX2 on AMD too (docs/tuning.md); a user's own is kept", "unset"),
    Variable("PYTHONUNBUFFERED", "launcher", "1, so that a log file is never behind", "unset"),
    Variable("RAY_ADDRESS", "user", "the Ray cluster of spread(backend=\"ray\")", "one on this machine"),
    Variable("RAY_AUTH_MODE", "user", "token: this process shows Ray's token to the cluster", "unset"),
    Variable("RAY_TMPDIR", "user", "where Ray keeps its files, and the address of the cluster that runs here", "TMPDIR, /tmp"),
    Variable("RAY_USAGE_STATS_ENABLED", "user", "1: a Ray that fleet starts sends usage statistics", "0"),
    Variable("RAY_USE_TLS", "user", "1: the Ray cluster speaks TLS, so its port is only asked for a connection", "0"),
)  # fmt: skip

_NAMES = frozenset(v.name for v in TABLE)


def get(name: str, default: str = "", environ: Mapping[str, str] | None = None) -> str:
    """Return one variable of TABLE; an empty value counts as absent."""
    assert name in _NAMES, f"{name} is not in fleet.env.TABLE"
    return (os.environ if environ is None else environ).get(name, "") or default


class Role(NamedTuple):
    """Who this process is. ``rank`` is -1 in a server, ``server_index`` is -1 in a trainer."""

    kind: str  # "trainer" or "server"
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    server_index: int
    servers: tuple[str, ...]  # endpoints: unix:/PATH or tcp:HOST:PORT
    source: str  # which variables said so, printed in the banner

    @property
    def is_server(self) -> bool:
        return self.kind == "server"

    @property
    def name(self) -> str:
        """``trainer 2`` or ``server 0``: how messages and log files call this process."""
        return f"server {self.server_index}" if self.is_server else f"trainer {self.rank}"


# Source name -> its variables for rank, world size, local rank, local size. First match wins.
_FAMILIES: tuple[tuple[str, str, str, str, str], ...] = (
    ("fleet.launch", "FLEET_RANK", "FLEET_WORLD_SIZE", "FLEET_LOCAL_RANK", "FLEET_LOCAL_SIZE"),
    ("PADDLE_* variables", "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_RANK_IN_NODE", "PADDLE_LOCAL_SIZE"),
    ("torchrun's variables", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
)  # fmt: skip


def detect(environ: Mapping[str, str] | None = None) -> Role:
    """Read who this process is from fleet's, Paddle's and torchrun's variables, in that order.

    Raises:
        RendezvousError: two families disagree about rank or world size.
        ConfigError: a value is not a number, or a rank lies outside its world.
    """
    env = os.environ if environ is None else environ
    servers = server_endpoints(env)
    if _is_server(env):
        return Role("server", -1, _number(env, "FLEET_WORLD_SIZE", _number(env, "PADDLE_TRAINERS_NUM", 1)),
                    -1, 0, _server_index(env, servers), servers, "environment")  # fmt: skip
    said = [_family(env, *family) for family in _FAMILIES]
    found = [role for role in said if role is not None]
    if not found:
        return Role("trainer", 0, 1, 0, 1, -1, servers, "alone (no launcher's variables)")
    first = found[0]
    for other in found[1:]:
        if (other.rank, other.world_size) != (first.rank, first.world_size):
            raise RendezvousError(
                f"{first.source} says rank {first.rank} of {first.world_size}, "
                f"but {other.source} says rank {other.rank} of {other.world_size}",
                at="environment",
                fix="start the script with one launcher, or unset the variables that are left over from another",
            )
    return first._replace(servers=servers)


def server_endpoints(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the servers' endpoints, from FLEET_SERVERS or PADDLE_PSERVERS_IP_PORT_LIST."""
    own = get("FLEET_SERVERS", environ=environ)
    if own:
        return tuple(own.split(","))
    foreign = get("PADDLE_PSERVERS_IP_PORT_LIST", environ=environ)
    return tuple("tcp:" + e for e in foreign.split(",")) if foreign else ()


def _family(env: Mapping[str, str], source: str, rank: str, world: str, local: str, size: str) -> Role | None:
    if not get(world, environ=env) and not get(rank, environ=env):
        return None
    n = _number(env, world, 1)
    r = _number(env, rank, 0)
    if n < 1 or not 0 <= r < n:
        raise ConfigError(
            f"{rank}={r} and {world}={n} do not fit together",
            at="environment",
            fix=f"give every process a {rank} from 0 to {world} - 1, or unset both to run alone",
        )
    on_node, of_node = _number(env, local, r), _number(env, size, n)
    if get(local, environ=env) and not 0 <= on_node < of_node <= n:
        raise ConfigError(
            f"{local}={on_node} and {size}={of_node} do not fit to {world}={n}",
            at="environment",
            fix=f"give every process of a node a {local} from 0 to {size} - 1, or unset both",
        )
    return Role("trainer", r, n, on_node, of_node, -1, (), source)


def _is_server(env: Mapping[str, str]) -> bool:
    for name, roles in (("FLEET_ROLE", ("trainer", "server")), ("TRAINING_ROLE", ("TRAINER", "PSERVER"))):
        text = get(name, environ=env)
        said = text.upper() if name == "TRAINING_ROLE" else text
        if said and said not in roles:
            fix = f"set {name} to {roles[0]} or {roles[1]}, or unset it"
            raise ConfigError(f"{name}={text!r} is no role that fleet knows", at="environment", fix=fix)
        if said:
            return said == roles[1]
    return False


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = get(name, environ=env)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        fix = f"set {name} to an integer or unset it"
        raise ConfigError(f"{name}={text!r} is not a number", at="environment", fix=fix) from None


def _server_index(env: Mapping[str, str], servers: tuple[str, ...]) -> int:
    if get("FLEET_SERVER_INDEX", environ=env):
        return _number(env, "FLEET_SERVER_INDEX", 0)
    mine = f"tcp:{get('POD_IP', '127.0.0.1', env)}:{get('PADDLE_PORT', '0', env)}"
    if mine not in servers:
        raise ConfigError(
            f"this server is {mine}, which is not among the servers ({', '.join(servers) or 'none given'})",
            at="environment",
            fix="set POD_IP and PADDLE_PORT to this server's entry of PADDLE_PSERVERS_IP_PORT_LIST, or use python -m fleet.launch",
        )
    return servers.index(mine)


def markdown() -> str:
    """Return the text of ``docs/env.md``."""
    rows = ["| variable | written by | meaning | if absent |", "|---|---|---|---|"]
    rows += [f"| `{v.name}` | {v.writer} | {v.meaning} | {v.default or '-'} |" for v in TABLE]
    head = "# Environment variables\n\nPrinted from the table in `fleet/env.py` by `python -m fleet.env > docs/env.md`.\n"
    return head + "\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
