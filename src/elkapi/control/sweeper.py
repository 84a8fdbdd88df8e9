"""Sweeps up after processes that died, also when no ledger writer is left to do it: asks the ledger to look.

Who counts as gone and what becomes of a hold is decided in `ledger.recovery`; repeating it, or doing it in several
processes at once, is harmless.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from elkapi.storage.db import Database

SWEEP_EVERY_S = 2.0


class Looks(Protocol):
    """What is asked each time: `ledger.recovery.Recoverer`, or a stand-in."""

    def tick(self) -> None: ...


class Sweeper:
    """`on_thread` runs a function with the opened database, off the event loop; `start` makes what is asked with it."""

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
        """Raises Unavailable when the database cannot be asked; nothing is lost, the next run sees the same."""
        await self._on_thread(self._tick)

    def _tick(self, database: Database) -> None:
        if self._looks is None:
            self._looks = self._start(database)
        self._looks.tick()
