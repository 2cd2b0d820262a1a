"""Joins the two wings to the user's model, optimizer and loader. Nobody imports this but the public face.

One Job a process: it learns the model and the strategy in whatever order the script gives them, and once both are known
changes the model in place: parameters broadcast from trainer 0, embeddings moved to servers, hooks on parameters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from fleet import config, env, paddle_wheel, progress
from fleet.errors import ConfigError
from fleet.runtime import Runtime, Share, current
from fleet.stepping import DistributedOptimizer
from fleet.strategy import DistributedStrategy


class Job:
    """Model, optimizer, loaders and wings of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.model: Any = None
        self.optimizer: DistributedOptimizer | None = None
        self.in_force: Any = None  # collective.InForce: the strategies, once the optimizer is known
        self.reducer: Any = None  # collective.Reducer, with more than one trainer
        self.session: Any = None  # parameter_server.Session
        self.dense: Any = None  # parameter_server.dense.Dense, if the servers hold the dense parameters
        self.embeddings: dict[str, Any] = {}  # table name -> parameter_server.Embedding
        self.loader: Any = None  # the loader that handed out the batch in hand
        self._announced = False  # the start banner was shown
        self._strategy: DistributedStrategy | None = None

    def strategy(self, given: DistributedStrategy | None = None) -> DistributedStrategy:
        """Return the job's strategy, complete: given by the script, filled from the launcher's file, agreed by all trainers."""
        self.runtime.agree_strategy(given)
        if self._strategy is None:
            strategy = self.runtime.strategy or DistributedStrategy()
            path = env.get("FLEET_CONFIG")
            if path:
                strategy.fill_from(config.load_yaml(path))
            if self.runtime.role.servers and not strategy.is_set("parameter_server"):
                strategy.parameter_server = True
            self.runtime.strategy = self._strategy = strategy
            self.runtime.strategy_in_force = True
            self.runtime.take_timeout(float(strategy.timeout_s))
            _agree(self.runtime, strategy)
        return self._strategy

    def take_model(self, model: Any) -> None:
        """Remember the model; it is changed once the optimizer is known too."""
        if self.model is not None and self.model is not model:
            raise _second("model")
        self.model = model
        if self.optimizer is not None and self.runtime.role.world_size > 1:
            from fleet.collective.reducer import broadcast_state

            broadcast_state(self.runtime, model)  # its buffers; the optimizer's parameters were sent when it came

    def join(self, optimizer: DistributedOptimizer) -> None:
        """Put model, optimizer and strategy together."""
        if self.optimizer is not None:
            raise _second("optimizer")
        strategy = self.strategy()
        self.optimizer = optimizer
        self._bring_in(optimizer, strategy)
        block = strategy.parameter_server
        if block is not None:
            self._move_embeddings(optimizer.inner, _with_loss_policy(block), int(strategy.seed))
        elif self.runtime.role.servers:
            fix = "set parameter_server in the strategy, or start no servers"
            raise ConfigError("servers were started, but the strategy turns parameter_server off", at="strategy", fix=fix)
        elif self.model is not None:
            _refuse_lone_tables(self.model)
        if block is not None and block["dense"] == "server":
            self.in_force.refuse_dense_on_servers()
            self._move_dense(optimizer.inner, int(block["pull_steps"] or 1))
        else:
            self._share_dense(optimizer.inner, strategy)

    def _bring_in(self, optimizer: DistributedOptimizer, strategy: DistributedStrategy) -> None:
        """Make the strategies that are in force; let them change model and optimizer."""
        from fleet.collective.in_force import InForce, trainer_of

        trainer = trainer_of(self.runtime, self.model, optimizer.inner, _named_parameters(self.model, optimizer.inner))
        self.in_force = InForce(strategy, trainer)
        self.runtime.strategies = self.in_force.held()
        self.runtime.meets = self._meets
        self.in_force.wrap_model()
        optimizer.inner = self.in_force.wrap_optimizer()

    def _move_embeddings(self, inner: Any, block: Mapping[str, Any], seed: int) -> None:
        """Turn the model's embeddings into tables on the servers, trainer 0's weights in them."""
        if self.model is None:
            fix = "call model = fleet.distributed_model(model) before distributed_optimizer"
            raise ConfigError("a parameter server needs to know the model", at="fleet.distributed_optimizer()", fix=fix)
        from fleet.parameter_server import embedding, row_optimizer
        from fleet.parameter_server.session import Session
        from fleet.parameter_server.weights import Weights

        found = embedding.find(self.model)
        wanted = block["row_optimizer"]
        rows = {path: row_optimizer.of(inner, wanted, embedding.attributes(layer, path)) for path, layer in found.items()}
        uploads = block["dense"] == "server" or any(not isinstance(layer, embedding.Embedding) for layer in found.values())
        moved = {id(w) for layer in found.values() for w in embedding.weights(layer)}
        recovery = self.runtime.recovery
        incarnation = time.time_ns() if recovery is None else recovery.incarnation()
        self.session = Session(self.runtime, dict(block), incarnation)
        for path, layer in found.items():
            if not isinstance(layer, embedding.Embedding):
                embedding.convert(layer, path)
            layer.join(self.session, path, rows[path], block, seed)
            self.embeddings[layer.table_name] = layer
        if self.runtime.role.rank == 0 and not self._rejoins:
            for layer in found.values():
                layer.upload()
        self.runtime.meet("upload of the embeddings", timeout_s=3600)  # as long as the rows take
        if self.runtime.recovery is not None:
            self.runtime.recovery.plan(on_server_loss=block["on_server_loss"], uploaded=uploads)
        for layer in found.values():
            layer.forget_weight()
        self.runtime.tables = Weights(self.session, found)
        if inner._parameter_list is not None:
            # In place: Paddle's optimizer holds the same list twice. The rows are the servers' to update.
            inner._parameter_list[:] = [p for p in inner._parameter_list if id(p) not in moved]

    @property
    def _rejoins(self) -> bool:
        """Return whether this trainer alone was started again: the others go on, and the servers hold what they learned."""
        return self.runtime.recovery is not None and bool(self.runtime.recovery.rejoins)

    def _move_dense(self, inner: Any, pull_steps: int) -> None:
        """Give the dense parameters to the servers, trainer 0's values in them; buffers stay with each trainer."""
        from fleet.parameter_server.dense import Dense

        named = _named_parameters(self.model, inner)
        world_size = self.runtime.role.world_size
        if world_size > 1:
            from fleet.collective.agreement import agree_model
            from fleet.collective.reducer import broadcast_state

            agree_model(self.runtime, named)
            broadcast_state(self.runtime, self.model)
        self.dense = self.runtime.tables.dense = Dense(self.session, named, inner, pull_steps, world_size)
        if self.runtime.role.rank == 0 and not self._rejoins:
            self.dense.upload()
        self.runtime.meet("upload of the dense parameters", timeout_s=3600)

    def _share_dense(self, inner: Any, strategy: DistributedStrategy) -> None:
        """Hook the dense parameters, so that their gradients meet in the backward pass."""
        if self.runtime.role.world_size == 1:
            return
        from fleet.collective.agreement import agree_model
        from fleet.collective.reducer import Reducer, broadcast_state

        in_force, trainer = self.in_force, self.in_force.trainer
        # As the script's optimizer had them: a strategy may have left it a part of them, and with tables the rows are gone.
        named = trainer.parameters if not self.embeddings else _named_parameters(self.model, inner)
        agree_model(self.runtime, named)
        broadcast_state(self.runtime, self.model if self.model is not None else [p for _, p in named])
        self.reducer = Reducer(self.runtime, named, strategy.buckets, in_force.codec, trainer, self._meets, in_force.overlap)

    def _meets(self) -> str:
        """Return what the gradients of the backward that begins do."""
        self.tell_trainer()
        how: str = self.in_force.meets()
        return how

    def tell_trainer(self) -> None:
        """Tell the strategies where this trainer stands."""
        trainer, loader = self.in_force.trainer, self.loader
        share = self.runtime.share
        trainer.step = self.runtime.steps
        trainer.weight = 1 / trainer.world_size if share is None else share.num_samples / max(share.num_global, 1)
        trainer.ends_epoch = loader is not None and loader.at_end

    def hand_out(self, loader: Any, num_samples: int, num_global: int) -> None:
        """Note the batch that the loop gets now."""
        self.runtime.share = Share(num_samples, num_global)
        self.loader = loader
        if self.in_force is not None:
            self.tell_trainer()

    def before_step(self) -> None:
        """Refuse a step whose data were never shared out; count the samples that it learns from."""
        runtime = self.runtime
        if runtime.share is None and runtime.role.world_size > 1 and self.strategy().batch != "per_trainer":
            raise ConfigError(
                f"{runtime.role.world_size} trainers take a step, and nothing says how the data are shared among them",
                at="optimizer.step()",
                fix='use loader = fleet.distributed_loader(loader), or say that each trainer brings its own: batch="per_trainer"',
            )
        if not self._announced:
            self._announced = True
            progress.banner(self)
        if runtime.share is not None:
            runtime.samples_trained += runtime.share.num_global
        if self.loader is not None:
            runtime.position = (self.loader.epoch, self.loader.batches_done, self.loader.num_batches)
        self.tell_trainer()


_job: Job | None = None


def _current(call: str) -> Job:
    global _job
    runtime = current(call)
    if _job is None or _job.runtime is not runtime:
        _job = Job(runtime)
    return _job


def job(call: str = "fleet") -> Job:
    """Return this process's Job."""
    return _current(call)


def distributed_model(model: Any, strategy: DistributedStrategy | None = None) -> Any:
    """Return the same model; it is changed in place once the optimizer is known too.

    Args:
        model: a paddle.nn.Layer, built alike on every trainer. Trainer 0's weights are taken.

    Raises:
        ConfigError: not a Layer, or a second model.
        StrategyConflict: a strategy that differs from the job's.
    """
    paddle = paddle_wheel.load("fleet.distributed_model()")
    if not isinstance(model, paddle.nn.Layer):
        fix = "give the model itself"
        raise ConfigError(f"not a paddle.nn.Layer: {type(model).__name__}", at="fleet.distributed_model()", fix=fix)
    this = _current("fleet.distributed_model()")
    this.runtime.agree_strategy(strategy)
    this.take_model(model)
    return model


def distributed_optimizer(optimizer: Any, strategy: DistributedStrategy | None = None) -> DistributedOptimizer:
    """Wrap the script's optimizer; gradients then meet in ``backward()`` and rows are pushed in ``step()``.

    Raises:
        ConfigError: not a Paddle optimizer, something it does that rows cannot follow, or models that differ among trainers.
        StrategyConflict: a strategy that differs from the job's.

    Cost: parameters once from trainer 0; then per step one all-reduce of all dense gradients, and in parameter-server
    mode a push and a pull of the batch's unique rows.
    """
    paddle = paddle_wheel.load("fleet.distributed_optimizer()")
    if not isinstance(optimizer, paddle.optimizer.Optimizer):
        fix = "give the script's own paddle.optimizer"
        raise ConfigError(f"not a Paddle optimizer: {type(optimizer).__name__}", at="fleet.distributed_optimizer()", fix=fix)
    this = _current("fleet.distributed_optimizer()")
    this.strategy(strategy)
    wrapped = DistributedOptimizer(optimizer, this)
    this.join(wrapped)
    return wrapped


def distributed_loader(
    loader: Any,
    ids: Mapping[Any, Any] | Callable[[Any], Mapping[Any, Any]] | None = None,
    strategy: DistributedStrategy | None = None,
) -> Any:
    """Return a loader that gives each trainer its part of every global batch.

    Args:
        loader: a paddle.io.DataLoader (over a map-style set, with samplers of your own too, or over a stream that uses
            fleet.data.shard), or a loader of fleet.data.
        ids: key or index of a batch -> embedding, or a function from a batch to {embedding: ids}: announces ids early. Several
            keys may name one embedding (the function then returns [(embedding, ids), ...]). Ragged ids are a pair of values
            and lengths: a field that holds one, or a pair of keys.

    Raises:
        ConfigError: a loader whose samples fleet cannot share out, or ids of something that is no table.
    """
    from fleet.data.loader import ShardedLoader
    from fleet.parameter_server.announcer import announcer

    if ids is not None and not callable(ids) and not isinstance(ids, Mapping):
        fix = "give {key or index of a batch: embedding}, or a function from a batch to {embedding: ids}"
        raise ConfigError(f"ids must be a mapping or a function, got {type(ids).__name__}", at="distributed_loader(ids=)", fix=fix)
    this = _current("fleet.distributed_loader()")
    chosen = this.strategy(strategy)
    role = this.runtime.role
    # Without tables there is nothing to announce: a script that names its ids also trains without a parameter server.
    announce = announcer(lambda: this.session, ids) if ids is not None and chosen.parameter_server is not None else None
    made: list[Any] = []
    sharded = ShardedLoader(
        loader,
        rank=role.rank,
        world_size=role.world_size,
        seed=chosen.seed,
        batch=chosen.batch,
        on_batch=lambda num_samples, num_global: this.hand_out(made[0], num_samples, num_global),
        announce=announce,
        meet=this.runtime.meet,
    )
    made.append(sharded)
    return sharded


def no_sync() -> AbstractContextManager[None]:
    """Let the backward passes inside add up locally; the next one outside sends the sum.

    The rows' gradients are kept until ``step()`` anyway.
    """
    reducer = _current("fleet.no_sync()").reducer
    found: AbstractContextManager[None] = reducer.no_sync() if reducer is not None else nullcontext()
    return found


@contextmanager
def ema_weights() -> Iterator[None]:
    """Put the averages that ``ema`` follows in the parameters' place inside the block: to evaluate, or to save.

    Raises:
        ConfigError: the strategy has no ``ema``.
    """
    in_force = _current("fleet.ema_weights()").in_force
    if in_force is None:
        fix = "call fleet.distributed_optimizer() before"
        raise ConfigError("nobody follows the parameters yet", at="fleet.ema_weights()", fix=fix)
    with in_force.averages():
        yield


def _named_parameters(model: Any, inner: Any) -> list[tuple[str, Any]]:
    """Return the optimizer's parameters with their names in the model, else their own."""
    names = {id(p): name for name, p in model.named_parameters()} if model is not None else {}
    listed = inner._parameter_list or []
    if listed and isinstance(listed[0], dict):
        listed = [p for group in listed for p in group["params"]]
    return [(names.get(id(p), p.name), p) for p in listed]


def _refuse_lone_tables(model: Any) -> None:
    for path, layer in model.named_sublayers():
        if type(layer).__module__ == "fleet.parameter_server.embedding":
            fix = 'give strategy=fleet.DistributedStrategy(parameter_server={"consistency": "sync"})'
            raise ConfigError("the model holds a table, but the strategy has no parameter_server block", at=path, fix=fix)


def _agree(runtime: Runtime, strategy: DistributedStrategy) -> None:
    """Check that all trainers ask for the same; every trainer raises if not."""
    mine = strategy.effective()
    for other, payload in enumerate(runtime.meet("agreement on the strategy", json.dumps(mine).encode())):
        theirs = json.loads(payload)
        for name, value in json.loads(json.dumps(mine)).items():
            if theirs.get(name) != value:
                what = f"trainer {other} asks for {name}={theirs.get(name)!r}, trainer {runtime.role.rank} for {value!r}"
                raise ConfigError(what, at=f"strategy.{name}", fix="give every trainer the same strategy")


def _with_loss_policy(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the block with ``on_server_loss`` filled in."""
    default = "rollback" if block["consistency"] in ("sync", "bounded") else "carry_on"
    return {**block, "on_server_loss": block["on_server_loss"] or default}


def _second(noun: str) -> ConfigError:
    fix = f"put both into one, or train them in two jobs; one {noun} a job is what this version does"
    return ConfigError(f"a second {noun} was given", at=f"fleet.distributed_{noun}()", fix=fix)
