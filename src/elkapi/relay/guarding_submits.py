"""Input guardrails of a task's submit, before it is placed, priced and held; outputs of tasks are not checked.

A mask changes the body as read, and so what the provider is sent in any form. A refusal is kept in `Asked`: the submit
is priced for its record and ends at its hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog import Match, Operation
from elkapi.errors import BadRequest
from elkapi.guards.found import Blocked
from elkapi.guards.shapes import Visit
from elkapi.guards.submits import looked_through
from elkapi.relay import forms
from elkapi.relay.asking import FILES, JSON_TYPE, REFS, Asked, asked_for, deciding_names
from elkapi.relay.call import Call
from elkapi.relay.hook import HookDown
from elkapi.relay.large import anywhere
from elkapi.relay.looking import Asker, TooLong, refusal_of, rules_of, too_long
from elkapi.relay.plane import DataPlane
from elkapi.snapshot import Snapshot
from elkapi.types import Grant, Policy


async def looked_at(
    plane: DataPlane, snapshot: Snapshot, grant: Grant, asked: Asked, match: Match, call: Call, policy: Policy
) -> Asked:
    """The submit to continue with: masked, or with its `refusal`. Raises BadRequest for an unreadable body,
    Unavailable for a guardrail that no longer exists."""
    rules = [rule for rule in rules_of(snapshot, policy) if rule.guard.direction != "output"]
    if not rules:
        return asked
    words = _words(match.operation)

    def walk(body: Mapping[str, Any], visit: Visit) -> Mapping[str, Any]:
        return looked_through(body, visit, words)

    asker = Asker(plane, grant, call, match.operation.id, asked.model)
    try:
        body = await asker.looked(asked.body, len(asked.sent), walk, rules, "input")
    except (Blocked, HookDown) as refused:
        return msgspec.structs.replace(asked, refusal=refusal_of(refused))
    except TooLong:
        raise too_long() from None
    except RecursionError:
        raise BadRequest(
            "The guardrails of this API key cannot read the body; send valid JSON.", code="bad_request_body"
        ) from None
    if body == asked.body:
        return asked
    sent, family = msgspec.json.encode(body), plane.catalog.family_of[match.operation.id]
    if asked.content_type != JSON_TYPE:
        sent = await anywhere(len(asked.sent), forms.changed, asked.sent, asked.content_type, asked.body, body)
    return asked_for(match, family, policy.aliases, sent, body, asked.content_type)


def _words(operation: Operation) -> frozenset[str]:
    """The names of members, at any depth, that determine model and price or refer to earlier results."""
    assert operation.meter is not None
    paths = (operation.model.name, *operation.meter.seconds, operation.meter.count, *REFS, *FILES)
    paths += tuple(path for paths in operation.meter.features.values() for path in paths if path[:1] != "=")
    names = {path.rsplit(".", 1)[-1].partition("[")[0].lower() for path in paths}
    return frozenset(names | {name.lower() for name in deciding_names(operation)})
