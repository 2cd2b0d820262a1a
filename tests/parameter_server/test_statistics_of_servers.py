"""What servers count is what was asked of them; it comes by stats(), by the closing table, and as Prometheus text."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import kill_harness
import numpy as np
import pytest
from servers import Servers, spec
from several import clean_environ

from fleet.parameter_server import prometheus, report, service
from fleet.parameter_server.client import Client, RowGradient
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import LocalLink
from fleet.parameter_server.statistics import Histogram, Statistics

SAMPLE = re.compile(r'^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\})? (\S+)$')


def push(client: Client, table: Any, keys: Any) -> None:
    gradient = np.ones((len(keys), table.spec.dim), np.float32)
    (pulled,) = client.pull([(table, np.array(keys, np.uint64))], create=True).result()
    client.push([(table, RowGradient(pulled.keys, pulled.counts, gradient))], 0.1)


def parse(text: str) -> dict[str, dict[str, float]]:
    """Read the exposition format strictly: name -> labels -> value."""
    found: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif line.startswith("# HELP "):
            assert line.split(" ")[2] not in kinds  # before TYPE
        else:
            match = SAMPLE.match(line)
            assert match, line
            family = re.sub(r"_(bucket|sum|count)$", "", match[1]) if match[1] not in kinds else match[1]
            assert family in kinds, line
            assert (kinds[family] == "counter") == family.endswith("_total"), family
            assert match[2] not in found.setdefault(match[1], {}), line
            found[match[1]][match[2] or ""] = float(match[3])
    return found


def test_counts_are_what_was_asked(tmp_path: Path) -> None:
    with Servers(2, world_size=1) as servers:
        client = servers.client(mode="async")
        a, b = client.open(spec("a")), client.open(spec("b", dim=3))
        for _ in range(5):
            push(client, a, range(100))
        push(client, b, [1, 2])
        client.flush()
        found = report.of(client)
        assert found["tables"]["a"]["rows"] == 100 and found["tables"]["b"]["rows"] == 2
        assert [found["tables"]["a"][n] for n in ("pulls", "keys_pulled", "pushes", "keys_pushed")] == [5, 500, 5, 500]
        assert found["tables"]["b"]["keys_pushed"] == 2 and found["slow"] == []
        for server in found["servers"]:
            assert server["push"]["count"] >= 5 and server["pull"]["count"] == 6 and server["in_work"] == server["waiting"] == 0
            assert 0 < server["pull"]["p50_ms"] <= server["pull"]["p99_ms"] <= server["pull"]["max_ms"]
            assert server["trainers"]["0"]["behind"] == 0 and server["trainers"]["0"]["waited_for_s"] == 0.0
        lines = report.closing_table(found).splitlines()
        assert lines[1].split()[:2] == ["a", "100"] and [x.split()[:2] for x in lines[4:]] == [["server", "0"], ["server", "1"]]


def test_a_connection_that_ended_still_counts() -> None:
    statistics = Statistics(1)

    def serve() -> None:
        with statistics.pulling([(0, 7)]):
            pass

    for _ in range(20):
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
    assert statistics.total().pulls[0] == (20, 140) and statistics.total().pull.count == 20
    assert len(statistics._meters) <= 2


def test_a_request_that_failed_counts_nothing() -> None:
    statistics = Statistics(1)
    with pytest.raises(ValueError), statistics.pushing([(0, 7)]):
        raise ValueError
    assert statistics.total().pushes == {} and statistics.in_work() == (0, 0)


def test_quantiles_against_the_sorted_values() -> None:
    values = np.random.default_rng(0).lognormal(-7, 2, 5000)
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    for q in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = np.sort(values)[int(np.ceil(q * len(values))) - 1]
        assert exact <= histogram.quantile_s(q) * (1 + 1e-9) and histogram.quantile_s(q) <= max(exact * 2**0.25, 1e-6) * (1 + 1e-9)
    assert histogram.max_s == values.max() and histogram.count == len(values)
    edge = Histogram()
    for value in (0.0, 1e-9, 1e-6, 1e9):
        edge.add(value)
    assert edge.counts[0] == 3 and edge.counts[-1] == 1 and Histogram().quantile_s(0.5) == 0.0


def test_prometheus_text() -> None:
    name = 'odd "name"\\ of\na table'
    local = service.Service(0, 1, 1)
    client = Client([LocalLink(local, 1)], Mode("async", 0), 20)
    try:
        table = client.open(spec(name))
        push(client, table, range(10))
        client.flush()
        found = parse(prometheus.text(local.status(), local.statistics.total()))
    finally:
        client.close()
    labels = '{table="odd \\"name\\"\\\\ of\\na table",server="0"}'
    assert found["fleet_table_rows"] == {labels: 10} and found["fleet_table_keys_pushed_total"] == {labels: 10}
    buckets = list(found["fleet_server_push_seconds_bucket"].values())
    assert buckets == sorted(buckets) and buckets[-1] == found["fleet_server_push_seconds_count"]['{server="0"}'] == 1
    assert found["fleet_server_push_seconds_sum"]['{server="0"}'] > 0


JOB = """
import sys, urllib.request, numpy, paddle, fleet
fleet.init(strategy=fleet.DistributedStrategy(parameter_server={"consistency": "sync"}, batch="per_trainer"))
model = fleet.distributed_model(paddle.nn.Sequential(paddle.nn.Embedding(50, 4), paddle.nn.Linear(4, 1)))
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(0.01, parameters=model.parameters()))
for step in range(4):
    model(paddle.to_tensor([step, 7])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
found = fleet.parameter_server.stats()
assert found["tables"]["0"]["rows"] == 50 and found["servers"][1]["step"] >= 3, found
for k in (0, 1):
    with urllib.request.urlopen(f"http://127.0.0.1:{int(sys.argv[1]) + k}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        open(f"metrics-{k}", "wb").write(answer.read())
"""


def two_free_ports() -> int:
    """Return a port that is free, as is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def test_a_job_shows_them_everywhere(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    port = two_free_ports()
    run = kill_harness.start(["--trainer_num", "1", "--server_num", "2", "--device", "cpu", "--log_dir", "logs", "--metrics_port",
                              str(port), "job.py", str(port)], tmp_path)  # fmt: skip
    assert run.wait(60) == 0, run.err
    log = run.log("trainer-0")
    assert re.search(r"^0 +50 .*MB", log, re.M) and re.search(r"^server 1 .* / .* 0 steps$", log, re.M), log
    rows = sum(sum(parse((tmp_path / f"metrics-{k}").read_text())["fleet_table_rows"].values()) for k in (0, 1))
    assert rows == 50
    assert kill_harness.survivors_after(run, 3.0) == []


def test_only_the_metrics_are_served() -> None:
    port = prometheus.serve(0, lambda: "x 1\n", "here")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")
    with pytest.raises(Exception, match="cannot serve metrics"):
        prometheus.serve(port, lambda: "", "here")


@pytest.mark.parametrize("given, what", [(["--metrics_port", "70000", "--server_num", "1"], "from 1 to 65535"),
                                         (["--metrics_port", "9400"], "there is none")])  # fmt: skip
def test_wrong_ports(tmp_path: Path, given: list[str], what: str) -> None:
    (tmp_path / "job.py").write_text("")
    command = [sys.executable, "-m", "fleet.launch", *given, "--device", "cpu", "job.py"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=30, env=clean_environ())
    assert done.returncode == 64 and what in done.stderr
