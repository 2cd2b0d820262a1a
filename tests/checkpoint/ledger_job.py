"""A job that writes down which samples went into each step: ``ledger_job.py DIRECTORY START`` under the launcher.

One epoch of 600 samples in batches of 8, a last batch of fewer than trainers included; each step sleeps, to be killed in.
"""

import os
import sys
import time

import numpy as np
import paddle

import fleet
import fleet.runtime

SAMPLES, BATCH = 601, 8
STEPS = -(-SAMPLES // BATCH)


class Numbered(paddle.io.Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        x = rng.standard_normal(6).astype(np.float32)
        return x, np.float32([np.sin(3 * x[0]) + x[1] * x[2]]), np.int64(index)


def main(directory, start):
    fleet.init()
    paddle.seed(3)
    model = fleet.distributed_model(
        paddle.nn.Sequential(paddle.nn.Linear(6, 16), paddle.nn.Tanh(), paddle.nn.Linear(16, 1))
    )
    schedule = paddle.optimizer.lr.ExponentialDecay(0.05, 0.99)
    inner = paddle.optimizer.Momentum(schedule, 0.9, parameters=model.parameters())
    optimizer = fleet.distributed_optimizer(inner, strategy=fleet.DistributedStrategy(seed=11))
    loader = fleet.distributed_loader(paddle.io.DataLoader(Numbered(), batch_size=BATCH, shuffle=True))
    ckpt = fleet.Checkpointer(f"{directory}/ckpt", model=model, optimizer=optimizer, loader=loader, every_steps=3)
    with open(f"{directory}/ledger-{start}-{fleet.rank()}", "w", buffering=1) as ledger:
        for _ in ckpt.epochs(1):
            for x, y, ids in loader:
                loss = paddle.nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
                schedule.step()
                mine = ids.numpy().tolist()[: fleet.runtime.current("a test").share.num_samples]
                ledger.write(f"{ckpt.step} {' '.join(map(str, mine))}\n")
                time.sleep(float(os.environ.get("STEP_S", "0.01")))
    fleet.save(model, f"{directory}/final-{start}.pdparams")


if __name__ == "__main__":
    main(*sys.argv[1:])
