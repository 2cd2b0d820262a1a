"""The wire protocol once more, made from docs/wire.md alone: layouts and numbers are read from its tables.

Nothing of fleet is imported here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
CODES = {"uint16": "H", "uint32": "I", "uint64": "Q", "float64": "d"}


def table_of(heading: str, first: str) -> list[list[str]]:
    """Return the cells of the first table below a heading whose first column is called ``first``."""
    part = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = part.split(f"| {first} |")[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows

SPEC = dict(name="t", dim=4, optimizer="sgd", hyper={}, initializer="constant", init_args=[1.0, 0.0], seed=7, vocabulary=0)


class Layout:
    """A head of fixed size, as a table of the document describes it."""

    def __init__(self, heading: str) -> None:
        self.code, self.names, at = "<", [], 0
        for offset, size, kind, name, *_ in table_of(heading, "offset"):
            assert int(offset) == at, f"{heading}: {name} does not begin where the field before it ends"
            self.code += CODES.get(kind, f"{size}s")
            self.names.append(name)
            at += int(size)
        self.size = struct.calcsize(self.code)
        assert self.size == at

    def pack(self, **values: Any) -> bytes:
        assert set(values) <= set(self.names)
        return struct.pack(self.code, *(values.get(name, 0) for name in self.names))

    def unpack(self, raw: bytes) -> dict[str, Any]:
        return dict(zip(self.names, struct.unpack(self.code, raw), strict=True))


HEADER, SECTION = Layout("Frames"), Layout("Sections")
OPS = {name: int(op) for op, name, *_ in table_of("Operations", "op")}
DTYPES = {name: int(number) for number, name, *_ in table_of("Sections", "number")}
VALUE_BYTES = {name: int(size) for _, name, size, _ in table_of("Sections", "number")}
LIMITS = {name: value for name, value, _ in table_of("Limits and deadlines", "limit")}


def header(op: int, *, magic: bytes = b"FLT1", version: int = 1, **fields: Any) -> bytes:
    """Return a header with its checksum, unless ``crc`` is given."""
    crc = fields.pop("crc", None)
    head = HEADER.pack(magic=magic, version=version, op=op, **fields)[:-4]
    return head + struct.pack("<I", zlib.crc32(head) if crc is None else crc)


def section(table: int, dim: int, keys: Any = None, values: Any = None, learning_rate: float = 0.0, lies: Any = None,
            seen: Any = None, dtype: str = "float32") -> bytes:  # fmt: skip
    """Return one section; ``seen`` is shows, or shows and clicks; ``lies`` replaces fields of its head."""
    content = (1 if keys is not None else 0) + (2 if values is not None else 0) + (0 if seen is None else (4, 12)[len(seen) - 1])
    num_keys = len(keys if keys is not None else values)
    true = dict(table=table, content=content, num_keys=num_keys, dim=dim, dtype=DTYPES[dtype], learning_rate=learning_rate)
    body = b"" if keys is None else np.asarray(keys, dtype="<u8").tobytes()
    body += b"" if values is None else bits(values, dtype).tobytes()
    body += bytes(-len(body) % 8)
    body += b"" if seen is None else np.asarray(seen, dtype="<u4").tobytes()
    return SECTION.pack(**{**true, **(lies or {})}) + body + bytes(-len(body) % 8)


def bits(values: Any, dtype: str) -> Any:
    """Return values as the document lets them lie on the wire, rounded to nearest, ties to even."""
    whole = np.asarray(values, dtype="<f4")
    if dtype == "bfloat16":  # the upper half, by integer arithmetic; finite numbers and infinities
        number = whole.view("<u4")
        return ((number + 0x7FFF + (number >> 16 & 1)) >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        return whole if dtype == "float32" else whole.astype("<f2").view("<u2")


def widened(raw: Any, dtype: str) -> Any:
    """Return as float32 what lies on the wire."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, "<f4") if dtype == "float32" else np.frombuffer(raw, "<f2").astype("<f4")


def frame(name: str, body: bytes = b"", **fields: Any) -> bytes:
    """Return a whole frame."""
    return header(OPS[name], body_bytes=len(body), **fields) + body


class Peer:
    """A trainer made of this file alone; ``line`` is connected."""

    def __init__(self, address: str, secret: str, trainer: int = 0, incarnation: int = 1, proof: bytes | None = None) -> None:
        self.line = dial(address)
        head, theirs = self.receive()
        assert head["op"] == OPS["CHALLENGE"] and len(theirs) == 32
        mine, key = os.urandom(32), secret.encode()
        made = hmac.new(key, b"fleet client" + theirs + mine, hashlib.sha256).digest()
        self.line.sendall(frame("PROOF", mine + (proof or made), trainer=trainer, incarnation=incarnation))
        head, body = self.receive()
        self.refusal = json.loads(body) if head["op"] == OPS["ERROR"] else None
        if self.refusal is None:
            assert head["op"] == OPS["WELCOME"]
            assert body[:32] == hmac.new(key, b"fleet server" + mine + theirs, hashlib.sha256).digest()
            self.about = json.loads(body[32:])
        self.request = 0

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        raw = receive_exactly(self.line, HEADER.size)
        head = HEADER.unpack(raw)
        assert head["magic"] == b"FLT1" and head["version"] == 1 and head["crc"] == zlib.crc32(raw[:-4])
        return head, receive_exactly(self.line, head["body_bytes"])

    def ask(self, name: str, body: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Send a request, return the reply's header and body."""
        self.request += 1
        self.line.sendall(frame(name, body, request=self.request, **fields))
        head, answer = self.receive()
        assert head["request"] == self.request
        return head, answer

    def ask_json(self, name: str, value: Any, **fields: Any) -> Any:
        head, body = self.ask(name, json.dumps(value).encode(), **fields)
        return json.loads(body)

    def open(self, name: str = "t", dim: int = 4, consistency: str = "async", timeout_s: float = 20, **changes: Any) -> int:
        """Open a table; returns its number."""
        spec = {**SPEC, "name": name, "dim": dim, **changes}
        answer = self.ask_json("TABLE", {"spec": spec, "consistency": consistency, "timeout_s": timeout_s})
        assert "table" in answer, answer
        return int(answer["table"])

    def pull(self, wanted: Sequence[tuple[int, int, Any]], create: bool = True, step: int = 0,
             dtypes: Sequence[str] = ()) -> list[Any]:  # fmt: skip
        """Return the rows of ``(table, dim, keys)`` of several tables."""
        dtypes = dtypes or ["float32"] * len(wanted)
        body = b"".join(section(table, dim, keys, dtype=d) for (table, dim, keys), d in zip(wanted, dtypes, strict=True))
        head, answer = self.ask("PULL", body, num_tables=len(wanted), flags=int(create), step=step)
        assert head["op"] == OPS["ROWS"] and head["num_tables"] == len(wanted), (head, answer[:500])
        found, at = [], 0
        for (table, dim, keys), dtype in zip(wanted, dtypes, strict=True):
            told = SECTION.unpack(answer[at : at + SECTION.size])
            assert (told["table"], told["content"], told["num_keys"], told["dim"]) == (table, 2, len(keys), dim)
            assert told["dtype"] == DTYPES[dtype]
            at += SECTION.size
            size = len(keys) * dim * VALUE_BYTES[dtype]
            found.append(widened(answer[at : at + size], dtype).reshape(len(keys), dim))
            at += size + -size % 8
        assert at == len(answer)
        return found

    def push(self, parts: Sequence[bytes], sequence: int, step: int) -> Any:
        """Push sections; returns the JSON of the reply: {} or an error."""
        _, body = self.ask("PUSH", b"".join(parts), num_tables=len(parts), sequence=sequence, step=step)
        return json.loads(body)

    def closed(self, timeout_s: float = 20) -> bool:
        """Wait until the server closes the line; True if it did so without another byte."""
        self.line.settimeout(timeout_s)
        try:
            return self.line.recv(1) == b""
        except ConnectionResetError:
            return True


def dial(address: str) -> socket.socket:
    family, _, rest = address.partition(":")
    if family == "unix":
        line = socket.socket(socket.AF_UNIX)
        line.connect(rest)
    else:
        host, _, port = rest.rpartition(":")
        line = socket.create_connection((host, int(port)))
    line.settimeout(20)
    return line


def receive_exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = line.recv(size - len(found))
        if not part:
            raise EOFError("the server closed the line")
        found += part
    return found


def shard_of(key: int, name: str) -> int:
    """Return the logical shard of a key, by the recipe and the constants that the document gives."""
    part = TEXT.split("## Which server holds a key")[1]
    (m1, m2), mask = [int(m, 16) for m in re.findall(r"\* (0x[0-9a-f]{16})", part)], 2**64 - 1
    x = key ^ int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    x = (x ^ (x >> 33)) * m1 & mask
    x = (x ^ (x >> 33)) * m2 & mask
    return (x ^ (x >> 33)) >> 54
