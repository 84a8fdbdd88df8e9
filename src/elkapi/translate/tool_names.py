"""Shorten tool names that another dialect's upstreams refuse, and restore them in answers.

Claude Code and others name the tools of MCP servers after server and tool, in up to 128 characters. OpenAI's format and
Bedrock accept 64, and the characters allowed beside letters, digits, `_` and `-` differ too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import msgspec

from elkapi.translate.dialect import Writer
from elkapi.translate.ir import ChatRequest, Event, Failure, Message, Part, ToolCall, ToolCallStart, ToolResult

_SHORT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAKEN = {
    "anthropic": re.compile(r"[A-Za-z0-9_-]{1,128}"),
    "gemini": re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}"),
}
_KEPT_CHARS = 48
_DIGEST_CHARS = 12


class ToolNames:
    """Maps the tool names of one request to those for an upstream of `wire`; most requests need no change."""

    def __init__(self, request: ChatRequest, wire: str) -> None:
        taken = _TAKEN.get(wire, _SHORT)
        self._sent = {name: _sent(name) for name in set(_names(request)) if name and not taken.fullmatch(name)}
        self._written = {sent: name for name, sent in self._sent.items()}

    def of(self, request: ChatRequest) -> ChatRequest:
        """The request with the upstream's names."""
        if not self._sent:
            return request
        sent, choice = self._sent, request.tool_choice
        if choice is not None:
            choice = msgspec.structs.replace(choice, names=tuple(sent.get(name, name) for name in choice.names))
        return msgspec.structs.replace(
            request,
            tools=tuple(msgspec.structs.replace(tool, name=sent.get(tool.name, tool.name)) for tool in request.tools),
            tool_choice=choice,
            messages=[Message(turn.role, tuple(self._part(part) for part in turn.parts)) for turn in request.messages],
        )

    def _part(self, part: Part) -> Part:
        if isinstance(part, ToolCall | ToolResult) and part.name in self._sent:
            return msgspec.structs.replace(part, name=self._sent[part.name])
        return part

    def told(self, events: list[Event]) -> list[Event]:
        """The events of an answer with the caller's names."""
        return [self.told_one(event) for event in events] if self._written else events

    def told_one(self, event: Event) -> Event:
        """One event with the caller's name."""
        if isinstance(event, ToolCallStart) and event.name in self._written:
            return msgspec.structs.replace(event, name=self._written[event.name])
        return event

    def through(self, writer: Writer) -> Writer:
        """A writer that restores the caller's names before `writer`."""
        return _Told(writer, self) if self._written else writer


class _Told:
    def __init__(self, writer: Writer, names: ToolNames) -> None:
        self._writer = writer
        self._names = names
        self.finish, self.ping = writer.finish, writer.ping

    def feed(self, event: Event) -> bytes:
        return self._writer.feed(self._names.told_one(event))

    def fail(self, failure: Failure) -> bytes:
        return self._writer.fail(failure)


def _names(request: ChatRequest) -> Iterable[str]:
    for tool in request.tools:
        yield tool.name
    for turn in request.messages:
        for part in turn.parts:
            if isinstance(part, ToolCall | ToolResult):
                yield part.name


def _sent(name: str) -> str:
    """The beginning of the name and its digest, deterministic so that prefix caches still match."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    kept = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_KEPT_CHARS]
    return f"{'' if kept[:1].isalpha() else '_'}{kept}_{digest}"
