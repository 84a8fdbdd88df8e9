"""Owns open tasks until their end: leases those that nobody owns, and polls each when it is due.

A poller owns tasks through the heartbeat of its ledger: when that stops, recovery frees them for another. An unchanged
task causes no write, and little of it is kept in memory. `polls` does a single poll.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter, defaultdict, deque

from elkapi.catalog.task import TaskSpec
from elkapi.errors import Unavailable
from elkapi.storage.db import cancel_all
from elkapi.storage.repos import tasks as rows
from elkapi.storage.repos.tasks import Owned
from elkapi.tasks.parts import Parts
from elkapi.tasks.polls import Polls, Watched, backoff_s
from elkapi.testing.crash import point

LOOK_S = 0.5
LEASE_AT_ONCE = 500
POLLS_AT_ONCE_MAX = 256
FAILED_S = 2.0

log = logging.getLogger("elkapi.tasks")


class Poller:
    """The poller of a control process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._watched: dict[bytes, Watched] = {}
        self._due: list[tuple[float, bytes]] = []
        self._of_channel: Counter[int | None] = Counter()
        self._waiting: defaultdict[int | None, deque[bytes]] = defaultdict(deque)
        self._running: set[asyncio.Task[None]] = set()
        self._polling = 0
        self._wake = asyncio.Event()
        self._look_at_s = 0.0
        # Whether all tasks that the table assigns to this poller are watched.
        self._all_watched = False
        self._stopped = False
        self._polls = Polls(parts, self._leave_place)
        self.counts = self._polls.counts
        self.lag_s = 0.0

    def __len__(self) -> int:
        return len(self._watched)

    async def run(self) -> None:
        """Poll until `stop`. The ledger must be started, since its heartbeat owns what is leased."""
        clock = self._parts.clock
        try:
            while not self._stopped:
                await self._look()
                self._begin_due()
                wait_s = self._look_at_s - clock.monotonic_s()
                if self._due and self._polling < POLLS_AT_ONCE_MAX:
                    wait_s = min(wait_s, self._due[0][0] - clock.monotonic_s())
                self._wake.clear()
                # Not `asyncio.timeout`, by which nearly every wait would end in a cancellation, at twice the cost.
                alarm = asyncio.get_running_loop().call_later(max(wait_s, 0.0), self._wake.set)
                await self._wake.wait()
                alarm.cancel()
        finally:
            await cancel_all(self._running)

    def stop(self) -> None:
        """Start no further polls, so that `run` returns."""
        self._stopped = True
        self._wake.set()

    async def _look(self) -> None:
        """Lease open tasks that nobody owns, and schedule poked ones now."""
        parts = self._parts
        if parts.clock.monotonic_s() < self._look_at_s:
            return
        try:
            if not self._all_watched:
                self._watch(await parts.storage.read(lambda c: rows.owned(c, parts.owner)))
                self._all_watched = True
            free, poked = await parts.storage.look(lambda c: rows.any_work(c, parts.owner))
            if free:
                # If the answer to the commit is lost they may be ours nevertheless, and then nobody else can lease
                # them.
                self._all_watched = False
                taken = await parts.storage.write(lambda c: rows.lease(c, parts.owner, LEASE_AT_ONCE))
                self._all_watched = True
                self._watch(taken)
                point("tasks.lease.after")
                # Further ones are leased without a pause.
                if len(taken) == LEASE_AT_ONCE:
                    return
            if poked:
                for task_id in await parts.storage.write(lambda c: rows.take_poked(c, parts.owner)):
                    self._poke(task_id)
            self._look_at_s = parts.clock.monotonic_s() + LOOK_S
        except Unavailable:
            self._look_at_s = parts.clock.monotonic_s() + FAILED_S

    def _watch(self, found: list[Owned]) -> None:
        now_s, now_ns = self._parts.clock.monotonic_s(), self._parts.clock.now_ns()
        every_s = self._parts.settings.task_poll_every_s
        for number, one in enumerate(found):
            spec = self._spec(one)
            if spec is None or one.id in self._watched:
                continue
            age_s = max((now_ns - one.created_ns) / 1e9, 0.0)
            wait_s = (every_s or spec.poll.first_s) - age_s
            if wait_s <= 0:
                # Tasks of another poller are spread out instead of all polled at once.
                wait_s = (every_s or spec.poll.every_s) * number / len(found)
            self._schedule(Watched(one, now_s - age_s), now_s + wait_s)

    def _poke(self, task_id: bytes) -> None:
        watched = self._watched.get(task_id)
        # A missing file is retried on its own schedule: callbacks may come in any number, its tries may not.
        if watched is None or watched.copies or watched.queued:
            return
        if watched.running:
            watched.poked = True
        else:
            self._schedule(watched, self._parts.clock.monotonic_s())

    def _schedule(self, watched: Watched, due_s: float) -> None:
        watched.due_s = due_s
        self._watched[watched.owned.id] = watched
        heapq.heappush(self._due, (due_s, watched.owned.id))
        self._wake.set()

    def _spec(self, owned: Owned) -> TaskSpec | None:
        operation = self._parts.operations.get(owned.operation)
        return None if operation is None else operation.task

    def _begin_due(self) -> None:
        now_s, due = self._parts.clock.monotonic_s(), self._due
        per_channel = self._parts.settings.task_polls_per_channel_max
        while due and due[0][0] <= now_s and self._polling < POLLS_AT_ONCE_MAX:
            due_s, task_id = heapq.heappop(due)
            watched = self._watched.get(task_id)
            if watched is None or watched.running or watched.due_s != due_s:
                continue  # An outdated entry of a task that was rescheduled.
            channel_id = watched.owned.channel_id
            if self._of_channel[channel_id] >= per_channel:
                self._waiting[channel_id].append(task_id)
                watched.queued = True
                continue
            self._begin(watched)

    def _begin(self, watched: Watched) -> None:
        now_s = self._parts.clock.monotonic_s()
        self.lag_s = now_s - watched.due_s
        # The next poll is counted from now, so that polls which were late together spread out.
        watched.due_s = now_s
        watched.queued = False
        watched.running = True
        watched.place = (watched.owned.channel_id,)
        self._of_channel[watched.owned.channel_id] += 1
        self._polling += 1
        one = asyncio.get_running_loop().create_task(self._attended(watched))
        self._running.add(one)
        one.add_done_callback(self._running.discard)

    def _leave_place(self, watched: Watched) -> None:
        """Free the slot for another poll, preferably of the same channel."""
        if watched.place is None:
            return
        (channel_id,), watched.place = watched.place, None
        self._polling -= 1
        self._of_channel[channel_id] -= 1
        waiting = self._waiting.get(channel_id)
        while waiting:
            following = self._watched.get(waiting.popleft())
            if following is not None and not following.running:
                self._begin(following)
                break
        else:
            self._waiting.pop(channel_id, None)
        self._wake.set()

    async def _attended(self, watched: Watched) -> None:
        """Poll a task and schedule the next poll; never raises."""
        try:
            again_s = await self._polls.of(watched)
        except Unavailable:
            again_s = FAILED_S
        except Exception:
            log.exception("task_poll_failed", extra={"task": rows.task_id_text(watched.owned.id)})
            watched.failures += 1
            again_s = backoff_s(watched)
        # Before scheduling, since an entry that comes due while its task is being polled is dropped.
        watched.running = False
        self._leave_place(watched)
        if again_s is None:
            self._watched.pop(watched.owned.id, None)
        else:
            # Counted from the start of the poll, not from its answer, so that a slow provider is not polled less often.
            now_s = self._parts.clock.monotonic_s()
            due_s = (watched.due_s if now_s < watched.due_s + again_s else now_s) + again_s
            poked, watched.poked = watched.poked and not watched.copies, False
            self._schedule(watched, now_s if poked else max(now_s, due_s))
