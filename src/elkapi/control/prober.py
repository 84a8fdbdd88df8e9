"""Re-enables channel keys that the gateway disabled, by sending each a free request until it succeeds.

If the family or the upstream has no free request, a key is re-enabled on trial, at the same growing intervals, and the
next call decides. The store reads and writes the keys; `upstream` applies the address guard and deadlines. Keys that an
operator disabled stay disabled.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import msgspec

from elkapi.catalog.upstreams import auth_headers, family_headers, probe_path
from elkapi.clock import Clock, doubled_s
from elkapi.routing.verdict import is_success
from elkapi.storage.repos.channels import DisabledKey
from elkapi.types import Channel, ChannelKey
from elkapi.upstream import Deadlines, Send, UpstreamFailure, UpstreamRequest, answer_to
from elkapi.upstream.channel import place, ruled

SCAN_EVERY_S = 5.0
FIRST_PROBE_AFTER_S = 15.0
PROBE_AFTER_S_MAX = 600.0
# A re-enabled key that is disabled again within this time keeps its backoff: an account without funds still lists its
# models, and must not be switched on and off every few seconds.
STEADY_AFTER_S = 3600.0
PROBES_AT_ONCE_MAX = 8
ANSWERED, ON_TRIAL = "a probe was answered", "on trial: there is nothing free to ask"
# Statuses of servers without a list of models.
UNASKABLE = frozenset({404, 405, 501})
ANSWER_BYTES_MAX = 64 * 1024
DEADLINES = Deadlines(connect_s=5.0, header_s=10.0, first_byte_s=10.0, idle_s=5.0, total_s=20.0)

log = logging.getLogger("elkapi.control.prober")


class ProbeStore(Protocol):
    """The prober's interface to the database."""

    async def disabled_keys(self) -> list[DisabledKey]:
        """Keys of enabled channels that the gateway, not an operator, disabled."""

    async def enable(self, found: DisabledKey, reason: str) -> bool:
        """Enable the key and write to the audit trail; False if it was changed since it was read."""


class _Course(msgspec.Struct):
    """The state of a key's probing: the next time, the number of tries, and when it was re-enabled."""

    next_s: float
    tries: int = 0
    revived_s: float | None = None


class Prober:
    """One job for all keys; each has its own backoff."""

    name = "prober"
    period_s = SCAN_EVERY_S

    def __init__(self, store: ProbeStore, send: Send, clock: Clock) -> None:
        self._store = store
        self._send = send
        self._clock = clock
        self._courses: dict[int, _Course] = {}
        self._at_once = asyncio.Semaphore(PROBES_AT_ONCE_MAX)

    async def run_once(self) -> None:
        found = await self._store.disabled_keys()
        now_s = self._clock.monotonic_s()
        self._forget({entry.key.id for entry in found}, now_s)
        due = [entry for entry in found if self._is_due(entry.key.id, now_s)]
        await asyncio.gather(*(self._probe(entry) for entry in due))

    def _forget(self, off: set[int], now_s: float) -> None:
        """Drop the state of keys that somebody else enabled, or that have been enabled for STEADY_AFTER_S."""
        for key_id in self._courses.keys() - off:
            revived_s = self._courses[key_id].revived_s
            if revived_s is None or now_s - revived_s > STEADY_AFTER_S:
                del self._courses[key_id]

    def _is_due(self, key_id: int, now_s: float) -> bool:
        course = self._courses.get(key_id)
        if course is None:
            self._courses[key_id] = _Course(next_s=now_s + wait_s(0))
            return False
        if course.revived_s is not None:
            course.revived_s, course.next_s = None, now_s + wait_s(course.tries)
        return now_s >= course.next_s

    async def _probe(self, found: DisabledKey) -> None:
        reason, outcome, works, detail = ON_TRIAL, "nothing to ask", True, ""
        if probe_path(found.channel):
            async with self._at_once:
                outcome, answered, detail = await probed(self._send, found.channel, found.key)
            reason, works = (ON_TRIAL, True) if answered is None else (ANSWERED, answered)
        course = self._courses[found.key.id]
        course.tries += 1
        now_s = self._clock.monotonic_s()
        course.next_s = now_s + wait_s(course.tries)
        facts = {"channel": found.channel.name, "channel_key_id": found.key.id, "outcome": outcome, "detail": detail}
        if not works:
            log.info("channel_key_still_bad", extra=facts | {"next_probe_s": wait_s(course.tries)})
        elif await self._store.enable(found, reason):
            course.revived_s = now_s
            log.info("channel_key_enabled", extra=facts)


def wait_s(tries: int) -> float:
    """Seconds until the next probe after `tries` probes: doubled each time, up to PROBE_AFTER_S_MAX."""
    return doubled_s(FIRST_PROBE_AFTER_S, tries + 1, PROBE_AFTER_S_MAX)


async def probed(send: Send, channel: Channel, key: ChannelKey) -> tuple[str, bool | None, str]:
    """(outcome of the free request; whether the key works; the transport error as text).

    None if the upstream does not support the request, which says nothing about the key.
    """
    try:
        answer = await answer_to(send, probe_request(channel, key), ANSWER_BYTES_MAX)
    except UpstreamFailure as failure:
        return failure.code, False, str(failure).replace(key.secret, "***")
    except ValueError:
        return "unusable_address", False, ""
    if answer.status in UNASKABLE:
        return f"status {answer.status}: it has no such list, so nothing is known", None, ""
    return f"status {answer.status}", is_success(answer.status), ""


def probe_request(channel: Channel, key: ChannelKey) -> UpstreamRequest:
    """The family's free request, sent to the same place and in the same way as a call; `probe_path` must not be empty.

    Raises ValueError for an invalid URL.
    """
    ours = {
        b"accept": b"application/json",
        **family_headers(channel),
        **dict(auth_headers(channel, key)),
    }
    origin, target = place(channel, probe_path(channel))
    return UpstreamRequest(origin, b"GET", target, list(ruled(channel, ours).items()), deadlines=DEADLINES)
