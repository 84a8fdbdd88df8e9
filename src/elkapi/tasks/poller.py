"""Owns every open task until its end: asks its provider when it is due, copies what was made, and steps it, once.

A poller owns tasks through the heartbeat of its ledger: when that stops, recovery frees them for another. While a task
stays as it was nothing is written, and little of it is in memory. What an answer means is `machine`'s, what an end
comes to `ending`'s; two pollers that believe in the same task cannot both step it, since a step names the version.
Giving up waiting is no verdict: after `limit_s` the operator is told, and the task is asked about rarely.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections import Counter, defaultdict, deque
from typing import Any

import msgspec

from elkapi.catalog.operation import Operation
from elkapi.catalog.task import TaskSpec
from elkapi.clock import doubled_s
from elkapi.errors import TaskFailed, Unavailable
from elkapi.ledger import StepRefused
from elkapi.storage.db import cancel_all
from elkapi.storage.repos import alerts
from elkapi.storage.repos import tasks as rows
from elkapi.storage.repos.tasks import OUTCOME_UNKNOWN, Owned
from elkapi.tasks import ending, machine, record, wording
from elkapi.tasks.asking import Account, account_of, asked
from elkapi.tasks.copying import Copies, CopyFailed
from elkapi.tasks.parts import Parts
from elkapi.tasks.record import Task
from elkapi.testing.crash import point
from elkapi.translate.task_views import readdressed
from elkapi.types import State, TaskStep

# The progress of a task whose provider is done, in percent, until it has ended here.
NEARLY = 99
LOOK_S = 0.5
LEASE_AT_ONCE = 500
POLLS_AT_ONCE_MAX = 256
# So many ended tasks may wait for their copies without keeping their places as polls.
COPIES_WAITING_MAX = 1000
FAILED_S = 2.0
# After the first poll in a row that failed, doubled with each further one.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 4.0, 60.0
# A file that could not be fetched is tried again later each time: twelve tries take about half an hour. One that our
# own store does not take is tried until it does, or until its provider has it no longer.
COPY_AGAIN_FIRST_S = 4.0
COPY_AGAIN_MAX_S = 300.0
RECALL_EVERY_S = 2.0
# A submit of unknown outcome is asked about this often before it counts as never begun; where nobody answers, longer.
RECALLS_MAX = 6
RECALLS_UNANSWERED_MAX = 120
OVERDUE_EVERY_S = 600.0
STALLED, UNKNOWN_WORD, CHANNEL_GONE = "task_overdue", "task_unknown_word", "task_channel_gone"
STEP_REFUSED, NOT_STORED = "task_step_refused", "task_result_not_stored"
WITHOUT_CHARGE = "task_without_charge"
NOT_BEGUN = "not_begun"
UNKNOWABLE = "The gateway was interrupted while it began the task, and the provider cannot be asked for it."

log = logging.getLogger("elkapi.tasks")


class Watched:
    """An open task in memory: what is needed to ask about it again, and no more."""

    __slots__ = (
        *("begun_s", "copies", "due_s", "failures", "owned", "place", "poked", "polls", "queued", "running"),
        "withheld",
    )

    def __init__(self, owned: Owned, begun_s: float) -> None:
        self.owned = owned
        # On the monotonic clock: setting the wall clock makes no task older, and no poll later.
        self.begun_s = begun_s
        self.due_s = 0.0
        self.polls = self.failures = 0
        # Tries to copy its files that failed, and those of them in which its provider did not give one.
        self.copies = self.withheld = 0
        # Due, and waiting for a place of its channel.
        self.queued = False
        self.running = False
        # Somebody wants it asked about while a poll is under way, whose answer may be older than their news: one more
        # poll follows at once.
        self.poked = False
        # While it is asked about: the channel one of whose places for polls it takes, in a tuple as it may be None.
        self.place: tuple[int | None] | None = None


class Poller:
    """One of a control process. `counts` are for metrics: polls, failures, unknown words, copies, ends by state."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._watched: dict[bytes, Watched] = {}
        self._due: list[tuple[float, bytes]] = []
        self._of_channel: Counter[int | None] = Counter()
        self._waiting: defaultdict[int | None, deque[bytes]] = defaultdict(deque)
        self._running: set[asyncio.Task[None]] = set()
        self._polling = 0
        self._copies = Copies(parts)
        self._wake = asyncio.Event()
        self._look_at_s = 0.0
        # Whether every task that is this poller's by its row is watched.
        self._all_watched = False
        self._stopped = False
        self.counts: Counter[str] = Counter()
        self.lag_s = 0.0

    def __len__(self) -> int:
        return len(self._watched)

    async def run(self) -> None:
        """Poll until `stop`. The ledger must have been started, so that its heartbeat owns what is leased."""
        clock = self._parts.clock
        try:
            while not self._stopped:
                await self._look()
                self._begin_due()
                wait_s = self._look_at_s - clock.monotonic_s()
                if self._due and self._polling < POLLS_AT_ONCE_MAX:
                    wait_s = min(wait_s, self._due[0][0] - clock.monotonic_s())
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(wait_s, 0.0)):
                        await self._wake.wait()
        finally:
            await cancel_all(self._running)

    def stop(self) -> None:
        """Begin nothing more; `run` then returns."""
        self._stopped = True
        self._wake.set()

    # What to ask about

    async def _look(self) -> None:
        """Take open tasks that nobody owns, and ask at once about those that somebody poked."""
        parts = self._parts
        if parts.clock.monotonic_s() < self._look_at_s:
            return
        try:
            if not self._all_watched:
                self._watch(await parts.storage.read(lambda c: rows.owned(c, parts.owner)))
                self._all_watched = True
            free, poked = await parts.storage.look(lambda c: rows.any_work(c, parts.owner))
            if free:
                # When the answer to the commit is lost they may be ours all the same, and free for nobody else.
                self._all_watched = False
                taken = await parts.storage.write(lambda c: rows.lease(c, parts.owner, LEASE_AT_ONCE))
                self._all_watched = True
                self._watch(taken)
                point("tasks.lease.after")
                # More than fit at once are taken without a pause.
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
                # What another poller left behind comes in turn, not all at once.
                wait_s = (every_s or spec.poll.every_s) * number / len(found)
            self._schedule(Watched(one, now_s - age_s), now_s + wait_s)

    def _poke(self, task_id: bytes) -> None:
        watched = self._watched.get(task_id)
        # A file that was not there is asked for in its own time: callbacks may come in any number, its tries may not.
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
                continue  # An older entry of a task that was scheduled anew.
            channel_id = watched.owned.channel_id
            if self._of_channel[channel_id] >= per_channel:
                self._waiting[channel_id].append(task_id)
                watched.queued = True
                continue
            self._begin(watched)

    def _begin(self, watched: Watched) -> None:
        now_s = self._parts.clock.monotonic_s()
        self.lag_s = now_s - watched.due_s
        # The next poll counts from now: polls that were late together spread out instead of being late together again.
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
        """Let another poll begin, of the same channel first."""
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
        """One look at a task, and when the next one is; never raises."""
        try:
            try:
                again_s = await self._poll(watched)
            except StepRefused:
                # Each further try asks the provider, and copies what was made, for nothing.
                await self._alert(STEP_REFUSED, watched, {})
                again_s = OVERDUE_EVERY_S
        except Unavailable:
            again_s = FAILED_S
        except Exception:
            log.exception("task_poll_failed", extra={"task": rows.task_id_text(watched.owned.id)})
            watched.failures += 1
            again_s = _backoff_s(watched)
        # Before it is scheduled: an entry that comes due while its task still runs would be dropped.
        watched.running = False
        self._leave_place(watched)
        if again_s is None:
            self._watched.pop(watched.owned.id, None)
        else:
            # From when it was begun and not from when its answer came: a slow provider makes no poll rarer.
            now_s = self._parts.clock.monotonic_s()
            due_s = (watched.due_s if now_s < watched.due_s + again_s else now_s) + again_s
            poked, watched.poked = watched.poked and not watched.copies, False
            self._schedule(watched, now_s if poked else max(now_s, due_s))

    # One look

    async def _poll(self, watched: Watched) -> float | None:
        """Seconds until the next look, None when the task came to its end. Raises Unavailable."""
        owned = watched.owned
        operation = self._parts.operations[owned.operation]
        watched.polls += 1
        self.counts["polls"] += 1
        if owned.native_id is None:
            return await self._recall(watched, operation)
        account = account_of(self._parts.snapshot(), owned.channel_id, owned.channel_key_id)
        if account is None:
            await self._alert(CHANNEL_GONE, watched, {"channel": owned.channel_id})
            return OVERDUE_EVERY_S
        spec = operation.task
        assert spec is not None
        submit_path = operation.upstream.partition(" ")[2]
        answer = await asked(
            self._parts.way, operation, account, spec.fetch, {"id": owned.native_id, "submit": submit_path}
        )
        if answer is None:
            task = await self._open(watched)
            if task is None:
                return None
            if task.told.cancel_asked:
                # It was, and the word of it did not come back to whoever asked.
                return await self._end(watched, task, ending.cancelled(task, self._parts.clock.now_ns()))
            answer = 0.0
        if isinstance(answer, float):
            watched.failures += 1
            self.counts["failures"] += 1
            return max(answer, _backoff_s(watched), await self._next_s(watched, spec))
        watched.failures = 0
        reply, raw = answer
        reading = machine.read(spec, reply)
        if not reading.known:
            self.counts["unknown_words"] += 1
            await self._alert(
                UNKNOWN_WORD, watched, {"word": reading.word[:60]}, subject=f"{operation.id}:{reading.word[:60]}"
            )
        if not reading.state.is_end:
            return await self._goes_on(watched, spec, reading, raw)
        if reading.state is State.SUCCEEDED:
            return await self._finish(watched, operation, account, reading, reply, raw)
        task = await self._open(watched)
        if task is None:
            return None
        code = reading.error_code or {State.CANCELLED: "cancelled", State.EXPIRED: "expired"}.get(
            reading.state, TaskFailed.code
        )
        said = ""
        if words := wording.unfit(spec, reply, task, account):
            said = wording.kept(reading.error, task, account)
            reading = machine.read(spec, readdressed(reply, words))
            raw = record.encode(readdressed(msgspec.json.decode(raw), words))
        loss = None
        if watched.copies and reading.error_code == machine.NO_RESULT:
            # It was made and billed, and its provider kept it for a shorter time than our store was away.
            loss = ending.cost_of(task, operation, self._parts.way.families[operation.id], reply, ())
        now_ns = self._parts.clock.now_ns()
        step = ending.ended(task, reading.state, code, reading.error, raw, now_ns, loss=loss, said=said)
        return await self._end(watched, task, step)

    async def _goes_on(self, watched: Watched, spec: TaskSpec, reading: machine.Reading, raw: bytes) -> float | None:
        owned = watched.owned
        progress = max(owned.progress, min(reading.progress or 0, NEARLY))
        changed = reading.state.value != owned.state or progress != owned.progress
        if changed and not await self._moved(watched, reading.state, progress, raw):
            return None
        return await self._next_s(watched, spec)

    async def _open(self, watched: Watched) -> Task | None:
        """The whole task; None when it came to its end by somebody else's step."""
        task = await self._parts.storage.opened(watched.owned.id)
        return None if task is None or task.state.is_end else task

    async def _moved(self, watched: Watched, state: State, progress: int, raw: bytes) -> bool:
        """Write a change on the way; False when the task came to its end by somebody else's step."""
        owned, now_ns = watched.owned, self._parts.clock.now_ns()
        told, task = None, None
        if state.value != owned.state:
            task = await self._open(watched)
            if task is None:
                return False
            told = record.encode(msgspec.structs.replace(task.told, reply=msgspec.Raw(raw), polled=True))
        step = TaskStep(
            id=owned.id,
            version=owned.version,
            key_id=0,
            state=state,
            progress=progress,
            now_ns=now_ns,
            started_ns=now_ns if state is State.RUNNING and owned.state == State.QUEUED.value else None,
            told=told,
        )
        if not await self._parts.ledger.step(step if task is None else self._parts.tell(task, step)):
            return await self._refresh(watched)
        watched.owned = msgspec.structs.replace(owned, version=owned.version + 1, state=state.value, progress=progress)
        return True

    async def _refresh(self, watched: Watched) -> bool:
        """Somebody else made a step: see the task as it is now; False when it ended."""
        row = await self._parts.storage.read(lambda c: rows.read(c, watched.owned.id))
        if row is None or State(row.state).is_end:
            return False
        watched.owned = msgspec.structs.replace(
            watched.owned,
            version=row.version,
            state=row.state,
            progress=row.progress,
            native_id=row.native_id,
            channel_id=row.channel_id,
            channel_key_id=row.channel_key_id,
        )
        return True

    async def _end(self, watched: Watched, task: Task, step: TaskStep) -> float | None:
        point("tasks.end.before")
        if await self._parts.ledger.step(self._parts.tell(task, step)):
            point("tasks.end.after")
            self.counts[f"ended_{step.state.value}"] += 1
            if step.settlement is not None:
                self._parts.ended(task, step.settlement.record)
            return None
        return 0.0 if await self._refresh(watched) else None

    async def _next_s(self, watched: Watched, spec: TaskSpec) -> float:
        poll, age_s = spec.poll, self._parts.clock.monotonic_s() - watched.begun_s
        if age_s > poll.limit_s:
            await self._alert(STALLED, watched, {"age_s": round(age_s)})
            return OVERDUE_EVERY_S
        if every_s := self._parts.settings.task_poll_every_s:
            return every_s
        # The longer it took so far, the less a few seconds matter.
        return min(max(poll.every_s, age_s / 20), poll.every_max_s)

    async def _recall(self, watched: Watched, operation: Operation) -> float | None:
        """A submit of unknown outcome: ask the accounts that it may have reached, where they know our own id of it."""
        spec = operation.task
        assert spec is not None
        task = await self._open(watched)
        if task is None:
            return None
        if not spec.recall:
            return await self._never_known(watched, task, OUTCOME_UNKNOWN, UNKNOWABLE)
        unanswered = False
        for channel_id, key_id in task.asked.places:
            account = account_of(self._parts.snapshot(), channel_id, key_id)
            if account is None:
                # An account that is gone from here says nothing; the task may be there all the same.
                unanswered = True
                continue
            values = {"mark": task.asked.mark, "submit": task.asked.path}
            answer = await asked(self._parts.way, operation, account, spec.recall, values)
            if isinstance(answer, float):
                unanswered = True
                continue
            if answer is not None and (native := machine.native_id(spec, answer[0])):
                step = msgspec.structs.replace(
                    task.step(self._parts.clock.now_ns()),
                    state=State.QUEUED,
                    progress=0,
                    native_id=native,
                    channel_id=channel_id,
                    channel_key_id=key_id,
                )
                await self._parts.ledger.step(step)
                return 0.0 if await self._refresh(watched) else None
        # What is under way may be known only a moment later: so it is asked some times.
        if watched.polls < (RECALLS_UNANSWERED_MAX if unanswered else RECALLS_MAX):
            return min((self._parts.settings.task_poll_every_s or RECALL_EVERY_S) * watched.polls, 30.0)
        return await self._never_known(watched, task, NOT_BEGUN, "The provider does not know the task.")

    async def _never_known(self, watched: Watched, task: Task, code: str, why: str) -> float | None:
        """It ends free, and is listed: what the provider billed of it all the same, nobody here can know."""
        now_ns = self._parts.clock.now_ns()
        return await self._end(watched, task, ending.ended(task, State.FAILED, code, why, b"", now_ns, unknown=True))

    # What was made

    async def _finish(
        self,
        watched: Watched,
        operation: Operation,
        account: Account,
        reading: machine.Reading,
        reply: Any,
        raw: bytes,
    ) -> float | None:
        parts = self._parts
        task = await self._open(watched)
        if task is None:
            return None
        family = parts.way.families[operation.id]
        if self._copies.waiting < COPIES_WAITING_MAX:
            # Big files keep nobody from asking about other tasks.
            self._leave_place(watched)
        try:
            assets = await self._copies.of(task, operation, account, reading)
        except CopyFailed as failure:
            watched.copies += 1
            watched.withheld += not failure.ours
            self.counts["copies_failed"] += 1
            tries_max = parts.settings.asset_copy_tries_max
            if failure.again and (failure.ours or watched.withheld < tries_max):
                if failure.ours and watched.copies >= tries_max:
                    await self._alert(NOT_STORED, watched, {"error": str(failure)[:200]})
                await self._nearly(watched, task)
                return doubled_s(COPY_AGAIN_FIRST_S, watched.copies, COPY_AGAIN_MAX_S)
            # It was made and billed, and nobody can have it.
            loss = ending.cost_of(task, operation, family, reply, ())
            why, now_ns = wording.public(str(failure), task, account), parts.clock.now_ns()
            error = f"The result could not be fetched from the provider: {why}"
            said = wording.kept(str(failure), task, account)
            step = ending.ended(task, State.FAILED, "result_unavailable", error, b"", now_ns, loss=loss, said=said)
            return await self._end(watched, task, step)
        cost = ending.cost_of(task, operation, family, reply, assets)
        if ending.came_to_nothing(task, cost):
            # Before the end, which is final: a task that was held for and came to nothing is never silent.
            await self._alert(WITHOUT_CHARGE, watched, {"held_nano": task.asked.held_nano})
        return await self._end(
            watched, task, ending.succeeded(task, raw, assets, reading.refs, cost, parts.clock.now_ns())
        )

    async def _nearly(self, watched: Watched, task: Task) -> None:
        """While its files are waited for, a task is told as one that runs and is all but done."""
        owned = watched.owned
        if owned.state == State.RUNNING.value and owned.progress == NEARLY:
            return
        now_ns = self._parts.clock.now_ns()
        started_ns = now_ns if task.state is State.QUEUED else None
        step = msgspec.structs.replace(task.step(now_ns), state=State.RUNNING, progress=NEARLY, started_ns=started_ns)
        await self._parts.ledger.step(self._parts.tell(task, step))
        await self._refresh(watched)

    async def _alert(self, kind: str, watched: Watched, detail: dict[str, object], subject: str = "") -> None:
        """Tell the operator, once."""
        self.counts[kind] += 1
        name = subject or f"task:{rows.task_id_text(watched.owned.id)}"
        detail = {**detail, "task": rows.task_id_text(watched.owned.id)}
        now_ns = self._parts.clock.now_ns()
        is_new = await self._parts.storage.write(
            lambda c: alerts.raise_alert(c, kind=kind, subject=name, detail=detail, now_ns=now_ns)
        )
        if is_new:
            log.warning(kind, extra=detail)


def _backoff_s(watched: Watched) -> float:
    return doubled_s(BACKOFF_FIRST_S, watched.failures, BACKOFF_MAX_S)
