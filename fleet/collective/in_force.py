"""The strategies of a job, in their order: their hooks, run with a name to every failure, and their state for checkpoints."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from fleet import strategy as declared
from fleet import timeline
from fleet.collective import strategies
from fleet.collective.strategies.codec import Codec
from fleet.collective.strategies.ema import Ema
from fleet.collective.strategies.hooks import State, Strategy, Trainer, wrong_hook
from fleet.collective.wire import JobWire
from fleet.errors import ConfigError, FleetError, StrategyConflict
from fleet.runtime import Runtime
from fleet.strategy import DistributedStrategy

_MEETS = ("now", "later", "never")  # the later one of these wins


class Held:
    """One strategy in force, as a checkpoint sees it: see ``collective/strategies/__init__.py``."""

    def __init__(self, strategy: Strategy, trainer: Trainer) -> None:
        self.name, self.per_trainer = strategy.name, strategy.per_trainer
        self._strategy, self._trainer = strategy, trainer

    def state(self) -> State:
        """Return what a resumed run needs, as copies."""
        found = _call(self._strategy, "state", self._trainer)
        if isinstance(found, dict) and all(isinstance(key, str) for key in found):
            return found
        raise wrong_hook(self._strategy, "state", f"returned a {type(found).__name__}", "return a dict of flat names and values")

    def load(self, states: Sequence[State]) -> None:
        """Take up what the trainers of the run that saved gave, in rank order."""
        _call(self._strategy, "load", states, self._trainer)


class InForce:
    """All strategies that a DistributedStrategy turns on, in ORDER, and the trainer that their hooks are told of."""

    def __init__(self, strategy: DistributedStrategy, trainer: Trainer) -> None:
        self.trainer = trainer
        if strategy.dp_degree not in (-1, trainer.world_size):
            what = f"hybrid_configs asks for dp_degree {strategy.dp_degree}, and the job has {trainer.world_size} trainers"
            raise ConfigError(what, at="strategy.hybrid_configs", fix="start as many, or leave dp_degree away")
        self.strategies = _made(strategy)
        codecs = [s for s in self.strategies if isinstance(s, Codec)]
        self.codec = codecs[0] if codecs else None
        self.overlap = not any(s.exchanges_in_backward for s in self.strategies)

    def held(self) -> list[Held]:
        """Return what a checkpoint keeps of them."""
        return [Held(s, self.trainer) for s in self.strategies]

    def wrap_model(self) -> None:
        """Let them change the model; its parameters stay the objects that the optimizer holds."""
        if self.trainer.model is None:
            needy = [s.name for s in self._with("wrap_model")]
            if needy:
                fix = "call model = fleet.distributed_model(model) before distributed_optimizer"
                raise ConfigError(f"{needy[0]} needs to know the model", at="fleet.distributed_optimizer()", fix=fix)
            return
        before = {id(p) for p in self.trainer.model.parameters()}
        for strategy in self._with("wrap_model"):
            _call(strategy, "wrap_model", self.trainer.model, self.trainer)
            if {id(p) for p in self.trainer.model.parameters()} != before:
                fix = "change layers, and hand their parameters on: the optimizer holds these objects"
                raise wrong_hook(strategy, "wrap_model", "left the model with other parameters", fix)

    def wrap_optimizer(self) -> Any:
        """Return the optimizer that takes the place of the script's own."""
        for strategy in self._with("wrap_optimizer"):
            found = _call(strategy, "wrap_optimizer", self.trainer.optimizer, self.trainer)
            if not hasattr(found, "step") or not hasattr(found, "_parameter_list"):
                fix = "return a paddle.optimizer.Optimizer over the same parameters"
                raise wrong_hook(strategy, "wrap_optimizer", f"returned a {type(found).__name__}", fix)
            self.trainer.optimizer = found
        return self.trainer.optimizer

    def left_out(self) -> list[Any]:
        """Return the parameters that a strategy has taken from the optimizer, for others to update."""
        held = self.trainer.optimizer._parameter_list or []
        if not self._with("wrap_optimizer") or (held and isinstance(held[0], dict)):
            return []
        mine = {id(p) for p in held}
        return [p for _, p in self.trainer.parameters if id(p) not in mine]

    def meets(self) -> str:
        """Return when the gradients of the backward that begins meet: "now", "later" or "never"."""
        last = 0
        for strategy in self._with("meets"):
            how = _call(strategy, "meets", self.trainer)
            if how not in _MEETS:
                raise wrong_hook(strategy, "meets", f"returned {how!r}", f"return one of {', '.join(_MEETS)}")
            last = max(last, _MEETS.index(how))
        return _MEETS[last]

    def applies(self) -> bool:
        """Return whether this ``step()`` updates; each of them is asked."""
        answers = []
        for strategy in self._with("applies"):
            answer = _call(strategy, "applies", self.trainer)
            if not isinstance(answer, bool):
                raise wrong_hook(strategy, "applies", f"returned {answer!r}", "return True or False")
            answers.append(answer)
        return all(answers)

    def run(self, hook: str) -> None:
        """Run one of on_gradients, on_update, after_update, after_step of all of them; Paddle records nothing in it."""
        import paddle

        for strategy in self._with(hook):
            self.trainer.wire.where = f"step {self.trainer.step}, {strategy.name}.{hook}"
            began = timeline.now()
            with paddle.no_grad():
                _call(strategy, hook, self.trainer)
            if hook == "on_gradients":
                _check_shapes(strategy, self.trainer)
            timeline.mark("apply", f"{strategy.name}.{hook}", began)

    def averages(self) -> AbstractContextManager[None]:
        """Return the block in which the averages of ``ema`` take the parameters' place."""
        for strategy in self.strategies:
            if isinstance(strategy, Ema):
                return strategy.applied(self.trainer)
        raise ConfigError("the strategy has no ema", at="fleet.ema_weights()", fix="set ema=True in the strategy")

    def refuse_dense_on_servers(self) -> None:
        """Refuse what acts on gradients or updates: with dense="server" these are the servers'."""
        acting = ("wrap_optimizer", "meets", "applies", "on_gradients", "on_update", "after_update")
        for strategy in self.strategies:
            if strategy is self.codec or any(strategy in self._with(hook) for hook in acting):
                what = f'{strategy.name} acts on dense gradients, which dense="server" sends to the servers as they are'
                fix = f'set parameter_server dense="allreduce", or leave {strategy.name} away'
                raise StrategyConflict(what, at=f"strategy.{strategy.name}", fix=fix)

    def _with(self, hook: str) -> list[Strategy]:
        return [s for s in self.strategies if getattr(type(s), hook) is not getattr(Strategy, hook)]


def trainer_of(runtime: Runtime, model: Any, optimizer: Any, named_parameters: list[tuple[str, Any]]) -> Trainer:
    """Return this trainer as its strategies see it."""
    role = runtime.role
    return Trainer(role.rank, role.world_size, JobWire(runtime), model, optimizer, named_parameters)


def _made(strategy: DistributedStrategy) -> list[Strategy]:
    found: list[Strategy] = []
    kinds = {kind.__module__.rsplit(".", 1)[-1] + "." + kind.__name__: kind for kind in declared.kinds().values()}
    for place in strategies.ORDER:
        if place == "custom":
            found += strategy.custom
            continue
        kind = kinds[place]
        settings = getattr(strategy, kind.name)
        if settings is not None:
            found.append(kind(**settings))
    return found


def _check_shapes(strategy: Strategy, trainer: Trainer) -> None:
    for name, parameter in trainer.parameters:
        gradient = parameter.grad
        if gradient is not None and not gradient.is_selected_rows() and gradient.shape != parameter.shape:
            what = f"left {name}, which is {list(parameter.shape)}, with a gradient of {list(gradient.shape)}"
            raise wrong_hook(strategy, "on_gradients", what, "keep every gradient's shape")


def _call(strategy: Strategy, hook: str, *arguments: Any) -> Any:
    """Run a hook; what it raises says whose it is, and where in the user's file."""
    run: Callable[..., Any] = getattr(strategy, hook)
    try:
        return run(*arguments)
    except FleetError:
        raise
    except Exception as error:  # whatever a user's hook raises
        frames = traceback.extract_tb(error.__traceback__)
        at = f"{frames[-1].filename}:{frames[-1].lineno}" if len(frames) == 1 else f"{frames[1].filename}:{frames[1].lineno}"
        what = f"strategy {strategy.name}: its hook {hook} raised {type(error).__name__}: {error}"
        raise ConfigError(what, at=at, fix="correct the hook, or leave the strategy away") from error
