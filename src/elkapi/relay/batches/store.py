"""The batches' tables for one worker: writes run on one thread, one after the other, never on the loop.

`arrived` is set if there may be work: a batch was created here, or the version of the configuration rose, which every
worker polls anyway and which a batch created elsewhere raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from elkapi.storage.db import Database, Writer
from elkapi.storage.secrets import Sealer

T = TypeVar("T")


class BatchStore:
    """`worker` is this worker's id in the ledger, under which it leases lines."""

    def __init__(self, database: Database, sealer: Sealer, worker: bytes) -> None:
        self.sealer = sealer
        self.worker = worker
        self.arrived = asyncio.Event()
        # A batch is read whole and checked line by line: memory allows one at a time.
        self.creating = asyncio.Lock()
        self._writer = Writer(database, "batches")

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """The result of fn, with its changes committed. Raises Unavailable."""
        return await self._writer.run(fn)

    def look(self) -> None:
        """Signal that there may be work; called on the loop."""
        self.arrived.set()

    def close(self) -> None:
        """Finish the current write."""
        self._writer.close()
