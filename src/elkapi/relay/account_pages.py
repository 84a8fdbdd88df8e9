"""What clients of a provider request besides tasks: capabilities, the caller's balance, a ping."""

from __future__ import annotations

from elkapi.catalog import Facts, Match
from elkapi.errors import UpstreamError
from elkapi.money import NANO_PER_CENT
from elkapi.relay.call import JSON, Call, send_json
from elkapi.relay.hold import available_to
from elkapi.relay.plane import DataPlane, Page
from elkapi.relay.read import Request
from elkapi.relay.route import any_model, route, way_of
from elkapi.routing.verdict import is_success
from elkapi.snapshot import Snapshot
from elkapi.tasks.request import ANSWER_BYTES_MAX, request_for
from elkapi.types import Attempt, Grant, Usage
from elkapi.upstream import UpstreamFailure, answer_to
from elkapi.upstream.gcp import TokenRefused


async def asked(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """The answer of any account of the provider to a free request. Raises NoChannel, UpstreamError."""
    operation = match.operation
    model = any_model(snapshot, grant, operation)
    request = Request(operation, model, b"", Facts(model, Usage()))
    attempts = route(plane, snapshot, grant, request, way_of(snapshot, grant, request))
    for attempt in attempts[: plane.settings.attempts_max]:
        if (body := await _answer(plane, match, attempt)) is not None:
            call.reply.send(200, JSON, body)
            return
    raise UpstreamError("The provider did not answer; please try again.")


async def _answer(plane: DataPlane, match: Match, attempt: Attempt) -> bytes | None:
    operation = match.operation
    try:
        request = await request_for(
            plane.signer, plane.settings, operation, attempt.channel, attempt.key, operation.upstream, match.params
        )
        reply = await answer_to(plane.client.send, request, ANSWER_BYTES_MAX)
    except (UpstreamFailure, ValueError, TokenRefused):
        return None
    return reply.body if reply.complete and is_success(reply.status) else None


async def luma_credits(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """The caller's balance in cents, as Luma reports it; never the channel's. Raises Unavailable."""
    nano = await available_to(plane, grant)
    send_json(call, {"credit_balance": nano / NANO_PER_CENT})


async def pong(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Confirm that the gateway is running and accepts this key."""
    call.reply.send(200, JSON, b'{"message":"pong"}')


ACCOUNT_PAGES: dict[str, Page] = {"luma.concepts": asked, "luma.credits": luma_credits, "luma.ping": pong}
