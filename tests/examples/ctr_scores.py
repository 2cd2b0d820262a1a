"""Runs examples/ctr/train.py as it is, then keeps the scores that trainer 0 gave the held-out samples."""

import runpy
import sys
from pathlib import Path

import numpy as np

TRAIN = Path(__file__).resolve().parents[2] / "examples/ctr/train.py"

sys.path.insert(0, str(TRAIN.parent))
left = runpy.run_path(str(TRAIN), run_name="__main__")
np.save("trained.npy", np.concatenate(left["scores"]))
