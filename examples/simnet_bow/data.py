"""The data of the example: queries and titles in the raw format, made on first use, and what becomes of them.

A raw line, fields between semicolons, words (numbers) between spaces:

    ID;POSITIVES NEGATIVES;query;positive title;...;negative title;...

    python examples/simnet_bow/data.py < raw.txt > train/part-0     # raw text to MultiSlot text: one pair of titles a line
"""

import json
from pathlib import Path

import numpy as np

from fleet.data import FileLoader, MultiSlot, MultiSlotStringDataGenerator, Slot
from fleet.data.criteo import locked

PAIRS = MultiSlot([Slot("query"), Slot("positive"), Slot("negative")])
NUM_TOPICS, TOPIC_WORDS, WORDS, IN_TOPIC = 20, 40, 800, 0.4


class Pairs(MultiSlotStringDataGenerator):
    """Make a sample of each positive title with each negative one."""

    def generate_sample(self, line):
        _, counts, query, *titles = line.rstrip("\n").split(";")
        num_positive = int(counts.split()[0])
        for positive in titles[:num_positive]:
            for negative in filter(None, titles[num_positive:]):
                yield [("query", query.split()), ("positive", positive.split()), ("negative", negative.split())]


def load(directory, num_queries, batch_size, seed=0):
    """Return loaders of training and held-out pairs, and the share of the held-out ones that the true model gets right."""
    home = Path(directory) / f"{num_queries}-queries-seed-{seed}"
    with locked(directory):
        if not (home / "best.json").exists():
            print(f"making {num_queries} queries in {home}", flush=True)
            home.mkdir(exist_ok=True)
            rng = np.random.default_rng(seed)
            topics = np.array([rng.choice(WORDS, TOPIC_WORDS, replace=False) for _ in range(NUM_TOPICS)])
            write(home / "train.txt", rng, topics, num_queries)
            best = write(home / "test.txt", rng, topics, num_queries // 8)
            (home / "best.json").write_text(json.dumps(best))
    best = json.loads((home / "best.json").read_text())
    return (FileLoader(home / "train.txt", PAIRS, batch_size, window=100_000, seed=seed),
            FileLoader(home / "test.txt", PAIRS, 2048), best)  # fmt: skip


def write(path, rng, topics, num_queries):
    """Write the MultiSlot text of queries with two titles of their topic and two of others; return the best possible score.

    A word is of its text's topic with the chance IN_TOPIC, else any: so no model can be right always.
    """
    chances = np.full((NUM_TOPICS, WORDS), (1 - IN_TOPIC) / WORDS)
    for topic, words in enumerate(topics):
        chances[topic, words] += IN_TOPIC / TOPIC_WORDS
    logs = np.log(chances)

    def text(topic, num_words):
        words = np.where(rng.random(num_words) < IN_TOPIC, topics[topic, rng.integers(0, TOPIC_WORDS, num_words)],
                         rng.integers(0, WORDS, num_words))  # fmt: skip
        return words, logs[:, words].sum(axis=1)

    generator, right, pairs = Pairs(), 0.0, 0
    with open(path, "w") as file:
        for number in range(num_queries):
            own, others = rng.integers(NUM_TOPICS), rng.integers(0, NUM_TOPICS, 2)
            drawn = [text(topic, rng.integers(4, 16)) for topic in (own, own, own, *others)]
            line = ";".join([str(number), "2 2", *(" ".join(map(str, words)) for words, _ in drawn)])
            generator.write([line], file)
            # What the true model knows: how much likelier the query's topic makes a title's words than any topic does.
            scores = [np.logaddexp.reduce(drawn[0][1] + fit) - np.logaddexp.reduce(fit) for _, fit in drawn[1:]]
            for positive in scores[:2]:
                for negative in scores[2:]:
                    right, pairs = right + (positive > negative) + (positive == negative) / 2, pairs + 1
    return right / pairs


if __name__ == "__main__":
    Pairs().run_from_stdin()
