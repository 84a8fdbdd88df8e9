"""OpenAI's Responses in the sandbox: items, event order, memory, background work, and what is billed when."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseInputMessageItem, ResponseItemList

from .exchanging import Clock, bill_shown

FUNCTION = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def responded(http: httpx.Client, said: Any = "hi", **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/responses", json={"model": "gpt-4o", "input": said, **more})
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def read_events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found = []
    for block in filter(None, answer.text.split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def streamed(http: httpx.Client, said: Any = "hi", **more: Any) -> list[dict[str, Any]]:
    return read_events(http.post("/v1/responses", json={"model": "gpt-4o", "input": said, "stream": True, **more}))


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k not in ("id", "call_id", "created_at", "completed_at")}
    return [without_ids(one) for one in value] if isinstance(value, list) else value


ASKED: list[tuple[Any, dict[str, Any]]] = [
    ("hi", {}),
    ("[[say: a]][[say: b c]]", {}),
    ("[[think: a b c]][[say: d]]", {}),
    ("[[think: a b c]][[say: d]]", {"reasoning": {"summary": "auto", "effort": "low"}}),
    ("[[think: a b c]][[say: d]]", {"model": "deepseek-reasoner", "include": ["reasoning.encrypted_content"]}),
    ('[[say: x]][[tools: get_weather {"city":"Paris"}; shell "ls"]]', {}),
    ("[[refuse: never]]", {}),
    ("[[tokens: 40]]", {"max_output_tokens": 20}),
    ("[[finish: filter]]", {}),
    (
        "x",
        {
            "text": {
                "format": {"type": "json_schema", "name": "n", "schema": {"properties": {"a": {"type": "integer"}}}}
            }
        },
    ),
    ("x", {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "get_weather"}}),
    ("x y", {"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
    ("x", {"reasoning": {"effort": "high"}, "max_output_tokens": 4}),
    ("[[cached: 30]]", {"metadata": {"a": "b"}, "temperature": 0.5}),
]


@pytest.mark.parametrize(("text", "more"), ASKED, ids=[str(at) for at in range(len(ASKED))])
def test_a_stream_ends_with_the_whole_answer_and_costs_the_same(
    http: httpx.Client, text: Any, more: dict[str, Any]
) -> None:
    whole, events = responded(http, text, **more), streamed(http, text, **more)
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    assert events[-1]["type"] == f"response.{whole['status']}"
    billed = bill_shown(http)
    assert billed[0]["cost_nano_usd"] == billed[1]["cost_nano_usd"]
    assert billed[0].get("output_tokens", 0) == billed[1].get("output_tokens", 0) == whole["usage"]["output_tokens"]


@pytest.mark.parametrize(("text", "more"), ASKED, ids=[str(at) for at in range(len(ASKED))])
def test_events_obey_every_order_rule(http: httpx.Client, text: Any, more: dict[str, Any]) -> None:
    events = streamed(http, text, **more)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["output"] == []
    assert all(event["response"]["usage"] is None for event in events[:2])
    opened: list[str] = []
    parts: dict[str, int] = {}
    built: dict[tuple[str, str], str] = {}
    for event in events[2:-1]:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(opened)
            opened.append(event["item"]["id"])
        assert event["output_index"] == len(opened) - 1
        if kind == "response.output_item.done":
            assert event["item"]["id"] == opened[-1]
        elif kind != "response.output_item.added":
            assert event["item_id"] == opened[-1]
        if kind == "response.content_part.added":
            assert event["content_index"] == parts.get(opened[-1], 0)
            parts[opened[-1]] = event["content_index"] + 1
        place = (opened[-1], str(event.get("content_index", event.get("summary_index"))) + kind.rpartition(".")[0])
        if kind.endswith(".delta"):
            built[place] = built.get(place, "") + event["delta"]
        elif kind.endswith(("text.done", "arguments.done", "input.done", "refusal.done")):
            final = next(event[name] for name in ("text", "arguments", "input", "refusal") if name in event)
            assert built.get(place, "") == final
            if kind == "response.function_call_arguments.done":
                assert event["name"]
            if kind.startswith("response.output_text"):
                assert isinstance(event["logprobs"], list)


def test_what_stopped_a_response_is_told(http: httpx.Client) -> None:
    cut = responded(http, "[[tokens: 40]]", max_output_tokens=20)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][-1]["status"] == "incomplete"
    assert responded(http, "[[finish: filter]]")["incomplete_details"] == {"reason": "content_filter"}


def test_tools_are_called_and_answered_over_stored_responses(http: httpx.Client) -> None:
    first = responded(http, '[[tools: get_weather {"city":"Oslo"}; shell "ls"]]', tools=[FUNCTION])
    kinds = [(item["type"], item.get("arguments", item.get("input"))) for item in first["output"]]
    assert kinds == [("function_call", '{"city":"Oslo"}'), ("custom_tool_call", "ls")]
    outputs = [
        {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": str(at)}
        for at, item in enumerate(first["output"])
    ]
    second = responded(http, outputs, previous_response_id=first["id"])
    assert second["output"][0]["content"][0]["text"] == "get_weather answered 0; shell answered 1"
    assert second["previous_response_id"] == first["id"]
    # The same, with the whole conversation in the input.
    asked = {"role": "user", "content": [{"type": "input_text", "text": "[[tools: get_weather; shell]]"}]}
    third = responded(http, [asked, *first["output"], *outputs])
    assert third["output"][0]["content"][0]["text"] == "get_weather answered 0; shell answered 1"
    by_reference = [{"type": "item_reference", "id": item["id"]} for item in first["output"][:-1]]
    by_reference += [{"id": first["output"][-1]["id"]}]
    assert without_ids(responded(http, [asked, *by_reference, *outputs])) == without_ids(third)


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"model": "no-such-model"}, 404),
    ({"input": None}, 400),
    ({"input": [{"type": "dance"}]}, 400),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, 400),
    ({"input": [{"type": "function_call_output", "call_id": "none", "output": "1"}]}, 400),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}, 400),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "Zm9yZ2Vk"}]}, 400),
    ({"input": [{"type": "item_reference", "id": "none"}]}, 404),
    ({"previous_response_id": "resp_none"}, 400),
    ({"conversation": "conv_none"}, 404),
    ({"background": True, "store": False}, 400),
    ({"tools": [{"type": "magic"}]}, 400),
    ({"tools": [{"type": "function", "function": {"name": "nested"}}]}, 400),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, 400),
    ({"reasoning": {"effort": "huge"}}, 400),
    ({"max_output_tokens": 0}, 400),
]


@pytest.mark.parametrize(("fields", "status"), WRONG, ids=[str(at) for at in range(len(WRONG))])
def test_a_wrong_body_is_refused(http: httpx.Client, fields: dict[str, Any], status: int) -> None:
    answer = http.post("/v1/responses", json={"model": "gpt-4o", "input": "x", **fields})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert bill_shown(http) == []


def test_reasoning_comes_back_sealed_and_is_taken_unchanged_only(http: httpx.Client) -> None:
    made = responded(http, "[[think: secret]]", include=["reasoning.encrypted_content"])
    reasoning = made["output"][0]
    assert "secret" not in json.dumps(made["output"])
    assert responded(http, [reasoning, {"role": "user", "content": "on"}])["status"] == "completed"
    forged = {**reasoning, "encrypted_content": reasoning["encrypted_content"][4:]}
    answer = http.post("/v1/responses", json={"model": "gpt-4o", "input": [forged, {"role": "user", "content": "on"}]})
    assert answer.json()["error"]["code"] == "invalid_encrypted_content"


def test_a_stored_response_is_read_listed_streamed_and_deleted(http: httpx.Client) -> None:
    made = responded(http, [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}])
    path = f"/v1/responses/{made['id']}"
    assert http.get(path).json() == made
    replayed = read_events(http.get(path, params={"stream": "true"}))
    assert replayed[-1]["response"] == made
    rest = read_events(http.get(path, params={"stream": "true", "starting_after": 3}))
    assert rest == replayed[4:]
    items = ResponseItemList.model_validate(http.get(f"{path}/input_items").json()).data
    messages = [item for item in items if isinstance(item, ResponseInputMessageItem)]
    assert [[part.to_dict()["text"] for part in message.content] for message in messages] == [["two"], ["one"]]
    assert len(items) == 2
    one = http.get(f"{path}/input_items", params={"order": "asc", "limit": 1}).json()
    assert (one["data"][0]["content"][0]["text"], one["has_more"]) == ("one", True)
    assert http.post(f"{path}/cancel").status_code == 400
    assert http.delete(path).json() == {"id": made["id"], "object": "response", "deleted": True}
    assert http.get(path).status_code == 404
    unkept = responded(http, store=False)
    assert http.get(f"/v1/responses/{unkept['id']}").status_code == 404
    assert len(bill_shown(http)) == 2


def test_every_kind_of_input_is_listed_as_the_sdk_reads_it(http: httpx.Client) -> None:
    said: list[dict[str, Any]] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"role": "assistant", "content": "yes"},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]
    made = responded(http, said, tools=[FUNCTION])
    listed = http.get(f"/v1/responses/{made['id']}/input_items", params={"order": "asc"}).json()
    items = ResponseItemList.model_validate(listed).data
    assert [type(item).__name__ for item in items] == [
        "ResponseInputMessageItem",
        "ResponseInputMessageItem",
        "ResponseOutputMessage",
        "ResponseFunctionToolCallItem",
        "ResponseFunctionToolCallOutputItem",
    ]


def test_a_conversation_is_compacted_into_one_sealed_item(http: httpx.Client) -> None:
    said = [{"role": "user", "content": "many words were said"}]
    small = http.post("/v1/responses/compact", json={"model": "gpt-4o", "input": said}).json()
    assert small["output"][0]["content"] == [{"type": "input_text", "text": "many words were said"}]
    assert small["object"] == "response.compaction"
    assert [item["type"] for item in small["output"]] == ["message", "compaction"]
    after = responded(http, [*small["output"][1:], {"role": "user", "content": "go on"}])
    assert after["usage"]["input_tokens"] > 2
    (first, _) = bill_shown(http)
    assert (first["prompt_tokens"], first["output_tokens"]) == (4, small["usage"]["output_tokens"])


def test_input_is_counted_for_free_as_it_would_be_billed(http: httpx.Client) -> None:
    for text in ("a b c", [{"role": "user", "content": [{"type": "input_text", "text": "[[input: 77]]"}]}]):
        counted = http.post("/v1/responses/input_tokens", json={"model": "gpt-4o", "input": text}).json()
        assert counted["object"] == "response.input_tokens"
        assert counted["input_tokens"] == responded(http, text)["usage"]["input_tokens"]
    assert len(bill_shown(http)) == 2


def test_a_background_response_passes_its_states_and_is_billed_once_when_seen_finished(
    timed: httpx.Client, clock: Clock
) -> None:
    made = responded(timed, "[[say: done]][[takes: 10s]]", background=True)
    path = f"/v1/responses/{made['id']}"
    seen = [made["status"]]
    for step_s in (1.0, 2.0, 6.0, 2.0, 9.0):
        clock.now_s += step_s
        seen.append(timed.get(path).json()["status"])
    assert seen == ["queued", "queued", "in_progress", "in_progress", "completed", "completed"]
    assert timed.get(path).json()["usage"]["output_tokens"] == 1
    assert [line["output_tokens"] for line in bill_shown(timed)] == [1]


def test_a_background_response_can_be_cancelled_until_it_is_finished(timed: httpx.Client, clock: Clock) -> None:
    first, second = (responded(timed, "[[takes: 10s]]", background=True)["id"] for _ in range(2))
    assert timed.post(f"/v1/responses/{first}/cancel").json()["status"] == "cancelled"
    clock.now_s += 11
    assert timed.get(f"/v1/responses/{first}").json()["status"] == "cancelled"
    assert bill_shown(timed) == []
    assert timed.post(f"/v1/responses/{second}/cancel").json()["status"] == "completed"
    assert len(bill_shown(timed)) == 1


def test_a_background_stream_says_it_was_queued(http: httpx.Client) -> None:
    events = streamed(http, background=True)
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]


@pytest.mark.parametrize(("fault", "count"), [("error-before", 5), ("error-after=1", 6)])
def test_an_error_inside_a_stream_is_an_event_of_its_own(http: httpx.Client, fault: str, count: int) -> None:
    headers = {"x-sandbox-fault": f"{fault}, code=rate_limit_exceeded"}
    body = {"model": "gpt-4o", "input": "x", "stream": True}
    events = read_events(http.post("/v1/responses", json=body, headers=headers))
    assert (len(events), events[-1]["type"], events[-1]["code"]) == (count, "error", "rate_limit_exceeded")
