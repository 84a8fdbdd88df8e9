"""Deletes expired stored answers, idempotency keys, notices and tasks in batches, and fails orphaned answers.

Recovery handles the answers and tasks of a dead worker or poller; this handles those whose worker or poller is unknown,
as after a restore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from elkapi.clock import Clock, SetAhead
from elkapi.ledger.idempotency import purge_claims
from elkapi.storage.repos import notices, tasks
from elkapi.storage.repos.stored import fail_orphans, purge

EVERY_S = 60.0
ROWS_MAX = 500
# Fewer tasks: each is in several indexes, and SQLite's single writer waits for all of them.
TASKS_MAX = 100
BYTES_MAX = 4 * 1024 * 1024
# The longest retry interval of those who wait for SQLite's single writer.
PAUSE_S = 0.1


class Expiry:
    """The job. `write` runs a change in one write transaction, off the event loop. `tasks_keep_s` 0 keeps tasks for
    ever."""

    name = "expiry"
    period_s = EVERY_S

    def __init__(
        self,
        write: Callable[[Callable[[Connection], int]], Awaitable[int]],
        clock: Clock,
        *,
        notices_keep_s: float,
        tasks_keep_s: float,
    ) -> None:
        self._write = write
        self._clock = clock
        self._set_ahead = SetAhead(clock)
        self._notices_keep_ns = round(notices_keep_s * 1_000_000_000)
        self._tasks_keep_ns = round(tasks_keep_s * 1_000_000_000)

    async def run_once(self) -> None:
        """Raises Unavailable if the database cannot be reached; the next run retries."""
        await self._write(fail_orphans)
        await self._write(tasks.release_orphans)
        now_ns = self._clock.now_ns()
        if self._set_ahead.seen(now_ns):
            return
        await self._forget(lambda connection: purge(connection, now_ns, ROWS_MAX, BYTES_MAX))
        await self._forget(lambda connection: purge_claims(connection, now_ns, ROWS_MAX, BYTES_MAX))
        before_ns = now_ns - self._notices_keep_ns
        await self._forget(lambda connection: notices.purge(connection, before_ns, ROWS_MAX))
        if self._tasks_keep_ns:
            ended_ns = now_ns - self._tasks_keep_ns
            await self._forget(lambda connection: tasks.purge(connection, ended_ns, TASKS_MAX, BYTES_MAX))

    async def _forget(self, some: Callable[[Connection], int]) -> None:
        """Delete batches until none is left."""
        while True:
            if not await self._write(some):
                break
            await asyncio.sleep(PAUSE_S)
