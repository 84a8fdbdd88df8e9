"""Convert one streamed answer from the upstream's frames to the caller's bytes and meter it; no I/O.

`Relayed` passes frames through if both sides speak one dialect, `Translated` rewrites them; both have the same
interface for the relay. They keep only the last frame, the usage and a bounded tally of a stream; a writer whose
dialect repeats the whole answer at its end keeps that too, up to ANSWER_BYTES_MAX.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from functools import lru_cache

import msgspec

from elkapi.translate.chat_read_reply import ChatReader
from elkapi.translate.chat_write_reply import DONE
from elkapi.translate.completions import CompletionsReader
from elkapi.translate.dialect import Reader, Writer
from elkapi.translate.gemini_reply import ANSWERS_OF_GEMINI
from elkapi.translate.gemini_writer import error_object
from elkapi.translate.ir import (
    CONTENT,
    DECLINED,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    RefusalDelta,
    ServerToolPart,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
)
from elkapi.translate.repeated import Repeats, Shape
from elkapi.translate.responses_writer import ResponsesWriter
from elkapi.translate.server_tools import is_unpriced
from elkapi.translate.sse import Frame
from elkapi.types import Usage

TALLY_BYTES_MAX = 64 * 1024
# Some dialects repeat the whole answer at its end, so their writers keep it. No model writes this much; the limit keeps
# an upstream that never stops from filling the memory.
ANSWER_BYTES_MAX = 8 * 1024 * 1024
# Everything from the closing frame on, including images.
ENDING_BYTES_MAX = 32 * 1024 * 1024
ENDLESS = Failure(502, "upstream_error", "The model's answer did not come to an end.")
# The events of chunks without choices.
_BARE = (UsageSeen, Start)
_OF_PROMPT = b'"prompt_filter_results"'
# SSE events that do not name the answer's model, but may contain tool input or output, which must not be changed.
_OF_TOOLS = (b"content_block_", b"message_delta", b"response.output_item.")
_DONE = Frame(DONE, b"", b"[DONE]")
# Suffixes of Responses events that show content, even if `ir` has no event for it (a partial image, a tool's code).
_SHOWN = (b".delta", b".partial_image")
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,9})')


class Tally:
    """What the caller was sent, for counting tokens here: the text up to TALLY_BYTES_MAX, beyond that its length only.

    Reasoning is separate, since it has its own price. `unpriced`: the upstream ran a tool that has no price here.
    `finish_reason` is the upstream's for a whole answer.
    """

    __slots__ = ("beyond_bytes", "finish_reason", "kept_bytes", "text", "thinking", "unpriced")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.thinking: list[str] = []
        self.kept_bytes = 0
        self.beyond_bytes = 0
        self.unpriced = False
        self.finish_reason: FinishReason | str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to count."""
        return not (self.kept_bytes or self.beyond_bytes)

    def begin(self) -> None:
        """Note content that the caller can see, even if there is no text to count."""

    def add(self, event: Event) -> None:
        """Count one event's text."""
        if isinstance(event, TextDelta | RefusalDelta):
            self._keep(self.text, event.text)
        elif isinstance(event, ThinkingDelta):
            self._keep(self.thinking, event.text)
        elif isinstance(event, ToolCallDelta):
            self._keep(self.text, event.arguments)
        elif isinstance(event, ToolCallStart):
            self._keep(self.text, event.name)
        elif isinstance(event, ServerToolPart):
            self.unpriced |= is_unpriced(event.raw)
        elif isinstance(event, Finish):
            self.finish_reason = event.reason

    def say(self, text: str) -> None:
        """Count one event of text."""
        self._keep(self.text, text)

    def think(self, text: str) -> None:
        """Count one event of reasoning."""
        self._keep(self.thinking, text)

    def _keep(self, where: list[str], text: str) -> None:
        size = len(text)
        if self.kept_bytes + size <= TALLY_BYTES_MAX:
            where.append(text)
            self.kept_bytes += size
        else:
            self.beyond_bytes += len(text.encode())


class Metered(ABC):
    """The state that `Relayed` and `Translated` derive from a stream's events with `_learn`.

    `content`: something visible to the caller has arrived; `spoken`: something other than a refusal. `refused`: the
    model, or a filter, declined. `ended`: the terminal event was seen. `failure`: an error inside the stream.
    `stopped`: why the gateway made it fail. `usage`: the latest report of the upstream. `start`, `finish_reason`: how
    the upstream opened and closed the answer. `recorded`: what the caller was sent, if that is kept. The relay sets
    `asks` and `served`: the priced features that the upstream was asked for, and those that it reports.

    `repeats`: events that repeat need not be read, see `Dialect.repeats`.
    """

    def __init__(self, reader: Reader, writer: Writer, ends_by_close: bool, repeats: bool = False) -> None:
        self._reader = reader
        self._repeats = Repeats() if repeats else None
        self._shape: Shape | None = None
        self._writer = writer
        self.ends_by_close = ends_by_close
        self.content = False
        self.spoken = False
        self.refused = False
        self.ended = False
        self.finish_reason: FinishReason | str = ""
        self.failure: Failure | None = None
        self.stopped: Exception | None = None
        self.usage: Usage | None = None
        self.unsplit = False
        self.start: Start | None = None
        self.tally = Tally()
        self.recorded: list[bytes] | None = None
        self.asks: dict[str, str] = {}
        self.served: dict[str, str] = {}

    @property
    def whole(self) -> bool:
        """Whether the answer is complete if the body ends in order here."""
        return self.ended or (self.ends_by_close and bool(self.finish_reason))

    def left_out(self) -> tuple[Frame, ...]:
        """The missing terminal event of a stream whose body ended in order, if the answer is complete without it.

        Some OpenAI-compatible upstreams omit it after the finish reason, such as Azure after its content filter. Only
        this format does so, hence the check for its readers.
        """
        ended_as_if = self.finish_reason and not self.whole and isinstance(self._reader, ChatReader | CompletionsReader)
        return (_DONE,) if ended_as_if else ()

    @property
    def came(self) -> Tally:
        """The tally of what the upstream sent, whether or not the caller got it."""
        return self.tally

    @property
    def passed_as(self) -> dict[str, str]:
        """The priced features of the answer so far: those asked for, overridden by those reported.

        After the finish reason and the usage no further report can come, so only the reported ones count.
        """
        return self.served if self.finish_reason and self.usage is not None else self.asks | self.served

    def repeat(self, raw: bytes) -> bytes | None:
        """What the caller gets for a whole event that differs from those before only in its text; None for another."""
        shape = self._shape
        if shape is None or not (text := shape.text_of(raw)):
            return None
        if shape.kind is TextDelta:
            self.tally.say(text)
        else:
            self.tally.think(text)
        return self._repeated(shape, raw, text)

    @abstractmethod
    def _repeated(self, shape: Shape, raw: bytes, text: str) -> bytes:
        """What the caller gets for an event of this shape and text."""

    def _see(self, frame: Frame, events: list[Event]) -> None:
        """Note what the reader made of a frame."""
        if self._repeats is not None and frame.data is not None:
            self._shape = self._repeats.see(frame, events)

    def fail(self, failure: Failure) -> bytes:
        """An explicit error event in the caller's dialect."""
        return self._writer.fail(failure)

    def ping(self) -> bytes:
        """A keep-alive frame."""
        return self._writer.ping()

    def whole_answer(self, events: list[Event]) -> bytes:
        """The frames, without the closing ones, of an answer that arrived whole although a stream was requested."""
        return self._write(events)

    def _write(self, events: list[Event]) -> bytes:
        """The caller's bytes for events, up to the first failure."""
        pieces = []
        for event in events:
            self._learn(event)
            if self.failure is not None:
                break
            if not isinstance(event, End) and (piece := self._writer.feed(event)):
                pieces.append(piece)
        return b"".join(pieces)

    def _learn(self, event: Event) -> None:
        if isinstance(event, CONTENT):
            self.content = True
            if isinstance(event, RefusalDelta):
                self.refused = True
            else:
                self.spoken = True
            self.tally.add(event)
        elif isinstance(event, UsageSeen):
            self.usage, self.unsplit = event.usage, event.unsplit
        elif isinstance(event, UsageLost):
            self.usage, self.unsplit = None, False
        elif isinstance(event, Finish):
            self.finish_reason = event.reason
            self.refused |= event.reason in DECLINED
        elif isinstance(event, End):
            self.ended = True
        elif isinstance(event, Failure):
            self.failure = event
        elif isinstance(event, Start):
            self.start = event


class Relayed(Metered):
    """The caller and the upstream speak one dialect: frames pass unchanged.

    `strip_usage`: the caller did not ask for the usage chunk that the gateway requested, and expects no chunk without
    choices. `rename`: (field of the model's name, the client's name for the model) if the upstream's name differs.
    """

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        ends_by_close: bool,
        strip_usage: bool = False,
        rename: tuple[str, str] | None = None,
        repeats: bool = False,
    ) -> None:
        super().__init__(reader, writer, ends_by_close, repeats)
        self._strip_usage = strip_usage
        self._rename = (rename[0], msgspec.json.encode(rename[1])) if rename else None
        self._named = b""
        self._last: list[bytes] = []
        self._last_bytes = 0

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        if (sent := self.repeat(frame.raw)) is not None:
            return sent
        events = self._reader.feed(frame) if frame.data is not None and not self.ended else []
        for event in events:
            self._learn(event)
        self._see(frame, events)
        if self.failure is not None:
            return b""
        if not self.content and frame.event.endswith(_SHOWN):
            self.content = self.spoken = True
            self.tally.begin()
        raw = frame.raw
        if self._strip_usage and len(events) == 1 and isinstance(events[0], _BARE) and _has_no_choice(events[0], raw):
            return b""
        raw = self._as_named(frame)
        if self.whole:
            # The terminal event, and whatever follows it, is sent after the money is written.
            self._last.append(raw)
            self._last_bytes += len(raw)
            if self._last_bytes > ENDING_BYTES_MAX:
                self.failure = ENDLESS
            return b""
        return raw

    def _as_named(self, frame: Frame) -> bytes:
        if self._rename is None or frame.event.startswith(_OF_TOOLS):
            return frame.raw
        return with_model_named(frame.raw, *self._rename)[0]

    def _see(self, frame: Frame, events: list[Event]) -> None:
        known = self._shape
        super()._see(frame, events)
        if self._rename is not None and (shape := self._shape) is not None and shape is not known:
            rest, renamed = frame.raw[len(shape.before) :], self._as_named(frame)
            if renamed.endswith(rest):
                self._named = renamed.removesuffix(rest)
            else:
                # The name of the model is behind the text.
                self._shape = self._repeats = None

    def _repeated(self, shape: Shape, raw: bytes, text: str) -> bytes:
        return raw if self._rename is None else self._named + raw[len(shape.before) :]

    def _learn(self, event: Event) -> None:
        if isinstance(event, Failure) and event.kind in ANSWERS_OF_GEMINI:
            # In Gemini's own dialect this is an answer, and a billed one.
            event = Finish(ANSWERS_OF_GEMINI[event.kind])
        super()._learn(event)

    def finish(self) -> bytes:
        """The frames that were held back: everything from the terminal event on."""
        return b"".join(self._last)

    def whole_answer(self, events: list[Event]) -> bytes:
        """The frames of an answer that arrived whole although a stream was requested; closing ones are held back."""
        data = super().whole_answer(events)
        self._last = [self._writer.finish()]
        return data


def _has_no_choice(event: UsageSeen | Start, raw: bytes) -> bool:
    """Whether a chunk has only usage, or is Azure's first one with the filter results of the prompt."""
    return isinstance(event, UsageSeen) or (_OF_PROMPT in raw and b'"choices":[]' in raw)


class Array(Relayed):
    """Frames pass as elements of one JSON array: Gemini's stream for callers without `alt=sse`."""

    _opened = False

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        if frame.data is None:
            return b""
        return super().feed(Frame(self._opener() + frame.data, frame.event, frame.data))

    def finish(self) -> bytes:
        """The elements that were held back, and the end of the array."""
        return super().finish() + (b"]" if self._opened else b"[]")

    def fail(self, failure: Failure) -> bytes:
        """An explicit error as the array's last element."""
        return self._opener() + msgspec.json.encode(error_object(failure)) + b"]"

    def ping(self) -> bytes:
        """Whitespace, which a parser of the array ignores."""
        return b"\n"

    def _opener(self) -> bytes:
        opener, self._opened = (b",\r\n" if self._opened else b"["), True
        return opener


class Numbered(Relayed):
    """Frames pass unchanged and carry sequence numbers (OpenAI Responses): the gateway's errors take the next one."""

    _latest = b""

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        sent = super().feed(frame)
        if sent and frame.data is not None:
            self._latest = frame.data
        return sent

    def fail(self, failure: Failure) -> bytes:
        """An explicit error event in the caller's dialect."""
        if isinstance(self._writer, ResponsesWriter):
            if self.start is not None:
                # Some clients end only with `response.failed`, which needs the response; the upstream's was sent.
                self._writer.begin()
                self._writer.response["id"] = self.start.id
            found = _NUMBER.findall(self._latest)
            self._writer.sequence = int(found[-1]) + 1 if found else 0
        return super().fail(failure)


class Translated(Metered):
    """The caller and the upstream speak different dialects: frames are read into events and rewritten."""

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        if frame.data is None or self.ended:
            return b""
        if (sent := self.repeat(frame.raw)) is None:
            events = self._reader.feed(frame)
            sent = self._write(events)
            self._see(frame, events)
        if self.tally.beyond_bytes > ANSWER_BYTES_MAX:
            self.failure = ENDLESS
        return sent

    def _repeated(self, shape: Shape, raw: bytes, text: str) -> bytes:
        if self.tally.beyond_bytes:
            # Long answers are read event by event, since `feed` ends one that is endless.
            self._shape = self._repeats = None
        return self._writer.feed(shape.kind(text))

    def finish(self) -> bytes:
        """The closing frames with the finish reason and the usage."""
        return self._writer.finish()

    def finish_counted(self, usage: Usage) -> bytes:
        """The closing frames with the gateway's own count, if the upstream reported no credible one."""
        return self._writer.feed(UsageSeen(usage)) + self._writer.finish()


Crossing = Relayed | Array | Numbered | Translated


def with_model_named(raw: bytes, member: str, name: bytes) -> tuple[bytes, int]:
    """`raw` with `name` (encoded JSON) as the value of `member`, and the number of replacements (0 or 1).

    The first such field is replaced; for Gemini's `modelVersion` the last, since it follows the function arguments.
    """
    start = max(raw.rfind(b'"modelVersion"'), 0) if member == "modelVersion" else 0
    changed, count = _model_pattern(member).subn(lambda hit: hit.group(1) + name, raw[start:], count=1)
    return raw[:start] + changed, count


@lru_cache(maxsize=8)
def _model_pattern(member: str) -> re.Pattern[bytes]:
    """A pattern for a string field; its first group is everything before the value."""
    return re.compile(b'("' + member.encode() + rb'"\s*:\s*)"[^"\\]*"')
