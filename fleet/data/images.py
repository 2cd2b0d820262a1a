"""Which images there are, and of which class each is: ImageNet's folders, and lists of files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fleet.data.block import I64
from fleet.data.source import reading
from fleet.errors import ConfigError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")  # of image files, in any case of letters


class Images(NamedTuple):
    """Paths of images, the class of each, and the classes' names.

    ``labels`` is ``int64[n]``, each from 0 to ``len(classes) - 1``.

    Example:
        >>> train = Images.folder("imagenet/train")
        >>> val = Images.listed("imagenet/val_list.txt")
    """

    paths: list[str]
    labels: I64
    classes: list[str]

    @property
    def num_samples(self) -> int:
        """How many images there are."""
        return len(self.paths)

    @classmethod
    def folder(cls, root: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Images:
        """Return the images below ``root``: a directory a class, with images at any depth; other files are passed over.

        Args:
            classes: names by number; default: the directories by name. Give those of the training set to a part that may
                lack some.

        Raises:
            ConfigError: no directories, one that is not in ``classes``, or one without an image.
        """
        place = os.fspath(root)
        with reading(place):
            found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        if not found:
            raise ConfigError("no directory of images is there", at=place, fix="lay the images out as ROOT/CLASS/IMAGE.JPEG")
        names = list(found if classes is None else classes)
        numbers = {name: number for number, name in enumerate(names)}
        paths: list[str] = []
        labels: list[int] = []
        for name in found:
            if name not in numbers:
                what = f"the directory {name} is none of the {len(names)} classes"
                raise ConfigError(what, at=place, fix="give the classes that there are: Images.folder(root, train.classes)")
            inside = list(_images(os.path.join(place, name)))
            if not inside:
                what = f"there is no image in the directory of a class ({', '.join(SUFFIXES)})"
                raise ConfigError(what, at=os.path.join(place, name), fix="put images there, or remove the directory")
            paths += inside
            labels += [numbers[name]] * len(inside)
        return cls(paths, np.array(labels, np.int64), names)

    @classmethod
    def listed(
        cls, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, classes: Sequence[str] | None = None
    ) -> Images:
        """Return the images of a list: a line ``FILE NUMBER`` each, the class's number from 0 on.

        Args:
            root: what the files are relative to; default: the list's directory.
            classes: names by number; default: the numbers, up to the largest one.

        Raises:
            ConfigError: a line is not of that form (says which), there is none, or the first image is not there.
        """
        place = os.fspath(path)
        base = os.path.dirname(place) if root is None else os.fspath(root)
        with reading(place):
            lines = Path(place).read_text(encoding="utf-8").splitlines()
        paths: list[str] = []
        labels: list[int] = []
        for number, line in enumerate(lines, 1):
            parts = line.rsplit(None, 1)
            if not parts:
                continue
            if len(parts) < 2 or not parts[1].isdecimal():
                what = f"not an image file and the number of its class: {line[:60]!r}"
                raise ConfigError(what, at=f"{place}:{number}", fix="write a line `FILE NUMBER` for each image")
            if classes is not None and int(parts[1]) >= len(classes):
                what = f"class {parts[1]}, and there are {len(classes)}, from 0 on"
                raise ConfigError(what, at=f"{place}:{number}", fix="give the list's own classes, or correct the line")
            paths.append(os.path.join(base, parts[0]))
            labels.append(int(parts[1]))
        if not paths:
            raise ConfigError("the list names no image", at=place, fix="write a line `FILE NUMBER` for each image")
        if not os.path.exists(paths[0]):
            fix = f"give the directory that the names are relative to: root=...; this was {base or '.'}"
            raise ConfigError(f"the first image of the list is not there: {paths[0]}", at=place, fix=fix)
        names = [str(label) for label in range(max(labels) + 1)] if classes is None else list(classes)
        return cls(paths, np.array(labels, np.int64), names)


def _images(directory: str) -> Iterator[str]:
    for folder, inner, names in os.walk(directory):
        inner.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(folder, name)
