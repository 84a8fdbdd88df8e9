"""A tool that the provider runs brings input of its own, which the hold of the call must cover."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types.beta import BetaToolUnionParam
from openai.types.chat import ChatCompletionToolUnionParam
from openai.types.responses.tool_param import ToolParam

from elkapi.catalog import bounds
from elkapi.catalog.bounds import PICTURES_MADE_TOKENS_MAX, SEARCHES_MAX, SERVED_TOOLS_TOKENS_MAX, bounded_by_model
from elkapi.catalog.operation import Facts
from elkapi.catalog.text import read_chat, read_generate, read_messages, read_responses
from elkapi.translate.server_tools import CHAT, GEMINI, HOSTED, KINDS, OTHERS, RESPONSES

Reader = Callable[[bytes], Facts]
MESSAGES = [{"role": "user", "content": "x"}]


def _snake(name: str) -> str:
    return re.sub("(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("kind", sorted({*CHAT, *KINDS, *OTHERS}))
def test_a_chat_holds_for_what_a_served_tool_brings(kind: str) -> None:
    _covers(read_chat, {"model": "m", "messages": MESSAGES}, {"type": kind}, {"type": "function"})


@pytest.mark.parametrize("kind", sorted({*RESPONSES, *KINDS, *OTHERS}))
def test_a_response_holds_for_what_a_served_tool_brings(kind: str) -> None:
    _covers(read_responses, {"model": "m", "input": "x"}, {"type": kind}, {"type": "function"})


@pytest.mark.parametrize("where", HOSTED)
def test_a_response_holds_for_what_a_shell_of_the_providers_brings(where: str) -> None:
    """Not for one that the caller runs, whose output the caller sends."""
    asked = {"model": "m", "input": "x"}
    own = {"type": "shell", "environment": {"type": "local"}}
    _covers(read_responses, asked, {"type": "shell", "environment": {"type": where}}, own)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_message_holds_for_what_a_served_tool_brings(kind: str) -> None:
    asked = {"model": "m", "max_tokens": 9, "messages": MESSAGES}
    _covers(read_messages, asked, {"type": f"{kind}_20250305"}, {"type": "custom"})


@pytest.mark.parametrize("name", sorted({*GEMINI, *map(_snake, GEMINI)}))
def test_a_gemini_call_holds_for_what_a_served_tool_brings(name: str) -> None:
    _covers(read_generate, {"contents": [{"parts": [{"text": "x"}]}]}, {name: {}}, {"functionDeclarations": []})


@pytest.mark.parametrize(
    ("member", "none"),
    [
        ({"web_search_options": {}}, {"web_search_options": None}),
        ({"plugins": [{"id": "web", "max_results": 5}]}, {"plugins": []}),
        ({"search_parameters": {"mode": "on"}}, {"search_parameters": None}),
        ({"enable_search": True}, {"enable_search": False}),
        ({"enable_code_interpreter": True}, {"enable_code_interpreter": False}),
    ],
)
def test_a_chat_holds_for_what_is_served_without_a_tool(member: dict[str, Any], none: dict[str, Any]) -> None:
    """OpenAI's, OpenRouter's, xAI's and Qwen's way to ask for a search, and Qwen's to have code run."""
    asked = {"model": "m", "messages": MESSAGES}
    found = read_chat(json.dumps(asked | member).encode())
    assert (found.upper.searches, found.open_ended) == (SEARCHES_MAX, True)
    assert found.upper.input_tokens >= SERVED_TOOLS_TOKENS_MAX
    assert read_chat(json.dumps(asked | none).encode()).upper.searches == 0


def _item(tool: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"model": "m", "input": [{"type": kind, "role": "developer", "tools": [tool]}]}


def _block(tool: dict[str, Any], compacted: bool) -> dict[str, Any]:
    change = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}
    turn = {"role": "system", "content": [change]}
    if compacted:
        turn = {"role": "assistant", "content": [{"type": "compaction", "content": "x", "tool_changes": [change]}]}
    return {"model": "m", "max_tokens": 9, "messages": [*MESSAGES, turn]}


DECLARED_WITHIN = [
    pytest.param(read_responses, lambda tool: _item(tool, "additional_tools"), "web_search", id="additional_tools"),
    pytest.param(read_responses, lambda tool: _item(tool, "tool_search_output"), "mcp", id="tool_search_output"),
    pytest.param(read_messages, lambda tool: _block(tool, False), "web_search_20250305", id="tool_addition"),
    pytest.param(read_messages, lambda tool: _block(tool, True), "mcp_toolset", id="compaction"),
]


@pytest.mark.parametrize(("read", "asked", "kind"), DECLARED_WITHIN)
def test_a_call_holds_for_a_tool_that_its_conversation_declares(read: Any, asked: Any, kind: str) -> None:
    """OpenAI's newer clients declare theirs so, and Anthropic's tool runners those that come later."""
    found = read(json.dumps(asked({"type": kind, "name": "x"})).encode())
    assert (found.upper.searches, found.open_ended) == (SEARCHES_MAX, True)
    assert found.upper.input_tokens >= SERVED_TOOLS_TOKENS_MAX
    spelled = json.dumps(asked({"type": kind, "name": "x"})).replace('"tool_', '"\\u0074ool_')
    assert read(spelled.replace("add", "\\u0061dd").encode()).upper.searches == SEARCHES_MAX
    own = read(json.dumps(asked({"type": "function", "name": kind})).encode())
    assert (own.upper.searches, own.open_ended) == (0, False)


def test_a_model_behind_a_tool_that_a_conversation_declares_is_one_that_the_call_may_ask() -> None:
    assert read_messages(json.dumps(_block({"type": "advisor_20260301", "name": "x"}, False)).encode()).other_models
    pictures = read_responses(json.dumps(_item({"type": "image_generation"}, "additional_tools")).encode())
    assert pictures.upper.output_tokens >= PICTURES_MADE_TOKENS_MAX


def test_a_conversation_that_tells_of_tools_or_of_their_work_declares_none() -> None:
    told = json.dumps(_item({"type": "web_search"}, "additional_tools"))
    searched = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    asked: dict[str, Any] = {"model": "m", "input": [{"role": "user", "content": told}, searched]}
    assert read_responses(json.dumps(asked).encode()).upper.searches == 0
    asked["input"].append(_item({"type": "function", "name": "f"}, "additional_tools")["input"][0])
    assert read_responses(json.dumps(asked).encode()).upper.searches == 0


def _covers(read: Reader, asked: dict[str, Any], served: dict[str, Any], own: dict[str, Any]) -> None:
    """The served tool is bounded; one of the caller's own, which has such a name, is not."""

    def beyond(tool: dict[str, Any]) -> int:
        body = json.dumps({**asked, "tools": [tool]}).encode()
        return read(body).upper.input_tokens - len(body)

    assert beyond(served) >= SERVED_TOOLS_TOKENS_MAX
    assert beyond({**own, "name": next(iter(served.values())) or next(iter(served))}) < SERVED_TOOLS_TOKENS_MAX


ANTHROPICS_OWN = [
    {"type": "computer_20250124", "name": "computer", "display_width_px": 1024, "display_height_px": 768},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
]


@pytest.mark.parametrize(
    ("tools", "beyond"),
    [
        # What Claude is told of any tools takes up to 530 tokens, and of Anthropic's own 735, 245 and 700 more.
        ([{"name": "f", "input_schema": {"type": "object"}}], 530),
        (ANTHROPICS_OWN, 530 + 735 + 245 + 700),
    ],
)
def test_a_call_holds_for_what_its_model_is_told_of_tools(tools: list[dict[str, Any]], beyond: int) -> None:
    """A short call with a tool was held for its bytes, which are fewer than that."""
    asked = {"model": "m", "max_tokens": 9, "messages": MESSAGES}
    plain = read_messages(json.dumps(asked).encode()).upper.input_tokens
    none: list[Any] | None
    for none in ([], None):
        assert read_messages(json.dumps({**asked, "tools": none}).encode()).upper.input_tokens < plain + 20
    body = json.dumps({**asked, "tools": tools}).encode()
    assert beyond <= read_messages(body).upper.input_tokens - len(body) < 2 * beyond + 2_000


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        ([{"type": "web_search_20250305", "name": "web_search"}], SEARCHES_MAX),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}], SEARCHES_MAX),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 25}], 25),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 10**30}], 1000),
        ([{"type": "custom", "name": "web_search", "input_schema": {}}], 0),
    ],
)
def test_a_call_holds_for_the_searches_that_its_tools_may_run(tools: list[dict[str, Any]], searches: int) -> None:
    asked = {"model": "m", "max_tokens": 9, "messages": MESSAGES, "tools": tools}
    facts = read_messages(json.dumps(asked).encode())
    assert (facts.upper.searches, bounded_by_model(facts, "m").upper.searches) == (searches, searches)


@pytest.mark.parametrize(("allowed", "searches"), [(None, 10), (1, 10), (25, 25), (10**30, 1000)])
def test_a_response_holds_for_the_searches_that_it_allows_itself(allowed: int | None, searches: int) -> None:
    """Anthropic is told of them as the uses of its tool."""
    asked = {"model": "m", "input": "x", "tools": [{"type": "web_search"}], "max_tool_calls": allowed}
    facts = read_responses(json.dumps(asked).encode())
    assert facts.upper.searches == searches
    own = asked | {"tools": [{"type": "function", "name": "web_search"}]}
    assert read_responses(json.dumps(own).encode()).upper.searches == 0


def test_a_bound_by_the_models_name_keeps_the_searches() -> None:
    facts = read_chat(json.dumps({"model": "m", "messages": MESSAGES, "web_search_options": {}}).encode())
    assert bounded_by_model(facts, "gpt-4o").upper.searches == SEARCHES_MAX


NEW = {"type": "orbital_lookup", "name": "x"}
ASKED: list[tuple[Reader, dict[str, Any]]] = [
    (read_chat, {"model": "m", "messages": MESSAGES}),
    (read_responses, {"model": "m", "input": "x"}),
    (read_messages, {"model": "m", "max_tokens": 9, "messages": MESSAGES}),
]


@pytest.mark.parametrize(("read", "asked"), ASKED, ids=["chat", "responses", "messages"])
def test_a_tool_of_a_type_that_nobody_here_knows_is_held_as_one_that_the_provider_runs(read: Any, asked: Any) -> None:
    _covers(read, asked, NEW, {"type": "function", "parameters": {"type": "object", "x-kind": {"type": "orbital"}}})


@pytest.mark.parametrize(("read", "asked", "kind"), DECLARED_WITHIN)
def test_a_conversation_that_declares_such_a_tool_is_held_for_it_too(read: Any, asked: Any, kind: str) -> None:
    assert read(json.dumps(asked(NEW)).encode()).upper.searches == SEARCHES_MAX


def test_a_new_tool_within_a_namespace_is_held_and_functions_there_are_not() -> None:
    space = {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}
    asked = {"model": "m", "input": "x", "tools": [space, NEW | {"type": "custom"}]}
    assert read_responses(json.dumps(asked).encode()).upper.searches == 0
    space["tools"] = [NEW]
    assert read_responses(json.dumps(asked).encode()).upper.searches == SEARCHES_MAX


# What the official SDKs name that a caller runs itself, or that is bounded otherwise.
OWN_TYPES = {
    *("function", "custom", "namespace", "local_shell", "shell", "apply_patch", "computer", "computer_use_preview"),
    *("tool_search", "image_generation", "bash_20250124", "text_editor_20250728", "computer_20251124"),
    *("memory_20250818", "browser_toolset_20260801", "computer_toolset_20260801", "advisor_20260301"),
    *("tool_search_tool_bm25_20251119", "tool_search_tool_bm25", "tool_search_tool_regex", "openrouter:fusion"),
}


@pytest.mark.parametrize("kind", sorted(OWN_TYPES))
def test_a_tool_of_the_callers_own_is_held_for_no_more_than_its_bytes_and_what_is_told_of_it(kind: str) -> None:
    for read, asked in ASKED:
        assert (
            read(json.dumps({**asked, "tools": [{"type": kind, "name": "x"}, {"name": "f"}]}).encode()).upper.searches
            == 0
        )


@pytest.mark.parametrize("union", [ToolParam, ChatCompletionToolUnionParam, BetaToolUnionParam], ids=lambda u: "")
def test_every_tool_of_the_official_sdks_is_known_for_a_callers_own_or_held_by_its_word(union: Any) -> None:
    """A new one of a caller's own would be held for what it cannot bring."""
    kinds = set(_literals(union, "type"))
    assert "function" in kinds or "custom" in kinds
    for kind in kinds:
        known = bounds._KNOWN_TYPE.fullmatch(kind) or bounds._SERVED_TOOL.search(f'"type":"{kind}"'.encode())
        assert known, kind


def _literals(union: Any, member: str) -> Iterator[str]:
    for one in get_args(union):
        yield from _words(get_type_hints(one, include_extras=True).get(member))


def _words(hint: Any) -> Iterator[str]:
    for one in get_args(hint):
        if isinstance(one, str):
            yield one
        else:
            yield from _words(one)


def test_a_tool_as_deep_as_a_body_may_have_it_is_held() -> None:
    deep = '{"content":[' * 400 + '{"tools":[{"type":"orbital_lookup"}]}' + "]}" * 400
    body = '{"model":"m","input":"x","tools":[' + deep + "]}"
    assert read_responses(body.encode()).upper.searches == SEARCHES_MAX


def test_tools_that_cannot_be_read_are_held() -> None:
    assert bounds._has_served([b'{"tools":[{"type":"orbital_lookup"}'])
