"""Forgets stored answers whose time is over, a bounded number at a time, and ends those that nobody makes any more.

Recovery ends what a worker was making when it is found gone; here are those whose worker nobody knows, as after a
restore.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from elkapi.clock import Clock
from elkapi.storage.repos.stored import fail_orphans, purge

EVERY_S = 60.0
ROWS_MAX = 500


class Expiry:
    """`write` runs a change over one write transaction, off the event loop."""

    name = "expiry"
    period_s = EVERY_S

    def __init__(self, write: Callable[[Callable[[Connection], int]], Awaitable[int]], clock: Clock) -> None:
        self._write = write
        self._clock = clock

    async def run_once(self) -> None:
        """Raises Unavailable when the database cannot be asked; the next run sees the same."""
        now_ns = self._clock.now_ns()
        while await self._write(lambda connection: purge(connection, now_ns, ROWS_MAX)) == ROWS_MAX:
            pass
        await self._write(fail_orphans)
