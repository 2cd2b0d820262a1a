"""The face of a strategy: what it is told, and the hooks that it may have. A codec's is in ``codec.py``.

Ours are written against these two files alone, and so is a user's own (docs/strategy.md). They import neither Paddle nor
NumPy when they are loaded: what a strategy is called, which fields it has and what it excludes can be asked without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from fleet import config
from fleet.config import Field
from fleet.errors import ConfigError

State = Mapping[str, Any]  # flat names -> NumPy arrays, ints, floats, bools, strs


class Wire(Protocol):
    """The line between the trainers. All of them make the same calls in the same order."""

    rank: int
    world_size: int
    where: str  # what the calls are for, in errors; set before each hook

    def gather(self, payload: bytes) -> list[bytes]:
        """Return what every trainer gave, in rank order. Lengths may differ."""

    def sum(self, values: Any) -> Any:
        """Return the sum of all trainers' float32[n], the same bits on each; n is the same on all."""


@dataclass
class Trainer:
    """This trainer as a strategy sees it. Hooks read it; they change gradients and parameters, not these fields (but unsent)."""

    rank: int
    world_size: int
    wire: Wire
    model: Any = None  # paddle.nn.Layer, or None if the script never gave it
    optimizer: Any = None  # the script's own, as wrapped so far
    parameters: list[tuple[str, Any]] = field(default_factory=list)  # name in the model, paddle.Tensor; frozen ones too
    loss: Any = None  # paddle.Tensor whose backward began last; None before the first one, and with one trainer
    weight: float = 1.0  # part of the global batch that this trainer has in hand: what its gradient weighs
    step: int = 0  # optimizer steps taken, of the runs before a resume too
    ends_epoch: bool = False  # the batch in hand is the last of its epoch; False if nobody knows
    unsent: bool = False  # param.grad is this trainer's own, of backwards that said "later"; ``load`` may set it


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
    encodes: ClassVar[bool] = False  # it is a codec
    exchanges_in_backward: ClassVar[bool] = False  # it uses ``trainer.wire`` there: gradients wait for the end of backward

    def __init__(self, **settings: Any) -> None:
        def at(*keys: str) -> str:
            return ".".join((self.name, *keys))

        self.settings = self.complete(config.check(self.fields, settings, block=self.name, at=at), at)
        for name, value in self.settings.items():
            setattr(self, name, value)

    @classmethod
    def complete(cls, values: dict[str, Any], at: Callable[..., str]) -> dict[str, Any]:
        """Return the checked settings with what they imply filled in, or refuse what does not fit together."""
        return values

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
        All trainers must say the same. It may be asked several times: count elsewhere.
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


def wrong_hook(strategy: Strategy, hook: str, what: str, fix: str) -> ConfigError:
    """Return the error for a hook that does not do what hooks of its name do."""
    at = f"{type(strategy).__module__}.{type(strategy).__qualname__}.{hook}"
    return ConfigError(f"strategy {strategy.name}: its hook {hook} {what}", at=at, fix=fix)
