"""What the trainers run in the tests of this room. Every function builds its own model and reducer and closes it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
from paddle import nn

import fleet.runtime
from fleet.collective import agreement, memory
from fleet.collective.agreement import agree_model, broadcast_state
from fleet.collective.reducer import Reducer
from fleet.group import Group
from fleet.runtime import Share

_groups: dict[str, Group] = {}


def runtime() -> Any:
    return fleet.runtime.current("a test")


@contextlib.contextmanager
def reducing(parameters: Any, buckets: dict[str, float] | None = None) -> Iterator[Reducer]:
    """A reducer over a model (or named parameters), closed at the end; the groups are opened once a process (0.3 s each)."""
    make = Group.open

    def reuse(of: Any, name: str) -> Group:
        if name not in _groups:
            _groups[name] = make(of, name)
        return _groups[name]

    memory.Group.open = reuse  # type: ignore[method-assign, assignment]
    named = parameters.named_parameters() if isinstance(parameters, nn.Layer) else parameters
    made = Reducer(runtime(), named, buckets or {"first_mb": 0.0001, "mb": 0.0004})
    runtime().share = None
    try:
        yield made
    finally:
        made.close()
        runtime().share = None
        memory.Group.open = make  # type: ignore[method-assign]


def rank() -> int:
    return int(runtime().role.rank)


def fill(model: nn.Layer, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.set_value(random.normal(0, 0.3, parameter.shape).astype("float32"))
    return model


def mlp(seed: int = 0) -> Any:
    return fill(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)), seed)


def batch(n: int, seed: int, dim: int = 6) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, dim)).astype("float32"), random.integers(0, 3, n)


def part(n: int, world_size: int, of: int) -> slice:
    """Contiguous parts, the larger ones first, as the distributed loader cuts."""
    base, extra = divmod(n, world_size)
    start = of * base + min(of, extra)
    return slice(start, start + base + (of < extra))


def optimizer(name: str, parameters: Any) -> Any:
    if name == "sgd":
        return paddle.optimizer.SGD(0.1, parameters=parameters)
    if name == "momentum":
        return paddle.optimizer.Momentum(0.05, 0.9, parameters=parameters)
    return paddle.optimizer.Adam(0.01, parameters=parameters, grad_clip=nn.ClipGradByGlobalNorm(0.05))


def values(model: nn.Layer) -> list[Any]:
    return [p.numpy().copy() for p in model.parameters()]


def gradients(parameters: Any) -> list[Any]:
    return [None if p.grad is None else p.grad.numpy().copy() for p in parameters]


def loss_of(model: nn.Layer, x: Any, y: Any) -> Any:
    return nn.functional.cross_entropy(model(paddle.to_tensor(x)), paddle.to_tensor(y))


SIZES = (8, 8, 8, 5, 1)  # global batches: full ones, an uneven last one, one that leaves trainers empty-handed


def train(name: str, distributed: bool) -> dict[str, Any]:
    """Two epochs over SIZES, alone on the whole batches or on this trainer's parts."""
    model = mlp()
    step = optimizer(name, model.parameters())
    losses = []
    with reducing(model) if distributed else contextlib.nullcontext() as reducer:
        for k, n in enumerate(SIZES * 2):
            x, y = batch(n, seed=k)
            if distributed:
                mine = part(n, runtime().role.world_size, rank())
                x, y = x[mine], y[mine]
                runtime().share = Share(len(y), n)
            if len(y) == 0:  # what a loader hands out for an empty part: anything, with weight 0
                x, y = np.full((1, 6), np.nan, "float32"), np.zeros(1, "int64")
            loss = loss_of(model, x, y)
            loss.backward()
            if reducer is not None:
                reducer.before_step()
            step.step()
            step.clear_grad()
            losses.append(float(loss))
    return {"values": values(model), "losses": losses}


class Branches(nn.Layer):
    """Layers that a call may leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.left, self.right, self.never = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Any, use: str) -> Any:
        x = self.always(x)
        if "l" in use:
            x = self.left(x)
        if "r" in use:
            x = self.right(x)
        return x.square().mean()


def branches(uses: list[list[str]], clear: str = "zero") -> dict[str, Any]:
    """Run ``uses[step][rank]``; return gradients a step, of the reducer and of the plain mean over all ranks' losses."""
    model, alone = fill(Branches()), fill(Branches())
    world, got, expected = runtime().role.world_size, [], []
    with reducing(model):
        for k, step in enumerate(uses):
            data = [batch(3, seed=100 * k + r, dim=4)[0] for r in range(world)]
            model(paddle.to_tensor(data[rank()]), step[rank()]).backward()
            sum(alone(paddle.to_tensor(data[r]), step[r]) / world for r in range(world)).backward()
            got.append(gradients(model.parameters()))
            expected.append(gradients(alone.parameters()))
            for layer in (model, alone):
                for p in layer.parameters():
                    p.clear_gradient(clear == "zero")
    names = [name for name, _ in model.named_parameters()]
    return {"names": names, "got": got, "expected": expected}


def compare(build: str, steps: str, buckets: dict[str, float] | None = None) -> dict[str, Any]:
    """Build a model twice; run ``steps`` on this trainer's data with a reducer, and on all trainers' data without.

    ``steps`` is called with (model, data of one trainer, no_sync) and does its own backwards; alone, gradients of the
    trainers' runs are averaged by NumPy.
    """
    make: Callable[[], Any] = globals()[build]
    run: Callable[..., None] = globals()[steps]
    world = runtime().role.world_size
    data = [[batch(3, seed=1000 * r + k, dim=4)[0] for k in range(4)] for r in range(world)]
    model = make()
    with reducing(model, buckets) as reducer:
        for _ in range(2):  # the second time buckets leave during backward
            for p in model.parameters():
                p.clear_gradient(False)
            run(model, data[rank()], reducer.no_sync)
            reducer.before_step()
        got = gradients(model.parameters())
    parts = []
    for r in range(world):
        alone = make()
        run(alone, data[r], contextlib.nullcontext)
        parts.append(gradients(alone.parameters()))
    expected = [None if column[0] is None else sum(column) / world for column in zip(*parts, strict=True)]
    return {"got": got, "expected": expected, "plan": reducer.bucket_plan()}


def two_layers() -> Any:
    return fill(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)))


def tied() -> Any:
    class Tied(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again = self.first
            self.head = nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.again(paddle.tanh(self.first(x))))

    return fill(Tied())


def transposed() -> Any:
    class Transposed(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.weight = self.create_parameter([3, 4])

        def forward(self, x: Any) -> Any:
            return x @ paddle.transpose(self.weight, [1, 0]) + (paddle.transpose(self.weight, [1, 0]) ** 2).sum()

    return fill(Transposed())


def half_frozen() -> Any:
    model = two_layers()
    model[0].weight.stop_gradient = True
    return model


def one_backward(model: Any, data: Any, no_sync: Any) -> None:
    model(paddle.to_tensor(data[0])).square().mean().backward()


def two_backwards(model: Any, data: Any, no_sync: Any) -> None:
    for x in data[:2]:
        model(paddle.to_tensor(x)).square().mean().backward()


def two_losses_one_graph(model: Any, data: Any, no_sync: Any) -> None:
    out = model(paddle.to_tensor(data[0]))
    out.square().mean().backward(retain_graph=True)
    out.abs().sum().backward()


def several_under_no_sync(model: Any, data: Any, no_sync: Any) -> None:
    with no_sync():
        for x in data[:2]:
            model(paddle.to_tensor(x)).square().mean().backward()
    model(paddle.to_tensor(data[2])).square().mean().backward()


def synced_then_no_sync_then_synced(model: Any, data: Any, no_sync: Any) -> None:
    model(paddle.to_tensor(data[0])).square().mean().backward()
    with no_sync():
        model(paddle.to_tensor(data[1])).square().mean().backward()
    model(paddle.to_tensor(data[2])).square().mean().backward()


def past_forward(model: Any, data: Any, no_sync: Any) -> None:
    x = paddle.to_tensor(data[0])
    (paddle.tanh(x @ model[0].weight + model[0].bias) @ model[2].weight + model[2].bias).square().mean().backward()


def by_autograd_backward(model: Any, data: Any, no_sync: Any) -> None:
    out = model(paddle.to_tensor(data[0]))
    paddle.autograd.backward([out.square().mean(), out.sum()])


def with_gradient_penalty(model: Any, data: Any, no_sync: Any) -> None:
    x = paddle.to_tensor(data[0])
    x.stop_gradient = False
    out = model(x).square().mean()
    (slope,) = paddle.grad([out], [x], create_graph=True)
    (out + slope.square().sum()).backward()


def with_hooks_of_the_user(model: Any, data: Any, no_sync: Any) -> None:
    handle = model[0].weight.register_hook(lambda g: g * 2)
    with paddle.no_grad():
        loss_before = float(model(paddle.to_tensor(data[0])).square().mean())
    loss = model(paddle.to_tensor(data[0])).square().mean()
    assert float(loss) == loss_before
    with paddle.no_grad():
        loss.backward()
    handle.remove()


class Twice(paddle.autograd.PyLayer):
    """Another backward inside backward."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensor()
        inner = x.detach()
        inner.stop_gradient = False
        with paddle.set_grad_enabled(True):
            (inner * inner).backward(gradient)
        return inner.grad


def with_pylayer(model: Any, data: Any, no_sync: Any) -> None:
    hidden = Twice.apply(model[0](paddle.to_tensor(data[0])))
    Twice.apply(model[2](hidden)).mean().backward()


def with_recompute(model: Any, data: Any, no_sync: Any) -> None:
    from paddle.distributed.fleet.utils import recompute

    x = paddle.to_tensor(data[0])
    x.stop_gradient = False
    kind = {"preserve_rng_state": False}
    hidden = recompute(lambda v: paddle.tanh(model[0](v)), x, **kind)
    out = recompute(model[2], hidden, **kind)
    again = recompute(lambda v: paddle.tanh(model[0](v)), out, **kind)  # a layer in two segments: two hooks in one backward
    (again.square().mean() + model[2](hidden).mean()).backward()


def unfrozen_later(model: Any = None) -> dict[str, Any]:
    got, expected = [], []
    x = [paddle.to_tensor(batch(3, seed=r, dim=4)[0]) for r in range(2)]
    model, alone = half_frozen(), half_frozen()
    with reducing(model):
        for k in range(4):
            model[0].weight.stop_gradient = alone[0].weight.stop_gradient = k not in (1, 2)
            model(x[rank()]).square().mean().backward()
            ((alone(x[0]).square().mean() + alone(x[1]).square().mean()) / 2).backward()
            got.append(gradients(model.parameters()))
            expected.append(gradients(alone.parameters()))
            for p in [*model.parameters(), *alone.parameters()]:
                p.clear_gradient(False)
    return {"got": got, "expected": expected}


def without_clear() -> dict[str, Any]:
    """Steps that never clear: gradients pile up, as they do alone."""
    model, alone = two_layers(), two_layers()
    x = [paddle.to_tensor(batch(3, seed=r, dim=4)[0]) for r in range(2)]
    steps = [optimizer("sgd", m.parameters()) for m in (model, alone)]
    with reducing(model) as reducer:
        for _ in range(4):
            model(x[rank()]).square().mean().backward()
            ((alone(x[0]).square().mean() + alone(x[1]).square().mean()) / 2).backward()
            reducer.before_step()
            for step in steps:
                step.step()
    return {"got": values(model), "expected": values(alone)}


def adamw_leaves_unused_alone() -> dict[str, Any]:
    model = fill(Branches())
    before = values(model.never)
    step = paddle.optimizer.AdamW(0.1, weight_decay=0.5, parameters=model.parameters())
    with reducing(model) as reducer:
        for k in range(3):
            model(paddle.to_tensor(batch(3, seed=k, dim=4)[0]), "lr").backward()
            reducer.before_step()
            step.step()
            step.clear_grad(set_to_zero=False)
    return {"before": before, "after": values(model.never), "moved": values(model.always)}


def memory_is_its_own() -> dict[str, Any]:
    """Keep a gradient over the next steps: it must stay what it was."""
    model = two_layers()
    with reducing(model) as reducer:
        kept, copies = [], []
        for k in range(3):
            model(paddle.to_tensor(batch(3, seed=k, dim=4)[0])).square().mean().backward()
            reducer.before_step()
            kept.append(model[0].weight.grad.detach().clone())
            copies.append(model[0].weight.grad.numpy().copy())
            arrays = [a for f in reducer._flats for a in (f._array, f._sum)]
            flats = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
            inside = [any(a <= p.grad.data_ptr() < b for a, b in flats) for p in model.parameters()]
            assert not any(inside)
            for p in model.parameters():
                p.clear_gradient(False)
    return {"kept": [k.numpy() for k in kept], "copies": copies}


def on_device_operators() -> dict[str, Any]:
    """The GPU's flat buckets, on CPU tensors."""
    from fleet.collective.flat import DeviceFlat

    host = memory.HostFlat
    memory.HostFlat = DeviceFlat  # type: ignore[misc, assignment]
    os.environ["FLEET_SHARED_MEMORY"] = "off"
    try:
        return compare("two_layers", "synced_then_no_sync_then_synced")
    finally:
        memory.HostFlat = host  # type: ignore[misc]
        del os.environ["FLEET_SHARED_MEMORY"]


def at_different_speeds(num_steps: int) -> Any:
    """Each trainer is late at random, before it adds up and after: nobody may read what a faster one wrote for later."""
    from fleet.collective.flat import SharedFlat

    random, model, add_up = np.random.default_rng(rank()), two_layers(), SharedFlat.add_up

    def backward(k: int) -> Any:
        model.clear_gradients()
        one_backward(model, [np.full((2, 4), 1.0 + k, "float32")], None)
        return gradients(model.parameters())

    plain = [backward(k) for k in range(num_steps)]

    def late(self: Any, *args: Any) -> None:
        time.sleep(random.choice([0, 0, 0.003]))
        add_up(self, *args)
        time.sleep(random.choice([0, 0, 0.003]))

    SharedFlat.add_up = late  # type: ignore[method-assign]
    try:
        with reducing(model) as reducer:
            seen = []
            for k in range(num_steps):
                seen.append(backward(k))
                reducer.before_step()
            return reducer.way, plain, seen
    finally:
        SharedFlat.add_up = add_up  # type: ignore[method-assign]


def without_room(directory: str) -> Any:
    """Trainer 1 cannot map the memory: all go through Gloo."""
    from fleet.collective import shared

    kept = shared.DIRECTORY
    shared.DIRECTORY = directory
    try:
        model = two_layers()
        with reducing(model) as reducer:
            one_backward(model, [np.ones((2, 4), "float32")] * 2, None)
            return reducer.way, gradients(model.parameters())
    finally:
        shared.DIRECTORY = kept


def refusal(case: str) -> str:
    """Return the text of the ConfigError that ``case`` raises; nothing may be left of it in the channel."""
    try:
        globals()["refuse_" + case]()
    except fleet.errors.ConfigError as error:
        return str(error)
    return "nothing was refused"


def refuse_complex() -> None:
    wave = paddle.zeros([2], "complex64")
    wave.stop_gradient = False
    with reducing([("wave", wave)]):
        pass


def refuse_float64_with_a_codec() -> None:
    from fleet.collective.strategies.fp16_allreduce import Fp16Allreduce

    Reducer(runtime(), [("double.weight", paddle.create_parameter([2], "float64"))], codec=Fp16Allreduce())


def of_dtype(dtype: str) -> dict[str, Any]:
    """Two backwards over a parameter of a dtype and one of float32; the gradient is data times a trainer's number."""
    data = [np.array([0.5, -1.25, 3.0]) * (r + 1) for r in range(runtime().role.world_size)]
    first, second = paddle.ones([3]).astype(dtype), paddle.ones([3])
    first.stop_gradient = second.stop_gradient = False
    with reducing([("first", first), ("second", second)]) as reducer:
        for _ in range(2):
            first.clear_gradient(False)
            second.clear_gradient(False)
            x = paddle.to_tensor(data[rank()])
            wide = first.astype("float64") * x  # Paddle has no float16 arithmetic on CPUs
            (wide.sum() + (second.astype("float64") * x).sum()).backward()
            reducer.before_step()
    assert first.grad.dtype == first.dtype
    mean = sum(data) / len(data)
    return {"got": [p.grad.astype("float64").numpy() for p in (first, second)], "expected": [mean, mean]}


def sparse_net() -> Any:
    return fill(nn.LayerDict({"words": nn.Embedding(10, 4, sparse=True), "out": nn.Linear(4, 2)}))


def looked_up(ids: list[list[int]], accumulate: bool = False) -> dict[str, Any]:
    """Each trainer looks up its own ids; return dense forms of the gradients, and of the mean that they should be."""
    world = runtime().role.world_size
    model, alone = sparse_net(), sparse_net()
    with reducing(model) as reducer:
        for k in range(3):
            hold = reducer.no_sync() if accumulate and k < 2 else contextlib.nullcontext()
            with hold:
                backward_of_rows(model, ids[rank()], k)
            for r in range(world):
                backward_of_rows(alone, ids[r], k, 1 / world)
            if not accumulate or k == 2:
                reducer.before_step()
                got, expected = dense_forms(model), dense_forms(alone)
                kinds = [p.grad is not None and p.grad.is_selected_rows() for p in model.parameters()]
                for p in [*model.parameters(), *alone.parameters()]:
                    p.clear_gradient(False)
    return {"got": got, "expected": expected, "rows": kinds[0]}


def backward_of_rows(model: Any, ids: list[int], k: int, by: float = 1.0) -> None:
    if ids:
        hidden = model["words"](paddle.to_tensor(ids)).mean(axis=0)
    else:
        hidden = paddle.ones([4]) * (k + 1)
    (model["out"](hidden).square().sum() * by).backward()


def dense_forms(model: Any) -> list[Any]:
    found = []
    for p in model.parameters():
        if p.grad is not None and p.grad.is_selected_rows():
            held, dense = p.grad.get_selected_rows(), np.zeros(p.shape, "float32")
            np.add.at(dense, np.array(held.rows()), np.array(held.get_tensor()))
            found.append(dense)
        else:
            found.append(None if p.grad is None else p.grad.numpy())
    return found


def refuse_one_tensor_for_two() -> None:
    class Same(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx: Any, a: Any, b: Any) -> Any:
            return a + b

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient, gradient

    model = nn.LayerList([nn.Linear(2, 2), nn.Linear(2, 2)])
    with reducing(model):
        Same.apply(model[0].weight, model[1].weight).sum().backward()


def refuse_second_reducer() -> None:
    with reducing(two_layers()), reducing(two_layers()):
        pass


def refuse_unsent() -> None:
    model = two_layers()
    with reducing(model) as reducer:
        with reducer.no_sync():
            model(paddle.ones([1, 4])).sum().backward()
        reducer.before_step()


def refuse_wrong_shares() -> None:
    model = two_layers()
    with reducing(model):
        runtime().share = Share(3, 8)
        model(paddle.ones([1, 4])).sum().backward()


def refuse_frozen_here() -> None:
    model = two_layers()
    with reducing(model):
        one_backward(model, [np.ones((2, 4), "float32")], None)
        model[0].weight.stop_gradient = rank() == 1
        one_backward(model, [np.ones((2, 4), "float32")], None)
        if rank() == 0:  # only trainer 1 can see it; it raises
            raise fleet.errors.ConfigError("is frozen on this trainer", at="here", fix="none")


def no_step_with_no_backward() -> str:
    """All trainers step without a backward: nothing to object to."""
    with reducing(two_layers()) as reducer:
        reducer.before_step()
        reducer.before_step()
    return "fine"


def other_models_do_not_matter() -> dict[str, Any]:
    """One trainer trains something of its own in between."""
    model, own = two_layers(), two_layers()
    with reducing(model) as reducer:
        for k in range(3):
            if rank() == 0:
                own(paddle.ones([1, 4])).sum().backward()
            model(paddle.to_tensor(batch(3, seed=k + rank(), dim=4)[0])).square().mean().backward()
            reducer.before_step()
            if rank() == 1:
                own(paddle.ones([1, 4])).sum().backward()
        return {"got": gradients(model.parameters())}


def failed_backward_then_good_one() -> dict[str, Any]:
    """A backward that fails before it touches the model leaves everything as it was."""

    class Broken(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            raise ValueError("mine")

    model = two_layers()
    with reducing(model) as reducer:
        one_backward(model, [np.ones((2, 4), "float32")], None)
        before = gradients(model.parameters())
        try:
            Broken.apply(model(paddle.ones([1, 4]))).sum().backward()
            message = "no error"
        except Exception as error:  # noqa: BLE001 - its text is the test's
            message = f"{type(error).__name__}: {error} {error.__cause__!r}"
        after = gradients(model.parameters())
        reducer.before_step()
    return {"before": before, "after": after, "message": message}


def fork_with_a_reducer() -> dict[str, Any]:
    """A forked child trains a bit and ends; the parent goes on."""
    model = two_layers()
    with reducing(model):
        one_backward(model, [np.ones((2, 4), "float32")], None)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            one_backward(model, [np.ones((2, 4), "float32")], None)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        one_backward(model, [np.ones((2, 4), "float32")], None)
        return {"status": status, "got": gradients(model.parameters())}


def group_call(op: str, dtype: str) -> Any:
    tensor = (paddle.to_tensor([1, 0, 3]) * (rank() + 1)).astype(dtype)
    try:
        result = runtime().group.all_reduce(tensor, op)
    except fleet.errors.ConfigError as error:
        return str(error)
    return str(result.dtype).rsplit(".", 1)[-1], result.astype("float64").tolist()


def group_moves(dtype: str) -> Any:
    tensor = paddle.to_tensor([[rank() + 1], [0]]).astype(dtype)
    gathered = runtime().group.all_gather(tensor)
    got = runtime().group.broadcast(tensor, 1)
    assert got.dtype == tensor.dtype and got.shape == tensor.shape
    return [g.astype("int64").tolist() for g in gathered], got.astype("int64").tolist()


def group_shapes() -> Any:
    empty = runtime().group.all_reduce(paddle.zeros([0, 3]), "sum")
    scalar = runtime().group.all_reduce(paddle.to_tensor(2.0), "mean")
    strided = runtime().group.all_reduce(paddle.arange(6, dtype="float32").reshape([2, 3]).transpose([1, 0]), "sum")
    given = paddle.ones([2])
    given.stop_gradient = False
    result = runtime().group.all_reduce(given * 2, "sum")
    try:
        runtime().group.all_reduce(paddle.zeros([rank() + 1]), "sum")
        words = "nothing was refused"
    except fleet.errors.ConfigError as error:
        words = str(error)
    return {"empty": list(empty.shape), "scalar": (list(scalar.shape), float(scalar)), "strided": strided.tolist(),
            "detached": result.stop_gradient, "words": words}  # fmt: skip


def state_from_trainer_0(message_bytes: int) -> dict[str, Any]:
    agreement.MESSAGE_BYTES = message_bytes
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2))
    model.register_buffer("flag", paddle.to_tensor([True, False]) if rank() == 0 else paddle.to_tensor([False, False]))
    model.register_buffer("count", paddle.to_tensor([rank() + 5], dtype="int64"))
    fill(model, seed=rank())
    model[0].weight.stop_gradient = True
    pointers = [p.data_ptr() for p in model.parameters()]
    broadcast_state(runtime(), model)
    same = pointers == [p.data_ptr() for p in model.parameters()]
    return {"state": [v.numpy() for v in [*model.parameters(), *model.buffers()]], "in_place": same}


def models(kind: str) -> str:
    shapes = {
        "same": [("a.weight", [2, 3]), ("b.weight", [4])],
        "shape": [("a.weight", [2, 3]), ("b.weight", [4 + rank()])],
        "name": [("a.weight", [2, 3]), (f"{'bc'[rank()]}.weight", [4])],
        "shorter": [("a.weight", [2, 3]), ("b.weight", [4])][: 2 - rank()],
    }
    dtype = "float64" if kind == "dtype" and rank() == 1 else "float32"
    pairs = shapes.get(kind, shapes["same"])
    named = [(name, paddle.create_parameter(shape, dtype if name[0] == "b" else "float32")) for name, shape in pairs]
    named[-1][1].stop_gradient = kind == "frozen" and rank() == 1
    try:
        agree_model(runtime(), named)
    except fleet.errors.ConfigError as error:
        return str(error)
    return "agreed"


def no_sync_with_uneven_parts() -> dict[str, Any]:
    """Two batches, cut 3 + 1 and 1 + 3."""
    model, alone = two_layers(), two_layers()
    with reducing(model) as reducer:
        for k, cut in enumerate((3, 1)):
            x = batch(4, seed=k, dim=4)[0]
            mine = x[:cut] if rank() == 0 else x[cut:]
            runtime().share = Share(len(mine), 4)
            with reducer.no_sync() if k == 0 else contextlib.nullcontext():
                model(paddle.to_tensor(mine)).square().mean().backward()
            alone(paddle.to_tensor(x)).square().mean().backward()
        return {"got": gradients(model.parameters()), "expected": gradients(alone.parameters())}


def recompute_only_later() -> str:
    """A layer that is used in two recompute segments only from the second step on: right, or refused by name."""
    model, alone = two_layers(), two_layers()
    data = [[batch(3, seed=1000 * r, dim=4)[0]] for r in range(2)]
    with reducing(model):
        one_backward(model, data[rank()], None)
        for p in model.parameters():
            p.clear_gradient(False)
        try:
            with_recompute(model, data[rank()], None)
        except fleet.errors.ConfigError as error:
            return str(error)
        got = gradients(model.parameters())
    for of in data:
        with_recompute(alone, of, None)
    close = [np.allclose(a, b / 2, rtol=1e-5, atol=1e-7) for a, b in zip(got, gradients(alone.parameters()), strict=True)]
    return "right" if all(close) else "wrong"


def batch_norm() -> dict[str, Any]:
    def make() -> Any:
        return fill(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1D(8), nn.Linear(8, 2)))

    model, alone = make(), make()
    step = optimizer("sgd", model.parameters())
    with reducing(model) as reducer:
        for k in range(3):
            x = paddle.to_tensor(batch(6, seed=10 * k + rank(), dim=4)[0])
            model(x).square().mean().backward()
            for mine, other in zip(alone.parameters(), model.parameters(), strict=True):
                if not other.stop_gradient:
                    mine.set_value(other)
            alone(x)
            reducer.before_step()
            step.step()
            step.clear_grad()
    weights = [p.numpy() for p in model.parameters() if not p.stop_gradient]  # Paddle's running values are parameters too
    return {"weights": weights, "mean": model[1]._mean.numpy(), "mean_alone": alone[1]._mean.numpy()}


def what_a_lone_trainer_opens() -> list[str]:
    import threading

    import paddle.distributed as dist

    with reducing(two_layers()):
        names = [t.name for t in threading.enumerate() if t.name.startswith("fleet")]
    return names + (["paddle.distributed"] if dist.is_initialized() else [])


# -- these end in a broken job


def interrupted() -> str:
    model = two_layers()
    reducer = Reducer(runtime(), model.named_parameters())
    if rank() == 1:
        time.sleep(1.5)
        return "slept"
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        one_backward(model, [np.ones((2, 4), "float32")], None)
        return "no interrupt"
    except KeyboardInterrupt:
        try:
            reducer.before_step()
            return "no error"
        except fleet.errors.ConfigError as error:
            return f"KeyboardInterrupt, then ConfigError: {error.what}"


def die_inside_all_reduce() -> None:
    """Trainer 1 meets the others and then dies instead of adding up."""
    model = two_layers()
    with reducing(model):
        one_backward(model, [np.ones((2, 4), "float32")], None)
        if rank() == 1:
            Group.all_reduce_sum_ = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign, assignment]
        one_backward(model, [np.ones((2, 4), "float32")], None)


def skip(how: str) -> None:
    """Trainer 1 leaves the others at some point; see the test."""
    model = two_layers()
    x = [np.ones((2, 4), "float32")]
    runtime().timeout_s = 2.0
    if how == "other collective":
        runtime().group.all_reduce(paddle.ones([1]), "sum")
    with reducing(model) as reducer:
        one_backward(model, x, None)
        reducer.before_step()
        if rank() == 1:
            if how == "backward":
                reducer.before_step()
            elif how == "extra backward":
                one_backward(model, x, None)
            elif how == "late":
                time.sleep(4)
            elif how == "dead":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "raises":
                raise ValueError("the script's own")
            elif how == "other collective":
                runtime().group.all_reduce(paddle.ones([1]), "sum")
        one_backward(model, x, None)
        reducer.before_step()
        one_backward(model, x, None)


def slow_but_healthy(sleep_s: float, wait_s: float) -> list[Any]:
    runtime().timeout_s = wait_s
    model = two_layers()
    with reducing(model) as reducer:
        for k in range(2):
            if rank() == 1 and k == 1:
                time.sleep(sleep_s)
            one_backward(model, [np.ones((2, 4), "float32")], None)
            reducer.before_step()
        runtime().group.all_reduce(paddle.ones([1]), "sum")
        return gradients(model.parameters())
