"""``parameter_server``: the block of a strategy that moves tables to servers. Declared here, obeyed in this package."""

from collections.abc import Callable
from typing import Any

from fleet.config import Field
from fleet.errors import ConfigError, StrategyConflict
from fleet.parameter_server.spec import FLAGS, OPTIMIZERS, STATES, WEIGHTS

NAME = "parameter_server"
# What a row optimizer may be told; its flags, but for the one that is not the user's to set, are True or False.
_CONSTANTS = {
    name: tuple(
        Field(c, bool, bool(default), f"of {name}") if c in FLAGS else Field(c, float, default, f"of {name}", low=low, below=below)
        for c, (default, low, below) in constants.items()
        if c != "dense"
    )
    for name, constants in OPTIMIZERS.items()
}
FIELDS: tuple[Field, ...] = (
    Field("consistency", str, "sync", "what a pull may miss and what is waited for",
          choices=("sync", "half_async", "async", "bounded", "geo")),
    Field("prefetch", int, 1, "batches whose rows are asked for ahead of their turn", low=0, high=1),
    Field("staleness", int, None, "bounded: steps by which the slowest trainer may trail the fastest; None: 2",
          low=0, none_ok=True),
    Field("merge_steps", int, None, "half_async: steps of a trainer whose rows go as one push; None: 2", low=1, none_ok=True),
    Field("k_steps", int, None, "geo: steps on local copies between two exchanges; None: 4", low=1, none_ok=True),
    Field("dense", str, None, "how dense parameters meet; None: allreduce with sync and async, else server",
          choices=("allreduce", "server"), none_ok=True),
    Field("pull_steps", int, None, "dense on servers: steps between two pulls of them; None: 1", low=1, none_ok=True),
    Field("row_optimizer", str, None, "None: the script's own; a name, or {'name': ..., constants}; rowwise_adagrad keeps one "
          "float of state a row", choices=tuple(OPTIMIZERS), none_ok=True, settings=_CONSTANTS),
    Field("weights", str, "float32", "how the servers store weights; 16 bits are rounded at random, so that small steps count in "
          "the mean", choices=WEIGHTS),
    Field("state", str, "float32", "how the servers store row state", choices=STATES),
    Field("wire", str, "float32", "how rows and their gradients travel between trainers and servers; 16 bits halve the bytes",
          choices=WEIGHTS),
    Field("when_full", str, "refuse", "what a server does at --server_memory: refuse new rows, which ends the job, or evict others",
          choices=("refuse", "evict")),
    Field("on_server_loss", str, None, "what a job with --server_restarts does when one is lost (docs/failure.md); None: rollback "
          "for sync and bounded, carry_on for the others", choices=("rollback", "carry_on"), none_ok=True),
)  # fmt: skip
CONFLICTS: dict[str, str] = {}

# Fields that one consistency obeys, and what they are unless they are set. merge_steps 2 halves what hot rows cost. k_steps: AUC of
# CTR-DNN minus one machine's, 2 trainers, 300,000 samples: 2: -0.002, 4: -0.005, 5: -0.006, 10: -0.007.
_IN_LOCKSTEP = ("sync", "async")  # async: its rows alone are asynchronous, unless dense is "server"
_OF_ONE: dict[str, tuple[str, int]] = {"staleness": ("bounded", 2), "merge_steps": ("half_async", 2), "k_steps": ("geo", 4)}


def complete(values: dict[str, Any], at: Callable[..., str]) -> dict[str, Any]:
    """Return the block with what its consistency implies filled in.

    Raises:
        ConfigError: a field is set that this consistency does not obey, or not in this way.
        StrategyConflict: dense parameters in lockstep, and trainers that shall not be.
    """
    consistency = values["consistency"]
    filled = dict(values)
    for field, (owner, default) in _OF_ONE.items():
        if consistency == owner and values[field] is None:
            filled[field] = default
        if consistency != owner and values[field] is not None:
            what = f"{NAME}.{field} says nothing to consistency {consistency!r}: only {owner!r} obeys it"
            raise ConfigError(what, at=at(field), fix=f"delete {field}, or set consistency to {owner!r}")
    if values["on_server_loss"] == "carry_on" and consistency in ("sync", "bounded"):
        what = f"{NAME}.on_server_loss carry_on with consistency {consistency!r}, which waits for steps: lost ones never come"
        fix = "take rollback, or a consistency that waits for no step"
        raise ConfigError(what, at=at("on_server_loss"), fix=fix)
    filled["dense"] = values["dense"] or ("allreduce" if consistency in _IN_LOCKSTEP else "server")
    if filled["dense"] == "allreduce" and consistency not in _IN_LOCKSTEP:
        what = f"{NAME}.dense 'allreduce' and consistency {consistency!r} exclude each other"
        why = "all-reduce makes every trainer wait for the others at each step"
        raise StrategyConflict(f"{what}: {why}", at=at("dense"), fix="set dense to 'server', or delete it")
    pulls = filled["dense"] == "server" and consistency != "geo"
    if pulls:
        filled["pull_steps"] = values["pull_steps"] or 1
    elif values["pull_steps"] is not None:
        why = "every k_steps all is exchanged" if consistency == "geo" else "nothing is pulled with dense 'allreduce'"
        raise ConfigError(f"{NAME}.pull_steps says nothing here: {why}", at=at("pull_steps"), fix="delete pull_steps")
    return filled
