"""What the processes of one run need to meet: a run id, a secret, a private directory for sockets, ports.

**Ports are never checked and then released.** A port is reserved by binding a socket to it (port 0: the kernel chooses) with
SO_REUSEADDR and *without* ``listen``, and the launcher holds the socket to the end of the run. What Linux then does:

* trainer 0 can bind and listen there, because its store sets SO_REUSEADDR too and no socket in the port listens yet;
* nobody else is given the port: neither ``bind`` to port 0 nor ``connect`` picks a port that has a bound socket.

So twenty launches at once on a host cannot collide, and no range of ports has to be agreed upon.
"""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple

from fleet.errors import ConfigError, RendezvousError

LOOPBACK = "127.0.0.1"
_LONGEST_SOCKET_NAME = len("/server-9999.sock")
_AF_UNIX_PATH_BYTES = 107  # sun_path holds 108 with its terminating zero


class Meeting(NamedTuple):
    """Where one run meets. ``held`` are the sockets that reserve the ports; close them when the run is over."""

    run_id: str
    secret: str
    socket_dir: str
    master: str  # HOST:PORT of Paddle's store, bound by trainer 0
    endpoints: tuple[str, ...]  # HOST:PORT, one per trainer
    held: tuple[socket.socket, ...]

    @property
    def control(self) -> str:
        """Endpoint of the control channel, which trainer 0 binds."""
        return f"unix:{self.socket_dir}/control.sock"

    def server_socket(self, index: int) -> str:
        """Endpoint of a server on this host."""
        return f"unix:{self.socket_dir}/server-{index}.sock"


def new_run_id() -> str:
    """Return a name that sorts by time and is unique: ``1121-034507-5f1c09ae``."""
    return time.strftime("%m%d-%H%M%S-") + os.urandom(4).hex()


def open_meeting(run_id: str, num_trainers: int, endpoints: tuple[str, ...] = ()) -> Meeting:
    """Reserve ports and choose the socket directory.

    Args:
        endpoints: HOST:PORT per trainer, as the user gave them; empty to choose.

    Raises:
        RendezvousError: no port is free, or a given one is in use. Safe to retry.
        ConfigError: no directory can hold the sockets.
    """
    held = [reserve(LOOPBACK, 0, "MASTER_PORT")]
    for i in range(num_trainers):
        host, _, port = (endpoints[i] if endpoints else f"{LOOPBACK}:0").rpartition(":")
        held.append(reserve(host, int(port), f"endpoint of trainer {i}"))
    ports = [s.getsockname()[1] for s in held]
    chosen = endpoints or tuple(f"{LOOPBACK}:{port}" for port in ports[1:])
    return Meeting(run_id, os.urandom(32).hex(), choose_socket_dir(), f"{LOOPBACK}:{ports[0]}", chosen, tuple(held))


def reserve(host: str, port: int, name: str) -> socket.socket:
    """Bind a port (0: any) and hold it, without listening. Raises RendezvousError if it is in use."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise RendezvousError(
            f"cannot reserve port {port or 'of any number'} on {host}: {error.strerror}",
            at=name,
            fix="give another endpoint, or leave the endpoints out: the launcher then chooses free ports",
        ) from None
    return held


def is_local(host: str) -> bool:
    """Say whether an address is this host's: whether a socket can be bound to it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def choose_socket_dir() -> str:
    """Choose a name for the private directory of a run's AF_UNIX sockets, with a path short enough for them.

    The agent makes it once the keeper runs, so that somebody is there to remove it.
    """
    for base in (os.path.abspath(os.environ.get("TMPDIR", "/tmp")), "/tmp", "/dev/shm"):
        path = os.path.join(base, "fleet-" + os.urandom(6).hex())
        fits = len(os.fsencode(path)) + _LONGEST_SOCKET_NAME <= _AF_UNIX_PATH_BYTES
        if fits and os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK):
            return path
    raise ConfigError("no directory for the run's sockets", at="TMPDIR", fix="set TMPDIR to a writable directory with a short path")
