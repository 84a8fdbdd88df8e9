"""Origins behind an HTTP or SOCKS proxy: the same interface, the same failures, the same guard."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trustme

from elkapi.upstream import (
    AddressRefused,
    ConnectFailed,
    Cut,
    Deadlines,
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    Origin,
    ProtocolViolation,
    RequestRefused,
    SendFailed,
    TlsFailed,
    TotalTimeout,
    UpstreamClient,
    UpstreamFailure,
)
from tests.unit.upstream.upstream_peers import (
    BIG,
    OK,
    Ask,
    MakeClient,
    ManualTimers,
    Peer,
    Script,
    Serve,
    Stream,
    Trusting,
    answering,
    body_of,
    server_context,
)


def through(peer: Peer, proxy: Peer, scheme: str = "http") -> Origin:
    return msgspec.structs.replace(peer.origin, proxy_url=f"{scheme}://127.0.0.1:{proxy.origin.port}")


async def splice(stream: Stream, port: int) -> None:
    """Both directions between the proxy's client and a local port, until either ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.write_eof() if sink.can_write_eof() else sink.close()

    try:
        await asyncio.gather(copy(stream.reader, writer), copy(reader, stream.writer))
    finally:
        writer.close()


async def http_proxy(stream: Stream) -> None:
    """CONNECT only."""
    head = await stream.reader.readuntil(b"\r\n\r\n")
    method, target, _ = head.split(b" ", 2)
    assert method == b"CONNECT"
    await stream.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    await splice(stream, int(target.rsplit(b":", 1)[1]))


def socks_proxy(seen: list[bytes]) -> Script:
    async def script(stream: Stream) -> None:
        _, count = await stream.reader.readexactly(2)
        await stream.reader.readexactly(count)
        await stream.write(b"\x05\x00")
        _, _, _, kind = await stream.reader.readexactly(4)
        size = 4 if kind == 1 else (await stream.reader.readexactly(1))[0]
        seen.append(await stream.reader.readexactly(size))
        port = int.from_bytes(await stream.reader.readexactly(2), "big")
        await stream.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        await splice(stream, port)

    return script


async def test_a_plain_target_is_asked_for_in_absolute_form(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    seen = []

    async def proxy_script(stream: Stream) -> None:
        while True:
            seen.append(await stream.request())
            await stream.write(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok")

    proxy = await serve(proxy_script)
    target = await serve(answering(OK))
    request = ask(through(target, proxy), target=b"/v1/x?a=%2F", headers=[(b"x-b", b"2"), (b"connection", b"close")])
    for _ in range(2):
        reply = await client.send(request)
        assert (reply.status, reply.header(b"x-a")) == (200, b"1")
        assert await reply.read(BIG) == (b"ok", True)
    assert seen[0].startswith(b"POST http://127.0.0.1:%d/v1/x?a=%%2F HTTP/1.1\r\n" % target.origin.port)
    assert b"x-b: 2\r\n" in seen[0]
    assert b"connection: close" not in seen[0].lower()
    assert b"user-agent" not in seen[0].lower()
    assert seen[0].endswith(b"\r\n\r\n{}")
    assert (proxy.connections, target.connections) == (1, 0)


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
async def test_tls_goes_through_the_proxy_end_to_end(
    serve: Serve, make_client: MakeClient, ask: Ask, authority: trustme.CA, trusting: Trusting, scheme: str
) -> None:
    names: list[bytes] = []
    proxy = await serve(http_proxy if scheme == "http" else socks_proxy(names))
    target = await serve(answering(OK), tls=server_context(authority.issue_cert("localhost")))
    origin = through(target, proxy, scheme)
    client = make_client(tls=trusting)
    for _ in range(2):
        assert await body_of(client, ask(origin)) == b"ok"
    assert (proxy.connections, target.connections) == (1, 1)
    assert names == ([] if scheme == "http" else [b"localhost"])
    with pytest.raises(TlsFailed) as caught:
        await make_client().send(ask(origin))
    assert caught.value.sent is False


def itself(scheme: str, script: Script) -> Script:
    """A proxy that plays the target behind it too, so that what it writes is there at once."""

    async def run(stream: Stream) -> None:
        if scheme == "socks5":
            await stream.reader.readexactly(3)
            await stream.write(b"\x05\x00")
            await stream.reader.readexactly(10)
            await stream.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        await script(stream)

    return run


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_an_answer_that_nobody_asked_for_is_no_answer_to_the_next_call(
    serve: Serve, client: UpstreamClient, ask: Ask, scheme: str, seen: list[bytes]
) -> None:
    """Whether the loop has read those bytes by then or not."""
    asked = asyncio.Event()
    written = asyncio.Event()

    async def twice(stream: Stream) -> None:
        await stream.request()
        await stream.write(OK)
        await asked.wait()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        written.set()
        await stream.reader.read()

    proxy = await serve(itself(scheme, twice))
    origin = through(proxy, proxy, scheme)
    assert await body_of(client, ask(origin)) == b"ok"
    asked.set()
    await written.wait()
    for _ in range(5 if seen else 0):
        await asyncio.sleep(0)
    asked.clear()
    assert await body_of(client, ask(origin)) == b"ok"
    assert proxy.connections == 2


async def test_a_reused_connection_that_dies_unanswered_is_stale_here_too(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    """A new one is not, nor one that had begun to answer."""

    async def fresh(stream: Stream) -> None:
        await stream.request()

    async def second(stream: Stream) -> None:
        await stream.request()
        await stream.write(OK)
        await stream.request()

    async def in_the_head(stream: Stream) -> None:
        await second(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-")

    found = []
    for script in (fresh, second, in_the_head):
        proxy = await serve(script)
        origin = through(proxy, proxy)
        if script is not fresh:
            assert await body_of(client, ask(origin)) == b"ok"
        with pytest.raises(Cut) as caught:
            await client.send(ask(origin))
        found.append((caught.value.sent, caught.value.stale))
    assert found == [(True, False), (True, True), (True, False)]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity",
        b"HTTP/2.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 999 What\r\nTransfer-Encoding: chunked",
    ],
)
async def test_a_reply_that_could_be_read_in_two_ways_is_refused_here_too(
    serve: Serve, client: UpstreamClient, ask: Ask, head: bytes
) -> None:
    proxy = await serve(answering(head + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
    with pytest.raises(ProtocolViolation):
        await client.send(ask(through(proxy, proxy)))


async def test_credentials_in_a_proxys_url_are_percent_decoded(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    """The same `user:p@ss/w:rd` reaches an HTTP proxy as Basic and a SOCKS proxy by RFC 1929."""
    said = []

    async def http(stream: Stream) -> None:
        head = await stream.request()
        given = re.search(rb"(?i)proxy-authorization: basic (\S+)", head)
        assert given is not None
        said.append(base64.b64decode(given[1]))
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def socks(stream: Stream) -> None:
        _, count = await stream.reader.readexactly(2)
        assert 2 in await stream.reader.readexactly(count)
        await stream.write(b"\x05\x02")
        _, size = await stream.reader.readexactly(2)
        name = await stream.reader.readexactly(size)
        (size,) = await stream.reader.readexactly(1)
        said.append(name + b":" + await stream.reader.readexactly(size))
        await stream.write(b"\x01\x00")
        await stream.reader.readexactly(10)
        await stream.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    for scheme, script in (("http", http), ("socks5", socks)):
        proxy = await serve(script)
        url = f"{scheme}://user:p%40ss%2Fw%3Ard@127.0.0.1:{proxy.origin.port}"
        origin = Origin.parse("http://127.0.0.1:1", allow_private=True, proxy_url=url)
        assert await body_of(client, ask(origin)) == b"ok"
    assert said == [b"user:p@ss/w:rd"] * 2


async def test_the_target_is_judged_before_the_proxy_hears_of_it(make_client: MakeClient, ask: Ask) -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        return ["1.1.1.1"] if host == "proxy.example" else ["10.0.0.1"]

    for scheme in ("http", "socks5"):
        origin = Origin.parse("https://inner.example", proxy_url=f"{scheme}://proxy.example:3128")
        with pytest.raises(AddressRefused) as caught:
            await make_client(resolver=resolve).send(ask(origin))
        assert "inner.example" in str(caught.value)


async def test_the_proxys_own_address_is_judged_too(serve: Serve, make_client: MakeClient, ask: Ask) -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        return ["127.0.0.1"] if host in ("proxy.example", "127.0.0.1") else ["1.1.1.1"]

    proxy = await serve(answering(OK))
    for scheme in ("http", "socks5"):
        for host in ("proxy.example", "127.0.0.1"):
            url = f"{scheme}://{host}:{proxy.origin.port}"
            with pytest.raises(AddressRefused):
                await make_client(resolver=resolve).send(ask(Origin.parse("https://x.example", proxy_url=url)))
    assert proxy.connections == 0


async def test_a_proxy_that_moves_after_it_was_judged_is_judged_where_it_moved_to(
    serve: Serve, make_client: MakeClient, ask: Ask
) -> None:
    proxy, asked = await serve(answering(OK)), []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if asked.count("proxy.example") > 1 else ["1.1.1.1"]

    origin = Origin.parse("http://public.example", proxy_url=f"http://proxy.example:{proxy.origin.port}")
    with pytest.raises(AddressRefused):
        await make_client(resolver=resolve).send(ask(origin))
    assert (asked, proxy.connections) == (["proxy.example", "public.example", "proxy.example"], 0)


async def test_nothing_is_added_to_a_call_or_kept_of_its_answer_for_the_next_caller(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    heads, more = [], b"Set-Cookie: of=caller1; Path=/\r\nContent-Encoding: gzip\r\n"

    async def script(stream: Stream) -> None:
        while True:
            heads.append((await stream.request()).partition(b"\r\n")[2].lower())
            await stream.write(OK.replace(b"\r\n", b"\r\n" + more, 1))

    proxy = await serve(script)
    proxy_url = f"http://127.0.0.1:{proxy.origin.port}"
    origin = Origin.parse("http://target.example", allow_private=True, proxy_url=proxy_url)
    for _ in range(2):  # Not decoded either: what the caller gets is what its head says.
        assert await body_of(client, ask(origin, headers=[])) == b"ok"
    assert heads == [b"host: target.example\r\ncontent-length: 2\r\n\r\n{}"] * 2


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_407_is_the_proxys_only_from_a_proxy_that_speaks_http(
    serve: Serve, client: UpstreamClient, ask: Ask, scheme: str
) -> None:
    gone = asyncio.Event()

    async def refuses(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\nsome")
        assert await stream.reader.read() == b""
        gone.set()

    target = await serve(refuses)
    proxy = target if scheme == "http" else await serve(socks_proxy([]))
    if scheme == "http":
        with pytest.raises(ConnectFailed, match="407"):
            await client.send(ask(through(target, proxy)))
    else:
        reply = await client.send(ask(through(target, proxy, scheme)))
        assert reply.status == 407
        reply.cancel()
    await gone.wait()


async def test_a_proxy_that_is_not_there_or_says_no_is_a_connect_failure(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    async def refuses(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async def socks_refuses(stream: Stream) -> None:
        await stream.reader.readexactly(3)
        await stream.write(b"\x05\xff")

    gone = await serve(answering(OK))
    await gone.stop()
    for scheme, proxy in (("http", gone), ("socks5", gone), ("http", await serve(refuses))):
        origin = Origin.parse(
            "https://localhost:1", allow_private=True, proxy_url=f"{scheme}://127.0.0.1:{proxy.origin.port}"
        )
        with pytest.raises(ConnectFailed) as caught:
            await client.send(ask(origin))
        assert caught.value.sent is False
    proxy = await serve(socks_refuses)
    origin = Origin.parse("http://localhost:1", allow_private=True, proxy_url=f"socks5://127.0.0.1:{proxy.origin.port}")
    with pytest.raises(ConnectFailed):
        await client.send(ask(origin))


async def test_what_a_proxy_says_for_itself_is_a_connect_failure_that_sent_nothing(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    """A tunnel that is not opened whatever the proxy does, and the 407 of a proxy that forwards in the clear."""

    async def hangs_up(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")

    async def babbles(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")
        await stream.write(b"SSH-2.0-x\r\n")

    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    for target, script in (("https", hangs_up), ("https", babbles), ("http", answering(refusal))):
        proxy = await serve(script)
        origin = Origin.parse(
            f"{target}://localhost:1", allow_private=True, proxy_url=f"http://127.0.0.1:{proxy.origin.port}"
        )
        with pytest.raises(ConnectFailed) as caught:
            await client.send(ask(origin))
        assert caught.value.sent is False


async def test_a_proxys_password_is_in_no_failure(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    async def asks_for_another(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    proxy = await serve(asks_for_another)
    proxy_url = f"http://operator:pass-word-1@127.0.0.1:{proxy.origin.port}"
    origin = Origin.parse("https://localhost:1", allow_private=True, proxy_url=proxy_url)
    with pytest.raises(ConnectFailed) as caught:
        await client.send(ask(origin))
    assert "407" in str(caught.value)
    assert "pass-word-1" not in str(caught.value)


async def test_a_cut_and_an_unreadable_reply_are_told_apart(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    target = await serve(answering(OK))
    cut = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", then=lambda _: asyncio.sleep(0)))
    with pytest.raises(Cut) as caught:
        await body_of(client, ask(through(target, cut)))
    assert (caught.value.phase, caught.value.sent) == ("body", True)
    silent = await serve(answering(b"", then=lambda _: asyncio.sleep(0)))
    with pytest.raises(Cut) as caught:
        await client.send(ask(through(target, silent)))
    assert (caught.value.phase, caught.value.sent) == ("header", True)
    babble = await serve(answering(b"SSH-2.0-x\r\n\r\n"))
    with pytest.raises(ProtocolViolation) as violated:
        await client.send(ask(through(target, babble)))
    assert violated.value.sent


async def test_a_proxy_that_breaks_off_before_an_answer_may_have_passed_the_request_on(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    async def broken(stream: Stream) -> None:
        await stream.reader.readuntil(b"\r\n\r\n")
        # Without a linger the close is a reset.
        stream.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.writer.close()

    target, proxy = await serve(answering(OK)), await serve(broken)
    with pytest.raises(SendFailed) as caught:
        await client.send(ask(through(target, proxy)))
    assert (caught.value.phase, caught.value.sent) == ("send", True)


async def test_an_unsafe_request_is_refused_on_this_path_too(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    proxy = await serve(answering(OK))
    target = await serve(answering(OK))
    origin = through(target, proxy)
    for change in (
        {"target": b"/x y"},
        {"method": b"CONNECT"},
        {"headers": [(b"x", b"a\r\nb: c")]},
        {"headers": [(b"bad name", b"a")]},
    ):
        with pytest.raises(RequestRefused):
            await client.send(ask(origin, **change))
    assert proxy.connections == 0


async def test_streamed_bodies_leave_chunked_or_with_their_length(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    seen = []

    async def script(stream: Stream) -> None:
        while True:
            seen.append(await stream.request())
            await stream.write(OK)

    async def parts() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"de"

    proxy = await serve(script)
    target = await serve(answering(OK))
    await body_of(client, ask(through(target, proxy), body=parts()))
    await body_of(client, ask(through(target, proxy), body=parts(), body_bytes=5))
    assert seen[0].endswith(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert b"content-length: 5" in seen[1].lower()
    assert seen[1].endswith(b"\r\n\r\nabcde")


@pytest.mark.parametrize(
    ("sent", "kind", "limit_s"),
    [
        (b"", HeaderTimeout, 11.5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", FirstByteTimeout, 20.0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", IdleTimeout, 5.0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", TotalTimeout, 100.0),
    ],
)
async def test_the_deadlines_hold_behind_a_proxy(
    serve: Serve,
    client: UpstreamClient,
    timers: ManualTimers,
    ask: Ask,
    sent: bytes,
    kind: type[UpstreamFailure],
    limit_s: float,
) -> None:
    idle_s = 1000.0 if kind is TotalTimeout else 5.0
    deadlines = Deadlines(connect_s=1.5, header_s=10.0, first_byte_s=20.0, idle_s=idle_s, total_s=100.0)

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(sent)
        arrived.set()
        await stream.reader.read()

    arrived = asyncio.Event()
    proxy = await serve(script)
    target = await serve(answering(OK))
    sending = asyncio.ensure_future(client.send(ask(through(target, proxy), deadlines=deadlines)))
    await arrived.wait()
    waiting: asyncio.Future[Any] = sending
    if sent:
        reply = await sending
        if sent.endswith(b"abc"):
            assert await reply.next_chunk() == b"abc"
        waiting = asyncio.ensure_future(reply.next_chunk())
    await asyncio.sleep(0.01)
    timers.advance(limit_s - 0.1)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    timers.advance(0.2)
    with pytest.raises(kind):
        await waiting


async def test_cancelling_closes_the_proxied_connection(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    gone = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await stream.reader.read()
        gone.set()

    proxy = await serve(script)
    target = await serve(answering(OK))
    reply = await client.send(ask(through(target, proxy)))
    reply.cancel()
    reply.cancel()
    await gone.wait()
    with pytest.raises(Cut):
        await reply.read(BIG)


async def test_a_reply_that_comes_as_its_caller_leaves_closes_its_connection(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    gone = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        if not await stream.reader.read():
            gone.set()

    proxy = await serve(script)
    target = await serve(answering(OK))
    (await client.send(ask(through(target, proxy)))).cancel()
    await gone.wait()
    gone.clear()
    transport: Any = client._proxied
    asked, replies = transport._request, []

    async def leaves(*what: Any) -> Any:
        replies.append(await asked(*what))
        asyncio.get_running_loop().call_soon(calling.cancel)
        return replies[0]

    transport._request = leaves
    calling = asyncio.ensure_future(client.send(ask(through(target, proxy))))
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert replies[0].closed
    await gone.wait()
