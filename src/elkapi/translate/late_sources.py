"""A writer that moves Gemini's sources before the calls that follow their text.

With a search and functions, Gemini sends the sources of a text at the end of its answer, after the calls, when the
caller's stream has already closed the text. So calls after a text are held until the next text or the end, or until
there are too many.
"""

from __future__ import annotations

from elkapi.translate.dialect import Writer
from elkapi.translate.ir import (
    ChatRequest,
    Citation,
    Event,
    Failure,
    Finish,
    TextDelta,
    ThinkingSignature,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
)

WAITING_EVENTS_MAX = 1_000


def may_come_late(request: ChatRequest, upstream_wire: str) -> bool:
    """Whether sources may follow the calls of an answer to this request."""
    return upstream_wire == "gemini" and any(tool.kind == "web_search" for tool in request.server_tools)


class SourcesFirst:
    """Holds calls and signatures, in order, while the text before them may still get sources."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._after_text = False
        self._waiting: list[Event] = []

    def feed(self, event: Event) -> bytes:
        if isinstance(event, Citation | UsageSeen | Finish):
            return self._writer.feed(event)
        if self._after_text and isinstance(event, ToolCallStart | ToolCallDelta | ThinkingSignature):
            self._waiting.append(event)
            if len(self._waiting) < WAITING_EVENTS_MAX:
                return b""
            self._after_text = False
            return self._released()
        released = self._released()
        self._after_text = isinstance(event, TextDelta)
        return released + self._writer.feed(event)

    def finish(self) -> bytes:
        return self._released() + self._writer.finish()

    def fail(self, failure: Failure) -> bytes:
        return self._released() + self._writer.fail(failure)

    def ping(self) -> bytes:
        return self._writer.ping()

    def _released(self) -> bytes:
        waiting, self._waiting = self._waiting, []
        return b"".join([self._writer.feed(event) for event in waiting])
