"""The batches' tables for one worker: writes run on a thread of their own, one after the other, never on the loop.

`arrived` is set when there may be something to do: a batch was made here, or the configuration's version rose, which
every worker polls anyway and which a batch made elsewhere raises.
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
        # A batch is read whole and checked line by line: one at a time is all the memory that may take.
        self.creating = asyncio.Lock()
        self._writer = Writer(database, "batches")

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """fn's answer, its changes committed. Raises Unavailable."""
        return await self._writer.run(fn)

    def look(self) -> None:
        """There may be something to do; called on the loop."""
        self.arrived.set()

    def close(self) -> None:
        """Finish the write that runs."""
        self._writer.close()
