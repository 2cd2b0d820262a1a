"""A Transformer learns to translate, as a job of several trainers; checked by BLEU.

Source: Vaswani et al., "Attention is all you need", NIPS 2017; BLEU by sacrebleu: Post, "A call for clarity in reporting BLEU
scores", WMT 2018.
"""

import argparse
import time

import paddle
from data import BEGIN, END, PAD, bleu, bleu_counts, load, planted, text_of, tokenizer_of
from paddle import nn

import fleet
from fleet.data import ArrayLoader

parser = argparse.ArgumentParser()
parser.add_argument("--files", nargs=4, default=[], metavar=("SOURCE", "TARGET", "TEST_SOURCE", "TEST_TARGET"),
                    help="a sentence a line, plain or gzipped, as WMT's; default: a made language")  # fmt: skip
parser.add_argument("--pairs", type=int, default=3000, help="of sentences that are made to learn from")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch_size", type=int, default=64)
parser.add_argument("--length", type=int, default=20, help="tokens of a sentence, and two more; longer ones are cut")
parser.add_argument("--vocabulary", type=int, default=500, help="at most so many tokens, of both languages together")
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--dropout", type=float, default=0.0, help="0.1 for WMT")
parser.add_argument("--learning_rate", type=float, default=1.0, help="factor of the schedule of the paper")
parser.add_argument("--warm_up", type=int, default=150, help="steps; 4000 for WMT")
parser.add_argument("--smoothing", type=float, default=0.1, help="share of the truth that goes to all tokens alike")
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()


class Translator(nn.Layer):
    """Encoder and decoder over one embedding, which is the output's projection, too."""

    def __init__(self, num_tokens):
        super().__init__()
        small = paddle.ParamAttr(initializer=nn.initializer.Normal(0, args.hidden**-0.5))
        self.tokens = nn.Embedding(num_tokens, args.hidden, weight_attr=small)
        self.positions = nn.Embedding(args.length, args.hidden, weight_attr=small)
        self.both = nn.Transformer(args.hidden, args.heads, args.layers, args.layers, 4 * args.hidden, args.dropout,
                                   normalize_before=True)  # fmt: skip

    def forward(self, source, target):
        """Return float32[n, target's length, tokens]: at each place what comes behind the target's tokens up to it."""
        padding = (source == PAD).astype("float32").unsqueeze([1, 2]) * -1e9
        future = paddle.triu(paddle.full([target.shape[1], target.shape[1]], -1e9), 1)
        found = self.both(self.embedded(source), self.embedded(target), padding, future, padding)
        return paddle.matmul(found, self.tokens.weight, transpose_y=True)

    def embedded(self, tokens):
        return self.tokens(tokens) * args.hidden**0.5 + self.positions(paddle.arange(tokens.shape[1]))


def trimmed(tokens):
    """Return tokens without the columns that are padding in every row."""
    return tokens[:, : int((tokens != PAD).any(axis=0).sum())]


def translated(model, source):
    """Return int64[n, at most length]: the likeliest token, place by place."""
    said = paddle.full([len(source), 1], BEGIN, "int64")
    while said.shape[1] < args.length and not bool((said == END).any(axis=1).all()):
        said = paddle.concat([said, model(source, said)[:, -1].argmax(-1, keepdim=True)], axis=1)
    return said.numpy()


fleet.init()
files = args.files or planted("data/transformer", args.pairs)
tokenizer = tokenizer_of(*files[:2], args.vocabulary)
train, test = load(*files[:2], tokenizer, args.length), load(*files[2:], tokenizer, args.length)
paddle.seed(args.seed)
model = fleet.distributed_model(Translator(tokenizer.get_vocab_size()))
loader = fleet.distributed_loader(ArrayLoader(train, args.batch_size, shuffle=True, seed=args.seed))
schedule = paddle.optimizer.lr.NoamDecay(args.hidden, args.warm_up, args.learning_rate)
optimizer = paddle.optimizer.Adam(schedule, beta1=0.9, beta2=0.98, epsilon=1e-9, parameters=model.parameters())
optimizer = fleet.distributed_optimizer(optimizer)
usual = float((train[1][:, 1:] != PAD).sum(axis=1).mean())  # tokens of a translation

began = time.perf_counter()
for epoch in range(args.epochs):
    for source, target in loader:
        source, target = trimmed(source), trimmed(target)
        truth = nn.functional.one_hot(target[:, 1:], tokenizer.get_vocab_size())
        truth = nn.functional.label_smooth(truth, epsilon=args.smoothing)
        guess = model(source, target[:, :-1])
        each = nn.functional.cross_entropy(guess, truth, soft_label=True, reduction="none").squeeze(-1)
        # Divided by the sentences and their usual length, not by the batch's tokens: so its parts add up to the batch.
        loss = (each * (target[:, 1:] != PAD).astype("float32")).sum() / (len(target) * usual)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        fleet.log(loss=loss)
rate = args.epochs * len(train[0]) / (time.perf_counter() - began)

model.eval()
said, meant = [], []
with paddle.no_grad():
    for source, target in fleet.distributed_loader(ArrayLoader(test, 100)):
        said += [text_of(tokenizer, row) for row in translated(model, source)]
        meant += [text_of(tokenizer, row) for row in target.numpy()]
counts = fleet.all_reduce(bleu_counts(said, meant))
print(f"BLEU {bleu(counts):.2f}, {rate:.0f} pairs/s")
