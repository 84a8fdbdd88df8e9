"""Beginning a task: hold and row in one transaction, then the provider, then its answer as a step, then the caller.

    read -> route (the same account, where an earlier task is named) -> quote -> hold + row -> ask -> step -> answer

A submit whose fate is unknown is never repeated (guarantee 75): the provider is asked for the task by our own id where
it can be, else the task ends, free, and is listed among the unknown outcomes. The caller's leaving changes nothing: the
task is under way, and can be listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from elkapi.catalog import Match
from elkapi.clock import milliseconds
from elkapi.errors import (
    Conflict,
    ContentBlocked,
    GatewayError,
    InsufficientQuota,
    NoChannel,
    OutcomeUnknown,
    Unavailable,
)
from elkapi.ledger import MARK_TAKEN, IdempotencyPending, IdempotencyReplay, not_covered
from elkapi.observe.trace import HEADER as TRACEPARENT
from elkapi.relay.asking import Asked, read_submit
from elkapi.relay.call import JSON, Call, replay
from elkapi.relay.guarding_submits import looked_at
from elkapi.relay.hold import available_to, claim_of
from elkapi.relay.large import anywhere
from elkapi.relay.note import note, note_end
from elkapi.relay.pictures import to_fetch, with_pictures
from elkapi.relay.placing import (
    check_callback,
    like_its_source,
    mark_taken,
    own_mark_checked,
    planned,
    priced,
    same_account,
)
from elkapi.relay.plane import DataPlane
from elkapi.relay.putting import NativeRefusal, Putting, decoded_json
from elkapi.relay.route import any_model
from elkapi.relay.waiting import wait_s_of, waited
from elkapi.snapshot import Snapshot
from elkapi.storage.repos.tasks import OUTCOME_UNKNOWN, TaskRow, task_id_text
from elkapi.tasks import ending, machine, record
from elkapi.testing.crash import point
from elkapi.types import (
    Attempt,
    Grant,
    HoldOrder,
    NewTask,
    Policy,
    Price,
    Quote,
    RequestRecord,
    State,
    StoredReply,
    TaskStep,
    Usage,
)

STEP_AGAIN_S = 1.0
# The length of a `traceparent` in every known version.
TRACEPARENT_BYTES = 55
# The form of a submit that its provider answers at once: it has a row, by which later calls find its account, but no
# caller sees it as a task.
AT_ONCE = "at-once"
# The form of a task that was requested in a chat and is reported there.
CHAT_FORM = "chat"


async def submit(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Start a task and answer its caller. Raises GatewayError."""
    policy = snapshot.policy_for(grant)
    asked = await read_submit(call, match, plane.catalog.family_of[match.operation.id], policy.aliases)
    wait_s = wait_s_of(asked)
    lease = plane.limits.key(grant.key_id, policy, 0)
    try:
        one = await ready(plane, snapshot, grant, asked, match, call, policy)
        if (stored := await one.reserve()) is not None:
            body = await waited(plane, grant, call, stored.request_id, wait_s) if wait_s else None
            replay(call.reply, stored, body)
            return
        try:
            status, body = await begun(plane, one)
        except NativeRefusal as refusal:
            call.reply.send(refusal.status, JSON, refusal.body)
            return
        if wait_s:
            body = await waited(plane, grant, call, call.id, wait_s)
        call.reply.send(status, JSON, body)
    finally:
        lease.release(0)


async def ready(
    plane: DataPlane,
    snapshot: Snapshot,
    grant: Grant,
    asked: Asked,
    match: Match,
    call: Call,
    policy: Policy,
    *,
    dry: bool = False,
) -> Submit:
    """Prepare a submit up to its hold; `dry`: its callback's address is not challenged. Raises GatewayError."""
    if policy.guards:
        asked = await looked_at(plane, snapshot, grant, asked, match, call, policy)
    if match.operation.model.where == "source":
        asked = await like_its_source(plane, grant, asked)
    elif match.operation.model.where == "any":
        asked = msgspec.structs.replace(asked, model=any_model(snapshot, grant, match.operation))
    if asked.callback_url:
        await check_callback(plane, asked, ask=not dry and asked.refusal is None)
    return await Submit.prepared(plane, snapshot, grant, asked, call)


async def begun(plane: DataPlane, one: Submit) -> tuple[int, bytes]:
    """Send a reserved submit; from here on it continues even without its caller."""
    under_way = asyncio.get_running_loop().create_task(one.run())
    plane.tasks.submits.add(under_way)
    under_way.add_done_callback(plane.tasks.submits.discard)
    try:
        return await asyncio.shield(under_way)
    except asyncio.CancelledError:
        under_way.add_done_callback(_unheard)
        raise


def _unheard(ended: asyncio.Task[Any]) -> None:
    """Ignore a refusal whose caller has left; anything else is reported as an unhandled error."""
    error = None if ended.cancelled() else ended.exception()
    if error is not None and not isinstance(error, GatewayError | NativeRefusal):
        ended.get_loop().call_exception_handler({"message": "a submit failed", "exception": error, "task": ended})


class Submit:
    """One submit from its quote to its answer."""

    def __init__(
        self,
        plane: DataPlane,
        grant: Grant,
        asked: Asked,
        call: Call,
        put: Putting,
        price: Price,
        bound: Quote,
    ) -> None:
        self.plane = plane
        self.grant = grant
        self.asked = asked
        self.price = price
        self.quote = bound
        self.call_id = call.id
        self.started_s = call.started_s
        self.origin = plane.origin(call)
        self.traceparent = (call.header(TRACEPARENT) or b"")[:TRACEPARENT_BYTES].decode("latin-1")
        self.claim = claim_of(call, grant, asked.operation.id, asked.sent)
        self.own_mark = str(asked.body.get(asked.task.mark) or "") if asked.task.mark else ""
        self.put = put
        self.shown: Mapping[str, Any] = {}
        self.kept: record.Asked
        self.task: NewTask

    @classmethod
    async def prepared(cls, plane: DataPlane, snapshot: Snapshot, grant: Grant, asked: Asked, call: Call) -> Submit:
        """Route and quote the submit. Raises ModelForbidden, NoChannel, NoPrice, NotFound for another's task."""
        way, attempts, asked = planned(plane, snapshot, grant, asked)
        named: dict[str, str] = {}
        if asked.refs or asked.files:
            attempts, named = await same_account(plane, grant, asked, attempts, plane.origin(call))
        price, bound = priced(asked, grant, way)
        one = cls(plane, grant, asked, call, Putting(plane, asked, attempts, named, call), price, bound)
        if one.own_mark:
            await own_mark_checked(plane, grant, asked, repeatable=one.claim is not None)
        return one

    # The money and the row

    async def reserve(self) -> StoredReply | None:
        """Hold the most it may cost and create the row; returns the stored reply if this submit was made before.

        Raises InsufficientQuota, Conflict, Unavailable, BadRequest for an image that cannot be downloaded or an own
        name that is taken, and a guardrail's refusal, with a record of it; nothing has started then.
        """
        ledger = self.plane.ledger
        if self.asked.refusal is not None:
            refused = self._refusal_record(self.asked.refusal)
            note(self.plane, refused)
            ledger.record(refused)
            raise self.asked.refusal
        if self.own_mark and self.claim:
            # A submit under an idempotency key may come again, with the name that it came with.
            named = await self.plane.tasks.find_or_none(self.grant, self.own_mark)
            if named is not None and await ledger.wait_reply(self.claim) is None:
                raise mark_taken(self.asked)
        if to_fetch(self.asked):
            # A repeat is answered as before, whatever became of its images.
            if self.claim and (made := await ledger.wait_reply(self.claim)) is not None:
                return made
            # Otherwise anybody with a key could have large files downloaded from anywhere, repeatedly, for free.
            there_nano = await available_to(self.plane, self.grant)
            if self.quote.nano > there_nano:
                raise InsufficientQuota(not_covered(self.quote.nano, there_nano), self.quote.nano)
            self.put.asked = await with_pictures(self.plane, self.asked)
        self.shown = await anywhere(len(self.asked.sent), record.kept_body, self.asked.shown)
        while True:
            point("tasks.hold.before")
            try:
                await ledger.hold(self._order(self._new_task()))
            except IdempotencyReplay as replay:
                return replay.reply
            except IdempotencyPending:
                if self.claim and (reply := await ledger.wait_reply(self.claim)) is not None:
                    return reply
            except Conflict as error:
                if error.code == MARK_TAKEN:
                    raise mark_taken(self.asked) from None
                raise
            else:
                point("tasks.hold.after")
                return None

    def _refusal_record(self, error: GatewayError) -> RequestRecord:
        """The record of a submit that a guardrail refused: nothing was held or sent, and none of its text is stored."""
        plane, grant, asked = self.plane, self.grant, self.asked
        return RequestRecord(
            id=self.call_id,
            key_id=grant.key_id,
            owner_id=grant.owner_id,
            operation=asked.operation.id,
            model=asked.model,
            group=grant.group,
            created_ns=plane.clock.now_ns(),
            duration_ms=milliseconds(plane.clock.monotonic_s() - self.started_s),
            status=error.status,
            outcome=error.code,
            usage=Usage(),
            price_id=self.price.id,
            price_version=self.price.version,
            ratio_micro=self.quote.ratio_micro,
            hold_nano=0,
            charge_nano=0,
            loss_nano=0,
            error_code=error.code,
            asked=asked.said or None,
            guard=error.guard if isinstance(error, ContentBlocked) else None,
        )

    def _order(self, task: NewTask) -> HoldOrder:
        grant, quote, model = self.grant, self.quote, self.asked.model
        return HoldOrder(
            self.call_id, grant.key_id, grant.accounts, quote.nano, model, quote.price.id, self.claim, task
        )

    def _new_task(self) -> NewTask:
        asked, grant = self.asked, self.grant
        task = asked.task
        self.kept = record.Asked(
            body=self.shown,
            group=grant.group,
            price=self.price,
            ratio_micro=self.quote.ratio_micro,
            held_nano=self.quote.nano,
            accounts=grant.accounts,
            upper=self.quote.upper,
            features=asked.features,
            path=asked.operation.upstream.partition(" ")[2],
            mark=task_id_text(self.call_id) if task.mark else "",
            own_mark=self.own_mark,
            places=tuple((one.channel.id, one.key.id) for one in self.put.attempts[: self.plane.settings.attempts_max]),
            asked_model=asked.said,
            callback_url=asked.callback_url,
            origin=self.origin,
            key_name=grant.key_name,
            traceparent=self.traceparent,
        )
        self.task = NewTask(
            id=self.call_id,
            owner_id=grant.owner_id,
            key_id=grant.key_id,
            operation=asked.operation.id,
            wire=asked.operation.wire or "",
            form=AT_ONCE if task.at_once else asked.form,
            model=asked.model,
            created_ns=self.plane.clock.now_ns(),
            asked=record.encode(self.kept),
            own_mark=self.own_mark,
        )
        return self.task

    # The provider

    async def run(self) -> tuple[int, bytes]:
        """(status, body) for the caller. Raises GatewayError, NativeRefusal; the task's step is written in any case."""
        try:
            accepted = await self.put.ask()
        except Exception:
            unknown = bool(self.put.tries) and self.put.tries[-1].fate == "unknown"
            await self._end(OUTCOME_UNKNOWN if unknown else "internal_error", 500)
            raise
        if accepted is None:
            return await self._refused()
        attempt, status, reply = accepted
        return await self._accepted(attempt, status, reply)

    # Results

    async def _accepted(self, attempt: Attempt, status: int, reply: bytes) -> tuple[int, bytes]:
        asked, hooks, now_ns = self.asked, self.asked.family.hooks, self.plane.clock.now_ns()
        reply = record.in_callers_words(self.kept, reply)
        decoded = decoded_json(reply)
        accepted = decoded if hooks.accept is None else hooks.accept(decoded)
        native = machine.native_id(asked.task, accepted)
        if asked.task.at_once:
            return await self._answered_at_once(attempt, status, reply, native)
        first = machine.read(asked.task, accepted)
        # The poller writes an end, with its files and its money.
        state = first.state if first.known and not first.state.is_end else State.QUEUED
        if first.known and first.state.is_end:
            reply = msgspec.json.encode(machine.reopened(asked.task, decoded))
        told = self._told(attempt, reply)
        # Some tasks start at once and are never queued.
        started_ns = now_ns if state is State.RUNNING else None
        stands = self._as_it_stands(state, native, told, version=1, started_ns=started_ns)
        # The caller sees the task as after the step.
        body = self.plane.showing.submitted(asked.form, stands, reply)
        if asked.form != "native":
            # Luma's 201 has no meaning in the other forms.
            status = 200
        step = TaskStep(
            id=self.call_id,
            version=0,
            key_id=self.grant.key_id,
            state=state,
            progress=0,
            now_ns=now_ns,
            started_ns=started_ns,
            native_id=native,
            channel_id=attempt.channel.id,
            channel_key_id=attempt.key.id,
            told=record.encode(told),
            claim=self.claim,
            reply=StoredReply(self.call_id, status, JSON, body),
        )
        point("tasks.accepted.before")
        await self._made(step)
        point("tasks.accepted.after")
        return status, body

    def _told(self, attempt: Attempt, reply: bytes) -> record.Told:
        tries = tuple(self.put.tries)
        return record.Told(reply=msgspec.Raw(reply), attempts=tries, upstream_model=attempt.upstream_model)

    async def _answered_at_once(self, attempt: Attempt, status: int, reply: bytes, native: str) -> tuple[int, bytes]:
        """The answer is the result: charged and stored in one step; later calls find its account by `native`."""
        told = self._told(attempt, reply)
        task = self._as_it_stands(State.QUEUED, native, told, version=0)
        done = ending.succeeded(task, reply, (), (), ending.cost_at_once(task), self.plane.clock.now_ns())
        assert done.settlement is not None
        if await self._made(
            msgspec.structs.replace(
                done,
                native_id=native,
                channel_id=attempt.channel.id,
                channel_key_id=attempt.key.id,
                claim=self.claim,
                reply=StoredReply(self.call_id, status, JSON, reply),
            )
        ):
            note_end(self.plane, task, done.settlement.record, timed=True)
        return status, reply

    def _as_it_stands(
        self, state: State, native: str | None, told: record.Told, *, version: int, started_ns: int | None = None
    ) -> record.Task:
        """The task before or after the step, with the account that it was last sent to."""
        new, last = self.task, self.put.tries[-1] if self.put.tries else None
        row = TaskRow(
            **{name: getattr(new, name) for name in ("id", "owner_id", "key_id", "operation", "wire", "form", "model")},
            state=state.value,
            version=version,
            progress=0,
            native_id=native,
            channel_id=last.channel_id if last else None,
            channel_key_id=last.channel_key_id if last else None,
            worker=None,
            created_ns=new.created_ns,
            updated_ns=new.created_ns,
            started_ns=started_ns,
            finished_ns=None,
            deleted_ns=None,
            error_code=None,
            asked_sealed=b"",
            told_sealed=None,
        )
        return record.Task(row, self.kept, told)

    async def _refused(self) -> tuple[int, bytes]:
        unknown = any(one.fate == "unknown" for one in self.put.tries)
        if unknown and self.asked.task.recall:
            # The poller looks it up by our id; until then its state is unknown, and the money stays held.
            told = record.Told(attempts=tuple(self.put.tries))
            step = self._as_it_stands(State.QUEUED, None, told, version=0).step(self.plane.clock.now_ns())
            step = msgspec.structs.replace(step, told=record.encode(told), claim=self.claim, claim_end="unknown")
            await self._made(step)
        else:
            error = self.put.error
            await self._end(OUTCOME_UNKNOWN if unknown else error.code if error else "internal_error", 502, error)
        if unknown:
            raise OutcomeUnknown(
                f"The provider did not answer, so it is unknown whether the task {task_id_text(self.call_id)} has "
                "started. It is charged only if it has. Look at the task before you submit it again."
            )
        if self.put.native is not None:
            raise self.put.native
        raise self.put.error or NoChannel(
            f"No provider accepted the task for {self.asked.model!r}; please try again later."
        )

    async def _end(self, code: str, status: int, error: GatewayError | None = None) -> None:
        """End a task that never started, or whose state will never be known: it is free."""
        text = error.message if error is not None else "The task was not started."
        task = self._as_it_stands(State.QUEUED, None, record.Told(attempts=tuple(self.put.tries)), version=0)
        done = ending.ended(
            task,
            State.FAILED,
            code,
            text,
            b"",
            self.plane.clock.now_ns(),
            status=error.status if error is not None else status,
            unknown=any(one.fate == "unknown" for one in self.put.tries),
        )
        assert done.settlement is not None
        known = code != OUTCOME_UNKNOWN
        claim_end: Literal["unknown", "forget"] = "forget" if known else "unknown"
        if await self._made(msgspec.structs.replace(done, claim=self.claim, claim_end=claim_end, unnamed=known)):
            note_end(self.plane, task, done.settlement.record, timed=True)

    async def _made(self, step: TaskStep) -> bool:
        """Write the step, however long the ledger takes, since a task without it would belong to nobody.

        A step that recovery took from this worker, which was silent for too long, is made from the current version.
        Returns False for a late step that nobody needs: a failure, or an unknown outcome. Raises OutcomeUnknown if a
        task that the provider did start was given up before.
        """
        while True:
            try:
                if await self.plane.ledger.step(step):
                    return True
                task = await self.plane.tasks.find_or_none(self.grant, task_id_text(step.id))
            except Unavailable:
                await asyncio.sleep(STEP_AGAIN_S)
                continue
            if task is not None and not task.state.is_end and task.row.native_id is None:
                before, step = step, msgspec.structs.replace(step, version=task.row.version)
                if step.version != before.version:
                    continue
            if step.native_id is None:
                return False
            if task is not None and task.row.native_id == step.native_id:
                # An earlier try wrote it, or a poller found the same.
                return True
            raise OutcomeUnknown(
                f"The gateway was interrupted while it submitted the task {task_id_text(step.id)} and has given it up. "
                "It is not charged, but the provider may still be running it; submit it again only if that is harmless."
            )
