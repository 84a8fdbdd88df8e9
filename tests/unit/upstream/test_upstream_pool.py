"""Slots, waiters and idle connections of one origin, without a socket: none is lost, whoever leaves and whenever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from elkapi.upstream import ClientClosed, ClientLimits, ConnectFailed, Origin, PoolFull, PoolTimeout, UpstreamFailure
from elkapi.upstream.dialer import system_resolver
from elkapi.upstream.pool import Bucket, Dialing, TlsContexts
from tests.unit.upstream.upstream_peers import OK, Ask, MakeClient, ManualTimers, Serve, answering, body_of

ORIGIN = Origin.parse("http://a.example")
# What it makes is a bucket whose connections are the `Connection`s below.
MakeBucket = Callable[..., Any]


class Connection:
    """A connection, as the pool sees it."""

    def __init__(self, bucket: Any, opened_at_s: float) -> None:
        self.bucket = bucket
        self.opened_at_s = opened_at_s
        self.alive = True
        self.parked_until_s = 0.0

    def is_open(self) -> bool:
        return self.alive

    def usable(self, *, held: bool) -> bool:
        return held or self.alive

    def park(self, until_s: float) -> None:
        self.parked_until_s = until_s

    def close(self) -> None:
        self.alive = False
        self.bucket.lost(self)

    def end_badly(self, failure: Exception) -> None:
        self.alive = False
        asyncio.get_running_loop().call_soon(self.bucket.lost, self)  # As a transport tells of its end.


@pytest.fixture
def make_bucket(timers: ManualTimers, monkeypatch: pytest.MonkeyPatch) -> MakeBucket:
    """`make_bucket(limit=..., opens=[...])` -> a bucket whose n-th dial fails where the n-th of `opens` is False."""

    def make(*, opens: Sequence[bool] = (), **limits: Any) -> Any:
        outcomes = list(opens)
        bucket = Bucket(ORIGIN, Dialing(ClientLimits(**limits), timers, system_resolver, TlsContexts()))

        async def dial(*_args: Any) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            if outcomes and not outcomes.pop(0):
                raise ConnectFailed("refused", phase="connect", sent=False)

        async def attach(_sock: socket.socket, _deadline_s: float) -> Connection:
            return Connection(bucket, timers.monotonic_s())

        monkeypatch.setattr("elkapi.upstream.pool.dial", dial)
        monkeypatch.setattr(bucket, "_attach", attach)
        return bucket

    return make


async def turns() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def asked(bucket: Any, timers: ManualTimers) -> asyncio.Future[Any]:
    waiting: asyncio.Future[Any] = asyncio.ensure_future(bucket.acquire(timers.monotonic_s() + 5))
    return waiting


async def test_a_connection_handed_to_a_waiter_that_is_cancelled_goes_to_the_next(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    connection = await bucket.acquire(timers.monotonic_s() + 5)
    first, second = asked(bucket, timers), asked(bucket, timers)
    await turns()
    bucket.released(connection)
    first.cancel()
    assert await second is connection
    assert first.cancelled()
    third = asked(bucket, timers)
    await turns()
    bucket.released(connection)
    third.cancel()
    await turns()
    assert bucket.idle == [connection]
    assert (bucket.busy, bucket.dials, len(bucket.waiters)) == (0, 0, 0)


async def test_a_slot_handed_to_a_waiter_that_is_cancelled_goes_to_the_next(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    connection = await bucket.acquire(timers.monotonic_s() + 5)
    first, second = asked(bucket, timers), asked(bucket, timers)
    await turns()
    connection.close()
    assert bucket.dials == 1
    first.cancel()
    other = await second
    assert other is not connection
    third = asked(bucket, timers)
    await turns()
    other.close()
    third.cancel()
    await turns()
    assert bucket.is_unused


async def test_a_waiter_that_is_cancelled_or_times_out_leaves_its_place(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1, waiters_per_origin_max=1)
    connection = await bucket.acquire(timers.monotonic_s() + 5)
    cancelled = asked(bucket, timers)
    await turns()
    with pytest.raises(PoolFull) as caught:
        await bucket.acquire(timers.monotonic_s() + 5)
    assert caught.value.sent is False
    cancelled.cancel()
    await turns()
    assert len(bucket.waiters) == 0
    late = asked(bucket, timers)
    await turns()
    timers.advance(5)
    with pytest.raises(PoolTimeout) as timed_out:
        await late
    assert timed_out.value.sent is False
    assert len(bucket.waiters) == 0
    waiting = asked(bucket, timers)
    await turns()
    bucket.released(connection)
    assert await waiting is connection
    timers.advance(60)


async def test_what_comes_at_the_same_moment_neither_hides_a_cancellation_nor_takes_a_connection_back(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    connection = await bucket.acquire(timers.monotonic_s() + 5)
    waiting = asked(bucket, timers)
    await turns()
    timers.advance(5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    waiting = asked(bucket, timers)
    await turns()
    bucket.released(connection)
    timers.advance(5)
    assert await waiting is connection


async def test_a_connection_that_died_on_its_way_to_a_waiter_is_replaced(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    connection = await bucket.acquire(timers.monotonic_s() + 5)
    waiting = asked(bucket, timers)
    await turns()
    bucket.released(connection)
    connection.alive = False
    other = await waiting
    assert other.alive
    assert bucket.open == {other}
    assert bucket.dials_total == 2


async def test_a_connection_that_ends_as_it_is_opened_keeps_no_slot(
    make_client: MakeClient, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def dialed(*_args: Any) -> socket.socket:
            sock = socket.create_connection(listening.getsockname())
            sock.setblocking(False)
            listening.accept()[0].close()
            return sock

        monkeypatch.setattr("elkapi.upstream.pool.dial", dialed)
        client = make_client(connections_per_origin_max=1)
        for _ in range(3):
            with pytest.raises(UpstreamFailure) as raised:
                await client.send(ask(ORIGIN))
            assert not isinstance(raised.value, PoolTimeout)
            await turns()
            assert client.stats()["open"] == 0


async def test_a_connection_that_ended_as_it_was_opened_gives_its_slot_to_one_that_waits(
    make_bucket: MakeBucket, timers: ManualTimers, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    attach, dead = bucket._attach, list[Any]()

    async def ends_at_once(*args: Any) -> Any:
        connection = await attach(*args)
        if not dead:
            dead.append(connection)
            connection.close()
        return connection

    monkeypatch.setattr(bucket, "_attach", ends_at_once)
    first, second = asked(bucket, timers), asked(bucket, timers)
    assert await first is dead[0]
    assert (await second).alive
    assert len(bucket.open) == 1


async def test_a_dial_that_fails_gives_its_slot_to_one_that_waits(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1, opens=[False, True])
    first = asked(bucket, timers)
    await asyncio.sleep(0)
    second = asked(bucket, timers)
    with pytest.raises(ConnectFailed):
        await first
    connection = await second
    assert (bucket.open, bucket.dials, bucket.dials_total) == ({connection}, 0, 1)


async def test_a_dial_that_is_cancelled_gives_its_slot_to_one_that_waits(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    first = asked(bucket, timers)
    await asyncio.sleep(0)
    second = asked(bucket, timers)
    await asyncio.sleep(0)
    first.cancel()
    connection = await second
    assert (bucket.open, bucket.dials) == ({connection}, 0)


async def test_no_more_connections_are_opened_than_the_bound_counting_those_under_way(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(connections_per_origin_max=2)
    several = [asked(bucket, timers) for _ in range(5)]
    await turns()
    assert (len(bucket.open), len(bucket.waiters), bucket.dials_total) == (2, 3, 2)
    for connection in list(bucket.open):
        bucket.released(connection)
    await turns()
    assert (len(bucket.open), len(bucket.waiters)) == (2, 1)
    for task in several:
        task.cancel()
    await turns()
    assert len(bucket.waiters) == 0


async def test_the_newest_idle_connection_is_used_first_and_dead_ones_are_closed_on_the_way(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket()
    several = [await bucket.acquire(timers.monotonic_s() + 5) for _ in range(3)]
    for connection in several:
        bucket.released(connection)
    assert bucket.busy == 0
    several[2].alive = False
    assert bucket.take_idle(held=False) is several[1]
    assert (bucket.stale_total, bucket.busy, bucket.open) == (1, 1, set(several[:2]))
    assert bucket.take_idle(held=False) is several[0]
    assert bucket.take_idle(held=False) is None


async def test_a_connection_that_is_too_old_or_one_too_many_is_closed_where_it_comes_back(
    make_bucket: MakeBucket, timers: ManualTimers
) -> None:
    bucket = make_bucket(idle_connections_per_origin_max=1, connection_life_s_max=100, idle_keep_s=30)
    old = await bucket.acquire(timers.monotonic_s() + 5)
    timers.advance(100)
    bucket.released(old)
    assert (old.alive, old.parked_until_s) == (True, timers.monotonic_s() + 30)
    assert bucket.take_idle(held=False) is old
    timers.advance(1)
    bucket.released(old)
    assert not old.alive
    first, second = [await bucket.acquire(timers.monotonic_s() + 5) for _ in range(2)]
    bucket.released(first)
    bucket.released(second)
    assert (first.alive, second.alive, bucket.idle) == (True, False, [first])


async def test_a_closed_pool_keeps_nothing_and_lets_nobody_wait(make_bucket: MakeBucket, timers: ManualTimers) -> None:
    bucket = make_bucket(connections_per_origin_max=1)
    connection = await bucket.acquire(timers.monotonic_s() + 5)
    waiting = asked(bucket, timers)
    await turns()
    bucket.closed = True
    bucket.released(connection)
    assert not connection.alive
    await turns()
    assert (await waiting).alive
    last = asked(bucket, timers)
    await turns()
    bucket.close()
    with pytest.raises(ClientClosed):
        await last
    await turns()
    assert bucket.is_unused


async def test_origins_that_nobody_uses_any_more_are_forgotten_and_those_in_use_are_not(
    serve: Serve, make_client: MakeClient, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may name an address, as for a webhook, could name another one each time."""
    monkeypatch.setattr("elkapi.upstream.client.EMPTY_BUCKETS_MAX", 3)
    closing = await serve(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    kept = await serve(answering(OK, OK))

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    client = make_client(resolver=resolve)
    assert await body_of(client, ask(kept.origin)) == b"ok"
    for number in range(9):
        origin = Origin.parse(f"http://host{number}.example:{closing.origin.port}", allow_private=True)
        assert await body_of(client, ask(origin)) == b"ok"
        assert len(client._buckets) <= 3
    assert await body_of(client, ask(kept.origin)) == b"ok"
    assert (kept.connections, closing.connections) == (1, 9)
