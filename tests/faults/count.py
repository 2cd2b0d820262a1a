"""A job whose tables count its steps: every gradient is 1 and the rate is 1, so a row loses what was pushed to it, once.

``rows`` are shared by all batches and both trainers. Each sample has a row of its own in ``samples``, which an epoch moves by 1/4:
so what is missing at the end, or counts twice, says whose it was and of which step.
"""

import json
import os
import sys
import time

import numpy as np
import paddle

import fleet
import fleet.errors

fleet.init()


class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        zero = paddle.nn.initializer.Constant(0.0)
        self.rows = fleet.parameter_server.Embedding(1, vocabulary=64, initializer=zero)
        self.samples = fleet.parameter_server.Embedding(1, vocabulary=256, initializer=zero)
        self.bias = self.create_parameter([1], default_initializer=zero)

    def forward(self, batch):
        n = batch["ids"].shape[0]
        return self.rows(batch["ids"]).sum() / n + self.samples(batch["samples"]).sum() / n + self.bias.sum()


model = fleet.distributed_model(Net())
timeout_s = float(os.environ.get("TIMEOUT_S", "30"))
strategy = fleet.DistributedStrategy(parameter_server=json.loads(os.environ["BLOCK"]), timeout_s=timeout_s)
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(1.0, parameters=model.parameters()), strategy=strategy)
arrays = {"ids": np.arange(256) % 64, "samples": np.arange(256)}
loader = fleet.distributed_loader(fleet.data.ArrayLoader(arrays, 4), ids={"ids": model.rows, "samples": model.samples})
careful = os.environ.get("CAREFUL") == "1"  # goes on if the disk is full
every, full_every = None if careful else 10, int(os.environ.get("FULL_EVERY", "1"))
ckpt = fleet.Checkpointer(
    sys.argv[1], model=model, optimizer=optimizer, loader=loader, every_steps=every, full_every=full_every
)
for _ in ckpt.epochs(int(sys.argv[2])):
    for batch in loader:
        model(batch).backward()
        optimizer.step()
        optimizer.clear_grad()
        time.sleep(0.005)
        if careful and ckpt.step % 10 == 0:
            try:
                ckpt.save()
                print(f"saved at {ckpt.step}", flush=True)
            except fleet.errors.SnapshotError as error:
                print(f"could not save at {ckpt.step}: {error.what}", flush=True)
        if ckpt.step % 5 == 1:
            print(f"at step {ckpt.step}", flush=True)
rows, samples = model.rows.download(), model.samples.download()
fleet.barrier()
fleet.save(model, sys.argv[1] + ".pdparams")
if fleet.rank() == 0:
    np.save(sys.argv[1] + ".samples.npy", -samples[:, 0])
print(f"steps {ckpt.step} rows {-float(rows.sum()):.3f} bias {-float(model.bias.numpy()[0]):.3f}", flush=True)
