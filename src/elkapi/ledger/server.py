"""The ledger process: the only writer of a SQLite file that several workers share; they reach it by a unix socket.

It only moves orders from sockets to the `Writer` and outcomes back. It may be killed at any moment: what it answered is
committed, what it did not answer its workers send again, and a repeated id is only answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.ledger.books import Outcome
from elkapi.ledger.ledger import checkpointer, open_books, writer_limits
from elkapi.ledger.orders import Hold, Refusal
from elkapi.ledger.recovery import Recoverer
from elkapi.ledger.wire import ORDERS_DECODER, Answers, FrameError, Frames, Orders, encode
from elkapi.ledger.writer import UNREACHABLE, Entry, Writer
from elkapi.observe.process import die_with_parent, run_loop, set_title, stop_signal
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import bring_forward
from elkapi.testing.crash import point

log = logging.getLogger("elkapi.ledger")

LOCK_WAIT_S = 10.0
# Orders of live workers beyond this number are refused; each worker limits its own to less.
QUEUE_WORKERS_MAX = 16


class SocketTakenError(RuntimeError):
    """Another ledger process serves this data directory and keeps running."""


class Connection(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, server: LedgerServer) -> None:
        self._server = server
        self._frames: Frames[Orders] = Frames(ORDERS_DECODER)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except FrameError as error:
            log.error("closed the connection of a worker: %s", error)
            self.close()
            return
        for frame in frames:
            self._server.take(self, frame)

    def send(self, answers: Answers) -> None:
        if self._transport is not None:
            self._transport.write(encode(answers))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class LedgerServer:
    """Serves one data directory's ledger on its unix socket until `stop`."""

    def __init__(self, settings: Settings, database: Database, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self.connections: set[Connection] = set()
        self.writer = Writer(
            lambda: open_books(database, settings, clock),
            self._deliver,
            writer_limits(settings),
            tick=Recoverer(database, settings, clock).tick,
        )
        self._checkpointer = checkpointer(database, self.writer)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The caller holds the socket's lock, so an existing file belongs to a dead process."""
        path = self._settings.socket_path("ledger")
        Path(path).unlink(missing_ok=True)  # noqa: ASYNC240 - nothing is served yet.
        self.writer.start()
        if self._checkpointer is not None:
            self._checkpointer.start()
        loop = asyncio.get_running_loop()
        before = os.umask(0o177)
        try:
            self._server = await loop.create_unix_server(lambda: Connection(self), path)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Stop taking orders, write and answer those taken, then end."""
        if self._server is not None:
            self._server.close()
        await self.writer.stop()
        if self._checkpointer is not None:
            await asyncio.to_thread(self._checkpointer.stop)
        for connection in list(self.connections):
            connection.close()
        if self._server is not None:
            await self._server.wait_closed()

    def take(self, connection: Connection, frame: Orders) -> None:
        """Queue a worker's orders; holds are refused while too many orders wait."""
        entries: list[Entry] = [(order, (connection, number)) for number, order in enumerate(frame.orders, frame.first)]
        if self.writer.depth > self._settings.ledger_queue_max * QUEUE_WORKERS_MAX:
            refused = [entry for entry in entries if type(entry[0]) is Hold]
            self._deliver(refused, [Refusal("unavailable", UNREACHABLE)] * len(refused))
            entries = [entry for entry in entries if type(entry[0]) is not Hold]
        self.writer.submit(entries)

    def _deliver(self, entries: list[Entry], outcomes: list[Outcome]) -> None:
        point("ledger.server.before_reply")
        answers: dict[Connection, Answers] = {}
        for (_, waiter), outcome in zip(entries, outcomes, strict=True):
            if waiter is None:
                continue
            connection, number = waiter
            answer = answers.get(connection)
            if answer is None:
                answer = answers[connection] = Answers([], {})
            answer.numbers.append(number)
            if outcome is not None:
                answer.refused[number] = outcome
        for connection, answer in answers.items():
            connection.send(answer)


@contextlib.contextmanager
def only_one(path: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock beside the socket; the kernel releases it when the process ends in any way. Raises
    SocketTakenError."""
    descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise SocketTakenError(f"another ledger process holds {path}.lock") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def run(settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
    """Run the ledger process until SIGTERM or SIGINT. Raises SocketTakenError, storage errors."""
    die_with_parent()
    set_title("ledger")
    database = Database.open(settings.effective_database_url, synchronous=settings.sqlite_synchronous, readers=1)
    try:
        bring_forward(database, settings, clock)
        with only_one(settings.socket_path("ledger")):
            run_loop(_serve(settings, database, clock))
    finally:
        database.close()


async def _serve(settings: Settings, database: Database, clock: Clock) -> None:
    stop = stop_signal()
    server = LedgerServer(settings, database, clock)
    await server.start()
    await stop.wait()
    await server.stop()
