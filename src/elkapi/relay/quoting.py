"""`POST /v1/quote`: the hold that a call or task would need, by the code that makes it; nothing is held or sent.

The body contains a path and the body that would be posted there; the quote's own headers stand for the call's. A call
that would be refused before its hold is refused here with the same error.
"""

from __future__ import annotations

import msgspec

from elkapi.catalog import Match, Operation, Role
from elkapi.errors import BadRequest, NoChannel
from elkapi.money import format_ratio, format_usd
from elkapi.relay.asking import read_submit
from elkapi.relay.call import Call, send_json
from elkapi.relay.candidates import candidates
from elkapi.relay.guarding import guarding_of
from elkapi.relay.hold import Hold, available_to
from elkapi.relay.keep import prepared
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import read
from elkapi.relay.submit import Submit, ready
from elkapi.relay.video_chat import makes_videos, ready_chat
from elkapi.snapshot import Snapshot
from elkapi.translate.decode import decode
from elkapi.types import Grant, Quote


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` may include a query; `body` stays as its bytes came, since they bound its tokens."""

    path: str
    body: msgspec.Raw


_asked = msgspec.json.Decoder(_Asked)


async def show_quote(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Answer a quote. Raises BadRequest for a path without a hold, and whatever the call itself would raise."""
    asked = decode(_asked, await call.body())
    path, _, query = asked.path.partition("?")
    found = plane.catalog.match("POST", path)
    if found.operation.role not in (Role.RELAY, Role.SUBMIT):
        raise BadRequest("Only calls to a model can be quoted; this path is free.", param="path")
    quoted = Call(
        call.id, "POST", path, query, call.headers, call.client_ip, bytes(asked.body), call.reply, call.started_s
    )
    policy = snapshot.policy_for(grant)
    if found.operation.role is Role.SUBMIT:
        read_one = await read_submit(quoted, found, plane.catalog.family_of[found.operation.id], policy.aliases)
        one = await ready(plane, snapshot, grant, read_one, found, quoted, policy, dry=True)
        await _show_submit(plane, one, call)
        return
    request = await read(quoted, found, policy.aliases)
    if request.facts.stateful:
        request = await prepared(plane, grant, request)
    refusal = None
    if policy.guards:
        guarding = await guarding_of(plane, snapshot, policy, grant, request, quoted)
        request, refusal = guarding.request, guarding.refusal
    try:
        among = candidates(plane, snapshot, grant, policy, request, quoted)
    except NoChannel:
        if not makes_videos(plane.catalog, snapshot, grant, request):
            raise
        _, one = await ready_chat(plane, snapshot, grant, request, quoted, refusal)
        await _show_submit(plane, one, call)
        return
    if refusal is not None:
        raise refusal
    hold = Hold(plane, quoted, grant, among)
    covered = not hold.held_nano or await _covered(plane, hold)
    send_json(call, _shown(hold, covered))


async def _show_submit(plane: DataPlane, one: Submit, call: Call) -> None:
    """Answer the quote of a task. Raises a guardrail's refusal."""
    asked, quote = one.asked, one.quote
    if asked.refusal is not None:
        raise asked.refusal
    covered = not quote.nano or quote.nano <= await available_to(plane, one.grant)
    shown = _quoted(asked.operation, asked.said, quote.nano, covered, [_offer(quote, asked.model, asked.operation)])
    send_json(call, shown)


async def _covered(plane: DataPlane, hold: Hold) -> bool:
    """Whether the balance covers the hold, lowered as far as the call itself would lower it."""
    available = await available_to(plane, hold.grant)
    while hold.held_nano > available:
        if not await hold.lower():
            return False
    return True


def _shown(hold: Hold, covered: bool) -> dict[str, object]:
    request = hold.request
    offers = [_offer(one.quote, one.request.model, one.request.operation) for one in hold.candidates]
    shown = _quoted(request.operation, request.asked, hold.held_nano, covered, offers)
    # The limit that is sent upstream if the balance does not cover longer answers.
    return shown if request.output_cap is None else {**shown, "output_tokens_max": request.output_cap}


def _quoted(
    operation: Operation, said: str, hold_nano: int, covered: bool, offers: list[dict[str, object]]
) -> dict[str, object]:
    """The quote: the first of `offers` answers, the others are fallbacks. `said` is the caller's name of the model."""
    return {
        "object": "quote",
        "operation": operation.id,
        **({"asked_model": said} if said else {}),
        **offers[0],
        "hold_nano_usd": hold_nano,
        "hold_usd": format_usd(hold_nano),
        "covered": covered,
        "fallbacks": offers[1:],
    }


def _offer(quote: Quote, model: str, operation: Operation) -> dict[str, object]:
    """One model's part: the most it may use, its price, and the amount."""
    rule = msgspec.to_builtins(quote.price)
    return {
        "model": model,
        "unit": operation.unit,
        "upper": quote.upper,
        "price": {
            "id": rule.pop("id"),
            "version": rule.pop("version"),
            "group": quote.group,
            "group_ratio": format_ratio(quote.ratio_micro),
            "rates": {name: value for name, value in rule.items() if name != "model"},
        },
        "most_nano_usd": quote.nano,
        "most_usd": format_usd(quote.nano),
    }


QUOTING_PAGES = {"platform.quote": show_quote}
