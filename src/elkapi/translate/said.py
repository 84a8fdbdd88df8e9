"""Summarize the parts of an answer from its events, for telemetry and stored answers."""

from __future__ import annotations

from collections.abc import Sequence

from elkapi.translate.ir import Event, RefusalDelta, TextDelta, ThinkingDelta, ToolCallDelta, ToolCallStart

_KINDS: dict[type, str] = {TextDelta: "text", ThinkingDelta: "reasoning", RefusalDelta: "refusal"}


def said_in(events: Sequence[Event]) -> tuple[tuple[str, str, str], ...]:
    """The parts of an answer as (kind, text, name): text, reasoning, refusal, and tool calls with their arguments."""
    parts: list[tuple[str, str, list[str]]] = []
    calls: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ToolCallStart):
            calls[event.index] = []
            parts.append(("tool_call", event.name, calls[event.index]))
        elif isinstance(event, ToolCallDelta):
            calls.setdefault(event.index, []).append(event.arguments)
        elif isinstance(event, TextDelta | ThinkingDelta | RefusalDelta):
            kind = _KINDS[type(event)]
            if not parts or parts[-1][0] != kind:
                parts.append((kind, "", []))
            parts[-1][2].append(event.text)
    return tuple((kind, "".join(pieces), name) for kind, name, pieces in parts)
