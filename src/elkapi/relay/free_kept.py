"""Limits how much is stored for calls that cost nothing, per day and key: otherwise it could fill the disk."""

from __future__ import annotations

from elkapi.clock import Clock

DAY_NS = 86_400_000_000_000
# The size of a row besides its answer.
ROW_BYTES = 1024


class FreeKept:
    """The count of one worker; what paid calls store is limited by what they pay."""

    def __init__(self, bytes_max: int, clock: Clock) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        self._day = 0
        self._taken: dict[int, int] = {}

    def take(self, key_id: int, answer_bytes: int) -> bool:
        """Whether this many bytes of an answer, or of a request, may be stored; they count from now on."""
        day = self._clock.now_ns() // DAY_NS
        if day != self._day:
            self._day, self._taken = day, {}
        taken = self._taken.get(key_id, 0) + answer_bytes + ROW_BYTES
        if taken > self._bytes_max:
            return False
        self._taken[key_id] = taken
        return True

    def until_next_day_s(self) -> int:
        """Seconds until every key has its full allowance again."""
        return 1 + (DAY_NS - self._clock.now_ns() % DAY_NS) // 1_000_000_000
