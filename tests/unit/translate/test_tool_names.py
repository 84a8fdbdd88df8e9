"""Names of tools that an upstream refuses: shortened on the way there, the caller's own on the way back."""

from __future__ import annotations

import pytest

from elkapi.translate import ir
from elkapi.translate.tool_names import ToolNames

LONG = "mcp__plugin_chrome-devtools-mcp_chrome-devtools__get_console_message"


def _request(*names: str) -> ir.ChatRequest:
    turns = [
        ir.Message("user", (ir.Text("hi"),)),
        ir.Message("assistant", tuple(ir.ToolCall(str(place), name, "{}") for place, name in enumerate(names))),
        ir.Message("user", tuple(ir.ToolResult(str(place), (), name) for place, name in enumerate((*names, "")))),
    ]
    choice = ir.ToolChoice("required", names)
    return ir.ChatRequest(
        dialect="anthropic", model="m", messages=turns, tools=tuple(map(ir.Tool, names)), tool_choice=choice
    )


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("plain", ()),
        ("x" * 64, ()),
        ("x" * 65, ("chat", "responses", "converse")),
        (LONG, ("chat", "responses", "converse")),
        ("x" * 129, ("chat", "responses", "converse", "anthropic", "gemini")),
        ("files.read:all", ("chat", "responses", "converse", "anthropic")),
        ("3d", ("gemini",)),
        ("größe", ("chat", "responses", "converse", "anthropic", "gemini")),
    ],
)
def test_a_name_is_changed_where_it_is_refused(name: str, refused: tuple[str, ...]) -> None:
    request = _request("f", name)
    for wire in ("chat", "responses", "converse", "anthropic", "gemini"):
        names = ToolNames(request, wire)
        sent = names.of(request)
        known, changed = [tool.name for tool in sent.tools]
        assert (known, changed != name) == ("f", wire in refused), wire
        assert changed == name or (len(changed) <= 64 and ToolNames(_request(changed), wire).of(sent) is sent)
        assert sent.tool_choice == ir.ToolChoice("required", ("f", changed))
        assert [part.name for part in sent.messages[1].parts if isinstance(part, ir.ToolCall)] == ["f", changed]
        assert [part.name for part in sent.messages[2].parts if isinstance(part, ir.ToolResult)] == ["f", changed, ""]
        called: list[ir.Event] = [
            ir.ToolCallStart(0, "c", changed),
            ir.ToolCallDelta(0, "{}"),
            ir.ToolCallStart(1, "d", "f"),
        ]
        assert [event.name for event in names.told(called) if isinstance(event, ir.ToolCallStart)] == [name, "f"]


def test_names_that_begin_alike_stay_apart() -> None:
    request = _request(f"{LONG}_a", f"{LONG}_b")
    assert len({tool.name for tool in ToolNames(request, "chat").of(request).tools}) == 2


def test_a_request_with_names_that_are_taken_is_the_same() -> None:
    request = _request("f")
    names = ToolNames(request, "chat")
    assert names.of(request) is request
    events: list[ir.Event] = [ir.ToolCallStart(0, "c", "f")]
    assert names.told(events) is events
