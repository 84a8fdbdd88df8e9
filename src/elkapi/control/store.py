"""The database as the control process uses it: opened when it can be had, asked on threads, never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, select

from elkapi.clock import Clock
from elkapi.control.prober import DisabledKey
from elkapi.settings import Settings
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import channels
from elkapi.storage.secrets import Sealer

T = TypeVar("T")

ACTOR = "prober"
_keys = schema.channel_keys


class Store:
    """One thread that opens, reads and writes; calls wait for each other, which background jobs and pages may do.

    The database is opened on first use and again after a failure, so the process starts and answers while it is away.
    Every method raises what `open_installation` raises, and Unavailable.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="control-store")
        self._opened: Installation | None = None

    async def read(self, ask: Callable[[Connection], T]) -> T:
        """`ask`'s answer over one read transaction."""
        return await self._run(lambda parts: self._read(parts, ask))

    async def write(self, change: Callable[[Connection], T]) -> T:
        """`change`'s answer, after its write transaction is committed."""
        return await self._run(lambda parts: self._write(parts, change))

    async def on_thread(self, work: Callable[[Database], T]) -> T:
        """`work`'s answer with the opened database, for what opens its own transactions."""
        return await self._run(lambda parts: work(parts.database))

    async def with_installation(self, work: Callable[[Installation], T]) -> T:
        """`work`'s answer with the opened installation, for what opens sealed values too."""
        return await self._run(work)

    async def answers(self) -> None:
        """Returns when the database gave an answer."""
        await self.read(lambda connection: connection.execute(select(schema.meta.c.value).limit(1)).first())

    async def disabled_keys(self) -> list[DisabledKey]:
        """Keys of enabled channels that the gateway, not an operator, switched off."""
        return await self._run(lambda parts: self._read(parts, lambda conn: read_disabled_keys(conn, parts.sealer)))

    async def enable(self, found: DisabledKey, reason: str) -> bool:
        """Switch the key on and say so in the audit trail; False when somebody changed it since it was read."""
        return await self.write(lambda connection: enable_key(connection, found, reason, self._clock.now_ns()))

    def close(self) -> None:
        """Waits for what runs; drops what waits."""
        self._thread.shutdown(cancel_futures=True)
        if self._opened is not None:
            self._opened.database.close()

    async def _run(self, work: Callable[[Installation], T]) -> T:
        def on_thread() -> T:
            if self._opened is None:
                self._opened = open_installation(self._settings, readers=1, clock=self._clock)
            return work(self._opened)

        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)

    @staticmethod
    def _read(parts: Installation, ask: Callable[[Connection], T]) -> T:
        with parts.database.read() as connection:
            return ask(connection)

    @staticmethod
    def _write(parts: Installation, change: Callable[[Connection], T]) -> T:
        with parts.database.write() as connection:
            return change(connection)


def read_disabled_keys(connection: Connection, sealer: Sealer) -> list[DisabledKey]:
    """What the prober asks for. Secrets are opened only when there is such a key, which is rare."""
    query = select(_keys.c.id, _keys.c.changed_ns).where(
        _keys.c.enabled.is_(False), _keys.c.disabled_by == channels.AUTOMATIC
    )
    off: dict[int, int] = {row.id: row.changed_ns for row in connection.execute(query)}
    if not off:
        return []
    return [
        DisabledKey(entry.channel, key, off[key.id])
        for entry in channels.load_channels(connection, sealer)
        if entry.enabled
        for key in entry.channel.keys
        if key.id in off
    ]


def enable_key(connection: Connection, found: DisabledKey, reason: str, now_ns: int) -> bool:
    """Switch it on unless anybody touched it since; the same transaction leaves the audit row."""
    still = select(_keys.c.id).where(
        _keys.c.id == found.key.id, _keys.c.enabled.is_(False), _keys.c.changed_ns == found.changed_ns
    )
    if connection.execute(still).first() is None:
        return False
    channels.set_key_enabled(connection, found.key.id, True, reason=reason, now_ns=now_ns, actor=ACTOR)
    return True
