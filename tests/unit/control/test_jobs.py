"""Background jobs go on whatever happens to one run, and end with the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select

from elkapi.clock import ManualClock
from elkapi.control.jobs import BACKOFF_MAX_S, running_jobs, wait_s
from elkapi.control.store import Store
from elkapi.control.sweeper import Sweeper
from elkapi.errors import Unavailable
from elkapi.ledger.recovery import Recoverer
from elkapi.storage import schema
from elkapi.storage.installation import Installation


class Flaky:
    name = "flaky"
    period_s = 2.0

    def __init__(self, *fails: bool) -> None:
        self._fails = list(fails)
        self.done = asyncio.Event()

    async def run_once(self) -> None:
        if not self._fails:
            self.done.set()
        elif self._fails.pop(0):
            raise RuntimeError("this run fails")


async def test_job_goes_on_after_failures_and_waits_longer_each_time() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    job = Flaky(True, True, False, True)
    async with running_jobs([job], sleep):
        await job.done.wait()
    assert slept[:4] == [4.0, 8.0, 2.0, 4.0]


async def test_jobs_end_with_the_block() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    class Long:
        name = "long"
        period_s = 1.0

        async def run_once(self) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    async with running_jobs([Long()]):
        await started.wait()
    assert ended.is_set()


def test_wait_after_failures_has_a_ceiling() -> None:
    assert wait_s(2.0, 0) == 2.0
    assert wait_s(2.0, 40) == BACKOFF_MAX_S
    assert wait_s(300.0, 3) == 300.0


async def test_sweep_gives_back_what_a_gone_worker_left(installation: Installation) -> None:
    """The ledger's own tests say what recovery does; here, that it is asked for with the control process's database."""
    row = {"owner": b"o" * 16, "role": "worker", "started_ns": 1, "heartbeat_ns": 1, "ended_ns": 2}
    row |= {"scan_from": b"\0" * 16} if "scan_from" in schema.workers.c else {}
    claim = {"key_id": 1, "operation": "op", "fingerprint": b"f", "request_id": b"r" * 16, "created_ns": 1}
    claim |= {"owner": b"o" * 16, "idempotency_key": "k", "state": "open", "expires_ns": 2**62}
    with installation.database.write() as connection:
        connection.execute(insert(schema.workers), row)
        connection.execute(insert(schema.idempotency), claim)
    clock = ManualClock()
    store = Store(installation.settings, clock)
    try:
        sweeper = Sweeper(store.on_thread, lambda database: Recoverer(database, installation.settings, clock))
        await sweeper.run_once()
        await sweeper.run_once()
    finally:
        store.close()
    with installation.database.read() as connection:
        assert connection.execute(select(schema.workers)).all() == []
        assert connection.execute(select(schema.idempotency.c.state)).scalars().all() == ["unknown"]


async def test_sweep_makes_its_recoverer_once_and_keeps_it() -> None:
    made: list[int] = []

    class Looks:
        ticks = 0

        def tick(self) -> None:
            self.ticks += 1
            if self.ticks == 2:
                raise Unavailable("away")

    looks = Looks()

    async def on_thread(work: Callable[[Any], object]) -> None:
        work(None)

    def start(database: object) -> Looks:
        made.append(1)
        return looks

    sweeper = Sweeper(on_thread, start)
    await sweeper.run_once()
    with pytest.raises(Unavailable):
        await sweeper.run_once()
    await sweeper.run_once()
    assert (len(made), looks.ticks) == (1, 3)
