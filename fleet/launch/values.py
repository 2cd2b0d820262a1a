"""What the value of an option may be: text, or what YAML made of it, checked and turned into the field's own type.

A check takes the value and the place where it stands, and raises ConfigError where it cannot be obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import fleet.config as config
import fleet.env as env  # not "from fleet": that would ask fleet.__getattr__ first, and import Paddle's names
from fleet.errors import ConfigError

MAX_RESTARTS = 1000
MAX_PROCESSES = 1024  # on one node; more is a typing error, and would take the machine down with it
MIN_SERVER_MEMORY = 128 << 20  # 40 to 60 MB of it are Python's and NumPy's


def usage(what: str, at: str, fix: str) -> ConfigError:
    """Return the error of a wrong use."""
    return ConfigError(what, at=at, fix=fix)


def _count(value: Any, at: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.lstrip("+-").isdigit():
        raise usage(f"must be a whole number, got {text!r}", at, "give a number of processes")
    if not 1 <= int(text) <= MAX_PROCESSES:
        raise usage(f"must be from 1 to {MAX_PROCESSES}, got {text}", at, "give a number of processes, or leave the option out")
    return int(text)


def _restarts(value: Any, at: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or int(text) > MAX_RESTARTS:
        raise usage(f"must be a whole number from 0 to {MAX_RESTARTS}, got {text!r}", at, "0 does not start anything again")
    return int(text)


def _count_or_endpoints(value: Any, at: str) -> int | tuple[str, ...]:
    items = [str(v).strip() for v in value] if isinstance(value, list) else str(value).split(",")
    if not isinstance(value, list) and ":" not in str(value):
        return _count(value, at)
    from fleet.launch.rendezvous import is_local

    for item in items:
        host, colon, port = item.strip().rpartition(":")
        if not colon or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise usage(f"{item!r} is not HOST:PORT", at, "give e.g. 127.0.0.1:7000,127.0.0.1:7001, or a count")
        if not is_local(host):
            raise usage(
                f"{host} is not an address of this host", at, "give this host's addresses, or a count; several nodes come later"
            )
    if len(set(items)) != len(items):
        raise usage("an endpoint is listed twice", at, "give every process its own port")
    return tuple(item.strip() for item in items)


def _gpus(value: Any, at: str) -> tuple[str, ...]:
    ids: list[str] = []
    for item in value if isinstance(value, list) else str(value).split(","):
        first, dash, last = str(item).strip().partition("-")
        if str(item).strip().startswith(("GPU-", "MIG-")):
            ids.append(str(item).strip())
        elif first.isdigit() and (last.isdigit() and int(first) <= int(last) < int(first) + MAX_PROCESSES if dash else True):
            ids += [str(i) for i in range(int(first), int(last or first) + 1)]
        else:
            raise usage(f"{str(item)!r} is not a GPU number or range", at, "give a list such as 0,1,2,3 or a range such as 0-3")
    if len(set(ids)) != len(ids):
        raise usage("a GPU is listed twice", at, "give every trainer its own GPU")
    return tuple(ids)


def _choice(*choices: str) -> Callable[[Any, str], str]:
    def check(value: Any, at: str) -> str:
        text = {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)  # YAML reads on as true
        if text not in choices:
            near = config.nearest(text, choices)
            raise usage(
                f"must be {' or '.join(choices)}, got {text!r}", at, f"did you mean {near}?" if near else f"give {choices[0]}"
            )
        return text

    return check


def _on_off(value: Any, at: str) -> bool:
    return _choice("on", "off")(value, at) == "on"


def _show(value: Any, at: str) -> str:
    text = ",".join(str(v) for v in value) if isinstance(value, list) else str(value)
    if text in ("rank0", "all", "none") or all(part.strip().isdigit() for part in text.split(",")):
        return text
    raise usage(f"must be rank0, all, none or a list of ranks, got {text!r}", at, "give e.g. --show all or --show 0,3")


def _seconds(value: Any, at: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if isinstance(value, bool) or not 0 <= seconds < float("inf"):
        raise usage(f"must be a number of seconds >= 0, got {value!r}", at, "give e.g. 30")
    return seconds


def _path(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise usage(f"must be a directory, got {value!r}", at, "give a path")
    return value


def _port(value: Any, at: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise usage(f"must be a port from 1 to 65535, got {text!r}", at, "server k takes the port + k")
    return int(text)


def _flag(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise usage(f"must be true or false, got {value!r}", at, "write true or delete the line")
    return value


def _env(value: Any, at: str) -> tuple[tuple[str, str], ...]:
    if isinstance(value, dict):
        value = [f"{k}={v}" for k, v in value.items()]
    pairs: list[tuple[str, str]] = []
    for item in value if isinstance(value, list) else [value]:
        name, equals, text = str(item).partition("=")
        if not equals or not name or "\0" in str(item):
            raise usage(f"must be NAME=VALUE, got {str(item)!r}", at, "write e.g. --env GLOG_v=1")
        variable = next((v for v in env.TABLE if v.name == name), None)
        if variable is not None and "launcher" in variable.writer and name not in ("OMP_NUM_THREADS", "GLIBC_TUNABLES"):
            raise usage(
                f"{name} is set by the launcher itself", at, _INSTEAD.get(name, "leave it out; docs/env.md says what it means")
            )
        pairs.append((name, text))
    return tuple(pairs)


def server_memory(value: Any, at: str) -> int:
    """Return the bytes of ``8G``, ``512M``, ``600000K`` or a plain number.

    Raises:
        ConfigError: it is none of these, or less than a server without rows needs.
    """
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", str(value), re.IGNORECASE) if type(value) in (int, str) else None
    size = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2].upper()] if found else 0
    if size < MIN_SERVER_MEMORY:
        least = f"{MIN_SERVER_MEMORY >> 20}M"
        what = f"must be a number of bytes from {least} on, got {value!r}"
        raise ConfigError(what, at=at, fix=f"write e.g. 8G or 512M; a server without rows takes up to {least}")
    return size


_INSTEAD = {
    "CUDA_VISIBLE_DEVICES": "use --selected_gpus", "FLEET_DEVICE": "use --device", "FLEET_TUNE": "use --tune",
    "FLEET_METRICS_PORT": "use --metrics_port",
    "FLEET_CONFIG": "use -c",
    "FLEET_SECRET": "set it in the environment: a command line can be read by everybody", "FLEET_SERVERS": "use --servers",
}  # fmt: skip
# Field of Options -> what makes its value of text, or of what YAML made of it; at: where it stands.
CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "num_trainers": _count, "num_servers": _count, "trainers": _count_or_endpoints, "servers": _count_or_endpoints,
    "gpus": _gpus, "device": _choice("cpu", "gpu"), "log_dir": _path, "show": _show, "grace": _seconds, "env": _env,
    "tune": _on_off, "metrics_port": _port, "dry_run": _flag, "server_memory": server_memory,
    "server_restarts": _restarts, "trainer_restarts": _restarts,
}  # fmt: skip
