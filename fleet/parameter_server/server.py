"""The server process: ``python -m fleet.parameter_server.server``, started by the launcher.

One thread per connection, so that a pull that waits for a step keeps nobody else waiting; the kernels release the GIL.
It runs no user script and never imports paddle.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from typing import Any

import numpy as np

from fleet import env, logger, recovery
from fleet.errors import ConfigError, FleetError, PeerLost
from fleet.parameter_server import endpoint, native, prometheus, replies, wire
from fleet.parameter_server.ledger import Ledger
from fleet.parameter_server.service import Service
from fleet.parameter_server.snapshot import manifest

GREETING_S = 10.0  # to prove the secret
BODY_S = 30.0  # silence inside a frame
MAX_GREETINGS = 256  # connections that have not proved the secret yet; the oldest makes room for one more
RETURN_S = 6.0  # for a trainer whose line broke to come back; more than link.RECONNECT_S
RESTART_S = 60.0  # the same where the launcher starts trainers again


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
        self._closed = False
        self._guard = threading.Condition()  # guards the five below; notified when a trainer is gone
        self._greeting: dict[socket.socket, None] = {}  # lines that have not proved the secret, oldest first
        self._lines_of: dict[int, int] = {}  # trainer -> how many times it connected
        self._ended: set[int] = set()
        self._job: int | None = None  # number of the job that the tables are of
        self._present: set[int] = set()  # its trainers that are connected or may come back
        self.all_ended = threading.Event()  # every trainer has said BYE

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        while not self._closed:
            try:
                line, _ = self._listener.accept()
                self._make_room(line)
                # Joined by nobody: a connection's thread ends with its connection, the process with the job.
                threading.Thread(target=self._attend, args=(line,), daemon=True).start()
            except (OSError, RuntimeError) as error:  # a caller that hung up already, no more descriptors or threads
                if not self._closed:
                    logger.warning(f"server {self._service.server}: cannot accept a connection: {error}")
                    time.sleep(0.1)  # the next one may find what this one lacked

    def close(self) -> None:
        """Stop accepting."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _make_room(self, line: socket.socket) -> None:
        with self._guard:
            self._greeting[line] = None
            if len(self._greeting) > MAX_GREETINGS:
                oldest = next(iter(self._greeting))
                del self._greeting[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its own thread notices and closes it

    def _attend(self, line: socket.socket) -> None:
        trainer, incarnation, life = -1, 0, 0

        def welcome(head: wire.Header) -> dict[str, Any]:
            nonlocal trainer, incarnation, life
            life = self._admit(head)
            trainer, incarnation = head.trainer, head.incarnation
            return self._service.about

        try:
            with line:
                endpoint.tune(line)
                line.settimeout(GREETING_S)
                wire.greet_client(line, self._secret, welcome)
                endpoint.limit_silence(line, BODY_S)
                with self._guard:
                    self._greeting.pop(line, None)
                while self._one_request(line, trainer, incarnation):
                    pass
        except (OSError, MemoryError, wire.WireError) as error:
            who = f"trainer {trainer}" if trainer >= 0 else "a connection that has not proved the secret"
            why = "it fell silent inside a frame" if isinstance(error, (TimeoutError, BlockingIOError)) else error
            logger.warning(f"server {self._service.server}: closed {who}: {why}")
        finally:
            with self._guard:
                self._greeting.pop(line, None)
        if trainer >= 0:
            self._wait_for_return(trainer, life)

    def _admit(self, head: wire.Header) -> int:
        """Take a trainer of this job, or of the next one once nobody is left of the one before; return which line of its this is.

        Raises:
            ConfigError: another job is on, or the rank is none of this one's.
        """
        service, until = self._service, time.monotonic() + RETURN_S + 1
        if head.trainer >= service.tables.world_size:
            fix = "give servers and trainers the same number of trainers"
            what = f"there is no trainer {head.trainer}: this server works for {service.tables.world_size}"
            raise ConfigError(what, at=f"server {service.server}", fix=fix)
        with self._guard:
            while self._job not in (None, head.sequence) and self._present:
                if not self._guard.wait(max(0.0, until - time.monotonic())):
                    there = ", ".join(f"trainer {trainer}" for trainer in sorted(self._present))
                    fix = "end that job first, or start servers for this one"
                    raise ConfigError(f"another job is on here, with {there}", at=f"server {service.server}", fix=fix)
            if self.all_ended.is_set():  # this server ends; another may take its place
                raise ConnectionAbortedError("the job has ended")
            if self._job != head.sequence:
                if self._job is not None:
                    logger.warning(f"server {service.server}: a new job: the tables of the one before are cleared")
                    service.clear()
                    self._ended.clear()
                self._job = head.sequence
            self._present.add(head.trainer)
            self._lines_of[head.trainer] = self._lines_of.get(head.trainer, 0) + 1
            service.incarnations[head.trainer] = max(head.incarnation, service.incarnations.get(head.trainer, 0))
            return self._lines_of[head.trainer]

    def _one_request(self, line: socket.socket, trainer: int, incarnation: int) -> bool:
        raw = memoryview(bytearray(wire.HEADER_BYTES))
        first = 0
        while not first:
            try:
                first = line.recv_into(raw)
            except BlockingIOError:
                continue  # between frames a trainer may compute as long as it likes
            if not first:
                return False
        wire.receive_exactly(line, raw[first:])
        head = wire.unpack_header(raw)
        body = np.empty(head.body_bytes, dtype=np.uint8).data  # fresh: what is pushed may be kept
        wire.receive_exactly(line, body)
        try:
            # Who speaks was settled in the handshake, whatever this frame says.
            replies.reply(self._service, line, head._replace(trainer=trainer, incarnation=incarnation), body)
            if head.op == wire.BYE:
                self._note_end(trainer)
        except FleetError as error:
            wire.send_json(line, wire.Header(wire.ERROR, request=head.request), wire.error_body(error))
        except wire.WireError as error:  # the frame ended where it said, so the line can go on
            logger.warning(f"server {self._service.server}: refused a frame of trainer {trainer}: {error}")
            refused = ConfigError(str(error), at=f"server {self._service.server}", fix="send what docs/wire.md describes")
            wire.send_json(line, wire.Header(wire.ERROR, request=head.request), wire.error_body(refused))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours: tell the trainer, keep the trace here
            traceback.print_exc()
            what = f"server {self._service.server} failed: {error!r}"
            bug = PeerLost(what, at=f"server {self._service.server}", fix="see the trace in the server's log")
            wire.send_json(line, wire.Header(wire.ERROR, request=head.request), wire.error_body(bug))
        return True

    def _note_end(self, trainer: int) -> None:
        with contextlib.suppress(ConfigError):  # it never opened a table
            self._service.consistency.ended(trainer)
        with self._guard:
            self._ended.add(trainer)
            self._leave(trainer)
            if len(self._ended) >= self._service.tables.world_size:
                self.all_ended.set()

    def _leave(self, trainer: int) -> None:
        self._present.discard(trainer)
        self._guard.notify_all()

    def _wait_for_return(self, trainer: int, life: int) -> None:
        """Give a trainer whose line broke time to come back before the others stop waiting for it."""
        if trainer in self._ended:
            return
        self.all_ended.wait(RESTART_S if recovery.restarts("trainer") else RETURN_S)
        with self._guard:
            gone = self._lines_of[trainer] == life and trainer not in self._ended
            if gone:
                self._leave(trainer)
        if gone:
            with contextlib.suppress(ConfigError):  # it never opened a table
                self._service.consistency.lost(trainer, f"trainer {trainer} lost its connection")


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
    native.load().set_memory_limit(int(env.get("FLEET_SERVER_MEMORY") or 0))
    service = Service(role.server_index, len(role.servers), role.world_size)
    if recovery.restarts("server") and env.get("FLEET_LOG_DIR"):
        _carry_on(service, env.get("FLEET_LOG_DIR"))
    address = role.servers[role.server_index]
    server = Server(address, env.get("FLEET_SECRET"), service)
    print(f"server {role.server_index} of {len(role.servers)}: listens on {address} for {role.world_size} trainers", flush=True)
    if env.get("FLEET_METRICS_PORT"):
        _serve_metrics(env.get("FLEET_METRICS_PORT"), service)
    accepting = threading.Thread(target=server.serve, daemon=True)  # ended by close(), joined below
    accepting.start()
    server.all_ended.wait()
    print(f"server {role.server_index}: all trainers have ended; {service.tables.status()}", flush=True)
    if env.get("FLEET_RUN_ID"):  # the launcher ends its servers: one that ends by itself would look like a failure
        accepting.join()
    server.close()
    accepting.join(5)


def _carry_on(service: Service, directory: str) -> None:
    """Keep a ledger in the run's directory; where this server alone was started again, take up the last snapshot.

    Raises:
        SnapshotError: it cannot be read.
    """
    service.ledger = Ledger(os.path.join(directory, f"server-{service.server}.ledger"))
    if env.get("FLEET_REJOIN") == "1":
        began_s = time.monotonic()
        checkpoint = recovery.read_plan(directory).checkpoint
        lives = {t: recovery.read_incarnation(directory, t) for t in range(service.tables.world_size)}
        # As if they were connected: a checkpoint of another run may know lives that a clock set back since made later ones.
        service.incarnations = {t: life for t, life in lives.items() if life}
        if checkpoint:
            tables = os.path.join(checkpoint, "tables")
            service.resume(manifest.chain(tables))
        where = f"carries on from {os.path.basename(checkpoint)}" if checkpoint else "has no snapshot: every row begins anew"
        lost = service.ledger.lost(service.tables.applied) or "nothing"
        line = f"server {service.server} was started again and {where}; lost: {lost}"
        logger.warning(f"{line} (loaded in {time.monotonic() - began_s:.1f} s)")
        recovery.note_loss(directory, service.server, line)
    service.ledger.clear()


def _serve_metrics(base: str, service: Service) -> None:
    if not base.isdigit() or not 1 <= int(base) + service.server <= 65535:
        raise ConfigError(f"{base!r} is no port", at="FLEET_METRICS_PORT", fix="give a number of 1 to 65535: server k takes it + k")
    source = lambda: prometheus.text(service.status(), service.statistics.total())  # noqa: E731
    port = prometheus.serve(int(base) + service.server, source, "FLEET_METRICS_PORT")
    print(f"server {service.server}: metrics at http://127.0.0.1:{port}/metrics", flush=True)


def main() -> int:
    """Run the server that the environment describes; return its exit status."""
    faulthandler.enable()
    logger.logger()  # now: it imports a module, which a server that has run out of descriptors cannot
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
