"""Anthropic's protocol as the sandbox speaks it: its body, stream, cache, batches and files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from anthropic.types import ModelInfo

from elkapi.sandbox.app import Options
from elkapi.sandbox.server import Running, running

from .exchanging import Clock
from .speaking import ANTHROPIC_HEADERS, CLAUDE, sse

TOOLS = [
    {"name": "weather", "description": "the weather", "input_schema": {"type": "object", "properties": {}}},
    {"name": "clock", "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}}},
]
THINKS = {"type": "enabled", "budget_tokens": 1024}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


@pytest.fixture
def api(sandbox: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.base_url, headers=ANTHROPIC_HEADERS) as client:
        yield client


def body(text: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": CLAUDE, "max_tokens": 2000, "messages": [{"role": "user", "content": text}], **fields}


def said(api: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = api.post("/v1/messages", json=body(**fields))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(api: httpx.Client, wanted: dict[str, Any]) -> str:
    answer = api.post("/v1/messages", json=wanted)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["request_id"] == answer.headers["request-id"]
    return str(answer.json()["error"]["message"])


def with_results(first: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """A conversation that goes on after `first` called its tools."""
    uses = [block for block in first["content"] if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": use["id"], "content": "5"} for use in uses]
    turns = [{"role": "user", "content": "use weather"}, {"role": "assistant", "content": first["content"]}]
    return [*turns, {"role": "user", "content": results, **changes}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": 999_999}, "max_tokens: 999999 > 128000"),
        ({"reasoning_effort": "low"}, "reasoning_effort: Extra inputs are not permitted"),
        ({"thread": {"type": "create"}}, "Threads are not supported"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: Input should be 'user' or 'assistant'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 'first message must use the "user" role'),
        ({"messages": [{"role": "user", "content": ""}]}, "text content blocks must be non-empty"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        ({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}, "does not match any"),
        ({"temperature": 1.5}, "temperature: range: 0..1"),
        ({"stop_sequences": ["a", " "]}, "each stop sequence must contain non-whitespace"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "greater than or equal to 1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "`max_tokens` must be greater than"),
        ({"thinking": THINKS, "temperature": 0.5}, "`temperature` may only be set to 1"),
        ({"thinking": THINKS, "tools": TOOLS, "tool_choice": {"type": "any"}}, "forces tool use"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "tools.0.custom.name"),
        ({"tools": [{"name": "a"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools.0.function.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "Tool names must be unique"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "none"}}, "Tool 'none' not found"),
        ({"tools": TOOLS, "tool_choice": "auto"}, "tool_choice: Input should be an object"),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "2h"}}]}, "ttl"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "additionalProperties"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ],
)
def test_a_wrong_body_is_a_400_in_anthropics_words(api: httpx.Client, fields: dict[str, Any], message: str) -> None:
    wanted = {name: value for name, value in body(**fields).items() if value is not None}
    assert message in refused(api, wanted)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({**PIXEL, "media_type": "image/tiff"}, "media_type: Input should be 'image/jpeg'"),
        ({**PIXEL, "data": "***"}, "invalid base64 data"),
        ({"type": "uri", "url": "a"}, "does not match"),
    ],
)
def test_a_wrong_image_is_a_400(api: httpx.Client, source: dict[str, Any], message: str) -> None:
    assert message in refused(api, body([{"type": "image", "source": source}]))


def test_images_and_documents_are_acknowledged_and_counted(api: httpx.Client) -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    blocks = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": PIXEL},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": pdf},
    ]
    answer = said(api, text=blocks)
    showed = "image image/png, image https://example.com/a.png, file application/pdf"
    assert answer["content"][0]["text"] == f"You said: look You showed: {showed}."
    assert answer["usage"]["input_tokens"] == 1 + 2 * 85


def test_every_stream_follows_the_rules_and_adds_up_to_the_whole_answer(api: httpx.Client) -> None:
    text = '[[think: hm hm]] [[redact: secret]] [[say: so]] [[tools: weather {"a": [1, 2]}; clock {}]]'
    fields: dict[str, Any] = {"text": text, "tools": TOOLS, "thinking": THINKS}
    whole = said(api, **fields)
    found = sse(api.post("/v1/messages", json=body(**fields, stream=True)).content)
    assert all(name == data["type"] for name, data in found)
    names = [name for name, _ in found if name != "ping"]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_start") == names.count("message_delta") == names.count("message_stop") == 1
    assert [name for name, _ in found].count("ping") == 1
    start = found[0][1]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 1)
    blocks: list[dict[str, Any]] = []
    is_open = False
    for name, data in found:
        if name == "content_block_start":
            assert (is_open, data["index"]) == (False, len(blocks))
            is_open = True
            blocks.append(data["content_block"] | {"json": ""})
        elif name == "content_block_delta":
            assert is_open
            delta = data["delta"]
            field = {"input_json_delta": "partial_json"}.get(delta["type"], delta["type"].removesuffix("_delta"))
            blocks[data["index"]]["json" if field == "partial_json" else field] += delta[field]
        elif name == "content_block_stop":
            is_open = False
    for block in blocks:
        text_json = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text_json)
    whole_blocks = [{**block, "id": ""} if "id" in block else block for block in whole["content"]]
    assert [{**block, "id": ""} if "id" in block else block for block in blocks] == whole_blocks
    kinds = ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    assert [block["type"] for block in blocks] == kinds
    ending = next(data for name, data in found if name == "message_delta")
    assert ending["delta"]["stop_reason"] == whole["stop_reason"] == "tool_use"
    assert ending["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert whole["usage"]["output_tokens_details"]["thinking_tokens"] == 3


def test_a_tool_loop_ends_with_the_tools_results(api: httpx.Client) -> None:
    first = said(api, text="use weather", tools=TOOLS, thinking=THINKS)
    assert [block["type"] for block in first["content"]] == ["thinking", "tool_use"]
    second = said(api, messages=with_results(first), tools=TOOLS, thinking=THINKS)
    assert second["content"][-1]["text"] == "weather answered 5"
    assert second["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blocks: [{**blocks[0], "signature": "Zm9v"}, *blocks[1:]], "Invalid `signature` in `thinking` block"),
        (lambda blocks: [{**blocks[0], "thinking": "else"}, *blocks[1:]], "Invalid `signature` in `thinking` block"),
        (lambda blocks: [{"type": "thinking", "thinking": "hm"}, *blocks[1:]], "thinking.signature: Field required"),
        (lambda blocks: [{"type": "redacted_thinking", "data": "Zm9v"}, *blocks[1:]], "Invalid `data`"),
        (lambda blocks: blocks[1:], "Expected `thinking` or `redacted_thinking`, but found `tool_use`"),
    ],
)
def test_thinking_must_come_back_unchanged_in_a_tool_loop(api: httpx.Client, change: Any, message: str) -> None:
    first = said(api, text="use weather", tools=TOOLS, thinking=THINKS)
    turns = with_results({**first, "content": change(first["content"])})
    assert message in refused(api, body(messages=turns, tools=TOOLS, thinking=THINKS))


def test_redacted_and_omitted_thinking_come_back_too(api: httpx.Client) -> None:
    for text, thinking in (("[[redact: secret]]", THINKS), ("", {**THINKS, "display": "omitted"})):
        first = said(api, text=f"{text} [[tools: weather]]", tools=TOOLS, thinking=thinking)
        assert "secret" not in json.dumps(first)
        assert first["content"][0].get("thinking", "") == ""
        turns = with_results(first)
        assert said(api, messages=turns, tools=TOOLS, thinking=thinking)["content"][-1]["text"]


def test_thoughts_are_shown_as_every_display_that_anthropic_knows_says(api: httpx.Client) -> None:
    """Claude Code asks for `updates`: its notes between calls, and no reasoning."""
    for display, shown in (("summarized", "hm"), (None, "hm"), ("omitted", ""), ("updates", "")):
        answer = said(api, text="[[think: hm]] [[say: so]]", thinking={**THINKS, "display": display})
        assert answer["content"][0]["thinking"] == shown
    assert "thinking.display" in refused(api, body(thinking={**THINKS, "display": "loud"}))


def test_without_thinking_nothing_is_thought(api: httpx.Client) -> None:
    for thinking in (None, {"type": "disabled"}):
        fields = {} if thinking is None else {"thinking": thinking}
        answer = said(api, text="[[think: hm]] [[say: so]]", **fields)
        assert [block["type"] for block in answer["content"]] == ["text"]
        assert answer["usage"]["output_tokens"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("and now?", "`tool_use` ids were found without `tool_result` blocks immediately after"),
        ([{"type": "tool_result", "tool_use_id": "toolu_none", "content": "5"}], "without `tool_result`"),
        ("both", "unexpected `tool_use_id` found in `tool_result` blocks"),
        ("late", "`tool_result` blocks must come before other content"),
    ],
)
def test_tool_results_must_answer_the_calls_just_before(api: httpx.Client, content: Any, message: str) -> None:
    first = said(api, text="use weather", tools=TOOLS)
    turns = with_results(first)
    if content == "both":
        turns[-1]["content"].append({"type": "tool_result", "tool_use_id": "toolu_none", "content": "5"})
    elif content == "late":
        turns[-1]["content"].insert(0, {"type": "text", "text": "here"})
    else:
        turns[-1]["content"] = content
    assert message in refused(api, body(messages=turns, tools=TOOLS))


@pytest.mark.parametrize(
    ("fields", "reason", "text"),
    [
        ({"text": "[[say: one two three]]", "max_tokens": 2}, "max_tokens", "one two"),
        ({"text": "[[say: one END two]]", "stop_sequences": ["END"]}, "stop_sequence", "one "),
        ({"text": "[[refuse: no way]]"}, "refusal", "no way"),
        ({"text": "[[say: a]] [[finish: filter]]"}, "refusal", "a"),
    ],
)
def test_an_answer_says_why_it_ended(api: httpx.Client, fields: dict[str, Any], reason: str, text: str) -> None:
    answer = said(api, **fields)
    assert (answer["stop_reason"], answer["content"][0]["text"]) == (reason, text)
    assert answer["stop_sequence"] == ("END" if reason == "stop_sequence" else None)
    assert ("stop_details" in answer) == (reason == "refusal")


def _change(kind: str, **tool: Any) -> dict[str, Any]:
    return {"type": f"tool_{kind}", "tool": tool}


def test_later_instructions_change_the_tools_and_stand_for_a_turn(api: httpx.Client) -> None:
    """As the tool runner of Anthropic's SDKs sends them."""
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "system", "content": "Be brief.", "clear_at": "next_user_message"},
        {"role": "system", "output_config": {"effort": "low"}},
    ]
    turns[2]["content"] = [
        {"type": "text", "text": "Be brief."},
        _change("removal", type="tool_reference", name="weather"),
        _change("addition", type="tool_definition", definition={**TOOLS[0], "name": "rain"}),
    ]
    asked = body(messages=[*turns, {"role": "user", "content": "use rain and weather and clock"}], tools=TOOLS)
    answer = api.post("/v1/messages", json=asked)
    assert answer.status_code == 200, answer.text
    assert [block["name"] for block in answer.json()["content"] if block["type"] == "tool_use"] == ["clock", "rain"]
    for wrong, message in (
        ({"role": "system"}, "messages.5.content: Field required"),
        ({"role": "system", "content": "a", "clear_at": "now"}, "messages.5.clear_at"),
        ({"role": "system", "output_config": {"format": {}}}, "messages.5.output_config"),
        ({"role": "system", "content": [_change("removal", type="tool_reference", name="x")]}, "Tool 'x' not found"),
    ):
        assert message in refused(api, asked | {"messages": [*asked["messages"], wrong]})


def test_a_message_of_no_tokens_only_fills_the_cache(api: httpx.Client) -> None:
    marked = [{"type": "text", "text": "one two three", "cache_control": {"type": "ephemeral"}}]
    answer = said(api, system=marked, max_tokens=0)
    assert (answer["content"], answer["stop_reason"]) == ([], "max_tokens")
    assert (answer["usage"]["cache_creation_input_tokens"], answer["usage"]["output_tokens"]) == (3, 0)


def test_a_schema_gets_an_instance(api: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = said(api, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert isinstance(json.loads(answer["content"][0]["text"])["n"], int)


def cache(usage: dict[str, Any]) -> tuple[int, ...]:
    split = usage["cache_creation"]
    written = split["ephemeral_5m_input_tokens"], split["ephemeral_1h_input_tokens"]
    assert usage["cache_creation_input_tokens"] == sum(written)
    return usage["input_tokens"], usage["cache_read_input_tokens"], *written


def test_marked_blocks_are_written_to_the_cache_and_read_once_they_were_answered(
    api: httpx.Client, sandbox: Running
) -> None:
    def marked(text: str, ttl: str) -> dict[str, Any]:
        return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}

    system = [marked("one two three", "1h"), marked("four five", "5m")]
    question = [{"type": "text", "text": "six"}]
    first = said(api, system=system, text=question)
    assert cache(first["usage"]) == (1, 0, 2, 3)
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "seven eight"},
        {"role": "user", "content": [marked("nine", "5m")]},
    ]
    assert cache(said(api, system=system, messages=turns)["usage"]) == (0, 5, 4, 0)
    assert cache(said(api, text="a b [[cached: 7]] [[cache-write: 2]]")["usage"])[1:] == (7, 2, 0)
    assert cache(said(api, text="a b", cache_control={"type": "ephemeral"})["usage"]) == (0, 0, 2, 0)
    lines = [msgspec.json.decode(line) for line in sandbox.sandbox.bill.statement().lines]
    # One plain token, two written for five minutes, three for an hour, four of output ("You said: six").
    assert lines[0]["cost_nano_usd"] == 3_000 + 2 * 3_750 + 3 * 6_000 + 3 * 15_000
    marks = [marked(str(n), "5m") for n in range(5)]
    assert "maximum of 4 blocks" in refused(api, body(marks))


def test_a_prompt_beyond_the_context_is_refused(api: httpx.Client) -> None:
    message = refused(api, body("[[input: 200001]]", model="claude-haiku-4-5"))
    assert message == "prompt is too long: 200001 tokens > 200000 maximum"


def test_tokens_are_counted_for_nothing(api: httpx.Client, sandbox: Running) -> None:
    wanted = {"model": CLAUDE, "system": "be brief", "messages": [{"role": "user", "content": "a b"}], "tools": TOOLS}
    assert api.post("/v1/messages/count_tokens", json=wanted).json() == {"input_tokens": 2 + 2 + 3 + 1}
    assert api.post("/v1/messages?beta=true", json={**wanted, "max_tokens": 1}).json()["usage"]["input_tokens"] == 8
    assert sandbox.sandbox.bill.statement().lines_total == 1


def test_errors_name_their_type_and_the_version_is_required(api: httpx.Client) -> None:
    kinds = {401: "authentication_error", 402: "billing_error", 404: "not_found_error", 413: "request_too_large"}
    kinds |= {429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error"}
    for status, kind in kinds.items():
        answer = api.post("/v1/messages", json=body(f"[sandbox: status={status}]"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        assert ("anthropic-ratelimit-requests-remaining" in answer.headers) == (status == 429)
    assert api.get("/v1/models/none").json()["error"]["type"] == "not_found_error"
    with httpx.Client(base_url=api.base_url, headers={"x-api-key": ANTHROPIC_HEADERS["x-api-key"]}) as unversioned:
        answer = unversioned.post("/v1/messages", json=body())
        assert answer.json()["error"]["message"] == "anthropic-version: header is required"


def test_models_are_listed_in_pages(api: httpx.Client) -> None:
    first = api.get("/v1/models?limit=2").json()
    assert all(ModelInfo.model_validate(model).capabilities for model in first["data"])
    assert (len(first["data"]), first["has_more"], first["last_id"]) == (2, True, first["data"][1]["id"])
    second = api.get(f"/v1/models?limit=2&after_id={first['last_id']}").json()
    back = api.get(f"/v1/models?limit=2&before_id={second['first_id']}").json()
    assert back["data"] == first["data"]
    assert api.get("/v1/models?limit=0").status_code == 400


@pytest.fixture
def timed(clock: Clock) -> Iterator[httpx.Client]:
    with running(Options(now=clock)) as served:
        with httpx.Client(base_url=served.base_url, headers=ANTHROPIC_HEADERS) as client:
            yield client


def batch_of(*texts: str) -> dict[str, Any]:
    params = [
        {"model": "claude-haiku-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": t}]} for t in texts
    ]
    return {"requests": [{"custom_id": f"r{number}", "params": entry} for number, entry in enumerate(params)]}


def test_a_batch_runs_by_the_clock_and_is_billed_once_at_half_price(timed: httpx.Client, clock: Clock) -> None:
    wanted = batch_of("[[say: a b]] [[takes: 5s]]", "[[say: c]]")
    del wanted["requests"][1]["params"]["max_tokens"]
    made = timed.post("/v1/messages/batches", json=wanted).json()
    assert (made["processing_status"], made["request_counts"]["processing"]) == ("in_progress", 2)
    assert made["results_url"] is None
    path = f"/v1/messages/batches/{made['id']}"
    assert timed.get(f"{path}/results").status_code == 404
    assert timed.delete(path).status_code == 400
    clock.now_s += 5
    ended = timed.get(path).json()
    assert ended["processing_status"] == "ended"
    assert (ended["request_counts"]["succeeded"], ended["request_counts"]["errored"]) == (1, 1)
    found = [json.loads(line) for line in timed.get(ended["results_url"]).text.splitlines()]
    results = {line["custom_id"]: line["result"] for line in found}
    assert results["r0"]["message"]["usage"]["service_tier"] == "batch"
    assert results["r1"]["error"]["error"]["message"] == "max_tokens: Field required"
    bill = timed.get("/_sandbox/bill").json()
    assert bill["lines_total"] == 1
    assert bill["cost_nano_usd_total"] == (5 * 1_000 + 2 * 5_000) // 2
    assert timed.get("/v1/messages/batches").json()["data"] == [ended]
    assert timed.get(path, headers={"x-api-key": "sk-ant-other"}).status_code == 404
    assert timed.delete(path).json() == {"id": made["id"], "type": "message_batch_deleted"}
    assert timed.get(path).status_code == 404


def test_a_cancelled_batch_keeps_and_bills_what_was_done(timed: httpx.Client, clock: Clock) -> None:
    made = timed.post("/v1/messages/batches", json=batch_of("[[say: a]]", "[[say: b]] [[takes: 60s]]")).json()
    path = f"/v1/messages/batches/{made['id']}"
    clock.now_s += 1
    assert timed.post(f"{path}/cancel").json()["processing_status"] == "canceling"
    clock.now_s += 1
    ended = timed.get(path).json()
    assert (ended["request_counts"]["succeeded"], ended["request_counts"]["canceled"]) == (1, 1)
    assert {json.loads(line)["result"]["type"] for line in timed.get(f"{path}/results").text.splitlines()} == {
        "succeeded",
        "canceled",
    }
    assert timed.get("/_sandbox/bill").json()["lines_total"] == 1


@pytest.mark.parametrize("wanted", [{}, {"requests": []}, {"requests": [{"params": {}}]}, {"requests": "a"}])
def test_a_wrong_batch_is_a_400(timed: httpx.Client, wanted: dict[str, Any]) -> None:
    assert timed.post("/v1/messages/batches", json=wanted).status_code == 400


def test_a_file_belongs_to_its_uploader_and_messages_may_name_it(api: httpx.Client) -> None:
    kept = api.post("/v1/files", files={"file": ("a b.png", b"\x89PNG\r\n--x", "image/png")}).json()
    assert (kept["filename"], kept["mime_type"], kept["size_bytes"]) == ("a b.png", "image/png", 9)
    path = f"/v1/files/{kept['id']}"
    assert api.get(path).json() == kept
    content = api.get(f"{path}/content")
    assert (content.content, content.headers["content-type"]) == (b"\x89PNG\r\n--x", "image/png")
    assert api.get("/v1/files").json()["data"][0] == kept
    block = {"type": "image", "source": {"type": "file", "file_id": kept["id"]}}
    assert kept["id"] in said(api, text=[block])["content"][0]["text"]
    other = {"x-api-key": "sk-ant-other"}
    assert api.get(path, headers=other).status_code == 404
    assert api.post("/v1/messages", json=body([block]), headers=other).status_code == 404
    assert api.get("/v1/files", headers=other).json()["data"] == []
    assert api.delete(path).json() == {"id": kept["id"], "type": "file_deleted"}
    assert api.get(path).status_code == 404
    assert api.post("/v1/files", json={}).status_code == 400
    assert api.post("/v1/files", files={"other": ("a", b"b")}).status_code == 400
