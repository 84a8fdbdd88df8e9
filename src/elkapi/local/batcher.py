"""The queue of texts waiting for a model and the choice of the next batch; pure: no clock and no thread of its own.

A request becomes a Ticket. A batch starts with the longest waiting text of the ticket served least so far, and is
filled with texts of nearly the same length from any ticket. So padding stays small, requests share batches, and a
short text never waits for the rest of a bulk request.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence

import msgspec


class QueueFull(Exception):
    """No room for another request; `retry_after_s` estimates when there will be."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one model's queue and batches. Token counts include special tokens.

    `batch_tokens_max` bounds how long a new request waits for a lane (about 70 ms at 3,600 tokens/s per core); larger
    batches than 96 tokens are no faster per token. `padding_tokens_max` is about the cost of starting another batch.
    """

    queue_items_max: int = 16_384
    queue_tokens_max: int = 1_048_576
    batch_tokens_max: int = 256
    batch_tokens_min: int = 96
    padding_tokens_max: int = 8
    wait_s: float = 0.002
    retry_after_s_max: int = 60


class Item:
    """One text of a ticket: its token ids and its place in the answer."""

    __slots__ = ("ids", "place", "taken", "ticket")

    def __init__(self, ticket: Ticket, place: int, ids: Sequence[int]) -> None:
        self.ticket = ticket
        self.place = place
        self.ids = ids
        self.taken = False


class Ticket:
    """One request in the queue. `pending` counts texts without a vector; `served` is its virtual time in tokens."""

    __slots__ = ("by_length", "cancelled", "order", "pending", "served")

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.pending = len(texts)
        self.cancelled = False
        self.served = 0.0
        self.order = 0
        self.by_length = sorted((Item(self, place, ids) for place, ids in enumerate(texts)), key=lambda i: len(i.ids))


class Batch(msgspec.Struct, frozen=True):
    """Texts to run together, longest first; `tokens` counts them padded to the first."""

    items: list[Item]
    tokens: int


class Batcher:
    """One model's queue. Not thread-safe: callers that share it must hold a lock."""

    def __init__(self, limits: Limits, lanes: int) -> None:
        self.limits = limits
        self.items_queued = 0
        self.tokens_queued = 0
        self._lanes = lanes
        self._running = 0
        self._tickets: list[tuple[float, int, Ticket]] = []
        self._by_length: dict[int, deque[Item]] = {}
        self._oldest: deque[tuple[float, Ticket]] = deque()
        self._orders = itertools.count()
        self._floor = 0.0
        self._tokens_per_s = 3_000.0 * lanes

    def add(self, ticket: Ticket, now_s: float) -> None:
        """Queue all texts of a ticket or none; raises QueueFull."""
        tokens = sum(len(item.ids) for item in ticket.by_length)
        items = len(ticket.by_length)
        # An empty queue accepts a request of any size, or it could never be served.
        if self.items_queued and not self._fits(items, tokens):
            raise QueueFull(self.retry_after_s())
        self.items_queued += items
        self.tokens_queued += tokens
        ticket.served = self._floor
        ticket.order = next(self._orders)
        heapq.heappush(self._tickets, (ticket.served, ticket.order, ticket))
        self._oldest.append((now_s, ticket))
        for item in ticket.by_length:
            self._by_length.setdefault(len(item.ids), deque()).append(item)

    def _fits(self, items: int, tokens: int) -> bool:
        limits = self.limits
        return (
            self.items_queued + items <= limits.queue_items_max
            and self.tokens_queued + tokens <= limits.queue_tokens_max
        )

    def retry_after_s(self) -> int:
        """Whole seconds until about half of the queue is done, at least 1."""
        return max(1, min(self.limits.retry_after_s_max, round(self.tokens_queued / self._tokens_per_s / 2)))

    def cancel(self, ticket: Ticket) -> None:
        """Remove the ticket's waiting texts; those already in a batch finish and their vectors are dropped."""
        ticket.cancelled = True
        waiting = [item for item in ticket.by_length if not item.taken]
        for item in waiting:
            self._remove(item)
        ticket.by_length.clear()
        for length in {len(item.ids) for item in waiting}:
            left = deque(item for item in self._by_length.pop(length, ()) if not item.taken)
            if left:
                self._by_length[length] = left

    def _remove(self, item: Item) -> None:
        """Mark an item as taken; its entries in the other indexes are dropped when reached."""
        item.taken = True
        self.items_queued -= 1
        self.tokens_queued -= len(item.ids)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until `take` returns a batch: 0 is now, None if nothing waits.

        An idle model never waits. While a lane is busy, a queue too small for an efficient batch waits for more texts.
        """
        if not self.items_queued:
            return None
        if not self._running or self.tokens_queued >= self.limits.batch_tokens_min:
            return 0.0
        self._drop_finished()
        return max(0.0, self._oldest[0][0] + self.limits.wait_s - now_s)

    def _drop_finished(self) -> None:
        while self._oldest and not self._waiting(self._oldest[0][1]):
            self._oldest.popleft()

    @staticmethod
    def _waiting(ticket: Ticket) -> bool:
        while ticket.by_length and ticket.by_length[-1].taken:
            ticket.by_length.pop()
        return bool(ticket.by_length)

    def take(self, now_s: float) -> Batch | None:
        """The next batch, which counts as running until `done`; None if nothing waits or `wait_s` is not 0."""
        if self.wait_s(now_s) != 0.0:
            return None
        head = self._head()
        # A share of the queue, so that the lanes finish a single bulk request together.
        share = -(-self.tokens_queued // (2 * self._lanes))
        budget = min(max(share, self.limits.batch_tokens_min), self.limits.batch_tokens_max)
        items = self._fill(head, budget)
        for item in items:
            item.ticket.served += len(item.ids)
        if self._waiting(head.ticket):
            heapq.heappush(self._tickets, (head.ticket.served, head.ticket.order, head.ticket))
        # New tickets start at the floor. It rises with the work done, so a stream of new tickets cannot starve older
        # ones, but slower than a single ticket's own figure, so one new ticket still goes first.
        tokens = len(items) * len(head.ids)
        self._floor += tokens / (len(self._tickets) + 2)
        self._drop_finished()
        self._running += 1
        return Batch(items, tokens)

    def _head(self) -> Item:
        """The longest waiting text of the ticket served least; the heap's figure may be stale, but never too high."""
        while True:
            served, order, ticket = heapq.heappop(self._tickets)
            if not self._waiting(ticket):
                continue
            if served < ticket.served:
                heapq.heappush(self._tickets, (ticket.served, order, ticket))
                continue
            self._floor = max(self._floor, served)
            return ticket.by_length[-1]

    def _fill(self, head: Item, budget: int) -> list[Item]:
        """The head and texts no longer than it, while the batch and its padding stay within bounds."""
        self._remove(head)
        items, length = [head], len(head.ids)
        padding_left = self.limits.padding_tokens_max
        for shorter in range(length, 0, -1):
            padding = length - shorter
            if padding > padding_left:
                break
            queue = self._by_length.get(shorter)
            while queue and (len(items) + 1) * length <= budget and padding <= padding_left:
                item = queue.popleft()
                if not item.taken:
                    self._remove(item)
                    items.append(item)
                    padding_left -= padding
            while queue and queue[0].taken:
                queue.popleft()
            if queue is not None and not queue:
                del self._by_length[shorter]
        return items

    def done(self, batch: Batch, duration_s: float) -> list[Ticket]:
        """End a batch; returns the tickets that are now complete. Also updates the rate used by `retry_after_s`."""
        self._running -= 1
        if duration_s > 0:
            self._tokens_per_s += (self._lanes * batch.tokens / duration_s - self._tokens_per_s) / 16
        finished = []
        for item in batch.items:
            item.ticket.pending -= 1
            if not item.ticket.pending and not item.ticket.cancelled:
                finished.append(item.ticket)
        return finished

    def failed(self, batch: Batch) -> list[Ticket]:
        """End a batch without vectors; removes its tickets from the queue and returns each once."""
        self._running -= 1
        tickets = {id(item.ticket): item.ticket for item in batch.items if not item.ticket.cancelled}
        for ticket in tickets.values():
            self.cancel(ticket)
        return list(tickets.values())
