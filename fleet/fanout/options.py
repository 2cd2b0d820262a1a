"""What a spread may be told, checked before anything starts: an impossible request fails here and never waits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fleet.errors import ConfigError
from fleet.fanout import machine

CACHES = ("off", "run")


class Options(NamedTuple):
    """The keywords of `fleet.spread`, in its words."""

    backend: Any = None
    cluster: Any = None
    workers: int | None = None
    cpus: float = 1
    gpus: int = 0
    memory: int | str | None = None
    limit: Mapping[str, int] | None = None
    seed: int | None = 0
    retries: int = 0
    lost_retries: int = 1
    retry_on: tuple[type[BaseException], ...] | type[BaseException] = (Exception,)
    backoff_s: float = 0.5
    timeout: float | None = None
    grace_s: float = 5.0
    name: str = ""
    run_dir: str | None = None
    cache: str = "off"
    version: str = ""
    progress: bool | str = "auto"


def checked(given: Mapping[str, Any], at: str = "fleet.spread()") -> Options:
    """Return the options.

    Raises:
        ConfigError: an unknown name, a value out of range, or more than this machine has.
    """
    unknown = sorted(set(given) - set(Options._fields))
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], Options._fields, 1)
        hint = f"did you mean {near[0]}?" if near else "the options are: " + ", ".join(Options._fields)
        raise ConfigError(f"{unknown[0]!r} is no option of a spread", at=at, fix=hint)
    options = Options(**given)
    _check_numbers(options, at)
    _check_words(options, at)
    kinds = options.retry_on if isinstance(options.retry_on, tuple) else (options.retry_on,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise ConfigError(
            f"retry_on must be exception types, got {options.retry_on!r}", at=at, fix="retry_on=(TimeoutError, OSError)"
        )
    memory = bytes_of(options.memory, at) if options.memory is not None else None
    return options._replace(retry_on=kinds, memory=memory)


def _check_numbers(options: Options, at: str) -> None:
    low = {"workers": 1, "gpus": 0, "retries": 0, "lost_retries": 0}
    for name, least in low.items():
        value = getattr(options, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ConfigError(
                f"{name} must be an int >= {least}, got {value!r}", at=at, fix=f"{name}={max(1, least)}, or leave it out"
            )
    for name in ("cpus", "timeout", "backoff_s", "grace_s"):
        value = getattr(options, name)
        zero = name in ("backoff_s", "grace_s")
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
        if value is not None and not (good and (value > 0 or (zero and value == 0))):
            what = f"{name} must be a number {'>= 0' if zero else '> 0'}, got {value!r}"
            raise ConfigError(what, at=at, fix="give seconds (cpus: cores), or leave it out")
    if options.seed is not None and (not isinstance(options.seed, int) or isinstance(options.seed, bool)):
        raise ConfigError(f"seed must be an int, got {options.seed!r}", at=at, fix="seed=0; seed=None leaves members unseeded")
    for token, count in (options.limit or {}).items():
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"limit of {token!r} must be an int >= 1, got {count!r}", at=at, fix=f'limit={{"{token}": 1}}')


def _check_words(options: Options, at: str) -> None:
    if options.cache not in CACHES:
        raise ConfigError(
            f"cache={options.cache!r} is not known", at=at, fix='cache="off", or cache="run" to run only what is missing'
        )
    if options.cache == "run" and not options.run_dir:
        raise ConfigError('cache="run" needs a directory that stays', at=at, fix='run_dir="runs/my-grid"')
    if options.progress not in (True, False, "auto"):
        raise ConfigError(f"progress={options.progress!r} is not known", at=at, fix='"auto" (on a terminal), True or False')


def admitted(options: Options, at: str = "fleet.spread()") -> int | None:
    """Check what local processes need against this machine; return the number of GPUs' workers, None without GPUs.

    Raises:
        ConfigError: no worker could ever hold such a member.
    """
    cores = machine.usable_cpus()
    if options.cpus > cores:
        raise ConfigError(
            f"a member asks for {options.cpus:g} cpus, this machine gives {cores}: no worker could ever take it",
            at=at,
            fix=f"cpus={cores} or less",
        )
    if not options.gpus:
        return None
    there = len(machine.gpus())
    if options.gpus > there:
        raise ConfigError(
            f"a member asks for {options.gpus} GPUs, this machine gives {there}", at=at, fix="gpus=0, or another machine"
        )
    return there // options.gpus


def bytes_of(value: int | str, at: str) -> int:
    """Return bytes of 2147483648, "2G" or "500M"."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    text = str(value).strip().upper().removesuffix("IB").removesuffix("B")
    factor = units.get(text[-1:], 1)
    number = text[:-1] if factor > 1 else text
    try:
        size = int(float(number) * factor)
    except ValueError:
        size = 0
    if size <= 0:
        raise ConfigError(f"memory must be bytes or like '2G', got {value!r}", at=at, fix='memory="2G"')
    return size
