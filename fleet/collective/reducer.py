"""Makes every trainer's ``param.grad`` the reduced gradient by the time ``backward()`` returns.

Hooks sit on the parameters, not on the model: a call that bypasses ``forward``, an unused parameter or a second backward
cannot part the trainers. One backward:

    begin    gradients of earlier backwards are set aside, so that each hook sees this backward's own
    hook     a gradient is ready: weigh it, copy it into its bucket; a full bucket goes to the sender, in the agreed order
    end      the buckets that are not full go too, zeros where this trainer has nothing; then each gradient is written back

Begin and end are those of the outermost backward (``engine.py``). The order of the buckets is that in which gradients became
ready on trainer 0 in the first backward. Gradients carry the weight num_samples / num_global of the batch in hand.

A backward that touches no parameter of the model (another model, an input's gradient) is nobody's business: nothing is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fleet import timeline
from fleet.collective.agreement import broadcast_state as broadcast_state
from fleet.collective.engine import Outermost
from fleet.collective.flat import Flat, dtype_of, moved
from fleet.collective.memory import Memory
from fleet.collective.note import note_of, read_presence
from fleet.collective.plan import FLOAT_BYTES, Bucket, make_buckets
from fleet.collective.rows import Rows, RowsFlat, giver, read, weighed
from fleet.collective.sender import Parcel, Sender
from fleet.collective.strategies.codec import Codec
from fleet.collective.strategies.hooks import Trainer
from fleet.collective.wire import JobWire
from fleet.errors import ConfigError, FleetError
from fleet.runtime import Runtime

_REDUCED = ("float32", "float64", "float16", "bfloat16")  # 16 bits are added up in float32 and rounded once


class Reducer:
    """Reduce the gradients of parameters over all trainers, under each backward pass.

    Args:
        runtime: the job.
        named_parameters: the model's; frozen ones are left alone until they are unfrozen, tied ones count once.
        buckets: the strategy's ``buckets`` block; None takes its defaults.
        codec: how buckets travel, on ``trainer.wire``; None: as they are.
        trainer: what the strategies are told; the reducer keeps its ``unsent``.
        overlap: whether buckets leave under the backward pass; else at its end, because a strategy exchanges within it.
        meets: asked as each backward begins: do its gradients meet "now", "later" or "never" (hooks.Strategy.meets).

    Raises:
        ConfigError: a trainable parameter that is not float32, or a second reducer in the process.

    Cost: per backward 4 bytes a float through one all-reduce a bucket, and one small meeting a bucket.
    """

    def __init__(
        self,
        runtime: Runtime,
        named_parameters: Iterable[tuple[str, Any]],
        buckets: Mapping[str, float] | None = None,
        codec: Codec | None = None,
        trainer: Trainer | None = None,
        meets: Callable[[], str] = lambda: "now",
        overlap: bool = True,
    ) -> None:
        self._runtime, self._settings = runtime, buckets
        self._trainer = trainer or Trainer(runtime.role.rank, runtime.role.world_size, JobWire(runtime))
        self._codec, self._ask, self._overlap = codec, meets, overlap
        self._alone = runtime.role.world_size == 1
        self._names: list[str] = []
        self._parameters: list[Any] = []
        self._frozen: list[tuple[str, Any]] = []
        self._plan: list[Bucket] = []  # empty until the trainers have agreed on an order
        self._flats: list[Flat | RowsFlat] = []
        self._kinds: dict[int, str] = {}  # of parameters that are not reduced as float32: "float64", "rows"
        self._memory = Memory(runtime, codec, self._trainer.wire)
        self._place: dict[int, tuple[int, int, int]] = {}  # parameter -> bucket, start, stop
        self._step, self._backward = 1, 0  # this optimizer step; backwards since the last one
        self._synced = True  # False under no_sync
        self._meets = "now"  # what this backward's gradients do
        self._failure: BaseException | None = None  # what broke the reducer; raised by every later call
        self._reset()
        taken: set[int] = set()
        for name, parameter in named_parameters:
            if id(parameter) in taken:
                continue
            taken.add(id(parameter))
            if parameter.stop_gradient:
                self._frozen.append((name, parameter))
            else:
                self._adopt(name, parameter)
        if not self._alone:
            self._outermost = Outermost(self._begin, self._end, self._abort)
            self._sender = Sender(runtime)
            runtime.closers.append(self.close)

    @property
    def way(self) -> str:
        """How gradients meet, for the banner; known from the first backward on."""
        return self._memory.way

    @property
    def bytes_per_step(self) -> int:
        """Bytes of gradients that one backward hands to all-reduce, if every parameter is used; 0 alone."""
        if self._alone:
            return 0
        return sum(int(p.size) * FLOAT_BYTES[self._kinds.get(i, "float32")] for i, p in enumerate(self._parameters))

    def bucket_plan(self) -> list[list[str]]:
        """Return the parameters' names, bucket by bucket as they are sent; empty before the first backward."""
        return [[self._names[i] for i in bucket.members] for bucket in self._plan]

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let backwards inside accumulate on this trainer alone; the next one outside sends all of it.

        Inside, ``param.grad`` is this trainer's part of the sum, each backward with its own batch's weight.
        All trainers use it for the same backwards.
        """
        before, self._synced = self._synced, False
        try:
            yield
        finally:
            self._synced = before

    def before_step(self) -> None:
        """Check that the trainers may step: called by the optimizer's wrapper. Sends nothing if a backward came before.

        Raises:
            ConfigError: gradients that were accumulated under ``no_sync`` were never sent.
            RendezvousError, PeerLost: this trainer did no backward while others did; or an earlier failure.
        """
        if self._alone or not self._parameters:
            return
        self._check()
        if self._trainer.unsent:
            raise ConfigError(
                "step() with gradients that were never sent: every backward since the last step was under no_sync",
                at=f"trainer {self._runtime.role.rank}, step {self._step}",
                fix="leave the last backward before step() outside no_sync()",
            )
        if self._backward == 0 and self._meets != "never" and self._runtime.channel is not None:
            self._runtime.channel.meet(f"step {self._step}, optimizer.step() without a backward")
        self._step, self._backward = self._step + 1, 0

    def close(self) -> None:
        """Stop reducing: end the sender's thread and give the engine back. Run by ``shutdown``."""
        if not self._alone and self._outermost.alive:
            self._outermost.close()
            self._sender.close()

    # -- parameters and plan

    def _adopt(self, name: str, parameter: Any) -> None:
        dtype, index = dtype_of(parameter), len(self._parameters)
        if dtype not in _REDUCED or (dtype == "float64" and self._codec is not None):
            by = f"; {self._codec.name} encodes float32" if self._codec is not None else ""
            raise ConfigError(
                f"parameter {name} is {dtype}; gradients of {', '.join(_REDUCED)} are reduced{by}",
                at=f"parameter {name}",
                fix="keep it in float32: model.float(), or freeze it: stop_gradient = True",
            )
        if dtype == "float64":
            self._kinds[index] = dtype
        self._names.append(name)
        self._parameters.append(parameter)
        if not self._alone:
            parameter._register_backward_hook(lambda: self._on_ready(index))

    def _adopt_unfrozen(self) -> None:
        thawed = [(n, p) for n, p in self._frozen if not p.stop_gradient]
        if thawed:
            self._frozen = [(n, p) for n, p in self._frozen if p.stop_gradient]
            for name, parameter in thawed:
                self._adopt(name, parameter)
            self._plan = []  # made again, by all, at the end of this backward

    def _agree_on_order(self) -> None:
        order = [*self._ready, *(i for i in reversed(range(len(self._parameters))) if i not in self._ready)]
        rows = [i for i, kind in self._kinds.items() if kind == "rows"]
        note = np.array([len(order), len(rows), *order, *rows, *self._repeated], "<u4").tobytes()

        def read(notes: list[bytes]) -> tuple[Any, bool]:
            lists = [np.frombuffer(n, "<u4") for n in notes]
            late = sorted({int(i) for whole in lists for i in whole[2 + int(whole[0]) + int(whole[1]) :]})
            first = [int(i) for i in lists[0][2 : 2 + int(lists[0][0])]]
            for whole in lists:
                start = 2 + int(whole[0])
                self._kinds.update({int(i): "rows" for i in whole[start : start + int(whole[1])]})
            return make_buckets(first, late, [int(p.size) for p in self._parameters], self._settings, self._kinds), False

        self._sender.post(Parcel(self._where(f"order of {len(order)} gradients"), note, read))
        self._plan = self._sender.answer()
        named = list(zip(self._names, self._parameters, strict=True))
        self._flats = self._memory.make(self._plan, named, giver(self._outermost))
        for b, bucket in enumerate(self._plan):
            for k, index in enumerate(bucket.members):
                self._place[index] = (b, bucket.starts[k], bucket.starts[k + 1])

    # -- one backward

    def _reset(self) -> None:
        self._ready: dict[int, None] = {}  # parameters that have a gradient in this backward, in order
        self._repeated: set[int] = set()  # those whose hook fired more than once
        self._addresses: dict[int, int] = {}  # address of a gradient -> parameter
        self._aside: dict[int, Any] = {}  # parameter -> its gradient of earlier backwards
        self._missing = [len(bucket.members) for bucket in self._plan]
        self._posted = 0

    def _begin(self, tensors: Any) -> None:
        self._check()
        self._adopt_unfrozen()
        self._reset()
        self._trainer.loss = tensors[0].detach()
        self._share = share = self._runtime.share
        how = self._ask()
        self._meets = "later" if how == "now" and not self._synced else how
        if self._meets == "never":
            self._weight = 1.0 if share is None or share.num_samples else 0.0
        else:
            self._weight = 1 / self._runtime.role.world_size if share is None else share.num_samples / max(share.num_global, 1)
        for index, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            if gradient is not None:
                self._aside[index] = read(gradient) if gradient.is_selected_rows() else moved(gradient)
                parameter.clear_gradient(False)

    def _on_ready(self, index: int) -> None:
        """Take one gradient: called by the engine. Nothing may be raised through it; ``_end`` raises."""
        if not self._outermost.alive or self._outermost.quiet or self._failure is not None:
            return
        try:
            self._take_ready(index)
        except BaseException as error:  # noqa: BLE001 - raised by _end, or by the next call
            self._failure = error

    def _take_ready(self, index: int) -> None:
        name = self._names[index]
        if not self._outermost.active:
            what = f"a backward pass that fleet does not see gave {name} a gradient"
            raise ConfigError(what, at=f"parameter {name}", fix="call loss.backward() or paddle.autograd.backward()")
        gradient = self._parameters[index].grad
        if gradient.is_selected_rows() or self._kinds.get(index) == "rows":
            self._check_rows(index, gradient)
        else:
            self._check_memory(index, gradient)
        if index in self._ready:
            self._repeated.add(index)
        if self._meets == "now" and self._plan:
            self._put(index, gradient)
            self._ready.setdefault(index)
            while self._overlap and self._posted < len(self._plan) and self._is_full(self._posted):
                self._post(self._posted)
        self._ready.setdefault(index)

    def _check_rows(self, index: int, gradient: Any) -> None:
        name = self._names[index]
        if not gradient.is_selected_rows() or (self._plan and self._kinds.get(index) != "rows"):
            what = f"the gradient of {name} is at times rows (sparse=True) and at times dense, or became rows after the first step"
            raise ConfigError(what, at=f"parameter {name}", fix="make every look-up of it alike, in the job's first backward too")
        self._kinds[index] = "rows"

    def _check_memory(self, index: int, gradient: Any) -> None:
        name, address = self._names[index], gradient.data_ptr()
        other = self._addresses.setdefault(address, index)
        self._addresses[address] = index
        if other != index and gradient.size > 0 and self._parameters[other].grad.data_ptr() == address:
            what = f"{name} and {self._names[other]} were given one and the same tensor as gradient"
            raise ConfigError(what, at=f"parameter {name}", fix="return gradient.clone() from the PyLayer that made it")

    def _put(self, index: int, gradient: Any | None) -> None:
        bucket, start, stop = self._place[index]
        if bucket < self._posted:
            raise ConfigError(
                f"the gradient of {self._names[index]} came in a second part after the first had been sent",
                at=f"parameter {self._names[index]}",
                fix="let the first backward of the job use the layer as all later ones do (recompute in two segments)",
            )
        began = timeline.now()
        self._flats[bucket].put(start, stop, gradient, 0.0 if gradient is None else self._weight)
        if self._trainer.unsent and index in self._aside:
            self._flats[bucket].add(start, stop, self._aside[index])
        timeline.mark("encode", self._names[index], began)
        if index not in self._ready:
            self._missing[bucket] -= 1

    def _is_full(self, bucket: int) -> bool:
        return self._missing[bucket] == 0 and not self._plan[bucket].waits_for_end

    def _post(self, bucket: int) -> None:
        members = self._plan[bucket].members
        mine = 0
        for k, index in enumerate(members):
            if (index in self._ready and self._weight != 0.0) or (self._trainer.unsent and index in self._aside):
                mine |= 1 << k
        where = self._where(f"bucket {bucket} ({self._names[members[0]]})")

        def read(notes: list[bytes]) -> tuple[Any, bool]:
            present = read_presence(notes, where)
            return present, present != 0

        note = note_of(self._share, mine).pack(len(members))
        self._sender.post(Parcel(where, note, read, lambda present: self._flats[bucket].add_up(self._memory.group, where, present)))
        self._posted += 1

    def _end(self) -> None:
        try:
            self._check()
            if not self._ready:
                self._restore()
                return
            if self._meets == "now":
                self._send_rest()
                self._write_back()
            else:
                self._keep_own()
            self._trainer.unsent = self._meets == "later"
            self._backward += 1
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._aside.clear()

    def _send_rest(self) -> None:
        if not self._plan:
            self._agree_on_order()
            self._missing = [len(bucket.members) for bucket in self._plan]
            for index in self._ready:
                self._put(index, self._parameters[index].grad)
        for b in range(self._posted, len(self._plan)):
            for index in self._plan[b].members:
                if index not in self._ready:
                    self._put(index, None)
            self._post(b)

    def _write_back(self) -> None:
        for b, bucket in enumerate(self._plan):
            present: int = self._sender.answer()
            began = timeline.now()
            for k, index in enumerate(bucket.members):
                parameter, kept = self._parameters[index], self._aside.get(index)
                if present >> k & 1:
                    self._refuse_frozen_here(index)
                    start, stop = bucket.starts[k], bucket.starts[k + 1]
                    self._flats[b].take(start, stop, parameter, None if self._trainer.unsent else kept)
                    continue
                parameter.clear_gradient(False)  # an empty part's: no trainer with samples has one
                if kept is not None:
                    self._give_back(index, kept)
            timeline.mark("encode", f"bucket {b} back", began)

    def _refuse_frozen_here(self, index: int) -> None:
        if self._parameters[index].stop_gradient:
            name = self._names[index]
            what, at = f"{name} is frozen on this trainer and has a gradient on another", f"trainer {self._runtime.role.rank}"
            raise ConfigError(what, at=at, fix="freeze it on all trainers or on none")

    def _keep_own(self) -> None:
        """Weigh this backward's gradients and add what was there; reduced ones that will meet again count one part a trainer."""
        scale = 1.0 if self._trainer.unsent or self._meets == "never" else 1 / self._runtime.role.world_size
        for index, parameter in enumerate(self._parameters):
            kept = self._aside.get(index)
            if self._kinds.get(index) == "rows":
                self._keep_rows(index, kept, scale)
            elif index in self._ready:
                own = parameter.grad.detach()
                own = own * self._weight if self._weight != 0.0 else own.clone().zero_()  # NaN * 0 is NaN
                parameter.clear_gradient(False)
                parameter.grad = own if kept is None else own + kept * scale
            elif kept is not None:
                parameter.grad = kept * scale

    def _keep_rows(self, index: int, kept: Any | None, scale: float) -> None:
        """As :meth:`_keep_own`, for a gradient of rows."""
        own = [(self._parameters[index].grad, self._weight)] if index in self._ready and self._weight else []
        parts = own + ([(kept, scale)] if kept is not None else [])
        found = weighed(parts) if parts else None
        self._parameters[index].clear_gradient(False)
        if found is not None:
            giver(self._outermost)(self._parameters[index], *found)

    def _abort(self) -> None:
        """After an error in backward itself: nothing was sent, or the trainers are apart."""
        if self._posted and self._failure is None:
            what = "an earlier backward failed after some of its gradients had been sent"
            at = f"trainer {self._runtime.role.rank}, step {self._step}"
            self._failure = ConfigError(what, at=at, fix="see that error; start the job again from its last checkpoint")
        self._restore()

    def _restore(self) -> None:
        for index, kept in self._aside.items():
            self._parameters[index].clear_gradient(False)
            self._give_back(index, kept)
        self._aside.clear()

    def _give_back(self, index: int, kept: Any) -> None:
        if isinstance(kept, Rows):
            giver(self._outermost)(self._parameters[index], *read(kept))
        else:
            self._parameters[index].grad = kept

    def _where(self, what: str) -> str:
        return f"step {self._step}, backward {self._backward + 1}, {what}"

    def _check(self) -> None:
        failure = self._failure
        if failure is None:
            return
        if isinstance(failure, FleetError):
            raise failure
        what = f"an earlier backward was broken off by {failure!r}"
        raise ConfigError(what, at=f"trainer {self._runtime.role.rank}", fix="see that error; start the job again") from failure
