"""The upstream client's parsing under any cut, any split and any change of bytes; no socket, the real connection class.

Every outcome is one of two: a whole reply, or an UpstreamFailure. Nothing hangs once the peer has closed, nothing else
is raised, and how the bytes were cut into segments changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elkapi.upstream import ClientLimits, Deadlines, LoopTimers, RequestRefused, UpstreamFailure, refusal
from elkapi.upstream.burst import Burst
from elkapi.upstream.connection import Connection
from elkapi.upstream.reply import SocketReply
from elkapi.upstream.wire import CHUNKED, OWN_HEADERS, encode_head

FIXTURES = {
    "length": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"a": true}',
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Empty:\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;a=b\r\n, world\r\n0\r\n\r\n",
    "trailer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nno framing at all",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hint\r\nLink: a\r\n\r\n"
    b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok",
    "no content": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n",
    "close": b"HTTP/1.1 429 Slow Down\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nwait",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold",
    "trailing bytes": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokGARBAGE",
    "two replies": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\nok",
    "upgrade": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 700 + b"\r\nContent-Length: 2\r\n\r\nok",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 30 + b"Content-Length: 2\r\n\r\nok",
}
# Small, so that short inputs reach them.
LIMITS = ClientLimits(header_bytes_max=512, header_count_max=20)


class MemoryTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.written = bytearray()

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class NoOwner:
    burst = Burst()

    def released(self, connection: Connection) -> None:
        pass

    def lost(self, connection: Connection) -> None:
        pass


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def outcome(segments: list[bytes], *, is_head: bool = False) -> tuple[Any, ...]:
    """(status, headers, body, failure class, failure phase, open before the peer closed) of one exchange."""
    with socket.socket() as unused:
        connection = Connection(NoOwner(), LIMITS, LoopTimers(), unused)
    connection.connection_made(MemoryTransport())
    reply = SocketReply(connection, is_head)
    loop = asyncio.get_running_loop()
    connection.start(reply, b"HEAD" if is_head else b"POST", b"", Deadlines(), loop.time() + 100, held=False)
    for segment in segments:
        if segment and connection.is_open():
            connection.data_received(segment)
    reusable = connection.is_open() and reply.is_over
    if connection.is_open():
        connection.eof_received()
    connection.connection_lost(None)
    assert reply.is_over, "the peer is gone and the reply still waits"
    body = b""
    ended: UpstreamFailure | None = None
    try:
        await reply.head()
        while chunk := await reply.next_chunk():
            body += chunk
    except UpstreamFailure as failure:
        ended = failure
    if ended is None:
        return reply.status, reply.headers, body, None, None, reusable
    assert ended.sent
    return reply.status, reply.headers, body, type(ended).__name__, ended.phase, reusable


@pytest.mark.parametrize("name", FIXTURES)
def test_every_split_in_two_gives_the_same_reply(loop: asyncio.AbstractEventLoop, name: str) -> None:
    raw = FIXTURES[name]

    async def check() -> None:
        whole = await outcome([raw])
        for at in range(len(raw)):
            assert await outcome([raw[:at], raw[at:]]) == whole, f"cut at {at}: {raw[:at]!r}"
        assert await outcome([raw[at : at + 1] for at in range(len(raw))]) == whole

    loop.run_until_complete(check())


@pytest.mark.parametrize("name", FIXTURES)
def test_every_early_end_is_the_same_reply_or_a_clear_failure(loop: asyncio.AbstractEventLoop, name: str) -> None:
    raw = FIXTURES[name]

    async def check() -> None:
        status, headers, body, failure, _, _ = await outcome([raw])
        for at in range(len(raw)):
            got = await outcome([raw[:at]])
            if got[3] is None:
                # Without a failure the reply is whole, unless nothing but the end of the connection ends it.
                assert got[:2] == (status, headers)
                assert got[2] == body or (name == "until close" and body.startswith(got[2]))
            else:
                assert got[3] in ("Cut", "ProtocolViolation")
                assert body.startswith(got[2])
            if failure is not None:
                assert got[3] is not None

    loop.run_until_complete(check())


@pytest.mark.parametrize("name", FIXTURES)
def test_a_head_request_gives_no_body_however_it_is_split(loop: asyncio.AbstractEventLoop, name: str) -> None:
    raw = FIXTURES[name]

    async def check() -> None:
        whole = await outcome([raw], is_head=True)
        assert whole[2] == b""
        for at in range(len(raw)):
            assert await outcome([raw[:at], raw[at:]], is_head=True) == whole

    loop.run_until_complete(check())


SEEDS = st.sampled_from(sorted(FIXTURES.values()))
SMALL_TOKENS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b";", b"-1", b"\xff", b"0\r\n\r\n"]
LINES = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 200 OK\r\n", b"ffffffffffffffff\r\n"]
TOKENS = st.sampled_from([*SMALL_TOKENS, *LINES, b"HTTP/1.1 100 Continue\r\n\r\n"])


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    raw = bytearray(draw(SEEDS))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0:
                raw[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del raw[at : at + draw(st.integers(1, 12))]
            case 2:
                raw[at:at] = draw(TOKENS)
            case _:
                raw[at:at] = raw[at : at + draw(st.integers(1, 40))]
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    bounds = [0, *cuts, len(raw)]
    return [bytes(raw[start:end]) for start, end in pairwise(bounds)]


@settings(max_examples=600)
@given(segments=mutated(), is_head=st.booleans())
@example(segments=[b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000], is_head=False)
def test_mutated_replies_never_hang_never_raise_and_never_depend_on_segments(
    segments: list[bytes], is_head: bool
) -> None:
    async def check() -> None:
        split = await outcome(segments, is_head=is_head)
        whole = await outcome([b"".join(segments)], is_head=is_head)
        assert split == whole

    asyncio.run(check())


@settings(max_examples=300)
@given(segments=st.lists(st.binary(max_size=200), max_size=6))
def test_random_bytes_never_hang_and_never_raise(segments: list[bytes]) -> None:
    asyncio.run(outcome(segments))


@settings(max_examples=300)
@given(
    status=st.sampled_from([200, 201, 400, 429, 500]),
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    chunked=st.booleans(),
    cuts=st.lists(st.integers(0, 3000), max_size=8),
)
def test_any_body_in_any_framing_and_any_segments_arrives_unchanged(
    status: int, pieces: list[bytes], chunked: bool, cuts: list[int]
) -> None:
    body = b"".join(pieces)
    if chunked:
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        raw = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (status, framed)
    else:
        raw = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    segments = [raw[start:end] for start, end in pairwise(bounds)]
    got = asyncio.run(outcome(segments))
    assert (got[0], got[2], got[3], got[5]) == (status, body, None, True)


class RequestReader:
    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.complete += 1


HEADER_NAMES = st.one_of(st.binary(max_size=12), st.sampled_from([b"X-A", b"Host", b"content-length", b"te", b"a b"]))
HEADER_VALUES = st.one_of(st.binary(max_size=30), st.sampled_from([b"a\r\nX: y", b"", b" pad ", b"\xc3\xa9"]))


@settings(max_examples=600)
@given(
    method=st.one_of(st.sampled_from([b"GET", b"POST", b"PATCH"]), st.binary(max_size=8)),
    target=st.one_of(st.binary(max_size=30), st.binary(max_size=30).map(lambda raw: b"/" + raw)),
    headers=st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=6),
    framing=st.sampled_from([0, 0, CHUNKED]),
)
def test_a_written_head_is_read_back_as_exactly_one_request_or_was_refused(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], framing: int
) -> None:
    try:
        head = encode_head(method, target, b"host.example", headers, framing)
    except RequestRefused:
        return
    reader = RequestReader()
    parser = httptools.HttpRequestParser(reader)
    known = {b"GET", b"POST", b"PATCH", b"PUT", b"DELETE", b"HEAD", b"OPTIONS"}
    assert head.startswith(method + b" ")
    if method not in known:  # httptools knows few methods; the rest of the head is what is looked at.
        head = b"POST" + head[len(method) :]
    parser.feed_data(head + (b"0\r\n\r\n" if framing == CHUNKED else b""))
    assert reader.complete == 1
    assert reader.url == target
    ours = [(name, value.strip(b" \t")) for name, value in headers if name.lower() not in OWN_HEADERS]
    last = 1 if framing == CHUNKED or method not in (b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE") else 0
    assert reader.headers[0] == (b"host", b"host.example")
    assert [(name, value.strip(b" \t")) for name, value in reader.headers[1 : len(reader.headers) - last]] == ours


REFUSED_V4 = st.one_of(
    st.sampled_from(["0.0.0.0", "127.0.0.1", "169.254.169.254", "168.63.129.16", "255.255.255.255"]),
    *(
        st.ip_addresses(network=network).map(str)
        for network in ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16")
    ),
    *(st.ip_addresses(network=network).map(str) for network in ("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3")),
)


@settings(max_examples=300)
@given(inner=REFUSED_V4)
def test_no_wrapping_makes_a_refused_address_acceptable(inner: str) -> None:
    value = int(ipaddress.IPv4Address(inner))
    wrapped = [
        0xFFFF << 32 | value,
        value,
        0xFFFF << 48 | value,
        0x64FF9B << 96 | value,
        0x2002 << 112 | value << 80 | 1,
        0x20010000 << 96 | value << 64,
        0x20010000 << 96 | 0x08080808 << 64 | (~value & 0xFFFFFFFF),
        0x26064700 << 96 | 0x5EFE << 32 | value,
    ]
    assert refusal(inner) is not None
    for number in wrapped:
        assert refusal(str(ipaddress.IPv6Address(number))) is not None


@settings(max_examples=300)
@given(text=st.text(max_size=40))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    refusal(text)
