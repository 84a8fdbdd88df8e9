"""Keeps a process's snapshot and key cache fresh by polling a version; a lost database makes them older, never slower.

The poll reads two numbers on its own thread. A change of a key evicts that key; a change of a channel, price or group
rebuilds the snapshot on the same thread and swaps it by one assignment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable

from elkapi.clock import SYSTEM_CLOCK, Clock, doubled_s
from elkapi.errors import Unavailable, to_operator
from elkapi.settings import Settings
from elkapi.snapshot.build import build_snapshot
from elkapi.snapshot.snapshot import Snapshot
from elkapi.storage.db import Database
from elkapi.storage.repos import keys, versions
from elkapi.storage.secrets import Sealer

STOP_WAIT_S = 5.0
ERROR_PAUSE_MAX_S = 5.0

# Called on the event loop with the config version seen and (id, digest) of the changed keys, or None to forget every
# key.
OnKeysChanged = Callable[[int, "list[tuple[int, bytes]] | None"], None]
log = logging.getLogger("elkapi.snapshot")


class SnapshotHolder:
    """`current` is the newest snapshot; `start()` builds the first one and starts polling, `stop()` ends the thread."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        settings: Settings,
        *,
        bundled: Iterable[str] = (),
        chat: Iterable[str] = (),
        sandbox: Iterable[str] = (),
        on_keys_changed: OnKeysChanged = lambda _version, _changed: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._settings = settings
        self._bundled = tuple(bundled)
        self._chat = tuple(chat)
        self._sandbox = tuple(sandbox)
        self._on_keys_changed = on_keys_changed
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._seen = versions.Versions(0, 0)
        self._fresh_at_s = clock.monotonic_s()
        self._stopping = threading.Event()
        self._refreshing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def current(self) -> Snapshot:
        """Read once per request. Raises Unavailable before the first build."""
        if self._snapshot is None:
            raise Unavailable("The gateway has not loaded its configuration yet; please try again.")
        return self._snapshot

    @property
    def age_s(self) -> float:
        """Seconds since the database last confirmed that this snapshot is current (snapshot_age_seconds)."""
        return self._clock.monotonic_s() - self._fresh_at_s

    async def start(self) -> None:
        """Build the first snapshot and start polling. Raises Unavailable if the database is unreachable."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._refresh)
        self._thread = threading.Thread(target=self._poll, name="elkapi-snapshot", daemon=True)
        self._thread.start()

    async def refresh(self) -> None:
        """Look for changes now, without waiting for the next poll. Raises Unavailable."""
        await asyncio.to_thread(self._refresh)

    async def leave_out(self, bundled: Iterable[str]) -> None:
        """Stop serving these bundled models; if the database is unavailable, from the next successful poll on."""
        await asyncio.to_thread(self._leave_out, frozenset(bundled))

    def _leave_out(self, bundled: frozenset[str]) -> None:
        with self._refreshing:
            self._bundled = tuple(model for model in self._bundled if model not in bundled)
            # Below every version, so the next poll rebuilds.
            self._seen = versions.Versions(self._seen.config, -1)
        with contextlib.suppress(Unavailable):
            self._refresh()

    async def stop(self) -> None:
        """End the thread; a hanging read is abandoned after STOP_WAIT_S."""
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_WAIT_S)
            self._thread = None

    def _poll(self) -> None:
        failures = 0
        while not self._stopping.wait(self._pause_s(failures)):
            try:
                self._refresh()
                failures = 0
            except Unavailable as error:
                failures += 1
                if failures == 1:
                    log.warning("%s; keeping the configuration of version %d", to_operator(error), self._seen.config)
            except Exception:
                # An unreadable row must not end the polling: the next change may repair it.
                failures += 1
                log.exception("cannot rebuild the snapshot; keeping version %d", self._seen.config)

    def _pause_s(self, failures: int) -> float:
        poll_s = self._settings.snapshot_poll_s
        return poll_s if failures == 0 else doubled_s(poll_s, failures + 1, ERROR_PAUSE_MAX_S)

    def _refresh(self) -> None:
        """One poll: read the versions, then what changed."""
        with self._refreshing:
            self._refresh_now()

    def _refresh_now(self) -> None:
        # A time taken first can only understate the freshness.
        at_s = self._clock.monotonic_s()
        if self._database.look(versions.read) == self._seen:
            self._fresh_at_s = at_s
            return
        with self._database.read() as connection:
            now = versions.read(connection)
            changed: list[tuple[int, bytes]] | None = []
            if self._snapshot is not None:
                # A lower version means a restored database: nothing cached can be trusted.
                changed = keys.changed_since(connection, self._seen.config) if now.config >= self._seen.config else None
            snapshot, seen = self._snapshot, now
            try:
                if snapshot is None or now.routing != self._seen.routing:
                    snapshot = build_snapshot(
                        connection,
                        self._sealer,
                        self._settings,
                        bundled=self._bundled,
                        chat=self._chat,
                        sandbox=self._sandbox,
                    )
                for warning in snapshot.warnings if snapshot is not self._snapshot else ():
                    log.error("%s", warning)
                self._fresh_at_s = at_s
            except Exception:
                # An unreadable row must not keep a revoked key alive.
                seen = versions.Versions(now.config, self._seen.routing)
                raise
            finally:
                self._snapshot, self._seen = snapshot, seen
                if self._loop is not None and not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._on_keys_changed, now.config, changed)
