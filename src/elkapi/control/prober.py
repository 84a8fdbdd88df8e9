"""Brings back channel keys that the gateway took out of service: asks each something free until it answers well.

Where there is nothing free to ask, by its family or because this upstream does not know the question, a key comes
back on trial, at the same growing intervals: the next call shows. Which keys are off and writing the change are left
to the store; the address guard and deadlines to `upstream`. Keys that an operator disabled are left alone.
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
# A key that was brought back and is off again within this time goes on where its waiting had got to: an account
# without funds still lists its models, and must not be switched on and off every few seconds.
STEADY_AFTER_S = 3600.0
PROBES_AT_ONCE_MAX = 8
ANSWERED, ON_TRIAL = "a probe was answered", "on trial: there is nothing free to ask"
# What servers say that have no list of their models.
UNASKABLE = frozenset({404, 405, 501})
ANSWER_BYTES_MAX = 64 * 1024
DEADLINES = Deadlines(connect_s=5.0, header_s=10.0, first_byte_s=10.0, idle_s=5.0, total_s=20.0)

log = logging.getLogger("elkapi.control.prober")


class ProbeStore(Protocol):
    """The database as the prober needs it."""

    async def disabled_keys(self) -> list[DisabledKey]:
        """Keys of enabled channels that the gateway, not an operator, switched off."""

    async def enable(self, found: DisabledKey, reason: str) -> bool:
        """Switch the key on and say so in the audit trail; False when somebody changed it since it was read."""


class _Course(msgspec.Struct):
    """How a key's probing goes: when next, after how many tries, and since when it is back."""

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
        """Drop the courses of keys that came back by another hand, or that have been back for long enough."""
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
    """Seconds before the next probe of a key that was asked `tries` times: doubled each time, with a ceiling."""
    return doubled_s(FIRST_PROBE_AFTER_S, tries + 1, PROBE_AFTER_S_MAX)


async def probed(send: Send, channel: Channel, key: ChannelKey) -> tuple[str, bool | None, str]:
    """(what the upstream said to the free question; whether the key works; what went wrong on the way, for people).

    None where the upstream does not know the question, which says nothing of the key.
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
    """The family's free question, sent exactly where and how a call would go; `probe_path` says whether it has one.

    Raises ValueError for a bad address.
    """
    ours = {
        b"accept": b"application/json",
        **family_headers(channel),
        **dict(auth_headers(channel, key)),
    }
    origin, target = place(channel, probe_path(channel))
    return UpstreamRequest(origin, b"GET", target, list(ruled(channel, ours).items()), deadlines=DEADLINES)
