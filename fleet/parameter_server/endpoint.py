"""Where a server listens: ``unix:/PATH`` on the same host, ``tcp:HOST:PORT`` otherwise."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from fleet.errors import ConfigError

# One message of a step is about 1 MB; a larger kernel buffer lets a server finish its answer before the trainer reads.
SOCKET_BUFFER_BYTES = 4 << 20


def parse(text: str) -> tuple[str, str, int]:
    """Return (family, path or host, port).

    Raises:
        ConfigError: the text is no endpoint.
    """
    family, _, rest = text.partition(":")
    if family == "unix" and rest.startswith("/"):
        return "unix", rest, 0
    host, _, port = rest.rpartition(":")
    if family == "tcp" and host and port.isdigit() and int(port) < 65536:
        return "tcp", host, int(port)
    raise ConfigError(f"{text!r} is no endpoint", at="FLEET_SERVERS", fix="write unix:/PATH or tcp:HOST:PORT")


def listen(text: str) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address is taken or not ours.
    """
    family, host, port = parse(text)
    if family == "unix":
        _refuse_second(text)
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host)  # left by a server that was killed; the directory is this job's own
        address: str | tuple[str, int] = host
    else:
        line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (host, port)
    try:
        line.bind(address)
        line.listen(1024)
    except OSError as error:
        line.close()
        raise ConfigError(f"cannot listen on {text}: {error}", at="FLEET_SERVERS", fix="give a free address of this host") from None
    return line


def _refuse_second(text: str) -> None:
    """Refuse to take the place of a server that lives: trainers that come later would find other rows."""
    with contextlib.suppress(OSError), connect(text, 1.0):
        fix = "end the other server first, or give each server of the job its own address"
        raise ConfigError(f"cannot listen on {text}: a server listens there already", at="FLEET_SERVERS", fix=fix)


def connect(text: str, timeout_s: float) -> socket.socket:
    """Return a connected socket whose operations time out after ``timeout_s``; raises OSError."""
    family, host, port = parse(text)
    if family == "unix":
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: str | tuple[str, int] = host
    else:
        line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        address = (host, port)
    line.settimeout(timeout_s)
    try:
        line.connect(address)
    except OSError:
        line.close()
        raise
    tune(line)
    return line


def tune(line: socket.socket) -> None:
    """Set what a line of large messages wants: no delay, large buffers, keep-alive."""
    if line.family == socket.AF_INET:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        line.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)


def limit_silence(line: socket.socket, seconds: float, sends: bool = False) -> None:
    """Let reads (and sends) raise BlockingIOError after so long without a byte.

    By the kernel: Python's own timeout asks it twice, once whether it may read and once to read.
    """
    line.settimeout(None)
    limit = struct.pack("@ll", int(seconds), max(int(seconds < 1e-6), int(seconds % 1 * 1_000_000)))  # 0 would be for ever
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    if sends:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
