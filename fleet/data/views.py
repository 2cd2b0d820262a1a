"""What a model sees of an image: a random part for training, the middle for a test.

A view is ``view(image, size, rng) -> image``: a ``PIL.Image`` in, one of size x size pixels in RGB out; all that it draws
comes from the ``numpy.random.Generator``. A view of your own is a function of that form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fleet.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

View = Callable[["Image", int, np.random.Generator], "Image"]

_TRIES = 10  # for a part that lies within the image


@dataclass(frozen=True)
class RandomView:
    """See a random part of an image, perhaps mirrored, in changed colours.

    Args:
        scale: the part's share of the image's area, from and to.
        ratio: its width over its height, from and to.
        flip: the chance that left and right are exchanged.
        colour: brightness, contrast and saturation are multiplied by 1 - colour to 1 + colour each; 0: as they are.

    Raises:
        ConfigError: a number out of range.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6; Howard, "Some improvements on deep
    convolutional neural network based image classification", 2013 (colours).
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    colour: float = 0.4

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if not 0 < low <= high <= most:
                fix = "use 0 < from <= to <= 1" if most == 1 else "use 0 < from <= to"
                raise ConfigError(f"{name} must be two numbers, from and to, got {(low, high)}", at="RandomView", fix=fix)
        for name, value in (("flip", self.flip), ("colour", self.colour)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie in 0..1, got {value}", at="RandomView", fix="use 0 to turn it off")

    def __call__(self, image: Image, size: int, rng: np.random.Generator) -> Image:
        """Return a view drawn from ``rng``."""
        from PIL import Image, ImageEnhance

        found = _seen(image, self._box(*image.size, rng), size)
        if rng.random() < self.flip:
            found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour:
            factors = rng.uniform(1 - self.colour, 1 + self.colour, 3)
            changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for change, factor in zip(changes, factors.tolist(), strict=True):
                found = change(found).enhance(factor)
        return found

    def _box(self, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        low, high = (math.log(end) for end in self.ratio)
        for _ in range(_TRIES):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - tall + 1))
                return left, top, left + wide, top + tall
        wide = min(width, round(height * self.ratio[1]))  # the middle of a very long image
        tall = min(height, round(width / self.ratio[0]))
        return _middle(width, height, wide, tall)


@dataclass(frozen=True)
class CentreView:
    """See the middle of an image: the largest square in it, less a margin; what a test sees.

    Args:
        margin: side of the square over the side of what is seen; 256 / 224 cuts the usual border off.
    """

    margin: float = 256 / 224

    def __post_init__(self) -> None:
        """Check the number."""
        if self.margin < 1:
            raise ConfigError(f"margin must be at least 1, got {self.margin}", at="CentreView", fix="use 1 for no margin")

    def __call__(self, image: Image, size: int, rng: np.random.Generator) -> Image:
        """Return the view; nothing is drawn."""
        side = min(image.size) / self.margin
        return _seen(image, _middle(*image.size, side, side), size)


def _middle(width: int, height: int, wide: float, tall: float) -> tuple[float, float, float, float]:
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall


def _seen(image: Image, box: tuple[float, float, float, float], size: int) -> Image:
    """Return a part of an image as size x size pixels in RGB.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the part still has enough pixels: that of a large photograph, or a
    small view. At 224 pixels few of ImageNet's are.
    """
    from PIL import Image

    width, height = image.size
    shrunk = min((box[2] - box[0]) / size, (box[3] - box[1]) / size)
    if shrunk >= 2:
        image.draft("RGB", (int(width / shrunk), int(height / shrunk)))  # says nothing to files that are no JPEG
        times = round(max(width, height) / max(image.size))  # 1, 2, 4 or 8; a side that it does not divide is rounded up
        box = (box[0] / times, box[1] / times, min(box[2] / times, image.size[0]), min(box[3] / times, image.size[1]))
    whole = image if image.mode == "RGB" else image.convert("RGB")
    return whole.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
