"""A parameter-server job of real Paddle for the fault tests: checkpoints every few steps; says where it is in its log."""

import json
import os
import sys

import numpy as np

import fleet

print("script begins", flush=True)
import paddle  # noqa: E402
from paddle import nn  # noqa: E402

fleet.init()
paddle.seed(7)
print("joined", flush=True)


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(2000, 8)
        self.users = fleet.parameter_server.Embedding(4)
        self.out = nn.Linear(12, 1)

    def forward(self, words):
        return self.out(paddle.concat([self.words(words).mean(axis=1), self.users(words[:, 0] * 10**12)], axis=1))


model = fleet.distributed_model(Net())
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters(), lazy_mode=True)
block = json.loads(os.environ.get("BLOCK", '{"consistency": "sync"}'))
strategy = fleet.DistributedStrategy(parameter_server=block, timeout_s=float(os.environ.get("TIMEOUT_S", "60")))
optimizer = fleet.distributed_optimizer(optimizer, strategy=strategy)
rng = np.random.default_rng(1)
arrays = {"words": rng.integers(0, 2000, (4096, 3)), "y": rng.standard_normal((4096, 1)).astype("float32")}
loader = fleet.distributed_loader(fleet.data.ArrayLoader(arrays, 32, shuffle=True), ids={"words": model.words})
ckpt = fleet.Checkpointer(sys.argv[1], model=model, optimizer=optimizer, loader=loader, every_steps=5)
for _ in ckpt.epochs(int(sys.argv[2]) if len(sys.argv) > 2 else 1000):
    for batch in loader:
        loss = nn.functional.mse_loss(model(batch["words"]), batch["y"])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        fleet.log(loss=loss)
        if ckpt.step % 5 == 1:
            print(f"at step {ckpt.step}", flush=True)
        if len(sys.argv) > 3 and ckpt.step >= int(sys.argv[3]):
            if "OUT" in os.environ:
                fleet.save(model, os.environ["OUT"])
            fleet.barrier()
            print("done", flush=True)
            sys.exit(0)
