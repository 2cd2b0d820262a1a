"""fleet.save writes what plain Paddle loads; tables without a vocabulary go beside it; fleet.load brings all of it back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = """
import sys
import numpy as np, paddle
from paddle import nn

class Net(nn.Layer):  # the un-fleeted model
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, words):
        return self.out(self.words(words).mean(axis=1))

net = Net()
missing, unexpected = net.set_state_dict(paddle.load(sys.argv[1]))
assert not missing and not unexpected, (missing, unexpected)
words = np.arange(30).reshape(10, 3)
np.save(sys.argv[2], net(paddle.to_tensor(words)).numpy())
"""


def test_plain_paddle_predicts_the_same(play: Callable[..., Any], tmp_path: Path) -> None:
    results = play("saves_weights", 2, 2, path=str(tmp_path / "new/m.pdparams"))
    (tmp_path / "plain.py").write_text(PLAIN)
    subprocess.run([sys.executable, str(tmp_path / "plain.py"), str(tmp_path / "new/m.pdparams"), str(tmp_path / "y.npy")],
                   check=True, timeout=60)  # fmt: skip
    for predictions, _ in results:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), predictions)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["m.pdparams"]


def test_round_trip_with_an_open_table(play: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.pdparams"
    path.write_bytes(b"an older file")
    (tmp_path / "m.pdparams.tables").mkdir()  # and what it left beside
    saved = play("saves_weights", 2, 2, path=str(path), open_table=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pdparams", "m.pdparams.tables"]
    loaded = play("loads_weights", 2, 1, path=str(path), open_table=True)  # on another number of servers
    for (before, rows), (after, back, error) in zip(saved, loaded, strict=True):
        assert error is None
        np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(rows, back)
        assert np.unique(rows).size > 10  # they had been trained


def test_files_that_do_not_fit(play: Callable[..., Any], tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    play("saves_weights", 1, 1, path=path)
    (tmp_path / "garbage").write_bytes(b"not a file of Paddle's")
    whole = (tmp_path / "m").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    cases = [(path, {"dim": 5}, "words"), (path, {"open_table": True}, "no snapshot here"),
             (str(tmp_path / "none"), {}, "no such file"),
             (str(tmp_path / "garbage"), {}, "cannot read"), (str(tmp_path / "half"), {}, "cannot read")]  # fmt: skip
    for name, build, words in cases:
        for _, _, error in play("loads_weights", 2, 1, path=name, **build):
            assert error.startswith("SnapshotError") and words in error and "fix:" in error, (name, build, error)
