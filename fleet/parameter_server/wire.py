"""The bytes between a trainer and a server. ``docs/wire.md`` says the same for a reader without this code.

A frame is a 64-byte header and a body. The body of PULL, ROWS, PUSH and ASSIGN is ``num_tables`` sections, each a 32-byte
head, then ``uint64[num_keys]`` keys, ``[num_keys, dim]`` values of one of ``DTYPES`` and ``uint32[num_keys]`` shows and
clicks, as its ``content`` says; zeros behind values and behind clicks up to a multiple of 8 bytes. Other bodies are JSON.
All integers are little endian. Nothing is ever unpickled.
A frame's limits are checked before memory is taken.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn, Protocol

from fleet.errors import ConfigError, FleetError, PeerLost, SnapshotError, TableError

MAGIC = b"FLT1"
VERSION = 1
MAX_BODY_BYTES = 1 << 30  # larger uploads are cut into several frames
MAX_TABLES = 4096  # sections of one frame
MAX_JSON_BYTES = 64 << 20  # of a JSON body: a manifest names every file of a snapshot
MAX_GREETING_BYTES = 4096  # before a connection has proved the secret
HEADER = struct.Struct("<4sHHIIQQQQIII")  # 60 bytes; the CRC of these is the last field
SECTION = struct.Struct("<IIQIId")
HEADER_BYTES = 64
SECTION_BYTES = 32

# Operations. A reply has the request's number and DONE, ROWS or ERROR.
CHALLENGE, PROOF, WELCOME, TABLE, PULL, ROWS, PUSH, ASSIGN, SAVE, LOAD, STATUS, BYE, DONE, ERROR, SHRINK = range(1, 16)
SECTIONED = frozenset((PULL, ROWS, PUSH, ASSIGN))  # bodies of sections; the others are JSON, or the handshake's
CREATE = 1  # flag of PULL: rows that are missing are made
KEYS, VALUES, SHOWS, CLICKS = 1, 2, 4, 8  # bits of a section's content
DTYPES = ("float32", "bfloat16", "float16")  # how values may lie in a section; its number there is the place here
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_KINDS: dict[str, type[FleetError]] = {k.__name__: k for k in (ConfigError, PeerLost, SnapshotError, TableError)}


class Header(NamedTuple):
    """The head of a frame."""

    op: int
    flags: int = 0
    trainer: int = 0
    incarnation: int = 0  # of the trainer: grows each time it starts
    sequence: int = 0  # of a PUSH or ASSIGN: grows by one; 0 for what may be repeated freely. PROOF: number of the job
    step: int = 0  # PULL: steps that must have been applied; PUSH: the step that this is, from 1
    body_bytes: int = 0
    num_tables: int = 0
    request: int = 0  # a reply carries its request's


class Section(NamedTuple):
    """One table's part of a body; ``keys`` and ``values`` are buffers of the byte counts that the head implies."""

    table: int
    num_keys: int
    dim: int
    keys: memoryview | None
    values: memoryview | None
    learning_rate: float = 0.0
    num_sightings: int = 0  # 1: shows; 2: shows and clicks
    sightings: memoryview | None = None  # uint32[num_sightings, num_keys]
    dtype: str = "float32"  # of DTYPES: of the values; PULL: of those that are wanted


class Line(Protocol):
    """What this page needs of a socket."""

    def recv_into(self, buffer: Any, /) -> int: ...
    def sendmsg(self, buffers: Any, /) -> int: ...


class WireError(Exception):
    """Bytes that are not a frame of this protocol; the connection is closed."""


class OtherVersion(WireError):
    """The other side speaks another version of this protocol."""


def pack_header(h: Header) -> bytes:
    """Return the 64 bytes of a header."""
    head = HEADER.pack(
        MAGIC, VERSION, h.op, h.flags, h.trainer, h.incarnation, h.sequence, h.step, h.body_bytes, h.num_tables, h.request, 0
    )
    return head + struct.pack("<I", zlib.crc32(head))


def unpack_header(raw: bytes | bytearray | memoryview, max_body_bytes: int = MAX_BODY_BYTES) -> Header:
    """Read a header.

    Raises:
        WireError: another protocol or version, a damaged header, or a body that is too large.
    """
    magic, version, op, flags, trainer, incarnation, sequence, step, body_bytes, num_tables, request, _ = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise WireError(f"these bytes are not fleet's protocol: they begin with {bytes(magic)!r}")
    if version != VERSION:
        raise OtherVersion(f"the other side speaks protocol version {version}, this side {VERSION}")
    if struct.unpack_from("<I", raw, HEADER.size)[0] != zlib.crc32(bytes(raw[: HEADER.size])):
        raise WireError("the header is damaged (its checksum is wrong)")
    most = max_body_bytes if op in SECTIONED else min(max_body_bytes, MAX_JSON_BYTES)
    if body_bytes > most:
        raise WireError(f"a body of {body_bytes} bytes is announced, at most {most} are taken here")
    if num_tables > MAX_TABLES:
        raise WireError(f"{num_tables} tables in one frame, at most {MAX_TABLES} are taken")
    return Header(op, flags, trainer, incarnation, sequence, step, body_bytes, num_tables, request)


def section_head(s: Section) -> bytes:
    """Return the 32 bytes before a section's keys and values."""
    content = (KEYS if s.keys is not None else 0) | (VALUES if s.values is not None else 0)
    content |= (0, SHOWS, SHOWS | CLICKS)[s.num_sightings]
    return SECTION.pack(s.table, content, s.num_keys, s.dim, DTYPES.index(s.dtype), s.learning_rate)


def padding(s: Section) -> bytes:
    """Return the zeros after a section's values, so that the next section begins at a multiple of 8."""
    return bytes(-VALUE_BYTES[s.dtype] * s.num_keys * s.dim % 8) if s.values is not None else b""


def unpack_sections(body: memoryview, num_tables: int) -> list[Section]:
    """Cut a body into sections, without a copy.

    Raises:
        WireError: the sections do not fill the body exactly, or values are of no dtype of ours.
    """
    sections, at = [], 0
    for _ in range(num_tables):
        if at + SECTION_BYTES > len(body):
            raise WireError("the body ends inside a section's head")
        table, content, num_keys, dim, number, rate = SECTION.unpack_from(body, at)
        at += SECTION_BYTES
        if number >= len(DTYPES):
            raise WireError(f"section of table {table}: there is no dtype {number}")
        dtype = DTYPES[number]
        keys_bytes = 8 * num_keys if content & KEYS else 0
        values_bytes = VALUE_BYTES[dtype] * num_keys * dim if content & VALUES else 0
        num_sightings = bool(content & SHOWS) + bool(content & CLICKS)
        seen_bytes = 4 * num_keys * num_sightings
        if content & CLICKS and not content & SHOWS:
            raise WireError(f"section of table {table}: clicks without shows")
        if at + keys_bytes + values_bytes + -values_bytes % 8 + seen_bytes + -seen_bytes % 8 > len(body):
            raise WireError(f"section of table {table}: {num_keys} keys of dim {dim} do not fit the body")
        keys = body[at : at + keys_bytes] if content & KEYS else None
        at += keys_bytes
        values = body[at : at + values_bytes] if content & VALUES else None
        at += values_bytes + -values_bytes % 8
        seen = body[at : at + seen_bytes] if num_sightings else None
        at += seen_bytes + -seen_bytes % 8
        sections.append(Section(table, num_keys, dim, keys, values, rate, num_sightings, seen, dtype))
    if at != len(body):
        raise WireError(f"{len(body) - at} bytes after the last section")
    return sections


def send(line: Line, head: Header, parts: Iterable[bytes | memoryview] = ()) -> None:
    """Send one frame, gathered from its parts in few system calls."""
    body = [memoryview(p).cast("B") for p in parts if len(p)]
    head = head._replace(body_bytes=sum(len(p) for p in body))
    send_parts(line, [memoryview(pack_header(head)), *body])


def send_parts(line: Line, queue: list[memoryview]) -> None:
    """Send bytes gathered from parts, of one byte an item; takes the list apart."""
    while queue:
        sent = line.sendmsg(queue[:1024])  # IOV_MAX of Linux
        while queue and sent >= len(queue[0]):
            sent -= len(queue.pop(0))
        if sent:
            queue[0] = queue[0][sent:]


def send_sections(line: Line, head: Header, sections: list[Section]) -> None:
    """Send a frame of sections."""
    parts: list[bytes | memoryview] = []
    for s in sections:
        parts += [section_head(s), s.keys or b"", s.values or b"", padding(s)]
        if s.sightings is not None:
            parts += [s.sightings, bytes(-len(s.sightings) % 8)]
    send(line, head._replace(num_tables=len(sections)), parts)


def send_json(line: Line, head: Header, value: Any) -> None:
    """Send a frame whose body is JSON."""
    send(line, head, [json.dumps(value).encode()])


def receive_exactly(line: Line, buffer: memoryview) -> None:
    """Fill ``buffer``.

    Raises:
        ConnectionResetError: the other side closed the line. TimeoutError: it fell silent.
    """
    while buffer:
        count = line.recv_into(buffer)
        if not count:
            raise ConnectionResetError("the connection was closed by the other side")
        buffer = buffer[count:]


def receive_parts(receive: Callable[[list[memoryview]], int], parts: list[memoryview], least: int) -> int:
    """Fill buffers in order, with ``least`` bytes or more; return how many came.

    Raises:
        ConnectionResetError: the other side closed the line. TimeoutError: it fell silent.
    """
    total, left = 0, [part for part in parts if len(part)]
    while total < least:
        count = receive(left[:1024])  # IOV_MAX of Linux
        if not count:
            raise ConnectionResetError("the connection was closed by the other side")
        total += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
    return total


def receive_header(line: Line, max_body_bytes: int = MAX_BODY_BYTES) -> Header:
    """Receive the head of a frame."""
    raw = bytearray(HEADER_BYTES)
    receive_exactly(line, memoryview(raw))
    return unpack_header(raw, max_body_bytes)


def load_json(head: Header, body: memoryview | bytearray) -> Any:
    """Read a JSON body."""
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise WireError(f"the body of operation {head.op} is not JSON") from None


def error_body(error: FleetError) -> dict[str, str]:
    """Return an error as the JSON body of ERROR."""
    return {"kind": type(error).__name__, "what": error.what, "at": error.at, "fix": error.fix}


def raise_error(body: dict[str, str]) -> None:
    """Raise the error that a server sent."""
    kind = _KINDS.get(body["kind"], FleetError)
    raise kind(body["what"], at=body["at"], fix=body["fix"])


def _proof(secret: str, side: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.new(secret.encode(), side + first + second, hashlib.sha256).digest()


def greet_client(line: Line, secret: str, welcome: Callable[[Header], dict[str, Any]]) -> Header:
    """Server's side of the handshake: challenge, check the proof, prove itself; return the client's PROOF header.

    Args:
        welcome: called with the PROOF of one who knows the secret; returns what the server tells of itself (``server``,
            ``num_servers``, ``world_size``...), or raises the ConfigError with which the trainer is refused.

    Raises:
        WireError: the proof is wrong or missing, or the trainer was refused. Nothing larger than MAX_GREETING_BYTES was read.
    """
    mine = os.urandom(32)
    send(line, Header(CHALLENGE), [mine])
    head = receive_header(line, MAX_GREETING_BYTES)
    if head.op != PROOF or head.body_bytes != 64:
        raise WireError("expected the proof of the job secret")
    body = bytearray(64)
    receive_exactly(line, memoryview(body))
    theirs, proof = bytes(body[:32]), bytes(body[32:])
    if not hmac.compare_digest(proof, _proof(secret, b"fleet client", mine, theirs)):
        fix = "start trainers and servers with the same FLEET_SECRET"
        _refuse(line, ConfigError("the job secret is wrong", at="FLEET_SECRET", fix=fix))
    try:
        about = welcome(head)
    except ConfigError as error:
        _refuse(line, error)
    send(line, Header(WELCOME), [_proof(secret, b"fleet server", theirs, mine), json.dumps(about).encode()])
    return head


def _refuse(line: Line, why: FleetError) -> NoReturn:
    send_json(line, Header(ERROR), error_body(why))
    raise WireError(why.what)


def greet_server(line: Line, secret: str, trainer: int, incarnation: int, job: int = 0) -> dict[str, Any]:
    """Client's side of the handshake; return what the server says about itself.

    Raises:
        ConfigError: the server refuses the secret, or does not know it.
        WireError: the other side does not speak this protocol.
    """
    head = receive_header(line, MAX_GREETING_BYTES)
    if head.op != CHALLENGE or head.body_bytes != 32:
        raise WireError("expected a challenge")
    theirs = bytearray(32)
    receive_exactly(line, memoryview(theirs))
    mine = os.urandom(32)
    proof = _proof(secret, b"fleet client", bytes(theirs), mine)
    send(line, Header(PROOF, trainer=trainer, incarnation=incarnation, sequence=job), [mine, proof])
    head = receive_header(line, MAX_GREETING_BYTES)
    body = bytearray(head.body_bytes)
    receive_exactly(line, memoryview(body))
    if head.op == ERROR:
        raise_error(json.loads(body))
    if head.op != WELCOME or not hmac.compare_digest(bytes(body[:32]), _proof(secret, b"fleet server", mine, bytes(theirs))):
        fix = "check that FLEET_SERVERS names this job's servers"
        raise ConfigError("the server does not know the job secret", at="FLEET_SECRET", fix=fix)
    about: dict[str, Any] = json.loads(body[32:])
    return about
