"""Wide & Deep on data in the Criteo format, as a job of trainers and servers: single.py and a few lines.

Wide: one weight for each id and for each pair of ids of a few chosen slots. Deep: 26 embedded ids and 13 numbers through
three layers of 400. Their sum is the logit.
Source: Cheng et al., "Wide & deep learning for recommender systems", DLRS 2016.
"""

import argparse
import time

import numpy as np
import paddle
from paddle import nn

import fleet
from fleet.data import ArrayLoader, criteo

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="data/ctr", help="directory of the data, made on first use")
parser.add_argument("--samples", type=int, default=300_000, help="in all; a tenth is held out")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch_size", type=int, default=512)
parser.add_argument("--num_buckets", type=int, default=200_003, help="rows of the deep embedding, and of the wide one")
parser.add_argument("--dim", type=int, default=10, help="floats of a row of the deep embedding")
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()

CROSSED = [(0, 1), (4, 6), (2, 9)]  # pairs of slots; which ones matter is what the author of a wide model knows


class WideAndDeep(nn.Layer):
    def __init__(self):
        super().__init__()
        self.wide = nn.Embedding(args.num_buckets, 1, sparse=True, weight_attr=nn.initializer.Constant(0.0))
        small = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.01, 0.01))
        self.embedding = nn.Embedding(args.num_buckets, args.dim, sparse=True, weight_attr=small)
        widths = [26 * args.dim + 13, 400, 400, 400]
        layers = [layer for i, o in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(400, 1))

    def forward(self, wide_ids, ids, dense):
        rows = self.embedding(ids).reshape([len(ids), -1])
        return (self.wide(wide_ids).sum(axis=1) + self.deep(paddle.concat([rows, dense], axis=1))).squeeze(1)


def with_crosses(arrays):
    """Add the wide part's ids, int64[n, 26 + pairs]: the ids themselves, and one hashed from each pair."""
    ids = np.asarray(arrays["ids"])
    crosses = [(ids[:, a] * 1_000_003 + ids[:, b] * 7_919 + at) % args.num_buckets for at, (a, b) in enumerate(CROSSED)]
    return {**arrays, "wide_ids": np.concatenate([ids, np.stack(crosses, axis=1)], axis=1)}


fleet.init()
train_set, test_set, possible = criteo.load_planted(args.data, args.samples, args.num_buckets)
train_set, test_set = with_crosses(train_set), with_crosses(test_set)
paddle.seed(args.seed)
model = fleet.distributed_model(WideAndDeep())
optimizer = paddle.optimizer.Adam(args.learning_rate, parameters=model.parameters(), lazy_mode=True)
optimizer = fleet.distributed_optimizer(optimizer)
loader = ArrayLoader(train_set, args.batch_size, shuffle=True, seed=args.seed)
loader = fleet.distributed_loader(loader, ids={"wide_ids": model.wide, "ids": model.embedding})
loss_fn = nn.BCEWithLogitsLoss()

began = time.perf_counter()
for epoch in range(args.epochs):
    for step, batch in enumerate(loader):
        loss = loss_fn(model(batch["wide_ids"], batch["ids"], batch["dense"]), batch["label"])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        fleet.log(loss=loss)
rate = args.epochs * len(train_set["label"]) / (time.perf_counter() - began)

model.eval()
scores, labels = [], []
with paddle.no_grad():
    for batch in fleet.distributed_loader(ArrayLoader(test_set, 4096)):
        scores.append(nn.functional.sigmoid(model(batch["wide_ids"], batch["ids"], batch["dense"])).numpy())
        labels.append(batch["label"].numpy())
reached = fleet.metrics.auc(scores, labels)
print(f"AUC {reached:.4f}, {rate:.0f} examples/s; the best possible AUC here is {possible:.4f}")
