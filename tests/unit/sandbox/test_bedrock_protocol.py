"""Bedrock's protocol as the sandbox speaks it: signatures and event streams against botocore, Converse and errors."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError

from elkapi.sandbox import eventstream
from elkapi.sandbox.app import Options
from elkapi.sandbox.server import Running, running

from .speaking import ACCESS_KEY, BEDROCK, SECRET, aws, signature

TOOLS = {
    "tools": [
        {"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
        {"toolSpec": {"name": "clock", "description": "d", "inputSchema": {"json": {"type": "object"}}}},
    ]
}
NOVA = "us.amazon.nova-pro-v1:0"
LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
DEEPSEEK = "us.deepseek.r1-v1:0"
PICTURE = {"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}
DOCUMENT = {"document": {"format": "pdf", "name": "a", "source": {"bytes": b"%PDF"}}}
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def client_for(base_url: str) -> BaseClient:
    session = botocore.session.Session()
    session.set_credentials(ACCESS_KEY, SECRET)
    config = Config(retries={"max_attempts": 0})
    return session.create_client("bedrock-runtime", region_name="us-east-1", endpoint_url=base_url, config=config)


@pytest.fixture
def api(sandbox: Running) -> Iterator[Any]:
    client = client_for(sandbox.base_url)
    yield client
    client.close()


def turns(text: str = "hi") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"text": text}]}]


def plain_body(text: str = "hi", **fields: Any) -> str:
    fields = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, **fields}
    return json.dumps({**fields, "messages": [{"role": "user", "content": text}]})


@pytest.mark.parametrize("payload", [b"", b"{}", "\u00e4\u65e5".encode(), b"x" * 70_000])
@pytest.mark.parametrize("headers", [{}, {":event-type": "chunk", ":x": "", ":long": "v" * 400}])
def test_botocore_reads_every_frame(payload: bytes, headers: dict[str, str]) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(eventstream.frame(headers, payload) * 2)
    assert [(message.headers, message.payload) for message in buffer] == [(headers, payload)] * 2


@pytest.mark.parametrize(
    "model",
    [
        BEDROCK,
        "anthropic.claude-opus-5-5-v1:0",
        "arn:aws:bedrock:a:1:inference-profile/us.anthropic.claude-haiku-4-5",
    ],
)
def test_a_request_signed_by_botocore_is_taken_whatever_its_path(api: Any, model: str) -> None:
    answer = api.invoke_model(modelId=model, body=plain_body("[[say: so]]"))
    assert json.loads(answer["body"].read())["content"][0]["text"] == "so"
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-bedrock-output-token-count"] == "1"
    assert answer["ResponseMetadata"]["RequestId"]


def test_a_query_and_odd_characters_are_part_of_the_signature(sandbox: Running) -> None:
    url = f"{sandbox.base_url}/model/{BEDROCK}/invoke?b=2&a=%20x~&a=1&c"
    content = plain_body().encode()
    assert httpx.post(url, content=content, headers=signature("POST", url, content)).status_code == 200


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"secret": "wrong"}, "InvalidSignatureException"),
        ({"key": "AKIDOTHER"}, "UnrecognizedClientException"),
        ({"content": plain_body("else").encode()}, "InvalidSignatureException"),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=a"}, "IncompleteSignatureException"),
        ({"authorization": "Bearer a"}, "MissingAuthenticationTokenException"),
        ({"path": "/converse"}, "InvalidSignatureException"),
    ],
)
def test_what_is_not_signed_so_is_a_403(sandbox: Running, change: dict[str, Any], kind: str) -> None:
    url = f"{sandbox.base_url}/model/{BEDROCK}/invoke"
    content = plain_body().encode()
    headers = signature("POST", url, content, change.get("secret", SECRET), change.get("key", ACCESS_KEY))
    headers |= {"Authorization": change["authorization"]} if "authorization" in change else {}
    url = f"{sandbox.base_url}/model/{BEDROCK}{change.get('path', '/invoke')}"
    answer = httpx.post(url, content=change.get("content", content), headers=headers)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, kind)
    assert answer.json()["message"]
    assert sandbox.sandbox.bill.statement().lines_total == 0


def test_an_old_signature_is_a_403() -> None:
    with running(Options(now=lambda: 1_600_000_000.0)) as served:
        url = f"{served.base_url}/model/{BEDROCK}/invoke"
        content = plain_body().encode()
        answer = httpx.post(url, content=content, headers=signature("POST", url, content))
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")


def test_accepted_keys_are_written_with_their_secret() -> None:
    with running(Options(keys=frozenset({"AKIDOWN:own-secret"}))) as served:
        url = f"{served.base_url}/model/{BEDROCK}/invoke"
        content = plain_body().encode()
        own = signature("POST", url, content, "own-secret", "AKIDOWN")
        assert httpx.post(url, content=content, headers=own).status_code == 200
        assert httpx.post(url, content=content, headers=signature("POST", url, content)).status_code == 403


def test_an_invoke_stream_carries_anthropics_events_and_the_metrics(api: Any) -> None:
    answer = api.invoke_model_with_response_stream(modelId=BEDROCK, body=plain_body("[[say: one two]]"))
    found = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    names = [event["type"] for event in found]
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    metrics = found[-1]["amazon-bedrock-invocationMetrics"]
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (3, 2)


@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
def test_a_converse_tool_loop_with_thinking(api: Any, operation: str) -> None:
    asked: dict[str, Any] = {"modelId": BEDROCK, "toolConfig": TOOLS, "additionalModelRequestFields": THINKS}

    def call(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        answer = getattr(api, operation)(messages=messages, **asked)
        if operation == "converse":
            assert answer["usage"]["totalTokens"] == answer["usage"]["inputTokens"] + answer["usage"]["outputTokens"]
            return answer["output"]["message"]["content"], answer["stopReason"]
        return gathered(list(answer["stream"]))

    question = turns("[[think: hm]] [[redact: secret]] [[say: so]] [[tools: weather; clock]]")
    content, reason = call(question)
    assert reason == "tool_use"
    kinds = [next(iter(block)) for block in content]
    assert kinds == ["reasoningContent", "reasoningContent", "text", "toolUse", "toolUse"]
    results = [
        {"toolResult": {"toolUseId": block["toolUse"]["toolUseId"], "content": [{"json": {"t": 5}}]}}
        for block in content
        if "toolUse" in block
    ]
    going_on = [*question, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    content, reason = call(going_on)
    assert (content[-1]["text"], reason) == ('weather answered {"t":5}; clock answered {"t":5}', "end_turn")
    going_on[1]["content"][0]["reasoningContent"]["reasoningText"]["text"] = "changed"
    with pytest.raises(ClientError, match="Invalid `signature` in `thinking` block"):
        call(going_on)


def gathered(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The content and stop reason that the events of a Converse stream add up to."""
    assert (next(iter(events[0])), next(iter(events[-1]))) == ("messageStart", "metadata")
    blocks: dict[int, dict[str, Any]] = {}
    reason = ""
    for event in events:
        ((name, body),) = event.items()
        index = body.get("contentBlockIndex", -1)
        if name == "contentBlockStart":
            blocks[index] = {"toolUse": {**body["start"]["toolUse"], "input": ""}}
        elif name == "contentBlockDelta":
            ((kind, value),) = body["delta"].items()
            if kind == "text":
                blocks.setdefault(index, {"text": ""})["text"] += value
            elif kind == "toolUse":
                blocks[index]["toolUse"]["input"] += value["input"]
            elif "redactedContent" in value:
                blocks[index] = {"reasoningContent": value}
            else:
                empty = {"reasoningContent": {"reasoningText": {"text": "", "signature": ""}}}
                text = blocks.setdefault(index, empty)["reasoningContent"]["reasoningText"]
                text |= {name: text[name] + piece for name, piece in value.items()}
        elif name == "messageStop":
            reason = body["stopReason"]
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"])
    return [blocks[index] for index in sorted(blocks)], reason


def said(api: Any, model: str, operation: str, **asked: Any) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
    """Content, stop reason and usage of a call, as botocore's own parser reads them."""
    answer = getattr(api, operation)(modelId=model, **{"messages": turns(), **asked})
    if operation == "converse":
        return answer["output"]["message"]["content"], answer["stopReason"], answer["usage"]
    events = list(answer["stream"])
    return (*gathered(events), events[-1]["metadata"]["usage"])


@pytest.mark.parametrize("model", [NOVA, LLAMA, "mistral.mistral-large-2407-v1:0"])
@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
def test_the_models_of_other_makers_converse(api: Any, operation: str, model: str) -> None:
    content, reason, usage = said(api, model, operation, messages=turns("one two"), system=[{"text": "be brief"}])
    assert (content, reason) == ([{"text": "You said: one two"}], "end_turn")
    assert (usage["inputTokens"], usage["outputTokens"], usage["totalTokens"]) == (4, 4, 8)
    question = turns('[[say: so]] [[tools: weather {"city":"Oslo"}; clock]]')
    content, reason, _ = said(api, model, operation, messages=question, toolConfig=TOOLS)
    assert (reason, content[0]) == ("tool_use", {"text": "so"})
    uses = [block["toolUse"] for block in content[1:]]
    assert [(use["name"], use["input"]) for use in uses] == [("weather", {"city": "Oslo"}), ("clock", {})]
    results = [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"json": {"t": 5}}]}} for use in uses]
    going_on = [*question, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    content, reason, _ = said(api, model, operation, messages=going_on, toolConfig=TOOLS)
    assert (content, reason) == ([{"text": 'weather answered {"t":5}; clock answered {"t":5}'}], "end_turn")
    limits = {"maxTokens": 2, "stopSequences": ["END"]}
    for text, expected in (("[[say: a b c]]", "max_tokens"), ("[[say: a END]]", "stop_sequence")):
        assert said(api, model, operation, messages=turns(text), inferenceConfig=limits)[1] == expected
    assert said(api, model, operation, messages=turns("[[refuse: no]]"))[1] == "content_filtered"


@pytest.mark.parametrize("operation", ["converse", "converse_stream"])
def test_a_model_of_another_maker_thinks_unsigned(api: Any, operation: str) -> None:
    content, _, usage = said(api, DEEPSEEK, operation, messages=turns("[[think: hm hm]] [[say: yes]]"))
    thought = content[0]["reasoningContent"]["reasoningText"]
    assert (thought["text"], thought.get("signature", ""), content[1]) == ("hm hm", "", {"text": "yes"})
    assert usage["outputTokens"] == 3


def test_nova_sees_pictures_and_documents_and_is_held_to_its_tools(api: Any) -> None:
    shown = [{"role": "user", "content": [{"text": "look"}, PICTURE, DOCUMENT]}]
    told = said(api, NOVA, "converse", messages=shown)[0][0]["text"]
    assert told == "You said: look You showed: image image/png, file application/pdf."
    for choice, names in (({"tool": {"name": "clock"}}, ["clock"]), ({"any": {}}, ["weather"])):
        content, _, _ = said(api, NOVA, "converse", toolConfig={**TOOLS, "toolChoice": choice})
        assert [block["toolUse"]["name"] for block in content] == names
    called = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "clock", "input": {}}}]}
    results = {"toolUseId": "t1", "content": [{"text": "see"}, PICTURE], "status": "success"}
    loop = [*turns("[[tools: clock]]"), called, {"role": "user", "content": [{"toolResult": results}]}]
    assert said(api, NOVA, "converse", messages=loop, toolConfig=TOOLS)[0] == [{"text": "clock answered see (image)"}]
    begun = [*turns("a"), {"role": "assistant", "content": [{"text": "It is"}]}]
    assert said(api, NOVA, "converse", messages=begun)[1] == "end_turn"
    for operation in ("converse", "converse_stream"):
        content, _, _ = said(api, NOVA, operation, messages=turns('[[tools: clock "free text"]]'), toolConfig=TOOLS)
        assert content[0]["toolUse"]["input"] == {"input": "free text"}
    system = [{"text": "one two"}, {"cachePoint": {"type": "default"}}]
    _, _, usage = said(api, NOVA, "converse", messages=turns("[[cached: 10]] a"), system=system)
    assert (usage["inputTokens"], usage["cacheReadInputTokens"], usage["totalTokens"]) == (0, 10, 13)


def refusals() -> dict[str, tuple[str, dict[str, Any]]]:
    called = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "clock", "input": {}}}]}
    result = {"toolResult": {"toolUseId": "t1", "content": [{"text": "5"}], "status": "success"}}
    loop = [*turns(), called, {"role": "user", "content": [result]}]
    schema = {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{}"}}}
    thought = {"reasoningContent": {"reasoningText": {"text": "a"}}}
    return {
        "toolConfig.toolChoice.any": (LLAMA, {"toolConfig": {**TOOLS, "toolChoice": {"any": {}}}}),
        "toolResult.status": (LLAMA, {"messages": loop, "toolConfig": TOOLS}),
        "the image field": (LLAMA, {"messages": [{"role": "user", "content": [PICTURE]}]}),
        "the document field": ("amazon.nova-micro-v1:0", {"messages": [{"role": "user", "content": [DOCUMENT]}]}),
        "prompt caching": (LLAMA, {"system": [{"text": "a"}, {"cachePoint": {"type": "default"}}]}),
        "support tool use": (DEEPSEEK, {"toolConfig": TOOLS}),
        "toolConfig field must be defined": (NOVA, {"messages": loop}),
        "Expected toolResult blocks": (NOVA, {"messages": [*turns(), called, *turns()], "toolConfig": TOOLS}),
        "exceeds the number of toolUse": (NOVA, {"messages": loop[2:], "toolConfig": TOOLS}),
        "alternate between user": (NOVA, {"messages": turns() * 2}),
        "must start with a user": (NOVA, {"messages": []}),
        "must end with a user": (LLAMA, {"messages": [*turns(), {"role": "assistant", "content": [{"text": "a"}]}]}),
        "is blank": (NOVA, {"messages": turns(" ")}),
        "A text block is required": (NOVA, {"messages": [{"role": "user", "content": [DOCUMENT]}]}),
        "outputConfig": (NOVA, {"outputConfig": {"textFormat": schema}}),
        "the reasoningContent field": (
            NOVA,
            {"messages": [*turns(), {"role": "assistant", "content": [thought]}, *turns()]},
        ),
        "extraneous key \\[thinking\\]": (NOVA, {"additionalModelRequestFields": THINKS}),
        "inferenceConfig.temperature": (NOVA, {"inferenceConfig": {"temperature": 1.5}}),
    }


@pytest.mark.parametrize("words", refusals())
def test_what_a_model_of_another_maker_does_not_take_is_a_validation_exception(api: Any, words: str) -> None:
    model, asked = refusals()[words]
    with pytest.raises(ClientError, match=words):
        said(api, model, "converse", **asked)


def test_converse_takes_pictures_schemas_cache_points_and_choices(api: Any) -> None:
    showing = [{"role": "user", "content": [{"text": "look"}, PICTURE, DOCUMENT]}]
    answer = api.converse(modelId=BEDROCK, messages=showing)
    told = answer["output"]["message"]["content"][0]["text"]
    assert told == "You said: look You showed: image image/png, file application/pdf."
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    shape = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(schema), "name": "n"}}}
    answer = api.converse(modelId=BEDROCK, messages=turns(), outputConfig={"textFormat": shape})
    assert isinstance(json.loads(answer["output"]["message"]["content"][0]["text"])["n"], int)
    system = [{"text": "one two three"}, {"cachePoint": {"type": "default"}}]
    usage = api.converse(modelId=BEDROCK, messages=turns(), system=system)["usage"]
    assert (usage["inputTokens"], usage["cacheWriteInputTokens"], usage["cacheReadInputTokens"]) == (1, 3, 0)
    chosen = {**TOOLS, "toolChoice": {"tool": {"name": "clock"}}}
    answer = api.converse(modelId=BEDROCK, messages=turns(), toolConfig=chosen)
    assert answer["output"]["message"]["content"][0]["toolUse"]["name"] == "clock"
    limits = {"maxTokens": 2, "stopSequences": ["END"], "temperature": 0.5}
    for text, reason in (("[[say: a b c]]", "max_tokens"), ("[[say: a END]]", "stop_sequence")):
        assert api.converse(modelId=BEDROCK, messages=turns(text), inferenceConfig=limits)["stopReason"] == reason
    assert (
        api.converse(modelId=BEDROCK, messages=turns("[[refuse]] [[refuse: no]]"[11:]))["stopReason"]
        == "content_filtered"
    )


def test_a_failure_inside_a_stream_is_an_exception_frame(api: Any) -> None:
    text = "[[say: a b c]] [sandbox: error-after=1, code=throttlingException]"
    with pytest.raises(EventStreamError, match="throttlingException"):
        with contextlib.closing(api.converse_stream(modelId=BEDROCK, messages=turns(text))["stream"]) as stream:
            list(stream)
    answer = api.invoke_model_with_response_stream(modelId=BEDROCK, body=plain_body("a [sandbox: error-before]"))
    with pytest.raises(EventStreamError, match="modelStreamErrorException"):
        with contextlib.closing(answer["body"]) as stream:
            list(stream)


@pytest.mark.parametrize(
    ("status", "name"),
    [(429, "ThrottlingException"), (503, "ServiceUnavailableException"), (403, "AccessDeniedException"),
     (408, "ModelTimeoutException"), (424, "ModelErrorException"), (500, "InternalServerException")],
)  # fmt: skip
def test_botocore_raises_the_class_of_each_error(api: Any, status: int, name: str) -> None:
    with pytest.raises(ClientError) as caught:
        api.converse(modelId=BEDROCK, messages=turns(f"[sandbox: status={status}]"))
    assert caught.value.response["Error"]["Code"] == name


def test_a_wrong_body_is_a_validation_exception(api: Any) -> None:
    wrong: list[dict[str, Any]] = [{"max_tokens": -1}, {"anthropic_version": "1"}, {"model": "a"}, {"stream": True}]
    for fields in wrong:
        with pytest.raises(ClientError, match="ValidationException"):
            api.invoke_model(modelId=BEDROCK, body=plain_body(**fields))
    with pytest.raises(ClientError, match="The provided model identifier is invalid"):
        api.converse(modelId="nobody.model-v1:0", messages=turns())
    with pytest.raises(ClientError, match="The provided model identifier is invalid"):
        api.invoke_model(modelId=NOVA, body=plain_body())
    with pytest.raises(ClientError, match="The model returned the following errors"):
        api.converse(modelId=BEDROCK, messages=[{"role": "assistant", "content": [{"text": "a"}]}])


def test_frames_are_whole_messages_with_padding(sandbox: Running) -> None:
    url = f"{sandbox.base_url}/model/{BEDROCK}/invoke-with-response-stream"
    content = plain_body().encode()
    answer = httpx.post(url, content=content, headers=signature("POST", url, content))
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    headers, payload = aws(answer.content)[0]
    assert headers == {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    assert json.loads(base64.b64decode(payload["bytes"]))["type"] == "message_start"
