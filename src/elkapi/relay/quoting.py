"""`POST /v1/quote`: what the hold of a relayed call would be, by the code that makes it; nothing is held or asked.

The body names a path and the body that would be posted there, and the quote's own headers stand for the call's. A call
that would be refused before its hold is refused here with the same error.
"""

from __future__ import annotations

import msgspec

from elkapi.catalog import Match, Role
from elkapi.errors import BadRequest
from elkapi.ledger import balance
from elkapi.money import format_ratio, format_usd
from elkapi.relay.call import Call
from elkapi.relay.candidates import Candidate, candidates
from elkapi.relay.guarding import guarding_of
from elkapi.relay.hold import Hold
from elkapi.relay.keep import prepared
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import read
from elkapi.snapshot import Snapshot
from elkapi.translate.decode import decode
from elkapi.types import Grant

JSON = ((b"content-type", b"application/json"),)


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path` may carry a query; `body` is kept as its bytes came, since they bound its tokens."""

    path: str
    body: msgspec.Raw


_asked = msgspec.json.Decoder(_Asked)


async def show_quote(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Answer a quote. Raises BadRequest for a path that is not relayed, and whatever the call itself would."""
    asked = decode(_asked, await call.body())
    path, _, query = asked.path.partition("?")
    found = plane.catalog.match("POST", path)
    if found.operation.role is not Role.RELAY:
        raise BadRequest("Only calls that go to a model have a quote; this path is free.", param="path")
    quoted = Call(
        call.id, "POST", path, query, call.headers, call.client_ip, bytes(asked.body), call.reply, call.started_s
    )
    policy = snapshot.policy_for(grant)
    request = await read(quoted, found, policy.aliases)
    if request.facts.stateful:
        request = await prepared(plane, grant, request)
    if policy.guards:
        guarding = await guarding_of(plane, snapshot, policy, grant, request, quoted)
        if guarding.refusal is not None:
            raise guarding.refusal
        request = guarding.request
    among = candidates(plane, snapshot, grant, policy, request, quoted)
    hold = Hold(plane, quoted, grant, among)
    covered = not hold.held_nano or await _covered(plane, hold)
    call.reply.send(200, JSON, msgspec.json.encode(_shown(hold, covered)))


async def _covered(plane: DataPlane, hold: Hold) -> bool:
    """Whether the balance covers the hold, once it is lowered as far as the call itself would lower it."""
    accounts = hold.grant.accounts
    available = await plane.reader.run(
        lambda connection: min(balance(connection, account).available_nano for account in accounts)
    )
    while hold.held_nano > available:
        if not await hold.lower():
            return False
    return True


def _shown(hold: Hold, covered: bool) -> dict[str, object]:
    request = hold.request
    return {
        "object": "quote",
        "operation": request.operation.id,
        **({"asked_model": request.asked} if request.asked else {}),
        **_offer(hold.candidates[0]),
        "hold_nano_usd": hold.held_nano,
        "hold_usd": format_usd(hold.held_nano),
        "covered": covered,
        # What is sent upstream as the limit, where the balance covers no longer answer.
        **({"output_tokens_max": request.output_cap} if request.output_cap is not None else {}),
        "fallbacks": [_offer(candidate) for candidate in hold.candidates[1:]],
    }


def _offer(candidate: Candidate) -> dict[str, object]:
    """One model's own part: the most it may use, at which price, and what that comes to."""
    quote = candidate.quote
    rule = msgspec.to_builtins(quote.price)
    return {
        "model": candidate.request.model,
        "unit": candidate.request.operation.unit,
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
