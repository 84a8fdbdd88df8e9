"""The five deadlines, each by its own failure, on a clock that moves only when told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from elkapi.upstream import (
    ClientClosed,
    ConnectTimeout,
    Cut,
    Deadlines,
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    Origin,
    PoolFull,
    PoolTimeout,
    TotalTimeout,
    UpstreamClient,
    UpstreamFailure,
)
from tests.unit.upstream.upstream_peers import (
    BIG,
    CHUNKED,
    OK,
    Ask,
    MakeClient,
    ManualTimers,
    Script,
    Serve,
    Stream,
    answering,
    body_of,
)
from tests.waiting import until

FIVE = Deadlines(connect_s=1.0, header_s=10.0, first_byte_s=20.0, idle_s=5.0, total_s=100.0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


def steps(*parts: bytes) -> tuple[Script, Callable[[], None]]:
    """(script, go): the script sends the next part each time `go` is called and then stays silent."""
    turns: asyncio.Queue[None] = asyncio.Queue()

    async def script(stream: Stream) -> None:
        await stream.request()
        for part in parts:
            await turns.get()
            await stream.write(part)
        await stream.reader.read()

    return script, lambda: turns.put_nowait(None)


async def connected(client: UpstreamClient) -> None:
    await until(lambda: client.stats()["open"])
    await turn()


async def turn(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0.0005)


async def ends(task: asyncio.Future[Any], kind: type[UpstreamFailure], phase: str, *, sent: bool) -> None:
    with pytest.raises(kind) as caught:
        await task
    assert type(caught.value) is kind
    assert caught.value.phase == phase
    assert caught.value.sent is sent


async def reads_nothing(stream: Stream) -> None:
    transport: Any = stream.writer.transport
    transport.pause_reading()
    await asyncio.Event().wait()


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


async def ends_by_idleness(task: asyncio.Future[Any], timers: ManualTimers) -> None:
    for _ in range(40):  # Let the kernel's buffers fill; every look by the timer may find progress once.
        await turn()
        if task.done():
            break
        timers.advance(5.1)
    await ends(task, IdleTimeout, "send", sent=True)


async def test_g54_five_deadlines_are_separate(
    serve: Serve, make_client: MakeClient, client: UpstreamClient, timers: ManualTimers, ask: Ask
) -> None:
    """One after the other on one exchange each: every phase starts its own count, and only its own failure ends it."""
    never = asyncio.Event()

    async def no_answer(_host: str, _port: int) -> None:
        await never.wait()

    task: asyncio.Future[Any]

    # connect_s
    deaf = make_client(resolver=no_answer)
    task = asyncio.ensure_future(deaf.send(ask(Origin.parse("http://nowhere.example"), deadlines=FIVE)))
    await turn()
    timers.advance(0.9)
    await turn()
    assert not task.done()
    timers.advance(0.2)
    await ends(task, ConnectTimeout, "resolve", sent=False)

    # header_s, though connect_s is long over
    script, _ = steps()
    peer = await serve(script)
    task = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=FIVE)))
    await connected(client)
    timers.advance(9.9)
    await turn()
    assert not task.done()
    timers.advance(0.2)
    await ends(task, HeaderTimeout, "header", sent=True)

    # first_byte_s, though header_s and idle_s are over
    script, go = steps(HEAD)
    peer = await serve(script)
    sending = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=FIVE)))
    go()
    reply = await sending
    task = asyncio.ensure_future(reply.read(BIG))
    await turn()
    timers.advance(19.9)
    await turn()
    assert not task.done()
    timers.advance(0.2)
    await ends(task, FirstByteTimeout, "first_byte", sent=True)

    # idle_s, counted anew from each byte
    script, go = steps(HEAD, b"a", b"b")
    peer = await serve(script)
    sending = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=FIVE)))
    go()
    reply = await sending
    for expected in (b"a", b"b"):
        timers.advance(4.9)
        go()
        assert await reply.next_chunk() == expected
    task = asyncio.ensure_future(reply.next_chunk())
    await turn()
    timers.advance(4.9)
    await turn()
    assert not task.done()
    timers.advance(0.2)
    await ends(task, IdleTimeout, "body", sent=True)

    # total_s, though a byte comes every 4 s
    script, go = steps(CHUNKED, *[b"1\r\nx\r\n"] * 30)
    peer = await serve(script)
    sending = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=FIVE)))
    go()
    reply = await sending
    for _ in range(24):
        timers.advance(4.0)
        go()
        assert await reply.next_chunk() == b"x"
    timers.advance(3.9)
    task = asyncio.ensure_future(reply.next_chunk())
    await turn()
    assert not task.done()
    timers.advance(0.2)
    await ends(task, TotalTimeout, "body", sent=True)


async def test_a_connect_that_is_never_answered_ends_by_connect_s(
    make_client: MakeClient, timers: ManualTimers, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backlog of a listener that never accepts is not portable, so the loop's own connect is held here."""
    loop = asyncio.get_running_loop()
    client = make_client(resolver=lambda _h, _p: answer(["127.0.0.1", "127.0.0.2"]))
    tried = []

    async def answer(addresses: list[str]) -> list[str]:
        return addresses

    async def hang(_sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        await asyncio.Event().wait()

    proxy = LoopProxy(loop, hang)
    monkeypatch.setattr("elkapi.upstream.dialer.asyncio.get_running_loop", lambda: proxy)
    origin = Origin.parse("http://slow.example", allow_private=True)
    task = asyncio.ensure_future(client.send(ask(origin, deadlines=FIVE)))
    await turn()
    assert tried == ["127.0.0.1"]
    timers.advance(0.6)
    await turn()
    # The first address used half of the second, the next one gets the rest.
    assert tried == ["127.0.0.1", "127.0.0.2"]
    timers.advance(0.6)
    await ends(task, ConnectTimeout, "connect", sent=False)


async def test_a_caller_that_leaves_while_we_connect_leaves_no_socket_behind(
    make_client: MakeClient, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, dialed = asyncio.get_running_loop(), []

    async def hang(sock: socket.socket, _address: Any) -> None:
        dialed.append(sock)
        await asyncio.Event().wait()

    proxy = LoopProxy(loop, hang)
    monkeypatch.setattr("elkapi.upstream.dialer.asyncio.get_running_loop", lambda: proxy)
    task = asyncio.ensure_future(make_client().send(ask(Origin.parse("http://127.0.0.1", allow_private=True))))
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [sock.fileno() for sock in dialed] == [-1]


class LoopProxy:
    """The running loop with another `sock_connect`: uvloop's own attributes cannot be replaced."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock_connect: Any) -> None:
        self._loop = loop
        self.sock_connect = sock_connect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_the_total_also_bounds_connecting(make_client: MakeClient, timers: ManualTimers, ask: Ask) -> None:
    never = asyncio.Event()

    async def no_answer(_host: str, _port: int) -> None:
        await never.wait()

    client = make_client(resolver=no_answer)
    deadlines = Deadlines(connect_s=50.0, total_s=3.0)
    task = asyncio.ensure_future(client.send(ask(Origin.parse("http://nowhere.example"), deadlines=deadlines)))
    await turn()
    timers.advance(3.1)
    await ends(task, ConnectTimeout, "resolve", sent=False)


async def test_a_deadline_shorter_than_the_sleeping_timer_is_still_met(
    serve: Serve, client: UpstreamClient, timers: ManualTimers, ask: Ask
) -> None:
    """The timer of a reused connection may be asleep until far later than the next call allows."""
    answer, silent = OK, asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(answer)
        await stream.request()
        silent.set()
        await stream.reader.read()

    peer = await serve(script)
    long = Deadlines(header_s=500.0, total_s=1000.0)
    assert await body_of(client, ask(peer.origin, deadlines=long)) == b"ok"
    task = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=Deadlines(header_s=2.0))))
    await silent.wait()
    timers.advance(2.1)
    await ends(task, HeaderTimeout, "header", sent=True)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_peer_that_stops_reading_ends_by_idle_s(
    serve: Serve, client: UpstreamClient, timers: ManualTimers, ask: Ask, streamed: bool
) -> None:
    peer = await serve(reads_nothing)
    request = ask(peer.origin, body=endless() if streamed else b"x" * 30_000_000, deadlines=FIVE)
    task = asyncio.ensure_future(client.send(request))
    await connected(client)
    await ends_by_idleness(task, timers)


async def test_a_slow_body_of_the_caller_is_not_the_upstreams_idleness(
    serve: Serve, client: UpstreamClient, timers: ManualTimers, ask: Ask
) -> None:
    go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await go.wait()
        yield b"b"

    peer = await serve(answering(OK))
    task = asyncio.ensure_future(client.send(ask(peer.origin, body=slow(), deadlines=FIVE)))
    await connected(client)
    timers.advance(60.0)
    await turn()
    assert not task.done()
    go.set()
    assert (await task).status == 200


async def test_a_slow_body_of_the_caller_still_ends_by_total_s(
    serve: Serve, client: UpstreamClient, timers: ManualTimers, ask: Ask
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    peer = await serve(answering(OK))
    task = asyncio.ensure_future(client.send(ask(peer.origin, body=slow(), deadlines=FIVE)))
    await connected(client)
    timers.advance(100.1)
    await ends(task, TotalTimeout, "send", sent=True)


async def test_a_slow_reader_of_ours_is_not_the_upstreams_idleness(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    client = make_client(reply_buffer_bytes_max=65536)
    body = b"x" * 4_000_000
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    reply = await client.send(ask(peer.origin, deadlines=FIVE))
    await turn()
    timers.advance(60.0)
    await turn()
    assert await reply.read(BIG) == (body, True)


async def test_a_reader_that_never_comes_ends_by_total_s(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    client = make_client(reply_buffer_bytes_max=65536)
    body = b"x" * 4_000_000
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    reply = await client.send(ask(peer.origin, deadlines=FIVE))
    await turn()
    timers.advance(100.1)
    await until(lambda: client.stats()["open"] == 0)
    assert await reply.next_chunk() != b""
    with pytest.raises(TotalTimeout):
        await reply.next_chunk()


async def test_an_idle_connection_leaves_the_pool_after_idle_keep_s(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    client = make_client(idle_keep_s=30.0)
    peer = await serve(answering(OK))
    await body_of(client, ask(peer.origin))
    timers.advance(29.0)
    await body_of(client, ask(peer.origin))
    timers.advance(29.0)
    assert client.stats()["idle"] == 1
    timers.advance(1.1)
    await until(lambda: client.stats()["open"] == 0)
    assert peer.connections == 1


async def test_an_old_connection_is_not_kept_so_that_new_ones_follow_dns(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    client = make_client(connection_life_s_max=100.0, idle_keep_s=1000.0)
    peer = await serve(answering(OK))
    for _ in range(4):  # At ages 0, 60 and 120 s of the first connection; the third call does not give it back.
        await body_of(client, ask(peer.origin))
        timers.advance(60.0)
    assert peer.connections == 2


async def test_waiting_for_a_connection_is_bounded_in_time_and_in_number(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    client = make_client(connections_per_origin_max=1, waiters_per_origin_max=1)
    script, go = steps(OK)
    peer = await serve(script)
    first = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=FIVE)))
    await connected(client)
    second = asyncio.ensure_future(client.send(ask(peer.origin, deadlines=FIVE)))
    await turn()
    with pytest.raises(PoolFull) as caught:
        await client.send(ask(peer.origin, deadlines=FIVE))
    assert caught.value.sent is False
    timers.advance(1.1)
    await ends(second, PoolTimeout, "pool", sent=False)
    go()
    assert (await first).status == 200


async def test_a_released_connection_goes_to_the_first_that_waits(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    client = make_client(connections_per_origin_max=1)
    peer = await serve(answering(OK))
    replies = await asyncio.gather(*(body_of(client, ask(peer.origin)) for _ in range(20)))
    assert replies == [b"ok"] * 20
    assert peer.connections == 1


async def test_a_lost_connection_gives_its_slot_to_one_that_waits(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    client = make_client(connections_per_origin_max=2)

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    peer = await serve(script)
    replies = await asyncio.gather(*(body_of(client, ask(peer.origin)) for _ in range(20)))
    assert replies == [b"ok"] * 20
    assert peer.connections == 20


async def test_a_cancelled_waiter_does_not_take_a_connection_with_it(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    client = make_client(connections_per_origin_max=1)
    script, go = steps(OK)
    peer = await serve(script)
    first = asyncio.ensure_future(client.send(ask(peer.origin)))
    await connected(client)
    waiting = [asyncio.ensure_future(client.send(ask(peer.origin))) for _ in range(3)]
    await turn()
    for task in waiting:
        task.cancel()
    go()
    await first
    await asyncio.gather(*waiting, return_exceptions=True)
    stats = client.stats()
    assert (stats["open"], stats["idle"], stats["waiting"], stats["dialing"]) == (1, 1, 0, 0)


async def test_closing_the_client_ends_calls_under_way_and_waiting(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    client = make_client(connections_per_origin_max=1)
    script, _ = steps()
    peer = await serve(script)
    first = asyncio.ensure_future(client.send(ask(peer.origin)))
    await connected(client)
    second = asyncio.ensure_future(client.send(ask(peer.origin)))
    await turn()
    await client.aclose()
    with pytest.raises(Cut):
        await first
    with pytest.raises(ClientClosed) as caught:
        await second
    assert caught.value.sent is False
    with pytest.raises(ClientClosed):
        await client.send(ask(peer.origin))


async def test_a_head_larger_than_the_write_buffer_does_not_hide_a_peer_that_stops_reading(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    client = make_client(write_buffer_bytes_max=1024)

    peer = await serve(reads_nothing)
    headers = [(b"x-%d" % number, b"y" * 50_000) for number in range(400)]
    task = asyncio.ensure_future(client.send(ask(peer.origin, headers=headers, body=endless(), deadlines=FIVE)))
    await connected(client)
    await ends_by_idleness(task, timers)


async def test_a_cancellation_that_comes_with_the_deadline_of_connecting_is_heeded(
    make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    never = asyncio.Event()

    async def no_answer(_host: str, _port: int) -> None:
        await never.wait()

    client = make_client(resolver=no_answer)
    task = asyncio.ensure_future(client.send(ask(Origin.parse("http://nowhere.example"), deadlines=FIVE)))
    await turn()
    timers.advance(5.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
