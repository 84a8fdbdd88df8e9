"""`Answers`: a worker's access to stored answers; a lookup never fails or waits long, and storing never waits.

It owns sealing, deadlines and the limit of pending writes; `files` or `shared` stores them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from elkapi.cache.entry import Entry, opened, sealed
from elkapi.cache.store import Bounds, Store, StoreDown
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.settings import Settings
from elkapi.storage.secrets import Sealer

FILE = "answers.sqlite3"
# How many writes may be pending; more are dropped, so that a slow store costs hits and not memory.
PUTS_MAX = 64
# Unsealing a larger one takes long enough to be worth a thread.
OPEN_INLINE_BYTES = 64 * 1024
# Every call notices a failed store; this limits how often it is logged.
TELL_EVERY_S = 60.0

log = logging.getLogger("elkapi.cache")


class Answers:
    """The stored answers of one worker; the store is opened with the first call that uses it."""

    def __init__(self, settings: Settings, sealer: Sealer, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._sealer = sealer
        self._clock = clock
        self._opened: Store | None = None
        self._puts: set[asyncio.Task[None]] = set()
        self._tell_from_s = 0.0
        self.dropped = 0

    @property
    def entry_bytes_max(self) -> int:
        """The longest body that is stored; 0 if none is."""
        return min(self._settings.cache_entry_bytes_max, self._settings.cache_bytes_max)

    def name_of(self, meaning: bytes) -> bytes:
        """The name of a stored answer, which does not reveal the request to readers of the store."""
        return self._sealer.fingerprint(meaning)

    async def get(self, name: bytes, age_s_max: float) -> Entry | None:
        """The answer of this name up to this age; None if the store fails or is slow.

        If the clock was set back since it was stored, its age is unknown and it is not used.
        """
        try:
            stored = await self._store().get(name)
        except StoreDown as error:
            self._failed(error)
            return None
        if stored is None:
            return None
        if len(stored) <= OPEN_INLINE_BYTES:
            entry = opened(self._sealer, name, stored)
        else:
            entry = await asyncio.to_thread(opened, self._sealer, name, stored)
        if entry is None or not 0 <= self._clock.now_ns() - entry.created_ns <= age_s_max * 1_000_000_000:
            return None
        return entry

    def put(self, name: bytes, make: Callable[[], Entry | None]) -> None:
        """Store the result of `make`, which is called on a thread; returns at once and reports no failure."""
        if len(self._puts) >= PUTS_MAX:
            self.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._keep(name, make))
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def _keep(self, name: bytes, make: Callable[[], Entry | None]) -> None:
        def made() -> tuple[int, bytes] | None:
            entry = make()
            return None if entry is None else (entry.created_ns, sealed(self._sealer, name, entry))

        found = await asyncio.to_thread(made)
        if found is None:
            return
        try:
            await self._store().put(name, *found)
        except StoreDown as error:
            self._failed(error)
            self.dropped += 1

    def _failed(self, error: StoreDown) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._tell_from_s:
            self._tell_from_s = now_s + TELL_EVERY_S
            log.warning("the response cache failed for a call: %s", error)

    async def idle(self) -> None:
        """Wait until every answer passed to `put` is stored or dropped."""
        while self._puts:
            await asyncio.wait(self._puts)

    async def aclose(self) -> None:
        """Finish pending writes, then close the store."""
        await self.idle()
        if self._opened is not None:
            await self._opened.aclose()

    def _store(self) -> Store:
        if self._opened is None:
            settings = self._settings
            bounds = Bounds(settings.cache_bytes_max, settings.cache_entries_max, settings.cache_age_max_s)
            if settings.redis_url:
                # Imported here: a worker without Redis never loads its client.
                from elkapi.cache.shared import RedisStore

                self._opened = RedisStore(settings.redis_url, bounds, self._clock, settings.cache_wait_s)
            else:
                from elkapi.cache.files import FileStore

                self._opened = FileStore(settings.data_path / FILE, bounds, self._clock, settings.cache_wait_s)
        return self._opened
