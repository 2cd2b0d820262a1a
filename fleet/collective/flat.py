"""One bucket's memory: a flat float32 or float64 tensor, and how gradients get in and out of it; 16-bit ones are widened.

On CPUs a NumPy view lies over the tensor's memory, so that weighing a gradient and moving it is one pass (0.7 ms for 16 MB;
NumPy lets go of the interpreter meanwhile). A gradient's address is asked for each time: it moves between steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.group import Group

Array = npt.NDArray[np.floating[Any]]


def dtype_of(tensor: Any) -> str:
    """Return a tensor's dtype as NumPy says it: ``float32``."""
    return str(tensor.dtype).rsplit(".", 1)[-1]


def over(tensor: Any) -> Array:
    """Return a flat view of a contiguous CPU tensor's memory. It keeps nothing alive: use it while the tensor lives."""
    size, dtype = int(tensor.size), np.dtype(dtype_of(tensor))
    if size == 0:
        return np.empty(0, dtype)
    memory: Any = (ctypes.c_char * (dtype.itemsize * size)).from_address(tensor.data_ptr())
    view: Array = np.frombuffer(memory, dtype)
    return view


class HostFlat:
    """A bucket in CPU memory."""

    def __init__(self, size: int, dtype: str = "float32") -> None:
        import paddle

        self.tensor = paddle.zeros([size], dtype=dtype)
        self._array = self._sum = over(self.tensor)  # what this trainer gives, and what all gave: Gloo adds up in place

    def add_up(self, group: Group | None, where: str, present: int) -> None:
        """Put the sum over all trainers in place of what this one gave; all have met at ``where``.

        Bit k of ``present`` is set if any trainer has the bucket's k-th gradient.
        """
        assert group is not None
        group.all_reduce_sum_(self.tensor, where)

    def put(self, start: int, stop: int, gradient: Any, weight: float) -> None:
        """Write ``weight * gradient``; weight 0 writes zeros even over NaN."""
        if weight == 0.0:
            self._array[start:stop] = 0.0
        else:
            np.multiply(_values(gradient), self._array.dtype.type(weight), out=self._array[start:stop])

    def add(self, start: int, stop: int, gradient: Any) -> None:
        """Add a contiguous gradient as it is."""
        self._array[start:stop] += _values(gradient)

    def take(self, start: int, stop: int, parameter: Any, kept: Any | None) -> None:
        """Make ``parameter.grad`` this part, plus ``kept`` if given: in its own memory, never a view of the bucket."""
        gradient = parameter.grad
        if gradient is None or not gradient.is_contiguous():
            import paddle

            parameter.clear_gradient(False)
            parameter.grad = paddle.empty(parameter.shape, dtype=parameter.dtype)
            gradient = parameter.grad
        if dtype_of(gradient) == "bfloat16":
            _take_bfloat16(parameter, self._sum[start:stop], kept)
            return
        np.copyto(over(gradient), self._sum[start:stop], casting="same_kind")
        if kept is not None:
            into = over(gradient)
            into += over(kept)


class SharedFlat(HostFlat):
    """A bucket in memory that the trainers of one host share; ``slots[turn][rank]`` of SharedSlots."""

    def __init__(self, slots: Sequence[Sequence[Array]], rank: int, dtype: str = "float32") -> None:
        self._slots = [[slot.view(dtype) for slot in ranks] for ranks in slots]
        self._rank, self._turn = rank, 0
        self._array = self._slots[0][rank]
        self._sum = np.empty_like(self._array)

    def add_up(self, group: Group | None, where: str, present: int) -> None:
        """Add all trainers' slots in rank order; the next backward writes to the next turn's slot."""
        first, second, *others = self._slots[self._turn]
        np.add(first, second, out=self._sum)
        for other in others:
            np.add(self._sum, other, out=self._sum)
        self._turn = (self._turn + 1) % len(self._slots)
        self._array = self._slots[self._turn][self._rank]


class DeviceFlat:
    """A bucket in a GPU's memory, by Paddle's own operators. Tested on CPU tensors; not yet run on a GPU."""

    def __init__(self, size: int, dtype: str = "float32") -> None:
        import paddle

        self.tensor = paddle.zeros([size], dtype=dtype)

    def add_up(self, group: Group | None, where: str, present: int) -> None:
        """As :meth:`HostFlat.add_up`."""
        assert group is not None
        group.all_reduce_sum_(self.tensor, where)

    def put(self, start: int, stop: int, gradient: Any, weight: float) -> None:
        """As :meth:`HostFlat.put`."""
        import paddle

        dtype = self.tensor.dtype
        part = paddle.zeros([stop - start], dtype) if weight == 0.0 else gradient.detach().reshape([-1]).astype(dtype) * weight
        self._write(start, stop, part)

    def add(self, start: int, stop: int, gradient: Any) -> None:
        """As :meth:`HostFlat.add`."""
        self._write(start, stop, self.tensor[start:stop] + gradient.detach().reshape([-1]).astype(self.tensor.dtype))

    def take(self, start: int, stop: int, parameter: Any, kept: Any | None) -> None:
        """As :meth:`HostFlat.take`."""
        part = self.tensor[start:stop].reshape(parameter.shape).astype(parameter.dtype)
        parameter.clear_gradient(False)
        parameter.grad = part if kept is None else part + kept

    def _write(self, start: int, stop: int, part: Any) -> None:
        import paddle

        if stop > start:
            paddle.assign(part, output=self.tensor._slice(start, stop))  # the slice shares the bucket's memory


def _values(gradient: Any) -> Array:
    """Return a CPU gradient's values, flat; a transposed weight's is strided, and NumPy has no bfloat16."""
    dense = gradient if gradient.is_contiguous() else gradient.contiguous()
    if dtype_of(dense) == "bfloat16":
        memory: Any = (ctypes.c_char * (2 * int(dense.size))).from_address(dense.data_ptr())
        wide: Array = (np.frombuffer(memory, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    return over(dense)


def _take_bfloat16(parameter: Any, total: Array, kept: Any | None) -> None:
    import paddle

    part = paddle.to_tensor(total.copy()).reshape(parameter.shape).astype("bfloat16")
    parameter.clear_gradient(False)
    parameter.grad = part if kept is None else part + kept


def moved(gradient: Any) -> Any:
    """Return a tensor that holds the gradient's memory, so that the parameter can let go of it without a copy."""
    import paddle

    if not gradient.is_contiguous():
        return gradient.clone()
    kept = paddle.empty([0], dtype=gradient.dtype)
    kept.get_tensor()._share_data_with(gradient.get_tensor())
    return kept


Flat = HostFlat | DeviceFlat
