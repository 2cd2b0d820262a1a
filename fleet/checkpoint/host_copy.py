"""Tensors copied to memory that is kept, so that training goes on while they are written.

The memory is made and touched ahead, in a thread: the first touch of fresh pages runs at 0.4 to 2 GB/s here, a copy to warm ones
at 5 to 8.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class HostCopy:
    """Arrays by name, each as large as a tensor."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._making: threading.Thread | None = None  # joined by the next take

    def prepare(self, tensors: dict[str, Any]) -> None:
        """Make the memory for tensors, in a thread."""
        wanted = {name: (tuple(t.shape), _dtype(t)) for name, t in tensors.items() if name not in self._arrays}

        def make() -> None:
            for name, (shape, dtype) in wanted.items():
                array = np.empty(shape, dtype)
                array.fill(0)  # NumPy lets go of the interpreter meanwhile
                self._arrays.setdefault(name, array)

        self._making = threading.Thread(target=make, name="fleet-host-copy", daemon=True)
        self._making.start()

    def take(self, name: str, tensor: Any) -> Array:
        """Return the tensor's values in memory of our own; the next take of this name overwrites them."""
        if self._making is not None:
            self._making.join()
            self._making = None
        array = self._arrays.get(name)
        if array is None or array.shape != tuple(tensor.shape) or array.dtype != _dtype(tensor):
            array = self._arrays[name] = np.empty(tuple(tensor.shape), _dtype(tensor))
        if tensor.size == 0:
            return array
        if not tensor.place.is_cpu_place():
            np.copyto(array, np.asarray(tensor.cpu()))
            return array
        dense = tensor if tensor.is_contiguous() else tensor.contiguous()
        num_bytes = array.nbytes
        memory: Any = (ctypes.c_char * num_bytes).from_address(dense.data_ptr())
        np.copyto(array.reshape(-1).view(np.uint8), np.frombuffer(memory, np.uint8))  # 5 to 8 GB/s
        return array


def _dtype(tensor: Any) -> np.dtype[Any]:
    name = str(tensor.dtype).rpartition(".")[2]
    return np.dtype({"bfloat16": "uint16", "bool": "bool"}.get(name, name))  # as Paddle's own files have them
