"""Framing: any cut gives the same frames, bytes are kept as they came."""

from __future__ import annotations

import pytest

from elkapi.translate import sse
from elkapi.translate.sse import Frame, FrameTooLarge, SseDecoder

STREAMS = {
    "lf": b'data: {"a":1}\n\ndata: [DONE]\n\n',
    "crlf": b"event: ping\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n",
    "cr": b"data: 1\r\rdata: 2\r\r",
    "mixed": b"event: a\ndata: 1\r\n\r\n: comment\n\ndata: x\ndata: y\nid: 3\n\n",
    "no space": b"data:1\n\ndata:  two spaces\n\n",
}


def _frames(pieces: list[bytes]) -> list[Frame]:
    decoder = SseDecoder()
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    return frames + decoder.close()


@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_gives_the_same_events_and_loses_no_byte(name: str) -> None:
    stream = STREAMS[name]
    whole = [(frame.event, frame.data) for frame in _frames([stream])]
    for cut in range(len(stream) + 1):
        frames = _frames([stream[:cut], stream[cut:]])
        assert [(frame.event, frame.data) for frame in frames if frame.data is not None or frame.event] == [
            pair for pair in whole if pair[1] is not None or pair[0]
        ]
    assert b"".join(frame.raw for frame in _frames([bytes([byte]) for byte in stream])).startswith(stream.rstrip())


def test_events_are_read_as_the_format_says() -> None:
    frames = _frames([STREAMS["mixed"]])
    assert [(frame.event, frame.data) for frame in frames] == [(b"a", b"1"), (b"", None), (b"", b"x\ny")]
    assert [frame.data for frame in _frames([STREAMS["no space"]])] == [b"1", b" two spaces"]


def test_a_byte_order_mark_hides_no_event() -> None:
    stream = b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n"
    for cut in range(6):
        frames = _frames([stream[:cut], stream[cut:]])
        assert [frame.data for frame in frames] == [b"1", b"2"]
        assert b"".join(frame.raw for frame in frames) == stream[3:]


def test_the_last_frame_may_lack_its_blank_line() -> None:
    assert [frame.data for frame in _frames([b"data: 1\n\ndata: [DONE]"])] == [b"1", b"[DONE]"]
    assert _frames([b"data: 1\n\n\n"])[0].data == b"1"


BARE = b'{\n  "error": {\n    "code": 503,\n    "message": "one: two",\n    "status": "UNAVAILABLE"\n  }\n}'


@pytest.mark.parametrize("ends", [b"", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize(("opens", "closes"), [(b"", b""), (b"[", b"]"), (b"[", b""), (b",\r\n", b"\n]\n")])
def test_an_error_that_breaks_into_a_stream_as_a_bare_body_is_an_event(
    opens: bytes, closes: bytes, ends: bytes
) -> None:
    stream = b"data: 1\r\n\r\n" + opens + BARE + closes + ends
    for cut in range(len(stream) + 1):
        assert [frame.data for frame in _frames([stream[:cut], stream[cut:]])] == [b"1", BARE]
    assert _frames([b'{"candidates": []}']) == [Frame(b'{"candidates": []}\n\n', b"", None)]


def test_a_frame_without_end_is_refused_instead_of_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FRAME_BYTES_MAX", 10)
    with pytest.raises(FrameTooLarge):
        SseDecoder().feed(b"data: 0123456789")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_an_event_of_very_many_lines_is_read_in_one_go(line_end: bytes) -> None:
    """Searched anew with each piece, four megabytes of them stopped a worker for minutes."""
    stream = (b"data:" + line_end) * 600_000 + line_end
    pieces = [stream[at : at + 4096] for at in range(0, len(stream), 4096)]
    assert [frame.data for frame in _frames(pieces)] == [b"\n" * 599_999]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.timeout(60)
def test_a_long_event_in_very_small_pieces_is_not_copied_with_each_of_them(line_end: bytes) -> None:
    """At seven megabytes each piece took three milliseconds of the loop that every caller shares."""
    stream = b"data: " + b"x" * 8_000_000 + line_end * 2 + b"data: 2" + line_end * 2
    frames = _frames([stream[at : at + 40] for at in range(0, len(stream), 40)])
    assert [len(frame.data or b"") for frame in frames] == [8_000_000, 1]
    assert all(type(frame.raw) is bytes and type(frame.data) is bytes for frame in frames)


def test_an_event_may_hold_pictures_and_is_read_in_the_time_of_its_bytes() -> None:
    """A response tells all that it made again in its last event: two large pictures are eight megabytes already."""
    decoder, data = SseDecoder(), b"x" * (20 << 20)
    middle = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    pieces = [b"event: done\r\ndata: ", *middle, b"\r\n", b"\r", b"\n"]
    (done,) = [frame for piece in pieces for frame in decoder.feed(piece)]
    assert (done.event, done.data == data, done.raw == b"".join(pieces)) == (b"done", True, True)
    assert decoder.feed(b": next\n\n") == [Frame(b": next\n\n", b"", None)]
