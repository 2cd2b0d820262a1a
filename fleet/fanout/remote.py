"""What a worker of somebody else's engine runs for us: one call, everything in the message, since it may be another machine."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from fleet.fanout import call as calls
from fleet.fanout import chain, seeds
from fleet.fanout.current import as_member
from fleet.fanout.parcel import Packed, pack, unpack

PROGRAMS = 16  # unpickled levels that a worker keeps: several runs may share it
_programs: OrderedDict[tuple[str, int], chain.Level] = OrderedDict()

Answer = tuple[str, bytes, float, "tuple[bytes, str, str, str] | None"]  # state, value, seconds, failure


def run(name: str, level: int, program: bytes, body: bytes, about: tuple[Any, ...]) -> Answer:
    """Run a call. ``name``: of the run; ``about``: path, attempt, seed, cpus, and whether this process runs nothing beside it."""
    path, attempt, seed, cpus, alone = about
    begin = time.perf_counter()
    state, value, failure = calls.OK, b"", None
    if seed is not None and alone:
        seeds.sow(seed)
    with as_member(path, attempt, seed, cpus):
        try:
            found = chain.run(_program(name, level, program), unpack(Packed(body)))
            if found is chain.DROPPED:
                state = calls.DROPPED
            else:
                value = _packed(found, _programs[name, level].spreads, path)
        except BaseException as error:  # noqa: BLE001  whatever a member raises is sent to the driver
            state, failure = calls.ERROR, calls.packed_failure(error)
    return state, value, time.perf_counter() - begin, failure


def _program(name: str, number: int, body: bytes) -> chain.Level:
    if (name, number) not in _programs:
        level = unpack(Packed(body))
        assert isinstance(level, chain.Level)
        _programs[name, number] = level
        if len(_programs) > PROGRAMS:
            _programs.popitem(last=False)
    return _programs[name, number]


def _packed(value: Any, spreads: bool, path: tuple[int, ...]) -> bytes:
    if spreads:
        value = [pack(item) for item in value]
    try:
        return pack(value).body
    except Exception as error:
        from fleet.fanout.blame import not_picklable
        from fleet.fanout.failure import member_text

        raise not_picklable(value, error, what="its result", at=member_text(path)) from error
