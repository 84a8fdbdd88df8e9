"""A worker's access to tasks, unsealed: finding and listing them on the reader's threads; the ledger writes steps.

The queries check ownership; another's task is not found, with the same message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from elkapi.errors import NotFound, Unavailable
from elkapi.storage.db import Database, Reader, Writer
from elkapi.storage.repos import tasks as rows
from elkapi.storage.secrets import Sealer
from elkapi.tasks.record import Task, opened
from elkapi.types import Grant

T = TypeVar("T")
FOLLOW_S = 1.0


def not_found(text: str) -> NotFound:
    """The error for a task that does not exist or is not the caller's."""
    return NotFound(f"The task '{text[:100]}' does not exist.", code="task_not_exist", param="id")


class TaskStore:
    """One per worker. `submits` are those in progress, which outlive their callers' connections."""

    def __init__(self, database: Database, reader: Reader, sealer: Sealer) -> None:
        self._reader = reader
        self._sealer = sealer
        self._writer = Writer(database, "tasks")
        self.submits: set[asyncio.Task[Any]] = set()

    async def find(self, grant: Grant, text: str) -> Task:
        """The caller's own task by any of its names. Raises NotFound, Unavailable."""
        if (task := await self.find_or_none(grant, text)) is None:
            raise not_found(text)
        return task

    async def find_or_none(self, grant: Grant, text: str) -> Task | None:
        """The same, or None. Raises Unavailable."""
        return await self._reader.run(lambda connection: self._found(connection, grant, text))

    def _found(self, connection: Connection, grant: Grant, text: str) -> Task | None:
        row = rows.find(connection, grant, text)
        return None if row is None else opened(self._sealer, row)

    async def again(self, task: Task) -> Task | None:
        """The current task, or None if it was deleted. Raises Unavailable."""
        return await self._reader.run(lambda connection: self._read(connection, task.row.id))

    def _read(self, connection: Connection, task_id: bytes) -> Task | None:
        row = rows.read(connection, task_id)
        return None if row is None or row.deleted_ns is not None else opened(self._sealer, row)

    async def moves(self, task: Task, quiet_s: float) -> AsyncIterator[Task | None]:
        """The task now and after each change of its row, until it ends or is deleted; None after every `quiet_s`
        without one."""
        seen, waited_s = -1, 0.0
        while True:
            if task.row.version != seen:
                seen, waited_s = task.row.version, 0.0
                yield task
            elif waited_s >= quiet_s:
                waited_s = 0.0
                yield None
            if task.state.is_end:
                return
            await asyncio.sleep(FOLLOW_S)
            waited_s += FOLLOW_S
            with contextlib.suppress(Unavailable):
                again = await self.again(task)
                if again is None:
                    return
                task = again

    async def page(
        self,
        grant: Grant,
        wanted: rows.Wanted,
        *,
        limit: int,
        offset: int = 0,
        after: bytes | None = None,
        ascending: bool = False,
    ) -> list[Task]:
        """A page of the caller's tasks. Raises Unavailable."""

        def read(connection: Connection) -> list[Task]:
            found = rows.page(connection, grant, wanted, limit=limit, offset=offset, after=after, ascending=ascending)
            return [opened(self._sealer, row) for row in found]

        return await self._reader.run(read)

    async def count(self, grant: Grant, wanted: rows.Wanted) -> int:
        """The number of the caller's tasks. Raises Unavailable."""
        return await self._reader.run(lambda connection: rows.count(connection, grant, wanted))

    async def write(self, change: Callable[[Connection], T]) -> T:
        """The committed result of `change`. Raises Unavailable."""
        return await self._writer.run(change)

    async def drain(self, wait_s: float) -> None:
        """Wait for submits in progress; recovery owns what is left."""
        if self.submits:
            await asyncio.wait(self.submits, timeout=wait_s)

    def close(self) -> None:
        """Finish the current write."""
        self._writer.close()
