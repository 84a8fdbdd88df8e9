"""The health of channels and their keys after recent failures: cooldowns in this process's memory, with an injected
clock.

Every transport failure counts (guarantee 66); a further failure never shortens a running cooldown (guarantee 67).
What a provider says by a status is mostly about one model (its rate limit, its overload): then a channel or key cools
down for that model alone.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from elkapi.clock import SYSTEM_CLOCK, Clock

Kind = Literal["channel", "key"]
# A channel or key, for everything that it serves, or for one model by its upstream's name.
Part = tuple[Kind, int] | tuple[Kind, int, str]
PARTS_MAX = 10_000


class _State(msgspec.Struct):
    failures: int = 0
    until_s: float = 0.0


class Health:
    """Cooldowns of channels and channel keys, whole or for one model.

    They start at `cooldown_s` and double with each failure in a row, up to the maximum.
    """

    def __init__(self, cooldown_s: float, cooldown_max_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._cooldown_s = cooldown_s
        self._cooldown_max_s = cooldown_max_s
        self._clock = clock
        self._states: dict[Part, _State] = {}

    def ready(self, kind: Kind, id: int, model: str) -> bool:
        """Whether a channel or key is not cooling down for this model."""
        if not self._states:
            return True
        return self._is_ready((kind, id)) and self._is_ready((kind, id, model))

    def _is_ready(self, part: Part) -> bool:
        state = self._states.get(part)
        return state is None or state.until_s <= self._clock.monotonic_s()

    def failed(self, part: Part, at_least_s: float = 0.0) -> None:
        """Start a cooldown, at least as long as a Retry-After asked for, within the maximum."""
        if len(self._states) >= PARTS_MAX:
            self._states.pop(next(iter(self._states)))
        state = self._states.setdefault(part, _State())
        state.failures += 1
        wait_s = max(self._cooldown_s * 2 ** min(state.failures - 1, 16), at_least_s)
        until_s = self._clock.monotonic_s() + min(wait_s, self._cooldown_max_s)
        state.until_s = max(state.until_s, until_s)

    def succeeded(self, channel_id: int, key_id: int, model: str) -> None:
        """End the cooldowns of a channel and key that answered with this model; those for other models go on."""
        if self._states:
            for part in (("channel", channel_id), ("key", key_id)):
                self._states.pop(part, None)
                self._states.pop((*part, model), None)

    def cooling(self) -> dict[Part, float]:
        """What is cooling down, and the seconds left."""
        now_s = self._clock.monotonic_s()
        return {part: state.until_s - now_s for part, state in self._states.items() if state.until_s > now_s}
