"""What a user sees while a job trains: the start banner and one progress line, both from trainer 0.

``log`` is never a collective: every trainer sends its numbers out of band, trainer 0 averages what has come and shows
it a few times a second.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from fleet import __version__, display, env, logger, timeline
from fleet.display import State
from fleet.errors import ConfigError
from fleet.runtime import Runtime, current
from fleet.tracking import Courier, Tracker

WINDOW_S = 30.0  # over which rates are taken: what the job does now, not what it did before an evaluation
MAX_OPEN_STEPS = 1000  # a trainer that never logs must not make trainer 0 remember for ever


class Point(NamedTuple):
    """How far the job was at a moment."""

    when: float
    step: int
    samples: int
    waited: dict[int, tuple[float, float]]  # rank -> its clock, its seconds of waiting so far


class Board:
    """Trainer 0's board: the numbers of every step, until all trainers have sent theirs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._guard = threading.Lock()  # guards all below: notes come in the control thread, the end in the main thread
        self._open: dict[int, dict[int, dict[str, Any]]] = {}  # step -> rank -> note
        self._values: dict[str, float] = {}  # of the newest step that is complete
        self._points: deque[Point] = deque()  # the last is of that step
        self._shown_at = 0.0
        self._pending = False  # something was not shown yet
        self._rates: dict[str, float] = {}  # as last shown; the trackers get them with the step in hand
        self._couriers: list[Courier] = []
        self._display = display.choose()
        runtime.board, runtime.say = self, self._display.say
        runtime.closers.append(self.finish)
        runtime.listen("log", self.take)

    def take(self, rank: int, payload: bytes) -> None:
        """Add one trainer's numbers of one step."""
        note = json.loads(payload)
        with self._guard:
            by_rank = self._open.setdefault(note["step"], {})
            before = by_rank.get(rank)  # of an earlier call in the same step
            by_rank[rank] = note if before is None else {**note, "values": {**before["values"], **note["values"]}}
            if len(by_rank) == self._runtime.role.world_size:
                self._complete(note["step"], by_rank)
            elif len(self._open) > MAX_OPEN_STEPS:
                del self._open[min(self._open)]
            now = time.monotonic()
            if self._pending and now - self._shown_at >= self._display.interval_s:
                self._show(now)

    def keep(self, courier: Courier) -> None:
        """Give a tracker the numbers of every step from now on."""
        with self._guard:
            self._couriers.append(courier)

    def finish(self) -> None:
        """Show the last state, end the line and the trackers."""
        with self._guard:
            if self._pending:
                self._show(time.monotonic())
            self._give()
            self._points.clear()
            self._display.end()
            couriers, self._couriers = self._couriers, []
        for courier in couriers:
            courier.close(_status())

    def _complete(self, step: int, by_rank: dict[int, dict[str, Any]]) -> None:
        """Take a step that all trainers have sent numbers of; more may come for it, until the next one is complete."""
        if self._points and self._points[-1].step != step:
            self._give()
        samples = max(note["samples"] for note in by_rank.values())
        waited = {rank: (note["clock"], note["waited"]) for rank, note in by_rank.items()}
        point = Point(time.monotonic(), step, samples, waited)
        # The first step pays for warming up: rates count from it. Of the others a few a second are kept.
        if len(self._points) > 1 and point.when - self._points[-2].when < display.REDRAW_S:
            self._points.pop()
        self._points.append(point)
        while len(self._points) > 2 and point.when - self._points[1].when > WINDOW_S:
            self._points.popleft()
        self._values, self._pending = _combine(by_rank), True
        for old in [s for s in self._open if s < step]:  # this one stays
            del self._open[old]

    def _give(self) -> None:
        if self._points:
            for courier in self._couriers:
                courier.give(self._points[-1].step, {**self._values, **self._rates})
        self._rates = {}

    def _show(self, now: float) -> None:
        state = self._state()
        self._display.show(state)
        self._shown_at, self._pending = now, False
        if state.steps_per_s > 0:
            self._rates = {"fleet/steps_per_s": state.steps_per_s, "fleet/waiting": state.waiting}
            if state.examples_per_s > 0:
                self._rates["fleet/examples_per_s"] = state.examples_per_s

    def _state(self) -> State:
        first, last = self._points[0], self._points[-1]
        seconds = max(last.when - first.when, 1e-9)
        steps_per_s = (last.step - first.step) / seconds
        waits = [(w - first.waited[r][1]) / (c - first.waited[r][0]) for r, (c, w) in last.waited.items() if c > first.waited[r][0]]
        epoch, batch, batches = self._runtime.position
        left = max(0, max(0, self._runtime.num_epochs - epoch - 1) * batches + batches - batch)
        return State(
            last.step, epoch, self._runtime.num_epochs, batch, batches, self._values, steps_per_s,
            (last.samples - first.samples) / seconds, sum(waits) / len(waits) if waits else 0.0,
            left / steps_per_s if left and steps_per_s > 0 else None,
        )  # fmt: skip


def _status() -> str:
    """Return how the script ends."""
    error = getattr(sys, "last_type", None)
    return "finished" if error is None else "stopped" if issubclass(error, KeyboardInterrupt) else "failed"


def _combine(by_rank: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Return means weighted by samples; a trainer with an empty part counts nothing."""
    notes = [by_rank[r] for r in sorted(by_rank)]
    values: dict[str, float] = {}
    for name in {name: None for note in notes for name in note["values"]}:
        pairs = [(n["values"][name], n["weight"]) for n in notes if name in n["values"]]
        total = sum(w for _, w in pairs)
        values[name] = sum(v * w for v, w in pairs if w) / total if total else pairs[0][0]
    return values


def open_board(runtime: Runtime) -> None:
    """Let trainer 0 listen; notes that others sent before are kept for it."""
    if runtime.role.rank == 0 and runtime.board is None:
        Board(runtime)


def log(**values: Any) -> None:
    """Show numbers on trainer 0's progress line: means over trainers, weighted by samples. Never waits for anybody.

    Args:
        values: Python numbers, or Paddle tensors and NumPy arrays of one element.

    Raises:
        ConfigError: a value is not one number.
    """
    runtime = current("fleet.log()")
    open_board(runtime)
    runtime.logged += 1
    note = {
        "step": runtime.steps or runtime.logged,  # a trainer may log more often than another, but all take the same steps
        "values": {name: _number(name, value) for name, value in values.items()},
        "weight": 1 if runtime.share is None else runtime.share.num_samples,
        "samples": runtime.samples_trained,
        "clock": time.monotonic(),
        "waited": timeline.waited_s(),
    }
    runtime.tell("log", json.dumps(note).encode())


def log_to(tracker: Tracker, name: str = "", params: Mapping[str, Any] | None = None) -> None:
    """Give what ``log`` shows to a tracker as well: step by step, in a thread of trainer 0; the other trainers do nothing.

    With the script's numbers go ``fleet/steps_per_s``, ``fleet/examples_per_s`` and ``fleet/waiting``, as often as they are shown.

    Args:
        tracker: ``fleet.tracking.TensorBoard()``, ``VisualDL()``, ``MLflow()``, or an object of yours with their three calls.
        name: of the run; default the launcher's run id, else the script's name and the time.
        params: of the run, to be kept beside its numbers.

    Raises:
        ConfigError: not a tracker, its package is not installed, or its store cannot be used. What fails later is a warning.

    Example:
        >>> fleet.log_to(fleet.tracking.TensorBoard("runs"), params={"lr": 0.1})
    """
    runtime = current("fleet.log_to()")
    lacking = [call for call in ("begin", "log", "end") if not callable(getattr(tracker, call, None))]
    if lacking or isinstance(tracker, type):
        what = f"not a tracker: {tracker!r}" + (f" has no {', '.join(lacking)}" if lacking else " is a class")
        fix = 'give an object: fleet.tracking.TensorBoard("runs"), or one of yours with begin, log and end'
        raise ConfigError(what, at="fleet.log_to()", fix=fix)
    if runtime.role.rank == 0:
        script = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        name = name or env.get("FLEET_RUN_ID") or f"{script or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
        tracker.begin(name, dict(params or {}))
        open_board(runtime)
        runtime.board.keep(Courier(tracker, logger.warning))


def _number(name: str, value: Any) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    size = int(getattr(value, "size", 0))
    if size != 1:
        raise ConfigError(f"{name} is not one number: {value!r}", at="fleet.log()", fix="give its mean")
    return float(value.item())


def banner(job: Any) -> None:
    """Print what is in force, once, from trainer 0."""
    runtime = job.runtime
    if runtime.role.rank != 0:
        return
    strategy = job.strategy()
    block = strategy.parameter_server
    role = runtime.role
    trainers, servers = role.world_size, len(role.servers)
    who = f"{trainers} trainer{'s' * (trainers != 1)}, {servers} server{'s' * (servers != 1)}"
    lines = [f"fleet {__version__}: {who} ({role.source})"]
    inner = job.optimizer.inner
    batch = job.loader.global_batch_size if job.loader is not None else "the script's own"
    lines.append(f"  batch {batch} ({strategy.batch})  {type(inner).__name__} lr {inner.get_lr():g}  seed {strategy.seed}")
    if job.reducer is not None:
        lines.append(f"  dense gradients: {job.reducer.bytes_per_step / 1e6:.1f} MB a step meet {job.reducer.way}".rstrip())
    if job.dense is not None:
        lines.append(f"  dense parameters: {job.dense.bytes / 1e6:.1f} MB on the servers, moved there by {type(inner).__name__}")
    if block is not None:
        lines += _about_tables(job, block)
    else:
        lines.append(f"  strategy: {', '.join(map(str, job.in_force.strategies)) or 'plain'}")
    print("\n".join(lines), flush=True)


def _about_tables(job: Any, block: dict[str, Any]) -> list[str]:
    from fleet.parameter_server import row_optimizer

    only = "; only the rows are asynchronous, dense parameters meet every step" if _rows_alone(block) else ""
    counts = ("staleness", "merge_steps", "k_steps", "pull_steps")
    numbers = "".join(f", {name} {block[name]}" for name in counts if block[name] is not None)
    way = f"  parameter server: {block['consistency']}{numbers}, prefetch {block['prefetch']}, dense by {block['dense']}{only}"
    if not job.embeddings:
        return [way]
    names = ", ".join(f"{n} (dim {e.dim}, {e.vocabulary or 'any'} ids)" for n, e in job.embeddings.items())
    optimizer, constants = row_optimizer.of(job.optimizer.inner, block["row_optimizer"])
    lazy = " (lazy: only rows of the batch move)" if row_optimizer.is_lazy(optimizer, constants) else ""
    stored = "" if block["weights"] == block["state"] == "float32" else f", stored as {block['weights']}, state as {block['state']}"
    where = "in this process" if not job.runtime.role.servers else "on the servers"
    return [way, f"  tables {where}: {names}; rows by {optimizer}{lazy}{stored}"]


def _rows_alone(block: dict[str, Any]) -> bool:
    return bool(block["consistency"] == "async" and block["dense"] == "allreduce")
