"""What a checkpoint holds of a job, apart from its tables: copied in one moment, written later, put back.

    model.pdparams optimizer.pdopt     by trainer 0, as Paddle writes them (the optimizer's with its scheduler)
    loader.json                        by trainer 0
    trainer-0.rng ...                  by each trainer: Python's, NumPy's and Paddle's generators
    trainer-0.state ...                by each trainer, if there is any: of strategies, and of the user's own objects
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fleet import disk, logger
from fleet.checkpoint.host_copy import HostCopy
from fleet.disk import Checksum
from fleet.errors import ConfigError, SnapshotError
from fleet.runtime import Runtime

MODEL, OPTIMIZER, LOADER = "model.pdparams", "optimizer.pdopt", "loader.json"

Writers = dict[str, Callable[[str], Checksum]]  # name of a file -> writes it to a path


class Contents:
    """The state of one trainer.

    Args:
        objects: name -> anything with ``state_dict`` and ``set_state_dict``, or with ``state`` and ``load``.
    """

    def __init__(self, runtime: Runtime, model: Any, optimizer: Any, loader: Any, objects: Mapping[str, Any]) -> None:
        self._runtime, self._model, self._optimizer, self._loader = runtime, model, optimizer, loader
        self._objects = {name: _face(name, value) for name, value in objects.items()}
        self._host = HostCopy()

    def prepare(self) -> None:
        """Make the memory for the copies that trainer 0 takes; call it once the optimizer has its state."""
        if self._runtime.role.rank == 0:
            tensors = {f"model/{k}": v for k, v in self._model.state_dict().items()}
            tensors |= {f"optimizer/{k}": v for k, v in self._optimizer.state_dict().items()}
            self._host.prepare({k: v for k, v in tensors.items() if hasattr(v, "data_ptr")})

    def copy(self) -> Writers:
        """Copy this trainer's state; return what writes its files, whatever happens to the state meanwhile."""
        rank = self._runtime.role.rank
        generators, own = pickle.dumps(_generators()), self._own()
        found: Writers = {f"trainer-{rank}.rng": lambda path: disk.write_bytes(path, generators)}
        if own["strategies"] or own["objects"]:
            found[f"trainer-{rank}.state"] = lambda path: disk.write_pickle(path, own)
        if rank != 0:
            return found
        model = disk.as_paddle_saves(self._model.state_dict(), lambda k, t: self._host.take(f"model/{k}", t))
        optimizer = disk.as_paddle_saves(self._optimizer.state_dict(), lambda k, t: self._host.take(f"optimizer/{k}", t))
        found[MODEL] = lambda path: disk.write_pickle(path, model)
        found[OPTIMIZER] = lambda path: disk.write_pickle(path, optimizer)
        if self._loader is not None:
            position = json.dumps(self._loader.state()).encode()
            found[LOADER] = lambda path: disk.write_bytes(path, position)
        return found

    def read(self, path: str, manifest: dict[str, Any]) -> Callable[[], None]:
        """Read a checkpoint and return what puts it in force; whatever may refuse does so here, and changes nothing but the loader.

        Raises:
            SnapshotError: it is of another model, optimizer, loader, or lacks an object's state.
        """
        name = self.optimizer_name
        if manifest["optimizer"] != name:
            what = f"the checkpoint is of optimizer {manifest['optimizer']}, this job has {name}"
            raise SnapshotError(what, at=path, fix="use the optimizer that it was saved with, or fleet.load the weights alone")
        model = disk.read_paddle(os.path.join(path, MODEL))
        names = model.pop(disk.NAMES, {})
        disk.check_shapes(self._model.state_dict(), model, path)
        optimizer = _renamed(disk.read_paddle(os.path.join(path, OPTIMIZER)), names, self._model)
        states = States(path, manifest)
        self._check_own(states, path)
        if self._loader is not None:
            if LOADER not in manifest["files"]:
                raise SnapshotError("the checkpoint holds no loader position", at=path, fix="leave loader= away, or start anew")
            with open(os.path.join(path, LOADER), encoding="utf-8") as file:
                self._loader.load(json.load(file))

        def apply() -> None:
            self._model.set_state_dict(model)
            self._optimizer.set_state_dict(optimizer)
            self._put_own(states)

        return apply

    def put_generators(self, path: str) -> None:
        """Put this trainer's generators back; one that the run that saved did not have keeps its own."""
        mine = os.path.join(path, f"trainer-{self._runtime.role.rank}.rng")
        if os.path.exists(mine):
            with open(mine, "rb") as file:
                _set_generators(pickle.load(file))

    @property
    def optimizer_name(self) -> str:
        """The class of the script's own optimizer."""
        return type(getattr(self._optimizer, "inner", self._optimizer)).__name__

    def _own(self) -> dict[str, dict[str, Any]]:
        """Return the state of strategies and objects; all trainers ask for it, also where trainer 0's is enough."""
        given = {strategy.name: (strategy.per_trainer, strategy.state()) for strategy in self._runtime.strategies}
        first = self._runtime.role.rank == 0
        strategies = {name: dict(state) for name, (per_trainer, state) in given.items() if state and (first or per_trainer)}
        return {"strategies": strategies, "objects": {name: _hosted(state()) for name, (state, _) in self._objects.items()}}

    def _check_own(self, states: States, path: str) -> None:
        saved = states.of(0)
        for name in self._objects:
            if name not in saved["objects"]:
                fix = f"leave {name} out of objects=, or start anew"
                raise SnapshotError(f"the checkpoint holds no state of {name}", at=path, fix=fix)
        mine = {strategy.name for strategy in self._runtime.strategies if strategy.state()}
        theirs = set(saved["strategies"])
        if self._runtime.role.rank == 0:
            for name in sorted(mine - theirs):
                logger.warning(f"strategy {name} begins anew: the checkpoint holds no state of it ({path})")
            for name in sorted(theirs - {strategy.name for strategy in self._runtime.strategies}):
                logger.warning(f"the checkpoint's state of strategy {name} is left out: this job does without it ({path})")

    def _put_own(self, states: States) -> None:
        for strategy in self._runtime.strategies:
            if strategy.name in states.of(0)["strategies"]:
                strategy.load(OfStrategy(states, strategy.name, states.world_size if strategy.per_trainer else 1))
        mine = states.of(min(self._runtime.role.rank, states.world_size - 1))
        if self._runtime.role.world_size != states.world_size:
            mine = states.of(0)
        for name, (_, load) in self._objects.items():
            load(mine["objects"][name])


class States:
    """The files trainer-R.state of a checkpoint, read when they are asked for."""

    def __init__(self, path: str, manifest: dict[str, Any]) -> None:
        self._path, self._files = path, manifest["files"]
        self.world_size = int(manifest["world_size"])
        self._read: dict[int, dict[str, dict[str, Any]]] = {}

    def of(self, rank: int) -> dict[str, dict[str, Any]]:
        """Return what a trainer saved."""
        if rank not in self._read:
            name = f"trainer-{rank}.state"
            if name in self._files:
                with open(os.path.join(self._path, name), "rb") as file:
                    self._read[rank] = pickle.load(file)
            else:
                self._read[rank] = {"strategies": {}, "objects": {}}
        return self._read[rank]


class OfStrategy(Sequence[Any]):
    """The state of one strategy by the rank of the trainer that saved it."""

    def __init__(self, states: States, name: str, num: int) -> None:
        self._states, self._name, self._num = states, name, num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, rank: Any) -> Any:
        if not -self._num <= rank < self._num:
            raise IndexError(rank)
        return self._states.of(rank % self._num)["strategies"].get(self._name, {})

    def __iter__(self) -> Iterator[Any]:
        return (self[rank] for rank in range(self._num))


def _hosted(value: Any) -> Any:
    """Return a copy with arrays in place of tensors: the object goes on changing while it is written."""
    if isinstance(value, dict):
        return {key: _hosted(v) for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_hosted(v) for v in value)
    return disk.numpy_of(value) if hasattr(value, "data_ptr") else copy.deepcopy(value)


def _face(name: str, value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    for save, load in (("state_dict", "set_state_dict"), ("state_dict", "load_state_dict"), ("state", "load")):
        if callable(getattr(value, save, None)) and callable(getattr(value, load, None)):
            return getattr(value, save), getattr(value, load)
    what = f"objects[{name!r}], a {type(value).__name__}, has neither state_dict and set_state_dict nor state and load"
    raise ConfigError(what, at="fleet.Checkpointer(objects=)", fix="give it one of these pairs of methods")


def _renamed(state: dict[str, Any], old_names: dict[str, str], model: Any) -> dict[str, Any]:
    """Return an optimizer's state under the names that the model's tensors have in this process.

    Paddle names tensors by counting layers, so a script that builds another layer first has other names.
    """
    mine = {name: value.name for name, value in model.state_dict().items()}
    new_names = {old: mine[name] for name, old in old_names.items() if name in mine}
    by_length = sorted(new_names, key=len, reverse=True)  # linear_1.w_0 is no state of linear_1.w
    found = {}
    for key, value in state.items():
        if isinstance(value, dict) and key == "master_weights":
            value = _renamed(value, old_names, model)
        old = next((o for o in by_length if key == o or key.startswith(f"{o}_")), None)
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
