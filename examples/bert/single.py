"""A small BERT learns to fill in masked tokens, on one machine, in plain Paddle.

The text is made here: each sentence walks along a fixed table of "which token follows which" and jumps now and then, so
that a masked token can mostly be told from its neighbours. Deepened later: real text, a tokenizer, fine-tuning.
"""

import argparse
import time

import numpy as np
import paddle
from paddle import nn

parser = argparse.ArgumentParser()
parser.add_argument("--sentences", type=int, default=6400)
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--batch_size", type=int, default=64)
parser.add_argument("--length", type=int, default=16, help="tokens of a sentence")
parser.add_argument("--vocabulary", type=int, default=64)
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
MASK = 0  # the token that hides another; sentences use 1 and above


class Sentences(paddle.io.Dataset):
    """Pairs (tokens with some masked: int64[length], the true tokens: int64[length], -100 where nothing was hidden)."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        follows = 1 + np.random.default_rng(0).permutation(args.vocabulary - 1)  # the same in every set
        tokens = rng.integers(1, args.vocabulary, (count, args.length))
        for i in range(1, args.length):
            tokens[:, i] = np.where(rng.random(count) < 0.9, follows[tokens[:, i - 1] - 1], tokens[:, i])
        hidden = rng.random(tokens.shape) < 0.15
        self.masked = np.where(hidden, MASK, tokens)
        self.truth = np.where(hidden, tokens, -100)

    def __len__(self):
        return len(self.masked)

    def __getitem__(self, i):
        return self.masked[i], self.truth[i]


class Bert(nn.Layer):
    """Token and position embeddings, a Transformer encoder, and a projection back to tokens with the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(args.vocabulary, args.hidden)
        self.positions = nn.Embedding(args.length, args.hidden)
        layer = nn.TransformerEncoderLayer(args.hidden, args.heads, 4 * args.hidden, dropout=0.0, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, args.layers)
        self.norm = nn.LayerNorm(args.hidden)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(paddle.arange(args.length))
        return paddle.matmul(self.norm(self.encoder(x)), self.tokens.weight, transpose_y=True)


train_set, test_set = Sentences(args.sentences, args.seed), Sentences(512, args.seed + 1)
paddle.seed(args.seed)
model = Bert()
schedule = paddle.optimizer.lr.LinearWarmup(args.learning_rate, 50, 0.0, args.learning_rate)
clip = nn.ClipGradByGlobalNorm(1.0)
optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)
loader = paddle.io.DataLoader(train_set, batch_size=args.batch_size, shuffle=True)

began = time.perf_counter()
for epoch in range(args.epochs):
    for masked, truth in loader:
        # Divided by all tokens, not by the masked ones: so the parts of a batch add up to the batch.
        loss = nn.functional.cross_entropy(model(masked), truth, ignore_index=-100, reduction="sum") / truth.size
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    print(f"epoch {epoch} loss {float(loss):.4f}", flush=True)
rate = args.epochs * len(train_set) / (time.perf_counter() - began)

model.eval()
right = []
with paddle.no_grad():
    for masked, truth in paddle.io.DataLoader(test_set, batch_size=128):
        guess = model(masked).argmax(-1)
        right.append((guess == truth).numpy()[truth.numpy() >= 0])
accuracy = float(np.concatenate(right).mean())
print(f"masked tokens guessed right: {accuracy:.3f}, {rate:.0f} sentences/s")
