"""A rival of the collective benchmark: PyTorch 2.13.0's CPU build, in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "benchmarks" / ".torch213"
VERSION = "2.13.0"


def python() -> Path:
    """Return the interpreter of the rival's environment, made at first use.

    The CPU build (`+cpu`) is not where pip looks by itself: put its wheel where PIP_FIND_LINKS says (190 MB), or make an
    environment by hand and give `--torch PYTHON`. The build for GPUs would do, too, but brings 3 GB of libraries.
    """
    found = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        print(f"making the rival's environment (torch {VERSION}, CPU)", flush=True)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(found), "-m", "pip", "install", "-q", f"torch=={VERSION}+cpu", "numpy"], check=True)
        (ENVIRONMENT / "ready").touch()
    return found
