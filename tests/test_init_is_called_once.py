"""A second init is refused; shutdown may be called twice; after it the process may join again."""

from __future__ import annotations

import pytest
from several import alone

import fleet
from fleet import DistributedStrategy
from fleet.errors import ConfigError, StrategyConflict


def test_a_second_init() -> None:
    done = alone("""
        import fleet
        fleet.init()
        try:
            fleet.init()
        except fleet.errors.ConfigError as error:
            assert "twice" in error.what and error.at == "fleet.init()"
        assert fleet.is_initialized() and fleet.rank() == 0 and fleet.world_size() == 1
        fleet.shutdown()
        fleet.shutdown()
        assert not fleet.is_initialized()
        fleet.init()
    """)
    assert done.status == 0, done.err


@pytest.mark.parametrize("wrong", [{"amp": True}, "strategy.yaml", True])
def test_a_strategy_that_is_none(wrong: object) -> None:
    with pytest.raises(ConfigError, match="must be a fleet.DistributedStrategy"):
        fleet.init(strategy=wrong)  # type: ignore[arg-type]
    assert not fleet.is_initialized()


def test_is_collective_means_a_batch_per_trainer() -> None:
    from fleet import training

    for given, want in (
        (None, "per_trainer"),
        (DistributedStrategy(batch="global"), "global"),
        (DistributedStrategy(seed=3), "per_trainer"),
    ):
        fleet.init(is_collective=True, strategy=given)
        try:
            assert training.job("test").strategy().batch == want
        finally:
            fleet.shutdown()


def test_a_second_different_strategy() -> None:
    from fleet import runtime

    fleet.init(strategy=DistributedStrategy(seed=1))
    try:
        mine = runtime.current("test")
        assert mine.agree_strategy(DistributedStrategy(seed=1)) == DistributedStrategy(seed=1)
        assert mine.agree_strategy(None) == DistributedStrategy(seed=1)
        with pytest.raises(StrategyConflict, match="a second, different strategy"):
            mine.agree_strategy(DistributedStrategy(seed=2))
    finally:
        fleet.shutdown()


def test_two_trainers_without_a_meeting_point() -> None:
    done = alone("import fleet; fleet.init()", RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    assert done.status == 1 and "no meeting point" in done.err and "python -m fleet.launch" in done.err


def test_trainers_on_several_nodes() -> None:
    two_nodes = {
        "RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }
    done = alone("import fleet; fleet.init()", **two_nodes)
    assert done.status == 1 and "several nodes are not in this version" in done.err
