"""The consequence of one try to deliver a notice: delivered, retry later, or given up; pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from elkapi.clock import doubled_s, seconds_until
from elkapi.routing.verdict import is_success

FIRST_WAIT_S = 5.0
WAIT_S_MAX = 1_800.0
GONE = 410
_NS = 1_000_000_000


class Next(msgspec.Struct, frozen=True):
    """The next state of a notice."""

    state: Literal["pending", "delivered", "given_up"]
    due_ns: int


def after(
    status: int | None,
    *,
    tries: int,
    now_ns: int,
    until_ns: int,
    retry_after_s: float | None,
    share: Callable[[], float],
) -> Next:
    """What follows from a try; `tries` counts this one, `share` is a random number from 0 to 1.

    Status None: nobody answered. 2xx is delivered; 410 means that nobody wants it. Everything else is retried with
    growing pauses until `until_ns`; a receiver that asks for a longer wait gets one last try at that moment.
    """
    if status is not None and is_success(status):
        return Next("delivered", now_ns)
    due_ns = now_ns + round(wait_after(tries, share()) * _NS)
    if status == GONE or due_ns > until_ns:
        return Next("given_up", due_ns)
    asked_ns = now_ns + round((retry_after_s or 0.0) * _NS)
    return Next("pending", max(due_ns, min(asked_ns, until_ns)))


def wait_after(tries: int, share: float) -> float:
    """The pause in seconds after so many tries, doubled each time up to WAIT_S_MAX and reduced by up to a quarter by
    `share`, so that what failed together does not return together."""
    return doubled_s(FIRST_WAIT_S, tries, WAIT_S_MAX) * (1 - share / 4)


def retry_after(value: bytes | None, now_ns: int) -> float | None:
    """The seconds of a Retry-After header given as a number or a date; None if it cannot be read."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    return seconds_until(text, now_ns)
