"""The background responses of one worker: their limits, their cancellation, and the storing of their streams.

A cancellation may reach another worker, so the tables are polled for which of ours are still wanted; at the same
interval the frames of their streams are stored, for readers elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from elkapi.errors import RateLimited
from elkapi.observe.log import Log
from elkapi.relay.background_log import FrameLog
from elkapi.relay.stored_objects import StoredObjects

LOOK_EVERY_S = 0.5
RETRY_AFTER_S = 5


class Running:
    """One running call: `keep_frames` stores the new frames of its stream."""

    def __init__(self, key_id: int, log: FrameLog, keep_frames: Callable[[], Awaitable[None]]) -> None:
        self.key_id = key_id
        self.log = log
        self.keep_frames = keep_frames
        self.task: asyncio.Task[None] | None = None
        self.admitted = self.cancelled = False


class BackgroundCalls:
    """`worker` is this boot's id, by which recovery finds the unfinished responses of a killed worker."""

    def __init__(self, stored: StoredObjects, worker: bytes, calls_max: int, per_key_max: int, log: Log) -> None:
        self.worker = worker
        self._stored = stored
        self._calls_max = calls_max
        self._per_key_max = per_key_max
        self._log = log
        self._running: dict[bytes, Running] = {}
        self._by_key: Counter[int] = Counter()
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._running)

    def find(self, object_id: bytes) -> Running | None:
        """The call of this response, if it runs in this worker."""
        return self._running.get(object_id)

    def start(self, object_id: bytes, running: Running, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the call. Raises RateLimited when there are too many."""
        key_id = running.key_id
        if len(self._running) >= self._calls_max or self._by_key[key_id] >= self._per_key_max:
            work.close()
            whose = "this API key" if len(self._running) < self._calls_max else "the gateway"
            raise RateLimited(
                f"Too many background responses of {whose} are in progress; wait for one to end.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._running[object_id] = running
        self._by_key[key_id] += 1
        running.task = task = asyncio.create_task(work, name=f"background-{object_id.hex()}")
        task.add_done_callback(lambda _: self._ended(object_id, key_id))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return task

    def _ended(self, object_id: bytes, key_id: int) -> None:
        self._running.pop(object_id, None)
        self._by_key[key_id] -= 1
        if not self._by_key[key_id]:
            del self._by_key[key_id]

    def cancel(self, object_id: bytes) -> None:
        """Cancel the call if it runs here; other workers poll. A call that is already ending is counting its output,
        and a second cancellation would leave its money held."""
        running = self._running.get(object_id)
        if running is not None and running.task is not None and not running.cancelled:
            running.cancelled = True
            running.task.cancel()

    async def drain(self, wait_s: float) -> None:
        """Wait for running calls, at most this long."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)

    async def aclose(self) -> None:
        """Stop the remaining calls: they fail, and are free like every call that a shutdown cuts off
        (`DataPlane.cut_off`)."""
        if self._looking is not None:
            self._looking.cancel()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for running in self._running.values():
            if running.task is not None and not running.cancelled:
                running.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            ids = [object_id for object_id, running in self._running.items() if running.admitted]
            if not self._running:
                self._looking = None
                return
            if not ids:
                continue
            try:
                wanted = await self._stored.still_wanted(ids)
                for object_id in ids:
                    running = self._running.get(object_id)
                    if running is None:
                        continue
                    if object_id not in wanted:
                        self.cancel(object_id)
                    else:
                        await running.keep_frames()
            except Exception as error:
                # Most likely the database is unavailable; the calls continue, and the next poll sees the same.
                self._log.write("background_look_failed", "warning", error=repr(error)[:300])
