"""CTR-DNN straight from raw text in the Criteo format.

All 26 slots share one table of rows, found by hashed ids; 13 numbers go in as they are; three layers of 400 decide. The text
is parsed while the model trains, shuffled within a window: nothing is packed before, nothing has to fit into memory.
"""

import argparse
import time

import paddle
from paddle import nn

import fleet
from fleet.data import FileLoader, criteo

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="data/ctr", help="directory of the data, made on first use")
parser.add_argument("--samples", type=int, default=300_000, help="in all; a tenth is held out")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch_size", type=int, default=512)
parser.add_argument("--num_buckets", type=int, default=1_000_001, help="ids of the shared table")
parser.add_argument("--dim", type=int, default=10, help="floats of a row")
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--window", type=int, default=100_000, help="lines within which the text is shuffled")
parser.add_argument("--readers", type=int, default=1, help="processes that parse")
parser.add_argument("--consistency", default="sync", help="sync, half_async, async, bounded or geo")
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


fleet.init(strategy=fleet.DistributedStrategy(parameter_server={"consistency": args.consistency}))
train_files, test_files, possible = criteo.planted_files(args.data, args.samples)
paddle.seed(args.seed)
model = fleet.distributed_model(CtrDnn())
optimizer = paddle.optimizer.Adam(args.learning_rate, parameters=model.parameters(), lazy_mode=True)
optimizer = fleet.distributed_optimizer(optimizer)
lines = criteo.Criteo(args.num_buckets)
loader = FileLoader(train_files, lines, args.batch_size, window=args.window, seed=args.seed, num_readers=args.readers)
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
rate = args.epochs * 0.9 * args.samples / (time.perf_counter() - began)

model.eval()
scores, labels = [], []
with paddle.no_grad():
    for batch in fleet.distributed_loader(FileLoader(test_files, lines, 4096, num_readers=0)):
        scores.append(nn.functional.sigmoid(model(batch["ids"], batch["dense"])).numpy())
        labels.append(batch["label"].numpy())
reached = fleet.metrics.auc(scores, labels)
print(f"AUC {reached:.4f}, {rate:.0f} examples/s; the best possible AUC here is {possible:.4f}")
fleet.export(model, f"{args.data}/served_text", input_spec=[batch["ids"], batch["dense"]])  # for examples/ctr/infer.py
