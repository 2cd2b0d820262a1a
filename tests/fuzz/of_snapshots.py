"""Thousands of snapshots that are almost right, loaded in this process on a core built with sanitizers.

    make fuzz-snapshots [N=10000]

A chain of a full snapshot and two deltas, written by two servers, of a plain table and of one whose rows wait, age and go. Each
round damages its files or manifests: flipped bytes, cut ends, edited numbers, files that are missing, swapped, or not files.
In half of them the checksums are mended, so that the damage gets past them to the parsers. Then servers load it. Either they refuse
with a SnapshotError, or their rows are exactly those that the files say, as an own reading of them in NumPy finds; without mending,
exactly those that were written. No other exception, no crash, no hang, no large allocation (the Makefile bounds each to 32 MB).
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from core_of import load_core

if len(sys.argv) > 2:
    load_core(sys.argv[2])

import numpy as np

from fleet.errors import SnapshotError
from fleet.parameter_server import native
from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.freeze import hash_of
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.row_life import of
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import manifest as manifests
from fleet.parameter_server.snapshot import reading, trainer
from fleet.parameter_server.snapshot.loading import stage
from fleet.parameter_server.snapshot.verifying import faults_in
from fleet.parameter_server.spec import TableSpec

HANG_S = 20
CORE = native.load()
LIFE = of(admission={"by": "count", "count": 3}, eviction={"by": "age", "steps": 4})
SPECS = (TableSpec("users", 3, "adagrad", (), "uniform", (-1.0, 1.0), 7, 0),
         TableSpec("aging ids", 2, "sgd", (), "constant", (0.5, 0.0), 7, 0, life=LIFE))  # fmt: skip
ODD: list[Any] = [None, True, False, -1, 0, 1, 2, 1023, 1024, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, "", "x", "..", "/a/b", "\0",
                  "9", [], {}, [[]], [0, 1024], {"a": 1}, "tables", "\ud800", [[[[[[[[1]]]]]]]]]  # fmt: skip
KINDS = ("flip", "flip", "flip", "cut", "grow", "header", "header", "missing", "swap", "special", *3 * ("manifest",), "text")
Tree = dict[str, bytes]  # path below the chain's directory -> content
Rows = dict[str, Any]  # table -> ({key: bytes of its columns}, {hash: (count, generation)})


def write_chain(directory: str) -> None:
    """Let two servers write the chain that all rounds begin with."""
    client = Client([LocalLink(Service(i, 2, 1), 1) for i in range(2)], Mode("async", 0), 20)
    tables = [client.open(spec) for spec in SPECS]
    parent, rng = None, np.random.default_rng(1)
    for number in range(3):
        for _ in range(6):
            keys = rng.integers(0, 60, 20).astype(np.uint64) * np.uint64(2**57 + 12345)
            pulled = client.pull([(table, keys) for table in tables], create=True).result(20)
            parts = []
            for table, p in zip(tables, pulled, strict=True):
                seen = np.ones((1, len(p.keys)), np.uint32) if table.spec.life == LIFE else None
                parts.append((table, RowGradient(p.keys, p.counts, rng.standard_normal(p.rows.shape).astype(np.float32), seen)))
            client.push(parts, 0.1)
        client.flush()
        parent = manifests.parent_of(trainer.save(client, os.path.join(directory, str(number)), parent, delta=number > 0))


def loaded(directory: str, num_servers: int) -> Rows:
    """Load the newest snapshot as that many servers do."""
    chain = [link._asdict() for link in manifests.chain(directory)]
    found: Rows = {spec.name: ({}, 0) for spec in SPECS}
    for server in range(num_servers):
        staged = stage(CORE, list(SPECS), server, num_servers, chain, True)
        for spec, rows in zip(SPECS, staged.rows, strict=True):
            keys = rows.keys()
            _, weights, state = rows.read(keys)
            by_key, waiting = found[spec.name]
            fresh = {int(k): w.tobytes() + s.tobytes() for k, w, s in zip(keys, weights, state, strict=True)}
            assert not fresh.keys() & by_key.keys(), "two servers have a key"
            found[spec.name] = ({**by_key, **fresh}, waiting + rows.life_counts()["waiting"])
    return found


def tensors_of(raw: bytes) -> dict[str, Any]:
    """Read a safetensors file once more."""
    (length,) = struct.unpack("<Q", raw[:8])
    kinds = {"U64": np.uint64, "F32": np.float32, "U16": np.uint16, "U8": np.uint8}
    found = {}
    for name, about in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            found[name] = np.frombuffer(raw[8 + length + begin : 8 + length + end], kinds[about["dtype"]]).reshape(about["shape"])
    return found


def told(tree: Tree) -> Rows:
    """Say what a chain's files and manifests mean, by the words of docs/snapshot.md."""
    chain, at = [], "2"
    while len(chain) < 10:
        manifest = json.loads(tree[f"{at}/manifest.json"])
        chain.append((at, manifest))
        if manifest["parent"] is None:
            break
        at = os.path.normpath(os.path.join(at, manifest["parent"]["directory"]))
    found: Rows = {}
    for spec in SPECS:
        rows: dict[int, bytes] = {}
        hidden: set[int] = set()
        waiting: set[int] = set()
        open_shards = set(range(1024))
        for age, (at, manifest) in enumerate(chain):
            for part in manifest["tables"][spec.name]["parts"]:
                mine = open_shards & set(range(*part["shards"]))
                for file in part["files"]:
                    tensors = tensors_of(tree[os.path.normpath(f"{at}/{file['file']}")])
                    for i, key in enumerate(tensors["keys"].tolist()):
                        shard = int(hash_of(np.array([key], np.uint64), spec.salt)[0]) >> 54
                        if shard in mine and key not in hidden and key not in rows:
                            state = tensors["state"][i].tobytes() if "state" in tensors else b""
                            rows[key] = tensors["weights"][i].tobytes() + state
                if part["removed"] is not None and mine:
                    keys = tensors_of(tree[os.path.normpath(f"{at}/{part['removed']['file']}")])["keys"].tolist()
                    hidden |= {key for key in keys if key not in rows}
                if part["waiting"] is not None and mine and age == 0:
                    waiting |= set(tensors_of(tree[os.path.normpath(f"{at}/{part['waiting']['file']}")])["hashes"].tolist())
                if part["complete"]:
                    open_shards -= mine
        found[spec.name] = (rows, len(waiting))
    return found


class Damage:
    """Makes a copy of a tree with something wrong in it."""

    def __init__(self, rng: random.Random, tree: Tree) -> None:
        self.rng, self.tree = rng, dict(tree)
        self.special: dict[str, str] = {}  # path -> "directory" or "link": what lies there instead of a file
        self.mended = rng.random() < 0.5
        self.kind = rng.choice(KINDS)
        getattr(self, f"_{self.kind}")()
        if self.mended:
            self._mend()

    def _file(self) -> str:
        return self.rng.choice([path for path in sorted(self.tree) if path.endswith(".safetensors")])

    def _manifest_path(self) -> str:
        return f"{self.rng.choice((0, 1, 2, 2))}/manifest.json"

    def _flip(self) -> None:
        path = self._file()
        raw = bytearray(self.tree[path])
        head = 8 + struct.unpack("<Q", raw[:8])[0]
        for _ in range(self.rng.choice((1, 1, 2, 5))):
            at = self.rng.randrange(*((0, head) if self.rng.random() < 0.2 else (head, len(raw))))  # a header is half of the file
            raw[at] = self.rng.choice((raw[at] ^ 1 << self.rng.randrange(8), 0, 255, self.rng.randrange(256)))
        self.tree[path] = bytes(raw)

    def _cut(self) -> None:
        path = self.rng.choice(sorted(self.tree))
        self.tree[path] = self.tree[path][: self.rng.randrange(len(self.tree[path]))]

    def _grow(self) -> None:
        path = self.rng.choice(sorted(self.tree))
        raw, at = self.tree[path], self.rng.randrange(len(self.tree[path]) + 1)
        self.tree[path] = raw[:at] + self.rng.randbytes(self.rng.choice((1, 8, 64, 5000))) + raw[at:]

    def _header(self) -> None:
        """Edit a file's header as JSON."""
        path = self._file()
        raw = self.tree[path]
        (length,) = struct.unpack("<Q", raw[:8])
        head = json.loads(raw[8 : 8 + length])
        head = self._edit(head)
        text = json.dumps(head).encode()
        said = len(text) if self.rng.random() < 0.9 else self.rng.choice((0, 1, len(text) + 1, 2**32, 2**62, 2**64 - 1))
        self.tree[path] = struct.pack("<Q", said) + text + raw[8 + length :]

    def _missing(self) -> None:
        del self.tree[self.rng.choice(sorted(self.tree))]

    def _swap(self) -> None:
        """Two files change places, or one lies where another should."""
        a, b = self.rng.choice(sorted(self.tree)), self._file()
        self.tree[a], self.tree[b] = self.tree[b], (self.tree[a] if self.rng.random() < 0.7 else self.tree[b])

    def _special(self) -> None:
        path = self.rng.choice(sorted(self.tree))
        del self.tree[path]
        self.special[path] = self.rng.choice(("directory", "link"))

    def _manifest(self) -> None:
        path = self._manifest_path()
        edited = json.loads(self.tree[path])
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            edited = self._edit(edited)
        self.tree[path] = json.dumps(edited).encode()

    def _text(self) -> None:
        path = self._manifest_path()
        raw = bytearray(self.tree[path])
        for _ in range(self.rng.choice((1, 3))):
            at = self.rng.randrange(len(raw))
            raw[at : at + 1] = self.rng.choice((b"", b"0", b'"', b"[" * 3000, b"-", b"1e5", b"\xff", b"NaN", bytes([raw[at] ^ 1])))
        self.tree[path] = bytes(raw)

    def _edit(self, value: Any) -> Any:
        """Change one place somewhere inside a JSON value."""
        rng = self.rng
        inner = isinstance(value, (dict, list)) and len(value) > 0
        if inner and rng.random() < 0.9:
            value = copy.copy(value)
            at = rng.choice(sorted(value)) if isinstance(value, dict) else rng.randrange(len(value))
            what = rng.random()
            if what < 0.06:
                del value[at]
            elif what < 0.12:
                other = rng.choice(sorted(value)) if isinstance(value, dict) else rng.randrange(len(value))
                value[at], value[other] = value[other], value[at]
            elif what < 0.15 and isinstance(value, list):
                value.append(copy.deepcopy(value[at]))
            else:
                value[at] = self._edit(value[at])
            return value
        if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.6:
            return max(0, value + rng.choice((-1, 1, 2, 8, 64))) if rng.random() < 0.7 else value * rng.choice((2, 2**20, 2**40))
        if isinstance(value, str) and rng.random() < 0.5:
            return value[:-1] if rng.random() < 0.5 else rng.choice([path[2:] for path in sorted(self.tree)])
        return copy.deepcopy(rng.choice(ODD))

    def _mend(self) -> None:
        """Give every file's tensors and every manifest the checksums that they have now, the oldest first."""
        sums: dict[str, int] = {}
        for number in (0, 1, 2):
            path = f"{number}/manifest.json"
            try:
                manifest = json.loads(self.tree[path])
                for table in manifest["tables"].values():
                    for part in table["parts"]:
                        for file in manifests.files_of(part):
                            self._mend_file(number, file)
                if manifest["parent"] is not None and number - 1 in map(int, sums):
                    manifest["parent"]["checksum"] = sums[str(number - 1)]
                manifest["checksum"] = manifests.checksum_of(manifest)
                sums[str(number)] = manifest["checksum"]
                self.tree[path] = json.dumps(manifest).encode()
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
                continue  # too damaged to mend

    def _mend_file(self, number: int, file: dict[str, Any]) -> None:
        try:
            raw = self.tree[os.path.normpath(f"{number}/{file['file']}")]
            (length,) = struct.unpack("<Q", raw[:8])
            head = json.loads(raw[8 : 8 + length])
            spans = {name: about["data_offsets"] for name, about in head.items() if name != "__metadata__"}
            sums = {name: zlib.crc32(raw[8 + length + begin : 8 + length + end]) for name, (begin, end) in spans.items()}
            if sums != file["checksums"]:
                file.update(checksums=sums, bytes=len(raw), rows=head["keys" if "keys" in head else "hashes"]["shape"][0])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, struct.error, RecursionError):
            return


def put(directory: str, was: Tree, now: Damage) -> list[str]:
    """Change the files that differ; return their paths."""
    changed = [path for path in was if now.tree.get(path) != was[path]]
    for path in changed:
        os.unlink(os.path.join(directory, path))
        if path in now.special:
            target = os.path.join(directory, path)
            os.mkdir(target) if now.special[path] == "directory" else os.symlink(target, target)
        elif path in now.tree:
            Path(directory, path).write_bytes(now.tree[path])
    return changed


def restore(directory: str, was: Tree, changed: list[str]) -> None:
    for path in changed:
        target = os.path.join(directory, path)
        if os.path.isdir(target):
            shutil.rmtree(target)
        elif os.path.lexists(target):
            os.unlink(target)
        Path(target).write_bytes(was[path])


def attempt(directory: str, damage: Damage, original: Rows, rng: random.Random) -> str:
    """Load a damaged chain; return what came of it."""
    newest = os.path.join(directory, "2")
    try:
        found = loaded(newest, rng.choice((1, 2)))
    except SnapshotError as error:
        assert error.what and error.at and error.fix
        return "refused"
    if found == original:
        return "loaded"
    assert damage.mended, "other rows than were written, and no checksum said so"
    assert found == told(damage.tree), "other rows than the files say"
    if rng.random() < 0.3:
        try:
            chain = manifests.chain(newest)
            for spec in SPECS:
                keys = [key for block in reading.all_rows_of(CORE, chain, spec.name) for key in block["keys"].tolist()]
                assert sorted(keys) == sorted(found[spec.name][0]), "the command reads other rows than a server"
        except SnapshotError:
            pass
    return "loaded as edited"


def main() -> int:
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(os.environ.get("SEED", "0"))
    outcomes, began = Counter[str](), time.monotonic()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        write_chain(directory)
        was = {str(p.relative_to(directory)): p.read_bytes() for p in sorted(Path(directory).rglob("*")) if p.is_file()}
        original = loaded(os.path.join(directory, "2"), 1)
        assert original == told(was) == loaded(os.path.join(directory, "2"), 2) and any(count for _, count in original.values())
        assert any("removed" in path for path in was)
        for number in range(num_rounds):
            rng = random.Random(f"{seed} {number}")
            damage = Damage(rng, was)
            changed = put(directory, was, damage)
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            try:
                outcomes[attempt(directory, damage, original, rng)] += 1
                if rng.random() < 0.1:
                    with contextlib.suppress(SnapshotError):  # there is no snapshot here
                        faults_in(CORE, os.path.join(directory, "2"))
            except BaseException:
                mended = "mended" if damage.mended else "not mended"
                print(f"round {number} of seed {seed}: {damage.kind}, {mended}, {changed}", flush=True)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
            restore(directory, was, changed)
            if (number + 1) % 1000 == 0:
                rate = (number + 1) / (time.monotonic() - began)
                print(f"{number + 1} snapshots, {rate:.0f} a second: {dict(outcomes)}", flush=True)
    print(f"{num_rounds} snapshots of seed {seed} in {time.monotonic() - began:.0f} s, {dict(outcomes)}: "
          "no crash, no hang, no other exception, no wrong row")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
