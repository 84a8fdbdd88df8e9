"""A worker's side of the ledger process: the same `Ledger`, with its orders sent as frames and sent again on reconnect.

Orders stay in `_pending` until they are answered. After a reconnect all of them are sent again; a repeated id is only
answered. A hold whose caller has stopped waiting is sent as a void instead, since it is unknown whether it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import cast

import msgspec

from elkapi.clock import doubled_s
from elkapi.ledger.ledger import Boot, Ledger
from elkapi.ledger.orders import Beat, Hold, Keep, Settle, given_back
from elkapi.ledger.wire import ANSWERS_DECODER, Answers, FrameError, Frames, Orders, encode
from elkapi.ledger.writer import Entry

log = logging.getLogger("elkapi.ledger")

RECONNECT_FIRST_S = 0.02
RECONNECT_MAX_S = 0.5
# A killed ledger process is back before this many failures.
TOLD_AFTER_FAILURES = 7
# Frames with stored replies are cut at about this size, so that none comes near the frame limit.
FRAME_REPLY_BYTES_MAX = 8 * 1024 * 1024


class _Connection(asyncio.Protocol):
    def __init__(self, ledger: RemoteLedger) -> None:
        self._ledger = ledger
        self._frames: Frames[Answers] = Frames(ANSWERS_DECODER)
        self.transport: asyncio.Transport | None = None
        self.answered = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for answers in self._frames.feed(data):
                self.answered = True
                self._ledger.answered(answers)
        except FrameError:
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.lost.done():
            self.lost.set_result(error)


class RemoteLedger(Ledger):
    """The ledger behind `settings.socket_path("ledger")`."""

    def __init__(self, boot: Boot) -> None:
        super().__init__(boot)
        self._beat = boot.beat
        self._pending: dict[int, Entry] = {}
        self._next = 0
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._beater: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._written_s = boot.clock.monotonic_s()

    @property
    def depth(self) -> int:
        return len(self._pending) + len(self._collected)

    @property
    def unwritten_s(self) -> float:
        return self._boot.clock.monotonic_s() - self._written_s

    async def _start(self) -> None:
        self._keeper = asyncio.create_task(self._keep_connected())
        self._schedule_beat()

    async def _stop(self) -> None:
        assert self._keeper is not None
        if self._beater is not None:
            self._beater.cancel()
        await self._drained()
        self._send([(msgspec.structs.replace(self._beat, ended=True), None)])
        await self._drained()
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)

    async def _drained(self) -> None:
        """Wait until everything is answered, at most settle_wait_s; the rest is left to recovery."""
        if not self._pending:
            return
        self._idle = self._loop.create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle, self._settings.settle_wait_s)
        self._idle = None

    def _schedule_beat(self) -> None:
        self._beater = self._loop.call_later(self._settings.heartbeat_s, self._schedule_beat)
        if self._connection is not None:
            self._collect(self._beat)

    def _send(self, entries: list[Entry]) -> list[Entry]:
        first = self._next
        for entry in entries:
            self._pending[self._next] = entry
            self._next += 1
        if self._connection is not None:
            self._write(first, entries)
        return entries

    def _write(self, first: int, entries: list[Entry]) -> None:
        assert self._connection is not None
        transport = self._connection.transport
        if transport is None:
            return
        part: list[Entry] = []
        part_bytes = 0
        for entry in entries:
            part.append(entry)
            order = entry[0]
            if type(order) is Settle and order.claim is not None and order.claim.reply_sealed is not None:
                part_bytes += len(order.claim.reply_sealed)
            if isinstance(order, Settle | Keep) and order.kept is not None:
                part_bytes += order.kept.size_bytes
            if part_bytes > FRAME_REPLY_BYTES_MAX:
                transport.write(encode(Orders(first, [order for order, _ in part])))
                first, part, part_bytes = first + len(part), [], 0
        if part:
            transport.write(encode(Orders(first, [order for order, _ in part])))

    def answered(self, answers: Answers) -> None:
        """Deliver outcomes from the process; an unknown number was already answered before a reconnect."""
        pending, refused = self._pending, answers.refused
        entries, outcomes = [], []
        for number in answers.numbers:
            entry = pending.pop(number, None)
            if entry is not None:
                entries.append(entry)
                outcomes.append(refused.get(number))
                if entry[0] is self._beat:
                    # Unlike a hold, a heartbeat is answered only after it is written.
                    self._written_s = self._boot.clock.monotonic_s()
        self._deliver(entries, outcomes)
        if self._idle is not None and not pending and not self._collected and not self._idle.done():
            self._idle.set_result(None)

    async def _keep_connected(self) -> None:
        """Keep a connection open, with a growing pause while nothing is answered."""
        failures = 0
        while True:
            answered, why = await self._connected()
            failures = 1 if answered else failures + 1
            if failures == TOLD_AFTER_FAILURES:
                log.warning("cannot reach the ledger process: %r", why)
            await asyncio.sleep(doubled_s(RECONNECT_FIRST_S, failures, RECONNECT_MAX_S))

    async def _connected(self) -> tuple[bool, Exception | None]:
        """Serve one connection until it is lost; returns whether anything was answered on it, and why it ended."""
        try:
            path = self._settings.socket_path("ledger")
            _, connection = await self._loop.create_unix_connection(lambda: _Connection(self), path)
        except OSError as error:
            return False, error
        try:
            self._resend(connection)
            why = await connection.lost
            return connection.answered, why
        finally:
            self._connection = None
            if connection.transport is not None:
                connection.transport.close()

    def _resend(self, connection: _Connection) -> None:
        """Send everything unanswered again, heartbeat first, under new numbers: the old ones cannot be answered any
        more."""
        entries = [
            self._again(entry) for entry in self._pending.values() if type(entry[0]) is not Beat or entry[0].ended
        ]
        self._pending = {}
        self._connection = connection
        self._send([(self._beat, None), *entries])

    def _again(self, entry: Entry) -> Entry:
        order, waiter = entry
        if type(order) is Hold and waiter is not None and waiter.done():
            return given_back(order), None
        return super()._again(entry)
