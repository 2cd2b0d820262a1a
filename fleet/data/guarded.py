"""What the user's data set or collate function raises, carried to the loop that waits for the batch.

Paddle 3.3.1 raises it in its reader thread, with and without workers, and then the loop waits for that thread for ever. So a
failure travels as a batch: each batch is (header, what the collate function made), and a failure's header begins with -1.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

FAILED = -1


class Failure:
    """An exception as bytes, with its traceback as text."""

    def __init__(self, error: Exception) -> None:
        text = traceback.format_exc()
        try:
            self.packed = pickle.dumps((error, text))
            pickle.loads(self.packed)
        except Exception:  # noqa: BLE001  whatever an exception's pickling does
            self.packed = pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), text))


class Samples:
    """A map-style set whose failures are samples."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._dataset[index]
        except Exception as error:  # noqa: BLE001  raised again by the loop
            return Failure(error)

    def __len__(self) -> int:
        return len(self._dataset)


class Items:
    """A stream whose failure is its last sample."""

    def __init__(self, stream: Iterable[Any]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._stream
        except Exception as error:  # noqa: BLE001  raised again by the loop
            yield Failure(error)


def collated(collate: Callable[[list[Any]], Any], header: Callable[[], list[int]]) -> Callable[[list[Any]], Any]:
    """Return a collate function whose batches have a header, and whose failures are batches."""

    def call(samples: list[Any]) -> Any:
        failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
        if failure is None:
            try:
                return np.array(header(), np.int64), collate(samples)
            except Exception as error:  # noqa: BLE001  raised again by the loop
                failure = Failure(error)
        return np.array([FAILED], np.int64), np.frombuffer(failure.packed, np.uint8).copy()

    return call


def opened(found: Any) -> tuple[list[int], Any]:
    """Return a batch's header and the batch; raise what the user's code raised."""
    head, batch = found
    header: list[int] = head.numpy().tolist()
    if header[0] == FAILED:
        error, text = pickle.loads(batch.numpy().tobytes())
        raise error from RuntimeError(f"in the data loader:\n{text}")
    return header, batch
