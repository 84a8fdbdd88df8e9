"""What a peer may send and what becomes of it: framing, interim replies, limits, reuse."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from elkapi.upstream import Cut, ProtocolViolation, UpstreamClient, UpstreamFailure, answer_to
from elkapi.upstream.pool import Bucket
from tests.unit.upstream.upstream_peers import (
    BIG,
    CHUNKED,
    OK,
    Ask,
    MakeClient,
    Serve,
    Stream,
    answering,
    body_of,
    closing,
)
from tests.waiting import until


async def test_a_reply_has_status_lower_case_headers_in_order_and_its_body(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    peer = await serve(
        answering(b"HTTP/1.1 201 Made\r\nX-A: 1\r\nx-a: 2\r\nX-Empty:\r\nContent-Length: 5\r\n\r\nhello")
    )
    reply = await client.send(ask(peer.origin))
    assert reply.status == 201
    assert reply.headers == [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-empty", b""), (b"content-length", b"5")]
    assert reply.header(b"x-a") == b"1"
    assert reply.header(b"absent") is None
    assert await reply.read(BIG) == (b"hello", True)
    assert await reply.read(BIG) == (b"", True)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        pytest.param(OK, b"ok", id="content-length"),
        pytest.param(CHUNKED + b"2\r\nok\r\n3;ext=1\r\nay!\r\n0\r\n\r\n", b"okay!", id="chunked"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n", b"ok", id="chunked with trailer"),
        pytest.param(CHUNKED + b"0\r\n\r\n", b"", id="chunked empty"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", id="length 0"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok", id="interim"),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", b"", id="204"),
        pytest.param(b"HTTP/1.1 304 Same\r\nContent-Length: 100\r\n\r\n", b"", id="304"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", id="1.0 keep-alive"
        ),
    ],
)
async def test_a_reply_whose_end_is_known_leaves_the_connection_fit_for_another(
    serve: Serve, client: UpstreamClient, ask: Ask, raw: bytes, body: bytes
) -> None:
    peer = await serve(answering(raw))
    assert await body_of(client, ask(peer.origin)) == body
    reply = await client.send(ask(peer.origin))
    assert reply.reused
    assert await reply.read(BIG) == (body, True)
    assert peer.connections == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"X",
        OK + OK,
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n0\r\n\r\nX",
    ],
)
async def test_a_connection_with_close_or_trailing_bytes_is_not_used_again(
    serve: Serve, client: UpstreamClient, ask: Ask, raw: bytes
) -> None:
    peer = await serve(answering(raw))
    for _ in range(2):
        reply = await client.send(ask(peer.origin))
        assert not reply.reused
        assert (await reply.read(BIG))[1]
    assert peer.connections == 2


async def test_bytes_nobody_asked_for_close_an_idle_connection(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    async def late_408(stream: Stream) -> None:
        await stream.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await stream.reader.read()

    peer = await serve(answering(OK, then=late_408))
    assert await body_of(client, ask(peer.origin)) == b"ok"
    await until(lambda: client.stats()["open"] == 0)
    assert await body_of(client, ask(peer.origin)) == b"ok"
    assert peer.connections == 2


async def test_a_head_request_has_no_body_whatever_its_headers_say(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"))
    for _ in range(2):
        reply = await client.send(ask(peer.origin, b"HEAD"))
        assert reply.header(b"content-length") == b"20000"
        assert await reply.read(BIG) == (b"", True)


async def test_a_body_without_framing_ends_with_the_connection(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", then=closing))
    assert await body_of(client, ask(peer.origin)) == b"all of it"
    assert client.stats()["idle"] == 0


async def test_a_peer_that_closes_only_its_sending_half_ends_the_body_too(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    async def half(stream: Stream) -> None:
        stream.writer.write_eof()
        await stream.reader.read()

    peer = await serve(answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", then=half))
    assert await body_of(client, ask(peer.origin)) == b"all of it"


@pytest.mark.parametrize(
    ("raw", "phase"),
    [
        (b"", "header"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "header"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "body"),
        (CHUNKED + b"5\r\nshort\r\n", "body"),
        (CHUNKED + b"5\r\nsho", "body"),
        (CHUNKED, "body"),
    ],
)
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_reply_that_stops_early_is_cut(
    serve: Serve, client: UpstreamClient, ask: Ask, raw: bytes, phase: str, how: str
) -> None:
    async def end(stream: Stream) -> None:
        if how == "rst":
            await asyncio.sleep(0.01)  # An RST may overtake data that the client has not read yet.
            stream.reset()

    peer = await serve(answering(raw, then=end))
    with pytest.raises(Cut) as caught:
        await body_of(client, ask(peer.origin))
    assert caught.value.phase == phase
    assert caught.value.sent
    assert not caught.value.stale


async def test_what_came_before_a_cut_is_still_given_out(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", then=closing))
    reply = await client.send(ask(peer.origin))
    assert await reply.next_chunk() == b"short"
    with pytest.raises(Cut):
        await reply.next_chunk()


async def test_a_reset_is_never_taken_for_the_end_of_an_unframed_body(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    async def end(stream: Stream) -> None:
        await asyncio.sleep(0.01)
        stream.reset()

    peer = await serve(answering(b"HTTP/1.1 200 OK\r\n\r\nhalf of it", then=end))
    with pytest.raises(Cut):
        await body_of(client, ask(peer.origin))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", id="both"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", id="both, reversed"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", id="length twice"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", id="signed length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", id="list of lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", id="absurd length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="gzip, chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", id="chunked, gzip"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", id="identity"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="chunked twice",
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunked over 1.0"),
        pytest.param(b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok", id="0.9"),
        pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="2.0"),
        pytest.param(b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok", id="status 099"),
        pytest.param(b"HTTP/1.1 999 High\r\nContent-Length: 2\r\n\r\nok", id="status 999"),
        pytest.param(b"HTTP/1.1 199 Early\r\nContent-Length: 2\r\n\r\nok" + OK, id="interim with a body"),
        pytest.param(b"HTTP/1.1 101 Switch\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nok", id="folded header"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", id="bare line feeds"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", id="space before the colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", id="NUL in a value"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="not HTTP"),
        pytest.param(CHUNKED + b"zz\r\n", id="chunk size"),
        pytest.param(CHUNKED + b"2\nok\n0\n\n", id="bare line feeds in chunks"),
        pytest.param(CHUNKED + b"fffffffffffffffff\r\n", id="chunk size overflow"),
    ],
)
async def test_a_reply_that_could_be_read_in_two_ways_is_refused(
    serve: Serve, client: UpstreamClient, ask: Ask, raw: bytes
) -> None:
    peer = await serve(answering(raw))
    with pytest.raises(ProtocolViolation) as caught:
        await body_of(client, ask(peer.origin))
    assert caught.value.sent
    assert client.stats()["idle"] == 0


async def test_endless_interim_replies_are_refused(serve: Serve, make_client: MakeClient, ask: Ask) -> None:
    client = make_client(interim_replies_max=3)
    peer = await serve(answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK, b"HTTP/1.1 100 Continue\r\n\r\n" * 4 + OK))
    assert await body_of(client, ask(peer.origin)) == b"ok"
    with pytest.raises(ProtocolViolation):
        await body_of(client, ask(peer.origin))


@pytest.mark.parametrize(
    ("head", "fits"),
    [
        (b"X: " + b"a" * 900 + b"\r\n", True),
        (b"X: " + b"a" * 1100 + b"\r\n", False),
        (b"X: " + b"a" * 5_000_000, False),  # Never finished: the parser alone would collect it for ever.
        (b"X" * 5_000_000, False),
        (b"X: a\r\n" * 8, True),
        (b"X: a\r\n" * 11, False),
    ],
)
async def test_header_limits_hold_in_bytes_and_in_count(
    serve: Serve, make_client: MakeClient, ask: Ask, head: bytes, fits: bool
) -> None:
    client = make_client(header_bytes_max=1024, header_count_max=10)
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + head + b"\r\nok"))
    if fits:
        assert await body_of(client, ask(peer.origin)) == b"ok"
    else:
        with pytest.raises(ProtocolViolation):
            await body_of(client, ask(peer.origin))


@pytest.mark.parametrize("tail", [b"2;" + b"e" * 300_000, b"0\r\nX: " + b"t" * 300_000, b"0\r\n" + b"X: t\r\n" * 300])
async def test_endless_chunk_extensions_and_trailers_are_refused(
    serve: Serve, client: UpstreamClient, ask: Ask, tail: bytes
) -> None:
    peer = await serve(answering(CHUNKED + b"2\r\nok\r\n" + tail))
    with pytest.raises(UpstreamFailure) as caught:
        await body_of(client, ask(peer.origin))
    assert isinstance(caught.value, ProtocolViolation)


async def test_read_stops_at_its_limit_and_loses_nothing(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"))
    reply = await client.send(ask(peer.origin))
    assert await reply.read(4) == (b"0123", False)
    assert await reply.read(0) == (b"", False)
    assert await reply.read(6) == (b"456789", True)


async def test_a_cancelled_reply_closes_its_connection_at_once_and_only_once(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    gone = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
        await stream.reader.read()
        gone.set()

    peer = await serve(script)
    reply = await client.send(ask(peer.origin))
    reply.cancel()
    reply.cancel()
    await reply.aclose()
    await gone.wait()
    with pytest.raises(Cut):
        await reply.read(BIG)
    await until(lambda: client.stats()["open"] == 0)


async def test_cancelling_a_complete_reply_leaves_its_connection_in_the_pool(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    peer = await serve(answering(OK))
    reply = await client.send(ask(peer.origin))
    assert await reply.read(BIG) == (b"ok", True)
    reply.cancel()
    assert client.stats()["idle"] == 1


async def test_cancelling_send_closes_the_connection(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    seen, gone = asyncio.Event(), asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.request()
        seen.set()
        await stream.reader.read()
        gone.set()

    peer = await serve(script)
    sending = asyncio.ensure_future(client.send(ask(peer.origin)))
    await seen.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await gone.wait()
    await until(lambda: client.stats()["open"] == 0)


async def test_parallel_calls_each_get_their_own_reply(serve: Serve, make_client: MakeClient, ask: Ask) -> None:
    client = make_client(connections_per_origin_max=8)

    async def script(stream: Stream) -> None:
        while True:
            request = await stream.request()
            body = request.split(b"\r\n\r\n", 1)[1] * 5000
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            for start in range(0, len(body), 7000):
                await stream.write(body[start : start + 7000])

    peer = await serve(script)
    bodies = [b"%04d" % number for number in range(200)]
    got = await asyncio.gather(*(body_of(client, ask(peer.origin, body=body)) for body in bodies))
    assert got == [body * 5000 for body in bodies]
    assert peer.connections == 8


async def test_a_unix_origin_is_reached_through_its_socket(
    serve: Serve, client: UpstreamClient, ask: Ask, tmp_path: Path
) -> None:
    peer = await serve(answering(OK), unix_path=str(tmp_path / "model.sock"))
    assert await body_of(client, ask(peer.origin)) == b"ok"
    assert await body_of(client, ask(peer.origin)) == b"ok"
    assert peer.connections == 1


@pytest.mark.parametrize("ends", [False, True], ids=["stray reply", "end"])
async def test_what_comes_before_a_request_left_is_no_answer_to_it(
    serve: Serve, client: UpstreamClient, ask: Ask, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that leave together wait for the end of the turn: until then the connection is as good as idle."""
    monkeypatch.setattr(Bucket, "busy", 1)
    asked = 0

    async def counting(stream: Stream) -> None:
        nonlocal asked
        while True:
            await stream.request()
            asked += 1
            await stream.write(OK)

    peer = await serve(counting)
    assert await body_of(client, ask(peer.origin)) == b"ok"
    (connection,) = client._buckets[peer.origin].idle
    send = asyncio.create_task(client.send(ask(peer.origin)))
    await asyncio.sleep(0)
    if ends:
        connection.eof_received()
    else:
        connection.data_received(OK)
    assert await (await send).read(BIG) == (b"ok", True)
    assert (asked, peer.connections, client.stats()["stale_total"]) == (2, 2, 1)


@pytest.mark.parametrize("busy", [0, 1], ids=["alone", "held"])
@pytest.mark.parametrize("ends", [False, True], ids=["stray reply", "end"])
async def test_a_pooled_connection_of_a_peer_that_left_is_replaced(
    serve: Serve, client: UpstreamClient, ask: Ask, ends: bool, busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel knows that the peer closed or spoke, the loop does not yet."""
    monkeypatch.setattr(Bucket, "busy", busy)
    asked, release, done = 0, threading.Event(), threading.Event()

    async def leaving(stream: Stream) -> None:
        nonlocal asked
        await stream.request()
        asked += 1
        await stream.write(OK)
        if asked == 1:
            sock = stream.writer.get_extra_info("socket").dup()
            threading.Thread(target=leave, args=(sock,), daemon=True).start()
        await stream.reader.read()

    def leave(sock: socket.socket) -> None:
        release.wait()
        with sock:
            sock.shutdown(socket.SHUT_WR) if ends else sock.send(OK)
        done.set()

    peer = await serve(leaving)
    assert await body_of(client, ask(peer.origin)) == b"ok"
    release.set()
    done.wait()  # Blocks the loop, so that it cannot be told before it asks again.
    assert await body_of(client, ask(peer.origin)) == b"ok"
    assert (asked, peer.connections, client.stats()["stale_total"]) == (2, 2, 1)


async def test_an_answer_longer_than_wanted_keeps_no_connection(serve: Serve, client: UpstreamClient, ask: Ask) -> None:
    peer = await serve(answering(CHUNKED + b"9\r\nbeginning\r\n"))
    answer = await answer_to(client.send, ask(peer.origin), 5)
    assert (answer.status, answer.body, answer.complete) == (200, b"begin", False)
    await until(lambda: not client.stats()["open"])


async def test_an_answer_that_nobody_waits_for_any_more_keeps_no_connection(
    serve: Serve, client: UpstreamClient, ask: Ask
) -> None:
    peer = await serve(answering(CHUNKED + b"9\r\nbeginning\r\n"))
    asking = asyncio.create_task(answer_to(client.send, ask(peer.origin), BIG))
    await until(lambda: client.stats()["open"])
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: not client.stats()["open"])
