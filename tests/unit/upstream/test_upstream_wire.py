"""Heads as bytes, without a socket: what is written of a request, what is refused, and how a reply's body ends."""

from __future__ import annotations

import pytest

from elkapi.upstream import ProtocolViolation, RequestRefused
from elkapi.upstream import wire as w


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def encoded(
    method: bytes = b"POST",
    target: bytes = b"/v1/x?y=1",
    headers: w.Fields = (),
    framing: int = 0,
    shared: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    return w.encode_head(method, target, b"a.example", headers, framing, shared)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"])
def test_a_body_of_any_method_is_announced(method: bytes) -> None:
    assert lines(encoded(method, framing=5))[-1] == b"content-length: 5"
    assert lines(encoded(method, framing=w.CHUNKED))[-1] == b"transfer-encoding: chunked"
    assert lines(encoded(method)) == [method + b" /v1/x?y=1 HTTP/1.1", b"host: a.example"]


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"PURGE"])
def test_an_empty_body_of_a_method_that_has_one_is_announced_too(method: bytes) -> None:
    assert lines(encoded(method))[-1] == b"content-length: 0"


def test_shared_headers_come_first_and_are_the_same_the_second_time() -> None:
    shared = ((b"authorization", b"Bearer k"), (b"Host", b"evil.example"))
    for _ in range(2):
        assert lines(encoded(headers=[(b"x-a", b"1"), (b"TE", b"trailers")], framing=3, shared=shared)) == [
            b"POST /v1/x?y=1 HTTP/1.1",
            b"host: a.example",
            b"authorization: Bearer k",
            b"x-a: 1",
            b"content-length: 3",
        ]


def test_what_is_kept_of_heads_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w, "_names_seen", {})
    monkeypatch.setattr(w, "_targets_seen", set())
    most = b"/" + b"l" * (w._KEPT_BYTES_MAX - 1)
    encoded(target=most, headers=[(b"n" * w._KEPT_BYTES_MAX, b"1")])
    encoded(target=most + b"l", headers=[(b"n" * w._KEPT_BYTES_MAX + b"n", b"1")])
    assert w._targets_seen == {most}
    assert w._names_seen == {b"n" * w._KEPT_BYTES_MAX: True}
    for number in range(w._NAMES_SEEN_MAX + 10):
        shared = ((b"x-shared-%d" % number, b"1"),)
        head = encoded(target=b"/%d" % number, headers=[(b"x-own-%d" % number, b"2")], shared=shared)
        assert lines(head)[2:4] == [b"x-shared-%d: 1" % number, b"x-own-%d: 2" % number]
    assert len(w._names_seen) <= w._NAMES_SEEN_MAX
    assert len(w._targets_seen) <= w._TARGETS_SEEN_MAX
    assert len(w._shared_heads) <= w._SHARED_HEADS_MAX


@pytest.mark.parametrize("method", [b"CONNECT", b"", b"GET /", b"G\r\nT", b"G\xc3\xa9T", b"GET:"])
def test_a_method_that_is_no_token_or_asks_for_a_tunnel_is_refused(method: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        encoded(method)
    assert not caught.value.sent
    with pytest.raises(RequestRefused):
        w.check_method(method)


@pytest.mark.parametrize(
    "target", [b"", b"x", b"http://b.example/", b"*", b"/a b", b"/a#b", b"/\n", b"/\x7f", b"/\xff"]
)
def test_a_target_that_is_not_an_origin_form_is_refused_every_time(target: bytes) -> None:
    for _ in range(2):
        with pytest.raises(RequestRefused):
            encoded(target=target)
        with pytest.raises(RequestRefused):
            w.check_target(target)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-a", b"1\r\nx-b: 2"),
        (b"x-a", b"1\n"),
        (b"x-a", b"1\r"),
        (b"x-a", b"\x00"),
        (b"x-a", b"\x7f"),
        (b"x a", b"1"),
        (b"x-a:", b"1"),
        (b"", b"1"),
    ],
)
def test_a_header_that_is_not_one_line_is_refused_every_time(name: bytes, value: bytes) -> None:
    for _ in range(2):
        with pytest.raises(RequestRefused):
            encoded(headers=[(name, value)])
        with pytest.raises(RequestRefused):
            encoded(shared=((name, value),))
        with pytest.raises(RequestRefused):
            w.callers_headers([(name, value)])


def test_every_printable_sign_of_ascii_but_the_fragments_may_stand_in_a_target() -> None:
    target = b"/" + bytes(code for code in range(0x21, 0x7F) if code != 0x23)
    assert lines(encoded(target=target))[0] == b"POST " + target + b" HTTP/1.1"


def test_a_tab_and_bytes_beyond_ascii_may_stand_in_a_value() -> None:
    assert lines(encoded(headers=[(b"x-a", b"1\t\xff")]))[2] == b"x-a: 1\t\xff"


@pytest.mark.parametrize(
    "name",
    [
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
        b"http2-settings",
    ],
)
def test_headers_that_are_the_clients_own_are_left_out_in_any_case(name: bytes) -> None:
    given = [(name, b"1"), (name.upper(), b"1"), (b"x-a", b"1")]
    for _ in range(2):
        assert w.callers_headers(given) == [(b"x-a", b"1")]
        assert lines(encoded(headers=given, framing=w.CHUNKED))[2:] == [b"x-a: 1", b"transfer-encoding: chunked"]


LENGTH, CODING = b"content-length", b"transfer-encoding"


@pytest.mark.parametrize(
    ("status", "version", "headers", "framing"),
    [
        (200, "1.1", [], w.UNTIL_CLOSE),
        (200, "1.0", [], w.UNTIL_CLOSE),
        (200, "1.1", [(LENGTH, b"0")], 0),
        (200, "1.1", [(LENGTH, b"9" * 18)], int("9" * 18)),
        (599, "1.0", [(LENGTH, b"007")], 7),
        (200, "1.1", [(CODING, b" Chunked ")], w.CHUNKED),
        (200, "1.1", [(b"x-a", b"1"), (b"x-a", b"2"), (LENGTH, b"3")], 3),
        (204, "1.1", [(LENGTH, b"5")], 0),
        (304, "1.1", [(CODING, b"chunked")], 0),
        (205, "1.1", [(LENGTH, b"5")], 5),
        (199, "1.1", [(LENGTH, b"0")], 0),
        (100, "1.1", [], 0),
    ],
)
def test_how_a_body_ends_is_said_by_its_head(
    status: int, version: str, headers: list[tuple[bytes, bytes]], framing: int
) -> None:
    assert w.reply_framing(False, status, version, headers, w.fields_of(headers)) == framing
    assert w.reply_framing(True, status, version, headers, w.fields_of(headers)) == 0


@pytest.mark.parametrize(
    ("status", "version", "headers", "why"),
    [
        (200, "2.0", [], "speaks HTTP/2.0"),
        (200, "0.9", [], "speaks HTTP/0.9"),
        (99, "1.1", [], "status is 99"),
        (600, "1.1", [], "status is 600"),
        (200, "1.1", [(LENGTH, b"1"), (LENGTH, b"1")], "more than one content-length"),
        (200, "1.1", [(CODING, b"chunked"), (CODING, b"chunked")], "more than one transfer-encoding"),
        (200, "1.1", [(LENGTH, b"1"), (CODING, b"chunked")], "both"),
        (200, "1.0", [(CODING, b"chunked")], "not plain chunked"),
        (200, "1.1", [(CODING, b"gzip, chunked")], "not plain chunked"),
        (200, "1.1", [(CODING, b"")], "not plain chunked"),
        (200, "1.1", [(LENGTH, b"")], "not a number"),
        (200, "1.1", [(LENGTH, b"+1")], "not a number"),
        (200, "1.1", [(LENGTH, b"1, 1")], "not a number"),
        (200, "1.1", [(LENGTH, b"1" * 19)], "not a number"),
        (199, "1.1", [(LENGTH, b"1")], "interim"),
        (100, "1.1", [(CODING, b"chunked")], "interim"),
    ],
)
def test_a_reply_that_two_readers_could_understand_in_two_ways_is_refused(
    status: int, version: str, headers: list[tuple[bytes, bytes]], why: str
) -> None:
    with pytest.raises(ProtocolViolation, match=why) as caught:
        w.reply_framing(False, status, version, headers, w.fields_of(headers))
    assert caught.value.sent
