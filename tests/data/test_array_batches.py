"""ArrayLoader yields exact batches, of the arrays' own form, and shares memory with nothing."""

import numpy as np
import pytest

from fleet.data import ArrayLoader
from fleet.errors import ConfigError

X = np.arange(46, dtype=np.float32).reshape(23, 2)
Y = np.arange(23)


def test_in_order_it_yields_consecutive_rows():
    batches = list(ArrayLoader((X, Y), 5, to="numpy"))
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), X)
    assert len(ArrayLoader((X, Y), 5)) == 5 and len(ArrayLoader((X, Y), 5, drop_last=True)) == 4


def test_shuffled_it_yields_each_row_once_in_a_new_order_each_epoch():
    loader = ArrayLoader({"x": X, "y": Y}, 5, shuffle=True, to="numpy")
    orders = []
    for _ in range(2):
        batches = list(loader)
        for batch in batches:
            np.testing.assert_array_equal(batch["x"], X[batch["y"]])
        orders.append(np.concatenate([batch["y"] for batch in batches]).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == Y.tolist()
    assert orders[0] != orders[1] != Y.tolist()


def test_it_resumes_within_an_epoch():
    loader, again = (ArrayLoader((Y,), 5, shuffle=True, to="numpy") for _ in range(2))
    passes = iter(loader)
    next(passes), next(passes)
    again.load(loader.state())
    np.testing.assert_array_equal(np.concatenate([y for (y,) in passes]), np.concatenate([y for (y,) in again]))


@pytest.mark.parametrize("shuffle", [False, True])
def test_tensors_hold_the_rows_and_own_their_memory(shuffle, tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = Y.copy()
    seen = []
    for x, y in ArrayLoader((mapped, source), 5, shuffle=shuffle):
        assert x.numpy().dtype == np.float32 and y.numpy().dtype == np.int64 and x.stop_gradient
        np.testing.assert_array_equal(x.numpy(), X[y.numpy()])
        seen.append((x, y, y.numpy()))
        y.add_(y)  # a script may change its batch
    np.testing.assert_array_equal(source, Y)
    for x, y, rows in seen:
        np.testing.assert_array_equal(y.numpy(), 2 * rows)
        np.testing.assert_array_equal(x.numpy(), X[rows])


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "int32", "float16", "float64"])
def test_every_type_that_paddle_has(kind):
    array = np.array([0, 1, 1, 0, 1]).astype(kind)
    (tensor,) = next(iter(ArrayLoader((array,), 5)))
    assert tensor.numpy().dtype == array.dtype and tensor.numpy().tolist() == array.tolist()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ((X, Y[:-1]), "same number of samples"),
        ({}, "empty"),
        ((np.empty((0, 3)),), "empty"),
        (X, "dict or a tuple"),
        ((np.array(["a"]),), "no Paddle tensor"),
        ((np.arange(3, dtype=">i8"),), "no Paddle tensor"),
        (([1, 2, 3],), "not an array"),
    ],
)
def test_what_is_no_set_of_samples_is_refused(arrays, says):
    with pytest.raises(ConfigError, match=says):
        ArrayLoader(arrays, 5)


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match="torch"):
        ArrayLoader((X,), 5, to="torch")
