"""The job of benchmarks/recovery.py: fill a table, save, then train in small steps; the time of each step goes to a file."""

import json
import os
import sys
import time

import numpy as np
import paddle

import fleet

rows, dim, consistency = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
fleet.init()


class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.rows = fleet.parameter_server.Embedding(dim)
        self.out = paddle.nn.Linear(dim, 1)

    def forward(self, ids):
        return self.out(self.rows(ids)).mean()


model = fleet.distributed_model(Net())
strategy = fleet.DistributedStrategy(parameter_server={"consistency": consistency}, timeout_s=120.0)
adagrad = paddle.optimizer.Adagrad(0.01, parameters=model.parameters())
optimizer = fleet.distributed_optimizer(adagrad, strategy=strategy)
fill = 250_000
ids = np.concatenate([np.arange(rows), np.tile(np.arange(512), 4000)]).astype(np.int64)
batches = [(s, min(s + fill, rows)) for s in range(0, rows, fill)] + [(rows + 512 * i, rows + 512 * (i + 1)) for i in range(4000)]


class Batches(paddle.io.Dataset):
    """One sample is one batch: a large one while the table fills, then small ones."""

    def __len__(self):
        return len(batches)

    def __getitem__(self, i):
        return np.array([i])


loader = fleet.distributed_loader(paddle.io.DataLoader(Batches(), batch_size=1, shuffle=False))
ckpt = fleet.Checkpointer(sys.argv[1], model=model, optimizer=optimizer, loader=loader)
filled = -(-rows // fill)
with open(os.path.join(os.environ["FLEET_LOG_DIR"], f"steps-{fleet.rank()}"), "a", buffering=1) as steps:
    for _ in ckpt.epochs(1):
        for (index,) in loader:
            start, end = batches[int(index[0])]
            model(paddle.to_tensor(ids[start:end])).backward()
            optimizer.step()
            optimizer.clear_grad()
            steps.write(json.dumps([ckpt.step, time.monotonic()]) + "\n")
            if ckpt.step == filled:
                ckpt.save()
                ckpt.wait()  # on the disk: a server that is killed before comes back without it
            if ckpt.step > filled:
                time.sleep(0.01)
            if os.path.exists(os.path.join(os.environ["FLEET_LOG_DIR"], "enough")):
                fleet.shutdown()
                os._exit(0)
