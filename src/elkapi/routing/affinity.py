"""Which channel and key last answered a session, to hit its prompt cache again; a preference, never an obligation.

The memory of one worker, bounded, and forgotten after a while. The plan follows it only while that channel and key are
ready and nothing ready has a higher priority (guarantee 61); a failure there forgets it at once (guarantee 62).
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from elkapi.clock import SYSTEM_CLOCK, Clock

SESSIONS_MAX = 20_000
# Providers keep a prompt's cache for five minutes to an hour after its last use.
TTL_S = 3600.0


class Place(msgspec.Struct, frozen=True):
    """A channel and one of its keys, by their ids."""

    channel_id: int
    key_id: int


class Affinity:
    """At most SESSIONS_MAX sessions; the least recently used are dropped first."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._places: OrderedDict[bytes, tuple[Place, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def place(self, session: bytes) -> Place | None:
        """Where the session was last answered."""
        found = self._places.get(session)
        if found is None:
            return None
        place, until_s = found
        if until_s <= self._clock.monotonic_s():
            del self._places[session]
            return None
        return place

    def answered(self, session: bytes, channel_id: int, key_id: int) -> None:
        """Record where the session was answered."""
        self._places[session] = (Place(channel_id, key_id), self._clock.monotonic_s() + TTL_S)
        self._places.move_to_end(session)
        if len(self._places) > SESSIONS_MAX:
            self._places.popitem(last=False)

    def failed(self, session: bytes, channel_id: int, key_id: int) -> None:
        """Forget the session if it is this place that failed it."""
        found = self._places.get(session)
        if found is not None and found[0] == Place(channel_id, key_id):
            del self._places[session]
