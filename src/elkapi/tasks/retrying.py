"""What follows from one try to deliver a notice: delivered, again at some time, or given up; pure."""

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
    """What becomes of a notice."""

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
    """`tries` counts this one; `share` is a random number from 0 to 1. None as status: nobody answered.

    2xx is delivered, 410 says that nobody wants it. All else is tried again, later each time, until `until_ns`; a
    receiver that asks for a longer wait gets one last try at that moment.
    """
    if status is not None and is_success(status):
        return Next("delivered", now_ns)
    due_ns = now_ns + round(wait_after(tries, share()) * _NS)
    if status == GONE or due_ns > until_ns:
        return Next("given_up", due_ns)
    asked_ns = now_ns + round((retry_after_s or 0.0) * _NS)
    return Next("pending", max(due_ns, min(asked_ns, until_ns)))


def wait_after(tries: int, share: float) -> float:
    """Seconds after so many tries: doubled each time up to WAIT_S_MAX, of which `share` takes up to a quarter off, so
    that what failed together does not come back together."""
    return doubled_s(FIRST_WAIT_S, tries, WAIT_S_MAX) * (1 - share / 4)


def retry_after(value: bytes | None, now_ns: int) -> float | None:
    """The seconds of a Retry-After header, as a number or a date; None where it says nothing that can be read."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    return seconds_until(text, now_ns)
