"""A channel's instructions stand first in every wire, and what the caller wrote stays as it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.translate.prompt import with_instructions

TURN = {"role": "user", "content": "hi"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("chat", {"messages": [TURN]}, {"messages": [{"role": "system", "content": "P"}, TURN]}),
    ("responses", {"input": "hi"}, {"input": "hi", "instructions": "P"}),
    ("responses", {"instructions": "own"}, {"instructions": "P\n\nown"}),
    ("responses", {"instructions": None}, {"instructions": "P"}),
    ("anthropic", {"messages": [TURN]}, {"messages": [TURN], "system": "P"}),
    ("anthropic", {"system": "own"}, {"system": "P\n\nown"}),
    (
        "anthropic",
        {"system": [{"type": "text", "text": "own", "cache_control": {"type": "ephemeral"}}]},
        {
            "system": [
                {"type": "text", "text": "P"},
                {"type": "text", "text": "own", "cache_control": {"type": "ephemeral"}},
            ]
        },
    ),
    (
        "anthropic",
        {"system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1;"}, {"type": "text"}]},
        {
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1;"},
                {"type": "text", "text": "P"},
                {"type": "text"},
            ]
        },
    ),
    ("anthropic", {"system": []}, {"system": [{"type": "text", "text": "P"}]}),
    ("gemini", {"contents": []}, {"contents": [], "systemInstruction": {"parts": [{"text": "P"}]}}),
    (
        "gemini",
        {"system_instruction": {"parts": [{"text": "own"}]}},
        {"system_instruction": {"parts": [{"text": "P"}, {"text": "own"}]}},
    ),
    (
        "gemini",
        {"systemInstruction": {"role": "user", "parts": {"text": "own"}}},
        {"systemInstruction": {"role": "user", "parts": [{"text": "P"}, {"text": "own"}]}},
    ),
    ("converse", {"system": [{"text": "own"}]}, {"system": [{"text": "P"}, {"text": "own"}]}),
    ("converse", {}, {"system": [{"text": "P"}]}),
    ("embeddings", {"input": "hi"}, {"input": "hi"}),
]


# Claude Code's billing line stays first, or Anthropic would take it for a part of the prompt (Claude Code's "Gateway
# protocol reference").
@pytest.mark.parametrize(("wire", "body", "sent"), CASES)
def test_instructions_stand_before_the_callers_own(wire: str, body: dict[str, Any], sent: dict[str, Any]) -> None:
    assert msgspec.json.decode(with_instructions(msgspec.json.encode(body), wire, "P")) == sent


def test_every_other_value_keeps_its_bytes() -> None:
    body = b'{"temperature": 1.50, "messages":[{"role":"user" ,"content":"\\u00e9"}], "big":123456789012345678901}'
    sent = with_instructions(body, "chat", "P")
    for kept in (b"1.50", b'{"role":"user" ,"content":"\\u00e9"}', b"123456789012345678901"):
        assert kept in sent
