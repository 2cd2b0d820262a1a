"""From Options to a Job: which processes run, with which variables, where their output goes. Nothing is started here."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import fleet.env as env
from fleet.errors import ConfigError
from fleet.launch import devices
from fleet.launch.cli import Options
from fleet.launch.rendezvous import Meeting, new_run_id, open_meeting
from fleet.launch.values import usage

SHIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim.py")
SERVER = ("-m", "fleet.parameter_server.server")

# Above these sizes glibc maps and unmaps memory for each tensor of each step; measured in docs/tuning.md.
MALLOC_NAME = "malloc thresholds"
# The MKL in Paddle's CPU wheels gives processors of other makers than Intel its SSE code; this tells it that AVX2 is there.
MKL_NAME = "AVX2 matrix products"
MKL = {"MKL_DEBUG_CPU_TYPE": "5"}
MALLOC = {"glibc.malloc.mmap_threshold": str(1 << 30), "glibc.malloc.trim_threshold": str(2 << 30)}

# What makes a process a trainer; a server must not inherit it from the caller's environment.
NOT_FOR_SERVERS = (
    "FLEET_ROLE", "FLEET_RANK", "FLEET_LOCAL_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "PADDLE_TRAINER_ID", "PADDLE_RANK_IN_NODE", "PADDLE_PSERVERS_IP_PORT_LIST", "PADDLE_PORT", "FLAGS_selected_gpus",
)  # fmt: skip


class ProcessSpec(NamedTuple):
    """One process to start."""

    role: str  # "trainer" or "server"
    number: int  # a trainer's rank, a server's server_index
    command: tuple[str, ...]
    variables: dict[str, str]  # what fleet sets; the caller's environment comes below it
    unset: tuple[str, ...] = ()  # what of the caller's environment must not reach it

    @property
    def name(self) -> str:
        """``trainer 2``, as messages call it."""
        return f"{self.role} {self.number}"

    @property
    def file(self) -> str:
        """``trainer-2``, as its files are called."""
        return f"{self.role}-{self.number}"

    def environment(self) -> dict[str, str]:
        """Return the whole environment of the process."""
        kept = {k: v for k, v in os.environ.items() if k not in self.unset}
        return {**kept, **self.variables}


class Job(NamedTuple):
    """Everything that one run is."""

    run_id: str
    log_dir: str  # absolute
    meeting: Meeting
    servers: tuple[ProcessSpec, ...]
    trainers: tuple[ProcessSpec, ...]
    device: str
    threads: str  # OMP_NUM_THREADS of each process
    tuning: tuple[str, ...]
    not_tuned: tuple[str, ...]  # tunings that this machine cannot have
    show: str
    grace_s: float
    restarts: dict[str, int]  # role -> losses that are answered by starting again

    @property
    def processes(self) -> tuple[ProcessSpec, ...]:
        """Servers first: trainers look for them."""
        return self.servers + self.trainers


def plan(options: Options, *, server: tuple[str, ...] = SERVER, columns: int = 0) -> Job:
    """Decide everything, make the run's directory and reserve its ports.

    Args:
        server: what a server process runs, for tests.
        columns: of the console, if it can redraw a line; else 0.

    Raises:
        ConfigError: a request that this machine cannot fulfil.
        RendezvousError: an endpoint is in use.
    """
    refuse_other_launchers()
    gpus = choose_gpus(options)
    num_trainers = count_trainers(options, gpus)
    num_servers = len(options.servers) or options.num_servers or 0
    if options.servers and options.num_servers not in (None, len(options.servers)):
        raise usage(f"{options.at['num_servers']} says {options.num_servers}, but {len(options.servers)} endpoints are given",
                    options.at["servers"], "leave the count out")  # fmt: skip
    check_show(options, num_trainers)
    threads = dict(options.env).get("OMP_NUM_THREADS") or env.get("OMP_NUM_THREADS")  # the user's own is obeyed
    threads = threads or str(max(1, devices.usable_cores() // (num_trainers + num_servers)))
    tuning, not_tuned = choose_tuning(options.tune)
    if options.server_restarts and not num_servers:
        raise usage("there is no server to start again", options.at["server_restarts"], "start servers with --server_num N")
    if options.metrics_port is not None and not num_servers:
        raise usage("metrics are the servers', and there is none", options.at["metrics_port"], "start servers with --server_num N")
    if options.server_memory and not num_servers:
        raise usage("there is no server to limit", options.at["server_memory"], "start servers with --server_num N")
    run_id = new_run_id()
    meeting = open_meeting(run_id, num_trainers, options.trainers)
    log_dir = make_log_dir(options, run_id)
    endpoints = tuple("tcp:" + e for e in options.servers) or tuple(meeting.server_socket(i) for i in range(num_servers))
    common = common_variables(options, run_id, log_dir, meeting, num_trainers, "gpu" if gpus else "cpu", threads, tuning)
    if endpoints:
        common["FLEET_SERVERS"] = ",".join(endpoints)
    elif env.get("FLEET_SERVERS"):
        del common["FLEET_SECRET"]  # servers of the user's own, who know the user's secret
    start = (sys.executable, *interpreter_options(), SHIM, str(os.getpid()))
    command = (*start, ",".join(t for t in tuning if t not in (MALLOC_NAME, MKL_NAME)), *options.target)
    passed_on = options.show in ("rank0", "0") or (options.show == "all" and num_trainers + num_servers == 1)  # as it is
    trainers = []
    for rank in range(num_trainers):
        own = trainer_variables(rank, num_trainers, meeting, gpus) | {"FLEET_PROGRESS": str(columns if passed_on else 0)}
        trainers.append(ProcessSpec("trainer", rank, command, common | own, ("FLEET_SERVER_INDEX", "PADDLE_PORT")))
    servers = []
    metrics = {} if options.metrics_port is None else {"FLEET_METRICS_PORT": str(options.metrics_port)}
    for i in range(num_servers):
        own = metrics | {"FLEET_ROLE": "server", "TRAINING_ROLE": "PSERVER", "FLEET_SERVER_INDEX": str(i)}
        if options.server_memory:
            own["FLEET_SERVER_MEMORY"] = str(options.server_memory)
        servers.append(ProcessSpec("server", i, (*start, "", *server), common | own, NOT_FOR_SERVERS))
    device = f"gpu {','.join(gpus)}" if gpus else "cpu"
    restarts = {"server": options.server_restarts, "trainer": options.trainer_restarts}
    return Job(run_id, log_dir, meeting, tuple(servers), tuple(trainers), device, threads, tuning, not_tuned, options.show,
               options.grace, restarts)  # fmt: skip


def common_variables(
    options: Options,
    run_id: str,
    log_dir: str,
    meeting: Meeting,
    num_trainers: int,
    device: str,
    threads: str,
    tuning: tuple[str, ...],
) -> dict[str, str]:
    """Return what every process of the run is told."""
    common = {
        "FLEET_RUN_ID": run_id,
        "FLEET_LOG_DIR": log_dir,
        "FLEET_SOCKET_DIR": meeting.socket_dir,
        "FLEET_CONTROL": meeting.control,
        "FLEET_SECRET": meeting.secret,
        "FLEET_DEVICE": device,
        "FLEET_TUNE": "on" if options.tune else "off",
        "FLEET_WORLD_SIZE": str(num_trainers),
        "PADDLE_TRAINERS_NUM": str(num_trainers),
        "TORCHELASTIC_RUN_ID": run_id,
        "OMP_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
    }
    if options.server_restarts or options.trainer_restarts:
        common["FLEET_SERVER_RESTARTS"] = str(options.server_restarts)
        common["FLEET_TRAINER_RESTARTS"] = str(options.trainer_restarts)
    if options.config:
        common["FLEET_CONFIG"] = options.config
    common |= dict(options.env)
    if MALLOC_NAME in tuning:
        common["GLIBC_TUNABLES"] = malloc_tunables(common.get("GLIBC_TUNABLES") or env.get("GLIBC_TUNABLES"))
    if MKL_NAME in tuning and not env.get("MKL_DEBUG_CPU_TYPE"):
        common = MKL | common
    return common


def trainer_variables(rank: int, world_size: int, meeting: Meeting, gpus: tuple[str, ...]) -> dict[str, str]:
    """Return what tells one trainer who it is, in fleet's, Paddle's and torchrun's words."""
    host, _, port = meeting.master.rpartition(":")
    r, n = str(rank), str(world_size)
    variables = {
        "FLEET_ROLE": "trainer", "FLEET_RANK": r, "FLEET_LOCAL_RANK": r, "FLEET_LOCAL_SIZE": n,
        "TRAINING_ROLE": "TRAINER", "PADDLE_TRAINER_ID": r, "PADDLE_RANK_IN_NODE": r, "PADDLE_LOCAL_SIZE": n,
        "PADDLE_MASTER": meeting.master, "PADDLE_TRAINER_ENDPOINTS": ",".join(meeting.endpoints),
        "PADDLE_CURRENT_ENDPOINT": meeting.endpoints[rank], "PADDLE_DISTRI_BACKEND": "nccl" if gpus else "gloo",
        "RANK": r, "WORLD_SIZE": n, "LOCAL_RANK": r, "LOCAL_WORLD_SIZE": n, "MASTER_ADDR": host, "MASTER_PORT": port,
    }  # fmt: skip
    if gpus:  # one visible GPU each; FLAGS_selected_gpus counts among the visible ones. Not yet run on a GPU.
        variables |= {"CUDA_VISIBLE_DEVICES": gpus[rank], "FLAGS_selected_gpus": "0"}
    return variables


def refuse_other_launchers() -> None:
    """Refuse to start inside a process of another launcher's: each of its N processes would start a job of its own."""
    for size, rank in (
        ("FLEET_WORLD_SIZE", "FLEET_RANK"),
        ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"),
        ("WORLD_SIZE", "RANK"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ):
        n = env.get(size)
        if n.isdigit() and int(n) > 1:
            raise ConfigError(
                f"another launcher started this, as one of {n} processes ({size}={n}, {rank}={env.get(rank) or 'unset'})",
                at="environment",
                fix="start fleet.launch once and directly; or give that launcher the script itself; "
                f"or unset {size} and {rank} if they are left over",
            )


def choose_gpus(options: Options) -> tuple[str, ...]:
    """Return the GPUs of the trainers, one each; () to train on CPUs."""
    if options.device == "cpu":
        return ()
    visible = devices.visible_gpus()
    place = options.at.get("gpus" if options.gpus else "device", "command line")
    if not visible and (options.gpus or options.device == "gpu"):
        raise usage(
            "this machine has no visible GPU", place, "add --device cpu, which runs one CPU trainer for each GPU that is listed"
        )
    missing = [g for g in options.gpus if g not in visible]
    if missing:
        raise usage(
            f"there is no GPU {missing[0]} among the visible ones ({', '.join(visible)})", place, "list GPUs that are there"
        )
    if options.gpus:
        return options.gpus
    asked = len(options.trainers) or options.num_trainers
    if asked is not None and asked > len(visible):
        if options.device == "gpu":
            raise usage(
                f"{asked} trainers need {asked} GPUs, {len(visible)} are visible",
                place,
                "start fewer trainers, or use --device cpu",
            )
        if visible:
            raise usage(f"{asked} trainers on {len(visible)} GPUs", "command line", "start one per GPU, or say --device cpu")
    return tuple(visible[:asked])


def count_trainers(options: Options, gpus: tuple[str, ...]) -> int:
    """Return the number of trainers; all that say it must agree."""
    said = {}
    if options.num_trainers is not None:
        said[options.at["num_trainers"]] = options.num_trainers
    if options.trainers:
        said[options.at["trainers"]] = len(options.trainers)
    if options.gpus:
        said[options.at["gpus"]] = len(options.gpus)
    if len(set(said.values())) > 1:
        text = " and ".join(f"{n} by {place}" for place, n in said.items())
        raise usage(
            f"the number of trainers is contradictory: {text}",
            "command line",
            "one trainer runs per GPU or endpoint that is listed; leave the count out",
        )
    return next(iter(said.values()), len(gpus) or 1)


def check_show(options: Options, num_trainers: int) -> None:
    """Refuse --show of a rank that will not be."""
    if options.show[0].isdigit():
        for rank in options.show.split(","):
            if int(rank) >= num_trainers:
                raise usage(
                    f"there is no rank {int(rank)} among {num_trainers} trainers",
                    options.at["show"],
                    "list ranks from 0 to the number of trainers - 1",
                )


def choose_tuning(asked: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tunings in force, and those that this machine cannot have (docs/tuning.md)."""
    if not asked:
        return (), ()
    try:
        glibc = "CS_GNU_LIBC_VERSION" in os.confstr_names and bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except OSError:
        glibc = False
    can = {MALLOC_NAME: glibc, "flush-to-zero": glibc and os.uname().machine == "x86_64", "switch interval": True}
    here = tuple(t for t, ok in can.items() if ok), tuple(t for t, ok in can.items() if not ok)
    return ((MKL_NAME, *here[0]), here[1]) if devices.needs_mkl_told() else here  # on other processors there is nothing to miss


def malloc_tunables(users: str) -> str:
    """Join our malloc thresholds to the user's GLIBC_TUNABLES; what the user set stays."""
    named = {part.partition("=")[0] for part in users.split(":")}
    return ":".join(filter(None, [users, *(f"{k}={v}" for k, v in MALLOC.items() if k not in named)]))


def interpreter_options() -> tuple[str, ...]:
    """Return Python's own options of this launcher (``-O``, ``-X dev``...), which its trainers get too."""
    words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # up to and with "-m fleet.launch" or "launch.py"
    return tuple(words[:-2] if words[-2:-1] == ["-m"] else words[:-1] if "-c" not in words else ())


def make_log_dir(options: Options, run_id: str) -> str:
    """Make the run's directory: ``--log_dir`` itself if it is new or empty, else a fresh one in it."""
    asked = options.log_dir
    if options.dry_run:
        return os.path.abspath(asked or os.path.join("fleet_runs", run_id))
    base = os.path.abspath(asked or "fleet_runs")
    at = options.at.get("log_dir", "--log_dir (default ./fleet_runs)")
    try:
        os.makedirs(base, exist_ok=True)
        if asked and not os.listdir(base) and claim(base, run_id):
            return base
        path = os.path.join(base, run_id)
        os.mkdir(path)
        claim(path, run_id)
        return path
    except OSError as error:
        raise usage(
            f"cannot use {base} for the run's files: {error.strerror}",
            at,
            "give a directory that can be written with --log_dir DIR",
        ) from None


def claim(path: str, run_id: str) -> bool:
    """Take a directory for a run, by a file that only one launcher can create; return False if another was first."""
    try:
        fd = os.open(os.path.join(path, "run_id"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(fd, run_id.encode() + b"\n")
    finally:
        os.close(fd)
    return True
