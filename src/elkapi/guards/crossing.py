"""A stream through guards: all text passes a window, tool calls are checked as a whole.

It reads and writes like `translate.crossing.Translated`, even if both sides use the same dialect: text that was held
back cannot be passed on unchanged. Log probabilities are omitted, since they contain the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from elkapi.guards.found import Blocked
from elkapi.guards.rules import Rule, checked
from elkapi.guards.shapes import inside, leaves
from elkapi.guards.window import Window
from elkapi.translate.crossing import Tally, Translated
from elkapi.translate.dialect import Reader, Unreadable, Writer
from elkapi.translate.ir import (
    CONTENT,
    Citation,
    End,
    Event,
    Failure,
    Finish,
    RefusalDelta,
    ServerToolPart,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    ToolCallDelta,
    ToolCallStart,
)
from elkapi.types import Usage

ARGUMENTS_CHARS_MAX = 1024 * 1024
_Kind = type[TextDelta] | type[RefusalDelta] | type[ThinkingDelta]


class Guarded(Translated):
    """Events -> the events that may be sent, up to the one that a guard blocks, which sets `failure` and `stopped`.

    `tally` counts what was sent to the caller, `came` everything from the upstream.
    """

    def __init__(self, reader: Reader, writer: Writer, ends_by_close: bool, rules: Sequence[Rule]) -> None:
        super().__init__(reader, writer, ends_by_close)
        self._rules = rules
        self._windows: dict[_Kind, Window] = {kind: Window(rules) for kind in (ThinkingDelta, TextDelta, RefusalDelta)}
        self._speaking: _Kind | None = None
        self._calls: dict[int, tuple[ToolCallStart, list[str]]] = {}
        self._arguments_chars = 0
        # Sources wait for the text before them: how much had arrived with each.
        self._text_chars = 0
        self._sources: list[tuple[int, Citation]] = []
        self._came = Tally()

    @property
    def came(self) -> Tally:
        """Includes what was held back, for the operator's loss."""
        return self._came

    def finish(self) -> bytes:
        """The closing frames, after everything that was held back."""
        return self._let_go(self._rest()) + super().finish()

    def finish_counted(self, usage: Usage) -> bytes:
        """Like `finish`, with a local count."""
        return self._let_go(self._rest()) + super().finish_counted(usage)

    def _write(self, events: list[Event]) -> bytes:
        pieces = []
        for event in events:
            if self.failure is None:
                self._learn(event)
            if self.failure is not None:
                break
            try:
                pieces.append(self._let_go(self._rest() if isinstance(event, End) else self._may_go(event)))
            except Blocked as blocked:
                # What was written before is still sent, so that the error follows it.
                self.stopped, self.failure = blocked, Failure(400, "content_blocked", blocked.guard)
                break
        return b"".join(pieces)

    def _learn(self, event: Event) -> None:
        sent, self.tally = self.tally, self._came
        super()._learn(event)
        self.tally = sent

    def _let_go(self, events: list[Event]) -> bytes:
        for event in events:
            if isinstance(event, CONTENT):
                self.tally.add(event)
        return b"".join([self._writer.feed(event) for event in events])

    def _may_go(self, event: Event) -> list[Event]:
        if isinstance(event, TextDelta | RefusalDelta | ThinkingDelta):
            return self._text(event)
        if isinstance(event, ThinkingSignature):
            return [*self._flushed(ThinkingDelta), event]
        if isinstance(event, ToolCallStart):
            self._calls[event.index] = (event, [])
            return []
        if isinstance(event, ToolCallDelta):
            self._arguments_chars += len(event.arguments)
            if self._arguments_chars > ARGUMENTS_CHARS_MAX:
                raise Unreadable("the arguments of the tool calls are too long to check")
            if event.index in self._calls:
                self._calls[event.index][1].append(event.arguments)
            return []
        if isinstance(event, ServerToolPart):
            event = msgspec.structs.replace(event, raw=leaves(event.raw, self._checked))
        if isinstance(event, CONTENT):
            # Text before it ends here; it would otherwise be sent after it.
            return [*self._flushed(self._speaking), event]
        if isinstance(event, Citation):
            # A mask may be longer or shorter than the text, so positions are invalid.
            words = {name: self._checked(getattr(event, name)) for name in ("title", "quoted", "passage")}
            self._sources.append((self._text_chars, msgspec.structs.replace(event, **words, span=None)))
            return self._sourced()
        return [*self._rest(), event] if isinstance(event, Finish) else [event]

    def _text(self, event: TextDelta | RefusalDelta | ThinkingDelta) -> list[Event]:
        kind = type(event)
        if kind is TextDelta:
            self._text_chars += len(event.text)
        # One kind of text ends where another begins; its window stays, in case it continues.
        before = self._flushed(self._speaking) if self._speaking not in (None, kind) else []
        self._speaking = kind
        released = self._windows[kind].feed(event.text)
        if self.finish_reason:
            released += self._windows[kind].flush()
        return [*before, kind(released), *self._sourced()] if released else before

    def _flushed(self, kind: _Kind | None) -> list[Event]:
        released = self._windows[kind].flush() if kind is not None else ""
        return [kind(released), *self._sourced()] if kind is not None and released else []

    def _sourced(self) -> list[Event]:
        """The sources of text that was sent."""
        gone = self._text_chars - self._windows[TextDelta].held_chars
        due = sum(after <= gone for after, _ in self._sources)
        sources, self._sources = self._sources[:due], self._sources[due:]
        return [source for _, source in sources]

    def _rest(self) -> list[Event]:
        rest: list[Event] = []
        for kind in self._windows:
            rest += self._flushed(kind)
        for index in sorted(self._calls):
            start, pieces = self._calls[index]
            text = "".join(pieces)
            arguments = self._checked(text) if start.custom else inside(text, self._checked)
            rest += (start, ToolCallDelta(index, arguments)) if arguments else (start,)
        self._calls = {}
        return rest

    def _checked(self, text: str) -> str:
        return checked(self._rules, text)
