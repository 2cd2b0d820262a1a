"""The local backend, the default: worker processes of our own on this machine.

One thread, one selector: connections and exits of all workers, nothing else. A worker is sent one call at a time until members
prove shorter than 2 ms, then up to 16 ahead, so that short members are not a round trip each and long ones never queue behind one
another.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time

from fleet.errors import ConfigError
from fleet.fanout import call as calls
from fleet.fanout import failure, keeper, machine, options
from fleet.fanout.backends.protocol import BATCHES, CPUS, LOGS, MEMORY, PROCESSES, SEEDS, SENDS, TIMEOUT, Opening
from fleet.fanout.blame import not_picklable, packed_level
from fleet.fanout.call import Call, Outcome, member_name
from fleet.fanout.parcel import Packed, Place, pack
from fleet.fanout.process import Process, environment
from fleet.fanout.shared import SharedBuffers

SHORT_S, MOST_AHEAD = 0.002, 16  # R17 of the design's notes: a member of 0.6 s once blocked its neighbour
MEMORY_EVERY_S = 0.1  # how often `memory` is looked at
GOODBYE_S = 1.0  # for a worker's own exit handlers


class Local:
    """Workers are started when they are first needed, and again after each loss."""

    name = "local"
    claims = frozenset({TIMEOUT, MEMORY, LOGS, SEEDS, CPUS, PROCESSES, SENDS, BATCHES})

    def __init__(self) -> None:
        self._workers: list[Process | None] = []
        self._selector = selectors.DefaultSelector()
        self._ready: list[Outcome] = []
        self._recent_s = SHORT_S  # running mean of how long members take
        self._started = 0
        self._shared = SharedBuffers("", "", True)  # until open
        self._keeper: subprocess.Popen[bytes] | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)

    def open(self, opening: Opening) -> None:
        self._opening = opening
        most = options.admitted(options.Options(cpus=opening.cpus, gpus=opening.gpus))
        number = opening.workers or max(1, int(machine.usable_cpus() / opening.cpus))
        if most is not None and opening.workers is None:
            number = min(number, most)
        elif most is not None and number > most:
            need, there = number * opening.gpus, most * opening.gpus
            what = f"{number} workers with {opening.gpus} GPUs each need {need}, this machine gives {there}"
            raise ConfigError(what, at="fleet.spread()", fix=f"workers={most}, or leave workers= out")
        self._gpus = _shares(opening.gpus, number) if opening.gpus else None
        self._run = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._shared = SharedBuffers(f"fleet-{self._run}", os.path.join(opening.run_dir, "results"), opening.reuse)
        self._programs = [packed_level(level, self._shared.keep) for level in opening.levels]
        self._oom_kills = _oom_kills()
        self._workers = [None] * number
        for index in range(min(number, opening.num_calls if opening.num_calls is not None else number)):
            self._workers[index] = self._spawn(index)
        command = [sys.executable, "-I", "-S", keeper.__file__, self._run, self._shared.directory]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)

    def _spawn(self, index: int) -> Process:
        share = self._gpus[index] if self._gpus is not None else None
        self._started += 1
        name = f"worker-{index}" if self._started <= len(self._workers) else f"worker-{index}.{self._started}"
        made = Process(name, self._opening.run_dir, self._opening.cpus, environment(self._run, self._opening.cpus, share))
        self._selector.register(made.connection, selectors.EVENT_READ, (index, made))
        self._selector.register(made.exited, selectors.EVENT_READ, (index, made))
        self._push(index, made)
        return made

    def _ahead(self) -> int:
        if self._recent_s >= SHORT_S:
            return 1
        return min(MOST_AHEAD, 1 + int(SHORT_S / (self._recent_s + 1e-9)))

    def room(self) -> int:
        ahead = self._ahead()
        # Refilled when half empty: several calls then travel in one message.
        return sum(ahead - held for held in map(_held, self._workers) if held <= ahead // 2)

    def start(self, call: Call) -> None:
        held = [len(worker.calls) if worker is not None else 0 for worker in self._workers]
        index = held.index(min(held))
        places: tuple[Place, ...] = ()
        try:
            if type(call.item) is Packed:
                packed = call.item
            else:
                packed = pack(call.item, self._shared.keep)
                places = packed.places
        except Exception as error:  # noqa: BLE001  pickling runs the user's code
            wrong = not_picklable(call.item, error, what="the item", at=failure.member_text(call.path))
            self._ready.append(Outcome(call.ticket, calls.ERROR, error=wrong))
            return
        worker = self._workers[index]
        if worker is None:
            worker = self._workers[index] = self._spawn(index)
        if not worker.calls:
            worker.begun_at = time.monotonic()
        if call.level not in worker.programs:
            worker.programs.add(call.level)
            worker.send(("program", call.level, *self._programs[call.level]))
        worker.calls.append((call, places))
        worker.unsent.append((call.ticket, call.level, call.path, call.attempt, call.seed, packed.body, packed.places))

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        for index, worker in enumerate(self._workers):
            if worker is not None and worker.unsent:
                worker.send(("calls", worker.unsent))
                worker.unsent = []
                self._push(index, worker)
        found, self._ready = self._ready, []
        limit = 0.0 if found else self._until(timeout_s)
        exits: dict[int, Process] = {}
        for key, mask in self._selector.select(limit):
            if key.data is None:
                self._drain_wakes()
                continue
            index, worker = key.data
            if mask & selectors.EVENT_WRITE:
                self._push(index, worker)
            if key.fileobj == worker.exited:
                exits[index] = worker
            elif mask & selectors.EVENT_READ and not self._answers(worker, found):
                exits[index] = worker
        for index, worker in exits.items():
            if worker is self._workers[index]:
                self._lost(index, worker, found)
        self._watch()
        return found

    def _until(self, timeout_s: float | None) -> float | None:
        """Return how long the selector may sleep: until somebody's time is over."""
        moments = [] if timeout_s is None else [time.monotonic() + timeout_s]
        for worker in self._workers:
            if worker is not None and worker.calls:
                if worker.ending is not None:
                    moments.append(worker.kill_at)
                elif worker.calls[0][0].timeout_s is not None:
                    moments.append(worker.begun_at + worker.calls[0][0].timeout_s)
                if self._opening.memory is not None:
                    moments.append(time.monotonic() + MEMORY_EVERY_S)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _watch(self) -> None:
        """End calls that run too long or hold too much."""
        if self._opening.memory is None and not any(w and w.calls and (w.ending or w.calls[0][0].timeout_s) for w in self._workers):
            return
        now = time.monotonic()
        for worker in self._workers:
            if worker is None or not worker.calls:
                continue
            call = worker.calls[0][0]
            if worker.ending is not None:
                if worker.ending[0] != call.ticket:  # it answered after all, and goes on
                    worker.ending = None
                elif now >= worker.kill_at:
                    worker.kill()
            elif call.timeout_s is not None and now >= worker.begun_at + call.timeout_s:
                worker.end_for(call.ticket, calls.TIMEOUT)
            elif self._opening.memory is not None and (size := worker.rss_bytes()) > self._opening.memory:
                worker.end_for(call.ticket, failure.too_large(call.path, size, self._opening.memory))

    def _answers(self, worker: Process, found: list[Outcome]) -> bool:
        messages, goes_on = worker.pull()
        now = time.monotonic()
        for ticket, state, body, places, seconds, log, said in messages:
            call, shared = worker.calls.popleft()
            assert call.ticket == ticket, "a worker answers in order"
            worker.begun_at = now
            self._recent_s += 0.2 * (seconds - self._recent_s)
            if shared:
                self._shared.release(shared)
            value = Packed(body, places) if body or places else None
            outcome = Outcome(ticket, state, value, seconds, log=log, worker=worker.name)
            if said is not None:
                outcome.error, outcome.traceback = failure.rebuilt(call.path, *said[:3]), said[3]
            found.append(outcome)
        return goes_on

    def _lost(self, index: int, worker: Process, found: list[Outcome]) -> None:
        """Charge the running call with the loss of its worker; give the others back."""
        self._answers(worker, found)
        self._selector.unregister(worker.connection)
        self._selector.unregister(worker.exited)
        if not worker.has_exited(GOODBYE_S):  # it closed its connection and lives on: nobody needs it
            worker.kill()
        status, size = worker.reap()
        self._workers[index] = None
        for call, shared in worker.calls:
            self._shared.release(shared)
            found.append(Outcome(call.ticket, calls.RETURNED, worker=worker.name))
        if worker.calls and (worker.ending is None or worker.ending[0] == worker.calls[0][0].ticket):
            call = worker.calls[0][0]
            log = self._rescued(worker, call)
            found[-len(worker.calls)] = self._charge(worker, call, status, size, log)
        elif not worker.calls and os.path.exists(worker.scratch):
            os.unlink(worker.scratch)

    def _charge(self, worker: Process, call: Call, status: int, size: int, log: str) -> Outcome:
        seconds = time.monotonic() - worker.begun_at
        why = worker.ending[1] if worker.ending is not None else None
        if why == calls.TIMEOUT:
            error: BaseException = failure.timed_out(call.path, call.timeout_s or 0.0, log)
            return Outcome(call.ticket, calls.TIMEOUT, None, seconds, error=error, log=log, worker=worker.name)
        kills, self._oom_kills = self._oom_kills, _oom_kills()
        error = why or failure.lost(call.path, status, size, log, self._oom_kills > kills and os.WIFSIGNALED(status))
        return Outcome(call.ticket, calls.LOST, None, seconds, error=error, log=log, worker=worker.name)

    def _rescued(self, worker: Process, call: Call) -> str:
        """Give what a lost member printed its name."""
        try:
            if os.path.getsize(worker.scratch) == 0:
                return ""
            final = os.path.join(self._opening.run_dir, "members", f"{member_name(call.path, call.attempt)}.log")
            os.rename(worker.scratch, final)
        except OSError:
            return ""
        return final

    def _push(self, index: int, worker: Process) -> None:
        left = worker.push()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0)
        if self._selector.get_key(worker.connection).events != events:
            self._selector.modify(worker.connection, events, (index, worker))

    def wake(self) -> None:
        try:
            self._wake_in.send(b"w")
        except OSError:  # full: it will wake anyway; closed: nobody waits
            return

    def _drain_wakes(self) -> None:
        try:
            self._wake_out.recv(4096)
        except BlockingIOError:
            return

    def stop(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker is not None and worker.calls:
                self._selector.unregister(worker.connection)
                self._selector.unregister(worker.exited)
                worker.kill()
                worker.reap()
                self._workers[index] = None

    def close(self) -> None:
        there = [worker for worker in self._workers if worker is not None]
        self._workers = []
        for worker in there:
            worker.hang_up()
        deadline = time.monotonic() + GOODBYE_S
        for worker in there:
            worker.has_exited(deadline - time.monotonic())
            worker.reap()
            if os.path.exists(worker.scratch) and os.path.getsize(worker.scratch) == 0:
                os.unlink(worker.scratch)
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
        self._shared.close()
        if self._keeper is not None:
            self._keeper.wait()
            self._keeper = None
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()


def _held(worker: Process | None) -> int:
    return 0 if worker is None else len(worker.calls)


def _shares(gpus: int, workers: int) -> list[list[str]]:
    names = machine.gpus()
    return [names[i * gpus : (i + 1) * gpus] for i in range(workers)]


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for memory so far."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
