"""One trainer's way to one server: over a socket (SocketLink), or in its own process (LocalLink).

One request is under way at a time. ``ask_pull`` and ``take_pull`` are apart, so that a client can ask all servers before
it waits for one; ``ask_push`` and ``take_push``, so that it can make the next message meanwhile. A line that breaks is
connected again and the request is sent again: pulls change nothing that a second one would not, and pushes carry a sequence
that counts once.

A server that was started again tells of another *life*. If the job carries on, the link opens its tables there once more, and
goes on with the request; what counts of it, the server's snapshot decides. Else nobody may talk to it: its rows are not ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from fleet import __version__, env, logger
from fleet.errors import ConfigError, FleetError, PeerLost
from fleet.parameter_server import endpoint, native, sections, wire
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.service import Service
from fleet.parameter_server.tables import Gradient, Keys, Values
from fleet.parameter_server.watched import WatchedLine

CONNECT_S = 60.0  # a server that is starting
RECONNECT_S = 4.0  # a server that was there and is not started again: a line that stays broken means that it died
GREETING_S = 10.0  # for one try of the handshake
MAX_ATTEMPTS = 10  # lines that break one after the other in the same request
ANSWER_MARGIN_S = 15.0  # beyond timeout_s, for the server to say itself whom it waits for

Result = TypeVar("Result")
Wanted = tuple[int, int, Keys, str]  # of a pull: a table's number, dim and keys, and how its rows come over the wire


class Link(Protocol):
    """What the client asks of one server."""

    life: str  # of the server: another one once it was started again

    def open(self, spec: dict[str, Any], mode: Mode, timeout_s: float) -> int: ...
    def ask_pull(self, step: int, create: bool, wanted: list[Wanted]) -> None: ...
    def take_pull(self, outs: list[Values]) -> None: ...
    def ask_push(self, sequence: int, step: int, gradients: list[Gradient]) -> None: ...
    def take_push(self) -> None: ...
    def assign(self, sequence: int, table: int, keys: Keys, values: Values) -> None: ...
    def save(self, ask: dict[str, Any], step: int) -> dict[str, Any]: ...
    def load(self, ask: dict[str, Any]) -> dict[str, int]: ...
    def end_load(self, apply: bool) -> None: ...
    def shrink(self, below: float, step: int) -> dict[str, int]: ...
    def status(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
    def forget(self) -> None: ...


class LocalLink:
    """A server in the trainer's own process: no bytes, no thread; values are rounded as on the way to another one."""

    def __init__(self, service: Service, incarnation: int) -> None:
        self._service, self._incarnation = service, incarnation
        self.life = ""
        service.incarnations[0] = incarnation
        self._asked: tuple[int, bool, list[Wanted]] = (0, False, [])

    def open(self, spec: dict[str, Any], mode: Mode, timeout_s: float) -> int:
        return self._service.open(spec, mode, timeout_s)

    def ask_pull(self, step: int, create: bool, wanted: list[Wanted]) -> None:
        self._asked = step, create, wanted

    def take_pull(self, outs: list[Values]) -> None:
        step, create, wanted = self._asked
        self._service.pull(0, step, create, [(table, keys, out) for (table, _, keys, _), out in zip(wanted, outs, strict=True)])
        for (table, _, _, dtype), out in zip(wanted, outs, strict=True):
            if dtype == "float32":
                continue
            out[...], bad = sections.rounded(self._service.tables.core, out, dtype)
            if bad and dtype == "float16":
                raise self._service.tables.beyond_float16(table, bad)

    def ask_push(self, sequence: int, step: int, gradients: list[Gradient]) -> None:
        core = self._service.tables.core  # what becomes infinite here is refused below, as on a server
        gradients = [g._replace(values=sections.rounded(core, g.values, g.dtype)[0]) for g in gradients]
        self._service.push(0, self._incarnation, sequence, step, gradients)

    def take_push(self) -> None:
        pass

    def assign(self, sequence: int, table: int, keys: Keys, values: Values) -> None:
        self._service.assign(0, self._incarnation, sequence, [(table, keys, values)])

    def save(self, ask: dict[str, Any], step: int) -> dict[str, Any]:
        return self._service.save(0, ask, step)

    def load(self, ask: dict[str, Any]) -> dict[str, int]:
        return self._service.load(ask)

    def end_load(self, apply: bool) -> None:
        self._service.end_load(apply)

    def shrink(self, below: float, step: int) -> dict[str, int]:
        return self._service.shrink(0, below, step)

    def status(self) -> dict[str, Any]:
        return self._service.status()

    def close(self) -> None:
        pass

    def forget(self) -> None:
        pass


class SocketLink:
    """A server behind a socket. Not thread-safe: the client's one thread uses it.

    Args:
        return_s: how long a server that was lost may take to be started again; 0: it is not, or not for this job.
        job: number of the job, the same on all trainers; a server clears its tables between two jobs.

    Raises (every method):
        PeerLost: the server died or does not answer; start the job again.
        ConfigError, TableError, SnapshotError: the server refused; retrying fails again.
    """

    def __init__(self, address: str, server: int, secret: str, trainer: int, incarnation: int, timeout_s: float,
                 num_servers: int, return_s: float = 0.0, job: int = 0) -> None:  # fmt: skip
        self._num_servers, self._return_s, self._timeout_s = num_servers, return_s, timeout_s
        self._address, self._server, self._secret = address, server, secret
        self._trainer, self._incarnation, self._job = trainer, incarnation, job
        self._answer_s = timeout_s + ANSWER_MARGIN_S
        self.life = self._opened_in = ""  # of the server: the one that answers, and the one that knows this trainer's tables
        self._opened: list[dict[str, Any]] = []  # what was asked for each table; its place here is its number for the client
        self._numbers: list[int] = []  # and this its number in the server's present life
        self._request = 0
        self._core = native.load()
        self._coming: list[str] = []  # dtypes of the rows that were asked for
        self._resend: Callable[[], None] = lambda: None  # sends the request under way
        self._line = self._connect(CONNECT_S)
        self._opened_in = self.life

    def open(self, spec: dict[str, Any], mode: Mode, timeout_s: float) -> int:
        ask = {"spec": spec, "consistency": mode.name, "staleness": mode.staleness, "when_full": mode.when_full,
               "timeout_s": timeout_s}  # fmt: skip
        number = int(self._call_json(wire.Header(wire.TABLE), ask)["table"])
        self._opened.append(ask)
        self._numbers.append(number)
        return len(self._opened) - 1

    def ask_pull(self, step: int, create: bool, wanted: list[Wanted]) -> None:
        head = self._head(wire.Header(wire.PULL, flags=wire.CREATE if create else 0, step=step))
        self._coming = [dtype for _, _, _, dtype in wanted]
        self._send_sections(head, [wire.Section(t, len(keys), dim, _bytes(keys), None, dtype=d) for t, dim, keys, d in wanted])

    def take_pull(self, outs: list[Values]) -> None:
        self._retry(lambda: self._read_rows(outs))

    def ask_push(self, sequence: int, step: int, gradients: list[Gradient]) -> None:
        head = self._head(wire.Header(wire.PUSH, sequence=sequence, step=step))
        self._send_sections(head, [_section(self._core, g) for g in gradients])

    def take_push(self) -> None:
        self._retry(self._read_json)

    def assign(self, sequence: int, table: int, keys: Keys, values: Values) -> None:
        head = self._head(wire.Header(wire.ASSIGN, sequence=sequence))
        section = wire.Section(table, len(keys), values.shape[1], _bytes(keys), _bytes(values))
        self._send_sections(head, [section])
        self._retry(self._read_json)

    def save(self, ask: dict[str, Any], step: int) -> dict[str, Any]:
        found: dict[str, Any] = self._call_json(wire.Header(wire.SAVE, step=step), ask, patient=True)
        return found

    def load(self, ask: dict[str, Any]) -> dict[str, int]:
        found: dict[str, int] = self._call_json(wire.Header(wire.LOAD), ask, patient=True)
        return found

    def end_load(self, apply: bool) -> None:
        life = self.life
        self._call_json(wire.Header(wire.LOAD), {"apply": apply})
        if apply and life != self.life:  # the part that it had read died with it
            what = f"server {self._server} was lost while a snapshot was loaded"
            raise PeerLost(what, at=self._name(), fix="start the job again")

    def shrink(self, below: float, step: int) -> dict[str, int]:
        found: dict[str, int] = self._call_json(wire.Header(wire.SHRINK, step=step), {"below": below}, patient=True)
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._call_json(wire.Header(wire.STATUS), {})
        return found

    def close(self) -> None:
        """Say that this trainer has ended; a server that is gone already is no error."""
        try:
            self._line.settimeout(2)
            wire.send_json(self._line, self._head(wire.Header(wire.BYE)), {})
            self._read_json()  # to the last byte: closing over unread bytes resets the line
        except (OSError, ValueError, FleetError, wire.WireError):
            pass  # the job is over either way
        self._line.close()

    def forget(self) -> None:
        """In a forked child: close the inherited socket without a word."""
        self._line.forget()

    def _head(self, head: wire.Header) -> wire.Header:
        self._request += 1
        return head._replace(trainer=self._trainer, incarnation=self._incarnation, request=self._request & 0xFFFFFFFF)

    def _call_json(self, head: wire.Header, ask: Any, patient: bool = False) -> Any:
        head = self._head(head)
        self._send(lambda: wire.send_json(self._line, head, ask))
        self._line.patient = patient  # writing or reading a table takes as long as the disk takes
        try:
            return self._retry(self._read_json)
        finally:
            self._line.patient = False

    def _send_sections(self, head: wire.Header, sections: list[wire.Section]) -> None:
        def send() -> None:
            now = [s._replace(table=self._numbers[s.table]) for s in sections]  # another life may number them otherwise
            wire.send_sections(self._line, head, now)

        self._send(send)

    def _send(self, send: Callable[[], None]) -> None:
        self._resend = send
        self._line.expect()
        try:
            send()
        except TimeoutError:
            raise self._silent() from None
        except OSError as error:
            self._reconnect(error)

    def _retry(self, read: Callable[[], Result]) -> Result:
        attempts = 0
        while True:
            try:
                return read()
            except TimeoutError:
                raise self._silent() from None
            except OSError as error:
                attempts += 1
                if attempts > MAX_ATTEMPTS:  # it lives, but closes the line whenever it reads this request
                    raise self._died(error) from None
                self._reconnect(error)
            except wire.WireError as error:
                raise PeerLost(str(error), at=self._name(), fix="check that FLEET_SERVERS names this job's servers") from None

    def _reconnect(self, why: OSError) -> None:
        patient = self._line.patient
        self._line.close()
        if self._return_s:
            logger.warning(f"server {self._server} was lost ({why}); waiting up to {self._return_s:.0f} s for its return")
        deadline = time.monotonic() + (self._return_s or RECONNECT_S)
        while True:
            self._line = self._connect(max(0.05, deadline - time.monotonic()), why)
            try:
                if self._opened_in != self.life:
                    self._open_again()
                self._line.patient = patient
                self._resend()
                return
            except OSError as error:
                why = error
                self._line.close()
                if time.monotonic() > deadline:
                    raise self._died(error) from None
                time.sleep(0.05)

    def _open_again(self) -> None:
        """Open this trainer's tables in another life of the server."""
        for place, ask in enumerate(self._opened):
            wire.send_json(self._line, wire.Header(wire.TABLE, request=self._request & 0xFFFFFFFF), ask)
            self._numbers[place] = int(self._read_json()["table"])
        self._opened_in = self.life
        logger.warning(f"server {self._server} is back in another life; going on with it")

    def _connect(self, patience_s: float, why: OSError | None = None) -> WatchedLine:
        deadline, pause_s = time.monotonic() + patience_s, 0.002
        while True:
            try:
                line = endpoint.connect(self._address, GREETING_S)
                self._check(wire.greet_server(line, self._secret, self._trainer, self._incarnation, self._job))
                return WatchedLine(line, self._address, self._server, self._timeout_s, self._answer_s)
            except wire.OtherVersion as error:
                raise ConfigError(str(error), at=self._name(), fix="install the same fleet everywhere") from None
            except wire.WireError as error:
                raise PeerLost(str(error), at=self._name(), fix="check that FLEET_SERVERS names this job's servers") from None
            except OSError as error:
                if time.monotonic() > deadline:
                    raise self._died(why or error) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.1)

    def _check(self, about: dict[str, Any]) -> None:
        """Refuse a server that is not the one expected here."""
        if about.get("fleet") != __version__:
            what = f"server {self._server} runs fleet {about.get('fleet', 'of an older version')}, this trainer fleet {__version__}"
            raise ConfigError(what, at=self._name(), fix="install the same fleet everywhere")
        mine, its = (self._server, self._num_servers), (about["server"], about["num_servers"])
        if mine != its:  # rows would go to servers that other trainers do not ask for them
            fix = "list the same servers in the same order everywhere"
            what = f"{self._address} is server {its[0]} of {its[1]}, not {mine[0]} of {mine[1]}"
            raise ConfigError(what, at="FLEET_SERVERS", fix=fix)
        if self.life not in ("", about["life"]) and not self._return_s:
            what = f"another process answers in the place of server {self._server}, and its rows are not this job's"
            raise PeerLost(what, at=self._name(), fix=f"{self._log()} for the cause, and start the job again")
        self.life = about["life"]

    def _read_rows(self, outs: list[Values]) -> None:
        """Read the whole answer where it belongs, in as few system calls as it comes in pieces."""
        raw = bytearray(wire.HEADER_BYTES)
        parts = [memoryview(raw)]
        places = [sections.place_for(out, dtype) for out, dtype in zip(outs, self._coming, strict=True)]
        for place in places:
            parts += [memoryview(bytearray(wire.SECTION_BYTES)), _bytes(place), memoryview(bytearray(-place.nbytes % 8))]
        size = sum(map(len, parts))
        receive = self._line.recvmsg_into
        came = wire.receive_parts(receive, parts, wire.HEADER_BYTES)
        head = wire.unpack_header(raw)
        if head.op == wire.ERROR:  # its first bytes lie where rows were to go
            begun = b"".join(parts)[wire.HEADER_BYTES : came]
            self._raise_error(begun, head.body_bytes)
        self._check_reply(head)
        if head.op != wire.ROWS or head.num_tables != len(outs) or head.body_bytes != size - wire.HEADER_BYTES:
            raise wire.WireError(f"expected {size} bytes of rows of {len(outs)} tables, got operation {head.op}")
        if came < size:
            wire.receive_parts(receive, _behind(parts, came), size - came)
        for place, out, dtype in zip(places, outs, self._coming, strict=True):
            sections.widen(self._core, place, out, dtype)

    def _read_json(self) -> Any:
        head = wire.receive_header(self._line)
        if head.op == wire.ERROR:
            self._raise_error(b"", head.body_bytes)
        self._check_reply(head)
        body = bytearray(head.body_bytes)
        wire.receive_exactly(self._line, memoryview(body))
        return json.loads(body)

    def _raise_error(self, begun: bytes, size: int) -> None:
        rest = bytearray(max(0, size - len(begun)))
        wire.receive_exactly(self._line, memoryview(rest))
        wire.raise_error(json.loads(begun + rest))

    def _check_reply(self, head: wire.Header) -> None:
        if head.request != self._request & 0xFFFFFFFF:
            raise wire.WireError(f"a reply to request {head.request}, expected {self._request}")

    def _name(self) -> str:
        return f"trainer {self._trainer}, server {self._server} at {self._address}"

    def _log(self) -> str:
        directory = env.get("FLEET_LOG_DIR")
        return f"look at {directory}/server-{self._server}.log" if directory else "look at the server's log"

    def _died(self, why: OSError) -> PeerLost:
        fix = f"{self._log()} for the cause, and start the job again"
        return PeerLost(f"server {self._server} died ({why})", at=self._name(), fix=fix)

    def _silent(self) -> PeerLost:
        return PeerLost(f"server {self._server} has not answered for {self._line.silent_s:.0f} s", at=self._name(),
                        fix=f"{self._log()}; raise timeout_s in the strategy if it is only slow")  # fmt: skip


def _section(core: Any, g: Gradient) -> wire.Section:
    values, _ = sections.narrowed(core, g.values, g.dtype)  # what becomes infinite is refused by the server
    section = wire.Section(g.table, len(g.keys), g.values.shape[1], _bytes(g.keys), _bytes(values), g.learning_rate, dtype=g.dtype)
    return section if g.sightings is None else section._replace(num_sightings=len(g.sightings), sightings=_bytes(g.sightings))


def _bytes(array: Any) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def _behind(parts: list[memoryview], count: int) -> list[memoryview]:
    """Return what is left of buffers once their first ``count`` bytes are filled."""
    left = list(parts)
    while left and count >= len(left[0]):
        count -= len(left.pop(0))
    return [left[0][count:], *left[1:]] if left else []
