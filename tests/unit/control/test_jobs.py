"""Background jobs go on whatever happens to one run, and end with the process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from elkapi.clock import ManualClock
from elkapi.control.jobs import BACKOFF_MAX_S, running_jobs, wait_s
from elkapi.control.store import Store
from elkapi.control.sweeper import EXPIRED_ROWS_AT_ONCE, Sweeper, delete_expired
from elkapi.settings import Settings
from elkapi.storage import schema
from elkapi.storage.installation import Installation, open_installation


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


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    opened = open_installation(Settings(data_dir=str(tmp_path)))
    yield opened
    opened.database.close()


def _claims(connection: Connection, *rows: tuple[str, str, int]) -> None:
    values = {"key_id": 1, "operation": "op", "fingerprint": b"f", "request_id": b"r", "owner": b"o", "created_ns": 1}
    table = schema.idempotency
    for key, state, expires_ns in rows:
        connection.execute(
            insert(table).values(values | {"idempotency_key": key, "state": state, "expires_ns": expires_ns})
        )


def _names(connection: Connection) -> set[str]:
    return set(connection.execute(select(schema.idempotency.c.idempotency_key)).scalars())


def test_only_rows_whose_time_is_over_and_that_are_closed_go(installation: Installation) -> None:
    with installation.database.write() as connection:
        _claims(connection, ("old", "done", 9), ("large", "too_large", 9), ("open", "open", 9), ("young", "done", 11))
    with installation.database.write() as connection:
        assert delete_expired(connection, 10) == 2
        assert _names(connection) == {"open", "young"}
        assert delete_expired(connection, 10) == 0


async def test_sweep_deletes_in_short_transactions_and_recovers_each_time(installation: Installation) -> None:
    count = 2 * EXPIRED_ROWS_AT_ONCE + 3
    with installation.database.write() as connection:
        _claims(connection, *((f"k{number}", "done", 9) for number in range(count)))
    clock = ManualClock()
    store = Store(installation.settings, clock)
    recovered_at: list[int] = []
    transactions = 0

    async def write(change):  # type: ignore[no-untyped-def]
        nonlocal transactions
        transactions += 1
        return await store.write(change)

    def recover(connection: Connection, now_ns: int) -> int:
        recovered_at.append(now_ns)
        return 0

    await Sweeper(write, recover, clock).run_once()
    store.close()
    assert recovered_at == [clock.now_ns()]
    assert transactions == 1 + 3
    with installation.database.read() as connection:
        assert _names(connection) == set()
