"""What each strategy is, by its definition: N virtual trainers in one process, plain NumPy sums in place of the wire.

Independent of fleet and of Paddle: a small net with its own backward pass, optimizers, and every strategy as its paper says.
``train(strategy, world_size)`` returns the parameters of every virtual trainer after two epochs.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

SAMPLES, BATCH, EPOCHS = 58, 22, 2  # batches of 22, 22 and 14: uneven parts, none of one sample (batch norm)
RATE, MOMENTUM = 0.1, 0.9
Arrays = dict[str, Any]
SHAPES = {"0.weight": (6, 8), "1.weight": (8,), "1.bias": (8,), "3.weight": (8, 3), "3.bias": (3,)}


def data() -> tuple[Any, Any]:
    random = np.random.default_rng(1)
    return random.normal(size=(SAMPLES, 6)).astype(np.float32), random.integers(0, 3, SAMPLES)


def start() -> Arrays:
    random = np.random.default_rng(2)
    made = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()}
    made["1.weight"] += np.float32(1)  # of the batch norm
    return made


def part(n: int, world_size: int, rank: int) -> slice:
    return slice(rank * n // world_size, (rank + 1) * n // world_size)


def gradients(p: Arrays, xs: list[Any], ys: list[Any], together: bool) -> tuple[list[Arrays], list[float]]:
    """Return each trainer's gradient of its own mean loss, and that loss; with ``together``, batch norm sees all samples."""
    hidden = [x @ q["0.weight"] for x, q in zip(xs, p, strict=True)]
    pools = [list(range(len(xs)))] * len(xs) if together else [[r] for r in range(len(xs))]
    passed, backward, losses = [], [], []
    for r, (h, y, q) in enumerate(zip(hidden, ys, p, strict=True)):
        pool = np.concatenate([hidden[k] for k in pools[r]])
        mean, var = pool.mean(0), pool.var(0)
        inverse = 1 / np.sqrt(var + 1e-5)
        normal = (h - mean) * inverse
        t = np.tanh(normal * q["1.weight"] + q["1.bias"])
        scores = t @ q["3.weight"] + q["3.bias"]
        soft = np.exp(scores - scores.max(1, keepdims=True))
        soft /= soft.sum(1, keepdims=True)
        losses.append(float(-np.log(soft[np.arange(len(y)), y]).sum() / max(len(y), 1)))
        soft[np.arange(len(y)), y] -= 1
        d_scores = soft / max(len(y), 1)
        d_normed = (d_scores @ q["3.weight"].T) * (1 - t * t)
        passed.append((normal, inverse, t, d_scores, d_normed))
        backward.append(d_normed * q["1.weight"])
    found = []
    for r, x in enumerate(xs):
        normal, inverse, t, d_scores, d_normed = passed[r]
        # The pool's loss is the mean over its samples: a trainer's own mean weighs by its share of them.
        sizes = [len(xs[k]) for k in pools[r]]
        n = max(sum(sizes), 1)
        mean_d = sum(backward[k].sum(0) * len(xs[k]) for k in pools[r]) / n
        mean_dn = sum((backward[k] * passed[k][0]).sum(0) * len(xs[k]) for k in pools[r]) / n
        own = max(len(x), 1)
        d_hidden = inverse * (backward[r] - mean_d / own - normal * mean_dn / own)
        found.append({
            "0.weight": x.T @ d_hidden,
            "1.weight": (d_normed * normal).sum(0), "1.bias": d_normed.sum(0),
            "3.weight": t.T @ d_scores, "3.bias": d_scores.sum(0),
        })  # fmt: skip
    return found, losses


class Optimizer:
    """SGD with momentum, Adam (its variance frozen from a step on), LARS or LAMB of one trainer."""

    def __init__(self, kind: str, settings: dict[str, Any]) -> None:
        self.kind, self.settings, self.step_number = kind, settings, 0
        self.first: Arrays = {}
        self.second: Arrays = {}

    def step(self, p: Arrays, g: Arrays, rate: float) -> None:
        self.step_number += 1
        for name in p:
            getattr(self, self.kind)(name, p, g[name], rate)

    def momentum(self, name: str, p: Arrays, g: Any, rate: float) -> None:
        self.first[name] = MOMENTUM * self.first.get(name, 0) + g
        p[name] = p[name] - rate * self.first[name]

    def sgd(self, name: str, p: Arrays, g: Any, rate: float) -> None:
        p[name] = p[name] - rate * g

    def lars(self, name: str, p: Arrays, g: Any, rate: float) -> None:
        decay, coeff = self.settings.get("lars_weight_decay", 0.0005), self.settings.get("lars_coeff", 0.001)
        size, slope = np.linalg.norm(p[name]), np.linalg.norm(g)
        local = rate * coeff * size / (slope + decay * size) if size > 0 and slope > 0 else rate
        self.first[name] = MOMENTUM * self.first.get(name, 0) + local * (g + decay * p[name])
        p[name] = p[name] - self.first[name]

    def moments(self, name: str, g: Any) -> Any:
        self.first[name] = 0.9 * self.first.get(name, 0) + 0.1 * g
        self.second[name] = 0.999 * self.second.get(name, 0) + 0.001 * g * g
        return self.first[name] / (1 - 0.9**self.step_number), self.second[name] / (1 - 0.999**self.step_number)

    def adam(self, name: str, p: Arrays, g: Any, rate: float) -> None:
        last = min(self.step_number, self.settings.get("freeze_steps", self.step_number))
        self.first[name] = 0.9 * self.first.get(name, 0) + 0.1 * g
        if last == self.step_number:
            self.second[name] = 0.999 * self.second.get(name, 0) + 0.001 * g * g
        deviation = np.sqrt(self.second[name] / (1 - 0.999**last))
        p[name] = p[name] - rate * self.first[name] / (1 - 0.9**self.step_number) / (deviation + 1e-8)

    def lamb(self, name: str, p: Arrays, g: Any, rate: float) -> None:
        first, second = self.moments(name, g)
        update = first / (np.sqrt(second) + 1e-8) + self.settings.get("lamb_weight_decay", 0.01) * p[name]
        size, length = np.linalg.norm(p[name]), np.linalg.norm(update)
        p[name] = p[name] - rate * (size / length if size > 0 and length > 0 else 1) * update


# -- codecs: the sum over trainers of what each one's gradient becomes on the wire


def fp16_allreduce(found: list[Any]) -> Any:
    return sum(x.astype(np.float16).astype(np.float32) for x in found)


def bf16_allreduce(found: list[Any]) -> Any:
    def rounded(x: Any) -> Any:
        low = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        high = (low.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
        odd = (low.view(np.uint32) >> np.uint32(16)) & np.uint32(1) == 1
        nearer, tie = np.abs(x - high) < np.abs(x - low), np.abs(x - high) == np.abs(x - low)
        return np.where(nearer | (tie & odd), high, low).astype(np.float32)

    return sum(rounded(np.ascontiguousarray(x)) for x in found)


class Int8:
    """Blocks, scales, stochastic rounding by the documented generator."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.sent: dict[str, int] = {}

    def __call__(self, name: str, found: list[Any]) -> Any:
        count = self.sent[name] = self.sent.get(name, 0) + 1
        total = 0
        for rank, x in enumerate(found):
            flat = np.zeros(-(-x.size // 1024) * 1024, np.float32)
            flat[: x.size] = x.reshape(-1)
            key = [zlib.crc32(name.encode()), (count << 16) + rank]
            draw = np.random.Generator(np.random.Philox(key=key)).random((flat.size // 1024, 1024), np.float32)
            for block, chance in zip(flat.reshape(-1, 1024), draw, strict=True):
                scale = np.abs(block).max() / np.float32(127)
                if scale > 0:
                    low = np.floor(block / scale)
                    block[:] = (low + (chance < block / scale - low)) * scale
            total = total + flat[: x.size].reshape(x.shape)
        return total


class PowerSgd:
    """Algorithm 1 of the paper with warm start, and error feedback on each trainer."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.rank = settings.get("rank", 1)
        self.q: Arrays = {}
        self.left: dict[Any, Any] = {}

    def __call__(self, name: str, found: list[Any]) -> Any:
        shape = found[0].shape
        if len(shape) < 2 or self.rank * sum(shape) >= shape[0] * shape[1]:
            return sum(found)
        if name not in self.q:
            draw = np.random.default_rng(zlib.crc32(name.encode()))
            self.q[name] = draw.standard_normal((shape[1], self.rank), np.float32)
        found = [x + self.left.get((name, r), 0) for r, x in enumerate(found)]
        base = np.linalg.qr(sum(x @ self.q[name] for x in found))[0]
        each = [x.T @ base for x in found]
        for r, x in enumerate(found):
            self.left[name, r] = x - base @ each[r].T
        self.q[name] = sum(each)
        return base @ self.q[name].T


class Dgc:
    """Algorithm 1 of the paper: momentum correction, factor masking, ramp-up."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.u: dict[Any, Any] = {}
        self.v: dict[Any, Any] = {}
        self.steps: dict[str, int] = {}

    def __call__(self, name: str, found: list[Any]) -> Any:
        begin, sparsity = self.settings.get("rampup_begin_step", 0), self.settings["sparsity"]
        step = self.steps[name] = self.steps.get(name, 0) + 1
        total = 0
        for r, g in enumerate(found):
            at = self.settings.get("local_clip")
            if at is not None:
                g = g * min(1.0, at / len(found) ** 0.5 / np.linalg.norm(g))
            u = self.u[name, r] = MOMENTUM * self.u.get((name, r), 0) + g
            if step <= begin or g.size < self.settings.get("min_size", 16384):
                total = total + u
                continue
            v = self.v.get((name, r), 0) + u
            entry = min((step - begin - 1) * len(sparsity) // self.settings.get("rampup_step", 1), len(sparsity) - 1)
            largest = np.sort(np.abs(v), axis=None)[-max(1, round(g.size * (1 - sparsity[entry])))]
            mask = np.abs(v) >= largest
            total = total + np.where(mask, v, 0)
            self.u[name, r], self.v[name, r] = np.where(mask, 0, u), np.where(mask, 0, v)
        return total


class OneBit:
    """Algorithm 1 of 1-bit Adam: signs and a scale of each trainer's momentum, with error feedback; all are gathered."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.freeze_steps = settings["freeze_steps"]
        self.steps: dict[str, int] = {}
        self.momentum: Arrays = {}
        self.left: dict[Any, Any] = {}

    def __call__(self, name: str, found: list[Any]) -> Any:
        step = self.steps[name] = self.steps.get(name, 0) + 1
        before = self.momentum.get(name, np.zeros_like(found[0]))
        if step <= self.freeze_steps:
            self.momentum[name] = 0.9 * before + 0.1 * sum(found)
            return sum(found)
        total = 0
        for r, g in enumerate(found):
            mine = 0.9 * before / len(found) + 0.1 * g + self.left.get((name, r), 0)
            sent = np.where(mine >= 0, 1, -1) * np.abs(mine).mean()
            self.left[name, r] = mine - sent
            total = total + sent
        self.momentum[name] = total
        return (total - 0.9 * before) / 0.1


STATELESS = {"fp16_allreduce": fp16_allreduce, "bf16_allreduce": bf16_allreduce}
CODECS = {**STATELESS, "int8": Int8, "powersgd": PowerSgd, "dgc": Dgc, "onebit": OneBit}
APPLIED = ("lars", "lamb")
LOCAL = ("localsgd", "post_localsgd", "adaptive_localsgd")
NOTHING = {"buckets", "find_unused_parameters", "deterministic", "verify", "recompute", "sharding"}  # they change no value
HERE = {"gradient_merge", "sync_batch_norm", "clip", "ema", "lr_scaling", *LOCAL, *CODECS, *APPLIED, *NOTHING}


class Job:
    """N virtual trainers under a strategy."""

    def __init__(self, strategy: dict[str, Any], world_size: int) -> None:
        assert set(strategy) <= HERE, f"no definition of {set(strategy) - HERE}"
        self.on, self.n = strategy, world_size
        self.p = [start() for _ in range(world_size)]
        kind = next((name for name in APPLIED if name in strategy), "momentum")
        settings = strategy.get(kind, {})
        if "onebit" in strategy:
            kind, settings = "adam", strategy["onebit"] if world_size > 1 else {}
        self.optimizers = [Optimizer(kind, settings) for _ in range(world_size)]
        self.kept: list[Arrays] = []  # of a group of micro-steps
        self.in_group, self.steps, self.apart = 0, 0, 0
        codec = next((name for name in CODECS if name in strategy), "")
        self.codec = lambda _, column: sum(column)
        if codec in STATELESS and world_size > 1:
            self.codec = lambda _, column: STATELESS[codec](column)
        elif codec and world_size > 1:
            self.codec = CODECS[codec](strategy[codec])
        if codec == "dgc" and world_size > 1:
            for made in self.optimizers:
                made.kind = "sgd"
        self.k_steps = self.averaging.get("k_steps", self.averaging.get("init_k_steps"))
        self.averages = [start() for _ in range(world_size)]

    @property
    def averaging(self) -> dict[str, Any]:
        return next((self.on[name] for name in LOCAL if name in self.on), {})

    @property
    def local(self) -> bool:
        return bool(self.averaging) and self.steps >= self.averaging.get("begin_step", 1)

    def batch(self, xs: list[Any], ys: list[Any], ends_epoch: bool) -> None:
        total = sum(len(x) for x in xs)
        found, losses = gradients(self.p, xs, ys, together="sync_batch_norm" in self.on)
        self.loss = sum(len(x) / total * loss for x, loss in zip(xs, losses, strict=True))
        for x, g in zip(xs, found, strict=True):
            weight = np.float32(1.0 if self.local else len(x) / total)
            for name in g:
                g[name] = (g[name] * weight).astype(np.float32)
        self.kept = [{k: a[k] + g[k] for k in g} for a, g in zip(self.kept, found, strict=True)] if self.kept else found
        self.in_group += 1
        merge = self.on.get("gradient_merge")
        if merge is None or self.in_group == merge["k_steps"] or ends_epoch:
            self.step(ends_epoch)
            self.kept, self.in_group = [], 0

    def step(self, ends_epoch: bool) -> None:
        local = self.local
        each = self.kept if local else [self.reduced()] * self.n
        for r in range(self.n):
            g = dict(each[r])
            if self.on.get("gradient_merge", {}).get("avg", True):
                g = {k: v / self.in_group for k, v in g.items()}
            if "clip" in self.on:
                norm = np.sqrt(sum(float((v.astype(np.float64) ** 2).sum()) for v in g.values()))
                g = {k: v * min(1.0, self.on["clip"]["norm"] / norm) for k, v in g.items()}
            self.optimizers[r].step(self.p[r], g, self.rate())
        self.steps += 1
        if self.steps == 1:
            self.first_loss = self.loss
        if local:
            self.apart += 1
            if self.apart == self.k_steps or ends_epoch:
                self.p = [{k: sum(p[k] for p in self.p) / self.n for k in SHAPES} for _ in range(self.n)]
                self.apart = 0
                if "adaptive_localsgd" in self.on:  # at a rate that stays
                    wanted = self.loss / self.first_loss * self.averaging["init_k_steps"]
                    self.k_steps = max(1, min(16, int(np.ceil(np.sqrt(wanted)))))
        decay = self.on.get("ema", {}).get("decay", 0.999)
        for p, average in zip(self.p, self.averages, strict=True):
            for name in p:
                average[name] = decay * average[name] + (1 - decay) * p[name]

    def rate(self) -> float:
        scaling = self.on.get("lr_scaling")
        if scaling is None:
            return RATE
        factor = self.n if scaling.get("rule", "linear") == "linear" else self.n**0.5
        warm = min(1.0, (self.steps + 1) / scaling["warmup_steps"]) if scaling.get("warmup_steps") else 1.0
        return RATE * (1 + (factor - 1) * warm)

    def reduced(self) -> Arrays:
        columns = {k: [g[k] for g in self.kept] for k in SHAPES}
        return {k: self.codec(k, column) for k, column in columns.items()}


def train(strategy: dict[str, Any], world_size: int) -> list[Arrays]:
    x, y = data()
    job = Job(strategy, world_size)
    for _ in range(EPOCHS):
        for begin in range(0, SAMPLES, BATCH):
            bx, by = x[begin : begin + BATCH], y[begin : begin + BATCH]
            parts = [part(len(bx), world_size, r) for r in range(world_size)]
            job.batch([bx[s] for s in parts], [by[s] for s in parts], begin + BATCH >= SAMPLES)
    if "ema" in strategy:
        return [{**p, **{f"ema/{k}": v for k, v in a.items()}} for p, a in zip(job.p, job.averages, strict=True)]
    return job.p
