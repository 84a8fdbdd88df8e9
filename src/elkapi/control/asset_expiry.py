"""Removes expired files and the remains of aborted copies; idempotent, and safe in several processes at once.

A file is removed before its row, so that no file outlives its row; files without a row are found by listing the store
periodically. Copies in progress are younger than ORPHAN_S.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from elkapi.assets.store import AssetStore, StoreFailed
from elkapi.clock import Clock, SetAhead
from elkapi.storage.repos import assets as rows

T = TypeVar("T")
EVERY_S = 60.0
ROWS_MAX = 200
# After so many failures the store is assumed to be unavailable, and the rest waits for the next run.
FAILURES_MAX = 20
ORPHANS_EVERY_S = 6 * 3600.0
ORPHAN_S = 24 * 3600.0


class Run(Protocol):
    """A function over one transaction, off the event loop."""

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]: ...


class AssetExpiry:
    """`read` and `write` run over one transaction each. The first run looks for orphans too."""

    name = "asset_expiry"
    period_s = EVERY_S

    def __init__(self, store: AssetStore, read: Run, write: Run, clock: Clock) -> None:
        self._store = store
        self._read = read
        self._write = write
        self._clock = clock
        self._set_ahead = SetAhead(clock)
        self._orphans_at_s = 0.0

    async def run_once(self) -> None:
        """Raises Unavailable or StoreFailed; the next run retries."""
        now_ns = self._clock.now_ns()
        if self._set_ahead.seen(now_ns):
            return
        failures = await self._expire(now_ns)
        if self._clock.monotonic_s() >= self._orphans_at_s:
            await self.remove_orphans()
            self._orphans_at_s = self._clock.monotonic_s() + ORPHANS_EVERY_S
        if failures:
            raise failures[0]

    async def _expire(self, now_ns: int) -> list[StoreFailed]:
        """Remove expired files; returns the failures. A file that cannot be removed keeps its row; others continue."""
        failures = list[StoreFailed]()
        while len(failures) < FAILURES_MAX:
            expired = partial(rows.expired, now_ns=now_ns, rows_max=ROWS_MAX, after=len(failures))
            found, gone = await self._read(expired), list[bytes]()
            for asset_id, location in found:
                try:
                    await self._store.delete(location)
                except StoreFailed as failure:
                    failures.append(failure)
                    if len(failures) == FAILURES_MAX:
                        break
                else:
                    gone.append(asset_id)
            if gone:
                await self._write(partial(rows.forget, ids=gone))
            if len(found) < ROWS_MAX:
                break
        return failures

    async def remove_orphans(self, age_s: float = ORPHAN_S) -> int:
        """Remove files without a row and parts of uploads older than `age_s`; returns their number."""
        removed = await self._store.remove_parts(age_s)
        async for locations in self._store.older_than(age_s):
            if not locations:
                continue
            known = await self._read(partial(rows.known_locations, locations=locations))
            for location in locations:
                if location not in known:
                    await self._store.delete(location)
                    removed += 1
        return removed
