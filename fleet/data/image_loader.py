"""A loader over image files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet import runtime
from fleet.data.arrays import tensors
from fleet.data.images import Images
from fleet.data.sampler import GlobalBatches, Part, State
from fleet.data.views import CentreView, View
from fleet.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in 0..1, red, green, blue

_PLACE = "ImageLoader"
_AHEAD = 2  # batches that are decoded before the loop asks for them


class ImageLoader:
    """Yield batches (images float32[n, 3, size, size], labels int64[n]), decoded by threads ahead of the loop.

    Each pass is the next epoch, in an order drawn from (seed, epoch); what a view draws for an image comes from (seed, epoch,
    the image's number) alone. So a resumed run and any number of trainers see the same pixels.
    ``fleet.distributed_loader(loader)`` gives each trainer its part of every batch, and it decodes no more than that.

    Args:
        images: which ones, and their classes.
        batch_size: images of a batch; the global batch once the loader is distributed.
        size: pixels of a side.
        view: what is seen of an image: ``RandomView()`` for training, ``CentreView()``, or a function of your own.
        mean, std: of each colour in 0..1; what is yielded is (colour - mean) / std.
        shuffle: a new order each epoch.
        drop_last: leave out a last batch that is not full.
        seed: of the order and of the views.
        num_threads: that decode; 0 decodes in the loop; default: the cores that this trainer has, at most 8. Pillow lets other
            threads run while it decodes.
        to: ``"paddle"`` (tensors) or ``"numpy"``.

    Raises:
        ConfigError: a number out of range, Pillow is not installed; (in a pass) a file that is no image: names it.

    Cost: memory for three batches.

    Example:
        >>> loader = ImageLoader(Images.folder("imagenet/train"), 256, 224, view=RandomView(), shuffle=True)
        >>> for images, labels in loader: ...
    """

    def __init__(
        self, images: Images, batch_size: int, size: int = 224, *, view: View | None = None, mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD, shuffle: bool = False, drop_last: bool = False, seed: int = 0,
        num_threads: int | None = None, to: str = "paddle",
    ) -> None:  # fmt: skip
        if to not in ("paddle", "numpy"):
            raise ConfigError(f'to must be "paddle" or "numpy", got {to!r}', at=_PLACE, fix="use one of the two")
        if type(size) is not int or size < 1:
            raise ConfigError(f"size must be an int >= 1, got {size!r}", at=_PLACE, fix="give the pixels of a side, such as 224")
        if num_threads is not None and (type(num_threads) is not int or num_threads < 0):
            raise ConfigError(f"num_threads must be an int >= 0, got {num_threads!r}", at=_PLACE, fix="leave it out")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            fix = "give three numbers each, those of std above 0"
            raise ConfigError(f"mean and std must be of three colours, got {mean} and {std}", at=_PLACE, fix=fix)
        _require_pillow()
        self.images, self.batch_size, self.size, self.view = images, batch_size, size, view or CentreView()
        self.shuffle, self.drop_last, self.seed, self.num_threads, self.to = shuffle, drop_last, seed, num_threads, to
        self.num_samples = images.num_samples
        # (pixel / 255 - mean) / std, as pixel * factor + shift
        self._factor = (1 / (255 * np.array(std))).astype(np.float32)[:, None, None]
        self._shift = (-np.array(mean) / np.array(std)).astype(np.float32)[:, None, None]
        self._batches = GlobalBatches(
            self.num_samples, batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed, rank=0, world_size=1
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        epoch, position = self._batches.begin()
        parts = self._batches.parts(epoch, position)
        for (_, num_global), batch in zip(self._batches.sizes(position), self.read(epoch, parts), strict=True):
            self._batches.consume(num_global)
            yield batch
        self._batches.finish()

    def state(self) -> State:
        """Return where the epoch stands; a batch in hand counts as consumed."""
        return self._batches.state()

    def load(self, state: State) -> None:
        """Make the next pass begin where ``state`` was taken; images before it are not read.

        Raises:
            SnapshotError: the state belongs to other data or another seed; nothing was loaded.
        """
        self._batches.load(state)

    def read(self, epoch: int, parts: Iterable[Part]) -> Iterator[Any]:
        """Yield a batch for each part."""
        num_threads = self._threads()
        if not num_threads:
            for part in parts:
                pixels = self._room(part)
                for row, index in enumerate(part.indices.tolist()):
                    self._fill(pixels, row, index, epoch)
                yield self._batch(pixels, part)
            return
        # The pool's threads are joined at the end of the pass, also of one that is left early.
        with ThreadPoolExecutor(num_threads, "fleet-images") as pool:
            held: deque[tuple[npt.NDArray[np.float32], Part, list[Future[None]]]] = deque()
            try:
                for part in parts:
                    pixels = self._room(part)
                    rows = enumerate(part.indices.tolist())
                    held.append((pixels, part, [pool.submit(self._fill, pixels, row, i, epoch) for row, i in rows]))
                    if len(held) > _AHEAD:
                        yield self._batch(*_filled(held.popleft()))
                while held:
                    yield self._batch(*_filled(held.popleft()))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _threads(self) -> int:
        if self.num_threads is not None:
            return self.num_threads
        sharing = runtime.current(_PLACE).role.local_size if runtime.is_initialized() else 1
        return max(1, min(len(os.sched_getaffinity(0)) // max(sharing, 1), 8))

    def _room(self, part: Part) -> npt.NDArray[np.float32]:
        return np.empty((len(part.indices), 3, self.size, self.size), np.float32)

    def _batch(self, pixels: npt.NDArray[np.float32], part: Part) -> tuple[Any, ...]:
        arrays: list[npt.NDArray[Any]] = [pixels, self.images.labels[part.indices]]
        return tuple(arrays if self.to == "numpy" else tensors(arrays))

    def _fill(self, pixels: npt.NDArray[np.float32], row: int, index: int, epoch: int) -> None:
        """Decode one image into its row."""
        from PIL import Image

        path = self.images.paths[index]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, index])))
        try:
            with Image.open(path) as image:
                seen = np.asarray(self.view(image, self.size, rng))
        except (OSError, SyntaxError) as error:  # Pillow's decoders raise both for damaged files
            fix = "copy the file again, or take it out of the folder or the list"
            raise ConfigError(f"the image cannot be read: {error}", at=path, fix=fix) from error
        if seen.shape != (self.size, self.size, 3) or seen.dtype != np.uint8:
            what = f"the view gave {seen.dtype}{list(seen.shape)} for an image, not uint8[{self.size}, {self.size}, 3]"
            raise ConfigError(what, at=path, fix="let it return a PIL.Image of size x size pixels in RGB")
        np.multiply(seen.transpose(2, 0, 1), self._factor, out=pixels[row])
        pixels[row] += self._shift


def _filled(
    held: tuple[npt.NDArray[np.float32], Part, list[Future[None]]],
) -> tuple[npt.NDArray[np.float32], Part]:
    for future in held[2]:
        future.result()
    return held[:2]


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ConfigError("images need Pillow, which is not installed", at=_PLACE, fix="pip install '.[images]'") from error
