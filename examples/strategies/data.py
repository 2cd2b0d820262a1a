"""Points in clouds around 20 centres a class: something to learn that is made in a moment."""

import numpy as np


def clouds(n, noise=1.3, inputs=64, classes=10, centres=20):
    """Return n points to learn from and n // 4 to test with: dicts of x float32[n, inputs], y int64[n]."""
    random = np.random.default_rng(7)
    middle = random.normal(size=(classes * centres, inputs))
    cloud = random.integers(0, len(middle), n + n // 4)
    x = (middle[cloud] + noise * random.normal(size=(cloud.size, inputs))).astype("float32")
    y = (cloud % classes).astype("int64")
    return {"x": x[:n], "y": y[:n]}, {"x": x[n:], "y": y[n:]}
