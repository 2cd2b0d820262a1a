"""A driver as a process of its own: for kills, Ctrl-C, ``python -`` and scripts without a guard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def start(code: str, *args: str, cwd: Path, **environ: str) -> subprocess.Popen[str]:
    """Start ``python script.py``; the script has no ``__main__`` guard."""
    script = cwd / "script.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(cwd), **environ}
    return subprocess.Popen(
        [sys.executable, str(script), *args], cwd=cwd, env=env, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(code: str, *args: str, cwd: Path, timeout: float = 60, **environ: str) -> tuple[int, str, str]:
    """Run it to its end: (status, output, errors)."""
    process = start(code, *args, cwd=cwd, **environ)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def processes_of(marker: str) -> list[int]:
    """Return the processes whose environment or command line holds a text."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            whole = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in whole and int(name) != os.getpid():
            found.append(int(name))
    return found
