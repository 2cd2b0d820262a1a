"""Ragged slots of a FileLoader go into Embedding(pooling=...) as they are, announced: the sums are those of the rows."""

from __future__ import annotations

from pathlib import Path

from several import alone

SCRIPT = """
import sys
import numpy as np
import paddle
import fleet
from fleet.data import FileLoader, MultiSlot, Slot

fleet.init(strategy=fleet.DistributedStrategy(parameter_server={"consistency": "sync"}))

class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.bag = fleet.parameter_server.Embedding(4, pooling="sum", vocabulary=50)
        self.out = paddle.nn.Linear(12, 1)

    def forward(self, words, pair):
        values, lengths = pair
        self.words = self.bag(*words)
        return self.out(paddle.concat([self.words, self.bag(values, lengths=lengths).flatten(1)], axis=1))

model = fleet.distributed_model(Net())
optimizer = fleet.distributed_optimizer(paddle.optimizer.Adagrad(0.1, parameters=model.parameters()))
lines = MultiSlot([Slot("words"), Slot("a", column="pair"), Slot("b", column="pair")])
source = FileLoader(sys.argv[1], lines, 16, window=40, num_readers=0)
loader = fleet.distributed_loader(source, ids=lambda b: [(model.bag, b["words"]), (model.bag, b["pair"])])
for epoch in range(2):
    for batch in loader:
        rows = model.bag.download()
        model(batch["words"], batch["pair"]).sum().backward()
        values, lengths = (part.numpy() for part in batch["words"])
        expected = np.stack([rows[ids].sum(axis=0) for ids in np.split(values, np.cumsum(lengths)[:-1])])
        np.testing.assert_allclose(model.words.numpy(), expected, rtol=1e-5, atol=1e-7)
        assert batch["pair"][1].shape == [len(lengths), 2]
        optimizer.step()
        optimizer.clear_grad()
print("steps", 2 * len(loader))
"""


def test_ragged_and_joined_slots(tmp_path: Path) -> None:
    lines = []
    for n in range(100):
        slots = [[(n * k) % 50 for k in range(1, 1 + (n + shift) % 4)] for shift in range(3)]
        lines.append(" ".join(" ".join(map(str, [len(slot), *slot])) for slot in slots) + "\n")
    (tmp_path / "part").write_text("".join(lines))
    done = alone(SCRIPT, str(tmp_path / "part"), timeout_s=100)
    assert done.status == 0, done.err
    assert "steps 14" in done.out
