"""The background responses of one worker: how many there may be, who cancels one, and what is kept of their streams.

A cancellation may come to another worker, so the tables are asked now and then which of ours are still wanted; with the
same beat the frames of their streams go into the tables, for those who follow one from elsewhere.
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
    """One call under way: `keep_frames` puts what its stream has more into the tables."""

    def __init__(self, key_id: int, log: FrameLog, keep_frames: Callable[[], Awaitable[None]]) -> None:
        self.key_id = key_id
        self.log = log
        self.keep_frames = keep_frames
        self.task: asyncio.Task[None] | None = None
        self.admitted = self.cancelled = False


class BackgroundCalls:
    """`worker` is this boot's id, by which recovery finds what a killed worker left unfinished."""

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
        """The call that makes this response, if this worker does."""
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
        """End the call if it is ours; another worker looks itself. Who is ending already is counting what came, and a
        further cancellation would leave its money held."""
        running = self._running.get(object_id)
        if running is not None and running.task is not None and not running.cancelled:
            running.cancelled = True
            running.task.cancel()

    async def drain(self, wait_s: float) -> None:
        """Wait for those under way, at most so long."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)

    async def aclose(self) -> None:
        """End what still runs: it failed, and is free as every call that a stop cuts off (`DataPlane.cut_off`)."""
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
                # The database is away, most likely; the calls go on, and the next look sees the same.
                self._log.write("background_look_failed", "warning", error=repr(error)[:300])
