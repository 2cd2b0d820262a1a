"""Checkpoints of a whole job, and plain files of weights: atomic, checksummed, resumable to the batch.

    DIR/step-00000120/      complete: it was renamed to this name once everything in it was on disk
        manifest.json       step, epoch, trainers, and the checksum of every file below
        model.pdparams optimizer.pdopt     Paddle's own form
        loader.json trainer-0.rng ...      position of the loader; random generators of each trainer
        tables/             snapshot of the tables (docs/snapshot.md), in parameter-server mode
    DIR/.tmp-... .old-...   of a save that did not end; removed by the next one

All trainers call every function here. A call by some ends with an error naming the missing ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from fleet import logger, paddle_wheel
from fleet.errors import ConfigError, FleetError, SnapshotError
from fleet.runtime import Runtime, current

FORMAT = "fleet checkpoint 1"
_NAME = re.compile(r"step-(\d{8,})$")
WRITE_S = 3600.0  # how long trainers wait for one that writes: a disk's time, not a network's


class Checkpointer:
    """Save and resume model, optimizer, tables, loader position, scheduler and random generators.

    Args:
        directory: on a file system that all trainers and servers see.
        model, optimizer, loader: what fleet.distributed_* returned.
        every_steps: save after every so many steps, beside the end of each epoch: when the loop comes back to the loader,
            so that what the loop's body does after ``optimizer.step()`` is done; without a loader at the end of the step.
        keep: newest checkpoints that stay.

    Raises:
        ConfigError: an argument makes no sense, or the directory is a file.

    Example:
        >>> ckpt = fleet.Checkpointer("ckpt", model=model, optimizer=optimizer, loader=loader, every_steps=1000)
        >>> for epoch in ckpt.epochs(10):
        ...     for x, y in loader:
        ...         ...
    """

    def __init__(
        self, directory: str, *, model: Any, optimizer: Any, loader: Any = None, every_steps: int | None = None, keep: int = 2
    ) -> None:
        at = "fleet.Checkpointer()"
        self._runtime = current(at)
        paddle_wheel.load(at)
        if every_steps is not None and (isinstance(every_steps, bool) or not isinstance(every_steps, int) or every_steps < 1):
            raise ConfigError(
                f"every_steps must be an int >= 1, got {every_steps!r}", at=at, fix="None saves at the end of epochs only"
            )
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ConfigError(f"keep must be an int >= 1, got {keep!r}", at=at, fix="the default keeps 2")
        if loader is not None and not hasattr(loader, "state"):
            fix = "give what fleet.distributed_loader returned"
            raise ConfigError(f"a {type(loader).__name__} does not know its position", at=at, fix=fix)
        if os.path.exists(directory) and not os.path.isdir(directory):
            raise ConfigError(f"{directory} is a file", at=at, fix="give a directory, or remove the file")
        self.directory = os.path.abspath(directory)
        self._model, self._optimizer, self._loader = model, optimizer, loader
        self._every_steps, self._keep = every_steps, keep
        self.step, self.epoch = 0, 0
        self._restored, self._due = False, False
        if loader is not None:
            loader.after_batch = self._after_batch
        self._runtime.after_step.append(self._after_step)

    def epochs(self, num_epochs: int) -> Iterator[int]:
        """Resume from the newest checkpoint, if there is one, then yield the epochs that are left; save after each.

        Raises:
            SnapshotError: the newest checkpoint is damaged or does not fit; nothing was loaded.
        """
        self._runtime.num_epochs = num_epochs
        self.restore()
        while self.epoch < num_epochs:
            yield self.epoch
            self.epoch += 1
            self.save()

    def restore(self) -> bool:
        """Load the newest checkpoint into model, optimizer, tables and loader; return whether there was one."""
        if self._restored:
            return False
        self._restored = True
        # Trainer 0 looks, so that all load the same one.
        found = self._runtime.meet("Checkpointer.restore()", (self._newest() or "").encode())[0].decode()
        if not found:
            return False
        manifest = _verified(found)
        _together(self._runtime, "restore of a checkpoint", lambda: self._check_fits(manifest, found))
        _together(self._runtime, "load of a checkpoint", lambda: self._load(manifest, found))
        self.step, self.epoch = int(manifest["step"]), int(manifest["epoch"])
        self._runtime.samples_trained = int(manifest["samples"])
        self._runtime.logged = int(manifest["logged"])
        if self._runtime.role.rank == 0:
            print(f"resumed at step {self.step} from {found}", flush=True)
        return True

    def save(self) -> None:
        """Write a checkpoint of this moment.

        Raises:
            SnapshotError: it could not be written; the ones before are as they were. Safe to retry.
        """
        runtime, name = self._runtime, f"step-{self.step:08d}"
        self._due = False
        target = os.path.join(self.directory, name)
        temporary = os.path.join(self.directory, f".tmp-{name}")
        if self._runtime.tables is not None:
            self._runtime.tables.flush()
        try:
            _together(runtime, "start of a checkpoint", lambda: _on_first(runtime, lambda: _fresh(self.directory, temporary)), None)
            _together(runtime, "checkpoint", lambda: self._write(temporary))
            _together(runtime, "end of a checkpoint", lambda: _on_first(runtime, lambda: self._publish(temporary, target)))
        except FleetError:
            _on_first(runtime, lambda: shutil.rmtree(temporary, ignore_errors=True))
            raise

    def _after_step(self) -> None:
        self.step += 1
        if self._every_steps is not None and self.step % self._every_steps == 0:
            self._due = True
            if self._loader is None:
                self.save()

    def _after_batch(self) -> None:
        if self._due and self._loader.batches_done < len(self._loader):  # the end of the epoch saves anyway
            self.save()

    def _newest(self) -> str | None:
        if not os.path.isdir(self.directory):
            return None
        for name in [n for n in os.listdir(self.directory) if n.startswith(".old-step-")]:
            replaced, target = os.path.join(self.directory, name), os.path.join(self.directory, name[len(".old-") :])
            if os.path.exists(target):
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                os.rename(replaced, target)
        steps = [int(m[1]) for m in map(_NAME.match, os.listdir(self.directory)) if m]
        return os.path.join(self.directory, f"step-{max(steps):08d}") if steps else None

    def _write(self, temporary: str) -> None:
        """Write this trainer's part; trainer 0 writes what all share."""
        import paddle

        rank = self._runtime.role.rank
        _write_bytes(os.path.join(temporary, f"trainer-{rank}.rng"), pickle.dumps(_generators()))
        if rank != 0:
            return
        _save_paddle(paddle, self._model.state_dict(), os.path.join(temporary, "model.pdparams"))
        _save_paddle(paddle, self._optimizer.state_dict(), os.path.join(temporary, "optimizer.pdopt"))
        if self._loader is not None:
            _write_bytes(os.path.join(temporary, "loader.json"), json.dumps(self._loader.state()).encode())
        if self._runtime.tables is not None:
            self._runtime.tables.save(os.path.join(temporary, "tables"))

    def _publish(self, temporary: str, target: str) -> None:
        manifest = {
            "format": FORMAT,
            "step": self.step,
            "epoch": self.epoch,
            "samples": self._runtime.samples_trained,
            "logged": self._runtime.logged,
            "world_size": self._runtime.role.world_size,
            "strategy": self._runtime.strategy.effective() if self._runtime.strategy else {},
            "files": {f: _checksum(os.path.join(temporary, f)) for f in sorted(os.listdir(temporary)) if f != "tables"},
            "tables": os.path.isdir(os.path.join(temporary, "tables")),
        }
        _write_bytes(os.path.join(temporary, "manifest.json"), json.dumps(manifest, indent=1).encode())
        _sync_directory(temporary)
        replaced = os.path.join(self.directory, f".old-{os.path.basename(target)}")
        if os.path.isdir(target):  # saved twice at the same step; a kill between the two renames is mended by _newest
            os.rename(target, replaced)
        os.rename(temporary, target)
        _sync_directory(self.directory)
        shutil.rmtree(replaced, ignore_errors=True)
        old = sorted(n for n in os.listdir(self.directory) if _NAME.match(n))[: -self._keep]
        for name in old:
            shutil.rmtree(os.path.join(self.directory, name), ignore_errors=True)

    def _check_fits(self, manifest: dict[str, Any], path: str) -> None:
        world_size = self._runtime.role.world_size
        if manifest["world_size"] != world_size:
            what = f"the checkpoint is of {manifest['world_size']} trainers, this job has {world_size}"
            raise SnapshotError(what, at=path, fix="start as many trainers; other numbers are not in this version of fleet")
        if manifest["tables"] != (self._runtime.tables is not None):
            what = "the checkpoint has tables on servers" if manifest["tables"] else "the checkpoint has no tables on servers"
            raise SnapshotError(f"{what}, this job is the other way round", at=path, fix="use the strategy that it was saved with")
        for name in ["loader.json"] if self._loader is not None else []:
            if name not in manifest["files"]:
                raise SnapshotError("the checkpoint holds no loader position", at=path, fix="leave loader= away, or start anew")

    def _load(self, manifest: dict[str, Any], path: str) -> None:
        import paddle

        state = paddle.load(os.path.join(path, "model.pdparams"))
        _check_shapes(self._model.state_dict(), state, path)
        # The tables first: they refuse before they change anything.
        if self._runtime.tables is not None:
            self._runtime.tables.load(os.path.join(path, "tables"), self._runtime.role.rank == 0)
        self._model.set_state_dict(state)
        self._optimizer.set_state_dict(paddle.load(os.path.join(path, "optimizer.pdopt")))
        if self._loader is not None:
            with open(os.path.join(path, "loader.json"), encoding="utf-8") as file:
                self._loader.load(json.load(file))
        with open(os.path.join(path, f"trainer-{self._runtime.role.rank}.rng"), "rb") as file:
            _set_generators(pickle.load(file))


def save(model: Any, path: str) -> None:
    """Write the model's weights as plain Paddle reads them; rows come back from the servers.

    Tables without a vocabulary go into a snapshot directory beside the file, ``PATH.tables``, streamed by the servers.

    Raises:
        SnapshotError: it could not be written; a file that was there is as it was. Safe to retry.
    """
    runtime = current("fleet.save()")
    paddle_wheel.load("fleet.save()")
    tables = runtime.tables
    if tables is not None:
        tables.flush()
    _together(runtime, "start of fleet.save()", lambda: None, None)

    def write() -> None:
        import paddle

        state = dict(model.state_dict())
        if tables is not None:
            state.update(tables.weights())
            if tables.has_open_tables():
                temporary = f"{path}.tables.tmp"
                shutil.rmtree(temporary, ignore_errors=True)
                tables.save(temporary)
                shutil.rmtree(f"{path}.tables", ignore_errors=True)
                os.rename(temporary, f"{path}.tables")
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        _save_paddle(paddle, state, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)
        _sync_directory(os.path.dirname(os.path.abspath(path)))

    try:
        _together(runtime, "fleet.save()", lambda: _on_first(runtime, write))
    except FleetError:
        _on_first(runtime, lambda: _remove(f"{path}.tmp"))
        raise


def load(model: Any, path: str) -> None:
    """Read weights that ``fleet.save`` or ``paddle.save`` wrote into the model, and into its tables.

    Raises:
        SnapshotError: the file is missing or holds another model; nothing was loaded.
    """
    runtime = current("fleet.load()")
    paddle_wheel.load("fleet.load()")

    def read() -> None:
        import paddle

        if not os.path.isfile(path):
            raise SnapshotError("there is no such file", at=path, fix="give the path that fleet.save wrote")
        state = paddle.load(path)
        rows = runtime.tables.take_weights(state) if runtime.tables is not None else {}
        _check_shapes(model.state_dict(), state, path)
        if runtime.tables is not None:
            if runtime.tables.has_open_tables():
                runtime.tables.load(f"{path}.tables", runtime.role.rank == 0)
            if runtime.role.rank == 0:
                runtime.tables.set_weights(rows)
        model.set_state_dict(state)

    _together(runtime, "start of fleet.load()", lambda: None, None)
    _together(runtime, "fleet.load()", read)


def _together(runtime: Runtime, what: str, work: Callable[[], None], wait_s: float | None = WRITE_S) -> None:
    """Do this trainer's part, then tell all whether it went well: one trainer's failure is raised by all.

    ``wait_s=None`` waits ``timeout_s`` for the others: for the first of several, where a trainer may have called nothing.
    """
    failure: SnapshotError | ConfigError | None = None
    try:
        work()
    except OSError as error:
        fix = "free space or give another directory; what was saved before is as it was"
        failure = SnapshotError(f"{what} failed: {error.strerror}", at=str(error.filename or what), fix=fix)
    except (SnapshotError, ConfigError) as error:
        failure = error
    texts = runtime.meet(what, b"" if failure is None else f"{failure.what}\0{failure.at}\0{failure.fix}".encode(), wait_s)
    if failure is not None:
        raise failure
    for rank, text in enumerate(texts):
        if text:
            words, at, fix = text.decode().split("\0")
            raise SnapshotError(f"trainer {rank}: {words}", at=at, fix=fix)


def _on_first(runtime: Runtime, work: Callable[[], Any]) -> None:
    if runtime.role.rank == 0:
        work()


def _fresh(directory: str, temporary: str) -> None:
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        if name.startswith(".tmp-step-"):
            shutil.rmtree(os.path.join(directory, name))
    os.mkdir(temporary)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _verified(path: str) -> dict[str, Any]:
    """Return a checkpoint's manifest once every file has the size and checksum that it names."""
    fix = f"remove {path} to resume at the checkpoint before it"
    try:
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
        if manifest["format"] != FORMAT:
            raise SnapshotError(f"not a {FORMAT!r}: {manifest['format']!r}", at=path, fix=fix)
        for name, expected in manifest["files"].items():
            if _checksum(os.path.join(path, name)) != expected:
                raise SnapshotError(f"{name} is damaged: its size or checksum is wrong", at=os.path.join(path, name), fix=fix)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"the checkpoint cannot be read: {error!r}", at=path, fix=fix) from None
    return manifest


def _check_shapes(mine: dict[str, Any], theirs: dict[str, Any], path: str) -> None:
    missing = sorted(set(mine) ^ set(theirs) - {"StructuredToParameterName@@"})
    if missing:
        what = f"the model and the file differ in {', '.join(missing[:5])}" + (" ..." if len(missing) > 5 else "")
        raise SnapshotError(what, at=path, fix="load it with the model that it was saved with")
    for name, value in mine.items():
        if list(value.shape) != list(theirs[name].shape):
            what = f"{name} has shape {list(theirs[name].shape)} in the file, {list(value.shape)} in the model"
            raise SnapshotError(what, at=path, fix="load it with the model that it was saved with")


def _generators() -> dict[str, Any]:
    import numpy as np
    import paddle

    return {"python": random.getstate(), "numpy": np.random.get_state(), "paddle": paddle.get_rng_state()}


def _set_generators(states: dict[str, Any]) -> None:
    import numpy as np
    import paddle

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    if int(paddle.__version__.split(".")[0]) >= 3:
        paddle.set_rng_state(states["paddle"])
    else:  # its pickled state holds the seed only
        logger.warning("Paddle 2 cannot restore its random generator: dropout draws other numbers after a resume")


def _save_paddle(paddle: Any, state: Any, path: str) -> None:
    paddle.save(state, path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_bytes(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _checksum(path: str) -> list[int]:
    """Return [bytes, crc32] of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def _sync_directory(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
