"""A bounded queue before a few slots, each a thread that blocks in the runtime.

A caller who leaves stops its answer at the runtime's next chunk. A runtime that yields no more chunks cannot be stopped
from here: `stalled` reports it, and the supervisor restarts the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.local.chat.engine import ChatEngine, EngineRefused
from elkapi.local.serving import Overloaded

log = logging.getLogger("elkapi.local")

ANSWER_EXPECTED_S = 10


class EngineFailed(Exception):
    """The runtime failed on a request; its error is in the log."""


class Generation:
    """One running answer. Used on the event loop, except `take`, which the slot's thread calls."""

    def __init__(self, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        # Bounded by the window: the runtime yields about one chunk per token.
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._clock = clock
        self.left = False
        self.moved_s = clock.monotonic_s()

    def take(self, chunk: bytes) -> bool:
        """Take a chunk from the runtime; True stops it, since the caller left."""
        self.moved_s = self._clock.monotonic_s()
        if not self.left:
            self.put(chunk)
        return self.left

    def put(self, chunk: bytes | Exception | None) -> None:
        """Put a chunk, the error that ended the answer, or None for its end; thread-safe."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    def leave(self) -> None:
        """The caller left; `chunks` ends."""
        self.left = True
        self._chunks.put_nowait(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The runtime's chunks in order; raises EngineRefused and EngineFailed."""
        while True:
            chunk = await self._chunks.get()
            if chunk is None:
                return
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class Slots:
    """`slots` concurrent answers and at most `queue_max` waiting callers, on one event loop."""

    def __init__(self, engine: ChatEngine, slots: int, queue_max: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._slots = slots
        self._queue_max = queue_max
        self._clock = clock
        self._free = asyncio.Semaphore(slots)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="slot")
        self._running: set[Generation] = set()
        self._ended_s = clock.monotonic_s()
        self.waiting = 0

    async def enter(self) -> None:
        """Wait for a free slot, which `run` then uses. Raises Overloaded if too many callers wait already."""
        if self._free.locked() and self.waiting >= self._queue_max:
            retry_after_s = max(1, ANSWER_EXPECTED_S * self.waiting // self._slots)
            message = "Too many calls are waiting for the local model; please try again."
            raise Overloaded(message, retry_after_s=retry_after_s)
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1

    @contextlib.contextmanager
    def run(self, body: bytes) -> Iterator[Generation]:
        """Run an answer in the slot from `enter`. The slot is free again when the runtime's call returns."""
        generation = Generation(self._clock)
        self._running.add(generation)
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._write, generation, body)
        work.add_done_callback(lambda _: self._ended(generation))
        try:
            yield generation
        finally:
            generation.leave()

    def _write(self, generation: Generation, body: bytes) -> None:
        try:
            self._engine.write(body, generation.take)
        except EngineRefused as error:
            generation.put(error)
        except Exception:
            log.exception("the runtime failed on a request")
            generation.put(EngineFailed("the runtime failed on this request"))
        else:
            generation.put(None)

    def _ended(self, generation: Generation) -> None:
        self._running.discard(generation)
        self._ended_s = self._clock.monotonic_s()
        self._free.release()

    @property
    def running(self) -> int:
        return len(self._running)

    def idle_s(self) -> float:
        """Seconds since the last answer ended; 0 while one runs or waits."""
        return 0.0 if self._running or self.waiting else self._clock.monotonic_s() - self._ended_s

    def stalled(self, stall_s: float) -> bool:
        """Whether a running answer has had no chunk for `stall_s` seconds."""
        now_s = self._clock.monotonic_s()
        return any(now_s - generation.moved_s > stall_s for generation in self._running)

    def close(self) -> None:
        """Stop running answers and end the threads."""
        for generation in self._running:
            generation.leave()
        self._pool.shutdown(wait=True, cancel_futures=True)
