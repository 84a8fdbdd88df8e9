"""Recordings and small makers that the tests of the Anthropic dialect share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elkapi.translate.anthropic import DIALECT
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import ChatRequest, Event, Message, Text
from elkapi.translate.sse import SseDecoder

RECORDINGS = Path(__file__).parent / "unit" / "translate" / "recordings"
NAMES = sorted(path.stem.removeprefix("anthropic-") for path in RECORDINGS.glob("anthropic-*.sse"))


def recording(name: str) -> bytes:
    return (RECORDINGS / f"anthropic-{name}.sse").read_bytes()


def events_of(*pieces: bytes) -> list[Event]:
    decoder, reader = SseDecoder(), DIALECT.reader()
    return [event for piece in pieces for frame in decoder.feed(piece) for event in reader.feed(frame)]


def facts(**members: Any) -> ReplyFacts:
    return ReplyFacts(id="1", model="my-model", created_s=1_700_000_000, request=asked(), **members)


def asked(**members: Any) -> ChatRequest:
    defaults: dict[str, Any] = {"model": "m", "messages": [Message("user", (Text("hi"),))]}
    return ChatRequest(**defaults | members)


def streamed(events: list[Event]) -> bytes:
    writer = DIALECT.writer(facts())
    return b"".join([*(writer.feed(event) for event in events), writer.finish()])
