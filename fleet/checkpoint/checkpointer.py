"""Checkpoints of a whole job: atomic, checksummed, resumable to the batch.

    DIR/step-00000120/      complete: it was renamed to this name once everything in it was on disk
        manifest.json       format, step, epoch, trainers, score, and the checksum of every file below
        model.pdparams ...  what contents.py lists
        tables/             snapshot of the tables (docs/snapshot.md), in parameter-server mode

A save holds training for as long as it takes to copy the state in memory; threads write the copy. Tables are written by the
servers: they cut, and training goes on. The checkpoint gets its name once all is on the disk.
All trainers call every function here. A call by some ends with an error naming the missing ranks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fleet import logger, paddle_wheel, shelf
from fleet.checkpoint.arguments import check_arguments
from fleet.checkpoint.contents import Contents, Writers
from fleet.checkpoint.fit import check_fits, damage
from fleet.checkpoint.moments import Moments
from fleet.checkpoint.preemption import EX_PREEMPTED
from fleet.checkpoint.publication import Background, Parts, Save, warn
from fleet.errors import ConfigError, FleetError, SnapshotError
from fleet.runtime import current
from fleet.shelf import Damaged, Shelf
from fleet.together import on_first, patience, together
from fleet.track import Track

_AT = "fleet.Checkpointer()"


class Checkpointer:
    """Save and resume model, optimizer, tables, loader position, scheduler, strategies, random generators, and what you add.

    On TERM all trainers save at the end of the same step and end with status 75; started again, the job goes on there.

    Args:
        directory: on a file system that all trainers and servers see.
        model, optimizer, loader: what fleet.distributed_* returned.
        every_steps: save after every so many steps, beside the end of each epoch: when the loop comes back to the loader,
            so that what the loop's body does after ``optimizer.step()`` is done; without a loader at the end of the step.
        every_minutes: likewise, once so much time has passed since the last save.
        keep: newest checkpoints that stay; older ones stay as long as the tables of a newer one continue theirs.
        best: "min" or "max": the checkpoint with the lowest or highest ``score`` stays, too.
        objects: name -> anything of yours with state_dict and set_state_dict, or with state and load.
        full_every: at least every so many saves the tables are written whole, else only what changed since the last save; sooner
            once the deltas since the last whole one are as large as it.
        row_state: "drop" lets rows begin with a fresh optimizer state, so that another row optimizer may take them up.

    Raises:
        ConfigError: an argument makes no sense, or the directory is a file.

    Example:
        >>> ckpt = fleet.Checkpointer("ckpt", model=model, optimizer=optimizer, loader=loader, every_minutes=10)
        >>> for epoch in ckpt.epochs(10):
        ...     for x, y in loader:
        ...         ...
    """

    def __init__(
        self, directory: str, *, model: Any, optimizer: Any, loader: Any = None, every_steps: int | None = None,
        every_minutes: float | None = None, keep: int = 2, best: str | None = None, objects: Mapping[str, Any] | None = None,
        full_every: int = 1, row_state: str = "keep",
    ) -> None:  # fmt: skip
        self._runtime = runtime = current(_AT)
        paddle_wheel.load(_AT)
        check_arguments(directory, loader, every_steps, every_minutes, keep, best, full_every, row_state)
        self.directory = os.path.abspath(directory)
        self._loader, self._every_steps = loader, every_steps
        self._full_every, self._keep_state, self._scored = full_every, row_state == "keep", best is not None
        self._contents = Contents(runtime, model, optimizer, loader, objects or {})
        self._moments = Moments(runtime, every_steps, every_minutes)
        if every_minutes is not None and not self._moments.meets and runtime.role.world_size > 1:
            what = "every_minutes: with dense parameters on servers the trainers run apart, and agree on no time"
            raise ConfigError(what, at=_AT, fix="give every_steps")
        bases = runtime.tables.chain if runtime.tables is not None else lambda path: [path]
        self._shelf = Shelf(self.directory, keep, bases, best)
        self._parts = Parts(runtime)
        self._writing: Background | None = None  # the save that is under way, this trainer's part of it
        self._whole_next = True  # the next save writes the tables whole
        self._score: float | None = None
        self.step, self.epoch = 0, 0
        self._restored = self._prepared = False
        if loader is not None:
            loader.after_batch = self._after_batch
        runtime.after_step.append(self._after_step)
        recovery = runtime.recovery
        self._track = Track(runtime, recovery, model, optimizer, loader) if recovery is not None else None
        runtime.closers.append(self._close)
        self._moments.preemption.install()

    def epochs(self, num_epochs: int) -> Iterator[int]:
        """Resume from the newest whole checkpoint, if there is one, then yield the epochs that are left; save after each.

        Raises:
            SnapshotError: no checkpoint can be read, or the newest does not fit; nothing was loaded.
            SystemExit: 75, once a TERM was answered.
        """
        self._runtime.num_epochs = num_epochs
        self.restore()
        if self._track is not None:
            self._track.begin(self.step, self.epoch)
        while self.epoch < num_epochs:
            yield self.epoch
            self.epoch += 1
            self._save_or_warn()
        self.wait()

    def score(self, value: float) -> None:
        """Note the metric of this moment; the next save carries it, and ``best=`` compares it. Trainer 0's counts.

        Raises:
            ConfigError: the Checkpointer was not given ``best=``, or no number.
        """
        if not self._scored:
            fix = 'give the Checkpointer best="min" or "max"'
            raise ConfigError("a score that nothing compares", at="Checkpointer.score()", fix=fix)
        try:
            self._score = float(value)
        except (TypeError, ValueError):
            what = f"a score must be a number, got {value!r}"
            raise ConfigError(what, at="Checkpointer.score()", fix="give a float") from None

    def best(self) -> str | None:
        """Return the path of the complete checkpoint with the best score; None if none has one."""
        return self._shelf.best()

    def restore(self) -> bool:
        """Load the newest whole checkpoint; return whether there was one. A damaged one is passed over with a warning.

        Raises:
            SnapshotError: all are damaged, or the newest whole one does not fit; nothing was loaded.
        """
        if self._restored:
            return False
        self._restored = True
        if self._runtime.recovery is not None and self._runtime.recovery.rejoins:
            self._rejoin()
            return True
        # Trainer 0 looks, so that all try the same ones.
        found = self._runtime.meet("Checkpointer.restore()", json.dumps(self._shelf.complete()).encode())[0]
        first: Damaged | None = None
        for path in json.loads(found):
            try:
                self._restore_from(path)
            except Damaged as error:
                first = first or error
                self._shelf.damaged.append(path)
                if self._runtime.role.rank == 0:
                    logger.warning(f"a checkpoint is passed over: {error}")
                continue
            return True
        if first is not None:
            raise SnapshotError(first.what, at=first.at, fix=first.fix)
        return False

    def save(self, wait: bool = True) -> None:
        """Write a checkpoint of this moment.

        Args:
            wait: return once it is complete; else as soon as the state is copied.

        Raises:
            SnapshotError: it could not be written; the ones before are as they were. Without ``wait`` the next call of save or wait
                raises it.
        """
        self._begin(raises=True)
        if wait:
            self.wait()
        self._note_saved()

    def wait(self) -> None:
        """Return once the last save is complete, on all trainers.

        Raises:
            SnapshotError: it was begun by :meth:`save` and could not be written; the ones before are as they were.
        """
        together(self._runtime, "call of Checkpointer.wait()", lambda: None, None)
        together(self._runtime, "end of the last checkpoint", self._join, patience(self._runtime))

    def _save_or_warn(self) -> None:
        """Save where the script did not ask for this one: a disk that refuses does not end the training."""
        try:
            self._begin(raises=False)
        except SnapshotError as error:
            if self._runtime.role.rank == 0:
                warn(error)
        self._moments.hear_at_save()
        if self._moments.leaves:
            self._leave()
        self._note_saved()

    def _leave(self) -> None:
        """End after a TERM, all trainers together."""
        self._join()
        runtime = self._runtime
        saved = runtime.meet("end after TERM", (self._shelf.newest() or "").encode(), 3600)[0].decode()
        whole = saved == self._shelf.path(self.step)
        if runtime.role.rank == 0:
            other = f"step {self.step} could not be saved; the newest checkpoint is {saved or 'none'}"
            print("preempted: " + (f"saved at step {self.step} in {saved}" if whole else other), flush=True)
        raise SystemExit(EX_PREEMPTED if whole else 128 + 15)

    def _begin(self, raises: bool) -> None:
        """Copy the state and let it be written; the caller of a save that ``raises`` hears of its failure."""
        runtime, step = self._runtime, self.step
        self._moments.saved()
        if runtime.tables is not None:
            runtime.tables.flush()
        together(runtime, "start of a checkpoint", lambda: None, None)
        together(runtime, "end of the last checkpoint", self._join, patience(runtime))
        together(runtime, "room for a checkpoint", lambda: on_first(runtime, self._make_room), patience(runtime))
        saving: list[Any] = []  # of the tables, in trainer 0
        writers: Writers = {}
        temporary = self._shelf.temporary(step)

        def copy() -> None:
            if runtime.tables is not None:
                self._begin_tables(step, saving)
            writers.update(self._contents.copy())
            if runtime.tables is not None and runtime.role.rank != 0:
                # A trainer that may be started again alone must not die owing trainer 0 its part.
                self._parts.write(step, temporary, writers)

        try:
            together(runtime, "checkpoint", copy, patience(runtime))
        except FleetError:
            on_first(runtime, lambda: self._give_up(step, saving))
            raise
        facts, score = self._facts(), self._score
        self._score = None

        def publish() -> None:
            self._parts.write(step, temporary, writers)
            self._publish(step, {**facts, "score": score}, saving)

        if runtime.role.rank == 0:
            self._writing = Save(publish, raises)
        elif runtime.tables is None:
            self._writing = Background(lambda: self._parts.write(step, temporary, writers))

    def _note_saved(self) -> None:
        """Note that the trainers' part of a save is done: who starts again alone must not wait for it."""
        if self._track is not None:
            self._track.note(self.step, self.epoch, self.step)

    def _join(self) -> None:
        """Wait for this trainer's part of the last save; in trainer 0 raise what its caller has to hear."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.wait()
            if isinstance(writing, Save) and writing.raises and writing.failure is not None:
                raise writing.failure

    def _close(self) -> None:
        """At the end of the job: let the last save end; there is nobody left to raise to."""
        self._moments.preemption.remove()
        try:
            self._join()
        except FleetError as error:
            logger.warning(f"the last checkpoint was not written: {error}")

    def _make_room(self) -> None:
        self._parts.forget()
        self._shelf.make_room(self.step)

    def _give_up(self, step: int, saving: list[Any]) -> None:
        for tables in saving:
            tables.cancel()
        self._shelf.give_up(step)

    def _rejoin(self) -> None:
        """Take up the place of this trainer's earlier life, among others that go on."""
        assert self._track is not None
        place = self._track.take_up()
        self.step, self.epoch = place["step"], place["epoch"]
        print(f"rejoined at step {self.step}", flush=True)
        every, loader = self._every_steps, self._loader
        if every is not None and self.step % every == 0 and place["saved"] != self.step and not loader.at_end:
            self._save_or_warn()  # the others wait there

    def _plan(self, path: str) -> None:
        """Tell whoever starts processes again which checkpoint is the newest."""
        if self._runtime.recovery is not None:
            self._runtime.recovery.plan(checkpoint=path)

    def _after_step(self) -> None:
        self.step += 1
        if not self._prepared and self._runtime.tables is None:
            self._prepared = True
            self._contents.prepare()
        self._moments.after_step(self.step)
        if self._loader is None and self._moments.is_due:
            self._save_or_warn()

    def _after_batch(self) -> None:
        # The end of the epoch saves anyway, and does not lose what the script does behind its loop.
        if self._moments.is_due and not self._loader.at_end:
            self._save_or_warn()
        elif self._track is not None:
            self._track.note(self.step, self.epoch)

    def _begin_tables(self, step: int, saving: list[Any]) -> None:
        """Write the rows' state that is this trainer's own; trainer 0 lets the servers begin."""
        tables, temporary = self._runtime.tables, self._shelf.temporary(step)
        tables.save_state(os.path.join(temporary, f"trainer-{self._runtime.role.rank}.rows.npz"))
        if self._runtime.role.rank == 0:
            tables.pull_dense()
            # Saved again at the same step, a delta would lie in the place of what it continues.
            delta = not self._whole_next and not os.path.exists(self._shelf.path(step))
            home = os.path.join(self._shelf.path(step), "tables")
            saving.append(tables.begin_save(os.path.join(temporary, "tables"), delta, home))

    def _facts(self) -> dict[str, Any]:
        strategy = self._runtime.strategy
        return {
            "epoch": self.epoch,
            "samples": self._runtime.samples_trained,
            "logged": self._runtime.logged,
            "world_size": self._runtime.role.world_size,
            "optimizer": self._contents.optimizer_name,
            "strategy": strategy.effective() if strategy else {},
        }

    def _publish(self, step: int, facts: dict[str, Any], saving: list[Any]) -> None:
        """Trainer 0: wait for the other trainers and the servers, then give the checkpoint its name."""
        try:
            files = self._parts.collect(step)
            for tables in saving:
                tables.wait()
            self._shelf.publish(step, facts, files)
        except (FleetError, OSError):
            self._give_up(step, saving)
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

    def _restore_from(self, path: str) -> None:
        """Load one checkpoint, in an order in which whatever may refuse comes before anything is changed.

        Raises:
            Damaged: something in it is not what was written, of its tables maybe that they do not fit; nothing was loaded.
            SnapshotError: it does not fit; nothing was loaded.
        """
        runtime, tables, loader = self._runtime, self._runtime.tables, self._loader
        manifest: dict[str, Any] = {}
        together(runtime, "read of a manifest", lambda: manifest.update(shelf.read_manifest(path)))
        with damage():
            rank, world_size = runtime.role.rank, runtime.role.world_size
            together(runtime, "check of a checkpoint", lambda: shelf.verify(path, manifest, rank, world_size))
        position = loader.state() if loader is not None else None
        apply: list[Callable[[], None]] = []

        def read() -> None:
            check_fits(manifest, path, tables is not None, world_size)
            apply.append(self._contents.read(path, manifest))

        def put() -> None:
            if tables is not None:
                tables.restart(os.path.join(path, "tables"))
                self._continue_from(path)
            apply[0]()
            if tables is not None:
                tables.load_state(os.path.join(path, f"trainer-{rank}.rows.npz"))
                tables.pull_dense()
            self._contents.put_generators(path)

        try:
            together(runtime, "read of a checkpoint", read)
            if tables is not None:
                load = lambda: on_first(runtime, lambda: tables.load(os.path.join(path, "tables"), self._keep_state))  # noqa: E731
                with damage():
                    together(runtime, "load of the tables", load, patience(runtime))
        except FleetError:
            if loader is not None:
                loader.load(position)
            raise
        together(runtime, "load of a checkpoint", put)
        self._take_place(manifest, path)

    def _take_place(self, manifest: dict[str, Any], path: str) -> None:
        runtime = self._runtime
        self.step, self.epoch = int(manifest["step"]), int(manifest["epoch"])
        runtime.samples_trained = int(manifest["samples"])
        runtime.logged, runtime.steps = int(manifest["logged"]), self.step
        self._plan(path)
        self._note_saved()
        if runtime.role.rank == 0:
            then = int(manifest["world_size"])
            others = f" of {then} trainers" if then != runtime.role.world_size else ""
            print(f"resumed at step {self.step} from {path}{others}", flush=True)
