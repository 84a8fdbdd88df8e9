"""TLS: a good certificate, a wrong name, an unknown authority, and what a broken handshake says about `sent`."""

from __future__ import annotations

import asyncio

import pytest
import trustme

from elkapi.upstream import ConnectTimeout, Deadlines, Origin, TlsFailed
from tests.unit.upstream.upstream_peers import (
    BIG,
    OK,
    Ask,
    MakeClient,
    ManualTimers,
    Serve,
    Stream,
    Trusting,
    answering,
    body_of,
    server_context,
)


async def test_a_good_certificate_is_accepted_and_the_connection_reused(
    serve: Serve, make_client: MakeClient, ask: Ask, authority: trustme.CA, trusting: Trusting
) -> None:
    context = server_context(authority.issue_cert("localhost"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    spoken = []

    async def script(stream: Stream) -> None:
        spoken.append(stream.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answering(OK)(stream)

    peer = await serve(script, tls=context)
    client = make_client(tls=trusting)
    for _ in range(3):
        assert await body_of(client, ask(peer.origin)) == b"ok"
    assert spoken == ["http/1.1"]


async def test_large_bodies_pass_through_tls_both_ways(
    serve: Serve, make_client: MakeClient, ask: Ask, authority: trustme.CA, trusting: Trusting
) -> None:
    big = bytes(range(256)) * 8000

    async def script(stream: Stream) -> None:
        request = await stream.request()
        body = request.split(b"\r\n\r\n", 1)[1]
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await stream.reader.read()

    peer = await serve(script, tls=server_context(authority.issue_cert("localhost")))
    assert await body_of(make_client(tls=trusting), ask(peer.origin, body=big)) == big


@pytest.mark.parametrize("case", ["wrong host", "self-signed", "plain text"])
async def test_an_untrusted_peer_gets_nothing(
    serve: Serve, make_client: MakeClient, ask: Ask, authority: trustme.CA, trusting: Trusting, case: str
) -> None:
    if case == "wrong host":
        context = server_context(authority.issue_cert("other.example"))
    elif case == "self-signed":
        context = server_context(trustme.CA().issue_cert("localhost"))
    else:
        context = None
    seen = []

    async def script(stream: Stream) -> None:
        if case == "plain text":
            await stream.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        seen.append(await stream.reader.read(100))

    peer = await serve(script, tls=context)
    origin = Origin.parse(f"https://localhost:{peer.origin.port}", allow_private=True)
    client = make_client(tls=trusting)
    with pytest.raises(TlsFailed) as caught:
        await client.send(ask(origin))
    assert (caught.value.phase, caught.value.sent) == ("tls", False)
    assert client.stats()["open"] == 0
    assert all(b"POST" not in data for data in seen)


async def test_a_handshake_that_never_ends_is_bounded_by_connect_s(
    serve: Serve, make_client: MakeClient, timers: ManualTimers, ask: Ask
) -> None:
    hello = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.reader.readexactly(1)
        hello.set()
        await stream.reader.read()

    peer = await serve(script)
    origin = Origin.parse(f"https://localhost:{peer.origin.port}", allow_private=True)
    client = make_client()
    task = asyncio.ensure_future(client.send(ask(origin, deadlines=Deadlines(connect_s=3.0))))
    await hello.wait()
    timers.advance(3.1)
    with pytest.raises(ConnectTimeout) as caught:
        await task
    assert (caught.value.phase, caught.value.sent) == ("tls", False)


async def test_a_reply_without_framing_ends_with_the_tls_connection(
    serve: Serve, make_client: MakeClient, ask: Ask, authority: trustme.CA, trusting: Trusting
) -> None:
    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    peer = await serve(script, tls=server_context(authority.issue_cert("localhost")))
    reply = await make_client(tls=trusting).send(ask(peer.origin))
    assert await reply.read(BIG) == (b"all of it", True)
