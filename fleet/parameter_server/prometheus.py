"""A server's counters for Prometheus, over HTTP on the loopback interface (``--metrics_port``).

Source: the text exposition format, version 0.0.4 (Prometheus documentation, "Exposition formats").
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fleet.errors import ConfigError
from fleet.parameter_server.statistics import PER_OCTAVE, Histogram, Meter, bucket_end_s

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[dict[str, Any], float]  # labels, value

# Key of a table in STATUS -> name, kind, help.
OF_TABLES = {
    "rows": ("fleet_table_rows", "gauge", "Rows that a server holds."),
    "bytes": ("fleet_table_memory_bytes", "gauge", "Memory behind the rows and their index."),
    "pulls": ("fleet_table_pulls_total", "counter", "Pulls that named the table."),
    "keys_pulled": ("fleet_table_keys_pulled_total", "counter", "Keys of these pulls."),
    "pushes": ("fleet_table_pushes_total", "counter", "Pushes that named the table."),
    "keys_pushed": ("fleet_table_keys_pushed_total", "counter", "Keys of these pushes."),
    "waiting": ("fleet_table_ids_waiting", "gauge", "Ids that were seen and have no row yet."),
    "admitted": ("fleet_table_rows_admitted_total", "counter", "Ids that earned a row."),
    "evicted": ("fleet_table_rows_evicted_total", "counter", "Rows that were lost again."),
    "dropped": ("fleet_table_gradients_dropped_total", "counter", "Gradients of ids without a row."),
}


def text(status: dict[str, Any], total: Meter) -> str:
    """Return a server's metrics.

    Args:
        status: what STATUS answers.
        total: the sum of its threads' meters.
    """
    server = {"server": status["server"]}
    lines: list[str] = []
    for key, (name, kind, about) in OF_TABLES.items():
        lines += _metric(name, kind, about, [({"table": t, **server}, c[key]) for t, c in status["tables"].items() if key in c])
    lines += _metric("fleet_server_step", "gauge", "Steps applied.", [(server, status["step"])])
    lines += _metric("fleet_server_requests_in_work", "gauge", "Requests that are being served.", [(server, status["in_work"])])
    lines += _metric("fleet_server_pulls_waiting", "gauge", "Pulls that wait for trainers.", [(server, status["waiting"])])
    if status["staleness"] is not None:
        about = "Largest staleness of an answered pull, in steps."
        lines += _metric("fleet_server_staleness_steps", "gauge", about, [(server, status["staleness"])])
    trainers = [({"trainer": t, **server}, about) for t, about in status["trainers"].items()]
    lines += _metric("fleet_trainer_step", "gauge", "Newest step that a trainer pushed.", [(w, a["step"]) for w, a in trainers])
    about = "Time that other trainers' pulls waited for this trainer."
    lines += _metric("fleet_trainer_waited_for_seconds_total", "counter", about, [(w, a["waited_for_s"]) for w, a in trainers])
    for name, histogram, about in (("pull", total.pull, "Work of a pull, without waiting for trainers."),
                                   ("push", total.push, "Work of a push."),
                                   ("wait", total.wait, "How long a pull waited for trainers.")):  # fmt: skip
        lines += _histogram(f"fleet_server_{name}_seconds", about, server, histogram)
    return "\n".join(lines) + "\n"


def serve(port: int, source: Callable[[], str], at: str) -> int:
    """Serve ``source()`` as /metrics on 127.0.0.1 for as long as the process lives; return the port.

    Raises:
        ConfigError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # of a client that says nothing

        def do_GET(self) -> None:
            if self.path.split("?")[0] != "/metrics":
                self.send_error(404, "the metrics are at /metrics")
                return
            body = source().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:  # a scrape every few seconds is no news
            pass

    try:
        http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        fix = "give another --metrics_port: server k takes that port + k"
        raise ConfigError(f"cannot serve metrics on 127.0.0.1:{port}: {error}", at=at, fix=fix) from None
    # Joined by nobody: it ends with the process.
    threading.Thread(target=http.serve_forever, name="fleet-metrics", daemon=True).start()
    return int(http.server_address[1])


def _metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *lines] if lines else []


def _histogram(name: str, about: str, labels: dict[str, Any], histogram: Histogram) -> list[str]:
    """Return cumulative buckets, one per factor of two."""
    lines, below = [f"# HELP {name} {about}", f"# TYPE {name} histogram"], 0
    counts = list(histogram.counts)
    for bucket, count in enumerate(counts[:-1]):
        below += count
        if bucket % PER_OCTAVE == 0:
            lines.append(f"{name}_bucket{_labels({**labels, 'le': f'{bucket_end_s(bucket):.6g}'})} {below}")
    total = sum(counts)
    lines.append(f"{name}_bucket{_labels({**labels, 'le': '+Inf'})} {total}")
    return [*lines, f"{name}_sum{_labels(labels)} {_number(histogram.sum_s)}", f"{name}_count{_labels(labels)} {total}"]


def _labels(labels: dict[str, Any]) -> str:
    escaped = (str(v).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for v in labels.values())
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(labels, escaped, strict=True)) + "}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
