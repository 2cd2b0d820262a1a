"""What a run leaves in its directory so that a process that is started again finds its place.

    DIR/recovery.json        by trainer 0: how a loss is answered, and the newest complete checkpoint
    DIR/trainer-1.position   by each trainer, at every step: how many steps it took, and where its data stand
    DIR/server-0.losses      by a server that carried on: what was lost
    DIR/failing              by the launcher, before TERM, where a run is ended or begun again because a process was lost

Nothing is written unless the launcher restarts (``--server_restarts``, ``--trainer_restarts``). Launcher, servers and trainers
read it; so the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import zlib
from typing import Any, NamedTuple

from fleet import env

PLAN = "recovery.json"
_FAILING = "failing"
_MAGIC = b"FLTPOS1\0"
_HEAD = struct.Struct("<8sQB")  # magic, steps taken in this run, whether the place is behind
_TAKEN_AT, _BUSY_AT, _INCARNATION_AT = 8, 16, 24
_SLOT = struct.Struct("<QII")  # number, bytes, crc32; then JSON
_SLOT_AT, _SLOT_BYTES = 64, 8128
_FILE_BYTES = _SLOT_AT + 2 * _SLOT_BYTES


class Plan(NamedTuple):
    """How a loss is answered. The script's strategy decides it, so trainer 0 writes it."""

    on_server_loss: str = "rollback"  # or "carry_on"
    trainers_alone: bool = False  # a trainer's past is on the servers: it can be started again without the others
    checkpoint: str = ""  # directory of the newest complete one
    uploaded: bool = True  # tables began with uploaded rows: without a checkpoint nobody has these any more


class Place(NamedTuple):
    """What a trainer's position file says."""

    taken: int  # steps in this run, those of its earlier lives included
    busy: bool  # it began a call of all trainers since: the others may be past it
    data: dict[str, Any] | None  # where its data stood; None before anything was noted


class Recovery:
    """One trainer's part of it.

    Args:
        directory: of the run.
        rank: this trainer's.
        rejoins: this trainer alone was started again; the others go on.
    """

    def __init__(self, directory: str, rank: int, rejoins: bool) -> None:
        import mmap

        self._directory, self._rank = directory, rank
        self.rejoins = rejoins
        path = position_path(directory, rank)
        self.place = read_position(path)  # as its earlier life left it
        self._taken, self._number = self.place.taken, 0
        self._plan = read_plan(directory)
        self._guard = threading.Lock()  # guards _plan and its file: a checkpoint is published by a thread of its own
        with open(path, "a+b") as file:
            file.truncate(_FILE_BYTES)
            self._map = mmap.mmap(file.fileno(), _FILE_BYTES)  # outlives a kill: the pages belong to the kernel
        self._map[_SLOT_AT:] = bytes(_FILE_BYTES - _SLOT_AT)
        _HEAD.pack_into(self._map, 0, _MAGIC, self._taken, 0)
        if rejoins and self.place.data is not None:
            self.note(self.place.data)  # a life that dies before its first step leaves what it found

    def plan(self, **changes: Any) -> None:
        """Change what the launcher and the servers find; trainer 0 speaks for all."""
        import json

        if self._rank != 0:
            return
        with self._guard:
            self._plan = self._plan._replace(**changes)
            path = os.path.join(self._directory, PLAN)
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                json.dump(self._plan._asdict(), file)
            os.replace(path + ".tmp", path)

    def stepped(self) -> None:
        """Count a step: a life that took none has made no progress."""
        self._taken += 1
        struct.pack_into("<Q", self._map, _TAKEN_AT, self._taken)

    @property
    def checkpoint(self) -> str:
        """Return the newest complete checkpoint, as it was known when this life began or was told since; "" if there is none."""
        return self._plan.checkpoint

    def incarnation(self) -> int:
        """Return a number for this life, larger than that of every earlier one, whatever the clock says."""
        mine = max(time.time_ns(), 1 + int(struct.unpack_from("<Q", self._map, _INCARNATION_AT)[0]))
        struct.pack_into("<Q", self._map, _INCARNATION_AT, mine)
        return mine

    def shared_call(self) -> None:
        """Note that a call of all trainers begins: until the next :meth:`note` the last one is behind what the others know."""
        self._map[_BUSY_AT] = 1

    def note(self, data: dict[str, Any]) -> None:
        """Note where the data stand, in the older of two slots: a kill in the middle leaves the other.

        A note that is too large, or no JSON, is none: then this trainer cannot be started again alone.
        """
        import json

        try:
            text = json.dumps(data).encode()
        except TypeError:  # a state of the user's own
            text = bytes(_SLOT_BYTES)
        if len(text) > _SLOT_BYTES - _SLOT.size:
            self._map[_BUSY_AT] = 1
            return
        self._number += 1
        at = _SLOT_AT + self._number % 2 * _SLOT_BYTES
        self._map[at + _SLOT.size : at + _SLOT.size + len(text)] = text
        _SLOT.pack_into(self._map, at, self._number, len(text), zlib.crc32(text))
        self._map[_BUSY_AT] = 0


def of(directory: str, rank: int) -> Recovery | None:
    """Return this trainer's Recovery, or None if nobody would start it again."""
    if not directory or not (restarts("server") or restarts("trainer")):
        return None
    return Recovery(directory, rank, env.get("FLEET_REJOIN") == "1")


def restarts(role: str) -> int:
    """Return how many losses of a role's processes the launcher answers."""
    return int(env.get(f"FLEET_{role.upper()}_RESTARTS", "0"))


def position_path(directory: str, rank: int) -> str:
    """Return a trainer's position file."""
    return os.path.join(directory, f"trainer-{rank}.position")


def read_position(path: str) -> Place:
    """Read a position file; one that is missing or torn says nothing."""
    import json  # not at the top: a launcher that has nothing to read does not pay for it

    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError:
        raw = b""
    if len(raw) != _FILE_BYTES or not raw.startswith(_MAGIC):
        return Place(0, False, None)
    _, taken, busy = _HEAD.unpack_from(raw)
    found: list[tuple[int, dict[str, Any]]] = []
    for at in (_SLOT_AT, _SLOT_AT + _SLOT_BYTES):
        number, size, crc = _SLOT.unpack_from(raw, at)
        text = raw[at + _SLOT.size : at + _SLOT.size + size]
        if number and zlib.crc32(text) == crc:
            with contextlib.suppress(ValueError):
                found.append((number, json.loads(text)))
    return Place(taken, bool(busy), max(found, key=lambda f: f[0])[1] if found else None)


def read_incarnation(directory: str, rank: int) -> int:
    """Return the number of a trainer's newest life in this run; 0 if it has none yet."""
    with contextlib.suppress(OSError), open(position_path(directory, rank), "rb") as file:
        raw = file.read(_SLOT_AT)
        if len(raw) == _SLOT_AT and raw.startswith(_MAGIC):
            return int(struct.unpack_from("<Q", raw, _INCARNATION_AT)[0])
    return 0


def read_plan(directory: str) -> Plan:
    """Read the plan; before trainer 0 has written one, everything begins again together."""
    import json

    with contextlib.suppress(OSError, ValueError, TypeError):
        with open(os.path.join(directory, PLAN), encoding="utf-8") as file:
            return Plan(**json.load(file))
    return Plan()


def note_failing(directory: str, failing: bool) -> None:
    """Let the trainers know, before they get TERM, that the run is ended because it failed: there is nothing to save."""
    path = os.path.join(directory, _FAILING)
    with contextlib.suppress(OSError):
        if failing:
            with open(path, "wb"):
                pass
        else:
            os.unlink(path)


def is_failing(directory: str) -> bool:
    """Return whether the run is being ended because it failed."""
    return bool(directory) and os.path.exists(os.path.join(directory, _FAILING))


def note_loss(directory: str, server: int, line: str) -> None:
    """Keep what a server lost by carrying on, for the report at the end."""
    with open(_losses_path(directory, server), "a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_losses(directory: str, server: int) -> list[str]:
    """Return what a server lost each time it carried on."""
    with contextlib.suppress(OSError), open(_losses_path(directory, server), encoding="utf-8") as file:
        return file.read().splitlines()
    return []


def _losses_path(directory: str, server: int) -> str:
    return os.path.join(directory, f"server-{server}.losses")
