"""The request's way, written once: eight hops, each takes values and returns one new value.

    socket -> edge.front -> serve -> [1 match] -> [2 admit] -> [3 read] -> [4 route] -> [5 estimate]
                                  -> [6 hold] -> [7 relay -> upstream] -> [8 settle] -> finish -> socket

A later hop cannot change what an earlier one decided. Errors leave as `GatewayError`; `edge.front` renders them.
"""

from __future__ import annotations

import msgspec

from elkapi.access import UNLIMITED, admit, digest_of
from elkapi.catalog import Role
from elkapi.errors import NoChannel
from elkapi.money import format_usd
from elkapi.relay.background import begin
from elkapi.relay.caching import CACHE_HEADER, recall
from elkapi.relay.call import COST_USD, Call, replay
from elkapi.relay.candidates import candidates
from elkapi.relay.credential import presented_key
from elkapi.relay.fallback import answer
from elkapi.relay.guarding import guarding_of
from elkapi.relay.hold import Hold
from elkapi.relay.keep import prepared
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Admitted, check_coding, read
from elkapi.relay.task_pages import TASK_PAGES
from elkapi.relay.video_chat import makes_videos, video_in_chat


async def serve(plane: DataPlane, call: Call, admitted: Admitted | None = None) -> None:
    """Answer one call. Raises GatewayError or Failed (then no reply is complete), Left, ClientGone.

    `admitted`: a line of a batch, whose hops 1 and 2 are done.
    """
    snapshot = plane.snapshots.current
    if admitted is None:
        match = plane.catalog.match(call.method, call.path)  # 1 what is asked
        if match.operation.role is Role.OPEN:
            await plane.open_pages[match.operation.id](plane, snapshot, match, call)
            return
        memo = call.memo
        if (digest := memo.key_digest) is None:
            digest = memo.key_digest = digest_of(presented_key(call))
        grant = await admit(snapshot, plane.key_cache, plane.key_reader, digest, plane.clock)  # 2 who asks
        check_coding(call)
        role = match.operation.role
        if role is not Role.RELAY:
            page = plane.pages[match.operation.id] if role is Role.GATEWAY else TASK_PAGES[role]
            await page(plane, snapshot, grant, match, call)
            return
    else:
        match, grant = admitted.match, admitted.grant
    policy = snapshot.policy_for(grant)
    request = await read(call, match, policy.aliases)  # 3 bounded bytes, model, size facts
    if admitted is not None:
        request = msgspec.structs.replace(request, line=admitted.line)
    if request.facts.stateful:  # the conversation that the gateway stores, or has stored
        request = await prepared(plane, grant, request)
        if request.keep is not None and request.keep.background:
            await begin(plane, snapshot, grant, policy, request, call)
            return
    lease = plane.limits.key(grant.key_id, policy, request.facts.upper.input_tokens)  # and may they now
    hold: Hold | None = None
    try:
        guarding = None
        if policy.guards:
            guarding = await guarding_of(plane, snapshot, policy, grant, request, call)  # input guardrails
            request = guarding.request
        try:
            among = candidates(plane, snapshot, grant, policy, request, call)  # 4, 5 attempts, their bounds
        except NoChannel:
            if not makes_videos(plane.catalog, snapshot, grant, request):
                raise
            refusal = guarding.refusal if guarding is not None else None
            await video_in_chat(plane, snapshot, grant, request, call, refusal)  # a task, told as a chat
            return
        hold, recalled = Hold(plane, call, grant, among), None
        if guarding is not None:
            await guarding.admit(hold)
        if policy.cache is not None or call.header(CACHE_HEADER) is not None:
            recalled = await recall(plane, snapshot, policy, hold, call)  # or it was answered before
            hold = recalled.hold if recalled is not None else hold
        if (stored := await hold.reserve()) is not None:  # 6 durable before any upstream byte
            replay(call.reply, stored)
            return
        try:
            outcome = recalled.outcome if recalled is not None else None
            if outcome is None:
                outcome = await answer(plane, hold, policy, call)  # 7 send, meter
                if guarding is not None:
                    await guarding.release(hold, outcome)  # output guardrails
            await hold.settle(outcome)  # 8 charge + usage row, one transaction
        except BaseException as error:
            await hold.resolve(error)
            raise
        call.reply.common += b"%b: %b\r\n" % (COST_USD, format_usd(hold.charge_nano).encode())
        outcome.finish(call.reply)  # the last bytes leave after the money is written
        if recalled is not None:
            recalled.keep(outcome)
    finally:
        if lease is not UNLIMITED:
            lease.release(0 if hold is None else hold.tokens)
