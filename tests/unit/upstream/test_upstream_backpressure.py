"""Whoever is slow slows the other side down, and what is held in between stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from elkapi.upstream import UpstreamClient
from elkapi.upstream.reply import SocketReply
from tests.unit.upstream.upstream_peers import BIG, Ask, MakeClient, Serve, Stream

REPLY_BYTES = 64_000_000
CHUNK = b"x" * 65536


async def test_a_slow_reader_pauses_the_peer_and_memory_stays_bounded(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    client = make_client(reply_buffer_bytes_max=128 * 1024)
    written = 0

    async def script(stream: Stream) -> None:
        nonlocal written
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % REPLY_BYTES)
        while written < REPLY_BYTES:
            size = min(len(CHUNK), REPLY_BYTES - written)
            await stream.write(CHUNK[:size])
            written += size

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    before = -1
    while before != written:  # Until the peer stands still.
        before = written
        await asyncio.sleep(0.05)
    # What left the peer is in kernel buffers; of ours there is at most the limit and one read of the loop's.
    assert written < REPLY_BYTES / 2
    assert isinstance(reply, SocketReply)
    assert reply.buffered_bytes <= 128 * 1024 + 256 * 1024
    got = biggest = 0
    async for chunk in reply:
        got += len(chunk)
        biggest = max(biggest, len(chunk))
    assert got == REPLY_BYTES
    assert biggest <= 128 * 1024 + 256 * 1024
    assert client.stats()["idle"] == 1


async def test_a_slow_peer_pauses_the_callers_body(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    given = 0
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal given
        while given < REPLY_BYTES:
            given += 64_000
            yield CHUNK[:64_000]

    async def script(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")
        await go.wait()
        left = REPLY_BYTES
        while left:
            left -= len(await stream.reader.read(min(left, 1 << 20)))
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await stream.reader.read()

    peer = await serve(script)
    sending = asyncio.ensure_future(client.send(ask(peer.origin, body=body(), body_bytes=REPLY_BYTES)))
    before = -1
    while before != given:
        before = given
        await asyncio.sleep(0.05)
    assert given < REPLY_BYTES / 2
    go.set()
    reply = await sending
    assert given == REPLY_BYTES
    assert await reply.read(BIG) == (b"ok", True)
    assert client.stats()["idle"] == 1


async def test_small_pieces_reach_a_waiting_reader_one_by_one(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    """Streams are for people who watch: nothing waits for a buffer to fill."""
    turn = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(50):
            await stream.write(b"2\r\n%02d\r\n" % number)
            await turn.wait()
            turn.clear()
        await stream.write(b"0\r\n\r\n")
        await stream.reader.read()

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    seen = []
    async for chunk in reply:
        seen.append(chunk)
        turn.set()
    assert seen == [b"%02d" % number for number in range(50)]
