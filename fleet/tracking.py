"""Where a run's numbers are kept: TensorBoard, VisualDL, MLflow, or the user's own.

A tracker has three calls, made from one process (trainer 0, or the driver of a fan-out), from one thread at a time::

    begin(name, params)      a run begins; params: {"lr": 0.1, ...}. Only this imports the tracker's package
    log(step, metrics)       its numbers at a step: {"loss": 0.3, ...}
    end(status)              "finished", "failed" or "stopped"
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from fleet.errors import ConfigError

FLUSH_S = 1.0  # MLflow: one request a second holds up nobody
FLUSH_METRICS = 500  # its limit is 1000 a request
LONGEST_PARAM = 500  # characters, MLflow's oldest limit
END_S = 30.0  # for a tracker that is still writing as the job ends


class Tracker(Protocol):
    """Keeps the numbers of a run."""

    def begin(self, name: str, params: Mapping[str, Any]) -> None:
        """Begin a run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the numbers of a step."""

    def end(self, status: str) -> None:
        """End the run."""


class TensorBoard:
    """Writes event files for TensorBoard, to ``directory/NAME``. Needs the package ``tensorboard`` (not TensorFlow, not torch).

    Raises:
        ConfigError: in ``begin``: ``tensorboard`` is not installed.
    """

    def __init__(self, directory: str = "runs") -> None:
        self._directory = directory
        self._event: Any = None
        self._summary: Any = None
        self._writer: Any = None

    def begin(self, name: str, params: Mapping[str, Any]) -> None:
        """Open the run's event file; the params are one text."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise _missing("tensorboard", error) from None
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(os.path.join(self._directory, name))
        if params:
            rows = "\n".join(f"| {key} | {value} |" for key, value in params.items())
            text = self._summary.Value(tag="params")
            text.metadata.plugin_data.plugin_name = "text"
            text.tensor.dtype = 7  # DT_STRING
            text.tensor.string_val.append(f"| param | value |\n|---|---|\n{rows}".encode())
            self._add(0, [text])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar a metric."""
        self._add(step, [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()])

    def end(self, status: str) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))


class VisualDL:
    """Writes VisualDL's log files, to ``directory/NAME``. Needs the package ``visualdl``.

    Raises:
        ConfigError: in ``begin``: ``visualdl`` is not installed.
    """

    def __init__(self, directory: str = "runs") -> None:
        self._directory = directory
        self._writer: Any = None

    def begin(self, name: str, params: Mapping[str, Any]) -> None:
        """Open the run's log; the params are one text."""
        try:
            from visualdl import LogWriter
        except ImportError as error:
            raise _missing("visualdl", error) from None
        self._writer = LogWriter(logdir=os.path.join(self._directory, name))
        if params:
            self._writer.add_text("params", "\n".join(f"{key}: {value}" for key, value in params.items()), 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(tag=name, value=value, step=step)

    def end(self, status: str) -> None:
        """Close the log."""
        self._writer.close()


class MLflow:
    """Keeps a run in MLflow. Needs the package ``mlflow`` (``mlflow-skinny`` is enough for a server).

    MLflow's own active run is of a thread, and not touched here: everything goes through a client and the run's id.

    Args:
        uri: of the tracking store; None takes MLFLOW_TRACKING_URI, else MLflow's default (3.x: sqlite:///mlflow.db).
        experiment: made if it is not there.
        tags: of the run.

    Raises:
        ConfigError: in ``begin``: ``mlflow`` is not installed, or the store cannot be used.
    """

    def __init__(self, uri: str | None = None, experiment: str = "fleet", tags: Mapping[str, str] | None = None) -> None:
        self._uri, self._experiment, self._tags = uri, experiment, dict(tags or {})
        self.run_id = ""  # known from begin on
        self._client: Any = None
        self._metric: Any = None
        self._kept: list[Any] = []
        self._flushed_at = time.monotonic()

    def begin(self, name: str, params: Mapping[str, Any]) -> None:
        """Create the run."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its import is what would start it
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise _missing("mlflow", error) from None
        self._metric = Metric
        try:
            self._client = MlflowClient(tracking_uri=self._uri)
            found = self._client.get_experiment_by_name(self._experiment)
            number = found.experiment_id if found is not None else self._client.create_experiment(self._experiment)
            self.run_id = self._client.create_run(number, run_name=name, tags=self._tags).info.run_id
            given = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in params.items()]
            for start in range(0, len(given), 100):  # its limit a request
                self._client.log_batch(self.run_id, params=given[start : start + 100])
        except Exception as error:  # whatever a store does not like
            raise _refused(self._uri, error) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the numbers, and send what was kept once a second."""
        at = int(time.time() * 1000)
        self._kept += [self._metric(name, value, at, step) for name, value in metrics.items()]
        if len(self._kept) >= FLUSH_METRICS or time.monotonic() - self._flushed_at >= FLUSH_S:
            self._flush()

    def end(self, status: str) -> None:
        """Send the rest and end the run."""
        self._flush()
        self._client.set_terminated(self.run_id, {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))

    def _flush(self) -> None:
        kept, self._kept, self._flushed_at = self._kept, [], time.monotonic()
        for start in range(0, len(kept), FLUSH_METRICS):
            self._client.log_batch(self.run_id, metrics=kept[start : start + FLUSH_METRICS])


class Courier:
    """Carries numbers to a tracker in a thread of its own, so that a slow one holds up nobody. ``close`` joins it.

    Args:
        warn: told once what the tracker raised; it is asked for nothing any more.
    """

    def __init__(self, tracker: Tracker, warn: Any) -> None:
        self._tracker, self._warn = tracker, warn
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._carry, name="fleet-tracker", daemon=True)
        self._thread.start()

    def give(self, step: int, metrics: dict[str, float]) -> None:
        """Queue the numbers of a step; never waits."""
        self._queue.put((step, metrics))

    def close(self, status: str) -> None:
        """End the run, behind everything that was given."""
        self._queue.put(status)
        self._thread.join(END_S)
        if self._thread.is_alive():
            self._warn(f"{type(self._tracker).__name__} did not take the last numbers within {END_S:.0f} s: they are lost")

    def _carry(self) -> None:
        works = True
        while True:
            given = self._queue.get()
            try:
                if isinstance(given, str):
                    if works:
                        self._tracker.end(given)
                    return
                if works:
                    self._tracker.log(*given)
            except Exception as error:  # noqa: BLE001 - a tracker's failure is no reason to end a training; it is said
                works = False
                self._warn(f"{type(self._tracker).__name__} failed, and gets no more numbers: {type(error).__name__}: {error}")
                if isinstance(given, str):
                    return


def _missing(package: str, error: ImportError) -> ConfigError:
    what = f"the package {package} is not installed ({error})"
    return ConfigError(what, at=f"fleet.tracking, {package}", fix=f"pip install {package}, or leave this tracker out")


def _refused(uri: str | None, error: Exception) -> ConfigError:
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    fix = 'give a server\'s address or uri="sqlite:///mlflow.db"; MLflow 3 refuses plain directories'
    return ConfigError(f"MLflow's store {uri or '(its default)'} cannot be used: {words}", at="fleet.tracking.MLflow", fix=fix)
