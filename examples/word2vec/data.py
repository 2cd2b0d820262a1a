"""The data of the example: a corpus with planted analogies, made on first use, in the form of the One-Billion-Word files.

Each word of a pair (place i, kind k) stands among words of its place and words of its kind: so the vectors of a place's two
words differ by what the kinds differ by, and "paris france rome italy" can be solved. The questions have the form of
questions-words.txt: four words a line, sections behind colons.

With the real corpus: ``load("training-monolingual.tokenized.shuffled", "questions-words.txt", ...)``.
"""

from pathlib import Path

import numpy as np

from fleet.data import FileLoader, SkipGram, Vocabulary
from fleet.data.criteo import locked

PLACES, KINDS = 40, ("capital", "country")


def planted(directory, num_lines, seed=0):
    """Return where a planted corpus and its questions are, made on first use."""
    home = Path(directory) / f"{num_lines}-lines-seed-{seed}"
    with locked(directory):
        if not (home / "ready").exists():
            print(f"making {num_lines} lines in {home}", flush=True)
            (home / "corpus").mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(seed)
            for part, lines in enumerate(np.array_split(np.arange(num_lines), 2)):
                text = "".join(sentence(rng) for _ in lines)
                (home / "corpus" / f"news.en-0000{part + 1}-of-00002").write_text(text)
            questions = [f"{KINDS[0]}{a} {KINDS[1]}{a} {KINDS[0]}{b} {KINDS[1]}{b}\n"
                         for a in range(PLACES) for b in range(PLACES) if a != b]  # fmt: skip
            (home / "questions-words.txt").write_text(": capitals\n" + "".join(questions))
            (home / "ready").touch()
    return home / "corpus", home / "questions-words.txt"


def sentence(rng):
    """Return a line: a word of a pair, words of its place, words of its kind, and any words."""
    place, kind = rng.integers(PLACES), rng.integers(len(KINDS))
    words = [f"{KINDS[kind]}{place}", *(f"place{place}_{i}" for i in rng.integers(0, 4, 3)),
             *(f"kind{kind}_{i}" for i in rng.integers(0, 6, 3)), *(f"word{i}" for i in rng.integers(0, 200, 2))]  # fmt: skip
    return " ".join(rng.permutation(words)) + " .\n"


def load(corpus, questions, batch_size, seed, min_count=5, **drawn):
    """Return a loader of skip-gram samples of the corpus, its vocabulary, and the questions as int64[n, 4]."""
    path = Path(questions).with_suffix(".vocabulary")
    with locked(path.parent):
        if not path.exists():
            Vocabulary.build(corpus, min_count).save(path)
    words = Vocabulary.load(path)
    lines = [line.split() for line in Path(questions).read_bytes().splitlines() if not line.startswith(b":")]
    known = [[words.ids[word] for word in line] for line in lines if all(word in words.ids for word in line)]
    loader = FileLoader(corpus, SkipGram(str(path), seed=seed, **drawn), batch_size, window=10_000, seed=seed)
    return loader, words, np.array(known)


def solved(vectors, questions):
    """Return the share of questions a b c d for which d is the word nearest to b - a + c, those three left out."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    right = 0
    for part in np.array_split(questions, -(-len(questions) // 1024)):
        a, b, c, d = part.T
        near = (unit[b] - unit[a] + unit[c]) @ unit.T
        near[np.arange(len(part))[:, None], part[:, :3]] = -np.inf
        right += int((near.argmax(axis=1) == d).sum())
    return right / len(questions)
