"""The directory in which a job's checkpoints lie: which there are, how one gets its name, which ones may go.

    DIR/step-00000120/      complete: it was renamed to this name once everything in it was on disk
    DIR/damaged-step-...    could not be read when a job resumed at an older one; nothing of fleet looks at it again
    DIR/.tmp-... .old-...   of a save that did not end; removed by the next one

One trainer works here; the others are told.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from fleet import disk, logger
from fleet.errors import SnapshotError

FORMAT, VERSION = "fleet checkpoint", 2
TABLES_MANIFEST = os.path.join("tables", "manifest.json")
MODES = ("min", "max")
_NAME = re.compile(r"step-(\d{8,})$")


class Damaged(SnapshotError):
    """Something in a checkpoint is not what was written: an older one may still be whole."""


class Shelf:
    """Checkpoints by step.

    Args:
        directory: made by the first save.
        keep: newest checkpoints that stay.
        bases: of the tables' snapshot in a directory, the snapshots that it needs, itself included.
        best: "min" or "max": the checkpoint with the lowest or highest score stays too.
    """

    def __init__(self, directory: str, keep: int, bases: Callable[[str], Iterable[str]], best: str | None = None) -> None:
        self.directory, self._keep, self._bases, self._best = directory, keep, bases, best
        self.damaged: list[str] = []  # paths that were found damaged; set aside by the next save

    def complete(self) -> list[str]:
        """Return the paths of all complete checkpoints, the newest first; mend what a kill left between two renames."""
        if not os.path.isdir(self.directory):
            return []
        for name in [n for n in os.listdir(self.directory) if n.startswith(".old-step-")]:
            replaced, target = os.path.join(self.directory, name), os.path.join(self.directory, name[len(".old-") :])
            if os.path.exists(target):
                disk.remove_tree(replaced)
            else:
                disk.rename(replaced, target)
        return [os.path.join(self.directory, name) for name in reversed(self._names())]

    def newest(self) -> str | None:
        """Return the path of the newest complete checkpoint."""
        return next(iter(self.complete()), None)

    def best(self) -> str | None:
        """Return the path of the checkpoint with the best score; None if none has one."""
        if self._best is None:
            return None
        sign = 1 if self._best == "min" else -1
        scores = [(sign * score, path) for path in self.complete() if (score := _score(path)) is not None]
        return min(scores, key=lambda one: one[0])[1] if scores else None  # of equal ones the newest

    def path(self, step: int) -> str:
        """Return where the checkpoint of a step lies once it is complete."""
        return os.path.join(self.directory, f"step-{step:08d}")

    def temporary(self, step: int) -> str:
        """Return where it is written."""
        return os.path.join(self.directory, f".tmp-step-{step:08d}")

    def make_room(self, step: int) -> None:
        """Remove what saves that did not end have left, set aside what is damaged, and make the directory to write to."""
        disk.make_directories(self.directory)
        for path in self.damaged:
            aside = os.path.join(self.directory, f"damaged-{os.path.basename(path)}")
            disk.remove_tree(aside)
            if os.path.isdir(path):
                disk.rename(path, aside)
        self.damaged.clear()
        for name in os.listdir(self.directory):
            if name.startswith(".tmp-step-"):
                disk.remove_tree(os.path.join(self.directory, name))
        disk.make_directory(self.temporary(step))

    def give_up(self, step: int) -> None:
        """Remove what was written of a save that failed."""
        disk.remove_tree(self.temporary(step))

    def publish(self, step: int, facts: dict[str, Any], files: dict[str, disk.Checksum]) -> None:
        """Write the manifest of the files in :meth:`temporary`, and give the checkpoint its name."""
        temporary, target = self.temporary(step), self.path(step)
        has_tables = os.path.exists(os.path.join(temporary, TABLES_MANIFEST))
        if has_tables:  # it names the checksums of the tables' files
            files = {**files, TABLES_MANIFEST: disk.checksum(os.path.join(temporary, TABLES_MANIFEST))}
        manifest = {"format": f"{FORMAT} {VERSION}", **facts, "step": step, "tables": has_tables}
        manifest["files"] = {name: files[name] for name in sorted(files)}
        manifest["checksum"] = disk.json_checksum(manifest)
        disk.write_bytes(os.path.join(temporary, "manifest.json"), json.dumps(manifest, indent=1).encode())
        disk.sync_directory(temporary)
        replaced = os.path.join(self.directory, f".old-{os.path.basename(target)}")
        if os.path.isdir(target):  # saved twice at the same step; a kill between the two renames is mended by complete()
            disk.rename(target, replaced)
        disk.rename(temporary, target)
        disk.sync_directory(self.directory)
        disk.remove_tree(replaced)

    def prune(self) -> None:
        """Remove all but the newest checkpoints, the best one, and those whose tables these continue."""
        names = self._names()
        needed = {os.path.join(self.directory, name) for name in names[-self._keep :]}
        if (best := self.best()) is not None:
            needed.add(best)
        for path in list(needed):
            if os.path.exists(os.path.join(path, TABLES_MANIFEST)):
                try:
                    needed.update(os.path.dirname(base) for base in self._bases(os.path.join(path, "tables")))
                except SnapshotError as error:  # what it needs is not known, so nothing may go
                    logger.warning(f"no old checkpoint is removed: {error}")
                    return
        for name in reversed(names):  # a delta before what it continues: what is there loads, also if this is where a kill comes
            if os.path.join(self.directory, name) not in needed:
                # Under another name first: a kill in the middle must not leave half a checkpoint that looks whole.
                going = os.path.join(self.directory, f".tmp-{name}")
                disk.rename(os.path.join(self.directory, name), going)
                disk.remove_tree(going)

    def _names(self) -> list[str]:
        names = [n for n in os.listdir(self.directory) if _NAME.match(n)]
        return sorted(names, key=lambda n: int(n.removeprefix("step-")))


def read(path: str) -> dict[str, Any]:
    """Return a checkpoint's manifest once every file has the size and checksum that it names.

    Raises:
        Damaged: one has not, or the manifest is missing or damaged.
        SnapshotError: it was written by a newer version of fleet.
    """
    manifest = read_manifest(path)
    verify(path, manifest)
    return manifest


def read_manifest(path: str) -> dict[str, Any]:
    """Return a checkpoint's manifest; as :func:`read`, but for the files."""
    at = os.path.join(path, "manifest.json")
    try:
        with open(at, encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
        whole = manifest["checksum"] == disk.json_checksum({k: v for k, v in manifest.items() if k != "checksum"})
        version = str(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"the checkpoint cannot be read: {error!r}", at=at, fix=_fix(path)) from None
    if not whole:
        raise Damaged("manifest.json is damaged: its checksum is wrong", at=at, fix=_fix(path))
    _check_version(version, path)
    return manifest


def verify(path: str, manifest: dict[str, Any], share: int = 0, shares: int = 1) -> None:
    """Check the files of a checkpoint, or every ``shares``-th of them.

    Raises:
        Damaged: one is missing, or is not what was written.
    """
    for name, expected in list(manifest["files"].items())[share::shares]:
        at = os.path.join(path, name)
        try:
            found = disk.checksum(at)
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}", at=at, fix=_fix(path)) from None
        if found != expected:
            raise Damaged(f"{name} is damaged: its size or checksum is wrong", at=at, fix=_fix(path))


def _fix(path: str) -> str:
    return f"resume at an older checkpoint, or remove {path} to start anew"


def _check_version(found: str, path: str) -> None:
    name, _, version = found.rpartition(" ")
    if name != FORMAT or not version.isdigit():
        raise Damaged(f"not a {FORMAT!r}: {found!r}", at=path, fix="give the directory of a Checkpointer")
    if int(version) > VERSION:
        what = f"the checkpoint has format {version}, this version of fleet reads up to {VERSION}"
        raise SnapshotError(what, at=path, fix="resume with the version of fleet that wrote it, or a newer one")


def _score(path: str) -> float | None:
    """Return the score in a checkpoint's manifest; None if it has none, is not a number, or cannot be read."""
    try:
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as file:
            score = json.load(file).get("score")
    except (OSError, ValueError, AttributeError):
        return None
    return float(score) if isinstance(score, (int, float)) and not math.isnan(score) else None
