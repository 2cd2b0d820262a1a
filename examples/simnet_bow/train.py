"""SimNet-BOW: which of two titles fits a query, as a job of trainers and servers.

Two towers over bags of words: the words' vectors add up, one layer follows; a title's score is the cosine of its tower with
the query's. The fitting title shall score higher by a margin: a hinge on each pair.
"""

import argparse
import time

import paddle
from data import WORDS, load
from paddle import nn

import fleet

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="data/simnet_bow", help="directory of the data, made on first use")
parser.add_argument("--queries", type=int, default=12_000, help="for training, four pairs each")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch_size", type=int, default=256)
parser.add_argument("--dim", type=int, default=64, help="floats of a word's vector")
parser.add_argument("--margin", type=float, default=0.5)
parser.add_argument("--learning_rate", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()


class SimNet(nn.Layer):
    def __init__(self):
        super().__init__()
        small = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.1, 0.1))
        self.words = nn.Embedding(WORDS, args.dim, sparse=True, weight_attr=small)
        self.query_tower = nn.Linear(args.dim, args.dim)
        self.title_tower = nn.Linear(args.dim, args.dim)

    def bag(self, values, lengths):
        of_bag = paddle.repeat_interleave(paddle.arange(len(lengths)), lengths)
        return paddle.geometric.segment_sum(self.words(values), of_bag)

    def forward(self, query, positive, negative):
        asked = nn.functional.softsign(self.query_tower(nn.functional.softsign(self.bag(*query))))
        titles = [self.title_tower(nn.functional.softsign(self.bag(*title))) for title in (positive, negative)]
        return [nn.functional.cosine_similarity(asked, nn.functional.softsign(title)) for title in titles]


fleet.init()
paddle.seed(args.seed)
loader, test_loader, possible = load(args.data, args.queries, args.batch_size)
model = fleet.distributed_model(SimNet())
optimizer = paddle.optimizer.Adam(args.learning_rate, parameters=model.parameters(), lazy_mode=True)
optimizer = fleet.distributed_optimizer(optimizer)
loader = fleet.distributed_loader(loader, ids=lambda batch: [(model.words, values) for values, _ in batch.values()])

began = time.perf_counter()
for epoch in range(args.epochs):
    for step, batch in enumerate(loader):
        fits, other = model(batch["query"], batch["positive"], batch["negative"])
        loss = nn.functional.relu(args.margin - fits + other).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        fleet.log(loss=loss)
rate = args.epochs * 4 * args.queries / (time.perf_counter() - began)

model.eval()
right = []
with paddle.no_grad():
    for batch in fleet.distributed_loader(test_loader):
        fits, other = model(batch["query"], batch["positive"], batch["negative"])
        right.append((fits > other).numpy())
reached = fleet.metrics.mean(right)
print(f"right pairs {reached:.4f}, {rate:.0f} examples/s; the best possible share here is {possible:.4f}")
