"""The text of the example, its tokenizer, and arrays of token numbers.

Any text will do for learning masked words: a sentence a line. Lines for fine-tuning are `LABEL<TAB>SENTENCE`. Without files, a
text is made: sentences are about one of four things, each with words of its own in a fixed order of roles; a word hidden from
a sentence can mostly be told from the others, and what a sentence is about is what fine-tuning asks.
"""

from pathlib import Path

import numpy as np
from tokenizers import BertWordPieceTokenizer

from fleet.data.criteo import locked
from fleet.errors import ConfigError

TOPICS, ROLES = 4, ("who", "does", "what", "where")
COMMON = ("the", "and", "then", "often", "there", "now")


def planted(directory, num_sentences, num_labelled, num_words, seed=0):
    """Return where a text and its labelled lines (to learn from, and for the test) are, made on first use."""
    home = Path(directory) / f"{num_sentences}-{num_labelled}-sentences-{num_words}-words-seed-{seed}"
    with locked(directory):
        if not (home / "ready").exists():
            print(f"making {num_sentences} sentences in {home}", flush=True)
            home.mkdir(exist_ok=True)
            rng = np.random.default_rng(seed)
            parts = ["".join(rng.permutation(list("bdfgklmnprst"))[:3]) for _ in range(40)]
            syllables = [part[0] + vowel + part[1] for part in parts for vowel in "aeiou"]
            words = rng.permutation([a + b for a in syllables for b in syllables])[: TOPICS * len(ROLES) * num_words]
            words = words.reshape(TOPICS, len(ROLES), num_words)
            (home / "text.txt").write_text("".join(sentence(words, rng)[1] + "\n" for _ in range(num_sentences)))
            for name, num in (("labelled.tsv", num_labelled), ("test.tsv", 400)):
                lines = (sentence(words, rng) for _ in range(num))
                (home / name).write_text("".join(f"topic{topic}\t{text}\n" for topic, text in lines))
            (home / "ready").touch()
    return home / "text.txt", home / "labelled.tsv", home / "test.tsv"


def sentence(words, rng):
    """Return a topic and a sentence: twice a word of each role, now and then of another topic, with common words between."""
    topic = int(rng.integers(TOPICS))
    pairing = int(rng.integers(words.shape[2]))  # the words of a clause go together: one tells the others
    said = []
    for _ in range(2):
        for role in range(len(ROLES)):
            about = topic if rng.random() < 0.9 else int(rng.integers(TOPICS))
            if rng.random() < 0.1:
                said.append(rng.choice(COMMON))
            said.append(words[about, role, pairing])
        pairing = int(rng.integers(words.shape[2]))
    return topic, " ".join(said)


def tokenizer_of(text, size):
    """Return a WordPiece tokenizer with at most ``size`` tokens, learned from the text once and kept beside it."""
    path = Path(text).with_suffix(f".{size}.tokens")
    with locked(path.parent):
        if not path.exists():
            tokenizer = BertWordPieceTokenizer(lowercase=True)
            tokenizer.train([str(text)], vocab_size=size, min_frequency=2, show_progress=False)
            path.write_text("\n".join(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)) + "\n")
    return BertWordPieceTokenizer({token: i for i, token in enumerate(path.read_text().splitlines())}, lowercase=True)


def tokens_of(tokenizer, lines, length):
    """Return int64[n, length]: [CLS] tokens [SEP], cut or filled up with [PAD]."""
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return np.array([found.ids for found in tokenizer.encode_batch(lines)], np.int64)


def masked(tokenizer, tokens, copies, seed):
    """Return (tokens to see, tokens to tell): each sentence ``copies`` times, 15 % of its tokens to be told, -100 for the others.

    Of those 80 % are hidden behind [MASK], 10 % exchanged for any token, 10 % left.
    Source: Devlin, Chang, Lee, Toutanova, "BERT", NAACL 2019, section 3.1.
    """
    rng = np.random.default_rng(seed)
    tokens = np.tile(tokens, (copies, 1))
    special = [tokenizer.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    chosen = (rng.random(tokens.shape) < 0.15) & ~np.isin(tokens, special)
    how = rng.random(tokens.shape)
    any_token = rng.integers(max(special) + 1, tokenizer.get_vocab_size(), tokens.shape)
    seen = np.where(how < 0.8, special[-1], np.where(how < 0.9, any_token, tokens))
    return np.where(chosen, seen, tokens), np.where(chosen, tokens, -100)


def lines_of(text):
    """Return the lines that hold something."""
    return [line for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]


def labelled(path, labels=None):
    """Return (sentences, int64[n] labels, the labels' names) of lines `LABEL<TAB>SENTENCE`."""
    pairs = [line.split("\t", 1) for line in lines_of(path)]
    for number, pair in enumerate(pairs, 1):
        if len(pair) < 2 or (labels is not None and pair[0] not in labels):
            what = "no label and sentence" if len(pair) < 2 else f"a label that is not learned: {pair[0]}"
            raise ConfigError(what, at=f"{path}, line {number} of those that are not empty", fix="write `LABEL<TAB>SENTENCE`")
    names = sorted({label for label, _ in pairs}) if labels is None else labels
    return [text for _, text in pairs], np.array([names.index(label) for label, _ in pairs], np.int64), names
