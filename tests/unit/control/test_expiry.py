"""The control process forgets what was kept long enough, a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from elkapi.clock import SET_RIGHT_S, ManualClock, SetAhead
from elkapi.control.expiry import BYTES_MAX, ROWS_MAX, Expiry
from elkapi.settings import Settings
from elkapi.storage.installation import open_installation
from elkapi.storage.schema import idempotency, stored_events, stored_objects


async def test_every_row_whose_time_is_over_is_forgotten_in_bounded_transactions(tmp_path: Path) -> None:
    installation = open_installation(Settings(data_dir=str(tmp_path)))
    clock = ManualClock(1_000)
    row = {"kind": "chat", "owner_id": 1, "key_id": 1, "model": "m", "status": "completed", "created_ns": 1}
    rows = [
        {**row, "id": number.to_bytes(16), "expires_ns": 1_000 if number < ROWS_MAX + 5 else 1_001, "sealed": b""}
        for number in range(ROWS_MAX + 8)
    ]
    with installation.database.write() as connection:
        connection.execute(insert(stored_objects), rows)
        claim = {"key_id": 1, "operation": "op", "fingerprint": b"", "request_id": b"", "owner": b"", "state": "done"}
        claims = [{**claim, "idempotency_key": str(at), "created_ns": 1, "expires_ns": at} for at in (1_000, 1_001)]
        connection.execute(insert(idempotency), claims)
    forgotten: list[int] = []

    async def write(change: Callable[[Connection], int]) -> int:
        with installation.database.write() as connection:
            forgotten.append(change(connection))
        return forgotten[-1]

    await Expiry(write, clock, notices_keep_s=60, tasks_keep_s=0).run_once()
    assert forgotten == [0, 0, ROWS_MAX, 5, 0, 1, 0, 0]
    with installation.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(stored_objects)).scalar() == 3
    # Large ones are fewer at a time, with the frames of their streams, and one is always forgotten.
    sizes = (BYTES_MAX // 2, BYTES_MAX // 4, BYTES_MAX // 2, 2 * BYTES_MAX)
    large = [{**row, "id": b"%d" % number, "expires_ns": number, "sealed": bytes(n)} for number, n in enumerate(sizes)]
    with installation.database.write() as connection:
        connection.execute(insert(stored_objects), large)
        connection.execute(insert(stored_events), {"object_id": b"2", "first": 0, "sealed": b"frame"})
    forgotten.clear()
    await Expiry(write, clock, notices_keep_s=60, tasks_keep_s=0).run_once()
    assert forgotten == [0, 0, 2, 1, 1, 0, 0, 0]
    orphan = {**row, "id": b"orphan", "expires_ns": 1_001, "sealed": b"", "status": "in_progress", "worker": b"gone"}
    with installation.database.write() as connection:
        connection.execute(insert(stored_objects), [orphan])
    await Expiry(write, clock, notices_keep_s=60, tasks_keep_s=0).run_once()
    with installation.database.read() as connection:
        state = connection.execute(select(stored_objects.c.status).where(stored_objects.c.id == b"orphan")).scalar()
    assert state == "failed"
    installation.database.close()


async def test_nothing_is_forgotten_by_a_clock_that_was_set_ahead_until_there_was_time_to_set_it_right(
    tmp_path: Path,
) -> None:
    installation = open_installation(Settings(data_dir=str(tmp_path)))
    clock = ManualClock()
    expires_ns = clock.now_ns() + 30 * 86_400 * 10**9
    row = {"kind": "chat", "owner_id": 1, "key_id": 1, "model": "m", "status": "completed", "created_ns": 1}
    with installation.database.write() as connection:
        connection.execute(insert(stored_objects), {**row, "id": bytes(16), "expires_ns": expires_ns, "sealed": b""})

    async def write(change: Callable[[Connection], int]) -> int:
        with installation.database.write() as connection:
            return change(connection)

    def kept() -> int | None:
        with installation.database.read() as connection:
            return connection.execute(select(func.count()).select_from(stored_objects)).scalar()

    expiry = Expiry(write, clock, notices_keep_s=60, tasks_keep_s=0)
    for set_right in (True, False):
        clock.set_by(365 * 86_400)
        await expiry.run_once()
        clock.advance(SET_RIGHT_S - 1)
        await expiry.run_once()
        assert kept() == 1
        if set_right:
            clock.set_by(-365 * 86_400)
            await expiry.run_once()
            assert kept() == 1
    clock.advance(1)
    await expiry.run_once()
    assert kept() == 0
    installation.database.close()


def test_a_time_that_was_read_before_the_clock_was_set_right_is_not_taken_for_right() -> None:
    clock = ManualClock()
    ahead = SetAhead(clock)
    assert not ahead.seen(clock.now_ns())
    clock.set_by(86_400)
    now_ns = clock.now_ns()
    clock.set_by(-86_400)
    assert ahead.seen(now_ns)
    assert not ahead.seen(clock.now_ns())
