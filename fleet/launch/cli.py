"""The command line of ``python -m fleet.launch``, and the ``launch:`` block of ``-c fleet.yaml``: text in, Options out.

Both go through the same table and the same checks. The command line wins over FLEET_* variables, and these over the file.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import fleet.config as config
import fleet.env as env  # not "from fleet": that would ask fleet.__getattr__ first, and import Paddle's names
from fleet.errors import ConfigError
from fleet.launch.values import CHECKS, usage

HELP = """\
usage: python -m fleet.launch [options] SCRIPT [script options]
       python -m fleet.launch [options] -m MODULE [module options]

Run SCRIPT as several cooperating processes. Without a device or count: one trainer per
visible GPU, or one if there is none. Everything after SCRIPT belongs to SCRIPT.
- and _ both work in every option; --option value and --option=value too.

how many, where
  --nproc_per_node N      trainers                      (also: --worker_num, --trainer_num)
  --selected_gpus LIST    one trainer per GPU: 0,1,2,3 or 0-3    (also: --gpus, --devices)
  --device cpu|gpu        cpu runs --selected_gpus 0,1 as two CPU trainers
  --server_num N          parameter servers
  --trainers X            a count, or HOST:PORT,... on this host         (also: --workers)
  --servers X             a count, or HOST:PORT,... on this host

what you see
  --log_dir DIR           the run's files: DIR if it is new or empty, else a fresh directory
                          in it                     [fleet_runs/<time>-<id>, always fresh]
  --show WHAT             live on this console: rank0, all, none, or ranks: 0,3     [rank0]
                          warnings and errors of every process are shown in any case
  --metrics_port N        Prometheus on 127.0.0.1: server k at N + k           [off]

how it ends
  --grace S               seconds to save after TERM before KILL                       [30]
  --server_memory 8G      what each server may take: K, M or G; then new rows are refused, or others evicted  [no limit]
  --server_restarts N     losses of a server to answer by starting again                [0]
  --trainer_restarts N    losses of a trainer likewise (docs/failure.md)                [0]

resources and files
  --env K=V               set in every process (repeatable)
  --tune on|off           matrix products, malloc, flush-to-zero (docs/tuning.md)      [on]
  -c fleet.yaml           launch: these options; strategy: what the script leaves unset
  --dry_run               print processes, devices and variables, start nothing
  -h, --help              this text

exit status   0 done, else the first failing process's own; 128+n if signal n ended it;
              64 wrong usage; 93 started again without any progress; 130 Ctrl-C (a second
              Ctrl-C gives no grace)

examples
  python -m fleet.launch --nproc_per_node 2 train.py --lr 0.1
  python -m fleet.launch --server_num 1 --trainer_num 2 ctr.py
  python -m fleet.launch --selected_gpus 0,1 --device cpu train.py
"""

# Every spelling (with _) -> the one field of Options that it sets.
SPELLINGS = {
    "nproc_per_node": "num_trainers", "worker_num": "num_trainers", "trainer_num": "num_trainers",
    "trainers": "trainers", "workers": "trainers",
    "server_num": "num_servers", "servers": "servers",
    "selected_gpus": "gpus", "gpus": "gpus", "devices": "gpus",
    "device": "device", "log_dir": "log_dir", "show": "show", "grace": "grace", "env": "env", "tune": "tune",
    "metrics_port": "metrics_port", "server_memory": "server_memory",
    "dry_run": "dry_run", "server_restarts": "server_restarts", "trainer_restarts": "trainer_restarts",
}  # fmt: skip
LATER = ("nnodes", "hosts", "rdzv", "scheduler")
_WITHOUT_VALUE = ("dry_run", "help")


class Options(NamedTuple):
    """What was asked for. ``at`` tells where: field -> ``--grace`` or ``fleet.yaml:7  $.launch.grace``."""

    target: tuple[str, ...]  # ("train.py", "--lr", "0.1") or ("-m", "module", ...)
    num_trainers: int | None = None
    trainers: tuple[str, ...] = ()  # endpoints
    num_servers: int | None = None
    servers: tuple[str, ...] = ()  # endpoints
    gpus: tuple[str, ...] = ()
    device: str = ""  # "", "cpu" or "gpu"
    log_dir: str = ""
    show: str = "rank0"  # rank0, all, none, or ranks: "0,3"
    grace: float = 30.0
    server_memory: int = 0  # bytes
    server_restarts: int = 0
    trainer_restarts: int = 0
    env: tuple[tuple[str, str], ...] = ()
    tune: bool = True
    metrics_port: int | None = None
    dry_run: bool = False
    help: bool = False
    config: str = ""
    at: dict[str, str] = {}  # never changed after parse()


def parse(argv: list[str]) -> Options:
    """Read a command line, the file that it names, and FLEET_DEVICE, FLEET_TUNE, FLEET_CONFIG.

    Raises:
        ConfigError: anything that cannot be obeyed.
    """
    given, target, file = _split(argv)
    if any(field == "help" for field, _ in given.values()):
        return Options(target, help=True)
    fields: dict[str, Any] = {}
    at: dict[str, str] = {}
    _take(given, fields, at)
    for name, field in (("FLEET_DEVICE", "device"), ("FLEET_TUNE", "tune")):
        if env.get(name) and field not in fields:
            _take({name: (field, env.get(name))}, fields, at)
    file = file or env.get("FLEET_CONFIG")
    if file:
        _take_file(file, fields, at)
    for count, listed in (("num_trainers", "trainers"), ("num_servers", "servers")):
        value = fields.pop(listed, None)
        if isinstance(value, int):
            if fields.get(count, value) != value:
                raise usage(f"{at[count]} says {fields[count]}, {at[listed]} says {value}", at[listed], "give the number once")
            fields[count], at[count] = value, at.get(count, at[listed])
        elif value is not None:
            fields[listed] = value
    options = Options(target, **fields, config=os.path.abspath(file) if file else "", at=at)
    _check_target(options.target)
    return options


Given = dict[str, tuple[str, Any]]  # as written -> (field, value)


def _split(argv: list[str]) -> tuple[Given, tuple[str, ...], str]:
    """Cut the command line in options, target and the file of -c. Nothing after the target is looked at."""
    given: Given = {}
    file, rest = "", list(argv)
    while rest:
        word = rest.pop(0)
        if word == "-m":
            if not rest:
                raise usage("-m needs a module", "command line", "write -m MODULE, then the module's own options")
            return given, ("-m", *rest), file
        if word == "-c":
            file = _value(word, rest)
            continue
        if word == "-h":
            word = "--help"
        if word == "--" or not word.startswith("-") or word == "-":
            return given, tuple(rest if word == "--" else [word, *rest]), file
        name, equals, value = word.partition("=")
        bare = name.lstrip("-").replace("-", "_")
        if not name.startswith("--") or bare not in (*SPELLINGS, "help"):
            raise unknown(name, "command line", bare)
        if bare in _WITHOUT_VALUE:
            if equals:
                raise usage(f"{name} takes no value, got {value!r}", name, f"write {name} alone")
            given[name] = (bare, True)
            continue
        value = value if equals else _value(name, rest)
        field = SPELLINGS[bare]
        if field == "env":
            given.setdefault("--env", ("env", []))[1].append(value)
            continue
        twice = next((old for old, (f, v) in given.items() if f == field and v != value), None)
        if twice:
            raise usage(f"{twice} {given[twice][1]} and {name} {value} contradict each other", name, "give it once")
        given[name] = (field, value)
    return given, (), file


def _value(name: str, rest: list[str]) -> str:
    """Take the value of an option; the next option is none, but a negative number is one (and then out of range)."""
    if not rest or (rest[0].startswith("-") and not rest[0][1:2].isdigit()):
        raise usage(f"{name} needs a value", name, f"write {name} VALUE or {name}=VALUE" if name != "-c" else "write -c fleet.yaml")
    return rest.pop(0)


def unknown(written: str, at: str, bare: str) -> ConfigError:
    """Return the error for a name that does not exist, or does not yet."""
    if bare in LATER:
        return usage(
            f"{written} is not there yet: this version runs one node",
            at,
            "leave it out; several nodes come later",
        )
    dashes = "--" if written.startswith("-") else ""
    near = config.nearest(bare, [*SPELLINGS, "help"])
    fix = f"did you mean {dashes}{near}? " if near else ""
    return usage(
        f"unknown option {written}",
        at,
        fix + "python -m fleet.launch --help lists all; the script's own options come after the script",
    )


def _take_file(path: str, fields: dict[str, Any], at: dict[str, str]) -> None:
    """Fill in what the ``launch:`` block of a file says; ``strategy:`` is for the trainers, who check it."""
    document = config.load_yaml(path)
    for key in document.value:
        if key not in ("launch", "strategy"):
            near = config.nearest(str(key), ["launch", "strategy"])
            raise usage(
                f"unknown key {key}",
                document.at(str(key)),
                f"did you mean {near}? there are launch: and strategy:" if near else "there are launch: and strategy:",
            )
    block = document.value.get("launch") or {}
    if not isinstance(block, dict):
        raise usage(
            "launch: must be a mapping of option names to values", document.at("launch"), "write e.g. 'nproc_per_node: 2' below it"
        )
    given: Given = {}
    for key, value in block.items():
        bare = str(key).replace("-", "_")
        if bare not in SPELLINGS:
            raise unknown(str(key), document.at("launch", str(key)), bare)
        given[document.at("launch", str(key))] = (SPELLINGS[bare], value)
    seen: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, (field, value) in given.items():
        if field in seen:
            raise usage(f"{field} is given twice, also at {places[field]}", place, "give it once")
        _take({place: (field, value)}, seen, places)
    # A count and a list of endpoints are two ways to say one thing: what the command line says of either wins.
    for one, other in (("num_trainers", "trainers"), ("num_servers", "servers")):
        if one in fields or other in fields:
            seen.pop(one, None)
            seen.pop(other, None)
    if "num_trainers" in fields or "trainers" in fields:
        seen.pop("gpus", None)
    if "gpus" in fields:
        seen.pop("num_trainers", None)
        seen.pop("trainers", None)
    seen["env"] = (*seen.get("env", ()), *fields.get("env", ()))  # later ones win
    fields.update({k: v for k, v in seen.items() if k not in fields or k == "env"})
    at.update({k: v for k, v in places.items() if k in seen and k not in at})


def _take(given: Given, fields: dict[str, Any], at: dict[str, str]) -> None:
    """Check values and put them into ``fields``."""
    for place, (field, value) in given.items():
        fields[field] = CHECKS[field](value, place)
        at[field] = place


def _check_target(target: tuple[str, ...]) -> None:
    """Refuse a script that is missing or is not Python."""
    if not target:
        raise usage("there is no script to run", "command line", "write python -m fleet.launch [options] SCRIPT; --help shows more")
    script = target[0]
    if script == "-m":
        return
    try:
        with open(os.path.join(script, "__main__.py") if os.path.isdir(script) else script, "rb") as file:
            head = file.read(256)
    except OSError as error:
        near = config.nearest(os.path.basename(script), _files_beside(script))
        fix = f"did you mean {os.path.join(os.path.dirname(script), near)}?" if near else "give the path of a Python script"
        raise usage(f"cannot read the script {script}: {error.strerror}", "command line", fix) from None
    first = head.split(b"\n", 1)[0]
    foreign = first.startswith(b"#!") and b"python" not in first
    if foreign or (b"\0" in head and not head.startswith(b"PK")):
        raise usage(
            f"{script} is not a Python script",
            "command line",
            "give a Python script; one line of it can start another program: os.execvp('./program', ['./program'])",
        )


def _files_beside(script: str) -> list[str]:
    try:
        return os.listdir(os.path.dirname(script) or ".")
    except OSError:
        return []
