"""Injected time: every module that needs the time takes a `Clock`; tests pass a `ManualClock`."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf
from typing import Protocol

SET_BACK_S = 2.0
SET_AHEAD_S = 60.0
SET_RIGHT_S = 3600.0


def milliseconds(seconds: float) -> float:
    """A duration for records and logs: milliseconds with three decimals (`round` takes ten times as long)."""
    return int(seconds * 1e6 + 0.5) / 1000


def doubled_s(first_s: float, failures: int, most_s: float) -> float:
    """Seconds to wait after so many failures in a row (at least one), doubled with each up to `most_s`."""
    return min(first_s * (1 << min(failures - 1, 20)), most_s)


def seconds_until(http_date: str, now_ns: int) -> float | None:
    """Seconds until the date of a header, 0 if it has passed; None for an invalid date."""
    try:
        date = parsedate_to_datetime(http_date)
        # A date without a zone is one of HTTP's older formats, which are in UTC too.
        then = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(then.timestamp() - now_ns / 1e9, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


class Clock(Protocol):
    """Wall time for records, monotonic time for durations."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""

    def monotonic_s(self) -> float:
        """Seconds that never go backwards."""


class SystemClock:
    """The real clock: the system's functions directly, since they are called several times per call."""

    now_ns = staticmethod(time.time_ns)
    monotonic_s = staticmethod(time.monotonic)


class ManualClock:
    """A clock that moves only when a test says so."""

    def __init__(self, now_ns: int = 1_800_000_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._monotonic_s = 0.0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def set_by(self, seconds: float) -> None:
        """Set wall time; no time passes."""
        self._now_ns += round(seconds * 1_000_000_000)

    def advance(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1_000_000_000)
        self._monotonic_s += seconds


class SetBack:
    """Detects that wall time was set back, relative to monotonic time, since creation or the last `taken`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.taken()

    def taken(self) -> None:
        """Acknowledge: everything that waits by wall time was adjusted."""
        self._ahead_s = self._now_ahead_s()

    def seen(self) -> bool:
        """Whether it was set back by more than SET_BACK_S."""
        ahead_s = self._now_ahead_s()
        self._ahead_s = max(self._ahead_s, ahead_s)
        return ahead_s < self._ahead_s - SET_BACK_S

    def _now_ahead_s(self) -> float:
        return self._clock.now_ns() / 1e9 - self._clock.monotonic_s()


class SetAhead:
    """Detects for a while that wall time jumped ahead of monotonic time since creation or the last check.

    It may have been set by mistake, or the machine slept: deletions wait until somebody had the time to correct it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s = clock.now_ns() / 1e9 - clock.monotonic_s()
        self._until_s = -inf

    def seen(self, now_ns: int) -> bool:
        """Whether this time, just read from the clock, is after a jump of more than SET_AHEAD_S, less than
        SET_RIGHT_S ago, that was not undone since."""
        now_s = self._clock.monotonic_s()
        ahead_s = now_ns / 1e9 - now_s
        if ahead_s > self._ahead_s + SET_AHEAD_S:
            self._until_s = now_s + SET_RIGHT_S
        elif ahead_s < self._ahead_s - SET_AHEAD_S:
            self._until_s = -inf
        self._ahead_s = ahead_s
        return now_s < self._until_s


SYSTEM_CLOCK: Clock = SystemClock()
