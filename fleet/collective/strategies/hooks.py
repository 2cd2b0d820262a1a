"""The face of a strategy and of a codec: what they are told, and the hooks that they may have.

Ours are written against this file alone, and so is a user's own (docs/strategy.md). It imports no Paddle: what a strategy
is called, which fields it has and what it excludes can be asked without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from fleet import config
from fleet.config import Field

State = Mapping[str, Any]  # flat names -> NumPy arrays, ints, floats, bools, strs


class Wire(Protocol):
    """The line between the trainers. All of them make the same calls in the same order."""

    rank: int
    world_size: int

    def gather(self, payload: bytes) -> list[bytes]:
        """Return what every trainer gave, in rank order. Lengths may differ."""

    def sum(self, values: Any) -> Any:
        """Return the sum of all trainers' float32[n], the same bits on each; n is the same on all."""


@dataclass
class Trainer:
    """This trainer as a strategy sees it. Hooks read it; they change gradients and parameters, never these fields."""

    rank: int
    world_size: int
    wire: Wire
    model: Any = None  # paddle.nn.Layer, or None if the script never gave it
    optimizer: Any = None  # the script's own, as wrapped so far
    parameters: list[tuple[str, Any]] = field(default_factory=list)  # name in the model, paddle.Tensor; frozen ones too
    step: int = 0  # optimizer steps taken, of the runs before a resume too
    ends_epoch: bool = False  # the batch in hand is the last of its epoch; False if nobody knows


class Strategy:
    """One thing that a job does besides the plain step. Subclass it; every hook is optional.

    Args:
        settings: values for ``fields``; each becomes an attribute.

    Raises:
        ConfigError: a setting that ``fields`` does not have, or that is out of range.
    """

    name: ClassVar[str] = ""  # how it is switched on, and called in errors, banner and checkpoint
    fields: ClassVar[tuple[Field, ...]] = ()
    conflicts: ClassVar[Mapping[str, str]] = {}  # name of another strategy -> why both cannot be in force
    per_trainer: ClassVar[bool] = False  # whether ``state`` differs between the trainers

    def __init__(self, **settings: Any) -> None:
        self.settings = config.check(self.fields, settings, block=self.name, at=lambda *keys: ".".join((self.name, *keys)))
        for name, value in self.settings.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.name + (f" ({', '.join(f'{k} {v}' for k, v in self.settings.items())})" if self.settings else "")

    def __deepcopy__(self, _: Any) -> Strategy:
        return self  # the script's object is the job's: what it collects can be read there

    def wrap_model(self, model: Any, trainer: Trainer) -> None:
        """Change the model in place, once. Its parameters must stay the same objects: the optimizer holds them."""

    def wrap_optimizer(self, optimizer: Any, trainer: Trainer) -> Any:
        """Return the optimizer that takes the place of ``optimizer``, once."""
        return optimizer

    def meets(self, trainer: Trainer) -> str:
        """Say when the gradients of the backward that begins meet the other trainers'; the last in ORDER of these wins:

        "now"; "later": they add up on this trainer, weighed, until a "now"; "never": they stay this trainer's own mean.
        All trainers must say the same.
        """
        return "now"

    def applies(self, trainer: Trainer) -> bool:
        """Return whether this ``step()`` updates; False makes it a micro-step. All trainers must say the same."""
        return True

    def on_gradients(self, trainer: Trainer) -> None:
        """Look at or change ``param.grad``: the reduced gradients of the whole step."""

    def on_update(self, trainer: Trainer) -> None:
        """Run right before the optimizer's own step."""

    def after_update(self, trainer: Trainer) -> None:
        """Run right after the optimizer's own step; also if that raised."""

    def after_step(self, trainer: Trainer) -> None:
        """Run at the end of a step: ``trainer.step`` counts it."""

    def state(self, trainer: Trainer) -> State:
        """Return what a resumed run needs, as copies."""
        return {}

    def load(self, states: Sequence[State], trainer: Trainer) -> None:
        """Take up ``states[r]`` of every trainer r of the run that saved; one entry unless ``per_trainer``."""


class Part:
    """One parameter's gradient within a bucket."""

    def __init__(self, name: str, shape: tuple[int, ...], values: Any) -> None:
        self.name, self.shape = name, shape
        self.values = values  # float32[n], flat: in, this trainer's weighed gradient; out, the sum over all trainers


class Codec(Strategy):
    """How gradients travel. At most one is in force; with one trainer nothing travels, and it rests.

    Without ``error_feedback`` a codec is ``encode`` and ``decode``. With it, what ``decode(encode(x))`` loses of x is kept, by
    parameter, and added to its next gradient (Seide et al. 2014; Karimireddy et al. 2019). On another number of trainers
    what was kept is added up over the trainers then, and shared equally among those now.
    """

    error_feedback: ClassVar[bool] = False
    per_trainer = True

    def encode(self, part: Part) -> bytes:
        """Return ``part.values`` as bytes."""
        raise NotImplementedError

    def decode(self, payload: bytes, part: Part) -> Any:
        """Return float32[n] from any trainer's bytes for ``part``."""
        raise NotImplementedError

    def reduce(self, parts: list[Part], wire: Wire) -> None:
        """Put the sum over all trainers into each part's ``values``. Runs in the sender's thread: it touches no Paddle tensor."""
        raise NotImplementedError
