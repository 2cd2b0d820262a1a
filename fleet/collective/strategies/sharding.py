"""``sharding``: the optimizer's state lies once among the trainers, not once in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.collective.strategies import optimizer_state
from fleet.collective.strategies.hooks import State, Strategy, Trainer
from fleet.config import Field
from fleet.errors import ConfigError

_LOCAL = "local steps update every parameter on every trainer"
_WITH_TABLES = "the parameter server has its own way to keep dense parameters once: dense=\"server\""


class Sharding(Strategy):
    """Stage 1 of ZeRO: each trainer updates its part of the parameters and gives their new values to the others.

    Whole parameters are shared out, the largest first, each to the trainer that has least so far; so a trainer's part is about
    1 / trainers of the optimizer's state where no single parameter is larger than that. ``grad_clip`` of the optimizer still sees
    all gradients.

    Bytes a step: 4 a float more, the new values. Use it where Adam's two moments are what does not fit.
    State: each trainer's part; any number of trainers takes up all parts, and each keeps its own of them.

    Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020, stage 1.
    """

    name = "sharding"
    fields = (
        Field("stage", int, 1, "what is shared out: 1, the optimizer's state", low=1, high=1),
        Field("degree", int, None, "trainers that share; all of the job, or it is refused; None: all", low=1, none_ok=True),
    )
    conflicts = {"localsgd": _LOCAL, "post_localsgd": _LOCAL, "parameter_server": _WITH_TABLES}
    per_trainer = True

    degree: int | None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._owner: dict[str, int] = {}  # parameter -> rank
        self._clip: Any = None  # the optimizer's own, which would see a part only

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Leave the optimizer this trainer's part of the parameters."""
        held = optimizer._parameter_list
        if self.degree not in (None, trainer.world_size):
            what = f"sharding.degree asks for {self.degree} trainers, and the job has {trainer.world_size}"
            raise ConfigError(what, at="strategy.sharding.degree", fix="leave it away: all trainers of a job share")
        if held and isinstance(held[0], dict):
            fix = "give the optimizer a list of parameters"
            raise ConfigError("sharding knows no groups of parameters", at="strategy.sharding", fix=fix)
        self._owner = shared_out({name: int(p.size) for name, p in trainer.parameters}, trainer.world_size)
        if trainer.world_size > 1:
            mine = {id(p) for name, p in trainer.parameters if self._owner[name] == trainer.rank}
            held[:] = [p for p in held if id(p) in mine]  # in place: Paddle's optimizer holds the same list twice
            self._clip, optimizer._grad_clip = optimizer._grad_clip, None
        return optimizer

    def on_gradients(self, trainer: Trainer) -> None:
        """Clip as the optimizer would have, over all parameters."""
        if self._clip is not None:
            pairs = [(p, p.grad) for _, p in trainer.parameters if p.grad is not None]
            for parameter, clipped in self._clip(pairs):
                parameter.grad = clipped

    def after_step(self, trainer: Trainer) -> None:
        """Give the new values to the others, and take theirs."""
        import numpy as np

        if trainer.world_size == 1:
            return
        parts: list[list[Any]] = [[] for _ in range(trainer.world_size)]
        for name, parameter in trainer.parameters:
            if not parameter.stop_gradient:
                parts[self._owner[name]].append(parameter)
        mine = b"".join(p.numpy().tobytes() for p in parts[trainer.rank])
        for rank, values in enumerate(trainer.wire.gather(mine)):
            start = 0
            for parameter in parts[rank] if rank != trainer.rank else ():
                like = parameter.numpy()
                array = np.frombuffer(values, like.dtype, like.size, start).reshape(like.shape)
                parameter.set_value(array)
                start += array.nbytes

    def state(self, trainer: Trainer) -> State:
        """Return this trainer's part."""
        return optimizer_state.take(trainer, [name for name, rank in self._owner.items() if rank == trainer.rank])

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take this trainer's part out of all."""
        own = {name for name, rank in self._owner.items() if rank == trainer.rank}
        found: dict[str, Any] = {}
        for r in range(len(states)):
            found.update({key: value for key, value in states[r].items() if key.rpartition("//")[0] in own})
        optimizer_state.put(trainer, found)


def shared_out(sizes: dict[str, int], world_size: int) -> dict[str, int]:
    """Return who owns each: the largest first, to whom has least; the same on every trainer."""
    loads = [0] * world_size
    owner = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], n)):
        rank = loads.index(min(loads))
        owner[name] = rank
        loads[rank] += sizes[name]
    return owner
