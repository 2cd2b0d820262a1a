"""``fleet.parameter_server.stats()`` and the closing table of a job, from inside a trainer."""

from __future__ import annotations

from typing import Any

from fleet.errors import ConfigError
from fleet.parameter_server.client import Client
from fleet.parameter_server.statistics import combine
from fleet.runtime import current


def stats() -> dict[str, Any]:
    """Return what the servers count, now. Any trainer may call it at any time; it is no collective.

    Returns ``{"tables": {name: counters}, "servers": [...], "slow": [...]}``: counters added up over servers, each server's
    own with its latencies in milliseconds, and servers and trainers that are slower than the others, in words. Fields:
    ``docs/statistics.md``.

    Cost: one small message to each server, behind what this trainer has asked for before.

    Raises:
        ConfigError: no table is open in this process.
        PeerLost: a server died.

    Example:
        >>> fleet.parameter_server.stats()["tables"]["embedding"]["rows"]
        200003
    """
    tables = current("fleet.parameter_server.stats()").tables
    if tables is None:
        fix = "call it after distributed_optimizer, in a job whose strategy has a parameter_server block"
        raise ConfigError("there are no tables", at="fleet.parameter_server.stats()", fix=fix)
    found: dict[str, Any] = tables.stats()
    return found


def of(client: Client) -> dict[str, Any]:
    """Return the statistics of all servers of a client."""
    servers = client.status()
    for status, median_s in zip(servers, client.round_trips.medians_s(), strict=True):
        status["round_trip_ms"] = round(1e3 * median_s, 3)
    # Every server judges the trainers, each in words of its own: a trainer is named once.
    trainers = {s["slow_trainer"].partition(" is ")[0]: s["slow_trainer"] for s in reversed(servers) if s["slow_trainer"]}
    slow = [*client.round_trips.slow.values(), *trainers.values()]
    return {"tables": combine(servers), "servers": servers, "slow": slow}


def closing_table(found: dict[str, Any]) -> str:
    """Return what trainer 0 prints at the end: a line a table, a line a server, and who was slow."""
    lines = [f"{'table':24}{'rows':>14}{'memory':>12}{'pulls':>10}{'pushes':>10}{'admitted':>12}{'evicted':>12}"]
    for name, c in found["tables"].items():
        life = f"{c['admitted']:>12,}{c['evicted']:>12,}"
        lines.append(f"{name:24}{c['rows']:>14,}{c['bytes'] / 1e6:>9,.1f} MB{c['pulls']:>10,}{c['pushes']:>10,}{life}")
    lines.append(f"{'ms: p50 / p99 / max':24}{'pull':>26}{'push':>26}{'wait for trainers':>26}{'staleness':>12}")
    for status in found["servers"]:
        cells = "".join(f"{_latency(status[name]):>26}" for name in ("pull", "push", "wait"))
        stale = "not counted" if status["staleness"] is None else f"{status['staleness']} steps"
        lines.append(f"server {status['server']:<17}{cells}{stale:>12}")
    return "\n".join(lines + [f"slow: {text}" for text in found["slow"]])


def _latency(summary: dict[str, float]) -> str:
    return f"{summary['p50_ms']:.2f} / {summary['p99_ms']:.2f} / {summary['max_ms']:.1f}" if summary["count"] else "-"
