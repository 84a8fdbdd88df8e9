"""OpenAI's chat completions in the sandbox: what is answered, streamed alike, refused, stored and billed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from .exchanging import KEY

PNG = "data:image/png;base64,iVBORw0KGgo="
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CUSTOM = {"type": "custom", "custom": {"name": "shell"}}


def body_of(text: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}


def completed(http: httpx.Client, body: dict[str, Any], fault: str = "") -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json=body, headers={"x-sandbox-fault": fault})
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def events(http: httpx.Client, body: dict[str, Any], fault: str = "") -> list[Any]:
    """The data of each event; `[DONE]` as a string."""
    headers = {"x-sandbox-fault": fault}
    answer = http.post("/v1/chat/completions", json={**body, "stream": True}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def folded(chunks: list[Any]) -> dict[str, Any]:
    """A completion put together from chunks, as a client would."""
    assert chunks[-1] == "[DONE]"
    whole: dict[str, Any] = {"choices": {}, "usage": None}
    for chunk in chunks[:-1]:
        whole |= {key: chunk[key] for key in ("model", "service_tier", "system_fingerprint")}
        whole["usage"] = chunk.get("usage") or whole["usage"]
        for part in chunk["choices"]:
            choice = whole["choices"].setdefault(
                part["index"], {"text": {}, "calls": {}, "logprobs": [], "finish": None}
            )
            choice["finish"] = part["finish_reason"] or choice["finish"]
            choice["logprobs"] += ((part["logprobs"] or {}).get("content")) or []
            for name in ("content", "refusal", "reasoning_content"):
                if part["delta"].get(name):
                    choice["text"][name] = choice["text"].get(name, "") + part["delta"][name]
            for call in part["delta"].get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(choice["calls"])
                    choice["calls"][call["index"]] = json.loads(json.dumps(call))
                else:
                    kind = "function" if "function" in call else "custom"
                    field = "arguments" if kind == "function" else "input"
                    choice["calls"][call["index"]][kind][field] += call[kind][field]
    return whole


def plain(completion: dict[str, Any]) -> dict[str, Any]:
    """The same shape from a whole completion."""
    choices = {}
    for choice in completion["choices"]:
        message = choice["message"]
        names = ("content", "refusal", "reasoning_content")
        choices[choice["index"]] = {
            "text": {name: message[name] for name in names if message.get(name)},
            "calls": {at: {"index": at, **call} for at, call in enumerate(message.get("tool_calls", []))},
            "logprobs": (choice["logprobs"] or {}).get("content") or [],
            "finish": choice["finish_reason"],
        }
    kept = {key: completion[key] for key in ("model", "service_tier", "system_fingerprint", "usage")}
    return {"choices": choices, **kept}


def without_ids(value: dict[str, Any]) -> str:
    for choice in value["choices"].values():
        for call in choice["calls"].values():
            assert call.pop("id").startswith("call_")
    return json.dumps(value, sort_keys=True)


ASKED: list[dict[str, Any]] = [
    body_of(),
    body_of("[[tokens: 120]]", max_tokens=50),
    body_of("[[say: a b]]", n=3),
    body_of("[[refuse: no thanks]]"),
    body_of("[[think: a b c]][[say: d]]", model="deepseek-reasoner"),
    body_of("[[think: a b c]][[say: d]]"),
    body_of("[[think: hidden only]] [[tools: f]]", max_completion_tokens=2),
    body_of('[[say: first]][[tools: get_weather {"city":"Paris, France"}; g]]', tools=[TOOL]),
    body_of('[[tools: shell "ls -la"]]', tools=[CUSTOM]),
    body_of("x", tools=[TOOL], tool_choice="required"),
    body_of("x", tools=[TOOL, CUSTOM], tool_choice={"type": "custom", "custom": {"name": "shell"}}),
    body_of("hi there", logprobs=True, top_logprobs=2),
    body_of("one two three", stop="two"),
    body_of("[[finish: filter]]"),
    body_of("[[cached: 100]][[cache-write: 20]][[input: 500]]"),
    body_of("x", reasoning_effort="high"),
    body_of([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PNG}}]),
    body_of(
        "x",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": TOOL["function"]["parameters"]}},
    ),
    body_of("日本語のテキスト, naïve 🎉"),
]


@pytest.mark.parametrize("body", ASKED, ids=[str(at) for at in range(len(ASKED))])
def test_a_stream_says_and_counts_and_costs_what_the_whole_answer_does(
    http: httpx.Client, body: dict[str, Any]
) -> None:
    whole = completed(http, body)
    streamed = folded(events(http, {**body, "stream_options": {"include_usage": True}}))
    assert without_ids(streamed) == without_ids(plain(whole))
    lines = http.get("/_sandbox/bill").json()["lines"]
    costs = [(line["cost_nano_usd"], line["prompt_tokens"], line["output_tokens"]) for line in lines[-2:]]
    assert costs[0] == costs[1]
    assert costs[0][1:] == (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"])


def test_a_bill_line_prices_each_class_of_tokens(http: httpx.Client) -> None:
    completed(http, body_of("[[input: 1000]][[cached: 600]][[cache-write: 100]][[tokens: 10]]"))
    (line,) = http.get("/_sandbox/bill").json()["lines"]
    assert (line["model"], line["prompt_tokens"], line["output_tokens"]) == ("gpt-4o", 1000, 10)
    assert (line["cached_tokens"], line["cache_write_tokens"]) == (600, 100)
    assert line["cost_nano_usd"] == 300 * 2500 + 600 * 1250 + 100 * 2500 + 10 * 10_000


def test_usage_is_null_in_every_chunk_but_the_one_for_it_and_absent_when_not_asked_for(http: httpx.Client) -> None:
    asked = events(http, body_of(stream_options={"include_usage": True}))[:-1]
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["total_tokens"] == 4
    assert all("usage" not in chunk and chunk["choices"] for chunk in events(http, body_of())[:-1])


USAGE_PLACES: dict[str, Any] = {
    "last-content": lambda chunk: chunk["choices"][0]["delta"].get("content") == " hi",
    "finish": lambda chunk: chunk["choices"][0]["finish_reason"] == "stop",
    "empty-delta": lambda chunk: chunk["choices"][0]["delta"] == {} and not chunk["choices"][0]["finish_reason"],
    "every": lambda chunk: bool(chunk["choices"][0]["delta"].get("content")),
}


@pytest.mark.parametrize("place", USAGE_PLACES)
def test_a_fault_moves_usage_elsewhere(http: httpx.Client, place: str) -> None:
    chunks = events(http, body_of(), f"usage-in={place}")[:-1]
    assert [bool(chunk.get("usage")) for chunk in chunks] == [USAGE_PLACES[place](chunk) for chunk in chunks]
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")][-1] == 4


@pytest.mark.parametrize("fault", ["no-usage", "usage=-5"])
def test_usage_is_left_out_or_wrong_on_streams_too(http: httpx.Client, fault: str) -> None:
    body = body_of(stream_options={"include_usage": True})
    shown = [chunk["usage"] for chunk in events(http, body, fault)[:-1] if chunk.get("usage")]
    assert [usage["prompt_tokens"] for usage in shown] == ([] if fault == "no-usage" else [-5])
    assert ("usage" in completed(http, body_of(), fault)) == (fault != "no-usage")
    assert {line["cost_nano_usd"] for line in http.get("/_sandbox/bill").json()["lines"]} == {2500 + 3 * 10_000}


WRONG: list[tuple[dict[str, Any], int, str | None]] = [
    (body_of(model="no-such-model"), 404, "model"),
    (body_of(model="text-embedding-3-small"), 404, "model"),
    ({"messages": []}, 400, "model"),
    (body_of() | {"messages": []}, 400, "messages"),
    (body_of() | {"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role"),
    (body_of() | {"messages": [{"role": "tool", "tool_call_id": "a", "content": "x"}]}, 400, "messages[0]"),
    (body_of([{"type": "image_url", "image_url": {"url": "ftp://a"}}]), 400, "messages[0].content[0]"),
    (body_of([{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}]), 400, "messages[0].content[0]"),
    (body_of([{"type": "video"}]), 400, "messages[0].content[0]"),
    (body_of(max_tokens=1, max_completion_tokens=1), 400, "max_tokens"),
    (body_of(max_tokens=0), 400, "max_tokens"),
    (body_of(n=0), 400, "n"),
    (body_of(stop=["a"] * 5), 400, "stop"),
    (body_of(temperature=3), 400, "temperature"),
    (body_of(stream_options={"include_usage": True}), 400, "stream_options"),
    (body_of(top_logprobs=1), 400, "top_logprobs"),
    (body_of(tools=[{"type": "function"}]), 400, "tools[0]"),
    (body_of(tool_choice="required"), 400, "tool_choice"),
    (body_of(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}), 400, "tool_choice"),
    (body_of(response_format="json"), 400, "response_format"),
    (body_of(response_format={"type": "json_schema", "json_schema": {"name": "n"}}), 400, "response_format.schema"),
    (body_of(reasoning_effort="huge"), 400, "reasoning_effort"),
    (body_of(stream="yes"), 400, "stream"),
    (body_of("[[sey: x]]"), 400, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param"), WRONG, ids=[str(at) for at in range(len(WRONG))])
def test_a_wrong_body_is_refused_and_the_field_named(
    http: httpx.Client, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert http.get("/_sandbox/bill").json()["lines_total"] == 0


def test_every_tool_call_must_be_answered_before_anyone_speaks(http: httpx.Client) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    asked = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    for messages in (asked, [*asked, {"role": "user", "content": "y"}]):
        assert http.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": messages}).status_code == 400
    told = [*asked, {"role": "tool", "tool_call_id": "c1", "content": "sunny"}]
    answer = completed(http, {"model": "gpt-4o", "messages": told})
    assert answer["choices"][0]["message"]["content"] == "get_weather answered sunny"


def test_functions_are_called_one_at_a_time_in_their_older_form(http: httpx.Client) -> None:
    functions = [TOOL["function"], {"name": "clock"}]
    body = body_of("get_weather and clock", functions=functions)
    (choice,) = completed(http, body)["choices"]
    call = {"name": "get_weather", "arguments": '{"city":"city"}'}
    assert (choice["message"]["function_call"], choice["finish_reason"]) == (call, "function_call")
    deltas = [chunk["choices"][0]["delta"].get("function_call") for chunk in events(http, body)[:-1]]
    assert next(delta for delta in deltas if delta) == {"name": "get_weather", "arguments": ""}
    assert "".join(delta["arguments"] for delta in deltas if delta) == call["arguments"]
    named = completed(http, {**body, "function_call": {"name": "clock"}})["choices"][0]["message"]
    assert named["function_call"]["name"] == "clock"
    assert "function_call" not in completed(http, {**body, "function_call": "none"})["choices"][0]["message"]
    answered = {"role": "function", "name": "get_weather", "content": "sunny"}
    told = [*body["messages"], {"role": "assistant", "content": None, "function_call": call}, answered]
    assert (
        completed(http, {**body, "messages": told})["choices"][0]["message"]["content"] == "get_weather answered sunny"
    )
    wrong = http.post("/v1/chat/completions", json={**body, "function_call": {"name": "other"}})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "function_call")


def test_stored_completions_are_listed_read_changed_and_deleted(http: httpx.Client) -> None:
    parts = [{"type": "text", "text": "two"}]
    ids = [
        completed(http, body_of(text, store=True, metadata={"case": case}))["id"]
        for text, case in (("one", "stored-a"), (parts, "stored-b"))
    ]
    unkept = completed(http, body_of("three"))["id"]
    path = "/v1/chat/completions"
    assert http.get(f"{path}/{unkept}").status_code == 404
    listed = http.get(path, params={"metadata[case]": "stored-b"}).json()
    assert ([item["id"] for item in listed["data"]], listed["has_more"]) == ([ids[1]], False)
    assert http.get(path, params={"model": "none"}).json()["data"] == []
    after = http.get(path, params={"after": ids[0], "limit": 1}).json()
    assert [item["id"] for item in after["data"]] == [ids[1]]
    (message,) = http.get(f"{path}/{ids[1]}/messages").json()["data"]
    assert (message["content"], message["content_parts"]) == (None, parts)
    assert http.post(f"{path}/{ids[0]}", json={"metadata": {"k": "v"}}).json()["metadata"] == {"k": "v"}
    assert http.get(f"{path}/{ids[0]}").json()["metadata"] == {"k": "v"}
    assert http.get(path, params={"limit": "0"}).status_code == 400
    for chat_id in ids:
        assert http.delete(f"{path}/{chat_id}").json() == {
            "id": chat_id, "object": "chat.completion.deleted", "deleted": True,
        }  # fmt: skip
        assert http.get(f"{path}/{chat_id}").status_code == 404


def test_a_stream_can_be_stored(http: httpx.Client) -> None:
    chunks = events(http, body_of("[[say: kept]]", store=True))
    stored = http.get(f"/v1/chat/completions/{chunks[0]['id']}").json()
    assert stored["choices"][0]["message"]["content"] == "kept"


def test_a_key_is_asked_for(http: httpx.Client) -> None:
    for key in ("", "Bearer wrong", KEY):
        assert http.post("/v1/chat/completions", json=body_of(), headers={"authorization": key}).status_code == 401
