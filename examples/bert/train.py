"""A small BERT learns to tell masked words of a text, then, fine-tuned, what a sentence is about: a job of several trainers.

Without ``--start`` it learns masked words and saves the weights; with ``--start WEIGHTS`` it fine-tunes on labelled sentences.
Source: Devlin, Chang, Lee, Toutanova, "BERT: pre-training of deep bidirectional transformers", NAACL 2019.
"""

import argparse
import time

import paddle
from data import labelled, lines_of, masked, planted, tokenizer_of, tokens_of
from paddle import nn

import fleet
from fleet.data import ArrayLoader

parser = argparse.ArgumentParser()
parser.add_argument("--text", default="", help="a sentence a line; default: a text that is made")
parser.add_argument("--labelled", nargs=2, default=[], metavar=("LEARN", "TEST"), help="two files of lines LABEL<TAB>SENTENCE")
parser.add_argument("--start", default="", help="weights to fine-tune on the labelled sentences; `none`: from scratch")
parser.add_argument("--save", default="bert.pdparams", help="where the weights of masked words go")
parser.add_argument("--sentences", type=int, default=1500, help="of the text that is made")
parser.add_argument("--words", type=int, default=8, help="of each of 4 roles in each of 4 topics that are made")
parser.add_argument("--examples", type=int, default=24, help="labelled sentences that are made to learn from")
parser.add_argument("--copies", type=int, default=4, help="maskings of each sentence")
parser.add_argument("--epochs", type=int, default=0, help="default: 4; 10 for fine-tuning")
parser.add_argument("--batch_size", type=int, default=0, help="default: 64; 16 for fine-tuning")
parser.add_argument("--length", type=int, default=20, help="tokens of a sentence")
parser.add_argument("--vocabulary", type=int, default=1000, help="at most so many tokens")
parser.add_argument("--hidden", type=int, default=64)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--learning_rate", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
tuning = bool(args.start)
epochs, batch_size = args.epochs or (10 if tuning else 4), args.batch_size or (16 if tuning else 64)


class Bert(nn.Layer):
    """An encoder with a head for masked words (the embedding's weight again) or, with ``num_labels``, for whole sentences."""

    def __init__(self, num_tokens, padding, num_labels=0):
        super().__init__()
        self.padding, small = padding, paddle.ParamAttr(initializer=nn.initializer.Normal(0, 0.02))
        self.tokens = nn.Embedding(num_tokens, args.hidden, weight_attr=small)
        self.positions = nn.Embedding(args.length, args.hidden, weight_attr=small)
        layer = nn.TransformerEncoderLayer(args.hidden, args.heads, 4 * args.hidden, dropout=0.0, activation="gelu")
        self.encoder, self.norm = nn.TransformerEncoder(layer, args.layers), nn.LayerNorm(args.hidden)
        self.labels = nn.Linear(args.hidden, num_labels) if num_labels else None

    def forward(self, tokens):
        seen = (tokens != self.padding).astype("float32")
        x = self.tokens(tokens) + self.positions(paddle.arange(args.length))
        x = self.norm(self.encoder(x, (seen - 1).unsqueeze([1, 2]) * 1e9))
        if self.labels is None:
            return paddle.matmul(x, self.tokens.weight, transpose_y=True)
        return self.labels((x * seen.unsqueeze(2)).sum(1) / seen.sum(1, keepdim=True))


fleet.init()
text, *made = planted("data/bert", args.sentences, args.examples, args.words) if not args.text else (args.text,)
tokenizer = tokenizer_of(text, args.vocabulary)
if tuning:
    sentences, truth, labels = labelled((args.labelled or made)[0])
    others, test_truth, _ = labelled((args.labelled or made)[1], labels)
    train, test = (tokens_of(tokenizer, sentences, args.length), truth), (tokens_of(tokenizer, others, args.length), test_truth)
else:
    labels, tokens = [], tokens_of(tokenizer, lines_of(text), args.length)
    held = max(len(tokens) // 10, 1)  # sentences for the test
    train, test = masked(tokenizer, tokens[held:], args.copies, args.seed), masked(tokenizer, tokens[:held], 1, args.seed + 1)

paddle.seed(args.seed)
model = Bert(tokenizer.get_vocab_size(), tokenizer.token_to_id("[PAD]"), len(labels))
if args.start not in ("", "none"):
    known = paddle.load(args.start)
    model.set_state_dict({**model.state_dict(), **known})
model = fleet.distributed_model(model)
loader = fleet.distributed_loader(ArrayLoader(train, batch_size, shuffle=True, seed=args.seed))
steps = epochs * len(loader)
schedule = paddle.optimizer.lr.PolynomialDecay(args.learning_rate, steps, end_lr=args.learning_rate / 100)
schedule = paddle.optimizer.lr.LinearWarmup(schedule, max(steps // 10, 1), 0.0, args.learning_rate)
clip = nn.ClipGradByGlobalNorm(1.0)
optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)
optimizer = fleet.distributed_optimizer(optimizer)

began = time.perf_counter()
for epoch in range(epochs):
    for tokens, truth in loader:
        # Divided by all sentences, not by the tokens that are told: so the parts of a batch add up to the batch.
        loss = nn.functional.cross_entropy(model(tokens), truth, ignore_index=-100, reduction="sum") / len(truth)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        fleet.log(loss=loss)
rate = epochs * len(train[0]) / (time.perf_counter() - began)

model.eval()
right = []
with paddle.no_grad():
    for tokens, truth in fleet.distributed_loader(ArrayLoader(test, 128)):
        told = truth.numpy() >= 0
        right.append((model(tokens).argmax(-1) == truth).numpy()[told])
accuracy = fleet.metrics.accuracy(right)
if not tuning:
    fleet.save(model, args.save)
print(f"{'sentences' if tuning else 'masked tokens'} told right: {accuracy:.4f}, {rate:.0f} sentences/s")
