"""TableSpec: everything that must be equal on all trainers and servers for a table to be the same table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from fleet.errors import ConfigError, TableError
from fleet.parameter_server.row_life import NUM_SHARDS as NUM_SHARDS
from fleet.parameter_server.row_life import Life

# Row optimizer -> its constants -> (default, lowest, first that is too large): as core.row_optimizers() lists them, for those
# who check a strategy without the core. docs/row_optimizer.md says what each computes.
_EPSILON, _POSITIVE, _SHARE = (1e-6, 1e-37, 1e30), (0.0, 0.0, 1e30), (0.0, 1.0)
_ADAGRAD = {"epsilon": _EPSILON, "initial_accumulator_value": _POSITIVE}
_RMSPROP = {"rho": (0.95, *_SHARE), "epsilon": _EPSILON, "momentum": (0.0, *_SHARE)}
_ADAM = {"beta1": (0.9, *_SHARE), "beta2": (0.999, *_SHARE), "epsilon": (1e-8, 1e-37, 1e30)}
OPTIMIZERS: dict[str, dict[str, tuple[float, float, float]]] = {
    "sgd": {},
    "momentum": {"momentum": (0.9, *_SHARE), "nesterov": (0.0, 0.0, 2.0)},
    "adagrad": _ADAGRAD,
    "rowwise_adagrad": _ADAGRAD,
    "decayed_adagrad": {**_ADAGRAD, "decay": (0.95, *_SHARE)},
    "rmsprop": _RMSPROP,
    "rmsprop_centered": _RMSPROP,
    "adam": {**_ADAM, "dense": (0.0, 0.0, 2.0)},
    "adamw": {**_ADAM, "weight_decay": (0.01, 0.0, 1e30)},
    "ftrl": {"l1": _POSITIVE, "l2": _POSITIVE, "beta": (1.0, 1e-37, 1e30)},
}
FLAGS = ("nesterov", "dense")  # constants that are 0 or 1
WEIGHTS = ("float32", "bfloat16", "float16")  # how weights may be stored, and how rows and gradients travel
STATES = ("float32", "bfloat16")  # and row state
INITIALIZERS = ("uniform", "normal", "constant")
MAX_NAME = 200  # bytes of a table's name as a directory of a snapshot; file systems allow 255


class TableSpec(NamedTuple):
    """A named map from a uint64 key to a row of ``dim`` floats, its row optimizer, and how a new row begins."""

    name: str
    dim: int
    optimizer: str  # of OPTIMIZERS
    hyper: tuple[tuple[str, float], ...]  # the row optimizer's constants, sorted by name
    initializer: str  # of INITIALIZERS
    init_args: tuple[float, float]
    seed: int
    vocabulary: int  # 0: open, any uint64; else keys are 0 <= key < vocabulary
    life: Life = Life()
    weights: str = "float32"  # of WEIGHTS
    state: str = "float32"  # of STATES

    @property
    def salt(self) -> int:
        """Return the number that makes two tables of one seed differ, and spreads their keys differently."""
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=8).digest(), "little")

    def make(self, core: Any, num_shards: int = NUM_SHARDS) -> Any:
        """Return an empty core.Table of this spec, for a server that holds so many shards."""
        life = self.life.of_server(num_shards)
        return core.Table(**self._arguments(), life=life, weights=self.weights)

    def make_copies(self, core: Any) -> Any:
        """Return empty core.Copies of a table of this spec: a trainer's, whose weights are float32."""
        return core.Copies(**self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {
            "dim": self.dim, "optimizer": self.optimizer, "hyper": dict(self.hyper), "initializer": self.initializer,
            "init_args": self.init_args, "seed": self.seed, "salt": self.salt, "state": self.state,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON has it."""
        return {**self._asdict(), "hyper": dict(self.hyper), "init_args": list(self.init_args), "life": self.life.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TableSpec:
        """Read a spec that came over the wire or from a manifest.

        Raises:
            TableError: a field is missing, unknown or out of range.
        """
        try:
            spec = cls(
                name=str(value["name"]),
                dim=int(value["dim"]),
                optimizer=str(value["optimizer"]),
                hyper=tuple(sorted((str(k), float(v)) for k, v in value["hyper"].items())),
                initializer=str(value["initializer"]),
                init_args=(float(value["init_args"][0]), float(value["init_args"][1])),
                seed=int(value["seed"]),
                vocabulary=int(value["vocabulary"]),
                life=Life.from_json(value.get("life", {})),
                weights=str(value.get("weights", "float32")),
                state=str(value.get("state", "float32")),
            )
        except ConfigError as error:
            raise TableError(error.what, at="TABLE", fix=error.fix) from None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise TableError(f"not a table's spec: {error!r}", at="TABLE", fix="send the fields that docs/wire.md lists") from None
        _check_name(spec.name)
        numbers = 0 <= spec.seed < 1 << 64 and 0 <= spec.vocabulary <= 1 << 64 and 1 <= spec.dim <= 65536
        stored = spec.weights in WEIGHTS and spec.state in STATES
        if not numbers or not stored or spec.optimizer not in OPTIMIZERS or spec.initializer not in INITIALIZERS:
            raise TableError(f"no such table: {spec}", at="TABLE", fix="send the fields in the ranges that docs/wire.md gives")
        return spec

    def differs(self, other: TableSpec) -> str:
        """Say in which fields another spec of the same name differs: ``dim 8, not 16``."""
        return ", ".join(f"{f} {a!r}, not {b!r}" for f, a, b in zip(self._fields, self, other, strict=True) if a != b)


def _check_name(name: str) -> None:
    """Refuse a name that is no directory of a snapshot: a table's files lie in one of its name."""
    if not name or name in (".", "..") or len(quote(name, safe="")) > MAX_NAME:
        fix = f"give a name of 1 to {MAX_NAME} letters that is neither . nor .."
        raise TableError(f"{name[:300]!r} cannot be the name of a table", at="TABLE", fix=fix)


def shard_range(server: int, num_servers: int) -> tuple[int, int]:
    """Return the shards [low, high) that a server holds."""
    return server * NUM_SHARDS // num_servers, (server + 1) * NUM_SHARDS // num_servers
