"""Generators of MultiSlot text in the style of Paddle's: a class that says what becomes of a raw line.

    class Mine(MultiSlotDataGenerator):
        def generate_sample(self, line):
            def samples():
                label, *words = line.split()
                yield [("label", [int(label)]), ("words", [hash_of(word) for word in words])]
            return samples

    Mine().run_from_stdin()         # python mine.py < raw.txt > part-0: what MultiSlot reads
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from fleet.errors import ConfigError

Sample = Sequence[tuple[str, Sequence[Any]]]
Samples = Iterable[Sample | None] | Callable[[], Iterable[Sample | None]]


class _Generator(ABC):
    """What both generators do; they differ in how values are written.

    Raises:
        ConfigError: (when it is made) ``generate_sample`` is not overridden.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Make one, if the class is complete."""
        if "generate_sample" in cls.__abstractmethods__:
            fix = "write generate_sample(self, line): it gets a raw line and returns a function that yields [(slot, values), ...]"
            raise ConfigError(f"{cls.__qualname__} does not override generate_sample", at=cls.__module__, fix=fix)
        return super().__new__(cls)

    def __init__(self) -> None:
        self._batch_size = 32
        self._names: list[str] | None = None

    def set_batch(self, batch_size: int) -> None:
        """Set how many samples ``generate_batch`` gets at once.

        Raises:
            ConfigError: below 1.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise self._wrong(f"batch_size must be an int >= 1, got {batch_size!r}", "set_batch", "use at least 1")
        self._batch_size = batch_size

    @abstractmethod
    def generate_sample(self, line: str | None) -> Samples:
        """Return the samples of a raw line, or a function that yields them: lists of (slot, values). To be overridden.

        ``line`` is None in ``run_from_memory``. None in place of a sample is passed over.
        """

    def generate_batch(self, samples: list[Sample]) -> Samples:
        """Return the samples of a batch, or a function that yields them; may be overridden, to pad or to sort them."""
        return samples

    def run_from_stdin(self) -> None:
        """Write the samples of all lines of standard input to standard output."""
        self.write(sys.stdin, sys.stdout)

    def run_from_memory(self) -> None:
        """Write the samples that ``generate_sample(None)`` gives to standard output."""
        self.write([None], sys.stdout)

    def write(self, lines: Iterable[str | None], out: IO[str]) -> None:
        """Write the samples of ``lines`` to ``out``.

        Raises:
            ConfigError: a sample that MultiSlot text cannot hold, with its number.
        """
        num_samples = 0
        for batch in self._batches(lines):
            for sample in _iterated(self.generate_batch(batch)):
                if sample is None:
                    continue
                num_samples += 1
                out.write(self._text(sample, f"sample {num_samples} of {type(self).__name__}"))
        out.flush()

    def _batches(self, lines: Iterable[str | None]) -> Iterator[list[Sample]]:
        batch: list[Sample] = []
        for line in lines:
            for sample in _iterated(self.generate_sample(line)):
                if sample is None:
                    continue
                batch.append(sample)
                if len(batch) == self._batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _text(self, sample: Sample, at: str) -> str:
        if not isinstance(sample, (list, tuple)) or any(not isinstance(s, (list, tuple)) or len(s) != 2 for s in sample):
            raise self._wrong(f"not a sample: {sample!r:.80}", at, "yield [(slot, values), ...]")
        names = [name for name, _ in sample]
        self._names = self._names or names
        if names != self._names:
            fix = "give every sample the same slots in the same order"
            raise self._wrong(f"its slots are {names}, those of the first sample {self._names}", at, fix)
        words: list[str] = []
        for name, values in sample:
            if not isinstance(values, (list, tuple)) or not values:
                fix = "give a list of at least one value: Paddle's own reader takes no empty slot; pad it, with 0 for one"
                raise self._wrong(f"slot {name!r} has the values {values!r:.60}", at, fix)
            words.append(str(len(values)))
            words += [self._word(value, name, at) for value in values]
        return " ".join(words) + "\n"

    @abstractmethod
    def _word(self, value: Any, name: str, at: str) -> str:
        """Return a value as the line has it."""

    def _wrong(self, what: str, at: str, fix: str) -> ConfigError:
        return ConfigError(what, at=at, fix=fix)


class MultiSlotDataGenerator(_Generator):
    """Write samples whose values are ints and floats."""

    def _word(self, value: Any, name: str, at: str) -> str:
        if type(value) not in (int, float):
            fix = "give Python ints and floats, or use MultiSlotStringDataGenerator"
            raise self._wrong(f"a value of slot {name!r} is {value!r:.60}", at, fix)
        return str(value)


class MultiSlotStringDataGenerator(_Generator):
    """Write samples whose values are numbers as text already: faster, as nothing is converted."""

    def _word(self, value: Any, name: str, at: str) -> str:
        if not isinstance(value, str) or not value or value.split() != [value]:
            raise self._wrong(f"a value of slot {name!r} is {value!r:.60}", at, "give words without blanks")
        return value


def _iterated(samples: Samples) -> Iterable[Sample | None]:
    return samples() if callable(samples) else samples
