"""Scores without servers: what ``fleet.export`` wrote, mapped into memory. ``docs/export.md`` describes the files.

Opening takes no time, whatever the size of the tables: pages come from the disk when they are first read, and processes
that open the same export share them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet import disk, paddle_wheel
from fleet.errors import ConfigError, SnapshotError
from fleet.parameter_server import freeze, native, structure
from fleet.parameter_server.lookup import Reader, array_of
from fleet.parameter_server.spec import TableSpec
from fleet.parameter_server.tables import Keys, Values

FORMAT = "fleet export 1"
MANIFEST = "manifest.json"
AGAIN = "copy the export again, whole"


class FrozenTable:
    """A table of an export: ``rows(ids)`` looks rows up. Any number of threads may use it at once."""

    def __init__(self, directory: str, about: Mapping[str, Any]) -> None:
        self._core = native.load()
        self.spec = TableSpec.from_json(about["spec"])
        self.path, self.dtype, self.num_rows = os.path.join(directory, about["file"]), str(about["dtype"]), int(about["rows"])
        self._checksums = about["checksums"]
        self._tensors = tensors = freeze.read_safetensors(self.path)
        if os.path.getsize(self.path) != about["bytes"] or tensors["keys"].shape != (self.num_rows,):
            raise SnapshotError("the table is not the one that the manifest names", at=self.path, fix=AGAIN)
        self._unseen = self.spec.make(self._core)  # empty: it knows what an id without a row reads as
        self._salt, self._plain = self.spec.salt, self._reader(None, None)

    def rows(self, ids: Any) -> Values:
        """Return the rows of ids of any shape: ``int64[...]`` -> ``float32[..., dim]``; an id without a row reads as in ``eval()``.

        Raises:
            TableError: an id is negative, no integer, or outside the vocabulary.
            SnapshotError: the file is damaged.
        """
        asked = self._plain.read(ids)
        return self.read(asked.ids).reshape(*asked.shape, self.spec.dim)

    def look_up(self, about: Mapping[str, Any], ids: Any, lengths: Any, weights: Any) -> Values:
        """Return what the model's Embedding answered: rows, or with pooling one for each bag."""
        reader = self._reader(about["pooling"], about["padding_id"])
        asked = reader.read(ids, lengths)
        each = None if weights is None else reader.weights(weights, asked)
        rows = self.read(asked.ids)
        if asked.lengths is not None or each is not None:
            out = np.empty((int(np.prod(asked.shape, dtype=np.int64)), self.spec.dim), dtype=np.float32)
            places = np.arange(len(rows), dtype=np.uint32)
            self._core.pool(rows, places, asked.lengths, each, about["pooling"] or "sum", out)
            rows = out
        return rows.reshape(*asked.shape, self.spec.dim)

    def read(self, keys: Keys) -> Values:
        """Return the rows of keys, ``float32[n, dim]``."""
        out = np.empty((len(keys), self.spec.dim), dtype=np.float32)
        t = self._tensors
        try:
            missing = self._core.frozen_read(keys, out, t["index"], t["keys"], t["rows"], self.dtype, self._salt)
        except ValueError as error:
            raise SnapshotError(f"the table is damaged: {error}", at=self.path, fix=AGAIN) from None
        if len(missing):
            initial = np.empty((len(missing), self.spec.dim), dtype=np.float32)
            self._unseen.pull(keys[missing], initial, False)
            out[missing] = initial
        return out

    def _reader(self, pooling: str | None, padding: int | None) -> Reader:
        return Reader(f"table {self.spec.name!r}", self.spec.vocabulary, self.spec.dim, pooling, padding)

    def verify(self) -> None:
        """Read the whole table and compare it with its checksums.

        Raises:
            SnapshotError: it is damaged.
        """
        for name, tensor in self._tensors.items():
            freeze.check_crc(name, tensor, self._checksums, self.path)


class Frozen:
    """A model that ``fleet.export`` wrote: call it as the model's ``forward`` was called.

    Args:
        directory: what was given to ``fleet.export``.
        verify: read everything once and compare it with the manifest's checksums.

    ``tables["embedding"].rows(ids)`` needs no Paddle; calling the object imports it. Calls from several threads are not
    promised to be safe; open one Frozen a thread, they share the tables' memory.

    Raises:
        SnapshotError: the directory holds no whole export.

    Example:
        >>> frozen = fleet.parameter_server.Frozen("served")
        >>> scores = frozen(ids, dense)      # NumPy arrays or Paddle tensors -> what the model returned
    """

    def __init__(self, directory: str, verify: bool = False) -> None:
        self.directory = os.path.abspath(directory)
        self._manifest = read_manifest(self.directory)
        self.tables = {name: FrozenTable(self.directory, about) for name, about in self._manifest["tables"].items()}
        self._programs: dict[str, Any] = {}  # loaded on first use
        if verify:
            self.verify()

    def verify(self) -> None:
        """Read every file and compare it with the manifest's checksums.

        Raises:
            SnapshotError: one is missing or damaged.
        """
        for name, about in self._manifest["files"].items():
            path = os.path.join(self.directory, name)
            if not os.path.isfile(path) or disk.checksum(path) != about:
                raise SnapshotError("the file is missing or damaged", at=path, fix=AGAIN)
        for table in self.tables.values():
            table.verify()

    def __call__(self, *inputs: Any) -> Any:
        """Return the model's outputs for a batch, as Paddle tensors: one, or a list of several.

        Raises:
            ConfigError: the inputs are not those of the export.
            TableError: an id is negative, no integer, or outside the vocabulary.
        """
        paddle_wheel.load("fleet.parameter_server.Frozen")
        import paddle

        given = structure.flatten(self._manifest["structure"], list(inputs), "inputs of the model")
        arrays = [array_of(g) for g in given]
        fed = [_as_input(a, about) for a, about in zip(arrays, self._manifest["inputs"], strict=True)]
        with paddle.no_grad():
            arrays += self._computed(fed)  # look-ups take inputs as given: uint64 ids stay what they are
            for about in self._manifest["look_ups"]:
                ids, lengths, weights = (None if about[n] is None else arrays[about[n]] for n in ("ids", "lengths", "weights"))
                fed.append(self.tables[about["table"]].look_up(about, ids, lengths, weights))
            return self._run("dense", fed)

    def _computed(self, fed: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return what look-ups take that the model computes from its inputs."""
        if not self._manifest["programs"]["ids"]:
            return []
        found = self._run("ids", fed)
        return [value.numpy() for value in (found if isinstance(found, (list, tuple)) else [found])]

    def _run(self, name: str, fed: list[NDArray[Any]]) -> Any:
        import paddle

        return self._program(name)(*[paddle.to_tensor(fed[i]) for i in self._manifest["programs"][name]])

    def _program(self, name: str) -> Any:
        if name not in self._programs:
            import paddle

            path = os.path.join(self.directory, name)
            try:
                self._programs[name] = paddle.jit.load(path)
            except (OSError, ValueError, RuntimeError) as error:
                fix = f"{AGAIN}; load it with the Paddle that wrote it, or a newer one"
                raise SnapshotError(f"Paddle cannot load the program: {error}", at=path, fix=fix) from None
            self._programs[name].eval()
        return self._programs[name]


def read_manifest(directory: str) -> dict[str, Any]:
    """Return the manifest of an export.

    Raises:
        SnapshotError: there is none, or it is damaged or of another format.
    """
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
        found, checksum = manifest["format"], manifest.pop("checksum")
    except FileNotFoundError:
        fix = "give the directory that fleet.export wrote"
        raise SnapshotError("there is no export here: the manifest is missing", at=path, fix=fix) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"the manifest cannot be read: {error!r}", at=path, fix=AGAIN) from None
    if found != FORMAT:
        raise SnapshotError(f"not a manifest of {FORMAT!r}: {found!r}", at=path, fix="read it with the fleet that wrote it")
    if checksum != disk.json_checksum(manifest):
        raise SnapshotError("the manifest was changed after it was written", at=path, fix=AGAIN)
    return manifest


def _as_input(given: NDArray[Any], about: Mapping[str, Any]) -> NDArray[Any]:
    """Return an input as the program takes it.

    Raises:
        ConfigError: another shape, or a kind of number that would lose something.
    """
    shape, dtype, name = about["shape"], np.dtype(about["dtype"]), about["name"]
    fits = len(shape) == given.ndim and all(s in (-1, g) for s, g in zip(shape, given.shape, strict=True))
    if not fits:
        what = f"{name} has shape {list(given.shape)}, the export takes {shape} (-1: any)"
        raise ConfigError(what, at="Frozen()", fix="give inputs as the model's forward took them")
    if not np.can_cast(given.dtype, dtype, "same_kind"):
        fix = "cast it first"
        raise ConfigError(f"{name} is {given.dtype}, the export takes {dtype}", at="Frozen()", fix=fix)
    return np.ascontiguousarray(given, dtype=dtype)  # 2**63 and more turn negative: an id is never read from here
