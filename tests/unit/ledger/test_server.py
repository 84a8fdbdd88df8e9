"""What the ledger process does with its workers' orders, without a process: which it takes, and whom it answers."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from elkapi.ledger.orders import Beat, Hold, Order, Refusal, Settle
from elkapi.ledger.server import QUEUE_WORKERS_MAX, Connection, LedgerServer
from elkapi.ledger.wire import ANSWERS_DECODER, Answers, Frames, Orders, encode
from elkapi.ledger.writer import UNREACHABLE, Entry, Writer
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate

QUEUE_MAX = 4
HOLD = Hold(b"h" * 16, 1, (2,), 100, "m", 1, b"o" * 16)
SETTLE = Settle(b"s" * 16, True, 1, 0, None)
BEAT = Beat(b"o" * 16, "worker", 1)


class Queue:
    """In the place of the writer: takes orders and writes none."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.taken: list[Entry] = []

    def submit(self, entries: list[Entry]) -> None:
        self.taken += entries

    def orders(self) -> list[Order]:
        return [order for order, _ in self.taken]


class Socket:
    """A worker's end of its connection."""

    def __init__(self) -> None:
        self.frames = Frames(ANSWERS_DECODER)
        self.answers: list[Answers] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.answers += self.frames.feed(data)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LedgerServer]:
    database = Database.open(f"sqlite:///{tmp_path / 'books.sqlite3'}")
    migrate(database)
    yield LedgerServer(Settings(data_dir=str(tmp_path), ledger_queue_max=QUEUE_MAX), database)
    database.close()


def queued(server: LedgerServer, depth: int = 0) -> Queue:
    queue = Queue(depth)
    server.writer = cast(Writer, queue)
    return queue


def connected(server: LedgerServer) -> tuple[Connection, Socket]:
    connection, socket = Connection(server), Socket()
    connection.connection_made(cast(asyncio.Transport, cast(Any, socket)))
    return connection, socket


@pytest.mark.parametrize("beyond", [0, 1])
def test_while_too_many_orders_wait_new_holds_are_refused_and_nothing_else(server: LedgerServer, beyond: int) -> None:
    queue = queued(server, QUEUE_MAX * QUEUE_WORKERS_MAX + beyond)
    connection, socket = connected(server)
    connection.data_received(encode(Orders(7, [BEAT, HOLD, SETTLE, HOLD])))
    if not beyond:
        assert queue.orders() == [BEAT, HOLD, SETTLE, HOLD]
        assert socket.answers == []
        return
    assert queue.orders() == [BEAT, SETTLE]
    refusal = Refusal("unavailable", UNREACHABLE)
    assert socket.answers == [Answers([8, 10], {8: refusal, 10: refusal})]
    server._deliver(queue.taken, [None, None])
    assert socket.answers[1:] == [Answers([7, 9], {})]


def test_each_worker_is_answered_once_a_transaction_with_its_own_orders_and_one_that_left_not_at_all(
    server: LedgerServer,
) -> None:
    queue, refusal = queued(server), Refusal("quota", "no")
    (one, first), (two, second), (gone, third) = (connected(server) for _ in range(3))
    one.data_received(encode(Orders(1, [SETTLE, HOLD])) + encode(Orders(3, [SETTLE])))
    two.data_received(encode(Orders(1, [HOLD])))
    gone.data_received(encode(Orders(1, [HOLD])))
    gone.connection_lost(None)
    assert server.connections == {one, two}
    # What nobody asked for, such as a hold that is given back, is answered to nobody.
    server._deliver([*queue.taken, (SETTLE, None)], [None, refusal, None, None, refusal, None])
    assert first.answers == [Answers([1, 2, 3], {2: refusal})]
    assert second.answers == [Answers([1], {})]
    assert third.answers == []


async def test_its_socket_is_its_users_alone_and_takes_the_place_of_a_dead_ones(server: LedgerServer) -> None:
    path = Path(server._settings.socket_path("ledger"))
    path.write_bytes(b"")
    before = os.umask(0o022)
    try:
        await server.start()
        assert stat.filemode(path.stat().st_mode) == "srw-------"
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
        await server.stop()
    assert not server.writer.alive


def test_a_worker_that_says_what_cannot_be_read_is_hung_up_on(server: LedgerServer) -> None:
    queue = queued(server)
    connection, socket = connected(server)
    connection.data_received(b"\xff" * 4)
    assert (socket.closed, queue.taken) == (True, [])
