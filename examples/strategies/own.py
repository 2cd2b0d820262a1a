"""A strategy of one's own: noise on the gradients that fades (Neelakantan et al., 2015), kept in checkpoints like ours.

    python -m fleet.launch --nproc_per_node 2 examples/strategies/own.py
"""

import numpy as np
import paddle

import fleet
from fleet.config import Field


class Noise(fleet.Strategy):
    name = "noise"
    fields = (Field("sigma", float, 0.1, "standard deviation in the first step", low=0),)

    def on_gradients(self, trainer):
        random = np.random.default_rng(trainer.step)  # the same on every trainer
        for _, parameter in trainer.parameters:
            if parameter.grad is not None:
                noise = random.normal(0, self.sigma / (1 + trainer.step) ** 0.55, parameter.shape)
                parameter.grad.add_(paddle.to_tensor(noise.astype("float32")))


if __name__ == "__main__":
    fleet.init(strategy=fleet.DistributedStrategy(custom=[Noise(sigma=0.05)], clip={"norm": 1.0}))
    random = np.random.default_rng(1)
    x = random.normal(size=(512, 8)).astype("float32")
    y = x @ random.normal(size=(8, 1)).astype("float32")
    model = fleet.distributed_model(paddle.nn.Linear(8, 1))
    optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(0.1, parameters=model.parameters()))
    loader = fleet.distributed_loader(fleet.data.ArrayLoader({"x": x, "y": y}, 64))
    for _epoch in range(20):
        for batch in loader:
            loss = (model(batch["x"]) - batch["y"]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
    fleet.log(loss=loss)
