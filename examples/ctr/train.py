"""CTR-DNN on data in the Criteo format, as a job of trainers and servers: single.py and a few lines.

26 ids per sample go through one shared embedding, 13 numbers go in as they are, three layers of 400 decide.
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
parser.add_argument("--num_buckets", type=int, default=200_003, help="rows of the embedding")
parser.add_argument("--dim", type=int, default=10, help="floats of a row")
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()


class CtrDnn(nn.Layer):
    def __init__(self):
        super().__init__()
        small = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.01, 0.01))
        self.embedding = nn.Embedding(args.num_buckets, args.dim, sparse=True, weight_attr=small)
        widths = [26 * args.dim + 13, 400, 400, 400]
        layers = [layer for i, o in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(400, 1))

    def forward(self, ids, dense):
        rows = self.embedding(ids).reshape([len(ids), -1])
        return self.deep(paddle.concat([rows, dense], axis=1)).squeeze(1)


fleet.init()
train_set, test_set, possible = criteo.load_planted(args.data, args.samples, args.num_buckets)
paddle.seed(args.seed)
model = fleet.distributed_model(CtrDnn())
optimizer = paddle.optimizer.Adam(args.learning_rate, parameters=model.parameters(), lazy_mode=True)
optimizer = fleet.distributed_optimizer(optimizer)
loader = ArrayLoader(train_set, args.batch_size, shuffle=True, seed=args.seed)
loader = fleet.distributed_loader(loader, ids={"ids": model.embedding})
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
fleet.export(model, f"{args.data}/served", input_spec=[batch["ids"], batch["dense"]])  # for infer.py
