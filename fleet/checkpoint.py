"""Checkpoints of a whole job: atomic, checksummed, resumable to the batch.

    DIR/step-00000120/      complete: it was renamed to this name once everything in it was on disk
        manifest.json       step, epoch, trainers, and the checksum of every file below
        model.pdparams optimizer.pdopt     Paddle's own form
        loader.json trainer-0.rng ...      position of the loader; random generators of each trainer
        tables/             snapshot of the tables (docs/snapshot.md), in parameter-server mode
    DIR/.tmp-... .old-...   of a save that did not end; removed by the next one

Tables are written in the background: the servers cut, training goes on, and the checkpoint gets its name once all is on disk.
All trainers call every function here. A call by some ends with an error naming the missing ranks.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fleet import disk, logger, paddle_wheel, shelf
from fleet.errors import ConfigError, FleetError, SnapshotError
from fleet.runtime import current
from fleet.shelf import Shelf
from fleet.together import on_first, patience, together
from fleet.track import Track


class Publication:
    """A checkpoint on its way to its name, in a thread of trainer 0."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._failure: FleetError | None = None
        self._thread = threading.Thread(target=self._run, name="fleet-checkpoint", daemon=True)  # joined by wait
        self._thread.start()

    def wait(self) -> None:
        """Return once it has its name; raise what went wrong."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._work()
        except OSError as error:
            fix = "free space or give another directory; what was saved before is as it was"
            at = str(error.filename or "Checkpointer.save()")
            self._fail(SnapshotError(f"the checkpoint could not be written: {error.strerror}", at=at, fix=fix))
        except FleetError as error:
            self._fail(error)

    def _fail(self, error: FleetError) -> None:
        self._failure = error
        logger.warning(f"a checkpoint was not written, which the next save will raise: {error}")


class Checkpointer:
    """Save and resume model, optimizer, tables, loader position, scheduler and random generators.

    Args:
        directory: on a file system that all trainers and servers see.
        model, optimizer, loader: what fleet.distributed_* returned.
        every_steps: save after every so many steps, beside the end of each epoch: when the loop comes back to the loader,
            so that what the loop's body does after ``optimizer.step()`` is done; without a loader at the end of the step.
        keep: newest checkpoints that stay; older ones stay as long as the tables of a newer one continue theirs.
        full_every: at least every so many saves the tables are written whole, else only what changed since the last save; sooner
            once the deltas since the last whole one are as large as it.
        row_state: "drop" lets rows begin with a fresh optimizer state, so that another row optimizer may take them up.

    Raises:
        ConfigError: an argument makes no sense, or the directory is a file.

    Example:
        >>> ckpt = fleet.Checkpointer("ckpt", model=model, optimizer=optimizer, loader=loader, every_steps=1000)
        >>> for epoch in ckpt.epochs(10):
        ...     for x, y in loader:
        ...         ...
    """

    def __init__(
        self, directory: str, *, model: Any, optimizer: Any, loader: Any = None, every_steps: int | None = None, keep: int = 2,
        full_every: int = 1, row_state: str = "keep",
    ) -> None:  # fmt: skip
        at = "fleet.Checkpointer()"
        self._runtime = current(at)
        paddle_wheel.load(at)
        if every_steps is not None and (isinstance(every_steps, bool) or not isinstance(every_steps, int) or every_steps < 1):
            raise ConfigError(
                f"every_steps must be an int >= 1, got {every_steps!r}", at=at, fix="None saves at the end of epochs only"
            )
        for name, value in (("keep", keep), ("full_every", full_every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                fix = "the default keeps 2" if name == "keep" else "1 writes all rows at each save"
                raise ConfigError(f"{name} must be an int >= 1, got {value!r}", at=at, fix=fix)
        if row_state not in ("keep", "drop"):
            raise ConfigError(f'row_state must be "keep" or "drop", got {row_state!r}', at=at, fix='the default is "keep"')
        if loader is not None and not hasattr(loader, "state"):
            fix = "give what fleet.distributed_loader returned"
            raise ConfigError(f"a {type(loader).__name__} does not know its position", at=at, fix=fix)
        if os.path.exists(directory) and not os.path.isdir(directory):
            raise ConfigError(f"{directory} is a file", at=at, fix="give a directory, or remove the file")
        self.directory = os.path.abspath(directory)
        self._model, self._optimizer, self._loader = model, optimizer, loader
        self._every_steps, self._full_every, self._keep_state = every_steps, full_every, row_state == "keep"
        bases = self._runtime.tables.chain if self._runtime.tables is not None else lambda path: [path]
        self._shelf = Shelf(self.directory, keep, bases)
        self._publication: Publication | None = None  # in trainer 0
        self._whole_next = True  # the next save writes the tables whole
        self.step, self.epoch = 0, 0
        self._restored, self._due = False, False
        if loader is not None:
            loader.after_batch = self._after_batch
        self._runtime.after_step.append(self._after_step)
        recovery = self._runtime.recovery
        self._track = Track(self._runtime, recovery, model, optimizer, loader) if recovery is not None else None
        self._runtime.closers.append(self._close)

    def epochs(self, num_epochs: int) -> Iterator[int]:
        """Resume from the newest checkpoint, if there is one, then yield the epochs that are left; save after each.

        Raises:
            SnapshotError: the newest checkpoint is damaged or does not fit; nothing was loaded.
        """
        self._runtime.num_epochs = num_epochs
        self.restore()
        if self._track is not None:
            self._track.begin(self.step, self.epoch)
        while self.epoch < num_epochs:
            yield self.epoch
            self.epoch += 1
            self.save()
        self.wait()

    def restore(self) -> bool:
        """Load the newest checkpoint into model, optimizer, tables and loader; return whether there was one."""
        if self._restored:
            return False
        self._restored = True
        if self._runtime.recovery is not None and self._runtime.recovery.rejoins:
            self._rejoin()
            return True
        # Trainer 0 looks, so that all load the same one.
        found = self._runtime.meet("Checkpointer.restore()", (self._shelf.newest() or "").encode())[0].decode()
        if not found:
            return False
        manifest: dict[str, Any] = {}
        together(self._runtime, "check of a checkpoint", lambda: manifest.update(self._checked(found)))
        self._load(manifest, found)
        self.step, self.epoch = int(manifest["step"]), int(manifest["epoch"])
        self._runtime.samples_trained = int(manifest["samples"])
        self._runtime.logged, self._runtime.steps = int(manifest["logged"]), self.step
        self._plan(found)
        if self._track is not None:
            self._track.note(self.step, self.epoch, self.step)
        if self._runtime.role.rank == 0:
            print(f"resumed at step {self.step} from {found}", flush=True)
        return True

    def save(self) -> None:
        """Write a checkpoint of this moment; the tables' files and the name come in the background.

        Raises:
            SnapshotError: it could not be written, or the one before could not: then call it again. The ones before those are as
                they were.
        """
        runtime, step = self._runtime, self.step
        self._due = False
        if runtime.tables is not None:
            runtime.tables.flush()
        saving: list[Any] = []  # of the tables, in trainer 0

        def begin() -> None:
            self._join()
            self._shelf.make_room(step)

        together(runtime, "start of a checkpoint", lambda: None, None)
        together(runtime, "end of the last checkpoint", lambda: on_first(runtime, begin), patience(runtime))
        try:
            together(runtime, "checkpoint", lambda: self._write(step, saving), patience(runtime))
        except FleetError:
            on_first(runtime, lambda: self._give_up(step, saving))
            raise
        facts = self._facts()
        if runtime.tables is None:
            publish = lambda: on_first(runtime, lambda: self._publish(step, facts, []))  # noqa: E731
            together(runtime, "end of a checkpoint", publish, patience(runtime))
        elif runtime.role.rank == 0:
            self._publication = Publication(lambda: self._publish(step, facts, saving))
        if self._track is not None:
            self._track.note(step, self.epoch, step)  # the trainers' part is done; who starts again must not wait for it

    def wait(self) -> None:
        """Return once the last save is complete, on all trainers.

        Raises:
            SnapshotError: it could not be written; the ones before are as they were.
        """
        together(self._runtime, "call of Checkpointer.wait()", lambda: None, None)
        together(self._runtime, "end of the last checkpoint", lambda: on_first(self._runtime, self._join), patience(self._runtime))

    def _join(self) -> None:
        publication, self._publication = self._publication, None
        if publication is not None:
            publication.wait()

    def _close(self) -> None:
        """At the end of the job: let the last save end; there is nobody left to raise to."""
        try:
            self._join()
        except FleetError as error:
            logger.warning(f"the last checkpoint was not written: {error}")

    def _give_up(self, step: int, saving: list[Any]) -> None:
        for tables in saving:
            tables.cancel()
        shutil.rmtree(self._shelf.temporary(step), ignore_errors=True)

    def _rejoin(self) -> None:
        """Take up the place of this trainer's earlier life, among others that go on."""
        assert self._track is not None
        place = self._track.take_up()
        self.step, self.epoch = place["step"], place["epoch"]
        print(f"rejoined at step {self.step}", flush=True)
        every, loader = self._every_steps, self._loader
        if every is not None and self.step % every == 0 and place["saved"] != self.step and not loader.at_end:
            self.save()  # the others wait there

    def _plan(self, path: str) -> None:
        """Tell whoever starts processes again which checkpoint is the newest."""
        if self._runtime.recovery is not None:
            self._runtime.recovery.plan(checkpoint=path)

    def _after_step(self) -> None:
        self.step += 1
        if self._every_steps is not None and self.step % self._every_steps == 0:
            self._due = True
            if self._loader is None:
                self.save()

    def _after_batch(self) -> None:
        if self._due and not self._loader.at_end:  # the end of the epoch saves anyway
            self.save()
        elif self._track is not None:
            self._track.note(self.step, self.epoch)

    def _write(self, step: int, saving: list[Any]) -> None:
        """Write this trainer's part; trainer 0 writes what all share, and lets the servers begin with the tables."""
        rank, temporary = self._runtime.role.rank, self._shelf.temporary(step)
        disk.write_bytes(os.path.join(temporary, f"trainer-{rank}.rng"), pickle.dumps(_generators()))
        if self._runtime.tables is not None:
            self._runtime.tables.save_state(os.path.join(temporary, f"trainer-{rank}.rows.npz"))
        if rank != 0:
            return
        if self._runtime.tables is not None:
            self._runtime.tables.pull_dense()
        disk.save_paddle(self._model.state_dict(), os.path.join(temporary, "model.pdparams"))
        disk.save_paddle(self._optimizer.state_dict(), os.path.join(temporary, "optimizer.pdopt"))
        if self._loader is not None:
            disk.write_bytes(os.path.join(temporary, "loader.json"), json.dumps(self._loader.state()).encode())
        if self._runtime.tables is not None:
            # Saved again at the same step, a delta would lie in the place of what it continues.
            delta = not self._whole_next and not os.path.exists(self._shelf.path(step))
            home = os.path.join(self._shelf.path(step), "tables")
            saving.append(self._runtime.tables.begin_save(os.path.join(temporary, "tables"), delta, home))

    def _facts(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "samples": self._runtime.samples_trained,
            "logged": self._runtime.logged,
            "world_size": self._runtime.role.world_size,
            "optimizer": self._optimizer_name(),
            "strategy": self._runtime.strategy.effective() if self._runtime.strategy else {},
        }

    def _publish(self, step: int, facts: dict[str, Any], saving: list[Any]) -> None:
        """Trainer 0: wait for the servers, then give the checkpoint its name."""
        try:
            for tables in saving:
                tables.wait()
            self._shelf.publish(step, facts)
        except (FleetError, OSError):
            shutil.rmtree(self._shelf.temporary(step), ignore_errors=True)
            if any(tables.interrupted for tables in saving):  # and the job carries on, or it would be no more
                logger.warning(f"no checkpoint of step {step}: a server was started again while it wrote; the one before stands")
                return
            raise
        if saving:
            self._continue_from(self._shelf.path(step))
        self._plan(self._shelf.path(step))
        self._shelf.prune()

    def _continue_from(self, path: str) -> None:
        """The tables' next delta continues the checkpoint at ``path``, unless their chain is long or heavy enough."""
        tables = self._runtime.tables
        tables.stands(os.path.join(path, "tables"))
        *deltas, whole = tables.chain_bytes(os.path.join(path, "tables"))
        self._whole_next = len(deltas) + 1 >= self._full_every or sum(deltas) >= whole

    def _optimizer_name(self) -> str:
        return type(getattr(self._optimizer, "inner", self._optimizer)).__name__

    def _check_fits(self, manifest: dict[str, Any], path: str) -> None:
        world_size = self._runtime.role.world_size
        if manifest["world_size"] != world_size:
            what = f"the checkpoint is of {manifest['world_size']} trainers, this job has {world_size}"
            raise SnapshotError(what, at=path, fix="start as many trainers; other numbers are not in this version of fleet")
        if manifest["tables"] != (self._runtime.tables is not None):
            what = "the checkpoint has tables on servers" if manifest["tables"] else "the checkpoint has no tables on servers"
            raise SnapshotError(f"{what}, this job is the other way round", at=path, fix="use the strategy that it was saved with")
        if manifest["optimizer"] != self._optimizer_name():
            what = f"the checkpoint is of optimizer {manifest['optimizer']}, this job has {self._optimizer_name()}"
            raise SnapshotError(what, at=path, fix="use the optimizer that it was saved with, or fleet.load the weights alone")
        for name in ["loader.json"] if self._loader is not None else []:
            if name not in manifest["files"]:
                raise SnapshotError("the checkpoint holds no loader position", at=path, fix="leave loader= away, or start anew")

    def _checked(self, path: str) -> dict[str, Any]:
        """Return the manifest of a checkpoint that is whole and fits this job."""
        manifest = shelf.read(path)
        self._check_fits(manifest, path)
        return manifest

    def _load(self, manifest: dict[str, Any], path: str) -> None:
        """Load in an order in which whatever may refuse comes before anything is changed."""
        model: dict[str, Any] = {}
        optimizer: dict[str, Any] = {}
        runtime, tables, position = self._runtime, self._runtime.tables, self._loader.state() if self._loader is not None else None

        def read() -> None:
            model.update(disk.read_paddle(os.path.join(path, "model.pdparams")))
            names = model.pop(disk.NAMES, {})
            disk.check_shapes(self._model.state_dict(), model, path)
            optimizer.update(_renamed(disk.read_paddle(os.path.join(path, "optimizer.pdopt")), names, self._model))
            if self._loader is not None:
                with open(os.path.join(path, "loader.json"), encoding="utf-8") as file:
                    self._loader.load(json.load(file))

        def apply() -> None:
            if tables is not None:
                tables.restart(os.path.join(path, "tables"))
                self._continue_from(path)
            self._model.set_state_dict(model)
            self._optimizer.set_state_dict(optimizer)
            if tables is not None:
                tables.load_state(os.path.join(path, f"trainer-{runtime.role.rank}.rows.npz"))
                tables.pull_dense()
            with open(os.path.join(path, f"trainer-{runtime.role.rank}.rng"), "rb") as file:
                _set_generators(pickle.load(file))

        try:
            together(runtime, "read of a checkpoint", read)
            if tables is not None:
                put = lambda: on_first(runtime, lambda: tables.load(os.path.join(path, "tables"), self._keep_state))  # noqa: E731
                together(runtime, "load of the tables", put, patience(runtime))
        except FleetError:
            if self._loader is not None:
                self._loader.load(position)
            raise
        together(runtime, "load of a checkpoint", apply)


def _renamed(state: dict[str, Any], old_names: dict[str, str], model: Any) -> dict[str, Any]:
    """Return an optimizer's state under the names that the model's tensors have in this process.

    Paddle names tensors by counting layers, so a script that builds another layer first has other names.
    """
    mine = {name: value.name for name, value in model.state_dict().items()}
    new_names = {old: mine[name] for name, old in old_names.items() if name in mine}
    by_length = sorted(new_names, key=len, reverse=True)  # linear_1.w_0 is no state of linear_1.w
    found = {}
    for key, value in state.items():
        old = next((o for o in by_length if key.startswith(f"{o}_")), None)
        found[key if old is None else new_names[old] + key[len(old) :]] = value
    return found


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
