"""One trainer's use of the tables: batches announced ahead, gradients in hand, steps.

``sync``: an announced batch is asked for right behind the push of the step before it, so its rows miss nothing.
Else with ``prefetch=1`` it is asked for at once, under the compute of the batch before: its rows miss that batch's push.
``half_async`` adds up the rows' gradients of several steps before it pushes them as one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet import env, logger, recovery, timeline
from fleet.errors import ConfigError, FleetError
from fleet.parameter_server import native, report, sightings
from fleet.parameter_server.announced import Announced, Gathered, Ids
from fleet.parameter_server.client import Client, Pulled, RowGradient, Table
from fleet.parameter_server.consistency.mode import Mode
from fleet.parameter_server.link import Link, LocalLink, SocketLink
from fleet.parameter_server.local_copies import LocalCopies
from fleet.parameter_server.service import Service
from fleet.parameter_server.spec import TableSpec
from fleet.parameter_server.tables import Keys, Values
from fleet.runtime import Runtime


class Session:
    """The tables of a job, from inside one trainer.

    Args:
        block: ``parameter_server`` of the strategy, complete.
        incarnation: larger each time this trainer starts.
    """

    def __init__(self, runtime: Runtime, block: dict[str, Any], incarnation: int) -> None:
        self.core = native.load()
        self._runtime, self._prefetch = runtime, int(block["prefetch"])
        self._mode = Mode(str(block["consistency"]), int(block["staleness"] or 0), str(block["when_full"]))
        self._merge_steps = int(block["merge_steps"] or 1)
        self._local = self._mode.name == "geo"  # steps are taken on copies of this trainer's own
        self.client = self._client(_links(runtime, incarnation, block), block)
        self._announced: list[Announced] = []
        self._gradients: dict[str, list[Gathered]] = {}  # table name -> of each backward since clear
        self._handed_in: list[tuple[Table, RowGradient]] = []  # of this step: dense parameters, never merged
        self._unsent: dict[str, list[RowGradient]] = {}  # half_async: of the steps that are to go as one push
        self._num_unsent, self._rate = 0, 0.0  # steps in it, learning rate of the newest
        self._uncounted = 0  # steps since the last push
        self._warned = False
        self._said_slow: set[bytes] = set()
        self.client.on_slow = lambda text: runtime.tell("slow server", text.encode())  # trainer 0 says it, once
        if runtime.role.rank == 0:
            runtime.listen("slow server", self._say_slow)
        runtime.closers.append(self._close)
        runtime.forgetters.append(self.client.forget)

    @property
    def evicts_when_full(self) -> bool:
        """Return whether servers evict rows at their memory limit; else new rows are refused."""
        return self._mode.when_full == "evict"

    def open(self, spec: TableSpec, rate: float = 1.0, merged: bool = True) -> Table:
        """Open a table on all servers; its rows learn at ``rate`` times the optimizer's learning rate.

        ``merged``: half_async merges its pushes; not those that are handed in.
        """
        return self.client.open(self._by_parts(spec, merged), rate)

    @property
    def weight(self) -> float:
        """Return how much of the global batch this trainer's part is, 0 for an empty part; on its own copies it is the whole."""
        share = self._runtime.share
        if self._local:
            return float(share is None or share.num_samples > 0)
        return 1 / self._runtime.role.world_size if share is None else share.num_samples / share.num_global

    def announce(self, ids: Mapping[str, Ids | list[Ids]], create: bool) -> None:
        """Take the ids of a coming batch: table name -> uint64[n], repeats included, or a list of its fields' ids."""
        if self._prefetch == 0 or not ids:
            return
        self._announced = [*self._announced[-1:], Announced(ids, create)]  # the batch in hand and the next
        if not self._mode.in_order:
            self._ask(self._announced[-1], ahead=len(self._announced) - 1)

    def rows(self, table: Table, ids: Ids, create: bool) -> Pulled:
        """Return the rows of a batch's ids; waits for them if they were announced, else asks now."""
        name = table.spec.name
        for batch in self._announced:
            place = batch.holds(name, ids)
            if place is not None:
                if batch.answer is None:
                    self._ask(batch)
                batch.used = True
                return batch.rows(name, place)
        if self._announced and any(name in b.ids for b in self._announced) and not self._warned:
            self._warned = True
            logger.warning(f"table {name!r}: other ids than the loader announced are pulled on the spot, which is slower")
        self._send_before_reading(create)
        return self.client.pull([(table, ids)], create).result()[0]

    def collect(self, table: Table, pulled: Pulled, gradient: Values, bags: Any = None, clicks: Any = None) -> None:
        """Take the gradient of a look-up's rows, ``float32[n, dim]``, or ``[num_bags, dim]`` of its pooling.Bags.

        ``clicks``, ``bool[n]``, are those of the ids, if the table's life counts them.
        """
        scale, began = self.weight, timeline.now()
        if scale == 0 or not len(pulled.keys):
            return  # an empty part of a batch: computed on a borrowed sample, counts nothing
        # Merged per key, weighted by the trainer's share; the server refuses NaN and infinity, with the table's name.
        parts = self._gradients.setdefault(table.spec.name, [])
        gathered = next((part for part in parts if part.takes(pulled, scale)), None)
        if gathered is None:
            gathered = Gathered(self.core, pulled, scale, table.spec.life.num_sightings)
            parts.append(gathered)
        gathered.add(pulled, gradient, bags, clicks)
        timeline.mark("encode", table.spec.name, began)

    def hand_in(self, table: Table, gradient: RowGradient) -> None:
        """Take a gradient that goes with this step's push, and with no later one."""
        self._handed_in.append((table, gradient))

    def unique(self, table: Table, keys: Keys) -> tuple[Keys, NDArray[np.uint32], NDArray[np.int64]]:
        """Return keys as a message has them: ``uint64[m]`` by server, the place of each key given, the number of each server."""
        made: tuple[Keys, NDArray[np.uint32], NDArray[np.int64]]
        made = self.core.Unique(table.spec.salt).unique(keys, self.client.server_of_shard, self.client.num_servers)
        return made

    def push(self, learning_rate: float) -> None:
        """Push the gradients in hand as one step (half_async: rows with those before them), and ask for the announced batch.

        Raises:
            PeerLost, TableError: an earlier push failed; the job cannot go on.
        """
        for name, parts in self._gradients.items():
            self._unsent.setdefault(name, []).extend(part.close() for part in parts)
        self._num_unsent, self._uncounted, self._rate = self._num_unsent + 1, self._uncounted + 1, learning_rate
        if self._num_unsent == self._merge_steps:
            self._send()
        elif self._handed_in:
            self._push([])
        self._announced = [batch for batch in self._announced if not batch.used]  # its rows would miss this push
        if self._mode.in_order:
            for batch in self._announced:
                self._ask(batch)

    def flush(self) -> None:
        """Return once the servers have taken every step so far; raises what went wrong."""
        self._send()
        self.client.flush()

    def read(self, table: Table, keys: Keys) -> Values:
        """Return the rows ``float32[n, dim]`` of keys, making none, after all steps so far."""
        self._send()
        return self.client.read(table, keys)

    def restart(self, step: int) -> None:
        """Go on at ``step`` after a snapshot was loaded; rows that were asked for before are forgotten."""
        self.client.restart(step)
        self._announced.clear()
        self._gradients.clear()
        self._handed_in = []
        self._unsent, self._num_unsent, self._uncounted = {}, 0, 0

    def clear(self) -> None:
        """Drop the gradients in hand, as clear_grad does with the dense ones."""
        self._gradients.clear()

    def view(self, address: int, count: int) -> Values:
        """Return foreign float32 memory as an array that owns nothing."""
        array: Values = self.core.as_array(address, count, "float32")
        return array

    def expand(self, pulled: Pulled, out: Values) -> None:
        """Write the row of every id to ``out``: float32[n, dim]."""
        self.core.expand(pulled.rows, pulled.inverse, out)

    def _ask(self, batch: Announced, ahead: int = 0) -> None:
        self._send_before_reading(batch.create)
        wanted = [(self.client.tables[name], ids) for name, ids in batch.ids.items()]
        batch.answer = self.client.pull(wanted, batch.create, ahead)

    def _send_before_reading(self, create: bool) -> None:
        """Send what was merged, unless the rows are asked for ahead and may miss it; an evaluation always sees its own steps."""
        if self._prefetch == 0 or not create:
            self._send()

    def _send(self) -> None:
        if self._num_unsent:
            tables, unsent = self.client.tables, self._unsent
            self._unsent, self._num_unsent = {}, 0
            self._push([(tables[name], self._sum(tables[name], parts)) for name, parts in unsent.items()])

    def _push(self, rows: list[tuple[Table, RowGradient]]) -> None:
        handed_in, steps = self._handed_in, self._uncounted
        self._handed_in, self._uncounted = [], 0
        self.client.push([*rows, *handed_in], self._rate, steps)

    def _client(self, links: list[Link], block: dict[str, Any]) -> Client:
        world_size, timeout_s = self._runtime.role.world_size, self._runtime.timeout_s
        if self._local:
            return LocalCopies(links, self._mode, timeout_s, int(block["k_steps"]), world_size, str(block["wire"]))
        return Client(links, self._mode, timeout_s, str(block["wire"]))

    @property
    def alone(self) -> bool:
        """Return whether the gradients that this trainer hands in are whole, and no part of a sum."""
        return self._local or self._runtime.role.world_size == 1

    def _say_slow(self, rank: int, text: bytes) -> None:
        server = text.split()[1]
        if server not in self._said_slow:
            self._said_slow.add(server)
            logger.warning(f"{text.decode()} (seen by trainer {rank})")

    @property
    def _asks_ahead(self) -> bool:
        """Return whether rows are asked for before the push of the step before them, and so miss it."""
        return self._prefetch == 1 and not self._mode.in_order

    def _by_parts(self, spec: TableSpec, merged: bool) -> TableSpec:
        """Return the spec for pushes that are each a trainer's part of the gradient, and not the sum over all."""
        if self.alone or self._mode.in_order:
            return spec
        hyper = dict(spec.hyper)
        if {"clip_min", "clip_max"} & set(hyper):
            what = f"ClipGradByValue with consistency {self._mode.name!r}: each trainer pushes a part of the gradient, and a part "
            fix = 'leave grad_clip unset, or take "sync", "bounded" with staleness 0, or "geo"'
            raise ConfigError(f"{what}clipped is not the gradient clipped", at=f"table {spec.name!r}", fix=fix)
        if "l2_decay" in hyper:  # once a step, however many pushes a step is
            steps = self._merge_steps if merged and self._asks_ahead else 1
            hyper["l2_decay"] *= steps / self._runtime.role.world_size
        return spec._replace(hyper=tuple(sorted(hyper.items())))

    def _close(self) -> None:
        try:
            self._send()
            if self._runtime.role.servers and self._runtime.role.rank == 0 and not hasattr(sys, "last_type"):  # not after an error
                print(report.closing_table(report.of(self.client)), flush=True)
        except FleetError as error:  # the job is over either way; the cause was raised where it could be
            logger.warning(f"the last steps were not pushed: {error}")
        self.client.close()

    def _sum(self, table: Table, parts: list[RowGradient]) -> RowGradient:
        """Add several backwards' gradients of one table (micro-steps, or an embedding used in several places)."""
        if len(parts) == 1:
            return parts[0]
        keys: Keys
        keys, values = self.core.merge_pushes([(p.keys, p.values) for p in parts])
        unique = self.core.Unique(table.spec.salt)
        ordered, inverse, counts = unique.unique(keys, self.client.server_of_shard, len(parts[0].counts))
        by_key = np.empty_like(values)
        by_key[inverse] = values
        seen = sightings.merged(self.core, [(p.keys, p.sightings) for p in parts])
        if seen is not None:
            seen[:, inverse] = seen.copy()
        return RowGradient(ordered, counts, by_key, seen)


def _links(runtime: Runtime, incarnation: int, block: dict[str, Any]) -> list[Link]:
    role = runtime.role
    returns = recovery.restarts("server") and block["on_server_loss"] == "carry_on"
    return_s = runtime.timeout_s if returns else 0.0
    if role.servers:
        secret = env.get("FLEET_SECRET")
        if not secret:
            fix = "start the job with python -m fleet.launch, or set the same FLEET_SECRET for servers and trainers"
            raise ConfigError("servers are given but no job secret", at="FLEET_SECRET", fix=fix)
        num_servers, job = len(role.servers), _number_of_job(runtime)
        links = [
            SocketLink(address, i, secret, role.rank, incarnation, runtime.timeout_s, num_servers, return_s, job)
            for i, address in enumerate(role.servers)
        ]
        _agree_on_servers(runtime, links)
        return [*links]
    if role.world_size > 1:
        raise ConfigError(
            f"parameter_server is asked for, {role.world_size} trainers run, and there is no server",
            at="strategy.parameter_server",
            fix="start servers too: python -m fleet.launch --server_num 1 --trainer_num 2 ...",
        )
    return [LocalLink(Service(0, 1, 1), incarnation)]


def _number_of_job(runtime: Runtime) -> int:
    """Return a number that no other job has: the same on all trainers, and for one that is started again."""
    run_id = env.get("FLEET_RUN_ID").encode() or runtime.meet("number of the job", os.urandom(16))[0]
    return int.from_bytes(hashlib.blake2b(run_id, digest_size=7).digest(), "little")


def _agree_on_servers(runtime: Runtime, links: list[SocketLink]) -> None:
    """Check that all trainers speak with the same processes: two that claim one index would each hold half of the updates.

    Raises:
        ConfigError: they do not; every trainer raises.
    """
    lives = [link.life for link in links]
    for other, payload in enumerate(runtime.meet("agreement on the servers", json.dumps(lives).encode())):
        for server, (mine, theirs) in enumerate(zip(lives, json.loads(payload), strict=True)):
            if mine != theirs:
                what = f"two processes claim to be server {server}: trainer {other} speaks with another one than trainer"
                fix = "list the same servers in the same order everywhere, and start each of them once"
                raise ConfigError(f"{what} {runtime.role.rank}", at="FLEET_SERVERS", fix=fix)
