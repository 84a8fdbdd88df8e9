"""Sends notices of tasks to their callers and retries until they are delivered or a day is over.

`storage.repos.notices` decides which are due and whose they are, `retrying` what follows from a try. A sender that dies
leaves its notices to the next one, so an event may arrive twice, always with the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import msgspec

from elkapi import __version__
from elkapi.clock import Clock, SetBack, doubled_s
from elkapi.ids import event_id_text
from elkapi.storage.repos.notices import ANSWER_CHARACTERS_MAX, NoticeId, Try
from elkapi.tasks import signing
from elkapi.tasks.callback_address import split
from elkapi.tasks.retrying import Next, after, retry_after
from elkapi.types import NoticeBody
from elkapi.upstream import Deadlines, Send, UpstreamFailure, UpstreamReply, UpstreamRequest

LOOK_EVERY_S = 0.5
PARALLEL_MAX = 128
HOST_PARALLEL_MAX = 4
ANSWER_BYTES_MAX = 64 * 1024
DEADLINES = Deadlines(connect_s=5.0, header_s=15.0, first_byte_s=15.0, idle_s=5.0, total_s=20.0)
# The pause for an unreachable host, doubled each time, whatever is due there.
PAUSE_FIRST_S, PAUSE_S_MAX, PAUSES_MAX = 1.0, 30.0, 1_000

log = logging.getLogger("elkapi.tasks.notify")


class Due(msgspec.Struct, frozen=True):
    """A notice that this sender delivers; `secrets` are the current ones of its key."""

    id: NoticeId
    host: str
    key_id: int
    tries: int
    until_ns: int
    body: NoticeBody
    secrets: tuple[str, ...]


class Outbox(Protocol):
    """The sender's access to the rows; each method may raise Unavailable."""

    async def is_any_due(self, now_ns: int) -> bool: ...

    async def take(
        self,
        count: int,
        per_host_max: int,
        busy: Mapping[str, int],
        busy_keys: Mapping[int, int],
        paused: Collection[str],
        now_ns: int,
    ) -> list[Due]:
        """Lease up to `count` due notices to this sender."""

    async def wait_no_longer(self, now_ns: int) -> None:
        """End all waits beyond `now_ns`, because the clock they wait by was set back."""

    async def ended(self, notice: NoticeId, told: Try, then: Next, tries: int) -> None:
        """Store the result of a try and what follows from it."""


class _Pause(msgspec.Struct):
    until_s: float
    failures: int


class Notifier:
    """The delivery job; `send` is the guarded HTTP client, `share` returns a random number from 0 to 1."""

    name = "notifier"
    period_s = LOOK_EVERY_S

    def __init__(
        self,
        outbox: Outbox,
        send: Send,
        clock: Clock,
        share: Callable[[], float],
        *,
        allow_private: bool = False,
        parallel_max: int = PARALLEL_MAX,
        host_parallel_max: int = HOST_PARALLEL_MAX,
    ) -> None:
        self._outbox = outbox
        self._send = send
        self._clock = clock
        self._set_back = SetBack(clock)
        self._share = share
        self._allow_private = allow_private
        self._parallel_max = parallel_max
        self._host_parallel_max = host_parallel_max
        self._flying: dict[asyncio.Task[None], Due] = {}
        self._pauses: dict[str, _Pause] = {}

    async def run_once(self) -> None:
        """Deliver until nothing is due or in progress. Raises Unavailable, while deliveries in progress continue."""
        try:
            while True:
                was_idle = not self._flying
                await self._start_due()
                if self._flying:
                    await asyncio.wait(self._flying, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                elif was_idle:  # Otherwise a slot became free during the query, so query again.
                    return
        except asyncio.CancelledError:
            for task in self._flying:
                task.cancel()
            await asyncio.gather(*self._flying, return_exceptions=True)
            raise

    async def _start_due(self) -> None:
        free = self._parallel_max - len(self._flying)
        now_ns = self._clock.now_ns()
        if self._set_back.seen():
            await self._outbox.wait_no_longer(now_ns)
            self._set_back.taken()
        if free <= 0 or not await self._outbox.is_any_due(now_ns):
            return
        hosts = Counter(due.host for due in self._flying.values())
        keys = Counter(due.key_id for due in self._flying.values())
        for due in await self._outbox.take(free, self._host_parallel_max, hosts, keys, self._paused(), now_ns):
            task = asyncio.create_task(self._deliver(due))
            self._flying[task] = due
            task.add_done_callback(lambda done: self._flying.pop(done, None))

    async def _deliver(self, due: Due) -> None:
        event_id = event_id_text(*due.id)
        try:
            told, wait_s = await self._tried(due, event_id)
            then = after(
                told.status,
                tries=due.tries + 1,
                now_ns=self._clock.now_ns(),
                until_ns=due.until_ns,
                retry_after_s=wait_s,
                share=self._share,
            )
            await self._outbox.ended(due.id, told, then, due.tries + 1)
        except Exception as error:
            # Not stored: the lease will expire and the notice is sent again.
            log.warning("notice_not_kept", exc_info=error, extra={"notice": event_id})
            return
        facts = {
            "notice": event_id,
            "host": due.host,
            "status": told.status,
            "error": told.error,
            "tries": due.tries + 1,
        }
        log.log(logging.INFO if then.state == "delivered" else logging.WARNING, f"notice_{then.state}", extra=facts)

    async def _tried(self, due: Due, event_id: str) -> tuple[Try, float | None]:
        """The result of one try, and what the answer asks of the next."""
        at_ns, started_s = self._clock.now_ns(), self._clock.monotonic_s()
        status, error, answer, wait_s = None, "", b"", None
        try:
            reply = await self._send(self._request(due, event_id, at_ns // 1_000_000_000))
            status, wait_s = reply.status, retry_after(reply.header(b"retry-after"), at_ns)
            answer = await _beginning(reply)
        except UpstreamFailure as failure:
            error = failure.code.removeprefix("upstream_")
        except ValueError:
            error = "unusable_address"
        self._mark(due.host, reached=status is not None)
        duration_ms = round((self._clock.monotonic_s() - started_s) * 1000)
        return Try(at_ns, duration_ms, status, error, _shown(answer)), wait_s

    def _request(self, due: Due, event_id: str, at_s: int) -> UpstreamRequest:
        """The request of a notice. Raises ValueError for an unusable address."""
        origin, target = split(due.body.url, allow_private=self._allow_private)
        given = [(name.lower().encode(), value.encode()) for name, value in due.body.headers]
        own = [
            (b"content-type", b"application/json"),
            (b"user-agent", f"elkapi/{__version__}".encode()),
            (b"accept-encoding", b"identity"),
        ]
        signed = signing.headers(due.secrets, event_id, at_s, due.body.body)
        return UpstreamRequest(
            origin=origin,
            method=b"POST",
            target=target,
            headers=[*own, *signed, *given],
            body=due.body.body,
            deadlines=DEADLINES,
        )

    def _paused(self) -> list[str]:
        now_s = self._clock.monotonic_s()
        return [host for host, pause in self._pauses.items() if pause.until_s > now_s]

    def _mark(self, host: str, *, reached: bool) -> None:
        """Record which hosts are unreachable."""
        before = self._pauses.pop(host, None)
        if reached:
            return
        now_s = self._clock.monotonic_s()
        if len(self._pauses) >= PAUSES_MAX:
            self._pauses.pop(next(iter(self._pauses)))
        failures = 1 if before is None else before.failures + 1
        self._pauses[host] = _Pause(now_s + doubled_s(PAUSE_FIRST_S, failures, PAUSE_S_MAX), failures)


async def _beginning(reply: UpstreamReply) -> bytes:
    """The first bytes of an answer. A delivered notice stays delivered even if the rest of its answer does not
    arrive."""
    try:
        answer, _ = await reply.read(ANSWER_BYTES_MAX)
    except UpstreamFailure:
        return b""
    finally:
        await reply.aclose()
    return answer


def _shown(answer: bytes) -> str:
    text = answer[: 4 * ANSWER_CHARACTERS_MAX].decode("utf-8", "replace")[:ANSWER_CHARACTERS_MAX]
    # PostgreSQL stores no NUL characters in text.
    return text.replace("\0", "\ufffd")
