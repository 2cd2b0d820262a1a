"""The core of a file, a sanitized one for example, in place of the installed one. Imported before anything of fleet."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def load_core(path: str) -> None:
    """Take the core from this file."""
    spec = importlib.util.spec_from_file_location("fleet.parameter_server._core", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["fleet.parameter_server._core"] = module
