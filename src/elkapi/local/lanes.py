"""Threads that run one model's batches and wake the waiting requests; `batcher` chooses the batches."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.local.batcher import Batch, Batcher, Limits, Ticket
from elkapi.local.engine import Vectors

log = logging.getLogger(__name__)


class InferenceFailed(Exception):
    """The model failed on a batch this request was part of; other requests are not affected."""


class Model(Protocol):
    """A lane's interface to an engine: token sequences in, vectors of shape [len(batch), dimensions] out.

    `wide`: nothing else runs or waits, so the batch may use every thread.
    """

    def embed(self, batch: Sequence[Sequence[int]], wide: bool) -> Vectors: ...


class _Waiter(Ticket):
    """A ticket with its array of vectors and the future that is waited for."""

    __slots__ = ("future", "vectors")

    def __init__(self, texts: Sequence[Sequence[int]], dimensions: int, future: asyncio.Future[Vectors]) -> None:
        super().__init__(texts)
        self.vectors = np.empty((len(texts), dimensions), np.float32)
        self.future = future


class Lanes:
    """`lanes` threads over one queue, used from one event loop."""

    def __init__(self, model: Model, dimensions: int, limits: Limits, lanes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._model = model
        self._dimensions = dimensions
        self._clock = clock
        self._batcher = Batcher(limits, lanes)
        self._changed = threading.Condition()
        self._closing = False
        self._running = 0
        self._threads = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(lanes)]
        for thread in self._threads:
            thread.start()

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """Vectors in the order of `texts`; raises QueueFull and InferenceFailed. If cancelled, leaves the queue."""
        waiter = _Waiter(texts, self._dimensions, asyncio.get_running_loop().create_future())
        with self._changed:
            self._batcher.add(waiter, self._clock.monotonic_s())
            self._changed.notify(len(texts))
        try:
            return await waiter.future
        except asyncio.CancelledError:
            with self._changed:
                self._batcher.cancel(waiter)
            raise

    def queued(self) -> tuple[int, int]:
        """(texts, tokens) that are waiting."""
        return self._batcher.items_queued, self._batcher.tokens_queued

    def close(self) -> None:
        """End the threads after their current batches; waiting requests are never answered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _next(self) -> tuple[Batch, bool] | None:
        """The next batch and whether it is alone: nothing else runs or waits."""
        with self._changed:
            while not self._closing:
                now_s = self._clock.monotonic_s()
                if batch := self._batcher.take(now_s):
                    self._running += 1
                    return batch, self._running == 1 and not self._batcher.items_queued
                self._changed.wait(self._batcher.wait_s(now_s))
        return None

    def _work(self) -> None:
        while taken := self._next():
            batch, alone = taken
            started_s = self._clock.monotonic_s()
            try:
                vectors = self._model.embed([item.ids for item in batch.items], alone)
            except Exception:
                # Any fault fails only the requests of this batch; the lane continues.
                log.exception("a batch of %d texts failed", len(batch.items))
                with self._changed:
                    self._running -= 1
                    failed = self._batcher.failed(batch)
                    self._changed.notify()
                _wake(failed, ok=False)
                continue
            for item, vector in zip(batch.items, vectors, strict=True):
                if isinstance(item.ticket, _Waiter):
                    item.ticket.vectors[item.place] = vector
            with self._changed:
                self._running -= 1
                finished = self._batcher.done(batch, self._clock.monotonic_s() - started_s)
            _wake(finished, ok=True)


def _wake(tickets: list[Ticket], *, ok: bool) -> None:
    for ticket in tickets:
        if isinstance(ticket, _Waiter):
            loop = ticket.future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, ticket, ok)


def _resolve(waiter: _Waiter, ok: bool) -> None:
    if waiter.future.done():
        return
    if ok:
        waiter.future.set_result(waiter.vectors)
    else:
        waiter.future.set_exception(InferenceFailed("the model failed on this input"))
