"""The HTTP server over real sockets: framing, limits, order, keep-alive, drain, and who is told what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from elkapi.edge import connection, exchange
from elkapi.edge import server as edge
from elkapi.edge.render import rejected
from elkapi.edge.server import Server
from elkapi.errors import GatewayError
from elkapi.relay.call import Call, ClientGone
from elkapi.settings import Settings
from elkapi.upstream.burst import Burst
from tests.waiting import until

LIMITS = Settings(body_bytes_max=1000, header_bytes_max=2000)
CALL = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


async def echo(call: Call) -> None:
    try:
        body = await call.body()
    except GatewayError as error:
        status, headers, text = rejected(error, call.id)
        call.reply.send(status, headers, text)
        return
    call.reply.send(200, [(b"x-path", call.path.encode())], call.method.encode() + b" " + body)


async def slow_first(call: Call) -> None:
    """An echo that comes later for `/1`."""
    if call.path == "/1":
        await asyncio.sleep(0.02)
    await echo(call)


@contextlib.asynccontextmanager
async def running(
    handler: Callable[[Call], Awaitable[None]] = echo, settings: Settings = LIMITS
) -> AsyncIterator[tuple[Server, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    server = _servers[port] = Server(handler, rejected, settings)
    await server.start(listening)
    try:
        yield server, port
    finally:
        del _servers[port]
        await server.drain(0)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def connected(port: int, **more: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection, closed at the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **more)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


_servers: dict[int, Server] = {}


async def served(writer: asyncio.StreamWriter) -> connection.Connection:
    """The server's side of a client's connection, once it is accepted."""
    own, (_, port) = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
    return await until(
        lambda: next((c for c in _servers[port].connections if c.transport.get_extra_info("peername") == own), None)
    )


def has_read(side: connection.Connection) -> bool:
    return side.lost or not side._is_unread()


def has_said_all(side: connection.Connection) -> bool:
    """Whether it answers nothing before more is asked; for a body that is not whole its call may never be done."""
    is_idle = side.current is None or side.current.answered or side.current is side.incoming
    return has_read(side) and is_idle and not side.held and not side._unsent()


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send pieces, each once the last was read, and read until the server closes or has nothing more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    side = await served(writer)
    received = bytearray()

    async def read() -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                received.extend(chunk)

    reading = asyncio.create_task(read())
    for piece in pieces:
        writer.write(piece)
        await until(lambda: reading.done() or (not writer.transport.get_write_buffer_size() and has_read(side)))
    # Its tasks, and this one's, run on one loop: what they still do for what was read takes them a few turns.
    turns = 0
    while not reading.done() and turns < 20:
        await until(lambda: reading.done() or has_said_all(side))
        await asyncio.sleep(0)
        turns = turns + 1 if has_said_all(side) else 0
    reading.cancel()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return bytes(received)


def code(reply: bytes) -> str:
    return str(msgspec.json.decode(reply.partition(b"\r\n\r\n")[2])["error"]["code"])


async def test_a_request_split_at_every_byte_gets_the_same_answer() -> None:
    request = b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    async with running() as (_, port):
        whole = await talk(port, request)
        for cut in range(1, len(request), 7):
            reply = await talk(port, request[:cut], request[cut:])
            assert reply.endswith(b"POST hello")
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"x-path: /p\r\n" in whole


async def test_chunked_bodies_are_joined() -> None:
    async with running() as (_, port):
        reply = await talk(
            port,
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"2\r\nde\r\n0\r\n\r\n",
        )
    assert reply.endswith(b"POST abcde")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running(slow_first) as (_, port):
        reply = await talk(port, b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in (1, 2, 3)))
    assert [line for line in reply.split(b"\r\n") if line.startswith(b"x-path")] == [
        b"x-path: /1",
        b"x-path: /2",
        b"x-path: /3",
    ]


async def test_a_body_over_the_limit_is_413_announced_or_not() -> None:
    async with running() as (_, port):
        announced = await talk(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
        chunked = await talk(
            port, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n"
        )
    for reply in (announced, chunked):
        assert reply.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in reply
        assert code(reply) == "read_request_body_failed"


async def test_trailers_are_no_headers() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def keep(call: Call) -> None:
        await call.body()
        seen.append(call.headers)
        call.reply.send(200, [], b"")

    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n"
    )
    async with running(keep) as (_, port):
        # Twice on one connection, in one piece and split before the trailers.
        reply = await talk(port, request, request[:-36], request[-36:])
    assert reply.count(b"HTTP/1.1 200 OK") == 2
    for headers in seen:
        assert [value for name, value in headers if name == b"x-forwarded-for"] == [b"192.0.2.1"]


@pytest.mark.parametrize(
    "endless",
    [b"1\r\na\r\n0\r\n" + b"X-A: b\r\n", b"1\r\na\r\n0\r\nX-A: ", b"1;"],
    ids=["trailers", "a trailer", "a chunk extension"],
)
async def test_what_a_chunked_body_has_beside_its_bytes_is_limited_like_a_head(endless: bytes) -> None:
    more = b"X-A: bbbb\r\n" * 50 if endless.endswith(b"\n") else b"b" * 500
    async with running() as (_, port):
        reply = await talk(
            port, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + endless, *[more] * 6
        )
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert code(reply) == "headers_too_large"


async def test_a_body_in_very_small_chunks_takes_no_more_than_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PIECES_MAX", 10)
    held: list[int] = []

    async def count(call: Call) -> None:
        (client,) = server.connections
        assert client.current is not None
        while not client.current.body_complete:
            held.append(len(client.current._chunks))
            await asyncio.sleep(0)
        await echo(call)

    body = bytes(range(97, 123)) * 3
    async with running(count) as (server, port):
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = [b"1\r\n%c\r\n" % letter for letter in body]
        reply = await talk(port, head, b"".join(chunks[:75]), b"".join(chunks[75:]) + b"0\r\n\r\n")
    assert reply.endswith(b"POST " + body)
    assert 1 < max(held) < 10


async def test_conflicting_framing_is_refused() -> None:
    async with running() as (_, port):
        reply = await talk(
            port,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
        )
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1") == 1


async def test_headers_over_the_limit_and_garbage_are_400() -> None:
    async with running() as (_, port):
        for request in (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 3000 + b"\r\n\r\n",
            b"GET /" + b"u" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /docs/#tasks HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        ):
            assert (await talk(port, request)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"GET /" + b"u" * 3000 + b" HTTP/1.1", "The URL must be at most 2000 bytes."),
        (b"CONNECT a.example:443 HTTP/1.1", "CONNECT is not supported: this server is not a proxy."),
    ],
)
async def test_a_refused_head_is_told_what_is_wrong_with_it(start: bytes, told: str) -> None:
    async with running() as (_, port):
        reply = await talk(port, start + b"\r\nHost: a\r\n\r\n")
    assert msgspec.json.decode(reply.partition(b"\r\n\r\n")[2])["error"]["message"].startswith(told)


async def test_a_header_line_that_never_ends_is_refused_without_waiting_for_its_end() -> None:
    async with running() as (_, port):
        reply = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y" * 1500, b"y" * 1500)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert code(reply) == "headers_too_large"


async def test_a_head_above_its_limit_is_not_answered_behind_another_request_in_one_read() -> None:
    large = b"POST /large HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2000 + b"\r\nContent-Length: 2\r\n\r\nhi"
    async with running() as (_, port):
        reply = await talk(port, CALL + large)
    assert reply.count(b"HTTP/1.1 200 ") == 1
    assert b"x-path: /large" not in reply
    assert b"connection: close\r\n" in reply


async def test_a_slow_body_is_408_and_a_slow_head_too() -> None:
    slow = Settings(body_read_s=0.0, header_read_s=0.0, header_bytes_max=2000)
    async with running(settings=slow) as (server, port):
        for start in (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", b"POST / HTT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(start)
            side = await served(writer)

            def has_begun(side: connection.Connection = side) -> bool:
                return bool(side.incoming or side.header_bytes)

            await until(has_begun)
            server._tick()
            reply = await reader.read(4096)
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close\r\n" in reply
            writer.close()
            await writer.wait_closed()


async def test_a_client_has_its_time_from_the_first_byte_on_however_it_divides_what_it_sends() -> None:
    """One that sends a byte now and then would otherwise stay for as long as it likes."""
    release, body = asyncio.Event(), b"x" * 655_360

    async def wait(call: Call) -> None:
        await call.body()
        await release.wait()
        call.reply.send(200, [], b"done")

    times = Settings(header_read_s=100.0, body_read_s=200.0, keepalive_idle_s=300.0)
    async with running(wait, times) as (_, port), connected(port) as (reader, writer):
        side = await served(writer)

        def has(seconds: float) -> bool:
            return seconds - 5 < side.deadline_s - time.monotonic() <= seconds

        assert has(300)
        writer.write(b"POST / HT")
        await until(lambda: side.header_bytes)
        assert has(100)
        head_until_s = side.deadline_s
        writer.write(b"TP/1.1\r\n")
        await until(lambda: side.header_bytes > 9)
        assert side.deadline_s == head_until_s
        writer.write(b"Host: a\r\nContent-Length: 655360\r\n\r\n")
        await until(lambda: side.incoming)
        assert has(210)
        body_until_s = side.deadline_s
        writer.write(body[:100])
        await until(lambda: side.incoming is not None and side.incoming._size)
        assert side.deadline_s == body_until_s
        writer.write(body[100:])
        await until(lambda: side.current is not None and side.current.body_complete)
        assert side.deadline_s == inf
        release.set()
        await reader.readuntil(b"done")
        assert has(300)


@pytest.mark.parametrize("pieces", [(CALL + b"POST / HT",), (CALL, b"POST / HT")])
async def test_a_head_that_begins_behind_a_call_has_its_time_from_its_turn_on(pieces: tuple[bytes, ...]) -> None:
    """The call is not cut for it, and its sender cannot stay longer than with any other head."""
    release = asyncio.Event()

    async def wait(call: Call) -> None:
        await release.wait()
        await echo(call)

    times = Settings(header_read_s=100.0, keepalive_idle_s=300.0)
    async with running(wait, times) as (_, port), connected(port) as (reader, writer):
        side = await served(writer)
        for piece in pieces:
            writer.write(piece)
            await until(lambda: side.current is not None and has_read(side))
        assert side.deadline_s == inf
        release.set()
        await reader.readuntil(b"POST hi")
        assert 95 < side.deadline_s - time.monotonic() <= 100
        side.overdue()
        assert (await reader.read(4096)).startswith(b"HTTP/1.1 408 ")


async def test_a_call_knows_whose_it_is_and_since_when() -> None:
    seen: list[tuple[str, float]] = []

    async def note(call: Call) -> None:
        seen.append((call.client_ip, call.started_s))
        await echo(call)

    async with running(note) as (_, port), connected(port) as (reader, writer):
        for number in range(2):
            before_s = time.monotonic()
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"GET ")
            client, started_s = seen[number]
            assert client == "127.0.0.1"
            assert before_s <= started_s <= time.monotonic()


async def test_what_comes_behind_a_refusal_is_not_read() -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with running() as (_, port):
        reply = await talk(port, b"garbage\r\n\r\n", b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert faults == []


@pytest.mark.parametrize("start", [b"POST / HTT", b"garbage\r\n\r\n"])
async def test_a_client_that_stays_after_its_refusal_is_closed_and_the_sweep_goes_on(start: bytes) -> None:
    async with running(settings=Settings(header_read_s=0.0)) as (server, port), connected(port) as (reader, writer):
        writer.write(start)
        one = await served(writer)
        await until(lambda: one.header_bytes)
        server._tick()
        assert (await reader.read()).startswith(b"HTTP/1.1 40")
        assert one.deadline_s - time.monotonic() <= connection.LINGER_S
        one.deadline_s = 0.0  # It keeps its half of the connection open for longer than the server lingers.
        server._tick()
        await until(lambda: not server.connections)


async def test_an_early_answer_does_not_wait_for_the_body() -> None:
    async def refuse(call: Call) -> None:
        call.reply.send(401, [], b"no")

    async with running(refuse) as (_, port):
        reply = await talk(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nabc")
        kept = await talk(
            port,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab",
            b"cd" + b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n",
        )
    assert reply.startswith(b"HTTP/1.1 401 ")
    assert kept.count(b"HTTP/1.1 401 ") == 2


@pytest.mark.parametrize("answers_early", [True, False])
async def test_what_still_comes_of_a_body_that_nobody_reads_is_kept_nowhere(answers_early: bool) -> None:
    async def refuse(call: Call) -> None:
        call.reply.send(401, [], b"no")

    async with running(refuse if answers_early else echo) as (_, port), connected(port) as (reader, writer):
        side = await served(writer)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        incoming = await until(lambda: side.incoming)
        if answers_early:
            await reader.readuntil(b"no")
        else:
            side.overdue()
        for piece in (b"2\r\nde\r\n", b"3e9\r\n" + b"x" * 1001 + b"\r\n"):
            side.data_received(piece)
            assert incoming._chunks == []


async def test_a_client_that_does_not_end_its_answered_body_is_closed_after_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would otherwise keep its connection for as long as it likes."""

    async def refuse(call: Call) -> None:
        call.reply.send(401, [], b"no")

    monkeypatch.setattr(edge, "SWEEP_EVERY_S", 3600.0)
    async with running(refuse) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        side = await served(writer)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nabc")
        await reader.readuntil(b"no")
        assert side.deadline_s - time.monotonic() <= connection.LINGER_S
        writer.write(b"more")  # asyncio sends at once, so the server has not read it yet.
        side.overdue()
        assert side.deadline_s == inf
        await until(lambda: not server.connections)
        writer.close()


async def test_a_piece_of_a_body_that_exceeds_the_limit_is_not_kept() -> None:
    async with running() as (_, port), connected(port) as (_, writer):
        side = await served(writer)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        incoming = await until(lambda: side.incoming)
        side.data_received(b"3e6\r\n" + b"x" * 998)
        assert incoming.error is not None
        assert incoming._chunks == []


async def test_a_call_that_its_handler_does_not_answer_ends_its_connection() -> None:
    async def silent(call: Call) -> None:
        if call.path == "/begun":
            call.reply.start(200, [])
            await call.reply.write(b"half")

    async with running(silent) as (server, port):
        for path, said in ((b"/", b""), (b"/begun", b"half\r\n")):
            reply = await talk(port, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            assert reply.endswith(said)
            await until(lambda: not server.connections)


async def test_what_a_call_does_after_its_early_answer_is_done_though_its_client_leaves() -> None:
    left, done = asyncio.Event(), asyncio.Event()

    async def refuse(call: Call) -> None:
        call.reply.send(401, [], b"no")
        await left.wait()
        done.set()

    async with running(refuse) as (server, port):
        async with connected(port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            await reader.readuntil(b"no")
        await until(lambda: not server.connections)
        left.set()
        await asyncio.wait_for(done.wait(), 5)


async def test_what_a_call_does_after_it_cut_its_answer_off_is_done() -> None:
    """Its money is settled then; only a client that leaves by itself is a reason to stop."""
    go_on, done = asyncio.Event(), asyncio.Event()

    async def cut(call: Call) -> None:
        call.reply.start(200, [])
        await call.reply.write(b"half")
        call.reply.abort()
        await go_on.wait()
        done.set()

    async with running(cut) as (server, port):
        assert b"0\r\n\r\n" not in await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: not server.connections)
        go_on.set()
        await until(done.is_set)


async def test_a_leaving_client_cancels_its_handler() -> None:
    cancelled = asyncio.Event()
    begun = asyncio.Event()

    async def wait(call: Call) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with running(wait) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        writer.close()
        await cancelled.wait()


async def test_a_slow_reader_holds_the_handler_back() -> None:
    written = 0

    async def pour(call: Call) -> None:
        nonlocal written
        call.reply.start(200, [])
        for _ in range(1000):
            await call.reply.write(b"x" * 65536)
            written += 65536
        call.reply.finish()

    async with running(pour) as (_, port), connected(port, limit=1024) as (reader, writer):
        side = await served(writer)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.3)
        assert written < 32 * 1024 * 1024
        assert connection.WRITE_STALL_S - 30 < side.unsent_until_s - time.monotonic() <= connection.WRITE_STALL_S
        received = 0
        while b"0\r\n\r\n" not in (chunk := await reader.read(1 << 20)):
            received += len(chunk)
        assert written == 65536000
        # It was slow, and is no more: nobody looks whether it takes anything.
        assert (side.unsent_until_s, side.writable) == (inf, None)


async def test_drain_finishes_what_is_under_way_and_closes_idle_connections() -> None:
    release = asyncio.Event()

    async def wait(call: Call) -> None:
        await release.wait()
        await echo(call)

    async with running(wait) as (server, port):
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server.under_way == 1 and len(server.connections) == 2)
        draining = asyncio.create_task(server.drain(60))
        assert await idle_reader.read() == b""
        release.set()
        reply = await reader.read()
        assert b"x-path: /late" in reply
        assert b"connection: close" in reply
        assert await draining == 0
        for each in (writer, idle_writer):
            each.close()
            await each.wait_closed()


async def test_a_draining_server_answers_an_idle_connection_once_more() -> None:
    async with running() as (server, port), connected(port) as (reader, writer):
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"x-path: /first" in await reader.readuntil(b"GET ")
        draining = asyncio.create_task(server.drain(60))
        await asyncio.sleep(0)
        assert server.draining
        writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await reader.read()
        assert b"x-path: /last" in reply
        assert b"connection: close" in reply
        assert await draining == 0


async def test_nothing_is_answered_behind_an_answer_that_a_draining_server_called_its_last() -> None:
    """The client sends it again elsewhere, where it is charged."""
    asked: list[str] = []

    async def note(call: Call) -> None:
        asked.append(call.path)
        await echo(call)

    async with running(note) as (server, port):
        server.draining = True
        reply = await talk(port, b"GET /last HTTP/1.1\r\nHost: a\r\n\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
    assert asked == ["/last"]
    assert reply.count(b"HTTP/1.1 200 OK") == reply.count(b"connection: close") == 1


async def test_an_idle_connection_whose_next_request_is_in_the_kernel_is_not_closed() -> None:
    async with running() as (server, port), connected(port) as (reader, writer):
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"GET ")
        server.stop_accepting()
        writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")  # asyncio sends at once.
        for each in server.connections:
            each.overdue()  # As when the loop was busy for so long that it has not read yet.
        reply = await reader.read()
        assert b"x-path: /last" in reply
        assert b"connection: close" in reply


async def test_an_idle_connection_with_nothing_unread_is_closed() -> None:
    async with running() as (server, port), connected(port) as (reader, writer):
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"GET ")
        (side,) = server.connections
        side.overdue()
        assert await reader.read() == b""
        await until(lambda: side.worker is not None and side.worker.done())


async def test_a_reply_that_began_before_the_drain_does_not_end_its_connection() -> None:
    release = asyncio.Event()

    async def in_two(call: Call) -> None:
        if call.path != "/two":
            await echo(call)
            return
        call.reply.start(200, [])
        await call.reply.write(b"one")
        await release.wait()
        call.reply.finish(b"two")

    async with running(in_two) as (server, port), connected(port) as (reader, writer):
        writer.write(b"GET /two HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"connection: close" not in await reader.readuntil(b"one\r\n")
        draining = asyncio.create_task(server.drain(60))
        await asyncio.sleep(0)
        release.set()
        await reader.readuntil(b"0\r\n\r\n")
        (side,) = server.connections
        assert side.deadline_s - time.monotonic() <= connection.DRAIN_IDLE_S
        writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await reader.read()
        assert b"x-path: /last" in reply
        assert b"connection: close" in reply
        assert await draining == 0


async def test_a_drain_shortens_the_wait_for_a_request_and_never_lengthens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DRAIN_IDLE_S", 600.0)  # No sweep comes before the test ends.
    async with running() as (server, port), connected(port) as (_, writer), connected(port) as (_, other):
        slow, idle = await served(writer), await served(other)
        slow.deadline_s = due_s = time.monotonic() + 300.0
        idle.deadline_s = due_s + 900.0
        draining = asyncio.create_task(server.drain(60))
        await asyncio.sleep(0)
        assert slow.deadline_s == due_s
        assert due_s < idle.deadline_s < due_s + 900.0
        slow.deadline_s = idle.deadline_s = 0.0
        assert await draining == 0


@contextlib.asynccontextmanager
async def three_asked(
    more: bytes = b"",
) -> AsyncIterator[tuple[Server, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]], asyncio.Event]]:
    """(a server with three calls under way, their clients, what lets it answer all of them in one turn)."""
    release = asyncio.Event()

    async def wait(call: Call) -> None:
        await release.wait()
        await echo(call)

    async with running(wait) as (server, port):
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in clients:
            writer.write(b"GET /held HTTP/1.1\r\nHost: a\r\n" + more + b"\r\n")
        await until(lambda: sum(each.current is not None for each in server.connections) == 3)
        yield server, clients, release
        for _, writer in clients:
            writer.close()
            await writer.wait_closed()


async def test_replies_of_one_turn_leave_together_and_before_whatever_comes_after_them() -> None:
    async with three_asked() as (server, clients, release):
        release.set()
        while not all(each.held for each in server.connections):
            await asyncio.sleep(0)
        # What cannot be read is answered at once, but after the reply that its connection still holds.
        (reader, writer), *others = clients
        own = writer.get_extra_info("sockname")[1]
        (refusing,) = [c for c in server.connections if c.transport.get_extra_info("peername")[1] == own]
        refusing.data_received(b"nonsense\r\n\r\n")
        received = await reader.read()
        assert b"x-path: /held" in received
        assert received.index(b"HTTP/1.1 200") < received.index(b"HTTP/1.1 400")
        for each, _ in others:
            assert b"x-path: /held" in await each.readuntil(b"GET ")


async def test_a_reply_that_is_ready_in_the_turn_of_the_one_before_it_leaves_with_it() -> None:
    async with three_asked() as (_, clients, release):
        (reader, writer), *_ = clients
        side = await served(writer)
        writer.write(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: side.waiting)
        release.set()
        assert b"x-path: /held" in await reader.readuntil(b"GET ")
        assert b"x-path: /next" in await reader.readuntil(b"GET ")


async def test_replies_of_one_turn_leave_before_their_connections_end() -> None:
    async with three_asked(b"Connection: close\r\n") as (_, clients, release):
        release.set()
        for reader, _ in clients:
            assert (await reader.read()).endswith(b"GET ")


async def test_a_reply_whose_client_left_within_the_turn_holds_up_no_other() -> None:
    async with three_asked() as (server, clients, release):
        first = next(iter(server.connections))
        left = first.transport.get_extra_info("peername")[1]
        release.set()
        while not first.held:
            await asyncio.sleep(0)
        first.connection_lost(None)
        assert not first.held
        for reader, writer in clients:
            if writer.get_extra_info("sockname")[1] != left:
                assert b"x-path: /held" in await reader.readuntil(b"GET ")


async def test_a_reply_whose_client_left_before_it_holds_up_no_other() -> None:
    """A call that is settled to its end answers whether or not its client is there."""
    release = asyncio.Event()

    async def answer(call: Call) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        call.reply.send(200, [], b"done")

    async with running(answer) as (server, port):
        _, leaving = await asyncio.open_connection("127.0.0.1", port)
        leaving.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server.under_way == 1)
        leaving.transport.abort()
        await until(lambda: not server.connections)
        staying = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in staying:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server.under_way == 3)
        release.set()
        for reader, writer in staying:
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")
            writer.close()


@pytest.mark.parametrize("when", ["after its client left", "before its answer", "behind its answer"])
async def test_a_handler_that_fails_is_told_by_its_own_error_and_ends_its_connection(when: str) -> None:
    failed, release = RuntimeError("the handler's own"), asyncio.Event()

    async def fail(call: Call) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await release.wait()
        if when == "behind its answer":
            call.reply.send(200, [], b"done")
        raise failed

    async with running(fail) as (server, port):
        reader, client = await asyncio.open_connection("127.0.0.1", port)
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server.under_way == 1)
        worker = next(iter(server.connections)).worker
        assert worker is not None
        if when == "after its client left":
            client.transport.abort()
        else:
            release.set()
        await until(worker.done)
        assert worker.exception() is failed
        # Nobody would answer what comes next on it.
        await until(lambda: not server.connections)
        if when == "behind its answer":
            assert (await reader.read()).endswith(b"done")
        client.close()


async def test_a_message_that_cannot_be_sent_holds_up_no_other() -> None:
    class Holder:
        def __init__(self, error: Exception | None = None) -> None:
            self.loop, self.error, self.sent = asyncio.get_running_loop(), error, False

        def send_held(self) -> None:
            if self.error:
                raise self.error
            self.sent = True

    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: said.append(told["exception"]))
    burst, broken = Burst(), RuntimeError("the handler is closed")
    holders = [Holder(), Holder(broken), Holder()]
    for holder in holders:
        burst.add(holder)
    await until(lambda: holders[2].sent)
    assert holders[0].sent
    assert said == [broken]


async def test_the_last_descriptors_are_not_given_to_new_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "descriptors_for_clients", lambda: 0)
    async with running() as (_, port):
        reply = await talk(port)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert code(reply) == "too_many_connections"


@pytest.mark.parametrize(("descriptors", "taken"), [(9, False), (10, True)])
async def test_a_connection_is_refused_from_the_first_descriptor_on_that_is_not_for_clients(
    descriptors: int, taken: bool
) -> None:
    server = Server(echo, rejected, LIMITS)
    server.descriptors_max = descriptors
    side = connection.Connection(server, asyncio.get_running_loop())
    transport = Mock()
    transport.get_extra_info.return_value.fileno.return_value = 9
    side.connection_made(transport)
    assert (side.closing, transport.write.called) == (not taken, not taken)


STARVED = """
import asyncio, logging, resource, socket, sys, time
import uvloop
from elkapi.edge.render import rejected
from elkapi.edge.server import Server
from elkapi.settings import Settings

async def handler(call):
    call.reply.send(200, [], b"served")

async def main():
    server = Server(handler, rejected, Settings())
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    address = listening.getsockname()
    await server.start(listening)
    caller = socket.create_connection(address)
    caller.setblocking(False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, limits[1]))
    await asyncio.sleep(1)
    used_s = time.process_time()
    await asyncio.sleep(2)
    used_s = time.process_time() - used_s
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for one in (caller, None):
        reader, writer = await asyncio.open_connection(*(() if one else address), sock=one)
        writer.write(b"GET / HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 ")
        writer.close()
    print(used_s)
    await server.drain(5)

logging.basicConfig(stream=sys.stderr, format="%(message)s %(error)s")
uvloop.run(main())
"""


def test_a_server_that_can_accept_nobody_says_so_once_does_not_spin_and_goes_on() -> None:
    run = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, timeout=60)
    assert float(run.stdout) < 0.5
    assert run.stderr == "accept_failed [Errno 24] Too many open files\n"


async def test_too_many_connections_are_told_so() -> None:
    asked: list[str] = []

    async def note(call: Call) -> None:
        asked.append(call.path)
        await echo(call)

    async with (
        running(note, Settings(connections_max=1)) as (_, port),
        connected(port) as (reader, first),
    ):
        await served(first)
        reply = await talk(port, b"GET /second HTTP/1.1\r\n\r\n")
        first.write(b"GET /first HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"GET ")
    assert code(reply) == "too_many_connections"
    assert asked == ["/first"]


async def test_one_request_ahead_is_read_and_no_more() -> None:
    release, request = asyncio.Event(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    async def wait(call: Call) -> None:
        await release.wait()
        await echo(call)

    async with running(wait) as (_, port), connected(port) as (reader, writer):
        side = await served(writer)
        writer.write(request)
        await until(lambda: side.current)
        writer.write(request)
        await until(lambda: side.waiting)
        writer.write(request)
        await until(side._is_unread)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(side.waiting) == 1
        release.set()
        for _ in range(3):
            await reader.readuntil(b"GET ")


async def test_head_gets_no_body_and_connection_close_is_honoured() -> None:
    async with running() as (_, port):
        reply = await talk(port, b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.endswith(b"\r\n\r\n")


async def streamed(call: Call) -> None:
    """An answer of three pieces, one of them from outside of its flow, with what must not become one."""
    call.reply.common = b"x-common: 1\r\n"
    assert not call.reply.started
    call.reply.start(200, [(b"x-path", call.path.encode())], 9 if call.path == "/length" else None)
    assert call.reply.started
    await call.reply.write(b"one")
    await call.reply.write(b"")
    reply: Any = call.reply
    call.reply.push(b"two")
    reply.connection.pause_writing()
    call.reply.push(b"while the client is slow")
    reply.connection.resume_writing()
    call.reply.finish(b"end")
    call.reply.push(b"late")


@pytest.mark.parametrize(
    ("path", "framing", "body"),
    [
        (b"/", b"transfer-encoding: chunked", b"3\r\none\r\n3\r\ntwo\r\n3\r\nend\r\n0\r\n\r\n"),
        (b"/length", b"content-length: 9", b"onetwoend"),
    ],
)
async def test_a_streamed_answer_is_framed_so_that_the_next_one_is_found(
    path: bytes, framing: bytes, body: bytes
) -> None:
    async with running(streamed) as (_, port):
        for method, expected in ((b"GET", body), (b"HEAD", b"")):
            reply = await talk(port, b"%b %b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, path) * 2)
            before, *answers = reply.split(b"HTTP/1.1 200 OK\r\n")
            assert (before, len(answers)) == (b"", 2)
            for answer in answers:
                head, _, found = answer.partition(b"\r\n\r\n")
                assert found == expected
                assert {b"x-common: 1", framing} <= set(head.split(b"\r\n"))
                assert b"connection: close" not in head
                assert (b"chunked" in head) != (b"content-length" in head)


async def test_a_head_is_handled_as_the_get_that_it_stands_for() -> None:
    seen: list[tuple[str, bool]] = []

    async def note(call: Call) -> None:
        seen.append((call.method, call.head_only))
        await echo(call)

    async with running(note) as (_, port):
        await talk(port, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert seen == [("GET", True), ("GET", False)]


async def test_expect_continue_is_answered() -> None:
    async with running() as (_, port):
        reply = await talk(
            port, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"ok"
        )
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


async def test_a_request_that_waits_its_turn_is_asked_for_its_body_too() -> None:
    second = b"POST /2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with running(slow_first) as (_, port):
        reply = await talk(port, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" + second)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.endswith(b"HTTP/1.1 100 Continue\r\n\r\n")


async def test_the_time_for_a_body_does_not_run_while_its_request_waits_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = asyncio.Event()

    async def slow_first(call: Call) -> None:
        if call.path == "/1":
            await release.wait()
        await echo(call)

    monkeypatch.setattr(edge, "SWEEP_EVERY_S", 0.001)
    async with (
        running(slow_first, msgspec.structs.replace(LIMITS, header_read_s=0.0, body_read_s=0.0)) as (_, port),
        connected(port) as (reader, writer),
    ):
        writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        await asyncio.sleep(0.05)
        writer.write(b"lo")
        monkeypatch.setattr(edge, "SWEEP_EVERY_S", 60.0)
        await asyncio.sleep(0.05)
        release.set()
        assert b"x-path: /1" in await reader.readuntil(b"GET ")
        assert (await reader.readuntil(b"POST hello")).startswith(b"HTTP/1.1 200 ")


async def test_a_large_body_that_waited_its_turn_has_the_time_that_its_size_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = b"x" * 65_536 * 30
    sizes = msgspec.structs.replace(LIMITS, body_read_s=0.0, body_bytes_max=2 * len(half))
    head = b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (2 * len(half))
    monkeypatch.setattr(edge, "SWEEP_EVERY_S", 0.001)
    async with running(slow_first, sizes) as (_, port), connected(port) as (reader, writer):
        writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" + head + half)
        assert b"x-path: /1" in await reader.readuntil(b"GET ")
        await asyncio.sleep(0.05)
        writer.write(half)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_http_1_0_knows_no_interim_reply_whatever_it_expects() -> None:
    async with running() as (_, port):
        reply = await talk(
            port, b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"ok"
        )
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.endswith(b"POST ok")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_names_no_length(status: int) -> None:
    """RFC 9110, 8.6: a cache would take the length of a 304 for that of the answer it keeps."""

    async def bodiless(call: Call) -> None:
        call.reply.send(status, [], b"")

    async with running(bodiless) as (_, port):
        reply = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert reply.count(b"HTTP/1.1 %d " % status) == 2
    assert b"content-length" not in reply
    assert reply.endswith(b"\r\n\r\n")


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


async def test_an_offer_of_another_protocol_is_ignored_and_the_body_read() -> None:
    """Java's own client sends this with every request in the clear."""
    known = b"POST /p HTTP/1.1\r\n" + OFFER + b"Content-Length: 5\r\n\r\nhello"
    chunked = b"POST /q HTTP/1.1\r\n" + OFFER + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    async with running() as (_, port):
        for request in (known, chunked):
            for cut in (*range(1, len(request), 5), len(request)):
                reply = await talk(
                    port, request[:cut], request[cut:], b"GET /after HTTP/1.1\r\nConnection: close\r\n\r\n"
                )
                assert reply.count(b"HTTP/1.1 200 OK") == 2
                assert b"POST hello" in reply
                assert reply.endswith(b"GET ")
                assert reply.count(b"connection: close") == 1


@pytest.mark.parametrize(
    "first", [b"1.0\r\n" + OFFER, b"1.1\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n"], ids=["1.0", "close"]
)
async def test_an_offer_in_a_connections_last_request_is_ignored_too(first: bytes) -> None:
    async with running() as (_, port):
        reply = await talk(port, b"POST /p HTTP/" + first + b"Content-Length: 5\r\n\r\nhello")
    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert reply.endswith(b"POST hello")


async def test_offers_one_after_the_other_are_answered_in_order_and_a_heap_of_them_refused() -> None:
    one = b"GET /%d HTTP/1.1\r\n" + OFFER + b"\r\n"
    async with running() as (_, port):
        few = await talk(port, b"".join(one % number for number in range(3)))
        heap = await talk(port, b"".join(one % number for number in range(500)))
    assert [part.partition(b"\r\n")[0] for part in few.split(b"x-path: ")[1:]] == [b"/0", b"/1", b"/2"]
    assert heap.count(b"HTTP/1.1 200 OK") < 8
    assert b"connection: close\r\n" in heap


async def test_what_is_wrong_with_an_offering_request_is_still_refused() -> None:
    async with running() as (_, port):
        both = b"POST /p HTTP/1.1\r\n" + OFFER + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert b" 400 " in await talk(port, both)
        large = b"POST /p HTTP/1.1\r\n" + OFFER + b"Content-Length: 5000\r\n\r\n" + b"x" * 5000
        assert b" 413 " in await talk(port, large)
        assert b" 400 " in await talk(port, b"GET /p HTTP/1.1\r\nX: " + b"x" * 3000 + b"\r\n" + OFFER + b"\r\n")
        assert b" 400 " in await talk(port, b"CONNECT a.example:443 HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection() -> None:
    async def stream(call: Call) -> None:
        call.reply.start(200, [])
        await call.reply.write(b"one ")
        call.reply.finish(b"two")

    async with running(stream) as (_, port):
        for more in (b"", b"Connection: keep-alive\r\n"):
            head, _, body = (await talk(port, b"GET / HTTP/1.0\r\n" + more + b"\r\n")).partition(b"\r\n\r\n")
            assert body == b"one two"
            assert b"transfer-encoding" not in head
            assert head.endswith(b"connection: close")
        assert (await talk(port, b"GET / HTTP/1.1\r\n\r\n")).endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
    async with running() as (_, port):
        assert b"connection: close" in await talk(port, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")


async def never_reading(port: int, request: bytes, receive_bytes: int = 4096) -> socket.socket:
    """A client that asks and takes no byte of the answer by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, request)
    return client


@pytest.mark.parametrize("keeps_alive", [True, False])
async def test_a_client_that_never_reads_its_answer_is_given_up(
    keeps_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_STALL_S", 0.05)
    monkeypatch.setattr(edge, "SWEEP_EVERY_S", 0.01)

    asked = asyncio.Event()

    async def large(call: Call) -> None:
        asked.set()
        call.reply.send(200, [], b"x" * 16_000_000)

    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"" if keeps_alive else b"Connection: close\r\n") + b"\r\n"
    async with running(large) as (server, port):
        client = await never_reading(port, head)
        await asked.wait()
        await until(lambda: not server.connections)
        client.close()


async def test_a_call_whose_client_stops_reading_midway_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_STALL_S", 0.05)
    monkeypatch.setattr(edge, "SWEEP_EVERY_S", 0.01)
    ended: list[type[BaseException]] = []

    async def endless(call: Call) -> None:
        call.reply.start(200, [])
        try:
            while True:
                await call.reply.write(b"x" * 1_000_000)
        except BaseException as error:
            ended.append(type(error))
            raise

    async with running(endless) as (server, port):
        client = await never_reading(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: ended)
        assert not server.connections
        client.close()


async def test_what_is_written_on_behind_a_slow_client_that_left_waits_for_nobody() -> None:
    stuck, ended = asyncio.Event(), asyncio.Event()

    async def goes_on(call: Call) -> None:
        call.reply.start(200, [])
        while call.reply.put(b"x" * 1_000_000) is None:
            await asyncio.sleep(0)
        stuck.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with pytest.raises(ClientGone):
            await call.reply.write(b"more")
        ended.set()

    async with running(goes_on) as (_, port):
        client = await never_reading(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await stuck.wait()
        client.close()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_slow_reader_that_goes_on_reading_gets_everything() -> None:
    async def large(call: Call) -> None:
        call.reply.send(200, [], b"x" * 8_000_000)

    async with running(large) as (server, port):
        client = await never_reading(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 262_144)
        (side,) = await until(lambda: [each for each in server.connections if each.unsent_until_s < inf])
        loop, received, checks = asyncio.get_running_loop(), 0, 0
        while chunk := await loop.sock_recv(client, 400_000):
            received += len(chunk)
            await until(lambda: side.lost or side._unsent() < side.unsent_bytes)
            if not side.lost:
                side.check_writing()  # As when WRITE_STALL_S passed over each piece.
                checks += 1
        client.close()
    assert received > 8_000_000
    assert checks > 1


async def test_a_body_that_breaks_after_its_answer_gets_no_second_answer() -> None:
    async def hasty(call: Call) -> None:
        call.reply.send(401, [], b"no")

    async with running(hasty) as (_, port):
        reply = await talk(
            port, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n"
        )
    assert reply.count(b"HTTP/1.1 ") == 1


async def test_a_body_that_breaks_after_its_answer_ends_its_connection_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hasty(call: Call) -> None:
        call.reply.send(401, [], b"no")

    monkeypatch.setattr(edge, "SWEEP_EVERY_S", 3600.0)
    async with running(hasty) as (server, port), connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await reader.readuntil(b"no")
        writer.write(b"zz\r\n")
        await until(lambda: not server.connections)


async def test_what_comes_behind_a_broken_head_stays_unread_and_costs_the_call_before_it_no_byte() -> None:
    """Its answer is paid for; closing over unread bytes would reset the connection under it."""
    release = asyncio.Event()

    async def wait(call: Call) -> None:
        await release.wait()
        await echo(call)

    async with running(wait) as (server, port), connected(port) as (reader, writer):
        side = await served(writer)
        writer.write(CALL + b"garbage\r\n\r\n")
        await until(lambda: side.current is not None and side.current.close_after)
        writer.write(CALL)
        await until(side._is_unread)
        for _ in range(5):
            await asyncio.sleep(0)
        assert side._is_unread()
        release.set()
        reply = await reader.read()
        assert reply.count(b"HTTP/1.1 200 OK") == reply.count(b"HTTP/1.1 ") == 1
        assert side.deadline_s - time.monotonic() <= connection.LINGER_S
        writer.write(CALL)
        await until(lambda: not writer.transport.get_write_buffer_size() and not side._is_unread())
        assert server.connections
        writer.close()
        await until(lambda: not server.connections)


@pytest.mark.parametrize("seconds", [60, 0])
async def test_a_drain_waits_for_the_calls_whose_callers_had_left(seconds: float) -> None:
    entered, left, counted = asyncio.Event(), asyncio.Event(), asyncio.Event()
    settled: list[bytes] = []

    async def counts_for_a_while(call: Call) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
            await counted.wait()
            settled.append(call.id)

    async with running(counts_for_a_while) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await entered.wait()
        writer.close()
        await left.wait()
        await until(lambda: not server.connections)
        draining = asyncio.create_task(server.drain(seconds))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not draining.done()
        counted.set()
        assert await draining == 0
        assert len(settled) == 1


async def test_a_drain_waits_until_the_calls_it_cut_off_have_cleaned_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "CUT_WAIT_S", 60.0)
    under_way, cleaned_up = asyncio.Event(), asyncio.Event()

    async def lasting(call: Call) -> None:
        try:
            under_way.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)  # as giving back a hold takes
            cleaned_up.set()

    async with running(lasting) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await under_way.wait()
        assert await server.drain(0) == 1
        assert cleaned_up.is_set()
        writer.close()


async def test_a_call_that_a_drain_cuts_off_in_the_moment_it_goes_on_is_told_so_and_does_not_answer() -> None:
    """It would go on to answer nobody, and be charged for it."""
    asked, go_on, ends = asyncio.Event(), asyncio.Event(), list[str]()

    async def answers(call: Call) -> None:
        asked.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            ends.append("cut")
            raise
        call.reply.send(200, [], b"done")
        ends.append("answered")

    async with running(answers) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asked.wait()
        go_on.set()
        assert await server.drain(0) == 1
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert ends == ["cut"]
        writer.close()


async def test_an_answer_that_waits_for_the_end_of_its_turn_is_sent_before_a_drain_cuts_its_connection() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answers(call: Call) -> None:
        if call.path == "/stays":
            asked.set()
            await asyncio.Event().wait()
        await go_on.wait()
        call.reply.send(200, [], b"done")
        reply: Any = call.reply
        side = reply.connection
        assert side.held
        side.abort()

    async with running(answers) as (server, port):
        _, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"GET /stays HTTP/1.1\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asked.wait()
        await until(lambda: server.under_way == 2)
        go_on.set()
        assert (await reader.read()).endswith(b"\r\n\r\ndone")
        for one in (other, writer):
            one.close()
