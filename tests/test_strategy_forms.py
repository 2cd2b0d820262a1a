"""The forms in which a block may be written all mean the same, and a strategy survives a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import DistributedStrategy, config
from fleet.errors import ConfigError


def test_true_takes_the_defaults_and_a_dict_sets_fields() -> None:
    on = DistributedStrategy(parameter_server=True)
    assert on == DistributedStrategy(parameter_server={}) == DistributedStrategy(parameter_server={"consistency": "sync"})
    assert on.parameter_server == {"consistency": "sync", "prefetch": 1, "staleness": None, "merge_steps": None,
                                   "dense": "allreduce", "row_optimizer": None, "weights": "float32", "state": "float32",
                                   "when_full": "refuse",
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
    for wrong in ({"k_steps": 100}, {"k_steps": -1}, {"max_merge_var_num": 1}, 3):
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
