"""The server process: ``python -m fleet.parameter_server.server``, started by the launcher.

One thread per connection, so that a pull that waits for a step keeps nobody else waiting; the kernels release the GIL.
It runs no user script and never imports paddle.
"""

from __future__ import annotations

import contextlib
import faulthandler
import socket
import sys
import threading
import traceback
from typing import Any

import numpy as np

from fleet import env, logger
from fleet.errors import ConfigError, FleetError, PeerLost, TableError
from fleet.parameter_server import endpoint, wire
from fleet.parameter_server.service import Service
from fleet.parameter_server.tables import Gradient, Keys, Values

GREETING_S = 10.0  # to prove the secret
BODY_S = 30.0  # silence inside a frame
RETURN_S = 6.0  # for a trainer whose line broke to come back; more than link.RECONNECT_S
CHUNK_BYTES = 256 << 10  # rows gathered between two sends: they are still in the L2 cache when the kernel copies them


class Server:
    """Accepts trainers on one endpoint and does what they ask.

    Args:
        address: where to listen.
        secret: the job secret; a connection that does not prove it is closed.
    """

    def __init__(self, address: str, secret: str, service: Service) -> None:
        if not secret:
            raise ConfigError("a server needs the job secret", at="FLEET_SECRET", fix="start servers with python -m fleet.launch, "
                              "or set the same FLEET_SECRET for servers and trainers")  # fmt: skip
        self._secret, self._service = secret, service
        self._listener = endpoint.listen(address)
        self._guard = threading.Lock()  # guards the two below
        self._lines_of: dict[int, int] = {}  # trainer -> how many times it connected
        self._ended: set[int] = set()
        self.all_ended = threading.Event()  # every trainer has said BYE

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            # Joined by nobody: a connection's thread ends with its connection, the process with the job.
            threading.Thread(target=self._attend, args=(line,), daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _attend(self, line: socket.socket) -> None:
        trainer = -1
        try:
            with line:
                endpoint.tune(line)
                line.settimeout(GREETING_S)
                about = {"server": self._service.server, "num_servers": self._service.num_servers}
                head = wire.greet_client(line, self._secret, about)
                trainer = head.trainer
                with self._guard:
                    self._lines_of[trainer] = life = self._lines_of.get(trainer, 0) + 1
                while self._one_request(line, trainer):
                    pass
        except (OSError, wire.WireError) as error:
            who = f"trainer {trainer}" if trainer >= 0 else "a connection that has not proved the secret"
            logger.warning(f"server {self._service.server}: closed {who}: {error}")
        if trainer >= 0:
            self._wait_for_return(trainer, life)

    def _one_request(self, line: socket.socket, trainer: int) -> bool:
        line.settimeout(None)  # between frames a trainer may compute as long as it likes
        raw = memoryview(bytearray(wire.HEADER_BYTES))
        first = line.recv_into(raw)
        if not first:
            return False
        line.settimeout(BODY_S)
        wire.receive_exactly(line, raw[first:])
        head = wire.unpack_header(raw)
        body = np.empty(head.body_bytes, dtype=np.uint8).data
        wire.receive_exactly(line, body)
        line.settimeout(None)
        try:
            self._answer(line, head._replace(trainer=trainer), body)
        except FleetError as error:
            wire.send_json(line, wire.Header(wire.ERROR, request=head.request), wire.error_body(error))
        except (OSError, wire.WireError):
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours: tell the trainer, keep the trace here
            traceback.print_exc()
            what = f"server {self._service.server} failed: {error!r}"
            bug = PeerLost(what, at=f"server {self._service.server}", fix="see the trace in the server's log")
            wire.send_json(line, wire.Header(wire.ERROR, request=head.request), wire.error_body(bug))
        return True

    def _answer(self, line: socket.socket, head: wire.Header, body: memoryview) -> None:
        service, done = self._service, wire.Header(wire.DONE, request=head.request)
        if head.op == wire.PULL:
            self._answer_pull(line, head, wire.unpack_sections(body, head.num_tables))
        elif head.op == wire.PUSH:
            parts = _numeric(wire.unpack_sections(body, head.num_tables))
            gradients = [Gradient(s.table, keys, values, s.learning_rate) for s, keys, values in parts]
            service.push(head.trainer, head.incarnation, head.sequence, head.step, gradients)
            wire.send_json(line, done, {})
        elif head.op == wire.ASSIGN:
            parts = _numeric(wire.unpack_sections(body, head.num_tables))
            service.assign(head.trainer, head.incarnation, head.sequence, [(s.table, k, v) for s, k, v in parts])
            wire.send_json(line, done, {})
        elif head.op == wire.BYE:
            self._note_end(head.trainer)
            wire.send_json(line, done, {})
        else:
            wire.send_json(line, done, self._answer_json(head, wire.load_json(head, body)))

    def _answer_json(self, head: wire.Header, ask: Any) -> Any:
        service = self._service
        if head.op == wire.TABLE:
            number = service.open(ask["spec"], str(ask["consistency"]), float(ask["timeout_s"]))
            service.consistency.back(head.trainer)
            return {"table": number}
        if head.op == wire.SAVE:
            return service.save(str(ask["directory"]), head.step)
        if head.op == wire.LOAD:
            return service.load(str(ask["directory"]), ask["manifest"])
        if head.op == wire.STATUS:
            return service.status()
        raise wire.WireError(f"operation {head.op} is unknown")

    def _answer_pull(self, line: socket.socket, head: wire.Header, sections: list[wire.Section]) -> None:
        """Send rows in chunks that are gathered and sent while they are in the cache."""
        service = self._service
        size = 0
        for s in sections:
            if s.keys is None or s.dim != service.tables.dim(s.table):
                raise TableError(f"a pull of dim {s.dim} from table {s.table}", at=f"server {service.server}",
                                 fix=f"ask for keys with dim {service.tables.dim(s.table)}")  # fmt: skip
            size += wire.SECTION_BYTES + -(-4 * s.num_keys * s.dim // 8) * 8
        if size > wire.MAX_BODY_BYTES:
            raise TableError(f"{size} bytes of rows in one answer", at=f"server {service.server}", fix="ask for fewer keys at once")
        service.consistency.wait(head.step)
        answer = wire.Header(wire.ROWS, body_bytes=size, num_tables=len(sections), request=head.request)
        line.sendall(wire.pack_header(answer))
        for s in sections:
            keys = np.frombuffer(s.keys or b"", dtype=np.uint64)
            reply = wire.Section(s.table, s.num_keys, s.dim, None, memoryview(b""))
            line.sendall(wire.section_head(reply))
            rows = max(1, CHUNK_BYTES // (4 * s.dim))
            buffer = np.empty((min(rows, s.num_keys), s.dim), dtype=np.float32)
            for start in range(0, s.num_keys, rows):
                part = keys[start : start + rows]
                service.tables.pull(s.table, part, buffer[: len(part)], bool(head.flags & wire.CREATE))
                line.sendall(buffer[: len(part)].data.cast("B"))
            line.sendall(wire.padding(reply))

    def _note_end(self, trainer: int) -> None:
        with self._guard:
            self._ended.add(trainer)
            if len(self._ended) >= self._service.tables.world_size:
                self.all_ended.set()

    def _wait_for_return(self, trainer: int, life: int) -> None:
        """Give a trainer whose line broke time to come back before the others stop waiting for it."""
        if trainer in self._ended:
            return
        self.all_ended.wait(RETURN_S)
        with self._guard:
            gone = self._lines_of[trainer] == life and trainer not in self._ended
        if gone:
            with contextlib.suppress(ConfigError):  # it never opened a table
                self._service.consistency.lost(trainer, f"trainer {trainer} lost its connection")


def _numeric(sections: list[wire.Section]) -> list[tuple[wire.Section, Keys, Values]]:
    found = []
    for s in sections:
        if s.keys is None or s.values is None:
            raise wire.WireError(f"table {s.table} comes without keys or values")
        keys = np.frombuffer(s.keys, dtype=np.uint64)
        values = np.frombuffer(s.values, dtype=np.float32).reshape(s.num_keys, s.dim)
        found.append((s, keys, values))
    return found


def run(role: env.Role) -> None:
    """Serve as ``role`` says until every trainer has ended.

    Raises:
        ConfigError: the environment names no endpoint or no secret, or the endpoint is taken.
    """
    if not role.is_server:
        fix = "start servers with python -m fleet.launch --server_num N"
        raise ConfigError("this process is not a server", at="FLEET_ROLE", fix=fix)
    if not 0 <= role.server_index < len(role.servers):
        what = f"there is no endpoint for server {role.server_index}"
        raise ConfigError(what, at="FLEET_SERVERS", fix="give one endpoint a server")
    service = Service(role.server_index, len(role.servers), role.world_size)
    address = role.servers[role.server_index]
    server = Server(address, env.get("FLEET_SECRET"), service)
    print(f"server {role.server_index} of {len(role.servers)}: listens on {address} for {role.world_size} trainers", flush=True)
    accepting = threading.Thread(target=server.serve, daemon=True)  # ended by close(), joined below
    accepting.start()
    server.all_ended.wait()
    print(f"server {role.server_index}: all trainers have ended; {service.status()}", flush=True)
    if env.get("FLEET_RUN_ID"):  # the launcher ends its servers: one that ends by itself would look like a failure
        accepting.join()
    server.close()
    accepting.join(5)


def main() -> int:
    """Run the server that the environment describes; return its exit status."""
    faulthandler.enable()
    try:
        run(env.detect())
    except FleetError as error:
        print(f"{type(error).__module__}.{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
