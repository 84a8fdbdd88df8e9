"""The fields of a beta go with it where the upstream is not sent it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.translate.anthropic_betas import without_beta_fields

EDITS = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
TOOL = {"name": "find", "input_schema": {"type": "object"}}
BODY: dict[str, Any] = {"messages": [], "context_management": EDITS, "tools": [TOOL | {"defer_loading": True}, TOOL]}
CODE = "claude-code-20250219, context-management-2025-06-27,advanced-tool-use-2025-11-20"


def left(asked: str, sent: str = "", **members: Any) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.json.decode(without_beta_fields(msgspec.json.encode(BODY | members), asked, sent))
    return said


def test_what_tunes_a_call_goes_with_its_beta() -> None:
    examples = [TOOL | {"input_examples": [{}], "strict": True}]
    assert left(CODE) == {"messages": [], "tools": [TOOL, TOOL]}
    assert left(CODE, tools=examples) == {"messages": [], "tools": [TOOL | {"strict": True}]}


@pytest.mark.parametrize("asked", ["", "claude-code-20250219", "compacting", "context-1m-2025-08-07"])
def test_a_field_without_its_beta_is_the_callers_own_affair(asked: str) -> None:
    assert left(asked) == BODY


@pytest.mark.parametrize(
    ("sent", "members"),
    [
        ("context-management-2025-06-27,advanced-tool-use-2025-11-20", {}),
        ("tool-search-tool-2025-10-19 , compact-2026-01-12", {}),
        ("", {"anthropic_beta": ["context-management-2025-06-27", "tool-search-tool-2025-10-19"]}),
        ("advanced-tool-use-2025-11-20", {"anthropic_beta": ["context-management-2025-06-27"]}),
    ],
)
def test_what_the_upstream_is_sent_keeps_its_fields(sent: str, members: dict[str, Any]) -> None:
    assert left(CODE, sent, **members) == BODY | members


@pytest.mark.parametrize("named", ["x", 5, None, [1], {}])
@pytest.mark.parametrize("tools", [None, "x", [1, TOOL], {}, []])
def test_what_the_upstream_refuses_anyway_passes(named: Any, tools: Any) -> None:
    members = {"anthropic_beta": named, "tools": tools}
    assert left(CODE, **members) == {"messages": []} | members


@pytest.mark.parametrize("body", [b'{"a": 1.50 , "messages":[]}', b'{"messages":["\\"context_management\\""]}'])
def test_a_body_without_such_fields_keeps_its_bytes(body: bytes) -> None:
    assert without_beta_fields(body, CODE) == body


def test_every_other_value_keeps_its_bytes() -> None:
    body = b'{"top_p": 1.50, "context_management": {}, "messages":[{"role":"user" ,"content":"\\u00e9"}]}'
    assert without_beta_fields(body, CODE) == b'{"top_p":1.50,"messages":[{"role":"user" ,"content":"\\u00e9"}]}'
