"""What the outcome of one attempt means: accept it, try the next channel, or tell the caller it failed. One pure table.

| outcome                                     | action | cools down | may be billed |
|---------------------------------------------|--------|------------|---------------|
| 2xx with a body that can be an answer       | accept | -          | yes           |
| 2xx with anything else                      | next   | channel    | unknown       |
| never connected, refused, TLS failed        | next   | channel    | no            |
| sent, then no head, no byte, cut, timed out | next   | channel    | unknown       |
| a pooled connection turns out to be closed  | again  | -          | unknown       |
| 400 409 413 415 422 and other 4xx           | fail   | -          | no            |
| 401, 402                                    | next   | key        | no            |
| 403, 408, 425, 429                          | next   | key*       | no            |
| 404, 405, 410                               | next   | -          | no            |
| 3xx, 5xx                                    | next   | channel*   | no            |
| the channel is at a limit of its own        | next   | -          | no            |

* For the model alone: rate limits and rights are mostly those of a model, and one that is overloaded says nothing about
the others of its channel.

Some refusals mean another status than they have: `meaning.py`.

"Again" is "next" with the same channel in front, on a new connection, once a call: an upstream that closed an idle
connection under us said nothing about its health. Neither happens after a byte reached the client: the relay stops
asking for verdicts then.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec

from elkapi.clock import seconds_until

Action = Literal["accept", "next", "fail"]
Fate = Literal["none", "complete", "unknown"]
RETRY_AFTER_S_MAX = 3600.0
BUSY = "channel_busy"


class Verdict(msgspec.Struct, frozen=True):
    """`cool` is what cools down, and `at_least_s` for how long at least; `model_only`: for the model that was asked.
    `disable_key` is the reason to disable the key.

    `again` tries the same channel once more before the next one.
    """

    action: Action
    outcome: str
    fate: Fate
    cool: Literal["channel", "key"] | None = None
    at_least_s: float = 0.0
    disable_key: str | None = None
    again: bool = False
    model_only: bool = False


ACCEPT = Verdict("accept", "ok", "complete")


# A proxy of the provider timed out, or got no answer that it could read (520 and 524 are Cloudflare's): what a submit
# requested may still be in progress.
_UNSURE_STATUSES = frozenset({408, 502, 504, 520, 524})


def on_failure(code: str, sent: bool, stale: bool = False, before: Collection[str] = ()) -> Verdict:
    """The verdict on a transport failure before any byte reached the client; `code` is the UpstreamFailure's.

    A stale pooled connection is nobody's fault, so nothing cools down for it. `before` are the outcomes of the call's
    earlier attempts: a failure of the same kind is not retried again.
    """
    fate: Fate = "unknown" if sent else "none"
    return Verdict("next", code, fate, cool=None if stale else "channel", again=stale and code not in before)


def on_busy(retry_after_s: float) -> Verdict:
    """The channel is at its limit; it was not asked and is not unhealthy."""
    return Verdict("next", BUSY, "none", at_least_s=retry_after_s)


def on_unreadable(reason: str) -> Verdict:
    """A success status with a body that cannot be an answer: an HTML page, a truncated or an empty body."""
    return Verdict("next", reason, "unknown", cool="channel")


def on_no_answer() -> Verdict:
    """A success in which the model gave no answer: the channel is healthy, and the next try may do better. The input
    and reasoning may be billed."""
    return Verdict("next", "no_answer", "unknown")


def is_success(status: int) -> bool:
    """Whether a reply of this status is accepted if its body can be an answer."""
    return 200 <= status < 300


def on_status(status: int, retry_after_s: float = 0.0) -> Verdict:
    """The verdict on the status of a whole reply, after the channel's status map; the reply may have asked for a
    wait."""
    if is_success(status):
        return ACCEPT
    outcome = f"status_{status}"
    if status in (401, 402):
        reason = "the upstream refused this key" if status == 401 else "the upstream account is out of funds"
        return Verdict("next", outcome, "none", cool="key", disable_key=f"{reason} (status {status})")
    if status == 403:
        return Verdict("next", outcome, "none", cool="key", model_only=True)
    if status in (408, 425, 429):
        return Verdict("next", outcome, "none", cool="key", at_least_s=retry_after_s, model_only=True)
    if status in (404, 405, 410):
        # The gateway chose the path and the method, and some providers answer 410 for a model that they have retired.
        return Verdict("next", outcome, "none")
    if 400 <= status < 500:
        return Verdict("fail", outcome, "none")
    return Verdict("next", outcome, "none", cool="channel", at_least_s=retry_after_s, model_only=True)


def on_submit_status(status: int, retry_after_s: float = 0.0) -> Verdict:
    """The same for a refused submit: after one with an unknown outcome no other provider is asked."""
    if status in _UNSURE_STATUSES:
        return Verdict("fail", f"status_{status}", "unknown", cool="channel", model_only=True)
    return on_status(status, retry_after_s)


def parse_retry_after_s(value: bytes | None, now_ns: int) -> float:
    """The seconds of a Retry-After given as a number or a date, bounded; an invalid one counts as 0 (the default
    cooldown)."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = seconds_until(value.decode("latin-1"), now_ns) or 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX) if seconds == seconds else 0.0
