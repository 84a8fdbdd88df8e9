"""The reading half of a connection without a socket: what its bytes come to however they are cut, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from elkapi.upstream import ClientLimits, ProtocolViolation
from elkapi.upstream.inbound import Inbound
from elkapi.upstream.reply import SocketReply

LIMITS = ClientLimits(header_bytes_max=100, header_count_max=4, interim_replies_max=2)


class Reply(SocketReply):
    """A reply that nobody waits for."""

    def __init__(self, *, is_head: bool = False) -> None:
        nobody: Any = None
        super().__init__(nobody, is_head)

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)


def fed(*pieces: bytes, is_head: bool = False, inbound: Inbound | None = None) -> tuple[Inbound, Reply]:
    inbound, reply = inbound or Inbound(LIMITS), Reply(is_head=is_head)
    inbound.begin(reply)
    for piece in pieces:
        inbound.feed(piece)
    return inbound, reply


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def head(*fields: bytes, framing: bytes = b"Content-Length: 0") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *fields, framing, b"", b""))


FRAMING_BYTES = len("content-length") + len("0") + 4
Cutting = Callable[[bytes], list[bytes]]


@pytest.mark.parametrize("cut", [lambda data: [data], singly], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_heads_fields_may_have_so_many_bytes_and_not_one_more(cut: Cutting, more: int, fits: bool) -> None:
    value_bytes = LIMITS.header_bytes_max - FRAMING_BYTES - len("a") - 4 + more
    pieces = cut(head(b"A: " + b"v" * value_bytes))
    if fits:
        inbound, reply = fed(*pieces)
        assert inbound.message_done
        assert len(reply.headers) == 2
    else:
        with pytest.raises(ProtocolViolation, match="100 bytes or 4 headers"):
            fed(*pieces)


@pytest.mark.parametrize("cut", [lambda data: [data], singly], ids=["whole", "byte by byte"])
def test_a_head_may_have_so_many_fields_and_not_one_more(cut: Cutting) -> None:
    fields = [b"A: 1", b"B: 2", b"C: 3"]
    assert len(fed(*cut(head(*fields)))[1].headers) == 4
    with pytest.raises(ProtocolViolation, match="100 bytes or 4 headers"):
        fed(*cut(head(*fields, b"D: 4")))


def test_interim_heads_count_with_the_last_one_and_their_fields_are_not_its() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    _, reply = fed(hints + hints + head(b"A: 1"))
    assert reply.headers == [(b"a", b"1"), (b"content-length", b"0")]
    with pytest.raises(ProtocolViolation, match="unexpected interim reply 103"):
        fed(hints * 3)
    with pytest.raises(ProtocolViolation, match="4 headers"):
        fed(hints + hints + head(b"A: 1", b"B: 2"))
    long = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"v" * 60 + b"\r\n\r\n"
    with pytest.raises(ProtocolViolation, match="100 bytes"):
        fed(long, head(b"A: " + b"v" * 20))


def test_another_protocol_is_never_switched_to() -> None:
    with pytest.raises(ProtocolViolation, match="unexpected interim reply 101"):
        fed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")


def test_a_line_that_never_ends_is_refused_at_twice_the_limit() -> None:
    begun = b"HTTP/1.1 200 OK\r\nA: "
    whole = begun + b"v" * (2 * LIMITS.header_bytes_max - len(begun))
    fed(whole)
    fed(*singly(whole))
    with pytest.raises(ProtocolViolation, match="longer than 100 bytes"):
        fed(whole, b"v")


CHUNKED = b"Transfer-Encoding: chunked"


def test_so_many_trailers_are_dropped_and_not_one_more() -> None:
    trailers = [b"X: %d\r\n" % number for number in range(LIMITS.header_count_max)]
    inbound, reply = fed(head(framing=CHUNKED), b"2\r\nok\r\n0\r\n", *trailers, b"\r\n")
    assert inbound.message_done
    assert inbound.keep_alive
    assert reply.body == b"ok"
    assert reply.headers == [(b"transfer-encoding", b"chunked")]
    with pytest.raises(ProtocolViolation, match="more than 4 trailers"):
        fed(head(framing=CHUNKED), b"2\r\nok\r\n0\r\n", *trailers, b"Y: 1\r\n\r\n")


def test_what_brings_no_body_may_be_so_long_and_not_one_byte_longer() -> None:
    silence = b"2;" + b"e" * (LIMITS.header_bytes_max - 2)
    inbound, reply = fed(head(framing=CHUNKED), silence, b"\r\nok\r\n", silence, b"\r\nay\r\n0\r\n\r\n")
    assert inbound.message_done
    assert reply.body == b"okay"
    with pytest.raises(ProtocolViolation, match="longer than header_bytes_max"):
        fed(head(framing=CHUNKED), silence, b"e")
    with pytest.raises(ProtocolViolation, match="longer than header_bytes_max"):
        fed(head(framing=CHUNKED), *singly(silence), b"e")


def test_a_segment_that_ends_the_head_is_not_silence() -> None:
    after = b"2;" + b"e" * (2 * LIMITS.header_bytes_max)
    inbound, _ = fed(head(framing=CHUNKED) + after)
    assert inbound.head_done


def test_every_limit_counts_from_nothing_for_each_reply_of_a_kept_connection() -> None:
    inbound = Inbound(LIMITS)
    for _ in range(4):
        fed(
            b"HTTP/1.1 103 Early Hints\r\nL: x\r\n\r\n" * 2,
            head(b"A: " + b"v" * 40, framing=CHUNKED),
            b"2;" + b"e" * 60,
            b"\r\nok\r\n0\r\nT: 1\r\nT: 2\r\n",
            b"T: " + b"v" * 60,
            b"\r\n\r\n",
            inbound=inbound,
        )
        assert inbound.message_done
        assert inbound.keep_alive


def test_a_head_request_is_given_no_body_although_one_came() -> None:
    inbound, reply = fed(head(framing=b"Content-Length: 5") + b"hello", is_head=True)
    assert inbound.message_done
    assert not inbound.keep_alive
    assert reply.body == b""


def test_what_was_wrong_is_told() -> None:
    with pytest.raises(ProtocolViolation, match="status is 999"):
        fed(head().replace(b"200", b"999"))
    with pytest.raises(ProtocolViolation, match="not plain chunked"):
        fed(head(framing=b"Transfer-Encoding: gzip, chunked"))
    with pytest.raises(ProtocolViolation, match="HTTP") as caught:
        fed(b"no HTTP at all\r\n\r\n")
    assert (caught.value.sent, caught.value.phase) == (True, "header")
    with pytest.raises(ProtocolViolation) as caught:
        fed(head(framing=CHUNKED), b"no size\r\n")
    assert (caught.value.sent, caught.value.phase) == (True, "body")


def test_the_first_byte_of_a_reply_is_an_answer() -> None:
    inbound = Inbound(LIMITS)
    inbound.begin(Reply())
    assert not inbound.answered
    inbound.feed(b"H")
    assert inbound.answered
    assert not inbound.head_done
    inbound.begin(Reply())
    assert not inbound.answered


@pytest.mark.parametrize("cut", [lambda data: [data], singly], ids=["whole", "byte by byte"])
def test_bytes_after_a_whole_reply_end_the_connections_reuse_and_are_no_part_of_it(cut: Cutting) -> None:
    inbound, reply = fed(*cut(head(framing=b"Content-Length: 2") + b"ok"))
    assert inbound.keep_alive
    inbound.feed(b"X")
    assert not inbound.keep_alive
    assert reply.body == b"ok"


def test_a_second_reply_behind_a_whole_one_is_no_part_of_it_and_ends_the_connections_reuse() -> None:
    first = head(framing=b"Content-Length: 2") + b"ok"
    second = b"HTTP/1.1 500 Error\r\nContent-Length: 3\r\n\r\nbad"
    for pieces in ((first + second,), (first, second)):
        inbound, reply = fed(*pieces)
        assert inbound.message_done
        assert not inbound.keep_alive
        assert (reply.status, reply.body) == (200, b"ok")
        assert reply.headers == [(b"content-length", b"2")]


@pytest.mark.parametrize(("field", "kept"), [(b"A: 1", True), (b"Connection: close", False)])
def test_a_reply_says_whether_its_connection_is_kept(field: bytes, kept: bool) -> None:
    assert fed(head(field))[0].keep_alive is kept


def test_only_a_body_without_framing_ends_with_the_connection() -> None:
    unframed = b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n"
    inbound, reply = fed(unframed + b"o", b"k")
    assert inbound.ends_with_connection
    assert not inbound.message_done
    assert reply.body == b"ok"
    assert not fed(unframed[:-2])[0].ends_with_connection
    assert not fed(head(framing=b"Content-Length: 5") + b"ok")[0].ends_with_connection
    assert not fed(head(framing=CHUNKED) + b"5\r\nok")[0].ends_with_connection
