"""AWS event streams: any cut gives the same frames, a wrong checksum is unreadable, exceptions are failures."""

from __future__ import annotations

import struct
from base64 import b64encode
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from elkapi.translate import eventstream
from elkapi.translate.dialect import Unreadable
from elkapi.translate.eventstream import EventStreamDecoder, failure_of_exception
from elkapi.translate.ir import Failure
from elkapi.translate.sse import Frame, FrameTooLarge


def framed(payload: bytes, **headers: str) -> bytes:
    block = b""
    for name, value in headers.items():
        key = b":" + name.replace("_", "-").encode()
        block += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    return _message(block, payload)


def _message(block: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    message = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return message + struct.pack(">I", crc32(message))


def event(name: str, payload: bytes) -> bytes:
    return framed(payload, message_type="event", event_type=name, content_type="application/json")


INNER = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}'
STREAM = b"".join(
    [
        event("messageStart", b'{"role":"assistant"}'),
        event("chunk", b'{"bytes":"' + b64encode(INNER) + b'","p":"abcd"}'),
        framed(b'{"message":"slow"}', message_type="exception", exception_type="throttlingException"),
        framed(b"", message_type="error", error_code="InternalError", error_message="broken"),
    ]
)
EXPECTED = [
    (b"messageStart", b'{"role":"assistant"}'),
    (b"content_block_delta", INNER),
    (b"throttlingException", b'{"message":"slow"}'),
    (b"internalServerException", b'{"message":"InternalError: broken"}'),
]


def _frames(*pieces: bytes) -> list[Frame]:
    decoder = EventStreamDecoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)] + decoder.close()


def test_every_cut_gives_the_same_frames_and_loses_no_byte() -> None:
    for cut in range(len(STREAM) + 1):
        frames = _frames(STREAM[:cut], STREAM[cut:])
        assert [(frame.event, frame.data) for frame in frames] == EXPECTED
        assert b"".join(frame.raw for frame in frames) == STREAM


def test_the_frames_are_those_that_the_official_sdk_reads() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(STREAM)
    assert next(iter(buffer)).payload == EXPECTED[0][1]


@pytest.mark.parametrize("at", range(len(event("messageStart", b"{}"))))
def test_a_flipped_bit_is_unreadable_wherever_it_is(at: int) -> None:
    good = event("messageStart", b"{}")
    bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    with pytest.raises((Unreadable, FrameTooLarge)) as caught:
        _frames(bad)
    assert caught.type is Unreadable


def test_a_stream_that_ends_inside_a_frame_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        _frames(STREAM[:-1])


def test_every_type_of_header_is_stepped_over() -> None:
    block = b""
    values = [
        b"",
        b"",
        b"a",
        b"ab",
        b"abcd",
        b"abcdefgh",
        b"\x00\x02xy",
        b"\x00\x01z",
        b"abcdefgh",
        b"0123456789abcdef",
    ]
    for kind, value in enumerate(values):
        block += b"\x01" + bytes([97 + kind, kind]) + value
    block += b"\x0b:event-type\x07\x00\x02hi"
    assert [(frame.event, frame.data) for frame in _frames(_message(block, b"{}"))] == [(b"hi", b"{}")]


@pytest.mark.parametrize("block", [b"\x05ab", b"\x01a\x0a", b"\x01a\x07\x00\x09b", b"\x01a"])
def test_broken_headers_are_unreadable(block: bytes) -> None:
    with pytest.raises(Unreadable):
        _frames(_message(block, b"{}"))


@pytest.mark.parametrize("payload", [b"{}", b"<html>", b'{"bytes":"?"}', b'{"bytes":"YQ=="}'])
def test_a_broken_chunk_is_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        _frames(event("chunk", payload))


def test_a_frame_above_the_bound_is_refused_before_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstream, "FRAME_BYTES_MAX", 40)
    with pytest.raises(FrameTooLarge):
        EventStreamDecoder().feed(STREAM[:12])


@pytest.mark.timeout(60)
def test_a_long_frame_in_very_small_pieces_is_not_copied_with_each_of_them() -> None:
    raw = event("contentBlockDelta", b"x" * 8_000_000)
    (frame,) = _frames(*(raw[at : at + 40] for at in range(0, len(raw), 40)))
    assert (frame.raw, type(frame.raw), type(frame.data)) == (raw, bytes, bytes)


@pytest.mark.parametrize(
    ("kind", "status"),
    [(b"validationException", 400), (b"ThrottlingException", 429), (b"internalServerException", 500), (b"new", 500)],
)
def test_an_exception_has_the_status_it_would_have_had(kind: bytes, status: int) -> None:
    failure = failure_of_exception(Frame(b"", kind, b'{"message":"m"}'))
    assert (failure.status, failure.message) == (status, "m")
    assert failure_of_exception(Frame(b"", kind, b"?")) == Failure(status, failure.kind, "")


@given(st.binary(max_size=200), st.integers(0, len(STREAM)))
def test_any_bytes_give_frames_or_are_refused(noise: bytes, at: int) -> None:
    try:
        _frames(STREAM[:at] + noise + STREAM[at:])
    except (Unreadable, FrameTooLarge):
        assert noise or at
