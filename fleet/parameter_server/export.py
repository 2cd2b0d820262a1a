"""``fleet.export``: a trained model as files that score without servers. ``docs/export.md`` describes them.

All trainers call it. A call by some ends with an error naming the missing ranks.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from fleet import __version__, disk, paddle_wheel
from fleet.errors import ConfigError
from fleet.parameter_server import freeze
from fleet.parameter_server.frozen import FORMAT, MANIFEST
from fleet.runtime import current
from fleet.together import on_first, patience, together


def export(model: Any, directory: str, input_spec: Any = None, *, rows: str | None = None) -> None:
    """Write the model for inference: its dense part by ``paddle.jit.save``, its tables as files that are mapped into memory.

    Args:
        model: what distributed_model returned; it is exported as in ``eval()`` and goes on as it was.
        directory: written whole or not at all; one that is there is replaced.
        input_spec: the arguments of the model's forward: a batch as an example (the first dimension of each tensor or array
            becomes free), or ``paddle.static.InputSpec``; lists and dicts of them too.
        rows: float32, float16 or bfloat16: how rows are kept on disk; None: as each table stores them, which is exact.

    ``fleet.parameter_server.Frozen(directory)`` scores with it. ``paddle.jit.load(directory + "/dense")`` is plain Paddle's: it
    takes the inputs and behind them the rows of each look-up.

    Cost: one snapshot of the tables beside the export, removed at the end.

    Raises:
        ConfigError: the forward cannot be traced, or an argument makes no sense.
        SnapshotError: the disk refused; an export that was there is as it was. Safe to retry.

    Example:
        >>> fleet.export(model, "served", input_spec=[batch["ids"], batch["dense"]])
        >>> scores = fleet.parameter_server.Frozen("served")(ids, dense)
    """
    runtime = current("fleet.export()")
    paddle_wheel.load("fleet.export()")
    if rows is not None and rows not in freeze.DTYPES:
        what = f"rows must be one of {', '.join(freeze.DTYPES)} or None, got {rows!r}"
        raise ConfigError(what, at="fleet.export()", fix="None keeps rows as the tables store them")
    if os.path.exists(directory) and not os.path.isfile(os.path.join(directory, MANIFEST)) and os.listdir(directory):
        fix = "give a new directory; only an export is replaced"
        raise ConfigError(f"{directory} holds something else", at="fleet.export()", fix=fix)
    target = os.path.abspath(directory)
    temporary, replaced = f"{target}.tmp", f"{target}.old"
    if runtime.tables is not None:
        runtime.tables.flush()
    together(runtime, "start of fleet.export()", lambda: None, None)
    try:
        write = lambda: on_first(runtime, lambda: _write(runtime.tables, model, temporary, input_spec, rows))  # noqa: E731
        together(runtime, "fleet.export()", write, patience(runtime))
        together(runtime, "end of fleet.export()", lambda: on_first(runtime, lambda: _publish(temporary, target, replaced)))
    finally:
        on_first(runtime, lambda: shutil.rmtree(temporary, ignore_errors=True))


def _write(tables: Any, model: Any, temporary: str, input_spec: Any, dtype: str | None) -> None:
    from fleet.parameter_server import program

    inputs = program.inputs_of(input_spec)
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    programs = program.save(model, temporary, inputs)  # first: what is most likely to fail, and costs least
    frozen: dict[str, Any] = {}
    if tables is not None:
        snapshot = os.path.join(temporary, "snapshot")
        tables.save(snapshot)
        frozen = freeze.freeze(snapshot, os.path.join(temporary, "tables"), dtype)
        shutil.rmtree(snapshot)
    written = sorted(name for name in os.listdir(temporary) if name != "tables")
    manifest = {
        "format": FORMAT,
        "fleet": __version__,
        "structure": inputs.structure,
        "inputs": [{"name": s.name, "dtype": program.dtype_of(s), "shape": [int(n or -1) for n in s.shape]} for s in inputs.specs],
        "look_ups": [look_up._asdict() for look_up in programs.look_ups],
        "programs": {"ids": programs.ids, "dense": programs.dense},
        "tables": frozen,
        "files": {name: disk.checksum(os.path.join(temporary, name)) for name in written},
    }
    manifest["checksum"] = disk.json_checksum(manifest)
    for name in written:
        disk.sync(os.path.join(temporary, name))
    disk.write_bytes(os.path.join(temporary, MANIFEST), json.dumps(manifest, indent=1).encode())
    disk.sync_directory(temporary)


def _publish(temporary: str, target: str, replaced: str) -> None:
    """Put the export in its place. Between the two renames there is none: a process that opens it then retries."""
    shutil.rmtree(replaced, ignore_errors=True)
    if os.path.isdir(target):
        os.rename(target, replaced)
    try:
        os.rename(temporary, target)
    except OSError:
        if os.path.isdir(replaced):
            os.rename(replaced, target)
        raise
    disk.sync_directory(os.path.dirname(target))
    shutil.rmtree(replaced, ignore_errors=True)
