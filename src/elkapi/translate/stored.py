"""Convert a cached answer to the form that another caller of its dialect requests.

Whole, streamed and array answers have the same events, so they are read into events and rewritten.
"""

from __future__ import annotations

import msgspec

from elkapi.translate.dialect import ReplyFacts, Unreadable
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.gemini_writer import ArrayWriter
from elkapi.translate.ir import (
    Citation,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    RefusalDelta,
    ServerToolPart,
    Start,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.sse import Frame, FrameTooLarge, SseDecoder
from elkapi.types import Usage

# The finish reasons of answers that may be cached: the model finished by itself.
WHOLE: tuple[FinishReason | str, ...] = ("stop", "stop_sequence")
# Answers with any of these are not cached; docs/cache.md explains why.
_NEVER = (Failure, RefusalDelta, ToolCallStart, ServerToolPart, Citation)
_members = msgspec.json.Decoder(list[msgspec.Raw])


def events_of(wire: str, body: bytes, *, stream: bool, array: bool) -> list[Event]:
    """The events of a cached answer. Raises Unreadable."""
    dialect = DIALECTS[wire]
    if not stream:
        return dialect.read_reply(body)
    reader = dialect.reader()
    events: list[Event] = []
    for frame in _frames(body, array):
        if frame.data is None or (events and isinstance(events[-1], End | Failure)):
            continue
        events += reader.feed(frame)
    return events


def _frames(body: bytes, array: bool) -> list[Frame]:
    if array:
        try:
            return [Frame(bytes(member), b"", bytes(member)) for member in _members.decode(body)]
        except msgspec.DecodeError as error:
            raise Unreadable("no array") from error
    decoder = SseDecoder()
    try:
        return [*decoder.feed(body), *decoder.close()]
    except FrameTooLarge as error:
        raise Unreadable("a frame is too large") from error


def may_be_kept(events: list[Event]) -> bool:
    """Whether an answer is complete and only text: no truncation, failure, refusal, tool call or search."""
    if any(isinstance(event, _NEVER) for event in events):
        return False
    reasons = [event.reason for event in events if isinstance(event, Finish)]
    return bool(reasons) and all(reason in WHOLE for reason in reasons)


def written(wire: str, events: list[Event], facts: ReplyFacts, usage: Usage, *, stream: bool, array: bool) -> bytes:
    """The answer as a whole body, a stream or an array.

    `usage` is used if the events have none, since the caller of a stream may not have asked for it.
    """
    events = [event for event in events if not isinstance(event, End)]
    if not any(isinstance(event, UsageSeen) for event in events):
        events.append(UsageSeen(usage))
    dialect = DIALECTS[wire]
    if not stream:
        return dialect.write_reply([*events, End()], facts)
    writer = ArrayWriter(facts) if array else dialect.writer(facts)
    return b"".join([writer.feed(event) for event in events]) + writer.finish()


def id_of(events: list[Event]) -> str | None:
    """The id of the answer."""
    return next((event.id for event in events if isinstance(event, Start)), None)
