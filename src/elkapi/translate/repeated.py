"""Recognise the text events of a stream by the bytes around their text, without parsing them; no I/O.

Nearly all events of a streamed answer differ from the one before in their text alone. Once such an event was read, and
reading it with another text was seen to change nothing else, its bytes before and after the text are enough. An event
whose text needs more than copying (an escape, a control character, bytes that are not UTF-8) is left to the reader.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.ir import Event, TextDelta, ThinkingDelta
from elkapi.translate.sse import Frame, frame_of

# The member that OpenAI fills with random letters, so that the length of an event does not tell that of its text.
FILLER = "obfuscation"
# A stream whose events take turns, such as one of several choices, is not learned again and again.
SHAPES_MAX = 8
# So many events of one kind in a row are worth learning their shape.
ALIKE_MIN = 3
SHAPE_BYTES_MAX = 4096
_PROBE, _FILLER_PROBE = "another text", "another"


class Shape(msgspec.Struct, frozen=True, gc=False):
    """The fixed bytes of events that differ in their text: `before` it, `after` it, and `rest` behind the filler if
    they have one. `kind`: what the reader makes of one."""

    before: bytes
    after: bytes
    rest: bytes
    kind: type[TextDelta | ThinkingDelta]

    def text_of(self, raw: bytes) -> str:
        """The text of a whole event of this shape, "" for any other."""
        if not raw.startswith(self.before):
            return ""
        start = len(self.before)
        end = raw.find(b'"', start)
        if not raw.startswith(self.after, end):
            return ""
        filler = end + len(self.after)
        if self.rest:
            if not raw.endswith(self.rest) or not raw[filler : -len(self.rest)].isalnum():
                return ""
        elif filler != len(raw):
            return ""
        try:
            text = raw[start:end].decode()
        except UnicodeDecodeError:
            return ""
        return text if text.isprintable() and "\\" not in text else ""

    def may_be(self, raw: bytes) -> bool:
        """Whether an event that the reader had to read may be one of these with an unusual text."""
        return raw.startswith(self.before) and raw.endswith(self.rest or self.after)


class Repeats:
    """Learns the shape of a stream's repeated events, and forgets it where anything else comes between them.

    What else comes may change how the reader reads the next one, for example a tool call or the finish reason.
    """

    __slots__ = ("_alike", "_left", "_shape")

    def __init__(self) -> None:
        self._shape: Shape | None = None
        self._left = SHAPES_MAX
        self._alike = 0

    def see(self, frame: Frame, events: list[Event]) -> Shape | None:
        """The shape that counts after a frame of which the reader made these events."""
        event = events[0] if len(events) == 1 else None
        if self._shape is not None:
            if type(event) is self._shape.kind and self._shape.may_be(frame.raw):
                return self._shape
            self._shape = None
        self._alike = self._alike + 1 if isinstance(event, TextDelta | ThinkingDelta) else 0
        if event is not None and self._left and self._alike >= ALIKE_MIN and len(frame.raw) <= SHAPE_BYTES_MAX:
            self._alike = 0
            self._left -= 1
            self._shape = shape_of(frame, event)
        return self._shape


def shape_of(frame: Frame, event: Event) -> Shape | None:
    """The shape of a frame whose only event is `event`; None if it cannot be told.

    Only for readers whose event depends on nothing of a frame but that text, and to which its filler means nothing.
    """
    if not isinstance(event, TextDelta | ThinkingDelta) or frame.data is None:
        return None
    if isinstance(event, TextDelta) and event.logprobs:
        return None
    try:
        value = msgspec.json.decode(frame.data)
        expected = _with_probe(value, event.text)
    except NOT_JSON:
        return None
    parted = _parted(frame.raw, event.text)
    if parted is None:
        return None
    before, after, rest = *parted, b""
    filler = value.get(FILLER) if isinstance(value, dict) else None
    if filler is not None:
        behind = _parted(after, filler) if isinstance(filler, str) and filler.isalnum() else None
        if behind is None:
            return None
        after, rest = behind
    told = before + _PROBE.encode() + after
    if filler is not None:
        expected[FILLER] = _FILLER_PROBE
        told += _FILLER_PROBE.encode() + rest
    shape = Shape(before, after, rest, type(event))
    return shape if expected != value and _is(frame_of(told).data, expected) else None


def _parted(raw: bytes, text: str) -> tuple[bytes, bytes] | None:
    """The bytes around the only JSON string `text`; None if there is none, or several."""
    quoted = b'"' + text.encode() + b'"'
    before, found, after = raw.partition(quoted)
    return (before + b'"', b'"' + after) if found and quoted not in after else None


def _is(data: bytes | None, expected: Any) -> bool:
    try:
        return data is not None and bool(msgspec.json.decode(data) == expected)
    except NOT_JSON:
        return False


def _with_probe(value: Any, text: str) -> Any:
    """`value` with the probe in every place of `text`."""
    if isinstance(value, dict):
        return {name: _with_probe(member, text) for name, member in value.items()}
    if isinstance(value, list):
        return [_with_probe(element, text) for element in value]
    return _PROBE if value == text else value
