"""The directory in which a job's checkpoints lie: which is the newest, how one gets its name, which ones may go.

    DIR/step-00000120/      complete: it was renamed to this name once everything in it was on disk
    DIR/.tmp-... .old-...   of a save that did not end; removed by the next one

One trainer works here; the others are told.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from typing import Any

from fleet import disk, logger
from fleet.errors import SnapshotError

FORMAT = "fleet checkpoint 1"
TABLES_MANIFEST = os.path.join("tables", "manifest.json")
_NAME = re.compile(r"step-(\d{8,})$")


class Shelf:
    """Checkpoints by step.

    Args:
        directory: made by the first save.
        keep: newest checkpoints that stay.
        bases: of the tables' snapshot in a directory, the snapshots that it needs, itself included.
    """

    def __init__(self, directory: str, keep: int, bases: Callable[[str], Iterable[str]]) -> None:
        self.directory, self._keep, self._bases = directory, keep, bases

    def newest(self) -> str | None:
        """Return the path of the newest complete checkpoint; mend what a kill left between two renames."""
        if not os.path.isdir(self.directory):
            return None
        for name in [n for n in os.listdir(self.directory) if n.startswith(".old-step-")]:
            replaced, target = os.path.join(self.directory, name), os.path.join(self.directory, name[len(".old-") :])
            if os.path.exists(target):
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                os.rename(replaced, target)
        names = self._names()
        return os.path.join(self.directory, names[-1]) if names else None

    def path(self, step: int) -> str:
        """Return where the checkpoint of a step lies once it is complete."""
        return os.path.join(self.directory, f"step-{step:08d}")

    def temporary(self, step: int) -> str:
        """Return where it is written."""
        return os.path.join(self.directory, f".tmp-step-{step:08d}")

    def make_room(self, step: int) -> None:
        """Remove what saves that did not end have left, and make the directory to write to."""
        os.makedirs(self.directory, exist_ok=True)
        for name in os.listdir(self.directory):
            if name.startswith(".tmp-step-"):
                shutil.rmtree(os.path.join(self.directory, name))
        os.mkdir(self.temporary(step))

    def publish(self, step: int, facts: dict[str, Any]) -> None:
        """Write the manifest of what lies in :meth:`temporary`, and give it its name."""
        temporary, target = self.temporary(step), self.path(step)
        names = [n for n in os.listdir(temporary) if n != "tables"]
        has_tables = len(names) < len(os.listdir(temporary))
        if has_tables:
            names.append(TABLES_MANIFEST)  # it names the checksums of the tables' files
        manifest = {"format": FORMAT, **facts, "step": step, "tables": has_tables}
        manifest["files"] = {name: disk.checksum(os.path.join(temporary, name)) for name in sorted(names)}
        manifest["checksum"] = disk.json_checksum(manifest)
        disk.write_bytes(os.path.join(temporary, "manifest.json"), json.dumps(manifest, indent=1).encode())
        disk.sync_directory(temporary)
        replaced = os.path.join(self.directory, f".old-{os.path.basename(target)}")
        if os.path.isdir(target):  # saved twice at the same step; a kill between the two renames is mended by newest()
            os.rename(target, replaced)
        os.rename(temporary, target)
        disk.sync_directory(self.directory)
        shutil.rmtree(replaced, ignore_errors=True)

    def prune(self) -> None:
        """Remove all but the newest checkpoints and those whose tables the newest continue."""
        names = self._names()
        needed = {os.path.join(self.directory, name) for name in names[-self._keep :]}
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
                os.rename(os.path.join(self.directory, name), going)
                shutil.rmtree(going, ignore_errors=True)

    def _names(self) -> list[str]:
        names = [n for n in os.listdir(self.directory) if _NAME.match(n)]
        return sorted(names, key=lambda n: int(n.removeprefix("step-")))


def read(path: str) -> dict[str, Any]:
    """Return a checkpoint's manifest once every file has the size and checksum that it names.

    Raises:
        SnapshotError: one has not, or the manifest is missing, damaged or of another format.
    """
    fix = f"remove {path} to resume at the checkpoint before it"
    try:
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
        if manifest["format"] != FORMAT:
            raise SnapshotError(f"not a {FORMAT!r}: {manifest['format']!r}", at=path, fix=fix)
        if manifest["checksum"] != disk.json_checksum({k: v for k, v in manifest.items() if k != "checksum"}):
            raise SnapshotError("manifest.json is damaged: its checksum is wrong", at=os.path.join(path, "manifest.json"), fix=fix)
        for name, expected in manifest["files"].items():
            if disk.checksum(os.path.join(path, name)) != expected:
                raise SnapshotError(f"{name} is damaged: its size or checksum is wrong", at=os.path.join(path, name), fix=fix)
    except (OSError, ValueError, KeyError, TypeError) as error:
        at = str(getattr(error, "filename", None) or os.path.join(path, "manifest.json"))
        raise SnapshotError(f"the checkpoint cannot be read: {error!r}", at=at, fix=fix) from None
    return manifest
