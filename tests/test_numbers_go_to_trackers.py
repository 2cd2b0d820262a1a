"""fleet.log_to: a tracker gets each step's means once, beside a training that it never holds up; a package that lacks is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from several import Done, alone, trainers

OWN = """
    import json, time
    class Mine:
        kept = []
        def begin(self, name, params): self.kept.append([name, params])
        def log(self, step, metrics): self.kept.append([step, {k: v for k, v in metrics.items() if not k.startswith("fleet/")}])
        def end(self, status): print(json.dumps([*self.kept, status]), flush=True)
"""


def own(done: Done) -> list[object]:
    found: list[object] = json.loads(next(line for line in done.out.splitlines() if line.startswith("[[")))
    return found


def test_means_of_every_step_and_the_end(tmp_path: Path) -> None:
    done = trainers(tmp_path, f"""{OWN}
    fleet.log_to(Mine(), name="mine", params={{"lr": 0.5}})
    for step in range(4):
        fleet.log(loss=step + 2 * fleet.rank())
        fleet.log(rate=0.5)  # one line in two calls is one step
        fleet.barrier()
    """.replace("fleet.log(rate=0.5)", "runtime.steps = step + 1; fleet.log(rate=0.5)")
      .replace("for step", "runtime = fleet.runtime.current('test')\n    for step")
      .replace("fleet.log(loss", "runtime.steps = step + 1; fleet.log(loss"), FLEET_PROGRESS="0")  # fmt: skip
    assert [d.status for d in done] == [0, 0], done
    assert done[1].out == ""
    expected = [[step + 1, {"loss": step + 1.0, "rate": 0.5}] for step in range(4)]
    assert own(done[0]) == [["mine", {"lr": 0.5}], *expected, "finished"]


@pytest.mark.parametrize("ending, status", [("1 / 0", "failed"), ("raise KeyboardInterrupt", "stopped")])
def test_how_the_script_ended(ending: str, status: str) -> None:
    done = alone(f"{OWN}\n    import fleet\n    fleet.init()\n    fleet.log_to(Mine(), 'x')\n    fleet.log(loss=1)\n    {ending}")
    assert done.status != 0 and own(done)[-1] == status


def test_a_tracker_that_is_slow() -> None:
    done = alone(f"""{OWN}
    import fleet
    class Slow(Mine):
        def log(self, step, metrics): time.sleep(0.1); super().log(step, metrics)
    fleet.init()
    fleet.log_to(Slow(), "slow")
    began = time.monotonic()
    for step in range(20): fleet.log(loss=step)
    assert time.monotonic() - began < 1
    """)  # fmt: skip
    assert done.status == 0 and len(own(done)) == 22, done  # all came, in the end


def test_a_tracker_that_fails() -> None:
    done = alone(f"""{OWN}
    import fleet
    class Full(Mine):
        def log(self, step, metrics): raise OSError("disk full")
    fleet.init()
    fleet.log_to(Full(), "full")
    for step in range(20): fleet.log(loss=step)
    print("went on")
    """)  # fmt: skip
    assert done.status == 0 and "went on" in done.out
    assert (done.out + done.err).count("Full failed, and gets no more numbers: OSError: disk full") == 1


@pytest.mark.parametrize("what", ["object()", "'tensorboard'", "fleet.tracking.TensorBoard"])
def test_what_is_no_tracker(what: str) -> None:
    done = alone(f"import fleet\nfleet.init()\nfleet.log_to({what})")
    assert done.status == 1 and "not a tracker" in done.err and "fix:" in done.err


@pytest.mark.parametrize("name, package", [("TensorBoard", "tensorboard"), ("VisualDL", "visualdl"), ("MLflow", "mlflow")])
def test_a_package_that_is_missing(name: str, package: str) -> None:
    done = alone(f"import sys; sys.modules[{package!r}] = None\nimport fleet\nfleet.init()\nfleet.log_to(fleet.tracking.{name}())")
    assert done.status == 1 and f"the package {package} is not installed" in done.err and "fix:" in done.err


def test_the_others_load_no_tracker(tmp_path: Path) -> None:
    """An import of MLflow takes 400 MB: trainer 0's is enough."""
    done = trainers(tmp_path, """
        import sys
        if fleet.rank() == 1:
            sys.modules["tensorboard"] = None
            fleet.log_to(fleet.tracking.TensorBoard())
        fleet.barrier()  # who ends before another has joined leaves that one waiting
    """)  # fmt: skip
    assert [d.status for d in done] == [0, 0], done


SENDS = """
    import fleet
    fleet.init()
    fleet.log_to(fleet.tracking.{tracker}, "one", params={{"lr": 0.5, "model": "wide"}})
    for step in range(3): fleet.log(loss=step + 0.5)
"""


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = alone(SENDS.format(tracker=f"TensorBoard({str(tmp_path)!r})"))
    assert done.status == 0, done.err
    events = EventAccumulator(str(tmp_path / "one"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 1.5), (3, 2.5)]
    assert b"| lr | 0.5 |" in events.Tensors("params")[0].tensor_proto.string_val[0]


def test_visualdl(tmp_path: Path) -> None:
    pytest.importorskip("visualdl", reason="visualdl is not installed: pip install visualdl")
    done = alone(SENDS.format(tracker=f"VisualDL({str(tmp_path)!r})"), timeout_s=60)
    assert done.status == 0, done.err
    read = alone(f"""
        from visualdl import LogReader
        import glob, json
        reader = LogReader(file_path=glob.glob({str(tmp_path / "one")!r} + "/*.log")[0])
        print(json.dumps([[e.id, e.value] for e in reader.get_data("scalar", "loss")]))
    """, timeout_s=60)  # fmt: skip
    assert json.loads(read.out.splitlines()[-1]) == [[1, 0.5], [2, 1.5], [3, 2.5]], read.err


def test_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no store of its own: pip install mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done = alone(SENDS.format(tracker=f"MLflow({uri!r}, experiment='e')"), timeout_s=100)
    assert done.status == 0, done.err
    read = alone(f"""
        import json
        from mlflow import MlflowClient
        client = MlflowClient(tracking_uri={uri!r})
        (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
        loss = [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, "loss")]
        print(json.dumps([run.info.run_name, run.info.status, run.data.params, loss]))
    """, timeout_s=100)  # fmt: skip
    expected = ["one", "FINISHED", {"lr": "0.5", "model": "wide"}, [[1, 0.5], [2, 1.5], [3, 2.5]]]
    assert json.loads(read.out.splitlines()[-1]) == expected, read.err


def test_mlflow_refuses_a_plain_directory(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    if int(mlflow.__version__.split(".")[0]) < 3:
        pytest.skip("MLflow 2 takes a directory")
    done = alone(f"import fleet\nfleet.init()\nfleet.log_to(fleet.tracking.MLflow('file:{tmp_path}/runs'))", timeout_s=100)
    assert done.status == 1 and "MLflow's store" in done.err and "sqlite" in done.err


def test_the_module_itself_loads_no_tracker() -> None:
    done = alone("import fleet.tracking, sys; print({'tensorboard', 'visualdl', 'mlflow', 'numpy'} & set(sys.modules))")
    assert done.out.strip() == "set()", sys.version
