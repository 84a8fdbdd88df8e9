"""A head that a connection repeats: what is recognised, and that a connection answers the same without recognising."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import httptools
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elkapi.edge import connection as edge
from elkapi.edge.connection import Connection
from elkapi.edge.heads import KnownHead, RequestHead, known, parsed
from elkapi.edge.server import Server
from elkapi.errors import GatewayError
from elkapi.relay.call import JSON, Call, ClientGone, Headers, fields_of
from elkapi.settings import Settings

POST = b"POST /v1/embeddings?a=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nAuthorization: Bearer k\r\n%b\r\n"
LIMITS = Settings(body_bytes_max=120, header_bytes_max=400)


class Heads:
    """Collects the heads that the parser reads."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.found: list[RequestHead] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.found.append(parsed(self.parser, self.url, self.headers, fields_of(self.headers)))


def head_of(data: bytes) -> RequestHead:
    heads = Heads()
    heads.parser.feed_data(data)
    return heads.found[0]


def learnt(data: bytes) -> KnownHead | None:
    return known(data, head_of(data))


def sure(data: bytes) -> KnownHead:
    found = learnt(data)
    assert found is not None
    return found


@pytest.mark.parametrize("digits", [b"5", b"7", b"0", b"120", b"1234567890", b"007"])
def test_a_head_of_another_length_is_read_as_the_parser_reads_it(digits: bytes) -> None:
    data = POST % (digits, b"")
    found = sure(POST % (b"5", b"") + b"hello").recognise(data + b"x")
    assert found is not None
    parsed_head = msgspec.structs.replace(head_of(data), memo=found[0].memo)
    assert found == (parsed_head, int(digits), len(data))


def test_calls_with_one_head_do_not_share_what_differs() -> None:
    head = sure(POST % (b"5", b""))
    first, second = (head.recognise(POST % (digits, b"")) for digits in (b"6", b"7"))
    assert first
    assert second
    assert [found.fields[b"content-length"] for found in (head.head, first[0], second[0])] == [b"5", b"6", b"7"]
    assert [dict(found.headers)[b"content-length"] for found in (head.head, first[0], second[0])] == [b"5", b"6", b"7"]


def test_what_was_found_out_from_a_head_is_kept_with_it_and_with_no_other() -> None:
    head = sure(POST % (b"5", b""))
    found = head.recognise(POST % (b"6", b""))
    assert found is not None
    assert found[0].memo is head.head.memo
    assert head_of(POST % (b"5", b"")).memo is not head.head.memo


def test_a_head_of_the_same_length_is_the_same() -> None:
    head = sure(POST % (b"5", b"") + b"hello")
    assert (found := head.recognise(POST % (b"5", b"")))
    assert found[0] is head.head


@pytest.mark.parametrize(
    "data",
    [
        POST % (b"12345678901", b""),
        POST % (b"", b""),
        POST % (b"-1", b""),
        POST % (b"+1", b""),
        POST % (b"1_0", b""),
        POST % (b" 5", b""),
        POST % (b"5 ", b""),
        POST % (b"5, 5", b""),
        POST % ("²".encode(), b""),
        (POST % (b"5", b""))[:-1],
        (POST % (b"5", b"")).replace(b"Bearer k", b"Bearer l"),
        (POST % (b"5", b"")).replace(b"a=1", b"a=2"),
        POST % (b"5", b"X-More: 1\r\n"),
        POST % (b"5", b"Transfer-Encoding: chunked\r\n"),
        b"\r\n" + POST % (b"5", b""),
        b"",
    ],
)
def test_any_other_bytes_are_left_to_the_parser(data: bytes) -> None:
    assert sure(POST % (b"5", b"")).recognise(data) is None


@pytest.mark.parametrize(
    "more", [b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"]
)
def test_a_head_that_asks_for_more_than_an_answer_is_not_learnt(more: bytes) -> None:
    assert learnt(POST % (b"5", b"")) is not None
    data = POST % (b"5", more)
    heads = Heads()
    try:
        heads.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        # As the connection does: the parser is given the head again, without its Upgrade.
        heads.found = [head_of(POST % (b"5", b""))]
    assert known(data, heads.found[0]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5 \r\n\r\n",
        b"\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_a_head_with_more_to_it_than_a_length_is_not_learnt(data: bytes) -> None:
    assert learnt(data) is None


class Transport(asyncio.Transport):
    """Collects what is written; `paused` while the connection reads nothing."""

    def __init__(self) -> None:
        self.written = b""
        self.paused = self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else Mock(fileno=lambda: 9)

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True

    abort = close


def rejected(error: GatewayError, call_id: bytes) -> tuple[int, Headers, bytes]:
    return error.status, JSON, error.code.encode()


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def conversation(pieces: list[tuple[bytes, bool]], learning: int) -> tuple[Any, ...]:
    """(calls, deadline after each piece, answered bytes, closed) of a connection that reads these pieces, with or
    without a pause for the calls after each."""
    calls: list[tuple[Any, ...]] = []
    deadlines_s = []

    async def echo(call: Call) -> None:
        try:
            body = b"" if call.path == "/early" else await call.body()
        except ClientGone:
            calls.append((call.path, "gone"))
            raise
        except GatewayError as error:
            call.reply.send(*rejected(error, call.id))
            return
        fields = {name: call.header(name) for name, _ in call.headers}
        others = [(name, value) for name, value in call.headers if name != b"content-length"]
        of_head = repr((call.method, call.path, call.query, others)).encode()
        call.memo.key_digest = call.memo.key_digest or of_head
        assert call.memo.key_digest == of_head
        calls.append((call.method, call.path, call.query, list(call.headers), fields, body))
        call.reply.send(200, JSON, body)

    server = Server(echo, rejected, LIMITS)
    connection, transport = Connection(server, asyncio.get_running_loop()), Transport()
    connection.heads_to_learn = learning
    connection.connection_made(transport)
    for piece, pause in pieces:
        connection.data_received(piece)
        deadlines_s.append(connection.deadline_s)
        if pause or transport.paused:
            await turns()
        if transport.closed or transport.paused:
            break
    await turns()
    closed = transport.closed
    connection.connection_lost(None)
    await turns()
    return calls, deadlines_s, transport.written, closed


INSIDE = POST % (b"5", b"") + b"hello"


def around(path: bytes, body: bytes = INSIDE) -> bytes:
    """A request whose body looks like another request, with as many headers."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: Bearer k\r\n\r\n"
    return head % (path, len(body)) + body


REQUESTS = st.one_of(
    st.binary(max_size=130).map(lambda body: POST % (b"%d" % len(body), b"") + body),
    st.sampled_from([b"", b"x", b"hello"]).map(lambda body: POST % (b"%d" % len(body), b"") + body),
    st.sampled_from(
        [
            POST % (b"5", b"X-Other: 1\r\n") + b"hello",
            POST % (b"5", b"Connection: close\r\n") + b"hello",
            POST % (b"5", b"Expect: 100-continue\r\n") + b"hello",
            POST % (b"5", b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + b"hello",
            POST % (b"5", b"X: " + b"y" * 400 + b"\r\n") + b"hello",
            POST % (b"005", b"") + b"hello",
            POST % (b"5 ", b"") + b"hello",
            POST % (b"0x5", b"") + b"hello",
            POST % (b"5", b"Content-Length: 6\r\n") + b"hello",
            POST % (b"500", b""),
            b"\r\n" + POST % (b"5", b"") + b"hello",
            b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
            b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"POST /o HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
            b"POST http://b/abs?q HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
            b"nonsense\r\n\r\n",
            around(b"/outer"),
            around(b"/early"),
            b"GET /unfinished HTTP/1.1\r\nX: ",
            b"\r",
            b"\r\n",
            INSIDE[4:],
        ]
    ),
)


@st.composite
def talks(draw: st.DrawFn) -> list[tuple[bytes, bool]]:
    """A few requests of one connection, cut anywhere."""
    requests = draw(st.lists(REQUESTS, min_size=1, max_size=5))
    # A repeated head is the rule.
    chosen = draw(st.lists(st.sampled_from(requests), min_size=2, max_size=7))
    data = b"".join(chosen)
    edges, at = [], 0
    for request in chosen:
        edges += [at, at + 4, at + request.find(b"\r\n\r\n") + 4]
        at += len(request)
    cuts = draw(st.lists(st.one_of(st.integers(0, len(data)), st.sampled_from(edges)), max_size=8))
    if draw(st.booleans()):
        cuts += edges
    places = sorted({0, len(data), *cuts})
    return [(data[a:b], draw(st.booleans())) for a, b in pairwise(places)]


@pytest.fixture(scope="module")
def fixed_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge, "time", Mock(monotonic=lambda: 1000.0))
        yield


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.usefixtures("fixed_time")
async def test_a_repeated_head_with_too_long_a_body_is_refused_as_a_first_one() -> None:
    pieces = [(INSIDE, True), (INSIDE, True), (POST % (b"121", b""), True)]
    found = await conversation(pieces, 4)
    assert found == await conversation(pieces, 0)
    assert b" 413 " in found[2]


async def test_a_connection_whose_heads_differ_each_time_learns_only_the_first_few() -> None:
    bodies = [POST % (b"5", b"X-Call: %d\r\n" % number) + b"hello" for number in range(1, 7)]
    seen = []

    async def answer(call: Call) -> None:
        call.reply.send(200, JSON, b"")

    connection = Connection(Server(answer, rejected, LIMITS), asyncio.get_running_loop())
    connection.connection_made(Transport())
    for body in bodies:
        connection.data_received(body)
        await turns()
        assert connection.known
        seen.append(connection.known.after.count(b"X-Call: 4"))
    assert seen == [0, 0, 0, 1, 1, 1]
    connection.connection_lost(None)


async def test_a_request_without_a_body_does_not_make_a_connection_forget_a_head() -> None:
    async def answer(call: Call) -> None:
        call.reply.send(200, JSON, b"")

    connection = Connection(Server(answer, rejected, LIMITS), asyncio.get_running_loop())
    connection.connection_made(Transport())
    for data in (INSIDE, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"):
        connection.data_received(data)
        await turns()
    assert connection.known
    assert connection.known.recognise(INSIDE)
    connection.connection_lost(None)


OUTER = around(b"/outer")
SPLIT = OUTER.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize(
    "pieces",
    [
        [(INSIDE, True), (INSIDE, False)],
        [(INSIDE, True), (INSIDE[:-5], False), (INSIDE[-5:], False)],
        [(INSIDE, True), (INSIDE[:-3], False), (INSIDE[-3:] + INSIDE, True), (INSIDE, True)],
        [(INSIDE, True), (INSIDE + INSIDE, True), (INSIDE, True)],
        [(INSIDE, True), (POST % (b"0", b""), True), (POST % (b"0", b"") + INSIDE, True)],
        [(INSIDE, True), (POST % (b"5", b"X: " + b"y" * 400 + b"\r\n") + b"hello", True)],
        [(INSIDE, True), (b"GET /unfinished HTTP/1.1\r\nX: ", False), (INSIDE, True)],
        [(INSIDE, True), (INSIDE + INSIDE[:1], True), (INSIDE[1:], True), (INSIDE, True)],
        [(INSIDE, True), (OUTER[:SPLIT], True), (OUTER[SPLIT:], True), (INSIDE, True)],
        # What would be learnt from a piece that does not begin with the head in it.
        [(OUTER, False), (INSIDE, True), (INSIDE, True)],
        [(INSIDE[:4], False), (INSIDE[4:], True), (INSIDE[4:], True)],
        [(OUTER[:SPLIT], False), (OUTER[SPLIT:], True), (INSIDE, True)],
        [(around(b"/early")[:-5], True), (b"hello" + INSIDE, True), (INSIDE, True)],
    ],
)
@pytest.mark.usefixtures("fixed_time")
async def test_a_repeated_head_divided_like_this_is_answered_as_a_parsed_one(pieces: list[tuple[bytes, bool]]) -> None:
    assert await conversation(pieces, 4) == await conversation(pieces, 0)


@pytest.mark.usefixtures("fixed_time")
@settings(max_examples=200)
@given(pieces=talks())
def test_a_connection_that_recognises_heads_answers_as_one_that_parses_each(
    loop: asyncio.AbstractEventLoop, pieces: list[tuple[bytes, bool]]
) -> None:
    parsing = loop.run_until_complete(conversation(pieces, 0))
    assert loop.run_until_complete(conversation(pieces, 4)) == parsing
