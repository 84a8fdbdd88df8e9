"""Rounds of violence against a gateway under load, and the books afterwards; what must hold is asserted here, once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from elkapi.ledger import ReconcileReport
from elkapi.ledger.recovery import open_holds
from elkapi.money import format_usd
from elkapi.testing.crash import NAMES
from tests.chaos.load import Load
from tests.cluster import (
    PER_CALL,
    PER_TOKEN,
    PER_TOKEN_DEAR,
    Cluster,
    Upstream,
    client,
    lives,
    port_is_free,
)
from tests.waiting import until

CALLERS = 24
SERVES_AGAIN_S = 90.0
REACHED_S = 90.0
# So long a successor that was told to crash in its recovery may find nothing to recover.
RECOVERED_S = 2.0
SETTLED_S = 60.0
CALM_S = 0.4
LARGE_NANO = 10**12
# Small enough to run dry during a run, so that refusals and exact fits occur under load.
SMALL_NANO = (30_000, 60_000, 120_000)
MODELS = (PER_TOKEN, PER_TOKEN_DEAR, PER_CALL)

# Short deadlines, heartbeats and cooldowns: what takes minutes in production has to happen many times in a minute here.
SETTINGS: dict[str, Any] = {
    "workers": 4,
    "heartbeat_s": 0.3,
    "heartbeat_lost_s": 5,
    "cooldown_s": 0.5,
    "cooldown_max_s": 4,
    "header_s": 2,
    "first_byte_s": 2,
    "idle_s": 2,
    "idempotency_wait_s": 10,
    "drain_s": 20,
}

LEDGER_POINTS = tuple(name for name in NAMES if name.startswith("ledger."))
RELAY_POINTS = tuple(name for name in NAMES if name.startswith("relay."))


class Chaos:
    """One run on one database; `seed` decides every choice the driver makes."""

    passes_max = 20

    def __init__(self, cluster: Cluster, load: Any, seed: int) -> None:
        self.cluster = cluster
        self.load = load  # A Load or a TaskLoad, which counts in the same words.
        self._random = random.Random(seed)
        self._menu: list[str] = []
        self.history: list[str] = []

    def _acts(self) -> list[str]:
        own_ledger = self.cluster.has_ledger_process
        roles = ["worker", "models", "control", "sandbox", *(["ledger"] if own_ledger else [])]
        # The ledger's socket exists only where there is a ledger process.
        points = [p for p in (*RELAY_POINTS, *LEDGER_POINTS) if own_ledger or p != "ledger.server.before_reply"]
        return ["supervisor", *(f"kill {role}" for role in roles), *(f"point {name}" for name in points)]

    async def round(self) -> None:
        """One act, drawn without repetition until all had their turn; then wait until it serves again."""
        if not self._menu:
            self._menu = self._acts()
            self._random.shuffle(self._menu)
        act = self._menu.pop()
        started_s = time.monotonic()
        kind, _, what = act.partition(" ")
        if kind == "supervisor":
            await self._kill_supervisor()
        elif kind == "kill":
            await self._kill_role(what)
        else:
            await self._crash_at(what)
        await self._serves_again()
        self.history.append(f"{act} ({time.monotonic() - started_s:.1f} s)")
        await asyncio.sleep(self._random.random() * CALM_S)

    async def _kill_supervisor(self) -> None:
        children = list(self.cluster.children())
        self.load.supervisor_is_up = False
        self.cluster.kill_supervisor()
        await until(lambda: not any(map(lives, children)), 20, "the children end with their supervisor")
        # One that was just being started may take a moment to see that it is an orphan.
        await until(lambda: port_is_free(self.cluster.port), 20, "the port is free")
        self.cluster.start()
        await self.cluster.ready()
        self.load.supervisor_is_up = True

    async def _kill_role(self, role: str, victim: int | None = None) -> None:
        if victim is None:
            victim = self._random.choice(sorted(self.cluster.children(role)))
        self.cluster.kill(victim)
        await until(lambda: not lives(victim), 10, f"the {role} ended")

    def _role_at(self, point: str) -> str:
        """Whose code the point stands in."""
        return "ledger" if point.startswith("ledger.") and self.cluster.has_ledger_process else "worker"

    async def _crash_at(self, point: str) -> None:
        """Let the successor of a killed process die by itself at the point, at its first few passes."""
        role, is_recovery = self._role_at(point), "recover" in point
        passes = 1 if is_recovery else self._random.randint(1, self.passes_max)
        armed = await self._armed(role, f"{point}:{passes}")
        deadline_s, wait_s = time.monotonic() + REACHED_S, RECOVERED_S if is_recovery else REACHED_S
        while not await self._died(armed, wait_s):
            if not is_recovery or time.monotonic() > deadline_s:
                self.load.raise_failures()
                pytest.fail(f"{role} {armed} never came to {point}:{passes}; {self.load.summary()}", pytrace=False)
            # Recovery has work only when somebody left holds behind, and who was killed may have had none. Or the
            # machine is slow, and the successor had not come so far.
            wait_s += RECOVERED_S
            if role == "ledger":
                await self._kill_role("worker")
            else:
                armed = await self._armed(role, f"{point}:{passes}", armed)

    async def _armed(self, role: str, order: str, victim: int | None = None) -> int:
        """Kill a process (one of the role's at random); the pid of its successor, which has the order to crash."""
        self.cluster.crash_order.write_text(order, "ascii")
        await self._kill_role(role, victim)
        await until(lambda: not self.cluster.crash_order.exists(), SERVES_AGAIN_S, "the order to crash was taken")
        (taken,) = self.cluster.folder.glob("crash.*")
        taken.rename(taken.with_name("crashed"))
        return int(taken.suffix[1:])

    async def _died(self, pid: int, wait_s: float) -> bool:
        until_s = time.monotonic() + wait_s
        while lives(pid):
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(0.05)
        return True

    async def _serves_again(self) -> None:
        """Every role is back, and calls succeed."""
        await until(self.cluster.is_complete, SERVES_AGAIN_S, "every role is back")
        before = self.load.successes
        await until(lambda: self.load.successes > before + CALLERS, SERVES_AGAIN_S, "calls succeed again")
        self.load.raise_failures()

    async def settled(self) -> None:
        """Wait until recovery has resolved what the dead left behind."""
        deadline_s = time.monotonic() + SETTLED_S
        while (report := self.cluster.check()).open_holds:
            if time.monotonic() > deadline_s:
                pytest.fail("holds stay open:\n" + "\n".join(report.lines() + self._open_holds()), pytrace=False)
            await asyncio.sleep(0.5)

    def _open_holds(self) -> list[str]:
        """Whose they are, for the failure's message."""
        now_ns = time.time_ns()
        workers = {bytes(owner): beat for owner, beat in self.cluster.sql("select owner, heartbeat_ns from workers")}
        with self.cluster.admin.database.read() as connection:
            holds = open_holds(connection)
        lines = []
        for hold in holds:
            beat = workers.get(hold.owner)
            age = "no worker" if beat is None else f"a worker that beat {(now_ns - beat) / 1e9:.1f} s ago"
            lines.append(f"{hold.request_id.hex()} holds {hold.nano} nano of {hold.model} for {age}")
        return lines


@asynccontextmanager
async def chaos(cluster: Cluster, upstream: Upstream, seed: int, *, local_share: float = 0) -> AsyncIterator[Chaos]:
    """A gateway that serves, with its load running; the load has ended when the block does."""
    configure(cluster, upstream)
    keys = [cluster.key(f"large-{n}", LARGE_NANO) for n in range(10)]
    keys += [cluster.key(f"small-{n}", nano) for n, nano in enumerate(SMALL_NANO)]
    cluster.start()
    await cluster.ready()
    async with client(cluster.origin, CALLERS) as caller:
        load = Load(caller, keys, seed, CALLERS, local_share=local_share)
        load.start()
        try:
            yield Chaos(cluster, load, seed)
        finally:
            await load.stop()


def configure(cluster: Cluster, upstream: Upstream) -> None:
    """Prices equal to the upstream's, one clean channel, and a preferred one that cuts every first answer."""
    cluster.sandbox_prices()
    cluster.channel("clean", upstream.base_url, MODELS, priority=0)
    faulty = {"x-sandbox-fault": "cut-after=1, times=1"}
    cluster.channel("faulty", upstream.base_url, MODELS, priority=1, header_set=faulty)


def assert_books(cluster: Cluster, upstream: Upstream, load: Load) -> ReconcileReport:
    """What must hold after any run."""
    found = assert_bill_is_explained(cluster, upstream)
    assert_callers_were_told_the_truth(cluster, load)
    return found


def assert_bill_is_explained(cluster: Cluster, upstream: Upstream) -> ReconcileReport:
    """The ledger's invariants, and every line of the upstream's bill in charges, losses or listed unknowns."""
    report = cluster.check()
    assert report.ok, "\n".join(report.lines())
    assert report.entries_sum_nano == 0
    assert report.open_holds == 0
    assert report.customers_held_nano == 0
    assert not cluster.sql("select code from accounts where kind = 'customer' and posted_nano < 0")
    bill = upstream.bill()
    found = cluster.reconcile(bill)
    assert not found.unexplained, "\n".join(line.text() for line in found.unexplained)
    assert found.bill_nano == sum(int(line["cost_nano_usd"]) for line in bill)
    assert found.bill_nano == found.charged_nano + found.loss_nano + found.unknown_nano
    assert found.charged_nano == report.charged_nano
    assert found.loss_nano == report.loss_nano
    # What the bill leaves unknown is what `elkapi ledger unknown` prints, and not only what this bill happens to show.
    listed = {bytes(request_id) for (request_id,) in cluster.sql("select request_id from unknown_outcomes")}
    assert {line.request_id for line in found.unknown} <= listed
    return found


def assert_callers_were_told_the_truth(cluster: Cluster, load: Load) -> None:
    charged = dict(cluster.sql("select id, charge_nano from requests"))
    charged = {bytes(request_id): nano for request_id, nano in charged.items()}
    for request_id, nano in load.acknowledged.items():
        assert charged.get(request_id) == nano, f"{request_id.hex()}: told {nano}, booked {charged.get(request_id)}"
    paid_for_nothing = {request_id.hex(): charged[request_id] for request_id in load.failed if charged.get(request_id)}
    assert not paid_for_nothing, f"answered with an error and charged: {paid_for_nothing}"
    twice = {name: calls for name, calls in load.fresh.items() if len(calls) > 1}
    assert not twice, f"idempotency keys answered afresh more than once: {twice}"
    assert load.refused_while_up == 0, "connections were refused although the supervisor lived"


def printed(found: ReconcileReport, chaos: Chaos, seed: int) -> str:
    """The run in figures, and the list of unknown outcomes."""
    load = chaos.load
    lines = [
        f"seed {seed}: {len(chaos.history)} rounds: {'; '.join(chaos.history)}",
        load.summary(),
        f"charges taken back because their callers were told of a failure: {taken_back(chaos)} of {len(load.failed)}",
        f"upstream bill     {found.bill_nano:>14} nano = {format_usd(found.bill_nano)} USD",
        f"customer charges  {found.charged_nano:>14} nano",
        f"operator losses   {found.loss_nano:>14} nano",
        f"unknown outcomes  {found.unknown_nano:>14} nano in {len(found.unknown)} calls",
        *(f"  {line.text()}" for line in found.unknown[:20]),
        *([f"  and {len(found.unknown) - 20} more"] if len(found.unknown) > 20 else []),
    ]
    return "\n".join(lines)


def taken_back(chaos: Chaos) -> int:
    """Calls whose settlement was committed while the answer to it got lost for longer than settle_wait_s."""
    return len({bytes(entry)[:16] for (entry,) in chaos.cluster.sql("select id from transfers where kind = 'reverse'")})


def seed_of_the_day() -> int:
    """ELKAPI_CHAOS_SEED, or a new one each run; it is printed and stands in every failure."""
    given = os.environ.get("ELKAPI_CHAOS_SEED", "")
    return int(given) if given.isdecimal() else int.from_bytes(os.urandom(4), "big")
