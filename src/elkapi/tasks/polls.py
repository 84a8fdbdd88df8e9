"""One poll of an open task: asks its provider, copies results, and writes a step, or says when to poll again.

`machine` interprets the answer, `ending` computes the end. Two pollers that both believe they own a task cannot both
step it, since a step names the version. A timeout is no verdict: after `limit_s` the operator is alerted, and the task
is polled rarely.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.catalog.operation import Operation
from elkapi.catalog.task import TaskSpec
from elkapi.clock import doubled_s
from elkapi.errors import TaskFailed
from elkapi.ledger import StepRefused
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

# The progress in percent of a task that its provider has finished and that has not ended here yet.
NEARLY = 99
# How many ended tasks may wait for their copies without keeping their poll slots.
COPIES_WAITING_MAX = 1000
# The pause after the first failed poll in a row, doubled with each further one.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 4.0, 60.0
# A file that could not be fetched is retried with growing pauses: twelve tries take about half an hour. If our own
# store fails, the copy is retried until it succeeds or the provider no longer has the file.
COPY_AGAIN_FIRST_S = 4.0
COPY_AGAIN_MAX_S = 300.0
RECALL_EVERY_S = 2.0
# How often a submit of unknown outcome is looked up before it counts as never started; more often if nobody answers.
RECALLS_MAX = 6
RECALLS_UNANSWERED_MAX = 120
OVERDUE_EVERY_S = 600.0
STALLED, UNKNOWN_WORD, CHANNEL_GONE = "task_overdue", "task_unknown_word", "task_channel_gone"
STEP_REFUSED, NOT_STORED = "task_step_refused", "task_result_not_stored"
WITHOUT_CHARGE = "task_without_charge"
NOT_BEGUN = "not_begun"
UNKNOWABLE = "The gateway was interrupted while it submitted the task, and cannot ask the provider whether it started."

log = logging.getLogger("elkapi.tasks")


class Watched:
    """An open task in memory: only what polling needs."""

    __slots__ = (
        *("begun_s", "copies", "due_s", "failures", "owned", "place", "poked", "polls", "queued", "running"),
        "withheld",
    )

    def __init__(self, owned: Owned, begun_s: float) -> None:
        self.owned = owned
        # On the monotonic clock, so that setting the wall clock makes no task older and no poll later.
        self.begun_s = begun_s
        self.due_s = 0.0
        self.polls = self.failures = 0
        # Failed tries to copy its files, and those in which the provider did not deliver one.
        self.copies = self.withheld = 0
        # Due, and waiting for a slot of its channel.
        self.queued = False
        self.running = False
        # It was poked during a poll, whose answer may be older than the news: one more poll follows at once.
        self.poked = False
        # During a poll, the channel whose slot it takes, in a tuple as it may be None.
        self.place: tuple[int | None] | None = None


class Polls:
    """What a poller's polls share. `leave_place` frees the slot of a poll for another one. `counts` are for metrics:
    polls, failures, undeclared states, copies, ends by state."""

    def __init__(self, parts: Parts, leave_place: Callable[[Watched], None]) -> None:
        self._parts = parts
        self._leave_place = leave_place
        self._copies = Copies(parts)
        self.counts: Counter[str] = Counter()

    async def of(self, watched: Watched) -> float | None:
        """Poll the task; returns the seconds until the next poll, None if the task has ended. Raises Unavailable."""
        try:
            return await self._poll(watched)
        except StepRefused:
            # Otherwise each further try would poll the provider and copy the files for nothing.
            await self._alert(STEP_REFUSED, watched, {})
            return OVERDUE_EVERY_S

    async def _poll(self, watched: Watched) -> float | None:
        owned = watched.owned
        operation = self._parts.operations[owned.operation]
        watched.polls += 1
        self.counts["polls"] += 1
        if owned.native_id is None:
            return await self._recall(watched, operation)
        account = account_of(self._parts.snapshot(), owned.channel_id, owned.channel_key_id)
        if account is None:
            # A worker may know a new channel, and use it, before this process does.
            await self._parts.refresh()
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
                # It was cancelled, and the confirmation was lost.
                return await self._end(watched, task, ending.cancelled(task, self._parts.clock.now_ns()))
            answer = 0.0
        if isinstance(answer, float):
            watched.failures += 1
            self.counts["failures"] += 1
            return max(answer, backoff_s(watched), await self._next_s(watched, spec))
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
            # The result was made and billed, but its provider kept it for less time than our store was unavailable.
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
        """The whole task; None if another step ended it."""
        task = await self._parts.storage.opened(watched.owned.id)
        return None if task is None or task.state.is_end else task

    async def _moved(self, watched: Watched, state: State, progress: int, raw: bytes) -> bool:
        """Write an intermediate change; False if another step ended the task."""
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
        """Reload the task after another's step; False if it ended."""
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
        # The longer a task has taken, the less a few seconds matter.
        return min(max(poll.every_s, age_s / 20), poll.every_max_s)

    async def _recall(self, watched: Watched, operation: Operation) -> float | None:
        """Look up a submit of unknown outcome at the accounts that it may have reached, if they can find it by our
        id."""
        spec = operation.task
        assert spec is not None
        task = await self._open(watched)
        if task is None:
            return None
        if task.row.native_id is not None:
            # Its worker, taken for gone while it stood still, has begun it meanwhile.
            return 0.0 if await self._refresh(watched) else None
        if not spec.recall:
            return await self._never_known(watched, task, OUTCOME_UNKNOWN, UNKNOWABLE)
        unanswered = False
        for channel_id, key_id in task.asked.places:
            account = account_of(self._parts.snapshot(), channel_id, key_id)
            if account is None:
                # An account that no longer exists here tells nothing; the task may exist there.
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
                    native_id=native,
                    channel_id=channel_id,
                    channel_key_id=key_id,
                )
                await self._parts.ledger.step(step)
                return 0.0 if await self._refresh(watched) else None
        # A submit in progress may be visible only a moment later, so it is looked up several times.
        if watched.polls < (RECALLS_UNANSWERED_MAX if unanswered else RECALLS_MAX):
            return min((self._parts.settings.task_poll_every_s or RECALL_EVERY_S) * watched.polls, 30.0)
        return await self._never_known(watched, task, NOT_BEGUN, "The provider does not know the task.")

    async def _never_known(self, watched: Watched, task: Task, code: str, why: str) -> float | None:
        """End the task free and list it: what the provider billed for it cannot be known here."""
        now_ns = self._parts.clock.now_ns()
        step = ending.ended(task, State.FAILED, code, why, b"", now_ns, unknown=True)
        return await self._end(watched, task, msgspec.structs.replace(step, unnamed=code == NOT_BEGUN))

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
            # Large files do not delay polls of other tasks.
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
            # The result was made and billed, and cannot be fetched.
            loss = ending.cost_of(task, operation, family, reply, ())
            why, now_ns = wording.public(str(failure), task, account), parts.clock.now_ns()
            error = f"The result could not be fetched from the provider: {why}"
            said = wording.kept(str(failure), task, account)
            step = ending.ended(task, State.FAILED, "result_unavailable", error, b"", now_ns, loss=loss, said=said)
            return await self._end(watched, task, step)
        cost = ending.cost_of(task, operation, family, reply, assets)
        if ending.came_to_nothing(task, cost):
            # Before the end, which is final: a success that was held for and is not charged must always be reported.
            await self._alert(WITHOUT_CHARGE, watched, {"held_nano": task.asked.held_nano})
        return await self._end(
            watched, task, ending.succeeded(task, raw, assets, reading.refs, cost, parts.clock.now_ns())
        )

    async def _nearly(self, watched: Watched, task: Task) -> None:
        """While its files are copied, the task is shown as running and nearly finished."""
        owned = watched.owned
        if owned.state == State.RUNNING.value and owned.progress == NEARLY:
            return
        now_ns = self._parts.clock.now_ns()
        started_ns = now_ns if task.state is State.QUEUED else None
        step = msgspec.structs.replace(task.step(now_ns), state=State.RUNNING, progress=NEARLY, started_ns=started_ns)
        await self._parts.ledger.step(self._parts.tell(task, step))
        await self._refresh(watched)

    async def _alert(self, kind: str, watched: Watched, detail: dict[str, object], subject: str = "") -> None:
        """Alert the operator, once."""
        self.counts[kind] += 1
        name = subject or f"task:{rows.task_id_text(watched.owned.id)}"
        detail = {**detail, "task": rows.task_id_text(watched.owned.id)}
        now_ns = self._parts.clock.now_ns()
        is_new = await self._parts.storage.write(
            lambda c: alerts.raise_alert(c, kind=kind, subject=name, detail=detail, now_ns=now_ns)
        )
        if is_new:
            log.warning(kind, extra=detail)


def backoff_s(watched: Watched) -> float:
    """The pause in seconds after a failed poll."""
    return doubled_s(BACKOFF_FIRST_S, watched.failures, BACKOFF_MAX_S)
