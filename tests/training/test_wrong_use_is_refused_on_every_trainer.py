"""What makes no sense ends in an error of the right type, with place and remedy, on every trainer, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOGETHER = {  # two trainers, no server
    "never_shared": ("ConfigError", 'batch="per_trainer"', "distributed_loader"),
    "strategies_differ": ("ConfigError", "seed", "give every trainer the same strategy"),
    "modes_differ": ("ConfigError", "parameter_server", "give every trainer the same strategy"),
    "models_differ": ("ConfigError", "words.weight", "trainer"),
    "second_model": ("ConfigError", "a second model",),
    "second_optimizer": ("ConfigError", "a second optimizer"),
    "second_init": ("ConfigError", "called twice"),
    "second_strategy": ("StrategyConflict", "seed=2", "seed=1"),
    "late_strategy": ("StrategyConflict", "too late", "fleet.init()"),
    "changed_strategy": ("StrategyConflict", "seed=2", "seed=1"),
    "no_strategy_object": ("ConfigError", "got dict", "DistributedStrategy"),
    "no_model": ("ConfigError", "not a paddle.nn.Layer: str"),
    "no_optimizer": ("ConfigError", "not a Paddle optimizer: str"),
    "tables_without_servers": ("ConfigError", "there is no server", "--server_num 1"),
    "tables_without_model": ("ConfigError", "needs to know the model", "distributed_model"),
    "table_without_block": ("ConfigError", "no parameter_server block", "parameter_server="),
}  # fmt: skip
ALONE = {  # one trainer with its tables in its own process
    "lamb": ("ConfigError", "Lamb", "row_optimizer"),
    "l1_decay": ("ConfigError", "L1Decay", "leave weight_decay unset"),
    "grad_clip": ("ConfigError", "norm of the whole gradient", "leave grad_clip unset"),
    "groups": ("ConfigError", "parameter groups", "one list"),
    "amsgrad": ("ConfigError", "amsgrad",),
    "ids_of_a_linear": ("ConfigError", "Linear, which has no table"),
    "ids_of_no_field": ("ConfigError", "no field 'wrods'", "'words'"),
    "ids_by_a_function_of_nothing": ("ConfigError", "returned a NoneType"),
    "ids_a_list": ("ConfigError", "got list"),
}  # fmt: skip


def check(found: str, expected: tuple[str, ...], case: str) -> None:
    assert found.startswith(f"{expected[0]}: "), (case, found)
    assert all(words in found for words in expected[1:]) and "at:" in found and "fix:" in found, (case, found)


def test_on_two_trainers(play: Callable[..., Any]) -> None:
    for case, expected in TOGETHER.items():
        for found in play("raised", case=case):
            check(found, expected, case)


def test_with_tables(play: Callable[..., Any]) -> None:
    for case, expected in ALONE.items():
        check(play("raised", trainers=1, case=case)[0], expected, case)


def test_servers_that_the_strategy_does_not_want(play: Callable[..., Any]) -> None:
    for found in play("raised", servers=1, case="servers_but_off"):
        check(found, ("ConfigError", "servers were started", "start no servers"), "servers_but_off")


def test_equal_strategies_are_one(play: Callable[..., Any]) -> None:
    for found in play("equal_strategies"):
        assert (found["seed"], found["batch"]) == (5, "per_trainer")
