"""Image files in ImageNet's folder and list forms: which, what is seen of them, in what order, and what is refused."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest

from fleet.data import CentreView, ImageLoader, Images, RandomView, ShardedLoader
from fleet.errors import ConfigError

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

CLASSES = ("n01440764", "n01443537", "n01484850")


def photograph(rng, width, height):
    """A smooth coloured image, so that JPEG changes it little."""
    small = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return PIL.fromarray(small).resize((width, height), PIL.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / "train" / name).mkdir(parents=True)
        for i in range(4):
            photograph(rng, 60 + 10 * i, 80 - 10 * label).save(root / "train" / name / f"{name}_{i}.JPEG", quality=95)
    (root / "train" / CLASSES[0] / "notes.txt").write_text("not an image\n")
    lines = [f"train/{name}/{name}_{i}.JPEG {label}\n" for label, name in enumerate(CLASSES) for i in (3, 1)]
    (root / "val_list.txt").write_text("".join(lines) + "\n")
    return root


def loader(images, batch_size=5, size=16, **more):
    return ImageLoader(images, batch_size, size, to="numpy", **more)


def test_folder_and_list(folder):
    train = Images.folder(folder / "train")
    assert train.classes == list(CLASSES) and train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [path.rsplit("/", 1)[1] for path in train.paths[:5]] == [f"n01440764_{i}.JPEG" for i in range(4)] + ["n01443537_0.JPEG"]
    val = Images.listed(folder / "val_list.txt")
    assert val.labels.tolist() == [0, 0, 1, 1, 2, 2] and val.paths[1] == train.paths[1] and val.classes == ["0", "1", "2"]
    elsewhere = folder / "lists" / "val.txt"
    elsewhere.parent.mkdir(exist_ok=True)
    elsewhere.write_text((folder / "val_list.txt").read_text())
    assert Images.listed(elsewhere, root=folder, classes=train.classes).paths == val.paths
    assert Images.folder(folder / "train", ["cat", *CLASSES]).labels.tolist() == [1] * 4 + [2] * 4 + [3] * 4


def test_the_middle_of_an_image_normalised(folder):
    images = Images.folder(folder / "train")
    [(pixels, labels)] = list(loader(images, 12, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5)))
    assert pixels.dtype == np.float32 and pixels.shape == (12, 3, 16, 16) and labels.tolist() == images.labels.tolist()
    for row, path in enumerate(images.paths):
        with PIL.open(path) as image:
            width, height = image.size
            side = min(width, height) * 224 / 256
            box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
            whole = np.asarray(image.convert("RGB").resize((16, 16), PIL.Resampling.BILINEAR, box=box)) / 255
        expected = ((whole - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]).transpose(2, 0, 1)
        assert np.abs(pixels[row] - expected).max() < 0.25, path  # 1.0 is 51 grey levels; decoded at half size and smaller
        assert np.abs(pixels[row] - expected).mean() < 0.05


def test_what_is_drawn_depends_on_seed_epoch_and_image_alone(folder):
    images = Images.folder(folder / "train")
    drawn = {"view": RandomView(), "shuffle": True, "seed": 7}
    alone = loader(images, **drawn)
    epochs = [list(alone), list(alone)]
    seen = [{pixels.tobytes() for batch in epoch for pixels in batch[0]} for epoch in epochs]
    assert len(seen[0] | seen[1]) == 24  # the second epoch sees other parts
    for num_threads in (0, 3):
        again = loader(images, num_threads=num_threads, **drawn)
        for epoch in epochs:
            for (pixels, labels), (expected, truth) in zip(again, epoch, strict=True):
                assert (pixels == expected).all() and (labels == truth).all()
    for world_size in (2, 3):  # its trainers see together what one sees alone
        counts: list[tuple[int, int]] = []
        ranks = [ShardedLoader(loader(images, **drawn), rank=rank, world_size=world_size, seed=0, batch="global",
                               on_batch=lambda *said, to=counts: to.append(said)) for rank in range(world_size)]  # fmt: skip
        for epoch in epochs:
            for parts, (expected, _) in zip(zip(*ranks, strict=True), epoch, strict=True):
                sizes = [num for num, _ in counts[-world_size:]]  # 0 where a trainer borrows an image
                together = np.concatenate([pixels[:num] for (pixels, _), num in zip(parts, sizes, strict=True)])
                assert (together == expected).all()
    other = next(iter(loader(images, **{**drawn, "seed": 8})))[0]
    assert not (other == epochs[0][0][0]).any(axis=(1, 2, 3)).all()


def test_resumes_in_the_middle_of_an_epoch(folder):
    drawn = {"view": RandomView(), "shuffle": True}
    first = loader(Images.folder(folder / "train"), **drawn)
    expected = list(first) + list(first)
    again = loader(Images.folder(folder / "train"), **drawn)
    for _ in zip(again, range(1), strict=False):
        pass
    second = loader(Images.folder(folder / "train"), **drawn)
    walk = iter(second)
    next(walk), next(walk)
    state = second.state()
    walk.close()
    resumed = loader(Images.folder(folder / "train"), **drawn)
    resumed.load(state)
    found = list(resumed) + list(resumed)
    assert len(found) == 4 and all((a[0] == b[0]).all() for a, b in zip(found, expected[2:], strict=True))


def test_a_pass_left_early_leaves_no_thread(folder):
    walk = iter(loader(Images.folder(folder / "train"), 2, num_threads=2))
    next(walk)
    assert any(thread.name.startswith("fleet-images") for thread in threading.enumerate())
    walk.close()
    assert not any(thread.name.startswith("fleet-images") for thread in threading.enumerate())


def test_a_random_view_is_a_part_mirrored_in_other_colours():
    image = PIL.fromarray(np.arange(48 * 64, dtype=np.uint32).astype(np.uint8).reshape(48, 64)).convert("RGB")
    rng = np.random.default_rng(0)
    plain = RandomView(scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=0, colour=0)(image, 16, rng)
    mirrored = RandomView(scale=(1, 1), ratio=(4 / 3, 4 / 3), flip=1, colour=0)(image, 16, rng)
    assert (np.asarray(plain)[:, ::-1] == np.asarray(mirrored)).all()
    whole = np.asarray(image.resize((16, 16), PIL.Resampling.BILINEAR, reducing_gap=2.0))
    assert (np.asarray(plain) == whole).all()
    drawn = [np.asarray(RandomView()(image, 16, rng)) for _ in range(40)]
    assert all(one.shape == (16, 16, 3) for one in drawn) and len({one.tobytes() for one in drawn}) == 40
    assert np.std([one.mean() for one in drawn]) > 10  # brightness
    sides = [RandomView()._box(64, 48, rng) for _ in range(500)]
    share = np.array([(b[2] - b[0]) * (b[3] - b[1]) for b in sides]) / (64 * 48)
    assert all(0 <= b[0] < b[2] <= 64 and 0 <= b[1] < b[3] <= 48 for b in sides) and share.min() < 0.15 and 0.06 < share.max() <= 1
    assert RandomView()._box(1000, 2, np.random.default_rng(1))[3] <= 2  # longer than any ratio


def test_grey_cmyk_and_png_named_jpeg(tmp_path):
    rng = np.random.default_rng(3)
    photo = photograph(rng, 40, 40)
    (tmp_path / "c").mkdir()
    photo.convert("L").save(tmp_path / "c" / "grey.JPEG")
    photo.convert("CMYK").save(tmp_path / "c" / "cmyk.JPEG")
    photo.save(tmp_path / "c" / "png.JPEG", format="PNG")
    photo.convert("P").save(tmp_path / "c" / "palette.png")
    [(pixels, _)] = list(loader(Images.folder(tmp_path), 4))
    assert np.isfinite(pixels).all() and (pixels[1] == pixels[1]).all()
    grey = pixels[1] * np.array([0.229, 0.224, 0.225])[:, None, None] + np.array([0.485, 0.456, 0.406])[:, None, None]
    assert np.abs(grey[0] - grey[1]).max() < 1e-5


def test_bad_input(tmp_path, folder):
    rng = np.random.default_rng(3)
    with pytest.raises(ConfigError, match="cannot be read"):
        Images.folder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no directory of images"):
        Images.folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="no image in the directory"):
        Images.folder(tmp_path)
    with pytest.raises(ConfigError, match="n01440764 is none of the 1 classes"):
        Images.folder(folder / "train", ["a"])
    held = io.BytesIO()
    photograph(rng, 200, 200).save(held, "JPEG")
    (tmp_path / "a" / "cut.jpg").write_bytes(held.getvalue()[: len(held.getvalue()) // 2])
    for num_threads in (0, 2):
        with pytest.raises(ConfigError, match="truncated") as raised:
            list(loader(Images.folder(tmp_path), 1, num_threads=num_threads))
        assert raised.value.at.endswith("a/cut.jpg")
    (tmp_path / "a" / "cut.jpg").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot identify"):
        list(loader(Images.folder(tmp_path), 1))
    lists = tmp_path / "list.txt"
    for text, what, place in (
        ("a/cut.jpg 0\nb.jpg\n", "not an image file and the number", ":2"),
        ("a/cut.jpg -1\n", "not an image file and the number", ":1"),
        ("a/cut.jpg 3\n", "class 3, and there are 2", ":1"),
        ("b/cut.jpg 1\n", "not there: .*b/cut.jpg", ""),
        ("", "names no image", ""),
    ):
        lists.write_text(text)
        with pytest.raises(ConfigError, match=what) as raised:
            Images.listed(lists, classes=["a", "b"])
        assert raised.value.at == f"{lists}{place}"
    images = Images.folder(folder / "train")
    with pytest.raises(ConfigError, match="the view gave"):
        list(loader(images, view=lambda image, size, rng: image.convert("L")))
    for wrong in ({"size": 0}, {"num_threads": -1}, {"std": (1, 1, 0)}, {"mean": (1, 1)}):
        with pytest.raises(ConfigError):
            loader(images, **wrong)
    for wrong in ({"scale": (0, 1)}, {"ratio": (2, 1)}, {"flip": 2}, {"colour": -1}):
        with pytest.raises(ConfigError):
            RandomView(**wrong)
    with pytest.raises(ConfigError):
        CentreView(0.5)


def test_paddle_tensors(folder):
    paddle = pytest.importorskip("paddle")
    pixels, labels = next(iter(ImageLoader(Images.folder(folder / "train"), 3, 8)))
    assert isinstance(pixels, paddle.Tensor) and pixels.shape == [3, 3, 8, 8] and labels.dtype == paddle.int64
