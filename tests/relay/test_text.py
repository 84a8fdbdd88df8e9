"""Text calls end to end: every client dialect on every upstream dialect, streamed and not, charged exactly."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google import genai
from google.genai import types

from elkapi.sandbox.server import Running
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.grammar import check_stream
from tests.text_calls import CLIENTS, UPSTREAMS, Asked, ask, events, is_whole, streamed_text, text_of

MODEL = "test-model"
THEIRS = {
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-pro",
    "bedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}
_PLACE = {"type": "object", "properties": {"place": {"type": "string"}}}
_WEATHER = {"name": "weather", "parameters": _PLACE}
SEARCHES = {
    "chat": {"type": "web_search"},
    "responses": {"type": "web_search"},
    "anthropic": {"type": "web_search_20250305", "name": "web_search"},
}
FUNCTIONS = {
    "chat": {"type": "function", "function": _WEATHER},
    "responses": {"type": "function", **_WEATHER},
    "anthropic": {"name": "weather", "input_schema": _PLACE},
}


async def prepared(gate: Gateway, sandbox: Running, upstream: str) -> str:
    secret, options = UPSTREAMS[upstream]
    theirs = THEIRS.get(upstream, "gpt-4o")
    await gate.channel(
        sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), options=options, model_map={MODEL: theirs}
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    return await gate.key("10")


def spent(gate: Gateway) -> int:
    return 10 * 10**9 - gate.closed_books().customers_posted_nano


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_g27_one_call_costs_the_same_through_every_dialect_streamed_and_not(
    gate: Gateway, sandbox: Running, client: str, upstream: str
) -> None:
    key = await prepared(gate, sandbox, upstream)
    said = "The quick brown fox jumps over the lazy dog."
    whole = ask(client, MODEL, f"[[say: {said}]] [[input: 100]]")
    reply = await gate.ask(key, whole.body, path=whole.path, headers=whole.headers)
    assert reply.status_code == 200, reply.text
    assert text_of(client, reply.json()) == said
    assert MODEL in reply.text
    assert THEIRS.get(upstream, "gpt-4o") not in reply.text
    once = spent(gate)
    assert once > 0
    streamed = ask(client, MODEL, f"[[say: {said}]] [[input: 100]]", stream=True)
    stream = await gate.ask(key, streamed.body, path=streamed.path, headers=streamed.headers)
    assert stream.status_code == 200, stream.text
    assert streamed_text(client, stream.text) == said, stream.text
    assert is_whole(client, stream.text), stream.text
    assert spent(gate) == 2 * once
    account: dict[str, Any] = await gate.account(stream.headers["x-request-id"], key)
    assert account["outcome"] == "ok"


@pytest.mark.parametrize("upstream", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_channels_instructions_stand_in_the_bytes_the_upstream_gets(
    gate: Gateway, sandbox: Running, client: str, upstream: str
) -> None:
    secret, _ = UPSTREAMS[upstream]
    theirs = THEIRS.get(upstream, "gpt-4o")
    await gate.channel(
        sandbox.base_url,
        (MODEL,),
        family=upstream,
        secrets=(secret,),
        model_map={MODEL: theirs},
        system_prompt="Answer like a pirate.",
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await gate.key("10")
    asked = ask(client, MODEL, "hello there")
    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    sent = base64.b64decode(received.body_base64)
    assert sent.count(b"Answer like a pirate.") == 1
    assert b"hello there" in sent


@pytest.mark.parametrize("upstream", ["openai", "gemini", "bedrock", "anthropic"])
async def test_claude_codes_billing_line_is_sent_to_a_claude_only(
    gate: Gateway, sandbox: Running, upstream: str
) -> None:
    """It changes on every call, so that elsewhere no prefix of the conversation would be found in a cache."""
    key = await prepared(gate, sandbox, upstream)
    line = "x-anthropic-billing-header: cc_version=2.1.332.48f; cc_entrypoint=cli; cch=71fea;"
    for system in ([{"type": "text", "text": line}, {"type": "text", "text": "Be brief."}], f"{line}\nBe brief."):
        asked = ask("anthropic", MODEL, "hello there", system=system)
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 200, reply.text
    for received in sandbox.sandbox.recorder.shown():
        sent = base64.b64decode(received.body_base64)
        assert sent.count(b"Be brief.") == 1
        assert (b"billing-header" in sent) == (upstream in ("anthropic", "bedrock"))


@pytest.mark.parametrize("upstream", ["openai", "gemini", "anthropic"])
async def test_a_choice_beside_an_empty_list_of_tools_reaches_every_upstream(
    gate: Gateway, sandbox: Running, upstream: str
) -> None:
    """Clients of responses send one with every call."""
    key = await prepared(gate, sandbox, upstream)
    asked = ask("responses", MODEL, "hello there", tools=[], tool_choice="auto", parallel_tool_calls=True)
    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("upstream", ["openai", "gemini", "bedrock", "anthropic"])
async def test_an_empty_instruction_is_none(gate: Gateway, sandbox: Running, upstream: str) -> None:
    """Chat clients send one where their user wrote none."""
    key = await prepared(gate, sandbox, upstream)
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "hello there"}]
    asked = ask("chat", MODEL, "", messages=turns)
    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("asked_for", [None, {"include_usage": True}, {"include_usage": False}])
@pytest.mark.parametrize("client", ["chat", "anthropic"])
async def test_mistral_is_not_asked_for_the_usage_that_its_streams_tell_anyway(
    gate: Gateway, sandbox: Running, client: str, asked_for: Any
) -> None:
    """It answers 422 to `stream_options`."""
    await gate.channel(sandbox.base_url, (MODEL,), family="mistral", secrets=("sk-upstream",))
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    more = {"stream_options": asked_for} if asked_for and client == "chat" else {}
    asked = ask(client, MODEL, "hello there", stream=True, **more)
    reply = await gate.ask(await gate.key("10"), asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    assert is_whole(client, reply.text), reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    assert b"stream_options" not in base64.b64decode(received.body_base64)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_translated_response_tells_when_it_was_completed(gate: Gateway, sandbox: Running, stream: bool) -> None:
    key = await prepared(gate, sandbox, "anthropic")
    asked = ask("responses", MODEL, "hello", stream=stream)
    reply = await gate.ask(key, asked.body, path=asked.path)
    made = events(reply.text)[-1]["response"] if stream else reply.json()
    assert made["status"] == "completed"
    assert made["created_at"] <= made["completed_at"] <= time.time()


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages", "/v1/messages/count_tokens"])
async def test_every_line_of_betas_reaches_anthropic(gate: Gateway, sandbox: Running, path: str) -> None:
    """Anthropic's SDK for Go sends one line a beta."""
    key = await prepared(gate, sandbox, "anthropic")
    betas = ["context-1m-2025-08-07", "interleaved-thinking-2025-05-14,files-api-2025-04-14"]
    lines = [("authorization", f"Bearer {key}"), *(("anthropic-beta", line) for line in betas)]
    body = ask("anthropic", MODEL, "hello").body
    if path.endswith("count_tokens"):
        body = {name: body[name] for name in ("model", "messages")}
    reply = await gate.http.post(path, headers=lines, json=body)
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    assert dict(received.headers)["anthropic-beta"] == ",".join(betas)


@pytest.mark.parametrize("clients", [("chat", "anthropic"), ("anthropic", "chat")], ids="-".join)
async def test_only_a_claude_callers_own_headers_reach_claude_whoever_called_before(
    gate: Gateway, sandbox: Running, clients: tuple[str, str]
) -> None:
    key = await prepared(gate, sandbox, "anthropic")
    own = {"anthropic-version": "2026-10-21", "anthropic-beta": "context-1m-2025-08-07"}
    for client in clients:
        asked = ask(client, MODEL, "hello")
        reply = await gate.ask(key, asked.body, path=asked.path, headers=own)
        assert reply.status_code == 200, reply.text
    sent = [dict(one.headers) for one in sandbox.sandbox.recorder.shown()]
    versions = {"chat": ("2023-06-01", None), "anthropic": tuple(own.values())}
    assert [(one["anthropic-version"], one.get("anthropic-beta")) for one in sent] == [versions[one] for one in clients]


@pytest.mark.parametrize(
    ("query", "onward"),
    [("", ""), ("?beta=true", "?beta=true"), ("?a=1&beta=true", "?beta=true"), ("?beta=false&a=beta=true", "")],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_the_word_for_betas_in_a_query_reaches_anthropic_and_nothing_else_of_it(
    gate: Gateway, sandbox: Running, path: str, query: str, onward: str
) -> None:
    key = await prepared(gate, sandbox, "anthropic")
    body = ask("anthropic", MODEL, "hello").body
    if path.endswith("count_tokens"):
        body = {name: body[name] for name in ("model", "messages")}
    for _ in range(2):
        reply = await gate.ask(key, body, path=path + query)
        assert reply.status_code == 200, reply.text
    assert [one.target for one in sandbox.sandbox.recorder.shown()] == [path + onward] * 2


@pytest.mark.parametrize("upstream", ["openai", "bedrock"])
async def test_other_upstreams_of_a_claude_caller_have_no_word_for_betas(
    gate: Gateway, sandbox: Running, upstream: str
) -> None:
    key = await prepared(gate, sandbox, upstream)
    asked = ask("anthropic", MODEL, "hello")
    reply = await gate.ask(key, asked.body, path="/v1/messages?beta=true", headers=asked.headers)
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    assert "beta" not in received.target


@pytest.mark.parametrize("client", ["chat", "responses", "anthropic"])
async def test_the_sources_that_gemini_tells_after_a_call_are_of_the_text_before_it(gate: Gateway, client: str) -> None:
    call = {"functionCall": {"name": "weather", "args": {"place": "Rome"}}}
    source = {
        "groundingChunks": [{"web": {"uri": "https://a.test/", "title": "A"}}],
        "groundingSupports": [{"segment": {"text": "Rain."}, "groundingChunkIndices": [0]}],
    }
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 9, "totalTokenCount": 18}
    chunks = [
        {"content": {"role": "model", "parts": [{"text": "Rain."}]}},
        {"content": {"role": "model", "parts": [call]}},
        {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP", "groundingMetadata": source},
    ]
    frames = b"".join(
        b"data: " + msgspec.json.encode({"candidates": [chunk], "usageMetadata": usage}) + b"\n\n" for chunk in chunks
    )
    async with canned(200, frames=frames) as upstream:
        await gate.channel(upstream.url, (MODEL,), family="gemini", secrets=("AIzaUpstream",))
        await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("10")
        asked = ask(client, MODEL, "Will it rain?", stream=True, tools=[SEARCHES[client], FUNCTIONS[client]])
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    told = events(reply.text)
    check_stream(client, reply.text)
    match client:
        case "chat":
            cited = [one for row in told for c in row["choices"] for one in c["delta"].get("annotations", [])]
            assert [row["url_citation"]["url"] for row in cited] == ["https://a.test/"]
            assert (cited[0]["url_citation"]["start_index"], cited[0]["url_citation"]["end_index"]) == (0, 5)
        case "responses":
            message, called = told[-1]["response"]["output"]
            assert [row["url"] for row in message["content"][0]["annotations"]] == ["https://a.test/"]
            assert called["arguments"] == '{"place":"Rome"}'
        case _:
            cited = [row for row in told if row.get("delta", {}).get("type") == "citations_delta"]
            assert [(row["index"], row["delta"]["citation"]["url"]) for row in cited] == [(0, "https://a.test/")]
            assert [row["content_block"]["type"] for row in told if "content_block" in row] == ["text", "tool_use"]


@pytest.mark.parametrize("upstream", ["gemini", "openai", "anthropic"])
async def test_one_content_of_a_gemini_caller_may_stand_without_its_list(gate: Gateway, upstream: str) -> None:
    """As Google's own examples have it."""
    answers: dict[str, Any] = {
        "gemini": {"candidates": [{"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}]},
        "openai": {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]},
        "anthropic": {"type": "message", "content": [{"type": "text", "text": "yes"}], "stop_reason": "end_turn"},
    }
    asked = {"contents": {"role": "user", "parts": {"text": "hi"}}, "system_instruction": {"parts": {"text": "brief"}}}
    async with canned(200, answers[upstream]) as upstream_served:
        await gate.channel(upstream_served.url, (MODEL,), family=upstream)
        await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        reply = await gate.ask(await gate.key("1"), asked, path=f"/v1beta/models/{MODEL}:generateContent")
        assert reply.status_code == 200, reply.text
        assert text_of("gemini", reply.json()) == "yes"
        (sent,) = upstream_served.bodies
    assert b"hi" in sent
    assert b"brief" in sent


async def test_a_gemini_callers_body_names_the_model_as_its_upstream_knows_it(gate: Gateway, sandbox: Running) -> None:
    theirs = "gemini-embedding-001"
    await gate.channel(
        sandbox.base_url, (MODEL,), family="gemini", secrets=("AIzaUpstream",), model_map={MODEL: theirs}
    )
    await gate.price(MODEL, per_1m_usd="1")
    options = types.HttpOptions(base_url=gate.origin, httpx_async_client=gate.http)
    async with genai.Client(api_key=await gate.key("1"), http_options=options).aio as client:
        contents = [types.Content(parts=[types.Part(text=text)]) for text in ("one", "two")]
        found = await client.models.embed_content(model=MODEL, contents=contents)
    assert len(found.embeddings or ()) == 2
    inner = {"model": f"models/{MODEL}", "contents": [{"parts": [{"text": "one"}]}], "x": [1.50, "\u00e9"]}
    asked = {"generateContentRequest": inner, "requests": [7]}
    await gate.ask(await gate.key(), asked, path=f"/v1beta/models/{MODEL}:countTokens")
    embedded, counted = (base64.b64decode(one.body_base64) for one in sandbox.sandbox.recorder.shown())
    assert [one["model"] for one in msgspec.json.decode(embedded)["requests"]] == [f"models/{theirs}"] * 2
    assert msgspec.json.decode(counted) == asked | {"generateContentRequest": inner | {"model": f"models/{theirs}"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("upstream", "theirs"), [("openai", "gpt-5.3-codex"), ("openai", "o3-pro"), ("azure", "gpt-5-pro")]
)
async def test_a_model_that_answers_in_responses_only_answers_every_client(
    lite: Gateway, sandbox: Running, upstream: str, theirs: str, client: str, stream: bool
) -> None:
    """OpenAI refuses it in chat completions (404), which is what Claude Code and chat clients ran into."""
    secret, options = UPSTREAMS[upstream]
    map = {MODEL: theirs}
    await lite.channel(sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), options=options, model_map=map)
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("10")
    asked = ask(client, MODEL, "[[say: hello there]]", stream=stream, max_tokens=8)
    reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    assert (streamed_text(client, reply.text) if stream else text_of(client, reply.json())) == "hello there"
    (received,) = sandbox.sandbox.recorder.shown()
    assert received.target.endswith("/v1/responses")
    sent = msgspec.json.decode(base64.b64decode(received.body_base64))
    # Fewer than 16 tokens are refused there; what a caller of that dialect asks for is its own affair.
    assert (sent["model"], sent["max_output_tokens"]) == (theirs, 8 if client == "responses" else 16)
    lite.closed_books()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_of_a_name_too_long_for_openai_is_called_by_its_own(lite: Gateway, stream: bool) -> None:
    """As Claude Code names those of MCP servers: each call of such a session was refused by OpenAI (400)."""
    long = "mcp__plugin_chrome-devtools-mcp_chrome-devtools__get_console_message"
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    head = {"id": "c", "created": 1, "model": "m"}

    def answer(name: str) -> tuple[bytes, bytes]:
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"id":7}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        chunk = {"index": 0, "delta": {**message, "tool_calls": [{"index": 0, **call}]}, "finish_reason": "tool_calls"}
        whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        piece = {**head, "object": "chat.completion.chunk", "choices": [chunk], "usage": usage}
        return msgspec.json.encode(whole), b"data: " + msgspec.json.encode(piece) + b"\n\ndata: [DONE]\n\n"

    async with canned(200) as upstream:
        await lite.channel(upstream.url, (MODEL,))
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("10")
        tools = [{"name": long, "input_schema": _PLACE}, {"name": "weather", "input_schema": _PLACE}]
        asked = ask("anthropic", MODEL, "hi", stream=stream, tools=tools, tool_choice={"type": "tool", "name": long})
        for _ in range(2):
            reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
            sent = msgspec.json.decode(upstream.bodies[-1])
            name = sent["tool_choice"]["function"]["name"]
            assert [tool["function"]["name"] for tool in sent["tools"]] == [name, "weather"]
            assert len(name) <= 64
            upstream.body, upstream.frames = answer(name)
        assert name not in reply.text
        blocks = [event["content_block"] for event in events(reply.text) if "content_block" in event]
        (call,) = blocks if stream else reply.json()["content"]
        assert (call["type"], call["name"]) == ("tool_use", long)


ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/46u2vhiyo6z5"


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "nova-pro", "llama"])
async def test_a_profile_of_bedrock_that_is_a_number_is_what_its_callers_call_it(tmp_path: Path, model: str) -> None:
    """Its address says nothing of the model, so Claude was refused a forced tool and lost its thinking and cache."""
    body = {"model": model, "stop_reason": "end_turn", "usage": {"input_tokens": 5, "output_tokens": 2}}
    said = [{"type": "text", "text": "hi"}]
    claude = {**body, "id": "msg_1", "type": "message", "role": "assistant", "content": said}
    other = {
        "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7},
    }
    answer = claude if model.startswith("claude") else other
    async with canned(200, answer) as upstream, gateway(tmp_path) as gate:
        await gate.channel(
            upstream.url,
            (model,),
            family="bedrock",
            secrets=("AK:SK",),
            options={"region": "us-east-1"},
            model_map={model: ARN},
        )
        await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("10")
        asked = ask("chat", model, "hi", tools=[FUNCTIONS["chat"]], tool_choice="required")
        reply = await gate.ask(key, asked.body, path=asked.path)
        if model == "llama":
            assert (reply.status_code, upstream.bodies) == (400, [])
            return
        assert (reply.status_code, text_of("chat", reply.json())) == (200, "hi"), reply.text
        sent = msgspec.json.decode(upstream.bodies[0])
        if model == "nova-pro":
            assert sent["toolConfig"]["toolChoice"] == {"any": {}}
        else:
            assert (sent["anthropic_version"], sent["tool_choice"]) == ("bedrock-2023-05-31", {"type": "any"})
        assert reply.json()["model"] == model


@pytest.mark.parametrize("secret", ["ABSKQmVkcm9ja0FQSUtleQ==", "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3M="])
async def test_an_api_key_of_bedrock_is_sent_as_it_is(lite: Gateway, sandbox: Running, secret: str) -> None:
    """The sandbox knows signatures alone, so it refuses the call; nobody is told the key."""
    options = {"region": "us-east-1"}
    await lite.channel(
        sandbox.base_url,
        (MODEL,),
        family="bedrock",
        secrets=(secret,),
        options=options,
        model_map={MODEL: THEIRS["bedrock"]},
    )
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    asked = ask("chat", MODEL, "hi")
    reply = await lite.ask(await lite.key("10"), asked.body, path=asked.path)
    assert secret not in reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    headers = dict(received.headers)
    assert headers["authorization"] == f"Bearer {secret}"
    assert not [name for name in headers if name.startswith("x-amz-")]


@pytest.mark.parametrize("upstream", ["anthropic", "bedrock", "nova", "gemini"])
async def test_what_openai_overlooks_in_a_conversation_stops_it_nowhere(
    lite: Gateway, sandbox: Running, upstream: str
) -> None:
    """A picture under another type's name, and a call that a limit cut off: such a history was refused at each turn."""
    secret, options = UPSTREAMS["bedrock" if upstream == "nova" else upstream]
    theirs = "amazon.nova-pro-v1:0" if upstream == "nova" else THEIRS[upstream]
    family = "bedrock" if upstream == "nova" else upstream
    await lite.channel(
        sandbox.base_url, (MODEL,), family=family, secrets=(secret,), options=options, model_map={MODEL: theirs}
    )
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("10")
    cut = '{"command": "ls'
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": cut}}
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{begin}AAAA"}}
        for kind, begin in (("jpg", "/9j/"), ("jpeg", "iVBORw0KGgoA"))
    ]
    turns = [
        {"role": "user", "content": [*pictures, {"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "The arguments are not valid JSON."},
    ]
    asked = ask("chat", MODEL, "", messages=turns, tools=[FUNCTIONS["chat"]])
    reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    sent = base64.b64decode(received.body_base64)
    assert b'{"arguments":' + msgspec.json.encode(cut) + b"}" in sent
    kinds = (b'"jpeg"', b'"png"') if upstream == "nova" else (b"image/jpeg", b"image/png")
    assert -1 < sent.find(kinds[0]) < sent.find(kinds[1])
    assert b"jpg" not in sent


@pytest.mark.parametrize("choices", [[], None])
@pytest.mark.parametrize("client", [*CLIENTS, "completions"])
async def test_an_answer_without_a_choice_is_no_answer(lite: Gateway, client: str, choices: list[Any] | None) -> None:
    """It was passed on to who speaks the upstream's dialect, and charged; SDKs fail where they look at the first."""
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    choice = {
        "index": 0,
        "text": "hello",
        "message": {"role": "assistant", "content": "hello"},
        "finish_reason": "stop",
    }
    asked = ask(client, "m", "hi")
    if client == "completions":
        asked = Asked("/v1/completions", {"model": "m", "prompt": '"choices":[]'})
    async with canned(200, {**head, "choices": choices}) as empty, canned(200, {**head, "choices": [choice]}) as good:
        await lite.channel(empty.url, ("m",), family="compatible", priority=1)
        await lite.channel(good.url, ("m",), family="compatible")
        await lite.price("m", per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 200, reply.text
        assert "hello" in reply.text
        assert (len(empty.bodies), len(good.bodies)) == (1, 1)
        assert (await lite.account(reply.headers["x-request-id"], key))["cost_usd"] == "0.000005"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("client", "tools"),
    [
        ("chat", {"web_search_options": {}}),
        ("responses", {"tools": [{"type": "web_search"}]}),
        ("gemini", {"tools": [{"googleSearch": {}}]}),
    ],
)
async def test_the_texts_around_a_search_of_claudes_do_not_run_together(
    lite: Gateway, client: str, tools: dict[str, Any], stream: bool
) -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "Let me look."},
        search,
        found,
        {"type": "text", "text": "It is so."},
    ]
    usage = {"input_tokens": 9, "output_tokens": 9}
    message: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant", "model": MODEL, "content": blocks}
    message |= {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    told: list[dict[str, Any]] = [{"type": "message_start", "message": message | {"content": [], "stop_reason": None}}]
    for index, block in enumerate(blocks):
        where = {"index": index}
        start = {"type": "text", "text": ""} if block["type"] == "text" else block
        told.append({"type": "content_block_start", **where, "content_block": start})
        if block["type"] == "text":
            delta = {"type": "text_delta", "text": block["text"]}
            told.append({"type": "content_block_delta", **where, "delta": delta})
        told.append({"type": "content_block_stop", **where})
    told.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    told.append({"type": "message_stop"})
    frames = b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), msgspec.json.encode(one)) for one in told)
    async with canned(200, message, frames) as upstream:
        await lite.channel(upstream.url, (MODEL,), family="anthropic", model_map={MODEL: "claude-sonnet-4-5"})
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        asked = ask(client, MODEL, "Tell me.", stream=stream, **tools)
        reply = await lite.ask(await lite.key("1"), asked.body, path=asked.path)
    assert reply.status_code == 200, reply.text
    said = streamed_text(client, reply.text) if stream else text_of(client, reply.json())
    assert said == "Let me look.\n\nIt is so."
