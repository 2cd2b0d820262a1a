"""What the examples do with raw data, on small files in the real formats."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.data import FileLoader

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def data_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"data_of_{name}", EXAMPLES / name / "data.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_queries_and_titles(tmp_path: Path) -> None:
    """The raw lines of simnet_bow: id;counts;query;positive titles;negative titles, some with a semicolon at the end."""
    simnet = data_of("simnet_bow")
    out = io.StringIO()
    simnet.Pairs().write(["7;1 2;11 12;21;31 32;33\n", "8;2 1;5;1 2;3;4;\n"], out)
    assert out.getvalue() == "2 11 12 1 21 2 31 32\n2 11 12 1 21 1 33\n1 5 2 1 2 1 4\n1 5 1 3 1 4\n"
    (tmp_path / "pairs").write_text(out.getvalue())
    (batch,) = FileLoader(tmp_path / "pairs", simnet.PAIRS, 8, to="numpy", num_readers=0)
    assert batch["query"][0].tolist() == [11, 12, 11, 12, 5, 5] and batch["negative"][1].tolist() == [2, 1, 1, 1]


def test_the_true_model_ranks_best(tmp_path: Path) -> None:
    train, test, best = data_of("simnet_bow").load(tmp_path, 400, 64)
    assert (train.num_lines, test.num_lines) == (1600, 200) and 0.88 < best < 0.98


def test_a_corpus_and_its_questions(tmp_path: Path) -> None:
    word2vec = data_of("word2vec")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "news.en-00001-of-00100").write_text("paris is in france .\nrome is in italy .\n" * 5)
    (tmp_path / "questions-words.txt").write_text(": capitals\nparis france rome italy\nParis France Oslo Norway\n: more\n")
    loader, words, questions = word2vec.load(tmp_path / "corpus", tmp_path / "questions-words.txt", 4, 1, window=2)
    assert [[words.words[i].decode() for i in line] for line in questions] == [["paris", "france", "rome", "italy"]]
    assert loader.num_lines == 10 and (tmp_path / "questions-words.vocabulary").read_text().startswith(". 10\n")
    # france - paris + rome is italy.
    vectors = np.zeros((len(words), 3))
    for word, vector in {"paris": [1, 0, 0], "france": [1, 1, 0], "rome": [0, 0, 1], "italy": [0, 1, 1]}.items():
        vectors[words.ids[word.encode()]] = vector
    vectors[vectors.sum(axis=1) == 0] = [-1, -1, -1]
    assert word2vec.solved(vectors, questions) == 1.0
    vectors[words.ids[b"italy"]] = [0, -1, -1]
    assert word2vec.solved(vectors, questions) == 0.0


def test_the_planted_analogies(tmp_path: Path) -> None:
    word2vec = data_of("word2vec")
    corpus, questions = word2vec.planted(tmp_path, 2000)
    _, words, solved = word2vec.load(corpus, questions, 4, 1)
    assert len(solved) == word2vec.PLACES * (word2vec.PLACES - 1) and len(words) == pytest.approx(460, abs=20)
