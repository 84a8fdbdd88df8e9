"""Runs the ledger's recovery after dead processes, even if no ledger writer is left.

`ledger.recovery` decides which processes are dead and what becomes of their holds; it is idempotent and safe in several
processes at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from elkapi.storage.db import Database

SWEEP_EVERY_S = 2.0


class Looks(Protocol):
    """The interface of `ledger.recovery.Recoverer`."""

    def tick(self) -> None: ...


class Sweeper:
    """The job. `on_thread` runs a function with the opened database, off the event loop; `start` makes a recoverer."""

    name = "sweeper"
    period_s = SWEEP_EVERY_S

    def __init__(
        self,
        on_thread: Callable[[Callable[[Database], None]], Awaitable[None]],
        start: Callable[[Database], Looks],
    ) -> None:
        self._on_thread = on_thread
        self._start = start
        self._looks: Looks | None = None

    async def run_once(self) -> None:
        """Raises Unavailable if the database cannot be reached; nothing is lost, the next run retries."""
        await self._on_thread(self._tick)

    def _tick(self, database: Database) -> None:
        if self._looks is None:
            self._looks = self._start(database)
        self._looks.tick()
