"""One model's attempts in the order in which they are really made; the relay and the dry run share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from elkapi.routing.verdict import BUSY, Verdict
from elkapi.types import Attempt


class Walk:
    """Call `next` until it is None, each time followed by `judged`. At most `attempts_max` upstreams are asked.

    `outcomes` are those of the attempts so far, `retry_after_s` is the longest wait that one of them asked for.
    """

    def __init__(self, attempts: Iterable[Attempt], attempts_max: int) -> None:
        self._waiting = deque(attempts)
        self._left = attempts_max
        self._rested: set[int] = set()
        self.outcomes: list[str] = []
        self.retry_after_s = 0.0

    def next(self) -> Attempt | None:
        """The next attempt, never at a channel that already failed in this call."""
        while self._waiting and self._left > 0:
            attempt = self._waiting.popleft()
            if attempt.channel.id not in self._rested:
                return attempt
        return None

    def judged(self, attempt: Attempt, verdict: Verdict) -> None:
        """Record the verdict on an attempt."""
        self.outcomes.append(verdict.outcome)
        self.retry_after_s = max(self.retry_after_s, verdict.at_least_s)
        if verdict.again:
            self._waiting.appendleft(attempt)
        elif verdict.outcome != BUSY:
            # A channel at its limit was not asked.
            self._left -= 1
        if verdict.action == "fail":
            self._left = 0
        elif verdict.cool == "channel":
            self._rested.add(attempt.channel.id)
