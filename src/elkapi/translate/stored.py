"""An answer that was kept in the form one caller got it, in the form another caller of its dialect wants it.

Whole, streamed and as an array are three spellings of the same events, so each is read into them and written anew.
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

# Only an answer that stopped for one of these is kept: the model said all it wanted to.
WHOLE: tuple[FinishReason | str, ...] = ("stop", "stop_sequence")
# An answer with any of these is not kept; docs/cache.md says why.
_NEVER = (Failure, RefusalDelta, ToolCallStart, ServerToolPart, Citation)
_members = msgspec.json.Decoder(list[msgspec.Raw])


def events_of(wire: str, body: bytes, *, stream: bool, array: bool) -> list[Event]:
    """The events of a kept answer. Raises Unreadable."""
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
    """Whether an answer is whole, untruncated and nothing but words: no failure, refusal, tool call or search."""
    if any(isinstance(event, _NEVER) for event in events):
        return False
    reasons = [event.reason for event in events if isinstance(event, Finish)]
    return bool(reasons) and all(reason in WHOLE for reason in reasons)


def written(wire: str, events: list[Event], facts: ReplyFacts, usage: Usage, *, stream: bool, array: bool) -> bytes:
    """The answer as a caller gets it who asked for it whole, as a stream or as an array.

    `usage` is told where the events themselves do not: the caller of a stream may not have asked for it.
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
    """The id that the answer went by."""
    return next((event.id for event in events if isinstance(event, Start)), None)
