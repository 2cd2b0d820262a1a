"""What a user sees while a job trains: the start banner and one progress line, both from trainer 0.

``log`` is never a collective: every trainer sends its numbers out of band, trainer 0 averages what has come and shows
it a few times a second.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from typing import Any

from fleet import __version__, env
from fleet.errors import ConfigError
from fleet.runtime import Runtime, current

REDRAW_S = 0.2  # on a terminal
PRINT_S = 5.0  # into a file
BAR = 24  # characters
MAX_OPEN_STEPS = 1000  # a trainer that never logs must not make trainer 0 remember for ever


class Board:
    """Trainer 0's board: the numbers of every step, until all trainers have sent theirs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._guard = threading.Lock()  # guards all below: notes come in the control thread, the end in the main thread
        self._open: dict[int, dict[int, dict[str, Any]]] = {}  # step -> rank -> note
        self._latest: dict[str, Any] = {}
        self._shown_at = 0.0
        self._pending = False
        self._redraw = env.get("FLEET_PROGRESS", "1" if sys.stdout.isatty() else "0") == "1"
        self._start = (time.monotonic(), 0, 0)  # the first note: when, samples, step
        runtime.closers.append(self.finish)
        runtime.listen("log", self.take)

    def take(self, rank: int, payload: bytes) -> None:
        """Add one trainer's numbers of one step."""
        note = json.loads(payload)
        with self._guard:
            if not self._open and not self._latest:
                # The first step pays for warming up: the rate counts from it.
                self._start = (time.monotonic(), note["samples"], note["step"])
            by_rank = self._open.setdefault(note["step"], {})
            before = by_rank.get(rank)  # of an earlier call in the same step
            by_rank[rank] = note if before is None else {**note, "values": {**before["values"], **note["values"]}}
            if len(by_rank) == self._runtime.role.world_size:
                self._latest = _combine(by_rank)
                self._pending = True
                for step in [s for s in self._open if s < note["step"]]:  # this one stays: more may come for it
                    del self._open[step]
            elif len(self._open) > MAX_OPEN_STEPS:
                del self._open[min(self._open)]
            now = time.monotonic()
            if self._pending and now - self._shown_at >= (REDRAW_S if self._redraw else PRINT_S):
                self._show(now)

    def finish(self) -> None:
        """Show the last state and end the line."""
        with self._guard:
            if self._latest:
                if self._pending:
                    self._show(time.monotonic())
                if self._redraw:
                    _print("\n")
                self._latest = {}

    def _show(self, now: float) -> None:
        line = self._line(now)
        _print(f"\r{line}\x1b[K" if self._redraw else line + "\n")
        self._shown_at, self._pending = now, False

    def _line(self, now: float) -> str:
        latest = self._latest
        started, samples, first_step = self._start
        seconds = max(now - started, 1e-9)
        steps_per_s = (latest["step"] - first_step) / seconds
        parts = [self._place(latest["step"])]
        parts += [f"{name} {value:.4g}" for name, value in latest["values"].items()]
        if latest["samples"] > samples:
            parts.append(f"{(latest['samples'] - samples) / seconds:,.0f} examples/s")
        elif steps_per_s > 0:
            parts.append(f"{steps_per_s:.1f} step/s")
        left = self._batches_left()
        if left and steps_per_s > 0:
            parts.append(f"ETA {int(left / steps_per_s) // 60}:{int(left / steps_per_s) % 60:02d}")
        return "  ".join(parts)

    def _place(self, step: int) -> str:
        """Return ``epoch 2/3  step 62/100 [####....]``, or what is known of it."""
        epoch, batch, batches = self._runtime.position
        if not batches:
            return f"step {step}"
        filled = round(BAR * min(1.0, batch / batches))
        num_epochs = f"/{self._runtime.num_epochs}" if self._runtime.num_epochs else ""
        return f"epoch {epoch + 1}{num_epochs}  step {batch}/{batches} [{'#' * filled}{'.' * (BAR - filled)}]"

    def _batches_left(self) -> int:
        """Return the batches up to the end of the last epoch, or of this one if nobody says how many there are."""
        epoch, batch, batches = self._runtime.position
        epochs_left = max(0, self._runtime.num_epochs - epoch - 1)
        return max(0, epochs_left * batches + batches - batch)


def _print(text: str) -> None:
    # A closed pipe or a full disk must not end the control thread, in which this runs: the job goes on without its line.
    with contextlib.suppress(OSError):
        print(text, end="", flush=True)


def _combine(by_rank: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return means weighted by samples; a trainer with an empty part counts nothing."""
    notes = [by_rank[r] for r in sorted(by_rank)]
    values: dict[str, float] = {}
    for name in {name: None for note in notes for name in note["values"]}:
        pairs = [(n["values"][name], n["weight"]) for n in notes if name in n["values"]]
        total = sum(w for _, w in pairs)
        values[name] = sum(v * w for v, w in pairs if w) / total if total else pairs[0][0]
    return {"step": notes[0]["step"], "values": values, "samples": notes[0]["samples"]}


def open_board(runtime: Runtime) -> None:
    """Let trainer 0 listen; notes that others sent before are kept for it."""
    if runtime.role.rank == 0 and not runtime.listens("log"):
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
    }
    runtime.tell("log", json.dumps(note).encode())


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
