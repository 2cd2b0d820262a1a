"""What a server replies to one frame: the sections or the JSON of its body become calls of the service."""

from __future__ import annotations

from typing import Any

import numpy as np

from fleet.errors import FleetError, TableError
from fleet.parameter_server import sections, wire
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.service import Service
from fleet.parameter_server.tables import Gradient

CHUNK_BYTES = 256 << 10  # rows gathered between two sends: they are still in the L2 cache when the kernel copies them


def reply(service: Service, line: wire.Line, head: wire.Header, body: memoryview) -> None:
    """Do what a frame asks for, and send the reply.

    Raises:
        FleetError: it was refused; nothing was sent.
        WireError: the body is not what docs/wire.md says; nothing was sent.
        OSError: the line broke, or a reply broke off.
    """
    done = wire.Header(wire.DONE, request=head.request)
    if head.op == wire.PULL:
        _send_pulled(service, line, head, wire.unpack_sections(body, head.num_tables))
    elif head.op == wire.PUSH:
        gradients = [_gradient(service, s) for s in wire.unpack_sections(body, head.num_tables)]
        service.push(head.trainer, head.incarnation, head.sequence, head.step, gradients)
        wire.send(line, done, (b"{}",))
    elif head.op == wire.ASSIGN:
        parts = wire.unpack_sections(body, head.num_tables)
        if any(s.dtype != "float32" for s in parts):
            raise wire.WireError("ASSIGN takes float32")
        rows = [(s.table, *sections.keys_and_values(service.tables.core, s)) for s in parts]
        service.assign(head.trainer, head.incarnation, head.sequence, rows)
        wire.send_json(line, done, {})
    elif head.op == wire.BYE:
        wire.send_json(line, done, {})
    else:
        wire.send_json(line, done, _answered(service, head, wire.load_json(head, body)))


def _gradient(service: Service, s: wire.Section) -> Gradient:
    keys, values = sections.keys_and_values(service.tables.core, s)
    return Gradient(s.table, keys, values, s.learning_rate, sections.sightings_of(s), s.dtype)


def _answered(service: Service, head: wire.Header, ask: Any) -> Any:
    if not isinstance(ask, dict):
        raise wire.WireError(f"the body of operation {head.op} is no JSON object")
    try:
        return _answer_to(service, head, ask)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # ConfigError is a ValueError
        if isinstance(error, FleetError):
            raise
        raise wire.WireError(f"a field of operation {head.op} is missing or not of its kind: {error!r}") from error


def _answer_to(service: Service, head: wire.Header, ask: dict[str, Any]) -> Any:
    if head.op == wire.TABLE:
        mode = Mode(str(ask["consistency"]), int(ask.get("staleness", 0)), str(ask.get("when_full", "refuse")))
        number = service.open(ask["spec"], mode, float(ask["timeout_s"]))
        service.consistency.back(head.trainer)
        return {"table": number}
    if head.op == wire.SAVE:
        return service.save(head.trainer, ask, head.step)
    if head.op == wire.LOAD:
        if "apply" in ask:
            service.end_load(bool(ask["apply"]))
            return {}
        return service.load(ask)
    if head.op == wire.SHRINK:
        return service.shrink(head.trainer, float(ask["below"]), head.step)
    if head.op == wire.STATUS:
        return service.status()
    raise wire.WireError(f"operation {head.op} is unknown")


def _send_pulled(service: Service, line: wire.Line, head: wire.Header, wanted: list[wire.Section]) -> None:
    """Send rows in chunks that are gathered and sent while they are in the cache."""
    size = 0
    for s in wanted:
        if s.keys is None or s.dim != service.tables.dim(s.table):
            raise TableError(f"a pull of dim {s.dim} from table {s.table}", at=f"server {service.server}",
                             fix=f"ask for keys with dim {service.tables.dim(s.table)}")  # fmt: skip
        size += wire.SECTION_BYTES + -(-wire.VALUE_BYTES[s.dtype] * s.num_keys * s.dim // 8) * 8
    if size > wire.MAX_BODY_BYTES:
        raise TableError(f"{size} bytes of rows in one answer", at=f"server {service.server}", fix="ask for fewer keys at once")
    service.wait(head.trainer, head.step)
    if head.flags & wire.CREATE:
        service.room_to_pull([(s.table, np.frombuffer(s.keys or b"", dtype=np.uint64)) for s in wanted])
    answer = wire.Header(wire.ROWS, body_bytes=size, num_tables=len(wanted), request=head.request)
    # A float16 may be too small for a weight: such an answer goes out once it is known that all fit.
    sender = _Sender(line, wire.pack_header(answer), whole=any(s.dtype == "float16" for s in wanted))
    try:
        with service.statistics.pulling([(s.table, s.num_keys) for s in wanted]):
            _send_rows(service, sender, wanted, bool(head.flags & wire.CREATE))
    except (FleetError, MemoryError) as error:
        if not sender.begun and isinstance(error, FleetError):
            raise
        raise ConnectionAbortedError(f"an answer broke off: {error!r}") from error  # an ERROR would be taken for rows


def _send_rows(service: Service, sender: _Sender, wanted: list[wire.Section], create: bool) -> None:
    tables = service.tables
    for s in wanted:
        keys = np.frombuffer(s.keys or b"", dtype=np.uint64)
        told = wire.Section(s.table, s.num_keys, s.dim, None, memoryview(b""), dtype=s.dtype)
        sender.add(wire.section_head(told))
        rows = max(1, CHUNK_BYTES // (4 * s.dim))
        for start in range(0, s.num_keys, rows):
            part = keys[start : start + rows]
            found = np.empty((len(part), s.dim), dtype=np.float32)
            tables.pull(s.table, part, found, create)
            halves, bad = sections.narrowed(tables.core, found, s.dtype)
            if bad and s.dtype == "float16":
                raise tables.beyond_float16(s.table, bad)
            sender.add(halves.data.cast("B"))
        sender.add(wire.padding(told))
    sender.flush()


class _Sender:
    """Sends an answer in pieces of about CHUNK_BYTES: a small one in a single system call, which wakes its reader once."""

    def __init__(self, line: wire.Line, header: bytes, whole: bool) -> None:
        self._line, self._parts, self._held, self._whole = line, [memoryview(header)], 0, whole
        self.begun = False  # something went out

    def add(self, part: bytes | memoryview) -> None:
        if len(part):
            self._parts.append(memoryview(part))
            self._held += len(part)
        if self._held >= CHUNK_BYTES and not self._whole:
            self.flush()

    def flush(self) -> None:
        self.begun = True
        wire.send_parts(self._line, self._parts)
        self._parts, self._held = [], 0
