"""Hop 7 over several models: the requested one, then its fallbacks, until one answers.

Nothing here happens after a byte reached the caller. Only the model that answers is charged; what an earlier one billed
for its refusal is the operator's loss. If none answers, the caller gets the error of the requested model.
"""

from __future__ import annotations

from collections.abc import Awaitable

from elkapi.relay.call import Call
from elkapi.relay.hold import Hold
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.relay import Failed, Left, relay
from elkapi.routing.fallback import allows
from elkapi.types import AttemptRecord, Policy


def answer(plane: DataPlane, hold: Hold, policy: Policy, call: Call) -> Awaitable[Outcome]:
    """The first acceptable answer. Raises what `relay` raises, with the attempts of every model tried."""
    if len(hold.candidates) > 1:
        return _in_turn(plane, hold, policy, call)
    only = hold.candidates[0]
    return relay(plane, only.attempts, only.request, call)


async def _in_turn(plane: DataPlane, hold: Hold, policy: Policy, call: Call) -> Outcome:
    tried: tuple[AttemptRecord, ...] = ()
    first_error: Failed | None = None
    refused: Outcome | None = None
    chosen = 0
    for number, candidate in enumerate(hold.candidates):
        hold.answer_with(number)
        is_last = number == len(hold.candidates) - 1
        try:
            outcome = await relay(
                plane, candidate.attempts, candidate.request, call, judging=not is_last and allows(policy, "refusal")
            )
        except Failed as failed:
            failed.attempts = tried = tried + failed.attempts
            if call.reply.started or failed.own_fault:
                if refused is not None:
                    hold.lose(refused, chosen)
                raise
            if number == 0 and (is_last or not allows(policy, failed.reason)):
                raise
            first_error = first_error or failed
        except Left as left:
            left.attempts = tried + left.attempts
            if refused is not None:
                hold.lose(refused, chosen)
            raise
        else:
            outcome.attempts = tried = tried + outcome.attempts
            if not outcome.refused or is_last:
                if refused is not None:
                    hold.lose(refused, chosen)
                return outcome
            if refused is not None:
                hold.lose(outcome, number)
            else:
                refused, chosen = outcome, number
    if refused is not None:
        # No other model did better, so the refusal is the answer.
        hold.answer_with(chosen)
        refused.attempts = tried
        return refused
    assert first_error is not None
    hold.answer_with(0)
    first_error.attempts = tried
    raise first_error
