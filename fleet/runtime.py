"""The one Runtime: who this process is, its control channel, its collectives, the strategy of the job.

``init`` makes it, ``shutdown`` (or the end of the process) closes it. Everything else in fleet asks here.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import hashlib
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from fleet import env, recovery, timeline
from fleet.control import Channel, Host
from fleet.errors import ConfigError, RendezvousError, StrategyConflict
from fleet.strategy import DistributedStrategy

MAX_UNREAD = 1000  # notes kept for a reader that may never come
OPERATIONS = ("sum", "mean", "max", "min")


class Share(NamedTuple):
    """How much of a global batch this trainer holds: its gradient weighs num_samples / num_global."""

    num_samples: int
    num_global: int


class Runtime:
    """State of the process's part in the job. Made by :func:`init`; there is one."""

    def __init__(
        self, role: env.Role, strategy: DistributedStrategy | None, timeout_s: float, batch_per_trainer: bool = False
    ) -> None:
        self.role = role
        self._batch_per_trainer = batch_per_trainer  # unless the strategy sets batch
        # The job's own copy: completed by training, agreed by all trainers.
        self.strategy: DistributedStrategy | None = self._own(DistributedStrategy()) if batch_per_trainer else None
        self.strategy_in_force = False  # from then on it does not change
        self._given: DistributedStrategy | None = None  # the script's own object
        self._first: DistributedStrategy | None = None  # as it was when it was given
        self.timeout_s = timeout_s
        self.share: Share | None = None  # of the batch in hand; None until somebody says how data are shared
        self.steps = 0  # optimizer steps, of the runs before a resume too
        self.samples_trained = 0  # global samples of all steps
        self.position = (0, 0, 0)  # epoch, batches done of it, batches of an epoch: of the loader in hand
        self.logged = 0  # calls of fleet.log
        self.before_push: list[Callable[[], None]] = []  # run before the gradients of a step go to servers
        self.after_step: list[Callable[[], None]] = []  # run at the end of each optimizer step
        self.recovery = recovery.of(env.get("FLEET_LOG_DIR"), role.rank) if role.kind == "trainer" else None
        if self.recovery is not None:
            self.after_step.append(self.recovery.stepped)
        self.strategies: list[Any] = []  # those in force, for checkpoints: see collective/strategies/__init__.py
        self.board: Any = None  # progress.Board, in trainer 0
        self.profiler: Any = None  # profiling.Profiler, of the last fleet.profile
        self.say: Callable[[str], None] = _say  # shows a text of fleet's own; the progress line lets it by
        self.meets: Callable[[], str] = lambda: "now"  # what the gradients of the next backward do, as the strategies say
        self.tables: Any = None  # parameter_server.weights.Weights, for checkpoints
        self.num_epochs = 0  # as Checkpointer.epochs says; 0 if nobody did
        self.closers: list[Callable[[], None]] = []  # run by shutdown, last added first
        self.forgetters: list[Callable[[], None]] = []  # run in a forked child: close inherited sockets without a word
        self.host: Host | None = None
        self.channel: Channel | None = None
        self._hearing = threading.Lock()  # guards the two below: notes come in the control thread
        self._readers: dict[str, Callable[[int, bytes], None]] = {}  # kind of tell -> reader, in trainer 0
        self._unread: dict[str, deque[tuple[int, bytes]]] = {}  # notes that came before their reader
        self.calls: dict[str, int] = {}  # meetings so far, by what they were for
        self._group: Any = None
        if role.kind == "trainer" and role.world_size > 1:
            path = _control_path(role)
            if role.rank == 0:
                self.host = Host(path, role.world_size, self._hear, recovery.restarts("trainer") > 0)
            self.channel = Channel(path, role.rank, role.world_size, timeout_s)
        self.agree_strategy(strategy)

    def take_timeout(self, timeout_s: float) -> None:
        """Wait so long for a late trainer from now on."""
        self.timeout_s = timeout_s
        if self.channel is not None:
            self.channel.timeout_s = timeout_s

    def meet(self, what: str, payload: bytes = b"", timeout_s: float | None = None) -> list[bytes]:
        """Wait for all trainers at the n-th call of ``what``; return their payloads in rank order."""
        if self.channel is None:
            return [payload]
        if self.recovery is not None:
            if self.recovery.rejoins:  # the others met its earlier life here, and agreed
                return [payload] * self.role.world_size
            self.recovery.shared_call()
        self.calls[what] = self.calls.get(what, 0) + 1
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        name, began = f"{what}, call {self.calls[what]}", timeline.now()
        met = self.channel.meet(name, payload, wait_s)
        timeline.mark("meet", name, began)
        return met

    def tell(self, kind: str, payload: bytes) -> None:
        """Hand a note to trainer 0's reader of ``kind``; never waits."""
        if self.channel is None:
            self._hear(kind, 0, payload)
        else:
            self.channel.tell(kind, payload)

    def listen(self, kind: str, reader: Callable[[int, bytes], None]) -> None:
        """Let ``reader(rank, payload)`` take the notes of a kind; those that came before it too. For trainer 0."""
        with self._hearing:
            self._readers[kind] = reader
            for rank, payload in self._unread.pop(kind, ()):
                reader(rank, payload)

    def listens(self, kind: str) -> bool:
        """Return whether notes of a kind have a reader."""
        return kind in self._readers

    @property
    def group(self) -> Any:
        """Paddle's process group of the main thread (fleet.group.Group), opened by all trainers at first use."""
        if self._group is None:
            from fleet.group import Group

            self._group = Group.open(self, "main")
        return self._group

    def agree_strategy(self, strategy: DistributedStrategy | None) -> DistributedStrategy | None:
        """Take the job's one strategy; a different second one is refused, and so is a change once it is in force."""
        if strategy is None:
            return self.strategy
        _check_strategy(strategy, "strategy=")
        changes = strategy is self._given and not self.strategy_in_force  # the script goes on filling in its object
        if self._first is not None and self._first != strategy and not changes:
            raise StrategyConflict(
                f"a second, different strategy: {strategy!r} after {self._first!r}",
                at="strategy=",
                fix="a job has one strategy: give it once, or the same everywhere",
            )
        if self.strategy_in_force and self._first is None and not self._agrees(strategy):
            raise StrategyConflict(
                f"{strategy!r} comes too late: an earlier call has put {self.strategy!r} in force",
                at="strategy=",
                fix="give the strategy to fleet.init(), or to the first call that takes one",
            )
        if not self.strategy_in_force:
            self._given, self._first, self.strategy = strategy, copy.deepcopy(strategy), self._own(strategy)
        return self.strategy

    def _own(self, strategy: DistributedStrategy) -> DistributedStrategy:
        own = copy.deepcopy(strategy)
        if self._batch_per_trainer and not own.is_set("batch"):
            own.batch = "per_trainer"
        return own

    def _agrees(self, strategy: DistributedStrategy) -> bool:
        """Return whether everything that a strategy sets is in force already."""
        mine = self.strategy.effective() if self.strategy is not None else {}
        return all(mine.get(name) == value for name, value in strategy.effective().items() if strategy.is_set(name))

    def close(self) -> None:
        """Close what was opened, last opened first. Collectives are refused afterwards."""
        while self.closers:
            self.closers.pop()()
        if self.channel is not None:
            self.channel.close()
        if self.host is not None:
            self.host.close()

    def forget(self) -> None:
        """In a forked child: let go of the parent's sockets without a word."""
        self.closers.clear()
        for forget in self.forgetters:
            forget()
        if self.channel is not None:
            self.channel.forget()
        if self.host is not None:
            self.host.forget()

    def _hear(self, kind: str, rank: int, payload: bytes) -> None:
        with self._hearing:
            if kind in self._readers:
                self._readers[kind](rank, payload)
            else:
                self._unread.setdefault(kind, deque(maxlen=MAX_UNREAD)).append((rank, payload))


_runtime: Runtime | None = None


def init(
    role_maker: object = None,
    is_collective: bool | None = None,
    strategy: DistributedStrategy | None = None,
) -> None:
    """Join the job: alone, under ``python -m fleet.launch``, or under torchrun.

    Args:
        role_maker: of scripts written for paddle.distributed.fleet. PaddleCloudRoleMaker reads the environment, as fleet does;
            UserDefinedRoleMaker states the role itself.
        is_collective: as there: True implies ``batch="per_trainer"`` unless the strategy sets ``batch``.
        strategy: the job's strategy; may also be given to the distributed_* calls.

    Raises:
        ConfigError: called twice, or the environment's numbers make no sense.
        RendezvousError: two launchers' variables contradict each other.
        PeerLost: trainer 0 did not join in time. Start the job again.
    """
    global _runtime
    if _runtime is not None:
        raise ConfigError("fleet.init() was called twice", at="fleet.init()", fix="call it once, at the top of the script")
    _check_strategy(strategy, "fleet.init(strategy=)")
    _take_role(role_maker)
    role = env.detect()
    if role.kind == "trainer" and role.local_size != role.world_size:
        raise ConfigError(
            f"{role.world_size} trainers, {role.local_size} of them on this node: several nodes are not in this version",
            at=role.source,
            fix="start all trainers on one node",
        )
    timeout_s = strategy.timeout_s if strategy is not None else _timeout_of_file()
    collective = bool(is_collective or getattr(role_maker, "is_collective", False))
    timeline.follow_this_thread()
    _runtime = Runtime(role, strategy, timeout_s, batch_per_trainer=collective)
    _follow_forks(_runtime)


def _take_role(role_maker: object) -> None:
    """Put what a role maker says by itself where a launcher would have said it."""
    said: dict[str, str] = getattr(role_maker, "environ", dict)()
    for name, value in said.items():
        there = env.get(name)
        if there and there != value:
            what = f"the role maker says {name}={value}, the environment {name}={there}"
            fix = "leave the role maker away under a launcher, or unset the variables that are left over from one"
            raise RendezvousError(what, at="fleet.init(role_maker=)", fix=fix)
    os.environ.update(said)


def current(call: str) -> Runtime:
    """Return the Runtime; ``call`` is who asks, for the error before init."""
    if _runtime is None:
        raise ConfigError(f"{call} before fleet.init()", at=call, fix="call fleet.init() at the top of the script")
    return _runtime


def is_initialized() -> bool:
    """Return whether init was called and shutdown was not."""
    return _runtime is not None


def shutdown() -> None:
    """Leave the job; runs by itself at the end of the process. A second call does nothing."""
    global _runtime
    if _runtime is not None:
        runtime, _runtime = _runtime, None
        runtime.close()


def rank() -> int:
    """Return this trainer's rank; -1 in a server."""
    return current("fleet.rank()").role.rank


def world_size() -> int:
    """Return the number of trainers."""
    return current("fleet.world_size()").role.world_size


def local_rank() -> int:
    """Return this trainer's rank on its node."""
    return current("fleet.local_rank()").role.local_rank


def is_server() -> bool:
    """Return whether this process holds table shards. Servers started by fleet.launch run no user script."""
    return current("fleet.is_server()").role.is_server


def barrier() -> None:
    """Wait until all trainers are here.

    Raises:
        PeerLost: a trainer did not come within ``timeout_s``; it is named.
        RendezvousError: a trainer waits in another collective; it is named.

    Cost: one small message to trainer 0 and back.
    """
    current("fleet.barrier()").meet("fleet.barrier()")


def _say(text: str) -> None:
    print(text, flush=True)


def _check_strategy(strategy: object, at: str) -> None:
    if strategy is not None and not isinstance(strategy, DistributedStrategy):
        what = f"strategy must be a fleet.DistributedStrategy, got {type(strategy).__name__}"
        raise ConfigError(what, at=at, fix="write fleet.DistributedStrategy(...)")


def _control_path(role: env.Role) -> str:
    """Return where trainer 0 listens: what the launcher says, else derived from what a foreign launcher's trainers share."""
    given = env.get("FLEET_CONTROL")
    if given:
        return given.removeprefix("unix:")
    meeting = env.get("PADDLE_MASTER") or f"{env.get('MASTER_ADDR')}:{env.get('MASTER_PORT')}"
    if meeting == ":":
        raise ConfigError(
            f"{role.source} says {role.world_size} trainers but no meeting point",
            at="MASTER_ADDR, MASTER_PORT, PADDLE_MASTER",
            fix="start the script with python -m fleet.launch, or export the meeting point",
        )
    key = hashlib.sha256(f"{meeting} {env.get('TORCHELASTIC_RUN_ID')}".encode()).hexdigest()[:16]
    directory = os.path.join(tempfile.gettempdir(), f"fleet-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    status = os.lstat(directory)
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        what = f"{directory} belongs to somebody else or is open to others"
        raise ConfigError(what, at=directory, fix="remove it and start again")
    return os.path.join(directory, key)


def _timeout_of_file() -> float:
    path = env.get("FLEET_CONFIG")
    strategy = DistributedStrategy.from_yaml(path) if path else DistributedStrategy()
    return float(strategy.timeout_s)


def _follow_forks(runtime: Runtime) -> None:
    """Let forked children (DataLoader workers) drop the runtime: its sockets and threads are the parent's."""
    alive = weakref.ref(runtime)

    def in_child() -> None:
        global _runtime
        mine = alive()
        if mine is not None and _runtime is mine:
            _runtime = None
            mine.forget()

    os.register_at_fork(after_in_child=in_child)


atexit.register(shutdown)
