"""Which Ray cluster a run uses: the one this process is connected to, one that answers at an address, or one of its own."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fleet.errors import ConfigError
from fleet.fanout import machine
from fleet.fanout.backends import own_cluster
from fleet.fanout.backends.protocol import Opening

ANSWER_S = 10  # within which an address must answer; Ray itself tries for 81 s and then ends the process [measured, 2.60]
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # of HTTP/2, with no settings
_SETTINGS = 4  # the kind of frame with which every gRPC server begins
_QUIET = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}

_lock = threading.Lock()  # guards the three below, and that one thread at a time connects
_users = 0  # runs on the connection that fleet made: Ray has one for each process
_connected_to = ""
_keeper: subprocess.Popen[bytes] | None = None


def connect(ray: Any, given: Any, opening: Opening) -> bool:
    """Connect this process, if it is not; return whether the run must `leave` the connection.

    Raises:
        ConfigError: the address does not answer, the process is connected to another cluster, or ``given`` is none.
    """
    global _users, _connected_to
    with _lock:
        address = _address_of(given)
        if ray.is_initialized():
            there = ray.get_runtime_context().gcs_address
            if address not in ("", "auto", there, _connected_to):
                what = f"this process is connected to the Ray cluster {there}, and Ray has one connection for each process"
                raise ConfigError(what, at=f"cluster={address!r}", fix="leave cluster= out, or call ray.shutdown() before")
            _users += _users > 0
            return _users > 0
        asked = os.environ.get("RAY_ADDRESS", "") if address in ("", "auto") else ""
        address = asked or address
        if address == "local" or not (address or _newest()):
            _start(ray, opening)
        else:
            _join(ray, address, at="RAY_ADDRESS" if asked else "cluster=")
        _users, _connected_to = 1, address
        return True


def leave(ray: Any) -> None:
    """Disconnect, after the last run that uses the connection; a cluster of our own ends with it."""
    global _users, _keeper
    with _lock:
        _users -= 1
        if _users:
            return
        ray.shutdown()
        if _keeper is not None:
            own_cluster.end(_keeper)
            _keeper = None


def _address_of(given: Any) -> str:
    found = getattr(given, "address", given)  # of a ray.cluster_utils.Cluster
    if hasattr(given, "address_info"):  # what ray.init() returned: this process is connected to it
        found = given.address_info["gcs_address"]
    if given is not None and not (isinstance(found, str) and found):
        what = f"cluster= of the ray backend is an address or what ray.init() returned, got a {type(given).__name__}"
        raise ConfigError(what, at="fleet.spread()", fix='cluster="10.0.0.1:6379", "ray://10.0.0.1:10001", "auto", or leave it out')
    return found or ""


def _newest() -> str:
    """Return the address of the cluster that was last started on this machine with ``ray start``, if it answers."""
    path = os.path.join(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    try:
        with open(os.path.join(path, "ray_current_cluster")) as file:
            address = file.read().strip()
    except OSError:
        return ""
    return address if address and not _silence(address) else ""


def _join(ray: Any, address: str, at: str) -> None:
    found = address in ("", "auto")
    where = _newest() if found else address
    if not where:
        raise ConfigError("no Ray cluster runs on this machine", at=at, fix="ray start --head, or leave cluster= out")
    fix = "see that its head runs and the port is Ray's; without cluster= one is started here"
    if why := _silence(where):
        raise ConfigError(f"the Ray cluster {where!r} did not answer within {ANSWER_S} s: {why}", at=at, fix=fix)
    try:
        with _as_it_was():
            ray.init(address="auto" if found else where, **({} if "://" in where else _QUIET))  # only "auto" finds the token
    except (OSError, ValueError, RuntimeError) as error:
        fix = "see the head's gcs_server.out; a head that asks for a token (as of 2.60) wants RAY_AUTH_MODE=token here too"
        raise ConfigError(f"the Ray cluster {where!r} refused this process: {error}", at=at, fix=fix) from error


def _start(ray: Any, opening: Opening) -> None:
    """Start Ray on this machine. Its token (new with 2.60) stays on: a port of Ray's runs whatever it is sent."""
    global _keeper
    run = f"{os.getpid()}-{os.urandom(6).hex()}"
    cores = max(machine.usable_cpus(), math.ceil((opening.workers or 1) * opening.cpus))
    usage = os.environ.get("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send them out
    _keeper = own_cluster.start_keeper(run)
    try:
        with _as_it_was(), own_cluster.environment(run, {"RAY_USAGE_STATS_ENABLED": usage}):
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **_QUIET)
    except BaseException:
        own_cluster.end(_keeper)
        _keeper = None
        raise


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what ray.init does to this process: RAY_AUTH_MODE=token, which children would inherit, and a handler of SIGTERM."""
    mode, main = os.environ.get("RAY_AUTH_MODE"), threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if mode is None:
            os.environ.pop("RAY_AUTH_MODE", None)
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _silence(address: str) -> str:
    """Return why nothing that speaks gRPC answers at an address, "" if something does."""
    host, _, port = address.rpartition("://")[2].partition("?")[0].rpartition(":")
    if not (host and port.isdigit()):
        return "it is no HOST:PORT"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S / 2) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""
            connection.settimeout(ANSWER_S / 2)
            connection.sendall(_PREFACE)
            head = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, OverflowError) as error:
        return str(error)
    return "" if len(head) == 9 and head[3] == _SETTINGS else "something else than Ray listens there"
