"""Skip-gram samples of the corpus files: who is a neighbour of whom, how often, and always the same for a seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.data import FileLoader, ShardedLoader, SkipGram, Vocabulary, source
from fleet.data.skip_gram import alias_table
from fleet.errors import ConfigError

# As the files training-monolingual.tokenized.shuffled/news.en-00001-of-00100 of the One-Billion-Word corpus look.
REAL = """The U.S. dollar was little changed on Monday , said dealers in London -- but shares fell .
When the two ships leave the harbour in 2011 , 5,000 people will be there .
" This is a quote , " he said , " and it has quotes in it . "
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write 400 lines of 12 words that say where they are, most frequent first."""
    folder = tmp_path / "training-monolingual.tokenized.shuffled"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in range(2):
        ids = np.minimum(rng.zipf(1.3, (200, 12)), 50)
        text = "\n".join(" ".join(f"w{i}" for i in line) for line in ids) + "\n"
        (folder / f"news.en-0000{part + 1}-of-00002").write_text(text)
    Vocabulary.build(folder, min_count=2).save(tmp_path / "words.txt")
    return tmp_path


def samples(corpus: Path, passes: int = 1, **more: Any) -> list[Any]:
    lines = SkipGram(str(corpus / "words.txt"), **more)
    loader = FileLoader(corpus / "training-monolingual.tokenized.shuffled", lines, 16, window=100, num_readers=0, to="numpy")
    return [batch for _ in range(passes) for batch in loader]


def test_the_real_format(tmp_path: Path) -> None:
    (tmp_path / "news.en-00001-of-00100").write_text(REAL)
    built = Vocabulary.build(tmp_path / "news.en-00001-of-00100", min_count=1)
    assert built.words[:2] == [b'"', b","] and built.counts[:2].tolist() == [4, 4]
    assert built.ids[b"U.S."] >= 0 and built.counts.sum() == len(REAL.split())
    assert len(Vocabulary.build(tmp_path / "news.en-00001-of-00100", min_count=3)) == 4
    built.save(tmp_path / "words.txt")
    again = Vocabulary.load(tmp_path / "words.txt")
    assert again.words == built.words and again.counts.tolist() == built.counts.tolist()
    ids, lengths = SkipGram(str(tmp_path / "words.txt"))._encoded(REAL.encode())
    found = [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
    assert found == [[built.ids[word.encode()] for word in line.split()] for line in REAL.splitlines()]


def test_neighbours_of_every_width(corpus: Path) -> None:
    """Without subsampling, the pairs at distance d are all n - d, each with the chance (window - d + 1) / window."""
    text = " ".join(f"w{i}" for i in range(1, 41))
    (corpus / "training-monolingual.tokenized.shuffled" / "news.en-00001-of-00002").write_text(f"{text}\n" * 400)
    (corpus / "training-monolingual.tokenized.shuffled" / "news.en-00002-of-00002").unlink()
    words = Vocabulary([f"w{i}".encode() for i in range(1, 41)], np.arange(40, 0, -1))
    words.save(corpus / "words.txt")
    distances: Counter[int] = Counter()
    for batch in samples(corpus, window=4, subsample=0.0):
        distances.update((batch["context"] - batch["center"]).tolist())
    assert set(distances) == {-4, -3, -2, -1, 1, 2, 3, 4}
    for distance, count in distances.items():
        expected = 400 * (40 - abs(distance)) * (4 - abs(distance) + 1) / 4
        assert count == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_frequent_words_are_thinned_out(corpus: Path) -> None:
    words = Vocabulary.load(corpus / "words.txt")
    share = words.counts / words.counts.sum()
    stays = np.minimum(np.sqrt(0.01 / share) + 0.01 / share, 1)
    center: Counter[int] = Counter()
    for batch in samples(corpus, passes=20, window=1, subsample=0.01, negatives=0):
        assert set(batch) == {"center", "context"}
        center.update(batch["center"].tolist())
    # With a window of 1 a word inside a line has two samples; ends have one, rare: the shares follow count * stays.
    total = sum(center.values())
    expected = words.counts * stays / (words.counts * stays).sum()
    for word in range(8):
        assert center[word] / total == pytest.approx(expected[word], rel=0.08)


def test_negatives_follow_the_counts_and_are_not_the_context(corpus: Path) -> None:
    words = Vocabulary.load(corpus / "words.txt")
    expected = words.counts**0.75 / (words.counts**0.75).sum()
    found: Counter[int] = Counter()
    same = total = 0
    for batch in samples(corpus, passes=10, window=2, negatives=8, subsample=1e-3):
        assert batch["negatives"].shape == (len(batch["center"]), 8)
        rare = batch["context"] > 20  # words that are hardly ever drawn themselves
        found.update(batch["negatives"][rare].reshape(-1).tolist())
        same += int((batch["negatives"] == batch["context"][:, None]).sum())
        total += batch["negatives"].size
    drawn = sum(found.values())
    for word in range(6):
        assert found[word] / drawn == pytest.approx(expected[word], rel=0.1)
    assert same / total < 0.03  # drawn twice


def test_the_alias_table_is_the_distribution() -> None:
    for weights in (np.array([1.0]), np.array([1.0, 1.0]), np.random.default_rng(0).pareto(1.0, 1000) + 1e-9):
        chance, alias = alias_table(weights)
        share = chance.copy()
        np.add.at(share, alias, 1 - chance)
        np.testing.assert_allclose(share / len(weights), weights / weights.sum(), atol=1e-12)


def test_a_seed_means_the_same_samples_however_cut_and_shared_out(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_epoch(batches: list[Any]) -> list[Any]:
        return sorted((c, t, *n) for b in batches for c, t, n in zip(b["center"].tolist(), b["context"].tolist(),
                                                                      b["negatives"].tolist(), strict=True))  # fmt: skip

    first = by_epoch(samples(corpus, seed=3))
    assert first != by_epoch(samples(corpus, seed=4)) and first == by_epoch(samples(corpus, seed=3))
    passes = samples(corpus, passes=2, seed=3)
    assert by_epoch(passes[25:]) != first == by_epoch(passes[:25])
    monkeypatch.setattr(SkipGram, "block_bytes", 1000)
    assert by_epoch(samples(corpus, seed=3)) == first
    lines = SkipGram(str(corpus / "words.txt"), seed=3)
    shared: list[Any] = []
    for rank in range(2):
        files = FileLoader(corpus / "training-monolingual.tokenized.shuffled", lines, 16, num_readers=rank, to="numpy")
        shared += ShardedLoader(files, rank=rank, world_size=2, seed=0, batch="global", on_batch=lambda *_: None)
    assert by_epoch(shared) == first and source.BLOCK_BYTES


@pytest.mark.parametrize("wrong", [{"window": 0}, {"negatives": -1}, {"subsample": 2.0}, {"seed": -1}])
def test_wrong_numbers(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SkipGram("words.txt", **wrong)


def test_no_vocabulary(corpus: Path) -> None:
    (corpus / "words.txt").write_bytes(b"a 3\nb\n")
    with pytest.raises(ConfigError, match="not a word and its count") as caught:
        samples(corpus)
    assert caught.value.at.endswith("words.txt:2")
    (corpus / "words.txt").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        samples(corpus)
    with pytest.raises(ConfigError, match="no word is there 9999 times"):
        Vocabulary.build(corpus / "training-monolingual.tokenized.shuffled", min_count=9999)
