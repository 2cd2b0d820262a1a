"""Starts the processes of a Job, watches them, and ends them. Exits are noticed through pidfds; nothing is killed by name.

The order of an end, whatever causes it: TERM to the trainers (the training process alone, so that it can still save with its
data workers' help); TERM to the servers once no trainer is left; after the grace period TERM to the whole groups, one second
later KILL; then whatever still carries the run's id. A second Ctrl-C skips to KILL.

A loss that ``restarts.py`` answers is no end. Either the process is started again in its place, or all are ended at once (what
they hold is worthless: the job goes back to its last checkpoint) and started again.

A process that has ended stays unreaped until the run is over: so its number, which names its group, cannot be taken over.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import FrameType

from fleet import recovery
from fleet.errors import FleetError
from fleet.launch import keeper, report
from fleet.launch.child import Child
from fleet.launch.console import Console
from fleet.launch.keeping import Keeping
from fleet.launch.restarts import EX_NO_PROGRESS, Restart, Restarts
from fleet.launch.spec import Job, ProcessSpec

SETTLE_S = 0.3  # how long to wait for the true cause when what is seen looks like a consequence
RECORD_S = 1.0  # how long a process may take to exit after an uncaught exception (threads, atexit)
GROUP_KILL_S = 1.0  # from TERM to KILL of the groups
RESTART_KILL_S = 0.5  # from TERM to KILL of processes that are to be started again: nothing of theirs is worth saving
EX_PREEMPTED = 75  # a trainer's, and then the run's: it has saved, and is to be started again
LEFTOVER_S = 0.3  # from TERM to KILL of processes that outlived their trainer
TICK_S, IDLE_TICK_S = 0.05, 0.2  # how often log files are looked at
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Agent:
    """One run, from the first process to the last.

    Args:
        job: what to run.
        console: where to show it.
    """

    def __init__(self, job: Job, console: Console) -> None:
        self.job, self.console = job, console
        self.children: list[Child] = []
        self.past: list[Child] = []  # earlier lives, unreaped
        self.restarts = Restarts(job)
        self.signals: list[int] = []  # that this launcher got; appended to by the handler alone
        self.reason = ""  # "", "done", "failed", "preempted" or "signal": why the run is being ended; "restart": to begin again
        self.stop_ns = 0
        self._keeping = Keeping(job.run_id, job.meeting.socket_dir)
        self._starting = ""  # the process that is being started
        self._step = 0  # of the escalation: 0 TERM sent, 1 TERM to groups sent, 2 KILL sent
        self._servers_told = False
        self._start_s = time.monotonic()
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        """Run the job to its end and return the exit status. No process of it is left afterwards."""
        before = self._catch_signals()
        problem: OSError | None = None
        try:
            try:
                self._poll.register(self._keeping.start(), select.POLLIN)
                os.mkdir(self.job.meeting.socket_dir, 0o700)
                self._start_all()
            except OSError as error:  # the memory, the number of processes or the disk gave out
                problem = error
                self._begin_stop("failed")
            idle = 0
            while self._is_on():
                idle = 0 if self.console.pump() else idle + 1
                self._wait(TICK_S if idle < 10 else IDLE_TICK_S)
                try:
                    self._decide()
                except OSError as error:  # the same, at a restart
                    problem = problem or error
                    self._begin_stop("failed")
        finally:
            self._end_leftovers()
            self._release()
        self.console.finish(self.signals)
        status = self._conclude() if problem is None else 1
        self._reset_signals(before)
        if problem is not None:
            raise FleetError(
                f"cannot start {self._starting}: {problem.strerror}",
                at=problem.filename or "this machine",
                fix="start fewer processes, or free what has run out (ulimit -a, df)",
            )
        return status

    # Signals.

    def _catch_signals(self) -> list[tuple[int, object]]:
        def note(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._poll.register(self._wake_read, select.POLLIN)
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        return [(n, signal.signal(n, note)) for n in SIGNALS if not (n == signal.SIGHUP and nohup)]

    def _reset_signals(self, before: list[tuple[int, object]]) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in before:
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def _no_grace(self) -> bool:
        """A second Ctrl-C or TERM; a terminal that closes sends HUP besides, which is not meant so."""
        return sum(n in (signal.SIGINT, signal.SIGTERM) for n in self.signals) > 1

    # Start.

    def _start_all(self) -> None:
        for spec in self.job.processes:
            if self.signals:
                break
            self._start(spec)

    def _start(self, spec: ProcessSpec, rejoins: bool = False) -> None:
        """Start a process; of one that ran before, the log goes on.

        Args:
            rejoins: the others of the job are running.
        """
        self._starting = spec.name
        path = os.path.join(self.job.log_dir, spec.file + ".log")
        if all(child.spec is not spec for child in self.past):
            self.console.follow(spec.role, spec.number, os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        actions = (
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, path, os.O_WRONLY | os.O_APPEND, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        )
        environment = {**spec.environment(), "FLEET_REJOIN": "1"} if rejoins else spec.environment()
        restored = (*SIGNALS, signal.SIGPIPE, signal.SIGXFSZ)  # what Python or nohup ignored would stay ignored
        pid = os.posix_spawn(spec.command[0], spec.command, environment, file_actions=actions, setsid=True,
                             setsigmask=(), setsigdef=restored)  # fmt: skip
        child = Child(spec, pid, path)
        self.children.append(child)
        self._keeping.add(pid)
        self._poll.register(child.pidfd, select.POLLIN)

    # Watch.

    def _wait(self, timeout_s: float) -> None:
        """Wait for an exit or a signal, at most ``timeout_s``, and note all that have happened."""
        ready = {fd for fd, _ in self._poll.poll(timeout_s * 1000)}
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._keeping.fd in ready:
            self._poll.unregister(self._keeping.fd)
            self.console.say(self._keeping.replace())
            if self._keeping.fd >= 0:
                self._poll.register(self._keeping.fd, select.POLLIN)
        for child in self.children:
            if child.pidfd in ready:
                child.note_exit()
                if child.status is not None:
                    self._poll.unregister(child.pidfd)

    def _is_on(self) -> bool:
        """Say whether the run goes on: a process runs, is to be started again, or its end has not been judged yet."""
        return self.reason in ("", "restart") or any(child.status is None for child in self.children)

    def _decide(self) -> None:
        """Look at what has happened and begin or continue the end, or a restart."""
        if self.reason == "restart" and not self.signals:
            self._continue_restart()
            return
        if self.reason not in ("", "restart"):
            self._continue_stop()
            return
        trainers = [c for c in self.children if c.spec.role == "trainer"]
        failures = self._failures()
        if self.signals:
            self._begin_stop("signal")
        elif all(c.status in (0, EX_PREEMPTED) for c in trainers):
            self._begin_stop("done" if all(c.status == 0 for c in trainers) else "preempted")
        elif failures:
            first_s = min(c.exit_ns for c in self.children if self._is_bad(c)) / 1e9
            nothing_to_come = all(c.status is not None for c in self.children) or time.monotonic() - first_s > SETTLE_S
            if nothing_to_come or any(not f.consequence for f in failures):
                self._answer(failures)
        else:
            for child in [c for c in self.children if self._lingers(c)]:
                if not self.job.restarts[child.spec.role]:
                    if report.failure(child.spec.name, child.log_path, 0, 0, False).consequence:
                        self._find_frozen()
                    self._begin_stop("failed")
                    break
                child.send_group(signal.SIGKILL)  # a failure like any other, once it has ended

    def _lingers(self, child: Child) -> bool:
        """Say whether a process has failed but does not exit: a thread of its own or an atexit function holds it."""
        if child.status is not None or not os.path.exists(child.log_path.removesuffix(".log") + ".failure.json"):
            return False
        record = report.read_record(child.log_path)
        if not record or record["thread"]:
            return False
        if child.record_seen_s is None:
            child.record_seen_s = time.monotonic()
        return time.monotonic() - child.record_seen_s > RECORD_S

    def _is_bad(self, child: Child) -> bool:
        """Say whether a process ended badly, and not only because it was told to."""
        if child.frozen:
            return True
        if child.status is None:
            return False
        if child.spec.role == "server":
            return not child.signalled  # whatever its status: trainers were running
        if child.signalled and (child.record_seen_s is not None or child.status in (-signal.SIGTERM, -signal.SIGKILL)):
            return report.read_record(child.log_path) is not None
        return child.status not in (0, EX_PREEMPTED)  # the others are on their way too: they have agreed

    def _failures(self) -> list[report.Failure]:
        bad = [c for c in self.children if self._is_bad(c)]
        return [report.failure(c.spec.name, c.log_path, c.status or 0, c.exit_ns, c.signalled, c.frozen) for c in bad]

    # Start again.

    def _answer(self, failures: list[report.Failure]) -> None:
        """Answer a loss: start again, alone or all together, or end the run."""
        if all(f.consequence for f in failures) and self._find_frozen():
            failures = self._failures()
        cause = report.first_failure(failures, time.monotonic_ns())
        assert cause is not None
        lost = next(c for c in self.children if c.spec.name == cause.name)
        restart = self.restarts.answer(cause, lost.spec, len(failures) > 1)
        if restart is None:
            self._begin_stop("failed")
            return
        self.console.say(f"fleet: {restart.text()}\n")
        if restart.alone:
            keeper.kill_all(keeper.NO_RUN, frozenset((lost.pid,)))
            self._retire(lost, restart)
            self._start(lost.spec, rejoins=True)
            return
        self.reason, self.stop_ns = "restart", time.monotonic_ns()
        recovery.note_failing(self.job.log_dir, True)
        for child in self.children:
            child.send(signal.SIGTERM)

    def _find_frozen(self) -> bool:
        """Look whether what the others lost is a process that somebody has stopped; say so, and end it."""
        for child in self.children:
            if child.status is None and child.is_stopped():
                child.frozen = True
                child.send_group(signal.SIGKILL)  # TERM would wait until it is continued
        return any(child.frozen for child in self.children)

    def _continue_restart(self) -> None:
        """Once all have ended, start all again."""
        alive = [c for c in self.children if c.status is None]
        if alive and (time.monotonic_ns() - self.stop_ns) / 1e9 > RESTART_KILL_S:
            for child in alive:
                child.send_group(signal.SIGKILL)
        if not alive:
            keeper.kill_all(self.job.run_id, frozenset(c.pid for c in self.children))
            for child in list(self.children):
                self._retire(child, self.restarts.done[-1])
            self.reason = ""
            recovery.note_failing(self.job.log_dir, False)
            self._start_all()

    def _retire(self, child: Child, restart: Restart) -> None:
        """Put a process that is started again among the past: its record under another name, its place marked in the log."""
        self.children.remove(child)
        self.past.append(child)
        record = child.log_path.removesuffix(".log") + ".failure.json"
        with contextlib.suppress(FileNotFoundError):
            os.replace(record, record.replace(".failure.json", f".failure-{len(self.restarts.done)}.json"))
        with open(child.log_path, "ab") as log:
            log.write(f"\n{report.rule(f'restart {restart.number} of {restart.of}: {restart.spec.name} was lost')}\n".encode())

    # End.

    def _begin_stop(self, reason: str) -> None:
        self.reason, self.stop_ns = reason, time.monotonic_ns()
        if reason == "failed":
            recovery.note_failing(self.job.log_dir, True)
        if reason == "signal":
            name = report.signal_name(self.signals[0])
            self.console.say(f"\nfleet: {name}: ending the run, at most {self.job.grace_s:g} s for saving\n")
        for child in self.children:
            if child.spec.role == "trainer":
                child.send(signal.SIGTERM)
        self._continue_stop()

    def _continue_stop(self) -> None:
        alive = [c for c in self.children if c.status is None]
        if not self._servers_told and not any(c.spec.role == "trainer" for c in alive):
            self._servers_told = True
            for child in alive:
                child.send(signal.SIGTERM)
        late_s = (time.monotonic_ns() - self.stop_ns) / 1e9 - self.job.grace_s
        if self._step == 0 and late_s >= 0 and alive and not self._no_grace:
            self._step = 1
            for child in alive:
                child.send_group(signal.SIGTERM)
        if self._step < 2 and (late_s >= GROUP_KILL_S or self._no_grace):
            self._step = 2
            for child in self.children:
                child.send_group(signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """End what outlived its trainer: workers, background programs. Nothing of the run is left afterwards."""
        for held in self.job.meeting.held:  # first, so that a launcher that ran out of descriptors can look at /proc
            held.close()
        everybody = self.past + self.children
        sessions = frozenset(c.pid for c in everybody)
        left = keeper.processes_of(self.job.run_id, sessions)
        if left and not self._no_grace and self._step < 2:
            for pid in left:
                keeper.send(pid, signal.SIGTERM, self.job.run_id, sessions)
            until = time.monotonic() + LEFTOVER_S
            while left and time.monotonic() < until and not self._no_grace:
                time.sleep(0.01)
                left = keeper.processes_of(self.job.run_id, sessions)
        if left or self._no_grace:
            keeper.kill_all(self.job.run_id, sessions)
        for child in everybody:
            os.waitpid(child.pid, 0)
            os.close(child.pidfd)

    def _release(self) -> None:
        """Remove the sockets and dismiss the keeper last."""
        keeper.remove_tree(self.job.meeting.socket_dir)
        self._keeping.end()

    def _conclude(self) -> int:
        """Say how it ended, and return the exit status."""
        now_ns = time.monotonic_ns()
        stop_s = (now_ns - self.stop_ns) / 1e9
        status = 0
        preempted = any(c.status == EX_PREEMPTED for c in self.children if c.spec.role == "trainer")
        if self.reason == "preempted" or (self.reason == "signal" and preempted and self.signals[0] == signal.SIGTERM):
            status = EX_PREEMPTED
            logs = report.shorten(self.job.log_dir)
            self.console.say(f"fleet: preempted: the trainers saved and ended; start the job again to go on; logs in {logs}\n")
        elif self.reason == "signal":
            status = 128 + self.signals[0]
            name = report.signal_name(self.signals[0])
            self.console.say(f"fleet: stopped by {name} in {stop_s:.1f} s; logs in {report.shorten(self.job.log_dir)}\n")
        elif self.reason == "failed":
            failures = self._failures()
            cause = report.first_failure(failures, self.stop_ns)
            assert cause is not None, "a run that failed has a failure"
            others = sorted((f for f in failures if f is not cause), key=lambda f: f.time_ns)
            num_stopped = len(self.children) - len(failures) - sum(c.status == 0 and not c.signalled for c in self.children)
            elapsed_s = time.monotonic() - self._start_s
            status = EX_NO_PROGRESS if self.restarts.no_progress else cause.exit_status
            self.console.say(report.text(cause, others, num_stopped, elapsed_s, stop_s, status, self.restarts.refusal))
        if self.restarts.done:
            self.console.say("fleet: started again:\n" + "".join(line + "\n" for line in self.restarts.lines()))
        for child in self.children:
            if self.reason == "done" and child.spec.role == "server" and child.status not in (0, -signal.SIGTERM):
                end = f"status {child.status}" if (child.status or 0) > 0 else report.signal_name(-(child.status or 0))
                self.console.say(
                    f"fleet: WARNING: {child.spec.name} ended with {end} after the trainers were done; see {child.log_path}\n"
                )
        self.console.flush(self.signals)
        return status
