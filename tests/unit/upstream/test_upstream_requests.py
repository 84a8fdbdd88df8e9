"""What leaves for a peer: the exact bytes, what is refused before it leaves, streamed bodies and early replies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from elkapi.upstream import Cut, Origin, RequestRefused, SendFailed, UpstreamClient, UpstreamFailure
from tests.unit.upstream.upstream_peers import BIG, OK, Ask, Script, Serve, Stream, answering, body_of
from tests.waiting import until


def recording(seen: list[bytes], reply: bytes = OK) -> Script:
    async def script(stream: Stream) -> None:
        while True:
            seen.append(await stream.request())
            await stream.write(reply)

    return script


async def test_host_and_length_are_the_clients_own_and_hop_by_hop_headers_stay_behind(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    seen: list[bytes] = []
    peer = await serve(recording(seen))
    headers = [
        (b"X-One", b"1"),
        (b"Host", b"evil.example"),
        (b"Content-Length", b"999"),
        (b"transfer-encoding", b"chunked"),
        (b"Connection", b"close"),
        (b"Expect", b"100-continue"),
        (b"x-two", b"caf\xc3\xa9\ttab"),
    ]
    await body_of(client, ask(peer.origin, target=b"/v1/x?a=1", headers=headers, body=b"{}"))
    assert seen == [
        b"POST /v1/x?a=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nX-One: 1\r\nx-two: caf\xc3\xa9\ttab\r\n"
        b"content-length: 2\r\n\r\n{}" % peer.origin.port
    ]


async def test_a_get_without_body_announces_none_and_a_post_says_zero(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    seen: list[bytes] = []
    peer = await serve(recording(seen))
    await body_of(client, ask(peer.origin, b"GET", headers=[]))
    await body_of(client, ask(peer.origin, b"POST", headers=[], body=b""))
    assert b"content-length" not in seen[0]
    assert seen[1].endswith(b"content-length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "change",
    [
        {"target": b"/x HTTP/1.1\r\nX: y"},
        {"target": b"/x y"},
        {"target": b"/x\0"},
        {"target": b"/x#y"},
        {"target": b"/caf\xc3\xa9"},
        {"target": b"x"},
        {"target": b""},
        {"target": b"http://evil.example/"},
        {"method": b"GET / HTTP/1.1\r\nX: y\r\n\r\nGET"},
        {"method": b"CONNECT"},
        {"method": b""},
        {"headers": [(b"x", b"a\r\nInjected: 1")]},
        {"headers": [(b"x", b"a\nInjected: 1")]},
        {"headers": [(b"x", b"a\rb")]},
        {"headers": [(b"x", b"a\0b")]},
        {"headers": [(b"x", b"a\x7fb")]},
        {"headers": [(b"x\r\nInjected", b"1")]},
        {"headers": [(b"content-length ", b"5")]},
        {"headers": [(b"x: y\r\nz", b"5")]},
        {"headers": [(b"", b"5")]},
        {"headers": [(b"x", b"a"), (b"y", b"b\r"), (b"z", b"\nc")]},
        {"body_bytes": -1},
    ],
)
async def test_a_request_that_could_be_two_is_refused_before_anything_leaves(
    serve: Serve, client: UpstreamClient, ask: Ask, change: dict[str, Any]
) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b"x"

    if "body_bytes" in change:
        change = {**change, "body": nothing()}
    peer = await serve(answering(OK))
    with pytest.raises(RequestRefused) as caught:
        await client.send(ask(peer.origin, **change))
    assert caught.value.sent is False
    assert peer.connections == 0


async def test_a_header_name_judged_once_is_judged_the_same_again(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    seen: list[bytes] = []
    peer = await serve(recording(seen))
    for _ in range(3):
        await body_of(client, ask(peer.origin, headers=[(b"HOST", b"evil"), (b"X-Fine", b"1")]))
        with pytest.raises(RequestRefused):
            await client.send(ask(peer.origin, headers=[(b"bad name", b"1")]))
    assert all(b"evil" not in request and b"X-Fine: 1" in request for request in seen)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def test_a_streamed_body_leaves_chunked(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    seen: list[bytes] = []
    peer = await serve(recording(seen))
    await body_of(client, ask(peer.origin, body=chunks(b"abc", b"", b"defghijklmnopq")))
    reply = await client.send(ask(peer.origin, body=chunks(b"x")))
    assert reply.reused
    assert seen[0].endswith(b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\ne\r\ndefghijklmnopq\r\n0\r\n\r\n")


async def test_a_streamed_body_of_known_size_leaves_with_its_length(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    seen: list[bytes] = []
    peer = await serve(recording(seen))
    await body_of(client, ask(peer.origin, body=chunks(b"abc", b"de"), body_bytes=5))
    assert seen[0].endswith(b"content-length: 5\r\n\r\nabcde")


@pytest.mark.parametrize("announced", [4, 6])
async def test_a_streamed_body_that_is_not_as_long_as_announced_fails(
    serve: Serve, client: UpstreamClient, ask: Ask, announced: int
) -> None:
    peer = await serve(recording([]))
    with pytest.raises(SendFailed) as caught:
        await body_of(client, ask(peer.origin, body=chunks(b"abc", b"de"), body_bytes=announced))
    assert caught.value.sent
    assert client.stats()["idle"] == 0


async def test_an_exception_of_the_body_reaches_the_caller_as_it_is_and_the_connection_ends(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    class CallerWentAway(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise CallerWentAway

    peer = await serve(recording([]))
    with pytest.raises(CallerWentAway):
        await client.send(ask(peer.origin, body=broken()))
    await until(lambda: client.stats()["open"] == 0)


async def test_an_early_refusal_is_delivered_while_the_body_is_still_being_sent(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def script(stream: Stream) -> None:
        await stream.reader.readuntil(b"first\r\n")
        await stream.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await stream.reader.read()

    peer = await serve(script)
    reply = await client.send(ask(peer.origin, body=endless()))
    assert reply.status == 413
    assert await reply.read(BIG) == (b"big", True)
    await closed.wait()
    assert client.stats()["idle"] == 0


async def test_an_early_success_goes_on_both_ways(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    go = asyncio.Event()

    async def dialogue() -> AsyncIterator[bytes]:
        yield b"ping"
        await go.wait()
        yield b"pong"

    async def script(stream: Stream) -> None:
        await stream.reader.readuntil(b"ping\r\n")
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nPING\r\n")
        await stream.reader.readuntil(b"pong\r\n0\r\n\r\n")
        await stream.write(b"4\r\nPONG\r\n0\r\n\r\n")
        await stream.reader.read()

    peer = await serve(script)
    reply = await client.send(ask(peer.origin, body=dialogue()))
    assert await reply.next_chunk() == b"PING"
    go.set()
    assert await reply.next_chunk() == b"PONG"
    assert await reply.next_chunk() == b""
    assert client.stats()["idle"] == 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_refusal_with_a_close_behind_it_is_still_seen(
    serve: Serve, client: UpstreamClient, ask: Ask, streamed: bool
) -> None:
    """The peer answers 413 to the head, reads nothing and closes, so the kernel answers our body with RST."""

    async def script(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")

    async def body() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield b"x" * 65536
            await asyncio.sleep(0)

    peer = await serve(script)
    request = ask(peer.origin, body=body() if streamed else b"x" * 26_214_400)
    reply = await client.send(request)
    assert reply.status == 413
    assert await reply.read(BIG) == (b"big", True)


async def test_a_stale_connection_is_replaced_when_the_peer_closed_before_we_wrote(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    async def close_later(stream: Stream) -> None:
        await asyncio.sleep(0)

    peer = await serve(answering(OK, then=close_later))
    for _ in range(3):
        assert await body_of(client, ask(peer.origin)) == b"ok"
        await until(lambda: client.stats()["open"] == 0)
    assert peer.connections == 3


async def test_a_close_the_loop_has_not_heard_of_yet_is_found_before_writing(client: UpstreamClient, ask: Ask) -> None:
    """A blocking peer in this very thread: between its close and our send the loop never looks at the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = Origin.parse(f"http://127.0.0.1:{listener.getsockname()[1]}", allow_private=True)
        sending = asyncio.ensure_future(client.send(ask(origin)))
        first = await asyncio.to_thread(lambda: listener.accept()[0])
        await asyncio.to_thread(first.recv, 65536)
        first.sendall(OK)
        reply = await sending
        assert await reply.read(BIG) == (b"ok", True)
        assert client.stats()["idle"] == 1
        first.close()
        sending = asyncio.ensure_future(client.send(ask(origin)))
        second = await asyncio.to_thread(lambda: listener.accept()[0])
        await asyncio.to_thread(second.recv, 65536)
        second.sendall(OK)
        reply = await sending
        assert not reply.reused
        assert client.stats()["stale_total"] == 1
        second.close()


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_reused_connection_that_dies_unanswered_is_reported_as_stale_and_never_repeated(
    serve: Serve, client: UpstreamClient, ask: Ask, how: str
) -> None:
    seen = []

    async def script(stream: Stream) -> None:
        seen.append(await stream.request())
        await stream.write(OK)
        seen.append(await stream.request())
        if how == "rst":
            stream.reset()

    peer = await serve(script)
    assert await body_of(client, ask(peer.origin)) == b"ok"
    with pytest.raises(UpstreamFailure) as caught:
        await client.send(ask(peer.origin))
    assert isinstance(caught.value, Cut)
    assert caught.value.sent
    assert caught.value.stale
    assert (len(seen), peer.connections) == (2, 1)


async def test_a_body_that_breaks_off_on_a_reused_connection_is_never_sent_again(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    heads = []

    async def script(stream: Stream) -> None:
        heads.append(await stream.request())
        await stream.write(OK)
        heads.append(await stream.reader.readuntil(b"\r\n\r\n"))

    peer = await serve(script)
    assert await body_of(client, ask(peer.origin)) == b"ok"
    with pytest.raises(SendFailed) as caught:
        await client.send(ask(peer.origin, body=bytes(32 << 20)))
    assert (caught.value.sent, caught.value.stale) == (True, True)
    assert (len(heads), peer.connections) == (2, 1)


async def test_a_fresh_connection_that_dies_unanswered_is_not_called_stale(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    async def script(stream: Stream) -> None:
        await stream.request()

    peer = await serve(script)
    with pytest.raises(Cut) as caught:
        await client.send(ask(peer.origin))
    assert caught.value.sent
    assert not caught.value.stale
