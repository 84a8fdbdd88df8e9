"""`background: true`: hops 4 to 8 in a task of the worker, which a caller polls, follows, leaves or cancels.

The caller is answered once the money is held and the response's row is stored. From then on the call ends like any
other: settled exactly once by its hold, together with its row. A killed worker leaves both to recovery.
"""

from __future__ import annotations

import asyncio
import traceback

import msgspec

from elkapi.errors import BadRequest, GatewayError, RateLimited, Unavailable
from elkapi.ids import request_id_text
from elkapi.relay.background_calls import Running
from elkapi.relay.background_log import FrameLog
from elkapi.relay.call import JSON, Call, ClientGone, replay, to_its_end
from elkapi.relay.candidates import candidates
from elkapi.relay.exchange import facts_for
from elkapi.relay.fallback import answer
from elkapi.relay.follow import follow
from elkapi.relay.guarding import guarding_of
from elkapi.relay.hold import Hold
from elkapi.relay.keep import NO_ROOM, ours_of, stored_row, without_input
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.relay.relay import OWN_FAULT, Failed, Left
from elkapi.snapshot import Snapshot
from elkapi.translate.ir import Failure
from elkapi.translate.kept import LOST as STOPPED
from elkapi.translate.kept_stream import with_ours
from elkapi.translate.responses_object import blank_response, error_object
from elkapi.translate.responses_replay import ended, replayed
from elkapi.types import Grant, Policy, StoredObject, StoredReply

CANCELLED = "This response was cancelled."


async def begin(
    plane: DataPlane, snapshot: Snapshot, grant: Grant, policy: Policy, request: Request, call: Call
) -> None:
    """Start the call and answer with its response so far, or with its stream. Raises what `serve` raises."""
    work = _Work(plane, snapshot, grant, policy, request, call)
    plane.background.start(call.id, work.running, work.run())
    try:
        stored = await asyncio.shield(work.admitted)
    except asyncio.CancelledError:
        # The caller left before the answer: nobody will know of this response.
        plane.background.cancel(call.id)
        raise
    if stored is not None:
        replay(call.reply, stored)
    elif request.stream:
        await follow(plane, grant, call.id, -1, call)
    else:
        call.reply.send(200, JSON, work.log.blank)


class _Work:
    """One background call. `admitted`: its money is held and its row stored, or an earlier call's reply exists."""

    def __init__(
        self, plane: DataPlane, snapshot: Snapshot, grant: Grant, policy: Policy, request: Request, call: Call
    ) -> None:
        self.plane, self.snapshot, self.grant, self.policy, self.request = plane, snapshot, grant, policy, request
        assert request.keep is not None
        self.log = FrameLog(_blank(plane, request), request.keep.bytes_max)
        self.call = Call(
            call.id,
            call.method,
            call.path,
            call.query,
            call.headers,
            call.client_ip,
            request.body,
            self.log,
            call.started_s,
        )
        self.running = Running(grant.key_id, self.log, self._keep_frames)
        # Frames reach the tables before the end that follows them, however long sealing takes.
        self._keeping = asyncio.Lock()
        self.hold: Hold | None = None
        self.row: StoredObject
        self.admitted: asyncio.Future[StoredReply | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run hops 4 to 8. Raises only CancelledError before it is admitted."""
        try:
            await self._run()
        except (Failed, Left, ClientGone, GatewayError, asyncio.CancelledError) as error:
            await self._fail(error)
        except Exception as error:
            self.plane.log.write(
                "unexpected", "error", request_id=request_id_text(self.call.id), trace=traceback.format_exc()
            )
            await self._fail(error)
        finally:
            self.log.end()

    async def _run(self) -> None:
        plane, grant, request, call = self.plane, self.grant, self.request, self.call
        lease = plane.limits.key(grant.key_id, self.policy, request.facts.upper.input_tokens)
        try:
            guarding = None
            if self.policy.guards:
                guarding = await guarding_of(plane, self.snapshot, self.policy, grant, request, call)
                self.request = request = guarding.request
            among = candidates(plane, self.snapshot, grant, self.policy, request, call)  # 4, 5
            self.hold = hold = Hold(plane, call, grant, among)
            if guarding is not None:
                await guarding.admit(hold)
            if (stored := await hold.reserve()) is not None:  # 6
                self.admitted.set_result(stored)
                return
            try:
                await self._admit(hold)
                outcome = await answer(plane, hold, self.policy, call)  # 7
                if guarding is not None:
                    await guarding.release(hold, outcome)
                await to_its_end(self._settle(hold, outcome))  # 8
            except BaseException as error:
                await hold.resolve(error)
                raise
            outcome.finish(call.reply)
        finally:
            lease.release(0 if self.hold is None else self.hold.tokens)

    async def _admit(self, hold: Hold) -> None:
        row = stored_row(
            self.plane,
            self.grant,
            self.request,
            self.call.id,
            self.log.blank,
            status="in_progress",
            worker=self.plane.background.worker,
        )
        self.row = row
        if len(row.body) > self.plane.settings.stored_bytes_max:
            raise BadRequest(
                "The input is too large for a background response; send less, or omit `background`.", param="input"
            )
        if not hold.may_keep(len(row.body)):
            raise RateLimited(NO_ROOM, retry_after_s=self.plane.free_kept.until_next_day_s())
        try:
            await self.plane.ledger.keep(row)
        except BaseException:
            # It may have been written nevertheless, and would stay in progress until this worker ends.
            self.running.admitted = True
            raise
        self.running.admitted = True
        if not self.admitted.done():
            self.admitted.set_result(None)

    async def _settle(self, hold: Hold, outcome: Outcome) -> None:
        async with self._keeping:
            await hold.settle(outcome)

    async def _keep_frames(self) -> None:
        # The end is being written, which includes all unstored frames.
        if not self._keeping.locked():
            await to_its_end(self._frames_kept())

    async def _frames_kept(self) -> None:
        log = self.log
        async with self._keeping:
            if (piece := log.unkept()) is None:
                return
            row = msgspec.structs.replace(self.row, body=b"", item_ids=(), frames=piece)
            # From here on the ledger owns them, and retries until they are written.
            log.kept = len(log.frames)
            await self.plane.ledger.keep(row, frames_only=True)

    async def _fail(self, error: BaseException) -> None:
        """Report the failure to whoever waits for admission, otherwise in the response's row and stream."""
        told = self._told(error)
        if not self.admitted.done():
            if isinstance(error, asyncio.CancelledError):
                self.admitted.cancel()
            else:
                self.admitted.set_exception(told)
                self.admitted.exception()  # the waiter may have left
        if not self.running.admitted:
            return
        await to_its_end(self._failure_kept(error, told))

    async def _failure_kept(self, error: BaseException, told: GatewayError) -> None:
        """Store the reason in its row. A failed call is free; if the limit for free ones is reached, its input is
        not kept."""
        log = self.log
        answer = _failed(log.blank, told)
        farewell = error.farewell if isinstance(error, Failed) else b""
        if self.request.stream and not farewell:
            farewell = _farewell(log, answer)
        try:
            async with self._keeping:
                row = stored_row(
                    self.plane,
                    self.grant,
                    self.request,
                    self.call.id,
                    answer,
                    log.unkept(farewell),
                    status="failed",
                    error=told.message,
                )
                hold = self.hold
                freed = hold is not None and hold.held_nano > 0 and not hold.charge_nano
                if freed and not self.plane.free_kept.take(self.grant.key_id, len(row.body) + log.size_bytes):
                    row = without_input(row)
                await self.plane.ledger.keep(row)
        except Unavailable as trouble:
            self.plane.log.write(
                "background_failure_not_kept", "warning", request_id=request_id_text(self.call.id), error=str(trouble)
            )
        log.finish(farewell)

    def _told(self, error: BaseException) -> GatewayError:
        if isinstance(error, Failed):
            return error.error
        if isinstance(error, GatewayError):
            return error
        if isinstance(error, Left | asyncio.CancelledError):
            return GatewayError(CANCELLED if self.running.cancelled else STOPPED)
        return GatewayError(OWN_FAULT)


def _failed(blank: bytes, error: GatewayError) -> bytes:
    """The object of a failed response; its code tells whether to retry."""
    why = error_object(Failure(error.status, error.code, error.message))
    return msgspec.json.encode(msgspec.json.decode(blank) | {"status": "failed", "error": why})


def _farewell(log: FrameLog, response: bytes) -> bytes:
    """The last events of an interrupted stream; without any event so far, all events of a failed response."""
    return ended(response, len(log.frames)) if log.frames else b"".join(replayed(response))


def _blank(plane: DataPlane, request: Request) -> bytes:
    """The response object before the answer."""
    facts = facts_for(request, plane.clock.now_ns() // 1_000_000_000)
    return with_ours(msgspec.json.encode(blank_response(facts) | {"status": "queued"}), ours_of(request))
