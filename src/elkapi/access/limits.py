"""Limits of requests and tokens per minute and of concurrent calls, per key and per channel; `counters` counts them.

Calls without a limit never touch the counters. A key's limits are checked before any money is held, a channel's before
an attempt is sent. They apply across all workers of one host; each host has its own table.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from elkapi.access.counters import Caps, Counters, Over, Taken
from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import CallAboveLimit, RateLimited
from elkapi.types import Channel, Policy

BYTES_PER_TOKEN = 4
_WORDS = {
    "parallel": "This API key has reached its limit of concurrent calls ({0}).",
    "requests": "This API key has reached its limit of requests per minute ({0}).",
    "tokens": "This call is expected to use {1} tokens, more than this API key has left of its limit per minute ({0}).",
}


class Lease:
    """One counted call, given back by `release` or at the end of its block."""

    def __init__(self, counters: Counters | None = None, taken: Taken | None = None) -> None:
        self._counters = counters
        self._taken = taken

    def release(self, tokens_used: int = 0) -> None:
        """Give the call back, once; `tokens_used` is what it used in the end."""
        if self._counters is not None and self._taken is not None:
            taken, self._taken = self._taken, None
            self._counters.give_back(taken, tokens_used)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


# For every call without a limit: there is nothing to give back.
UNLIMITED = Lease()


class Limits:
    """The limits of one worker's calls; the table is opened with the first call that has a limit."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder = folder
        self._clock = clock
        self._counters: Counters | None = None

    def key(self, key_id: int, policy: Policy, input_bytes: int) -> Lease:
        """Count a call of a key, with one expected token per four bytes. Raises RateLimited, CallAboveLimit,
        Unavailable."""
        if not (policy.requests_per_min or policy.tokens_per_min or policy.parallel_max):
            return UNLIMITED
        tokens = -(-input_bytes // BYTES_PER_TOKEN)
        caps = Caps(policy.parallel_max or 0, policy.requests_per_min or 0, policy.tokens_per_min or 0)
        if 0 < caps.tokens < tokens:
            raise CallAboveLimit(
                f"This call is expected to use {tokens} tokens, more than this API key may use in a minute "
                f"({caps.tokens}). Send less at once, or ask the operator for a higher limit."
            )
        try:
            return self._taken(f"key:{key_id}", caps, tokens if caps.tokens else 0)
        except Over as over:
            limit = getattr(caps, over.kind)
            raise RateLimited(
                f"{_WORDS[over.kind].format(limit, tokens)} Please try again in {over.retry_after_s} s.",
                retry_after_s=over.retry_after_s,
            ) from None

    def channel(self, channel: Channel) -> Lease | None:
        """Count an attempt at a channel; None if it has no limit. Raises Over, Unavailable."""
        limits = channel.limits
        if not (limits.parallel_max or limits.requests_per_min):
            return None
        return self._taken(f"channel:{channel.id}", Caps(limits.parallel_max or 0, limits.requests_per_min or 0), 0)

    def _taken(self, name: str, caps: Caps, tokens: int) -> Lease:
        if self._counters is None:
            self._counters = Counters(self._folder, self._clock)
        return Lease(self._counters, self._counters.take(name, caps, tokens))

    def close(self) -> None:
        """Release the table."""
        if self._counters is not None:
            self._counters.close()
            self._counters = None
