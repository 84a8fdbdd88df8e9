"""A body poured into its taker: chunk by chunk as it comes, no faster than the taker lets it, with every end told."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from elkapi.upstream import Cut, Origin, UpstreamClient, UpstreamFailure
from elkapi.upstream.reply import SocketReply
from tests.unit.upstream.upstream_peers import CHUNKED, Ask, Serve, Stream, taking
from tests.waiting import until


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_chunks_are_taken_one_by_one_as_they_come_and_the_connection_is_kept(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    turn, got = asyncio.Event(), []

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(CHUNKED)
        for number in range(5):
            await stream.write(_chunk(b"event %d" % number))
            await turn.wait()
            turn.clear()
        await stream.write(b"0\r\n\r\n")
        await stream.reader.read()

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        turn.set()
        return True

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    await reply.pour(take)
    assert got == [b"event %d" % number for number in range(5)]
    assert client.stats()["idle"] == 1


async def test_nothing_is_taken_while_the_taker_asks_to_wait(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    first, free, got = asyncio.Event(), asyncio.get_running_loop().create_future(), []

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(CHUNKED + _chunk(b"a"))
        await first.wait()
        await stream.write(_chunk(b"b"))
        await stream.write(_chunk(b"c") + b"0\r\n\r\n")
        await stream.reader.read()

    def take(chunk: bytes) -> bool | asyncio.Future[None]:
        got.append(chunk)
        first.set()
        return free if len(got) == 1 else True

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    pouring = asyncio.ensure_future(reply.pour(take))
    assert isinstance(reply, SocketReply)
    await until(lambda: reply.buffered_bytes == 2)
    assert got == [b"a"]
    free.set_result(None)
    await pouring
    assert b"".join(got) == b"abc"


async def test_a_taker_that_has_enough_gets_no_more(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(CHUNKED + _chunk(b"one"))
        await asked.wait()
        await stream.write(_chunk(b"two"))
        await stream.reader.read()

    asked, got = asyncio.Event(), []

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        return False

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    await reply.pour(take)
    asked.set()
    assert isinstance(reply, SocketReply)
    await until(lambda: reply.buffered_bytes == 3)
    assert got == [b"one"]
    reply.cancel()


async def test_what_the_taker_raises_is_raised_where_it_is_waited_for(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    go = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(CHUNKED)
        await go.wait()
        await stream.write(_chunk(b"bad"))
        await stream.reader.read()

    def take(chunk: bytes) -> bool:
        raise ValueError(chunk)

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    pouring = asyncio.ensure_future(reply.pour(take))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(ValueError, match="bad"):
        await pouring
    reply.cancel()


@pytest.mark.parametrize(
    "end",
    [b"", _chunk(b"more"), _chunk(b"more") + b"no chunk size\r\n"],
    ids=["closed", "closed after more", "broken after more in one segment"],
)
async def test_a_body_that_breaks_while_it_is_poured_says_so_after_what_came(
    serve: Serve, client: UpstreamClient, ask: Ask, end: bytes
) -> None:
    first, got = asyncio.Event(), []

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(CHUNKED + _chunk(b"first"))
        await first.wait()
        if end:
            await stream.write(end)
        stream.writer.close()

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        first.set()
        return True

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    with pytest.raises(UpstreamFailure) as caught:
        await reply.pour(take)
    assert isinstance(caught.value, Cut) or b"no chunk" in end
    assert b"".join(got) == (b"firstmore" if end else b"first")


async def test_a_cancelled_pour_takes_nothing_more(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    go, got = asyncio.Event(), list[bytes]()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(CHUNKED)
        await go.wait()
        await stream.write(_chunk(b"late"))
        await stream.reader.read()

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    pouring = asyncio.ensure_future(reply.pour(taking(got)))
    await asyncio.sleep(0)
    pouring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pouring
    go.set()
    assert isinstance(reply, SocketReply)
    await until(lambda: reply.buffered_bytes == 4)
    assert got == []
    reply.cancel()


async def test_a_peer_that_is_always_faster_leaves_others_their_turns(client: UpstreamClient, ask: Ask) -> None:
    size, taken, most = 16_000_000, 0, 0
    loop = asyncio.get_running_loop()

    def others() -> None:
        nonlocal taken
        taken = 0

    def take(chunk: bytes) -> bool:
        nonlocal taken, most
        taken += len(chunk)
        most = max(most, taken)
        loop.call_soon(others)
        return True

    def write(listening: socket.socket) -> None:
        with listening.accept()[0] as connection, contextlib.suppress(ConnectionError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = loop.run_in_executor(None, write, listening)
        origin = Origin.parse(f"http://127.0.0.1:{listening.getsockname()[1]}", allow_private=True)
        reply = await client.send(ask(origin))
        try:
            await reply.pour(take)
        finally:
            reply.cancel()
            await peer
    assert most <= 512 * 1024
