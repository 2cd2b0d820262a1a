"""The async backend: coroutine members by the thousand on one event loop; for HTTP requests and other waiting."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from queue import SimpleQueue
from typing import Any

from fleet.errors import ConfigError
from fleet.fanout import call as calls
from fleet.fanout import chain, failure
from fleet.fanout.backends import arrivals
from fleet.fanout.backends.protocol import TIMEOUT, Opening
from fleet.fanout.call import Call, Outcome
from fleet.fanout.current import as_member

MOST = 1000  # at once, unless workers= says otherwise: most servers and sockets' limits end there


class Async:
    """One thread with one event loop. A timeout cancels the member at its next ``await``."""

    name = "async"
    claims = frozenset({TIMEOUT})

    def __init__(self) -> None:
        self._outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self._unsent: list[Call] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # touched by the loop's thread alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None  # joined by close

    def open(self, opening: Opening) -> None:
        functions = [function for level in opening.levels for function in level.functions()]
        if not any(map(_is_coroutine_function, functions)):
            what = f"no function of the chain is a coroutine function: {', '.join(map(chain.name_of, functions)) or 'it is empty'}"
            raise ConfigError(what, at='backend="async"', fix='async def, or backend="thread"')
        self._levels, self._cpus = opening.levels, opening.cpus
        self._most = opening.workers or MOST
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet-members", daemon=True)
        self._thread.start()

    def room(self) -> int:
        return self._most - self._running

    def start(self, call: Call) -> None:
        self._running += 1
        self._unsent.append(call)

    def _begin(self, fresh: list[Call]) -> None:
        for call in fresh:
            task = asyncio.get_running_loop().create_task(self._run(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, call: Call) -> None:
        begin = time.perf_counter()
        state, value, trace = calls.OK, None, ""
        error: BaseException | None = None
        try:
            with as_member(call.path, call.attempt, call.seed, self._cpus):
                work = asyncio.ensure_future(chain.run_async(self._levels[call.level], calls.unpacked(call.item)))
            done, _ = await asyncio.wait({work}, timeout=call.timeout_s)
            if done:
                value = work.result()
                state = calls.DROPPED if value is chain.DROPPED else calls.OK
            else:
                work.cancel()
                state, error = calls.TIMEOUT, failure.timed_out(call.path, call.timeout_s or 0.0, "")
        except BaseException as raised:  # noqa: BLE001  whatever the member raises belongs to the member
            state, error, trace = calls.ERROR, raised, calls.trace_of(raised, raised.__traceback__)
        seconds = time.perf_counter() - begin
        self._outcomes.put(Outcome(call.ticket, state, value, seconds, error=error, trace=trace, worker="event loop"))

    def wait(self, timeout_s: float | None) -> list[Outcome]:
        if self._unsent:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._begin, self._unsent)
            self._unsent = []
        found = arrivals.take(self._outcomes, timeout_s)
        self._running -= len(found)
        return found

    def wake(self) -> None:
        self._outcomes.put(None)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in list(asyncio.all_tasks()):
            task.cancel()

    def close(self) -> None:
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_settled(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None


async def _settled() -> None:
    """Let cancelled members finish their clean-up, and asynchronous generators theirs."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=2)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _is_coroutine_function(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
