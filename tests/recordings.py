"""Recorded streams of providers, and the events that a dialect reads from them."""

from __future__ import annotations

from pathlib import Path

from elkapi.translate.dialect import Dialect, ReplyFacts
from elkapi.translate.ir import ChatRequest, Event
from elkapi.translate.sse import SseDecoder

RECORDINGS = sorted((Path(__file__).parent / "unit" / "translate" / "recordings").glob("*.sse"))


def recordings_of(wire: str) -> dict[str, bytes]:
    """The recorded streams of one wire format, by name."""
    found = [path for path in RECORDINGS if path.stem.startswith(f"{wire}-")]
    return {path.stem.removeprefix(f"{wire}-"): path.read_bytes() for path in found}


def events_of(dialect: Dialect, *pieces: bytes) -> list[Event]:
    """The events that the dialect reads from a stream in these pieces."""
    decoder, reader = SseDecoder(), dialect.reader()
    frames = [frame for piece in pieces for frame in decoder.feed(piece)] + decoder.close()
    return [event for frame in frames for event in reader.feed(frame)]


def facts() -> ReplyFacts:
    """Reply facts for a minimal chat request with usage."""
    asked = ChatRequest(model="m", messages=[])
    return ReplyFacts(id="answer-1", model="m", created_s=1_700_000_000, request=asked, include_usage=True)


def read_in_every_cut(dialect: Dialect, stream: bytes, expected: list[Event]) -> None:
    """Assert that the stream gives these events, whole and split at any byte."""
    for cut in range(len(stream)):
        assert events_of(dialect, stream[:cut], stream[cut:]) == expected, cut
