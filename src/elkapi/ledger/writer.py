"""The group-committing writer: one thread, one transaction for everything queued; `books` executes the orders.

An entry is an order with its waiter. The event loop hands over lists of entries; the thread writes them in batches and
returns each batch with its outcomes in one call, so that a wake-up is paid per batch and not per order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from elkapi.errors import Unavailable, to_operator
from elkapi.ledger.books import Books, Outcome
from elkapi.ledger.orders import Beat, Hold, Order, Refusal, given_back
from elkapi.testing.crash import point

log = logging.getLogger("elkapi.ledger")

# While many calls are in flight the thread waits this long for more orders, unless a fair share of them is queued
# already: a commit costs about as much as writing ten orders, and a saturated loop hands orders over in twos and
# threes.
LINGER_S = 0.000_5
LINGER_FROM_HOLDS = 8
LINGER_SHARE = 4

# Batches up to this size may be written on the loop itself (see `write_now`), but only while this many transactions in
# a row, wherever they were written, took no longer than this. A slow one on the loop also bars the loop for a while, so
# a disk that stalls now and then holds up the loop at most once in that time.
INLINE_ORDERS_MAX = 64
INLINE_FAST_S = 0.025
INLINE_FAST_IN_A_ROW = 16
INLINE_PAUSE_S = 5.0

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
UNREACHABLE = "The ledger cannot be written at the moment; please try again."

Entry = tuple[Order, Any]
Deliver = Callable[[list[Entry], list[Outcome]], None]


class Limits(msgspec.Struct, frozen=True):
    """Limits of the writer: orders per transaction, seconds between heartbeats, seconds between ticks, seconds to
    drain."""

    batch_max: int
    heartbeat_s: float
    tick_s: float
    drain_s: float
    linger_s: float = LINGER_S


class Stats(msgspec.Struct):
    """Counters since the start; changed by whoever holds the writer's lock."""

    transactions: int = 0
    orders: int = 0
    failures: int = 0


class Writer:
    """Takes entries from one event loop; `deliver(entries, outcomes)` is called on that loop, once per transaction.

    A hold that cannot be written is refused as unavailable; a settlement or a heartbeat is kept and retried, since
    giving up on it would leave money held. `abandoned(waiter)` tells that a hold can be skipped because nobody waits
    for it; `again(entry)` returns what to write for an entry that is retried.
    """

    def __init__(
        self,
        open_books: Callable[[], Books],
        deliver: Deliver,
        limits: Limits,
        *,
        beat: Beat | None = None,
        tick: Callable[[], None] | None = None,
        abandoned: Callable[[Any], bool] = lambda waiter: False,
        again: Callable[[Entry], Entry] = lambda entry: entry,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._open_books = open_books
        self._deliver = deliver
        self._limits = limits
        self._beat = beat
        self._tick = tick
        self._abandoned = abandoned
        self._again = again
        self._queue: SimpleQueue[Sequence[Entry] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._books: Books | None = None
        self._owed: list[Entry] = []
        self._retry_s = RETRY_FIRST_S
        self._next_beat_s = 0.0
        self._next_tick_s = 0.0
        self._taken = 0
        self._finished = 0
        self._inline_from_s = 0.0
        self._fast_in_a_row = 0
        self._written_s = monotonic_s()
        self._answered: list[tuple[list[Entry], list[Outcome]]] = []
        self.lock = threading.Lock()
        self.stats = Stats()

    @property
    def depth(self) -> int:
        """Orders that are taken but not answered yet."""
        return self._taken - self._finished

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; call it on the loop that `deliver` runs on."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="elkapi-ledger", daemon=True)
        self._thread.start()

    def submit(self, entries: Sequence[Entry]) -> None:
        """Queue entries. Raises Unavailable if the thread has ended."""
        if not self.alive:
            raise Unavailable(UNREACHABLE)
        self._taken += len(entries)
        self._queue.put(entries)

    @property
    def unwritten_s(self) -> float:
        """Seconds since everything queued, which includes heartbeats, was committed."""
        return self._monotonic_s() - self._written_s

    @property
    def open_holds(self) -> int:
        """Calls in flight whose holds this process made."""
        books = self._books
        return 0 if books is None else books.open_holds

    def write_now(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """Write on the caller's thread, without a queue and two wake-ups; returns None if the thread must do it
        instead.

        Only for SQLite without a flush per commit, and while transactions are measured to be fast: then a write takes
        about as long as handing it over. Anything unusual (work queued, a heartbeat due, another process writing, an
        error) is left to the thread.
        """
        if len(entries) > INLINE_ORDERS_MAX or self.depth or not self.lock.acquire(blocking=False):
            return None
        try:
            books, start_s = self._books, self._monotonic_s()
            if self._fast_in_a_row < INLINE_FAST_IN_A_ROW or start_s < self._inline_from_s:
                return None
            if books is None or start_s >= self._next_beat_s:
                return None
            outcomes = books.apply([entry[0] for entry in entries], patient=False)
            self._written_s = start_s
            self.stats.transactions += 1
            self.stats.orders += len(entries)
        except Exception as error:
            log.debug("batch left to the ledger thread: %r", error)
            return None
        finally:
            self.lock.release()
        point("ledger.after_commit_before_wake")
        if not self._was_fast(start_s):
            self._inline_from_s = self._monotonic_s() + INLINE_PAUSE_S
        return outcomes

    def _was_fast(self, start_s: float) -> bool:
        fast = self._monotonic_s() - start_s <= INLINE_FAST_S
        self._fast_in_a_row = self._fast_in_a_row + 1 if fast else 0
        return fast

    async def stop(self) -> None:
        """Write what is queued and the last heartbeat, then end the thread; what cannot be written in time is left
        to recovery."""
        if self._thread is None:
            return
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, self._limits.drain_s + 10.0)
        # Lets the deliveries of the last batches, already scheduled on the loop, run.
        await asyncio.sleep(0)

    # The thread

    def _run(self) -> None:
        try:
            while self._gather_and_write():
                pass
            self._end()
        except BaseException:
            log.critical("the ledger writer stopped", exc_info=True)
            raise
        finally:
            if self._books is not None:
                self._books.close()

    def _gather_and_write(self) -> bool:
        """One round; False if asked to stop."""
        entries, goes_on = self._gather()
        if self._owed:
            entries, self._owed = [*map(self._again, self._owed), *entries], []
        self._write_in_batches(entries)
        now_s = self._monotonic_s()
        if self._tick is not None and now_s >= self._next_tick_s:
            self._next_tick_s = now_s + self._limits.tick_s
            self._run_tick()
        return goes_on

    def _write_in_batches(self, entries: list[Entry]) -> None:
        before, start_s = self.stats.failures, self._monotonic_s()
        for start in range(0, len(entries), self._limits.batch_max):
            self._write_and_wake(entries[start : start + self._limits.batch_max])
        # A full disk may accept a heartbeat, for which SQLite's log has room, but not what is owed besides it.
        if entries and self.stats.failures == before:
            self._written_s = start_s

    def _gather(self) -> tuple[list[Entry], bool]:
        queue, batch_max = self._queue, self._limits.batch_max
        entries: list[Entry] = []
        try:
            part = queue.get(timeout=self._patience_s())
            lingered = False
            while True:
                if part is None:
                    return self._with_beat(entries), False
                entries += part
                if len(entries) >= batch_max:
                    break
                try:
                    part = queue.get_nowait()
                except Empty:
                    if lingered or not self._company_is_near(len(entries)):
                        break
                    lingered = True
                    time.sleep(self._limits.linger_s)
                    part = queue.get_nowait()
        except Empty:
            pass
        return self._with_beat(entries), True

    def _company_is_near(self, queued: int) -> bool:
        in_flight = self._books.open_holds if self._books is not None else 0
        return in_flight >= LINGER_FROM_HOLDS and queued * LINGER_SHARE < in_flight

    def _patience_s(self) -> float:
        if self._owed or self._retry_s > RETRY_FIRST_S:
            # The last transaction failed, and its heartbeat is overdue: waiting only until that is due would be no
            # pause.
            return self._retry_s
        due_s = self._next_beat_s if self._beat is not None else self._monotonic_s() + self._limits.heartbeat_s
        return min(max(due_s - self._monotonic_s(), 0.001), self._limits.heartbeat_s)

    def _with_beat(self, entries: list[Entry]) -> list[Entry]:
        """Put a due heartbeat first, in the same transaction, so that no owner that looks dead commits a hold."""
        now_s = self._monotonic_s()
        if self._beat is None or now_s < self._next_beat_s:
            return entries
        self._next_beat_s = now_s + self._limits.heartbeat_s
        return [(self._beat, None), *entries]

    def _write_and_wake(self, entries: list[Entry]) -> None:
        with self.lock:
            self._write(entries)
        # Woken after releasing the lock: otherwise the loop's next order would find it taken and come back to this
        # thread.
        answered, self._answered = self._answered, []
        assert self._loop is not None
        for done, outcomes in answered:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver, done, outcomes)

    def _write(self, entries: list[Entry]) -> None:
        if len(entries) == self._limits.batch_max or self._books is None:
            # The writer is behind: skip holds whose callers have given up.
            wanted = [entry for entry in entries if type(entry[0]) is not Hold or not self._abandoned(entry[1])]
            self._finished += len(entries) - len(wanted)
            entries = wanted
        if not entries:
            return
        try:
            if self._books is None:
                self._books = self._open_books()
            start_s = self._monotonic_s()
            outcomes = self._books.apply([entry[0] for entry in entries])
        except Exception as error:
            self._fail(entries, error)
            return
        self._was_fast(start_s)
        point("ledger.after_commit_before_wake")
        self._retry_s = RETRY_FIRST_S
        self.stats.transactions += 1
        self._answer(entries, outcomes)

    def _fail(self, entries: list[Entry], error: Exception) -> None:
        log.error("a ledger transaction (orders: %d) failed: %s", len(entries), to_operator(error))
        self.stats.failures += 1
        self._fast_in_a_row = 0
        in_doubt = self._books is not None and self._books.in_doubt
        if self._books is not None:
            self._books.close()
            self._books = None
        self._next_beat_s = 0.0
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
        refused = [entry for entry in entries if type(entry[0]) is Hold]
        self._owed += [entry for entry in entries if type(entry[0]) is not Hold and entry[0] is not self._beat]
        if in_doubt:
            # These holds are refused below but may have been made, and nobody else would release them.
            self._owed += [(given_back(order), None) for order, _ in entries if isinstance(order, Hold)]
            self._finished -= len(refused)
        self._answer(refused, [Refusal("unavailable", UNREACHABLE)] * len(refused))

    def _answer(self, entries: list[Entry], outcomes: list[Outcome]) -> None:
        self.stats.orders += len(entries)
        self._finished += sum([entry[0] is not self._beat for entry in entries])
        self._answered.append((entries, outcomes))

    def _run_tick(self) -> None:
        assert self._tick is not None
        try:
            self._tick()
        except Exception as error:
            log.error("ledger recovery failed: %s", to_operator(error))

    def _end(self) -> None:
        deadline_s = self._monotonic_s() + self._limits.drain_s
        while self._owed and self._monotonic_s() < deadline_s:
            time.sleep(self._retry_s)
            owed, self._owed = [*map(self._again, self._owed)], []
            self._write_and_wake(owed)
        if self._owed:
            log.error("%d settlements left to recovery", len(self._owed))
        elif self._beat is not None:
            self._write_and_wake([(msgspec.structs.replace(self._beat, ended=True), None)])
