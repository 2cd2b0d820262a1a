"""The forms in which a block may be written all mean the same, and a strategy survives a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import DistributedStrategy, config
from fleet.errors import ConfigError, StrategyConflict


def test_true_takes_the_defaults_and_a_dict_sets_fields() -> None:
    on = DistributedStrategy(parameter_server=True)
    assert on == DistributedStrategy(parameter_server={}) == DistributedStrategy(parameter_server={"consistency": "sync"})
    assert on.parameter_server == {"consistency": "sync", "prefetch": 1, "staleness": None, "merge_steps": None, "k_steps": None,
                                   "dense": "allreduce", "pull_steps": None, "row_optimizer": None,
                                   "weights": "float32", "state": "float32", "wire": "float32", "when_full": "refuse",
                                   "on_server_loss": None}  # fmt: skip
    assert on != DistributedStrategy(parameter_server={"consistency": "async"})


@pytest.mark.parametrize("off", [None, False])
def test_none_and_false_are_off(off: object) -> None:
    strategy = DistributedStrategy(parameter_server=off)
    assert strategy.parameter_server is None and strategy.is_set("parameter_server")
    assert strategy == DistributedStrategy() and not DistributedStrategy().is_set("parameter_server")


def test_the_form_of_paddle_distributed_fleet() -> None:
    strategy = DistributedStrategy()
    strategy.parameter_server = True
    strategy.parameter_server_configs = {"consistency": "async"}
    assert strategy.parameter_server["consistency"] == "async"
    assert strategy.parameter_server_configs == strategy.parameter_server
    with pytest.raises(ConfigError, match="must be a dict"):
        strategy.parameter_server_configs = True


def test_a_sync() -> None:
    strategy = DistributedStrategy()
    assert strategy.a_sync is False
    strategy.a_sync = True
    assert strategy.parameter_server["consistency"] == "async" and strategy.a_sync is True
    strategy.a_sync = False
    assert strategy.parameter_server["consistency"] == "sync" and strategy.a_sync is False
    strategy.a_sync_configs = {"k_steps": 0}
    for wrong in ({"k_steps": 1.5}, {"k_steps": -2}, {"k_steps": True}, {"max_merge_var_num": 1}, 3):
        with pytest.raises(ConfigError):
            strategy.a_sync_configs = wrong
    with pytest.raises(ConfigError):
        strategy.a_sync = 1


def test_a_file_fills_only_what_is_unset(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("strategy:\n  seed: 9\n  timeout_s: 5\n  parameter_server: {consistency: async, prefetch: 0}\n")
    strategy = DistributedStrategy(seed=1, parameter_server={"consistency": "sync"})
    strategy.fill_from(config.load_yaml(str(path)))
    assert (strategy.seed, strategy.timeout_s) == (1, 5)
    assert strategy.parameter_server["consistency"] == "sync" and strategy.parameter_server["prefetch"] == 1  # whole blocks


def test_an_off_block_is_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("strategy: {parameter_server: true}\n")
    strategy = DistributedStrategy(parameter_server=None)
    strategy.fill_from(config.load_yaml(str(path)))
    assert strategy.parameter_server is None


def test_to_a_file_and_back(tmp_path: Path) -> None:
    path = str(tmp_path / "fleet.yaml")
    strategy = DistributedStrategy(batch="per_trainer", timeout_s=2.5, buckets={"mb": 4}, parameter_server={"consistency": "async"})
    text = strategy.to_yaml(path)
    again = DistributedStrategy.from_yaml(path)
    assert again == strategy and hash(again) == hash(strategy) and again.to_yaml() == text and repr(again) == repr(strategy)
    assert DistributedStrategy.from_yaml(_written(tmp_path, "")).effective() == DistributedStrategy().effective()


def test_equal_strategies_have_equal_hashes() -> None:
    one, other = DistributedStrategy(seed=0), DistributedStrategy()
    assert one == other and hash(one) == hash(other)
    assert DistributedStrategy(seed=1, timeout_s=3) == DistributedStrategy(timeout_s=3, seed=1)
    assert hash(DistributedStrategy(seed=1, timeout_s=3)) == hash(DistributedStrategy(timeout_s=3, seed=1))


def test_a_block_is_changed_by_assignment_only() -> None:
    strategy = DistributedStrategy(parameter_server=True)
    with pytest.raises(TypeError):
        strategy.parameter_server["consistency"] = "whenever"  # past every check
    strategy.effective()["parameter_server"]["consistency"] = "whenever"
    assert strategy.parameter_server["consistency"] == "sync"


def test_a_sync_keeps_what_the_block_says_besides() -> None:
    strategy = DistributedStrategy(parameter_server={"prefetch": 0})
    strategy.a_sync = True
    assert strategy.parameter_server["prefetch"] == 0 and strategy.parameter_server["consistency"] == "async"


def _written(directory: Path, text: str) -> str:
    path = directory / "other.yaml"
    path.write_text(text)
    return str(path)


def test_a_sync_with_k_steps_is_geo() -> None:
    for first in ("a_sync", "a_sync_configs"):
        strategy = DistributedStrategy()
        for name in (first, "a_sync_configs" if first == "a_sync" else "a_sync"):
            setattr(strategy, name, True if name == "a_sync" else {"k_steps": 7})
        assert strategy.parameter_server["consistency"] == "geo" and strategy.parameter_server["k_steps"] == 7
        assert strategy.a_sync is True and strategy.a_sync_configs == {"k_steps": 7}
        with pytest.raises(StrategyConflict, match="a_sync=False asks for sync"):
            strategy.a_sync = False
        strategy.a_sync_configs = {"k_steps": -1}  # Paddle's "not set"
        assert strategy.parameter_server["consistency"] == "async" and strategy.a_sync_configs == {"k_steps": 0}
        strategy.a_sync = False
        assert strategy.parameter_server["consistency"] == "sync"
        with pytest.raises(StrategyConflict):
            strategy.a_sync_configs = {"k_steps": 7}


DENSE = {"sync": "allreduce", "async": "allreduce", "half_async": "server", "bounded": "server", "geo": "server"}


@pytest.mark.parametrize("consistency", DENSE)
def test_what_a_consistency_implies(consistency: str) -> None:
    block = DistributedStrategy(parameter_server={"consistency": consistency}).parameter_server
    assert block["dense"] == DENSE[consistency]
    set_for = {f for f in ("staleness", "merge_steps", "k_steps", "pull_steps") if block[f] is not None}
    assert set_for == {"half_async": {"merge_steps", "pull_steps"}, "bounded": {"staleness", "pull_steps"}, "geo": {"k_steps"}}.get(
        consistency, set()
    )
    if DENSE[consistency] == "server":
        with pytest.raises(StrategyConflict, match="all-reduce makes every trainer wait"):
            DistributedStrategy(parameter_server={"consistency": consistency, "dense": "allreduce"})


@pytest.mark.parametrize(
    "block",
    [
        {"staleness": 1}, {"consistency": "async", "merge_steps": 2}, {"consistency": "bounded", "k_steps": 5}, {"pull_steps": 2},
        {"consistency": "bounded", "staleness": -1}, {"consistency": "geo", "k_steps": 0}, {"consistency": "geo", "pull_steps": 2},
        {"consistency": "half_async", "merge_steps": 0}, {"consistency": "half_async", "pull_steps": 0},
        {"consistency": "bounded", "staleness": True}, {"consistency": "geo", "k_steps": 2.0},
    ],
)  # fmt: skip
def test_a_number_that_is_wrong_or_that_nobody_obeys(block: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        DistributedStrategy(parameter_server=block)
    field = next(name for name in block if name != "consistency")
    assert caught.value.at == f"DistributedStrategy.parameter_server.{field}" and field in caught.value.what
