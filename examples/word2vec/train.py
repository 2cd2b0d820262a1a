"""word2vec: skip-gram with negatives, as a job of trainers and servers; checked by analogies.

A word's vector shall tell its neighbours from words that were drawn by their frequency.
Source: Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed representations of words and phrases and their compositionality",
NIPS 2013.
"""

import argparse
import time

import paddle
from data import load, planted, solved
from paddle import nn

import fleet

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="data/word2vec", help="directory of the data, made on first use")
parser.add_argument("--lines", type=int, default=20_000, help="of the corpus, ten words each")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch_size", type=int, default=64, help="lines: some 60 samples each")
parser.add_argument("--dim", type=int, default=32, help="floats of a word's vector")
parser.add_argument("--negatives", type=int, default=5)
parser.add_argument("--learning_rate", type=float, default=1e-2)
parser.add_argument("--consistency", default="async", help="sync, half_async, async, bounded or geo")
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()


class SkipGram(nn.Layer):
    def __init__(self, num_words):
        super().__init__()
        small = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.5 / args.dim, 0.5 / args.dim))
        self.words = nn.Embedding(num_words, args.dim, sparse=True, weight_attr=small)
        self.contexts = nn.Embedding(num_words, args.dim, sparse=True, weight_attr=nn.initializer.Constant(0.0))

    def forward(self, center, others):
        return paddle.bmm(self.contexts(others), self.words(center).unsqueeze(2)).squeeze(2)


def with_negatives(batch):
    """Return the context and the negatives of each center in one array: one look-up."""
    return paddle.concat([batch["context"].unsqueeze(1), batch["negatives"]], axis=1)


fleet.init(strategy=fleet.DistributedStrategy(parameter_server={"consistency": args.consistency}))
corpus, questions = planted(args.data, args.lines)
loader, words, questions = load(corpus, questions, args.batch_size, args.seed, negatives=args.negatives, subsample=0.02)
paddle.seed(args.seed)
model = fleet.distributed_model(SkipGram(len(words)))
optimizer = paddle.optimizer.Adam(args.learning_rate, parameters=model.parameters(), lazy_mode=True)
optimizer = fleet.distributed_optimizer(optimizer)
loader = fleet.distributed_loader(loader, lambda batch: {model.words: batch["center"], model.contexts: with_negatives(batch)})

began = time.perf_counter()
for epoch in range(args.epochs):
    for step, batch in enumerate(loader):
        fits = model(batch["center"], with_negatives(batch))
        loss = (nn.functional.softplus(-fits[:, :1]) + nn.functional.softplus(fits[:, 1:]).sum(axis=1, keepdim=True)).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        fleet.log(loss=loss)
rate = args.epochs * words.counts.sum() / (time.perf_counter() - began)

fleet.barrier()
model.eval()
with paddle.no_grad():
    vectors = model.words(paddle.arange(len(words))).numpy()
print(f"analogies solved {solved(vectors, questions):.4f}, {rate:.0f} words/s; the best possible share here is 1")
