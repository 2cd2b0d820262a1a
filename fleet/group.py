"""Paddle's process groups: Gloo on CPUs, NCCL on GPUs, each collective behind a meeting on the control channel.

Gloo gives up after a fixed 30 s, and says "Connection reset" or "TIMEOUT". So nobody enters it alone: all trainers first
meet on fleet's own channel, under the name of the collective. Who is late, gone or somewhere else is named there.

NCCL is one seam, ``_backend``; it has not yet been run on a GPU.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from fleet import env, timeline
from fleet.errors import ConfigError, FleetError, PeerLost
from fleet.runtime import OPERATIONS, Runtime

# What Gloo cannot carry travels in a dtype that holds it exactly. int16 and bool end the process there ("Unknown
# DataType", status 255), a float16 sum is inf (paddle 3.3.1).
_CARRIER = {"float16": "float32", "bfloat16": "float32", "bool": "int32", "int8": "int32", "uint8": "int32", "int16": "int32"}
_NATIVE = ("float32", "float64", "int32", "int64")
_FLOATS = ("float16", "bfloat16", "float32", "float64")

# Lines that Paddle prints while a group is made and that say nothing: the store's and Gloo's greetings, its FLAGS table.
_NOISE = re.compile(
    rb"\[Gloo\] Rank \d+ is connected|^I\d{4} .*(tcp_store|tcp_utils|process_group)\S*:\d+\]"
    rb"|^=+( Modified FLAGS detected =+)?$|^FLAGS\(name="
)


class Group:
    """All trainers as one of Paddle's process groups. Made by :meth:`open`; used by one thread at a time.

    Two threads that communicate at the same time need two groups: the reducer's thread owns its own.
    """

    def __init__(self, runtime: Runtime, name: str, paddle_group: Any) -> None:
        self.name = name
        self._runtime, self._group = runtime, paddle_group
        self._world_size = runtime.role.world_size

    @property
    def backend(self) -> str:
        """``gloo`` or ``nccl``."""
        return _backend()

    @classmethod
    def open(cls, runtime: Runtime, name: str) -> Group:
        """Open a group of all trainers; every trainer opens the same groups in the same order.

        The first one initialises ``paddle.distributed``, unless the script has done so. One trainer alone needs neither.

        Raises:
            PeerLost, RendezvousError: a trainer did not come. Start the job again.
            ConfigError: Paddle was initialised for another number of trainers.

        Cost: about 0.6 s for the first group, 0.3 s for each other one (2 processes, paddle 3.3.1).
        """
        if runtime.role.world_size == 1:
            return cls(runtime, name, None)
        import paddle.distributed as dist

        if not dist.is_initialized():
            _start_paddle(runtime)
        if dist.get_world_size() != runtime.role.world_size or dist.get_rank() != runtime.role.rank:
            raise ConfigError(
                f"paddle.distributed says trainer {dist.get_rank()} of {dist.get_world_size()}, "
                f"fleet says {runtime.role.rank} of {runtime.role.world_size}",
                at=f"process group {name}",
                fix="call fleet.init() instead of paddle.distributed.init_parallel_env(), before anything of paddle.distributed",
            )
        return cls(runtime, name, _new_group(runtime, name))

    def all_reduce(self, tensor: Any, op: str = "sum") -> Any:
        """Return a new tensor: ``op`` (sum, mean, max, min) over the trainers' tensors; bitwise the same on each.

        float16 and bfloat16 are added in float32 and rounded once.

        Raises:
            ConfigError: a mean of integers, a sum of 8- or 16-bit integers or of bools, another dtype or op, or shapes
                or dtypes that differ between the trainers.
            PeerLost, RendezvousError: a trainer is gone or in another call. A retry fails again.
        """
        call = "fleet.all_reduce()"
        dtype = _dtype(tensor)
        if op not in OPERATIONS:
            raise ConfigError(f"op must be one of {', '.join(OPERATIONS)}, got {op!r}", at=call, fix="use one of them")
        if (op == "mean" and dtype not in _FLOATS) or (op == "sum" and dtype in _CARRIER and dtype not in _FLOATS):
            what = f"a {op} of {dtype} would be rounded or overflow"
            raise ConfigError(what, at=call, fix=f"cast first: tensor.astype('{'float32' if op == 'mean' else 'int64'}')")
        self._meet(call, tensor, op)
        if tensor.size == 0:
            return _empty_like(tensor)
        result = self._carried(tensor)
        if self._group is not None:
            import paddle.distributed as dist

            kinds = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
            self._call(call, lambda: dist.all_reduce(result, op=kinds[op], group=self._group))
        if op == "mean":
            result = result / self._world_size
        return result.astype(tensor.dtype).reshape(tensor.shape)

    def all_gather(self, tensor: Any) -> list[Any]:
        """Return new tensors: every trainer's, in rank order. Raises as :meth:`all_reduce`."""
        call = "fleet.all_gather()"
        self._meet(call, tensor, "")
        if tensor.size == 0:
            return [_empty_like(tensor) for _ in range(self._world_size)]
        mine = self._carried(tensor)
        parts: list[Any] = [] if self._group is not None else [mine]
        if self._group is not None:
            import paddle.distributed as dist

            self._call(call, lambda: dist.all_gather(parts, mine, group=self._group))
        return [part.astype(tensor.dtype).reshape(tensor.shape) for part in parts]

    def broadcast(self, tensor: Any, source: int) -> Any:
        """Return a new tensor: trainer ``source``'s. Raises as :meth:`all_reduce`."""
        call = "fleet.broadcast()"
        if not 0 <= source < self._world_size:
            raise ConfigError(f"there is no trainer {source}", at=call, fix=f"give a rank below {self._world_size}")
        self._meet(call, tensor, f"from {source}")
        if tensor.size == 0:
            return _empty_like(tensor)
        result = self._carried(tensor)
        if self._group is not None:
            import paddle.distributed as dist

            self._call(call, lambda: dist.broadcast(result, src=source, group=self._group))
        return result.astype(tensor.dtype).reshape(tensor.shape)

    def all_reduce_sum_(self, tensor: Any, where: str) -> None:
        """Add the trainers' tensors in place (float32 or float64, contiguous). The caller has met the others at ``where``."""
        if self._group is not None:
            import paddle.distributed as dist

            self._call(where, lambda: dist.all_reduce(tensor, group=self._group))

    def gather_words(self, words: Any, where: str) -> list[Any]:
        """Return every trainer's int32[n] in rank order. The caller has met the others at ``where``; n is the same on all."""
        import paddle.distributed as dist

        parts: list[Any] = []
        self._call(where, lambda: dist.all_gather(parts, words, group=self._group))
        return parts

    def _meet(self, call: str, tensor: Any, how: str) -> None:
        head = f"{_dtype(tensor)}{list(tensor.shape)} {how}".strip()
        for other, theirs in enumerate(self._runtime.meet(call, head.encode())):
            if theirs.decode() != head:
                raise ConfigError(
                    f"trainer {other} gave {theirs.decode()}, trainer {self._runtime.role.rank} gave {head}",
                    at=call,
                    fix="give the same shape, dtype and arguments on every trainer",
                )

    def _carried(self, tensor: Any) -> Any:
        """Return a contiguous copy of at least one dimension in a dtype that Gloo carries."""
        copy = tensor.detach().astype(_CARRIER.get(_dtype(tensor), _dtype(tensor))).clone()
        return copy.reshape([-1]).contiguous()

    def _call(self, where: str, collective: Callable[[], object]) -> None:
        began = timeline.now()
        try:
            collective()
            timeline.mark("send", where, began)
        except (RuntimeError, OSError, ValueError) as error:
            self._explain(where, error)

    def _explain(self, where: str, error: Exception) -> None:
        """Turn Gloo's words into who is gone: the control channel sees a dead trainer by its closed line."""
        words = str(error).strip().splitlines()
        channel = self._runtime.channel
        assert channel is not None
        try:
            channel.meet(f"{where}, after a failure", timeout_s=min(5.0, self._runtime.timeout_s))
        except FleetError as cause:
            raise cause from error
        raise PeerLost(
            f"the collective failed on every trainer: {words[-1] if words else error!r}",
            at=f"trainer {self._runtime.role.rank}, {where}",
            fix="the network between the trainers broke; start the job again",
        ) from error


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype).rsplit(".", 1)[-1]
    if name not in _CARRIER and name not in _NATIVE:
        raise ConfigError(f"cannot send a tensor of {name}", at="process group", fix="cast it to float32, float64, int32 or int64")
    return name


def _empty_like(tensor: Any) -> Any:
    import paddle

    return paddle.zeros(tensor.shape, dtype=tensor.dtype)


def _backend() -> str:
    """Return "gloo" or "nccl". The NCCL side has not yet been run on a GPU."""
    import paddle

    return "nccl" if paddle.get_device().startswith("gpu") else "gloo"


def _start_paddle(runtime: Runtime) -> None:
    """Give Paddle the variables it wants and make its store; the port is held from its choice until Paddle listens."""
    import paddle.distributed as dist

    endpoint = env.get("PADDLE_MASTER")
    with contextlib.ExitStack() as holding:
        if not endpoint:  # torchrun's MASTER_PORT is taken by its own agent
            endpoint = holding.enter_context(_agreed_endpoint(runtime, "the process groups"))
        os.environ.update(_paddle_variables(runtime, endpoint))
        _await_listener(runtime, endpoint)
        with _quiet():
            dist.init_parallel_env()


def _new_group(runtime: Runtime, name: str) -> Any:
    """Make a process group with a store of its own.

    Paddle's Gloo writes its addresses under the same keys ("/0", "/1"...) for every group (2.6.2 and 3.3.1), so in one store
    a trainer may read those of the group before and fail: "Connection refused", one time in three with 3 trainers.
    """
    import paddle.distributed as dist
    from paddle.base import core
    from paddle.distributed import collective

    role = runtime.role
    with _agreed_endpoint(runtime, f"process group {name}") as endpoint:
        _await_listener(runtime, endpoint)
        host, port = endpoint.rsplit(":", 1)
        with _quiet():
            shared = collective._default_store
            collective._default_store = core.TCPStore(host, int(port), role.rank == 0, role.world_size)
            try:
                return dist.new_group(list(range(role.world_size)), backend=_backend())
            finally:
                collective._default_store = shared  # the group keeps its own alive


@contextlib.contextmanager
def _agreed_endpoint(runtime: Runtime, what: str) -> Iterator[str]:
    """Let trainer 0 choose a port and tell the others; it holds the port until the block ends.

    A socket bound with SO_REUSEADDR that does not listen keeps the port from everybody who asks for a free one, and lets
    Paddle's store, which sets the flag too, bind it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        endpoint = ""
        if runtime.role.rank == 0:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            endpoint = f"127.0.0.1:{held.getsockname()[1]}"
        yield runtime.meet(f"address of {what}", endpoint.encode())[0].decode()


def _paddle_variables(runtime: Runtime, endpoint: str) -> dict[str, str]:
    role = runtime.role
    host = endpoint.rsplit(":", 1)[0]
    given = env.get("PADDLE_TRAINER_ENDPOINTS").split(",")
    # Paddle wants an endpoint per trainer but opens none of them: only their number and order count.
    endpoints = given if len(given) == role.world_size else [endpoint, *(f"{host}:{r}" for r in range(1, role.world_size))]
    return {
        "PADDLE_MASTER": endpoint,
        "PADDLE_TRAINER_ID": str(role.rank),
        "PADDLE_TRAINERS_NUM": str(role.world_size),
        "PADDLE_RANK_IN_NODE": str(role.local_rank),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[role.rank],
        "PADDLE_DISTRI_BACKEND": _backend(),
    }


def _await_listener(runtime: Runtime, endpoint: str) -> None:
    """Wait until trainer 0's store is up: Paddle's client sleeps 3 s if nobody listens yet."""
    if runtime.role.rank == 0:
        return
    timeout_s = runtime.timeout_s
    host, port = endpoint.rsplit(":", 1)
    deadline, pause_s = time.monotonic() + timeout_s, 0.002
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=timeout_s).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerLost(
                    f"trainer 0 does not answer at {endpoint}: {error}",
                    at="PADDLE_MASTER",
                    fix="look at trainer 0's log: Paddle's store did not start there",
                ) from None
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Paddle's greetings off the console while a group is made; every other line comes out, late but whole."""
    with contextlib.ExitStack() as stack:
        for fd in (1, 2):
            stack.enter_context(_filtered(fd))
        yield


@contextlib.contextmanager
def _filtered(fd: int) -> Iterator[None]:
    """C++ writes to the descriptor, past ``sys.stdout``: so the descriptor itself is led into a file."""
    _flush()
    try:
        saved = os.dup(fd)
    except OSError:  # closed by a daemon: nobody reads it
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), fd)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, fd)
            os.close(saved)
            caught.seek(0)
            for line in caught:
                if line.strip() and not _NOISE.search(line.strip()):
                    os.write(fd, line)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
