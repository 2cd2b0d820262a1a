"""The sentences of the example in two languages, their tokenizer, arrays of token numbers, and BLEU.

Without files, a corpus in a made language is written, in the form of WMT's: train.aa beside train.bb, a sentence a line. The
translation has other words, an adjective behind its noun, the verb at the end, the time in front of all, and a plural said
before the noun instead of at its end: to translate, one has to learn a dictionary and a grammar.
"""

from pathlib import Path

import numpy as np
from sacrebleu.metrics import BLEU
from tokenizers import ByteLevelBPETokenizer

from fleet.data import ParallelText
from fleet.data.criteo import locked

PAD, BEGIN, END = 0, 1, 2
KINDS = {"noun": 24, "verb": 12, "adjective": 12, "time": 6}


def planted(directory, num_pairs, num_test=200, seed=0):
    """Return the paths (train source, train target, test source, test target) of a made corpus, written on first use."""
    home = Path(directory) / f"{num_pairs}-pairs-seed-{seed}"
    paths = [home / f"{part}.{language}" for part in ("train", "test") for language in ("aa", "bb")]
    with locked(directory):
        if not (home / "ready").exists():
            print(f"making {num_pairs} pairs of sentences in {home}", flush=True)
            home.mkdir(exist_ok=True)
            rng = np.random.default_rng(seed)
            syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
            words = rng.permutation([a + b for a in syllables for b in syllables])
            words = iter(words[: 2 * sum(KINDS.values())].tolist())
            dictionary = {kind: [(next(words), next(words)) for _ in range(num)] for kind, num in KINDS.items()}
            for (source, target), num in ((paths[:2], num_pairs), (paths[2:], num_test)):
                pairs = [sentence(dictionary, rng) for _ in range(num)]
                source.write_text("".join(one + "\n" for one, _ in pairs))
                target.write_text("".join(other + "\n" for _, other in pairs))
            (home / "ready").touch()
    return paths


def sentence(dictionary, rng):
    """Return a sentence and its translation."""

    def any_of(kind):
        return dictionary[kind][rng.integers(len(dictionary[kind]))]

    def phrase():
        noun, adjective, many = any_of("noun"), any_of("adjective"), rng.random() < 0.4
        source, target = [noun[0] + ("s" if many else "")], (["ol"] if many else []) + [noun[1]]
        if rng.random() < 0.5:
            source, target = [adjective[0], *source], [*target, adjective[1]]
        return source, target

    who, whom, verb = phrase(), phrase(), any_of("verb")
    source, target = [*who[0], verb[0], *whom[0]], [*who[1], *whom[1], verb[1]]
    if rng.random() < 0.5:
        time = any_of("time")
        source, target = [*source, time[0]], [time[1], *target]
    return " ".join(source) + " .", " ".join(target) + " ."


def tokenizer_of(source, target, size):
    """Return a byte-pair tokenizer of both languages with at most ``size`` tokens, learned once and kept beside the source."""
    home = Path(source).parent / f"{Path(source).name}.{size}-tokens"
    with locked(home):
        if not (home / "merges.txt").exists():
            tokenizer = ByteLevelBPETokenizer(add_prefix_space=True)
            special = ["<pad>", "<begin>", "<end>"]
            tokenizer.train([str(source), str(target)], vocab_size=size, special_tokens=special, show_progress=False)
            tokenizer.save_model(str(home))
    return ByteLevelBPETokenizer(str(home / "vocab.json"), str(home / "merges.txt"), add_prefix_space=True)


def tokens_of(tokenizer, lines, length):
    """Return int64[n, length]: BEGIN tokens END, cut, or filled up with PAD."""
    rows = np.full((len(lines), length), PAD, np.int64)
    for row, found in zip(rows, tokenizer.encode_batch(lines), strict=True):
        ids = [BEGIN, *found.ids[: length - 2], END]
        row[: len(ids)] = ids
    return rows


def text_of(tokenizer, tokens):
    """Return the line that BEGIN tokens END ... say."""
    ids = tokens.tolist()[1:]
    return tokenizer.decode(ids[: ids.index(END)] if END in ids else ids).strip()


def load(source, target, tokenizer, length):
    """Return (source int64[n, length], target int64[n, length]) of two files; longer sentences are left out."""
    pairs = ParallelText.pair(source, target, max_words=length - 2)
    return tokens_of(tokenizer, pairs.source, length), tokens_of(tokenizer, pairs.target, length)


def bleu_counts(said, meant):
    """Return what BLEU of a corpus is made of, as one array that may be added up over trainers: float64[10]."""
    score = BLEU(force=True).corpus_score(said, [meant])
    return np.array([*score.counts, *score.totals, score.sys_len, score.ref_len], np.float64)


def bleu(counts):
    """Return BLEU, 0 to 100."""
    n = counts.astype(int).tolist()
    return BLEU.compute_bleu(n[:4], n[4:8], n[8], n[9], smooth_method="exp").score
