"""DeepFM on data in the Criteo format, as a job of trainers and servers: single.py and a few lines.

39 fields (26 ids, 13 numbers), each with a weight and a vector: the sum of the weights, the inner products of all pairs
of vectors and three layers of 400 over the vectors add up to the logit.
Source: Guo, Tang, Ye, Li, He, "DeepFM: a factorization-machine based neural network for CTR prediction", IJCAI 2017.
"""

import argparse
import time

import paddle
from paddle import nn

import fleet
from fleet.data import ArrayLoader, criteo

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="data/ctr", help="directory of the data, made on first use")
parser.add_argument("--samples", type=int, default=300_000, help="in all; a tenth is held out")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch_size", type=int, default=512)
parser.add_argument("--num_buckets", type=int, default=200_003, help="rows of each embedding")
parser.add_argument("--dim", type=int, default=10, help="floats of a field's vector")
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()


def small():
    return paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.01, 0.01))


class DeepFM(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weights = nn.Embedding(args.num_buckets, 1, sparse=True, weight_attr=small())
        self.vectors = nn.Embedding(args.num_buckets, args.dim, sparse=True, weight_attr=small())
        self.dense_weights = nn.Linear(13, 1)
        self.dense_vectors = self.create_parameter([1, 13, args.dim], attr=small())
        widths = [39 * args.dim, 400, 400, 400]
        layers = [layer for i, o in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(400, 1))

    def forward(self, ids, dense):
        fields = paddle.concat([self.vectors(ids), dense.unsqueeze(2) * self.dense_vectors], axis=1)
        first = self.weights(ids).sum(axis=1) + self.dense_weights(dense)
        # The inner products of all pairs: half of (square of the sum - sum of the squares).
        pairs = 0.5 * (fields.sum(axis=1).square() - fields.square().sum(axis=1)).sum(axis=1, keepdim=True)
        return (first + pairs + self.deep(fields.flatten(1))).squeeze(1)


fleet.init()
train_set, test_set, possible = criteo.load_planted(args.data, args.samples, args.num_buckets)
paddle.seed(args.seed)
model = fleet.distributed_model(DeepFM())
optimizer = paddle.optimizer.Adam(args.learning_rate, parameters=model.parameters(), lazy_mode=True)
optimizer = fleet.distributed_optimizer(optimizer)
loader = ArrayLoader(train_set, args.batch_size, shuffle=True, seed=args.seed)
loader = fleet.distributed_loader(loader, ids=lambda batch: {model.weights: batch["ids"], model.vectors: batch["ids"]})
loss_fn = nn.BCEWithLogitsLoss()

began = time.perf_counter()
for epoch in range(args.epochs):
    for step, batch in enumerate(loader):
        loss = loss_fn(model(batch["ids"], batch["dense"]), batch["label"])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        fleet.log(loss=loss)
rate = args.epochs * len(train_set["label"]) / (time.perf_counter() - began)

model.eval()
scores, labels = [], []
with paddle.no_grad():
    for batch in fleet.distributed_loader(ArrayLoader(test_set, 4096)):
        scores.append(nn.functional.sigmoid(model(batch["ids"], batch["dense"])).numpy())
        labels.append(batch["label"].numpy())
reached = fleet.metrics.auc(scores, labels)
print(f"AUC {reached:.4f}, {rate:.0f} examples/s; the best possible AUC here is {possible:.4f}")
