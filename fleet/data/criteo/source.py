"""Files of raw text, cut in blocks of whole lines that several readers can share out."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fleet.errors import ConfigError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

BLOCK_BYTES = 4 << 20  # of text in one task: 17 ms of parsing (parse.py)
MAX_LINE_BYTES = 1 << 20  # a sample takes about 250

_GZIP = b"\x1f\x8b"


class Task(NamedTuple):
    """One block: the lines that begin at ``start`` to ``end`` of a plain file, or text that is already in memory."""

    path: str
    start: int
    end: int
    text: bytes | None = None

    def load(self) -> bytes:
        """Return the text, whole lines."""
        return _range(self.path, self.start, self.end) if self.text is None else self.text


def files(paths: Paths) -> list[str]:
    """Return the data files that ``paths`` mean: a file, a directory of parts (by name; not ``.x`` nor ``_x``), or several.

    Raises:
        ConfigError: nothing is there, a directory has no data files, or a file named by itself is empty.
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[str] = []
    for one in map(Path, several):
        if one.is_dir():
            parts = sorted(p for p in one.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
            if not parts:
                inside = ", ".join(sorted(p.name + "/" for p in one.iterdir() if p.is_dir()))
                holds = f"; it holds {inside}" if inside else ""
                what = f"the directory has no data files{holds}"
                raise ConfigError(what, at=str(one), fix="name a directory that holds the parts")
            found += map(str, parts)
        elif not one.exists():
            raise ConfigError("there is no such data file or directory", at=str(one), fix="check the path")
        elif one.stat().st_size == 0:
            raise ConfigError("the data file is empty", at=str(one), fix="write the samples again, or leave the file out")
        else:
            found.append(str(one))
    if not found:
        raise ConfigError("no data files were given", at="fleet.data.criteo", fix="name at least one file or directory")
    return found


def tasks(paths: Sequence[str]) -> Iterator[Task]:
    """Yield the blocks of files in order: byte ranges of plain ones; gzipped ones, told by their first bytes, as text."""
    for path in paths:
        with _reading(path), open(path, "rb") as file:
            zipped = file.read(2) == _GZIP
        if zipped:
            yield from _unzipped(path)
        else:
            size = os.path.getsize(path)
            for start in range(0, size, BLOCK_BYTES):
                yield Task(path, start, min(start + BLOCK_BYTES, size))


def _range(path: str, start: int, end: int) -> bytes:
    """Return the lines that begin at ``start`` to ``end``: a line belongs to the range in which it begins."""
    with _reading(path), open(path, "rb") as file:
        before = max(start - 1, 0)
        file.seek(before)
        text = file.read(end - before)
        if not text.endswith(b"\n"):
            text += _line(file.readline(MAX_LINE_BYTES), path)
    return text if start == 0 else text[text.find(b"\n") + 1 or len(text) :]


def _unzipped(path: str) -> Iterator[Task]:
    with _reading(path), gzip.open(path, "rb") as file:
        while text := file.read(BLOCK_BYTES):
            if not text.endswith(b"\n"):
                text += _line(file.readline(MAX_LINE_BYTES), path)
            yield Task(path, 0, 0, text)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Say which file could not be read, and why."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fix = "the file is cut off or damaged: copy it again (gzip -t FILE checks it)"
        raise ConfigError(f"the gzipped data file cannot be read: {error}", at=path, fix=fix) from error
    except OSError as error:
        what = f"the data file cannot be read: {error.strerror}"
        raise ConfigError(what, at=path, fix="check the file and its rights") from error


def _line(rest: bytes, path: str) -> bytes:
    if len(rest) == MAX_LINE_BYTES:
        fix = "this is not text of the Criteo format (40 fields between tabs, one sample a line)"
        raise ConfigError(f"a line is longer than {MAX_LINE_BYTES} bytes", at=path, fix=fix)
    return rest
