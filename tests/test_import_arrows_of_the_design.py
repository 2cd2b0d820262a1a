"""Who may import whom. The table is the law; docs/architecture.md says why.

An import inside a function is an arrow like any other. Only imports under ``if TYPE_CHECKING`` of the public face are none:
they never run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Room -> rooms that it may import, itself apart. A room is a module, or a package with all below that has no line of its own.
ARROWS: dict[str, str] = {
    "errors": "",
    "config": "errors",
    "env": "errors",
    "logger": "env",
    "control": "errors",
    "timeline": "",
    "tracking": "errors",
    "paddle_wheel": "errors",
    "command": "",
    # What is declared beside the code that obeys it; the strategy collects it.
    "collective.strategies": "config errors",
    "parameter_server.block": "config errors parameter_server.spec",
    "parameter_server.row_life": "config errors",
    "parameter_server.spec": "errors parameter_server.row_life",
    "old_spellings": "errors",
    "strategy": "config errors old_spellings collective.strategies parameter_server.block",
    # The one Runtime, and Paddle's process groups under it.
    "recovery": "env",
    "runtime": "env control errors recovery strategy group timeline",
    "group": "env errors runtime timeline",
    # The wings: neither knows the other.
    "collective": "env errors group runtime strategy collective.strategies timeline",
    "parameter_server": "command config disk env errors face logger paddle_wheel recovery runtime timeline together "
                        "parameter_server.block parameter_server.row_optimizer parameter_server.row_life parameter_server.spec",
    "data": "command disk env errors logger runtime timeline",
    "exchange": "errors runtime",
    "metrics": "errors exchange",
    "disk": "errors",
    "shelf": "disk errors logger",
    "together": "errors runtime",
    "track": "recovery runtime",
    "checkpoint": "track disk env errors logger paddle_wheel recovery runtime shelf together",
    "weights": "disk errors paddle_wheel runtime together",
    # What the user sees while it trains.
    "display": "env",
    "progress": "display face env errors logger runtime timeline tracking parameter_server.row_optimizer",
    "trace": "timeline",
    "breakdown": "timeline trace",
    "profiling": "breakdown env errors logger runtime timeline trace",
    "parameter_server.row_optimizer": "errors parameter_server.spec",
    # The only one that knows both wings.
    "stepping": "timeline",
    "training": "stepping config env errors paddle_wheel progress runtime strategy collective data parameter_server "
                "parameter_server.row_optimizer",
    "paddle_names": "data env errors exchange runtime parameter_server",
    # The other half: a list over workers. Never Paddle, never NumPy on import.
    "fanout": "env errors logger",
    "face": "*",  # fleet/__init__.py: names and their homes, loaded on first use; others take __version__ from it
    "launch": "face env errors logger config recovery",
}  # fmt: skip

# Rooms whose code may name Paddle at all; the others never, not even inside a function.
PADDLE = {"paddle_wheel", "training", "group", "collective", "data", "checkpoint", "disk", "parameter_server", "paddle_names"}
# A layer is a subclass; whoever wants one has Paddle.
PADDLE_ON_IMPORT = {f"fleet.parameter_server.{name}" for name in ("embedding", "pooling", "program")}
# Of the room that may, the modules that a server loads: its process never imports Paddle.
SERVERS_OWN = {"server", "replies", "service", "tables", "wire", "endpoint", "native", "fingerprint", "spec", "block",
               "consistency", "consistency.sync", "consistency.async_", "consistency.half_async", "consistency.bounded",
               "consistency.geo", "consistency.mode", "consistency.waiting", "statistics", "prometheus", "ledger", "snapshot",
               "snapshot.manifest", "snapshot.saving", "snapshot.loading", "client", "link", "watched", "answer", "lookup",
               "row_life", "sections", "sightings"}  # fmt: skip
NUMPY = {"exchange", "metrics", "data", "collective", "parameter_server", "checkpoint", "training", "paddle_names", "disk"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted((ROOT / "fleet").rglob("*.py"))}


def room_of(module: str) -> str:
    if module == "fleet":
        return "face"
    name = module.removeprefix("fleet.")
    return max((room for room in ARROWS if name == room or name.startswith(room + ".")), key=len, default="")


def imports_of(module: str) -> set[str]:
    """Return every module that a file imports, at its top or in a function."""
    return _imports(ast.walk(ast.parse(MODULES[module].read_text())))


def imports_on_load(module: str) -> set[str]:
    """Return what is imported when the module itself is."""
    tree = ast.parse(MODULES[module].read_text())
    return _imports(iter(tree.body))


def _imports(nodes: Iterable[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return found


def test_every_module_has_a_room() -> None:
    assert [m for m in MODULES if not room_of(m)] == []


def test_every_arrow_is_in_the_table() -> None:
    wrong = []
    for module in MODULES:
        room = room_of(module)
        allowed = set(ARROWS[room].split())
        for target in sorted(imports_of(module)):
            other = room_of(target) if target in MODULES else room
            if other != room and not {other, "*"} & allowed:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_the_wings_do_not_know_each_other() -> None:
    for module in MODULES:
        for wing, other in (("fleet.collective", "fleet.parameter_server"), ("fleet.parameter_server", "fleet.collective")):
            if module.startswith(wing):
                assert [t for t in imports_of(module) if t.startswith(other)] == [], module


def test_nobody_imports_training_but_the_face() -> None:
    assert [m for m in MODULES if m != "fleet" and "fleet.training" in imports_of(m)] == []


def names(module: str, top: str) -> bool:
    return any(t.split(".")[0] == top for t in imports_of(module))


def test_who_names_paddle() -> None:
    assert [m for m in MODULES if names(m, "paddle") and room_of(m).split(".")[0] not in PADDLE] == []
    assert [m for m in MODULES if "paddle" in {t.split(".")[0] for t in imports_on_load(m)}] == sorted(PADDLE_ON_IMPORT)


def test_a_servers_modules_never_name_paddle() -> None:
    mine = {f"fleet.parameter_server.{name}" for name in SERVERS_OWN}
    assert mine <= set(MODULES)
    assert [m for m in sorted(mine) if names(m, "paddle")] == []
    others = {m for m in MODULES if m.startswith("fleet.parameter_server.")} - mine
    assert [(m, t) for m in sorted(mine) for t in imports_of(m) if t in others] == []


def test_who_names_numpy_and_other_packages() -> None:
    assert [m for m in MODULES if names(m, "numpy") and room_of(m).split(".")[0] not in NUMPY] == []
    assert sorted(m for m in MODULES if names(m, "yaml")) == ["fleet.config", "fleet.strategy"]
    assert [m for m in MODULES if names(m, "torch") or names(m, "pandas") or names(m, "sklearn")] == []
