"""Our side of benchmarks/word2vec.py: skip-gram with negatives, started by fleet.launch. Prints RESULT and a JSON object."""

import json
import sys
import time

import numpy as np
import paddle
from paddle import nn

import fleet
from fleet.data import ArrayLoader

data, batch_size, consistency, k_steps, dim = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), 300
about = json.load(open(f"{data}/about.json"))
vocabulary, negatives = about["vocabulary"], about["negatives"]

block = {"consistency": consistency, **({"k_steps": k_steps} if consistency == "geo" else {})}
fleet.init(strategy=fleet.DistributedStrategy(batch="per_trainer", parameter_server=block))


class SkipGram(nn.Layer):
    def __init__(self):
        super().__init__()
        uniform = nn.initializer.Uniform(-0.5 / dim, 0.5 / dim)
        self.center = fleet.parameter_server.Embedding(dim, vocabulary=vocabulary, initializer=uniform)
        # As the rival's; not 0: at a logit of exactly 0 the gradient of Paddle 3.3.1's binary_cross_entropy_with_logits is wrong
        # (-1.5 for the true one, -0.5 for the negatives, in place of -0.5 and 0.5), and every new word begins there.
        tiny = nn.initializer.Uniform(-1e-9, 1e-9)
        self.context = fleet.parameter_server.Embedding(dim, vocabulary=vocabulary, initializer=tiny)

    def forward(self, center, context):
        near = self.center(center).reshape([-1, 1, dim])
        return paddle.matmul(near, self.context(context), transpose_y=True).squeeze(1)  # [b, 1 + negatives]


pairs = np.load(f"{data}/pairs.npz")
arrays = {"center": pairs["center"], "context": pairs["context"]}
model = fleet.distributed_model(SkipGram())
rate = about["rate_of_a_pair"] * batch_size * fleet.world_size()  # a mean over the global batch: each pair moves as far as alone
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(rate, parameters=model.parameters()))
loader = ArrayLoader(arrays, batch_size, shuffle=True)
loader = fleet.distributed_loader(loader, ids={"center": model.center, "context": model.context})
truth = paddle.to_tensor(np.eye(1, 1 + negatives, dtype="float32").repeat(batch_size, 0))

fleet.barrier()
began = time.perf_counter()
for batch in loader:
    scores = model(batch["center"], batch["context"])
    loss = nn.functional.binary_cross_entropy_with_logits(scores, truth[: len(scores)], reduction="none").sum(1).mean()
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
fleet.barrier()
seconds = time.perf_counter() - began

rows = {}
for layer in (model.center, model.context):  # the first look of an evaluation sends what was learned since the last exchange
    layer.eval()
    with paddle.no_grad():
        layer(paddle.zeros([1], "int64"))
fleet.barrier()
for name, layer in (("center", model.center), ("context", model.context)):
    with paddle.no_grad():  # the words that the check asks for
        rows[name] = layer(paddle.to_tensor(np.arange(about["checked"]))).numpy()
if fleet.rank() == 0:
    np.savez(f"{data}/our_rows.npz", **rows)
    print("\nRESULT " + json.dumps({"seconds": seconds}), flush=True)
