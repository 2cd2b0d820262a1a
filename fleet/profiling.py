"""``fleet.profile``: every trainer records the same few steps; trainer 0 writes one trace of all and says who is the slowest.

Nobody waits for anybody but at the call itself, where the trainers' clocks are compared: a trainer sends what it has once its steps
are over, or when it ends. A trainer that dies is missing in the trace, and named.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fleet import breakdown, env, logger, timeline, trace
from fleet.errors import ConfigError
from fleet.runtime import Runtime, current
from fleet.timeline import Span
from fleet.trace import Recording

MAX_STEPS = 10_000  # a step has 10 to 300 marks of 100 bytes
NUM_CLOCK_MEETINGS = 16  # over a local socket they leave an error of 0.05 ms
LAST_WAIT_S = 5.0  # for the others' recordings as trainer 0 ends


def profile(steps: int = 20, *, after: int = 5, path: str | None = None) -> None:
    """Record ``steps`` optimizer steps on all trainers, leaving out the next ``after``; training goes on meanwhile.

    When they are over, trainer 0 writes a Chrome trace (open it at https://ui.perfetto.dev) and prints a table: where each
    trainer's time goes, which is the slowest, and why. What the columns mean: docs/profile.md.

    Args:
        steps: how many to record, 1 to 10,000.
        after: steps before the first of them; the first steps of a job pay for warming up.
        path: of the trace; default ``profile-STEP.json`` in the run's directory, or where the script runs if nobody launched it.

    Raises:
        ConfigError: a number out of range, or a profile is under way.
        PeerLost, RendezvousError: all trainers call it; one did not. As :func:`fleet.barrier`.

    Cost: 16 small meetings at the call; about 0.5 us a mark while it records; then one message a trainer.

    Example:
        >>> fleet.profile(20)
        >>> for batch in loader: ...
    """
    runtime = current("fleet.profile()")
    for name, value, low in (("steps", steps, 1), ("after", after, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_STEPS:
            what = f"{name} must be an int from {low} to {MAX_STEPS:,}, got {value!r}"
            raise ConfigError(what, at=f"fleet.profile({name}=)", fix="a few dozen steps show what all of them do")
    before = runtime.profiler
    if before is not None and not before.is_sent:
        fix = "call it again when the first is over: its table says so"
        raise ConfigError("a profile is under way", at="fleet.profile()", fix=fix)
    if runtime.recovery is not None and runtime.recovery.rejoins:
        logger.warning("fleet.profile: a trainer that was started again alone is not recorded: the others have met without it")
        return
    meetings = _compare_clocks(runtime)
    if before is not None:
        before.write()  # what the others sent for it came ahead of these meetings
    runtime.profiler = Profiler(runtime, steps, after, path, meetings)


class Profiler:
    """One trainer's part in one profile, and trainer 0's gathering."""

    def __init__(
        self, runtime: Runtime, steps: int, after: int, path: str | None, meetings: list[tuple[str, int, int]]
    ) -> None:
        self._runtime, self._path, self._meetings = runtime, path, meetings
        self._before, self._wanted = after, steps
        self._steps: list[tuple[int, int]] = []  # number, end
        self._began = 0
        self.is_sent = False  # this trainer's recording is over
        self._given: list[bytes] = []  # trainer 0: what the trainers sent; the control thread appends
        self._written = runtime.role.rank != 0
        if runtime.role.rank == 0:
            runtime.listen("profile", lambda rank, payload: self._given.append(payload))
        runtime.after_step = [*runtime.after_step, self._stepped]  # behind whatever else belongs to the step
        runtime.closers.append(self._finish)
        if after == 0:
            self._begin()

    def _stepped(self) -> None:
        if not self.is_sent:
            if self._before > 0:
                self._before -= 1
                if self._before == 0:
                    self._begin()
            else:
                self._steps.append((self._runtime.steps, timeline.now()))
                if len(self._steps) == self._wanted:
                    self._send()
        if len(self._given) == self._runtime.role.world_size:
            self.write()
        if self.is_sent and self._written:
            self._runtime.after_step = [f for f in self._runtime.after_step if f != self._stepped]

    def _begin(self) -> None:
        self._unwrap = _mark_backward()
        timeline.record()
        self._began = timeline.now()

    def _send(self) -> None:
        self.is_sent = True
        if not self._began:
            return
        spans = timeline.stop()
        self._unwrap()
        names = {t.ident: t.name for t in threading.enumerate()}
        note = Recording(self._runtime.role.rank, self._began, self._steps, spans, timeline.script(),
                         {s.thread: names.get(s.thread, f"thread {s.thread}") for s in spans}, self._meetings)  # fmt: skip
        self._runtime.tell("profile", json.dumps(note).encode())

    def _finish(self) -> None:
        """As the process ends: send what there is; trainer 0 waits a moment for who is still there."""
        if not self.is_sent:
            self._send()
        deadline = time.monotonic() + (LAST_WAIT_S if self._began and not hasattr(sys, "last_type") else 0.0)
        while not self._written and not self._all_came() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.write()

    def _all_came(self) -> bool:
        host = self._runtime.host
        gone = host.gone() if host is not None else set()
        return {json.loads(payload)[0] for payload in self._given} | gone >= set(range(self._runtime.role.world_size))

    def write(self) -> None:
        """Write the trace and print the table, once. A file that cannot be written does not end the training."""
        if self._written:
            return
        self._written = True
        recordings = sorted((_read(payload) for payload in list(self._given)), key=lambda r: r.rank)
        recordings = [r for r in recordings if r.steps]
        missing = sorted(set(range(self._runtime.role.world_size)) - {r.rank for r in recordings})
        lacking = f"; nothing came from trainer {', '.join(map(str, missing))}" if missing else ""
        if not recordings:
            logger.warning(f"fleet.profile: no step was recorded{lacking}")
            return
        recordings, errors = trace.align(recordings)
        path = self._path or os.path.join(env.get("FLEET_LOG_DIR", "."), f"profile-{recordings[0].steps[0][0]}.json")
        try:
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                json.dump(trace.chrome(recordings, errors), file)
            os.replace(path + ".tmp", path)
            where = f"{path} (open it at https://ui.perfetto.dev)"
        except OSError as error:
            where = f"no trace: {error}"
        steps = f"steps {recordings[0].steps[0][0]} to {recordings[0].steps[-1][0]}"
        clocks = f"; {said}" if (said := _about_clocks(recordings, errors)) else ""
        self._runtime.say(f"profile of {steps}{lacking}{clocks}\n  {where}\n{breakdown.table(breakdown.rows(recordings))}")


def _about_clocks(recordings: list[Recording], errors: list[float | None]) -> str:
    unknown = [str(r.rank) for r, e in zip(recordings, errors, strict=True) if e is None]
    if unknown:
        return f"the clock of trainer {', '.join(unknown)} could not be compared"
    worst = max(e for e in errors if e is not None)
    return f"clocks are aligned to {worst * 1e3:.2f} ms" if worst else ""


def _read(payload: bytes) -> Recording:
    rank, began, steps, spans, script, threads, meetings = json.loads(payload)
    return Recording(rank, began, [(n, end) for n, end in steps], [Span(*s) for s in spans], script,
                     {int(t): name for t, name in threads.items()}, [(n, came, left) for n, came, left in meetings])  # fmt: skip


def _compare_clocks(runtime: Runtime) -> list[tuple[str, int, int]]:
    """Meet a few times, and note when this trainer came and left, by its own clock."""
    found = []
    for number in range(NUM_CLOCK_MEETINGS if runtime.channel is not None else 0):
        came = timeline.now()
        runtime.meet("fleet.profile()")
        found.append((f"clocks {number}", came, timeline.now()))
    return found


def _mark_backward() -> Callable[[], None]:
    """Mark every outermost backward pass, until the function that is returned is called."""
    paddle = sys.modules.get("paddle")
    if paddle is None:  # who profiles without Paddle has no backward pass
        return lambda: None
    engine = paddle.base.core.eager
    before = engine.run_backward
    inside = False

    @functools.wraps(before)  # whoever watches the passes too finds its own note on the function
    def run_backward(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:  # recompute and PyLayer run passes of their own inside one
            return before(*args, **kwargs)
        inside, began = True, timeline.now()
        try:
            return before(*args, **kwargs)
        finally:
            inside = False
            timeline.mark("backward", "backward", began)

    engine.run_backward = run_backward

    def unwrap() -> None:
        if engine.run_backward is run_backward:
            engine.run_backward = before

    return unwrap
