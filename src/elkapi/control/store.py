"""The control process's access to the database: opened when available, used on a thread, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from elkapi.clock import Clock
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.dialect import LookConnection
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import channels, versions
from elkapi.storage.repos.channels import DisabledKey

T = TypeVar("T")

ACTOR = "prober"


class Store:
    """One thread that opens, reads and writes; calls run one after another, which jobs and pages can afford.

    The database is opened on first use and again after a failure, so the process starts and answers without it. Every
    method raises what `open_installation` raises, and Unavailable.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="control-store")
        self._opened: Installation | None = None

    async def read(self, ask: Callable[[Connection], T]) -> T:
        """The result of `ask` in one read transaction."""
        return await self.with_installation(lambda parts: self._read(parts, ask))

    async def look(self, ask: Callable[[LookConnection], T]) -> T:
        """The result of `ask` for frequent queries (`Database.look`)."""
        return await self.with_installation(lambda parts: parts.database.look(ask))

    async def write(self, change: Callable[[Connection], T]) -> T:
        """The result of `change`, after its write transaction is committed."""
        return await self.with_installation(lambda parts: self._write(parts, change))

    async def on_thread(self, work: Callable[[Database], T]) -> T:
        """The result of `work` with the opened database, for code that opens its own transactions."""
        return await self.with_installation(lambda parts: work(parts.database))

    async def with_installation(self, work: Callable[[Installation], T]) -> T:
        """The result of `work` with the opened installation, for code that opens sealed values too."""

        def on_thread() -> T:
            if self._opened is None:
                self._opened = open_installation(self._settings, readers=1, clock=self._clock)
            return work(self._opened)

        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)

    async def answers(self) -> None:
        """Return once the database has answered a read."""
        await self.read(versions.read)

    async def disabled_keys(self) -> list[DisabledKey]:
        """Keys of enabled channels that the gateway, not an operator, disabled."""
        return await self.with_installation(
            lambda parts: self._read(parts, lambda connection: channels.disabled_keys(connection, parts.sealer))
        )

    async def enable(self, found: DisabledKey, reason: str) -> bool:
        """Enable the key and write to the audit trail; False if it was changed since it was read."""
        now_ns = self._clock.now_ns()
        return await self.write(
            lambda connection: channels.enable_key(connection, found, reason, now_ns=now_ns, actor=ACTOR)
        )

    def close(self) -> None:
        """Wait for the running call; drop queued ones."""
        self._thread.shutdown(cancel_futures=True)
        if self._opened is not None:
            self._opened.database.close()

    @staticmethod
    def _read(parts: Installation, ask: Callable[[Connection], T]) -> T:
        with parts.database.read() as connection:
            return ask(connection)

    @staticmethod
    def _write(parts: Installation, change: Callable[[Connection], T]) -> T:
        with parts.database.write() as connection:
            return change(connection)
