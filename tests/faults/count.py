"""A job whose tables count its steps: every gradient is 1 and the rate is 1, so a row loses what was pushed to it, once."""

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
        self.rows = fleet.parameter_server.Embedding(1, vocabulary=64, initializer=paddle.nn.initializer.Constant(0.0))
        self.bias = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(0.0))

    def forward(self, ids):
        return self.rows(ids).sum() / ids.shape[0] + self.bias.sum()


model = fleet.distributed_model(Net())
strategy = fleet.DistributedStrategy(parameter_server=json.loads(os.environ["BLOCK"]), timeout_s=30.0)
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(1.0, parameters=model.parameters()), strategy=strategy)
arrays = {"ids": np.arange(256) % 64}
loader = fleet.distributed_loader(fleet.data.ArrayLoader(arrays, 4), ids={"ids": model.rows})
careful = os.environ.get("CAREFUL") == "1"  # goes on if the disk is full
every = None if careful else 10
ckpt = fleet.Checkpointer(sys.argv[1], model=model, optimizer=optimizer, loader=loader, every_steps=every)
for _ in ckpt.epochs(int(sys.argv[2])):
    for batch in loader:
        model(batch["ids"]).backward()
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
rows = model.rows.download()
fleet.barrier()
fleet.save(model, sys.argv[1] + ".pdparams")
print(f"steps {ckpt.step} rows {-float(rows.sum()):.3f} bias {-float(model.bias.numpy()[0]):.3f}", flush=True)
