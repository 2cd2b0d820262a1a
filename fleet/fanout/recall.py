"""What earlier runs in this directory finished, and what this one adds to it.

A member's key says what it was: its functions and all they depend on (`stable_hash`), its item, its seed, the user's ``version``.
With ``cache="run"`` a member whose key is in the journal is not run; one whose path was finished under another key is, and why is
said once per reason.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any

from fleet import logger
from fleet.errors import ConfigError
from fleet.fanout import call as calls
from fleet.fanout import failure, stable_hash
from fleet.fanout.blame import not_picklable
from fleet.fanout.call import Outcome, member_name
from fleet.fanout.chain import Level, name_of
from fleet.fanout.journal import Entry, Journal
from fleet.fanout.options import Options
from fleet.fanout.parcel import Packed, pack, unpack, write_file
from fleet.fanout.run_directory import RunDirectory


class Recall:
    """The journal of a directory that stays, and the keys; of a temporary directory neither is needed."""

    def __init__(self, directory: RunDirectory, levels: tuple[Level, ...], options: Options) -> None:
        self.directory, self.levels, self.cache = directory, levels, options.cache
        self.journal: Journal | None = None
        self._said: set[str] = set()
        if directory.temporary:
            return
        self.journal = Journal(directory.file("journal"))
        self._programs = [_program(level, options.version) for level in levels]
        before = directory.read_description().get("programs", {})
        self._before: dict[str, Any] = before if isinstance(before, dict) else {}
        known = self._before | {digest: parts for digest, parts in self._programs}
        shown = {name: value for name, value in options._asdict().items() if name not in ("backend", "cluster", "retry_on")}
        directory.describe({"name": options.name, "backend": str(options.backend), "options": shown, "programs": known})

    def key(self, level: int, item: Any, seed: int | None, path: tuple[int, ...]) -> str:
        """Return the key of a member, "" if nothing is kept.

        Raises:
            ConfigError: the item holds something without stable content.
        """
        if self.journal is None:
            return ""
        try:
            return self.key_of(level, stable_hash.text_of(item), seed)
        except ConfigError as error:
            where = failure.member_text(path)
            what = f"the item of {where} has no key: {error.what}"
            raise ConfigError(what, at=where, fix="leave run_dir= out, or " + error.fix) from error

    def key_of(self, level: int, item: str, seed: int | None) -> str:
        """Return the key for an item's hash."""
        return f"{self._programs[level][0]}-{item}-{'' if seed is None else seed}"

    def find(self, key: str) -> Entry | None:
        """Return the finished record of a key, if this run is to use it."""
        if self.journal is None or self.cache == "off":
            return None
        entry = self.journal.find(key)
        if entry is not None and any(not os.path.exists(self.directory.file(name)) for name, _, _ in entry.places):
            self._say(f"the file of a large result is gone (first: member {entry.path})")
            return None
        return entry

    def value(self, entry: Entry) -> Any:
        """Return a value of the journal; a large one stays in its file until it is asked for."""
        assert self.journal is not None
        packed = self.journal.value(entry)
        return packed if packed.places or not packed.body else unpack(packed)

    def explain(self, key: str, path: tuple[int, ...], level: int) -> None:
        """Say why a member that was finished before runs again."""
        if self.journal is None or self.cache == "off":
            return
        text = ".".join(map(str, path))
        said = [self._why(old.split("-"), key.split("-"), level) for old in reversed(self.journal.keys(text, level))]
        if said:
            self._say(f"{min(said)[1]} (first: member {text})")

    def _why(self, old: list[str], new: list[str], level: int) -> tuple[int, str]:
        """Return how much differs between two keys, and the first difference."""
        far = 5 * (old[1] != new[1]) + (old[2] != new[2])
        if old[0] != new[0]:
            before, now = self._before.get(old[0], {}), dict(self._programs)[new[0]]
            parts = sum(before.get(label, {}).get(name) != part for label, parts in now.items() for name, part in parts.items())
            return far + 10 * max(1, parts), _program_difference(before, now)
        if old[1] != new[1]:
            return far, "its item changed" if level == 0 else "its outer member changed"
        return far, "its seed changed" if far else "it had failed"

    def _say(self, why: str) -> None:
        reason = why.partition(" (first")[0]
        if reason not in self._said:
            self._said.add(reason)
            logger.info(f"fan-out: members run again: {why}")

    def note(self, key: str, path: tuple[int, ...], level: int, outcome: Outcome, attempts: int) -> Outcome:
        """Add a finished member to the journal; return its outcome with the value as an object (a large one: Packed).

        A value that cannot be kept or read makes the outcome a failure: what is shown as finished must be there tomorrow.
        """
        value, packed = outcome.value, None
        if outcome.state == calls.OK:
            try:
                if type(value) is Packed:
                    packed = value
                    value = value if value.places else unpack(value)
                elif self.journal is not None:
                    packed = self._packed(value, path, level, attempts)
            except Exception as error:  # noqa: BLE001  pickling and unpickling run the user's code
                outcome = _unkept(outcome, path, error)
                value = packed = None
        outcome.value = value
        if self.journal is not None:
            text = f"{type(outcome.error).__name__}: {outcome.error}" if outcome.error is not None else ""
            name = ".".join(map(str, path))
            self.journal.add(key, name, level, outcome.state, outcome.seconds, attempts, packed, text)
        return outcome

    def _packed(self, value: Any, path: tuple[int, ...], level: int, attempts: int) -> Packed:
        """Pickle a value of this process for the journal; a large one goes to the file a worker would have made."""
        where = self.directory.file("results", f"{member_name(path, attempts)}.level{level}")
        if self.levels[level].spreads:
            value = [pack(item) for item in value]
        return pack(value, lambda buffers: write_file(where, buffers))

    def flush(self) -> None:
        """Write the journal's new records in one piece."""
        if self.journal is not None:
            self.journal.flush()

    def close(self) -> None:
        """Make the journal durable."""
        if self.journal is not None:
            self.journal.close()


def _unkept(outcome: Outcome, path: tuple[int, ...], error: Exception) -> Outcome:
    where = failure.member_text(path)
    if type(outcome.value) is Packed:
        wrong: BaseException = ConfigError(
            f"the result of {where} cannot be read in the driver: {type(error).__name__}: {error}",
            at=where,
            fix="return plain data, or types whose modules the driver can import",
        )
    elif isinstance(error, OSError):
        wrong = error
    else:
        wrong = not_picklable(outcome.value, error, what="its result (which run_dir= keeps)", at=where)
    return Outcome(outcome.ticket, calls.ERROR, None, outcome.seconds, error=wrong, log=outcome.log, worker=outcome.worker)


def _program(level: Level, version: str) -> tuple[str, dict[str, Any]]:
    """Return the hash of a level and what went into it, by function."""
    shape = " ".join(stage.kind for stage in level.stages) + f", batches of {level.batch}"
    parts: dict[str, Any] = {"": {"shape": shape, "version": repr(version)}}
    for number, function in enumerate(level.functions()):
        parts[f"{number} {name_of(function)}"] = stable_hash.parts_of(function)
    if level.spreads and not callable(level.inner):
        parts[""]["elements of the inner spread"] = "#" + stable_hash.text_of(level.inner)
    return blake2b(repr(parts).encode(), digest_size=12).hexdigest(), parts


def _program_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    for label, parts in new.items():
        if old.get(label) != parts:
            name = label.partition(" ")[2] or "the chain"
            return stable_hash.difference(name, old.get(label) or {}, parts) if label in old else f"`{name}` is new"
    return "a function was removed"
