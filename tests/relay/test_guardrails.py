"""Guardrails end to end: before anything is held or sent, before anything is released, in every dialect and form."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from elkapi.relay import hold
from elkapi.sandbox.server import Running
from elkapi.types import Amounts, Guard, Policy, Variant
from tests.canned import canned
from tests.gateway import SMALL, Gateway
from tests.relay.test_text_usage import priced, whole_of
from tests.text_calls import CLIENTS, ask, events, has_error, is_whole, streamed_text, text_of
from tests.waiting import until

MODEL = "gpt-4o"
WORD, MAIL = "xyzzy", "jane@example.com"
BLOCKING = Guard(name="no-magic", kind="words", words=(WORD,))
MASKING = Guard(name="no-mail", kind="pii", find=("email", "card"), action="mask")


async def prepared(
    gate: Gateway, url: str, *guards: Guard, window: bool = False, family: str = "openai", **policy: Any
) -> str:
    """A key whose calls these guards look at, in their order."""
    await gate.channel(url, (MODEL,), family=family)
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    for guard in guards:
        await gate.guard(guard)
    streams: Any = "window" if window else None
    return await gate.key(
        "1", policy=Policy(guards=tuple(guard.name for guard in guards), guard_streams=streams, **policy)
    )


async def post(gate: Gateway, key: str, client: str, prompt: str, *, stream: bool = False, **more: Any) -> Any:
    asked = ask(client, MODEL, prompt, stream=stream, max_tokens=more.pop("max_tokens", 200))
    asked.body.update({"store": False} if client == "responses" else {})
    asked.body.update(more.pop("body", {}))
    return await gate.ask(
        key, asked.body, path=more.pop("path", asked.path), headers={**asked.headers, **more.pop("headers", {})}
    )


def said(client: str, stream: bool, reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    if stream:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert is_whole(client, reply.text), reply.text
        return streamed_text(client, reply.text)
    return text_of(client, reply.json())


def sent(sandbox: Running) -> list[dict[str, Any]]:
    return [msgspec.json.decode(base64.b64decode(one.body_base64)) for one in sandbox.sandbox.recorder.shown()]


def money(gate: Gateway) -> tuple[int, int]:
    """(what customers have, what the operator lost), in nano-USD, with no hold open."""
    books = gate.closed_books()
    return books.customers_posted_nano, books.loss_nano


def nowhere(gate: Gateway, text: str) -> None:
    """A blocked text is in no record and in no log line."""
    records = [bytes(row[0]) for row in gate.sql("select record from requests")]
    assert records
    assert not any(text.encode() in record for record in records)
    assert text not in (gate.plane.settings.data_path / "gateway.log").read_text()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_blocked_call_is_free_reaches_no_upstream_and_is_told_in_the_callers_dialect(
    lite: Gateway, sandbox: Running, client: str
) -> None:
    key = await prepared(lite, sandbox.base_url, BLOCKING)
    for stream in (False, True):
        reply = await post(lite, key, client, f"say X\u200bYZZY! aloud, {WORD}", stream=stream)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert "content_blocked" in error["message"]
        assert "no-magic" in error["message"]
        assert error.get("code") == {"anthropic": None, "gemini": 400}.get(client, "content_blocked")
        account = await lite.account(reply.headers["x-request-id"], key)
        assert (account["status"], account["error_code"], account["guard"]) == (400, "content_blocked", "no-magic")
        assert (account["attempts"], account["held_usd"], account["ledger"]) == ([], "0.00", [])
    assert sent(sandbox) == []
    assert money(lite) == (10**9, 0)
    nowhere(lite, WORD)
    assert said(client, False, await post(lite, key, client, "[[say: plugh]]")) == "plugh"


@pytest.mark.parametrize("client", CLIENTS)
async def test_masks_change_what_is_sent_and_every_unknown_member_survives(
    lite: Gateway, sandbox: Running, client: str
) -> None:
    key = await prepared(lite, sandbox.base_url, MASKING)
    asked = ask(client, MODEL, f"[[say: ok]] I am {MAIL}, not jane at example")
    number = b"1.2345678901234567890123"
    body = msgspec.json.encode(asked.body)[:-1] + b',"x_unknown":{"' + MAIL.encode() + b'":' + number + b"}}"
    async with canned(200, {}) as upstream:
        await lite.channel(
            upstream.url, (MODEL,), priority=1, family={"chat": "openai", "responses": "openai"}.get(client, client)
        )
        await lite.ask(key, body, path=asked.path, headers=asked.headers)
        (received,) = upstream.bodies[:1]
    assert b"I am [EMAIL], not jane at example" in received
    assert b'"x_unknown":{"' + MAIL.encode() + b'":' + number + b"}" in received


async def test_every_place_of_a_conversation_is_looked_at(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox.base_url, BLOCKING)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\u0078yzzy"}'}}
    user = {"role": "user", "content": "hello"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": WORD}, user]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": WORD}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "Content": WORD, "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [user, {"role": "assistant", "content": None, "tool_calls": [call]}]}),
        ("/v1/chat/completions", {"messages": [user, {"role": "tool", "tool_call_id": "c", "content": WORD}]}),
        ("/v1/completions", {"prompt": ["x", WORD]}),
        ("/v1/responses", {"input": "x", "instructions": WORD}),
        ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": WORD}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": WORD}]}]}),
        ("/v1/messages", {"max_tokens": 9, "system": [{"type": "text", "text": WORD}], "messages": [user]}),
        (
            "/v1/messages",
            {
                "max_tokens": 9,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": WORD}]}
                        ],
                    }
                ],
            },
        ),
        (
            "/v1/messages",
            {
                "max_tokens": 9,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": WORD}}
                        ],
                    }
                ],
            },
        ),
        (f"/v1beta/models/{MODEL}:generateContent", {"contents": [{"parts": [{"text": WORD}]}]}),
        (
            f"/v1beta/models/{MODEL}:generateContent",
            {"contents": [{"parts": [{"text": "x"}]}], "system_instruction": {"parts": [{"text": WORD}]}},
        ),
        (f"/v1beta/models/{MODEL}:generateContent", {"contents": {"parts": {"text": WORD}}}),
        (
            f"/v1beta/models/{MODEL}:generateContent",
            {
                "contents": {"parts": {"text": "x"}},
                "tools": {"function_declarations": {"name": "f", "description": WORD}},
            },
        ),
        (
            f"/v1beta/models/{MODEL}:generateContent",
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"a": [WORD]}}}]}]},
        ),
        ("/v1/embeddings", {"input": ["x", WORD]}),
        (f"/v1beta/models/{MODEL}:embedContent", {"content": {"parts": [{"text": WORD}]}}),
        ("/v1/moderations", {"input": WORD}),
        ("/v1/rerank", {"query": "x", "documents": ["x", {"text": WORD}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": WORD}]}),
    ]
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": WORD}}
    fetched = {"type": "web_fetch_result", "url": "https://a.test", "content": document}
    ran = {"type": "bash_code_execution_result", "stdout": WORD, "stderr": "", "return_code": 0, "content": []}
    quoted = {"type": "char_location", "cited_text": WORD, "document_index": 0, "start_char_index": 0}
    for role, block in (
        ("user", {"type": "tool_result", "tool_use_id": "t", "content": [document]}),
        ("assistant", {"type": "web_fetch_tool_result", "tool_use_id": "t", "content": fetched}),
        ("assistant", {"type": "bash_code_execution_tool_result", "tool_use_id": "t", "content": ran}),
        ("assistant", {"type": "text", "text": "x", "citations": [quoted]}),
    ):
        bodies.append(("/v1/messages", {"max_tokens": 9, "messages": [user, {"role": role, "content": [block]}]}))
    namespace = {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "description": WORD}]}
    bodies.append(("/v1/responses", {"input": "x", "tools": [namespace]}))
    bodies.append(("/v1/responses", {"input": [{"type": "additional_tools", "tools": namespace["tools"]}]}))
    for item in (
        {"type": "program", "call_id": "p", "code": f"print('{WORD}')"},
        {"type": "program_output", "call_id": "p", "result": WORD},
        {"type": "apply_patch_call", "call_id": "a", "operation": {"type": "create_file", "diff": f"+{WORD}"}},
        {"type": "apply_patch_call_output", "call_id": "a", "output": WORD},
        {"type": "shell_call", "call_id": "s", "action": {"commands": [f"echo {WORD}"]}},
        {"type": "shell_call_output", "call_id": "s", "output": [{"stdout": WORD, "stderr": ""}]},
    ):
        bodies.append(("/v1/responses", {"input": [item]}))
    added = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"description": WORD}}}
    for members in (
        {"messages": [user], "compaction": {"type": "summarize", "instructions": WORD}},
        {"messages": [user, {"role": "system", "content": [added]}]},
        {"messages": [{"role": "user", "content": [{"type": "compaction", "content": "x", "tool_changes": [added]}]}]},
        {"messages": [{"role": "user", "content": [{"type": "mcp_tool_listing", "tools": [{"description": WORD}]}]}]},
    ):
        bodies.append(("/v1/messages", {"max_tokens": 9, **members}))
    for part in ({"toolCall": {"args": {"q": WORD}}}, {"tool_response": {"response": {"a": [WORD]}}}):
        bodies.append((f"/v1beta/models/{MODEL}:generateContent", {"contents": [{"parts": [part]}]}))
    for path, body in bodies:
        reply = await lite.ask(key, {"model": MODEL, **body}, path=path)
        assert (reply.status_code, "content_blocked" in reply.text) == (400, True), (path, body, reply.text)
    for path, body in (("/v1/embeddings", {"input": [1, 2]}), ("/v1/completions", {"prompt": [[1], [2]]})):
        reply = await lite.ask(key, {"model": MODEL, **body}, path=path)
        assert (reply.status_code, "token ids" in reply.text) == (400, True)
    # A second conversation in other letters goes nowhere at all.
    twice = {"model": MODEL, "messages": [user], "me\u017f\u017fages": [{"role": "user", "content": WORD}]}
    reply = await lite.ask(key, twice, path="/v1/chat/completions")
    assert (reply.status_code, "must be spelled" in reply.text) == (400, True)
    assert sent(sandbox) == []


PATCH = {
    "type": "apply_patch_call",
    "id": "apc_1",
    "call_id": "call_1",
    "status": "completed",
    "operation": {"type": "create_file", "path": "a.txt", "diff": f"+one {WORD} two"},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_file_that_a_model_writes_is_looked_at(lite: Gateway, stream: bool) -> None:
    """Of an apply_patch call only the answer's last event but one shows it."""
    usage = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}
    begun = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "error": None, "output": []}
    whole = begun | {"status": "completed", "output": [PATCH], "usage": usage}
    told: tuple[dict[str, Any], ...] = (
        {"type": "response.created", "response": begun | {"status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": PATCH | {"status": "in_progress"}},
        {"type": "response.output_item.done", "output_index": 0, "item": PATCH},
        {"type": "response.completed", "response": whole},
    )
    frames = b"".join(
        b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event | {"sequence_number": n}))
        for n, event in enumerate(told)
    )
    async with canned(200, whole, frames) as upstream:
        key = await prepared(lite, upstream.url, msgspec.structs.replace(BLOCKING, direction="output"))
        body = {"model": MODEL, "input": "write it", "store": False, "stream": stream}
        reply = await lite.ask(key, body, path="/v1/responses")
    assert "content_blocked" in reply.text
    assert WORD not in reply.text


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_blocked_answer_stays_here_free_to_the_caller_and_the_operators_loss(
    lite: Gateway, sandbox: Running, client: str
) -> None:
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(BLOCKING, direction="output"))
    for number, stream in enumerate((False, True), 1):
        reply = await post(lite, key, client, f"[[say: one two {WORD} three]] [[input: 50]]", stream=stream)
        assert (reply.status_code, "content_blocked" in reply.text) == (400, True), reply.text
        account = await lite.account(reply.headers["x-request-id"], key)
        assert (account["outcome"], account["guard"], account["cost_usd"]) == ("content_blocked", "no-magic", "0.00")
        assert [attempt["outcome"] for attempt in account["attempts"]] == ["ok"]
        assert money(lite) == (10**9, number * (50 * 1_000 + 4 * 2_000))
    nowhere(lite, WORD)


async def test_the_books_of_both_databases_hold_whatever_is_blocked(gate: Gateway, sandbox: Running) -> None:
    input_key = await prepared(gate, sandbox.base_url, BLOCKING)
    output = msgspec.structs.replace(BLOCKING, name="later", direction="output")
    await gate.guard(output)
    buffer_key, window_key = [
        await gate.key("1", policy=Policy(guards=("later",), guard_streams=way)) for way in ("buffer", "window")
    ]
    loss = 0
    for key, stream in ((input_key, False), (buffer_key, False), (buffer_key, True), (window_key, True)):
        reply = await post(gate, key, "chat", f"[[say: one {WORD} two]] [[input: 50]]", stream=stream)
        assert "content_blocked" in reply.text
        account = await gate.account(reply.headers["x-request-id"], key)
        assert (account["outcome"], account["cost_usd"]) == ("content_blocked", "0.00")
        (lost,) = gate.sql("select sum(loss_nano) from requests")[0]
        assert (int(lost) > loss) is (key is not input_key)
        loss = int(lost)
    assert money(gate) == (3 * 10**9, loss)


@pytest.mark.parametrize("window", [False, True], ids=["buffer", "window"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_an_answer_is_masked_whole_and_streamed_and_charged_as_ever(
    lite: Gateway, sandbox: Running, client: str, window: bool
) -> None:
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(MASKING, direction="output"), window=window)
    words = f"Write to {MAIL} or pay with 4111 1111 1111 1111 today, as always."
    for stream in (False, True):
        reply = await post(lite, key, client, f"[[say: {words}]] [[input: 50]]", stream=stream)
        assert said(client, stream, reply) == "Write to [EMAIL] or pay with [CARD] today, as always."
        assert MAIL not in reply.text
    costs = {row[0] for row in lite.sql("select charge_nano from requests")}
    assert len(costs) == 1
    assert money(lite)[1] == 0
    assert {one.get("stream", False) for one in sent(sandbox)} == {window, False}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_without_usage_is_still_masked_where_it_is_written_anew_with_our_count(
    lite: Gateway, stream: bool
) -> None:
    """Across dialects an answer without usage is written once more with its count, which must not undo the masks."""
    message = {"role": "assistant", "content": f"Write to {MAIL} today."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices}
    async with canned(200, body) as upstream:
        key = await prepared(lite, upstream.url, MASKING)
        reply = await post(lite, key, "anthropic", "hello", stream=stream)
    text = said("anthropic", stream, reply)
    assert (MAIL in reply.text, text.startswith("Write to "), text.endswith(" today.")) == (False, True, True)
    if not stream:
        assert reply.json()["usage"]["output_tokens"] > 0
    account = await lite.account(reply.headers["x-request-id"], key)
    assert "usage_missing" in account["flags"]
    assert account["cost_usd"] != "0.00"
    lite.closed_books()


@pytest.mark.parametrize("client", CLIENTS)
async def test_g41_a_stream_stopped_in_a_window_ends_with_an_error_event_and_costs_its_caller_nothing(
    lite: Gateway, sandbox: Running, client: str
) -> None:
    guard = msgspec.structs.replace(BLOCKING, direction="output", words=("open sesame",))
    key = await prepared(lite, sandbox.base_url, guard, window=True)
    # More than one read of the upstream's socket brings, so that a part of it has been released.
    before = " ".join(f"word{number}" for number in range(1500))
    prompt = f"[[say: {before} Open  Sesame {before}]]"
    reply = await post(lite, key, client, prompt, stream=True, max_tokens=10_000)
    assert reply.status_code == 200
    assert has_error(client, reply.text), reply.text
    assert not is_whole(client, reply.text)
    text = streamed_text(client, reply.text)
    assert before.startswith(text.strip())
    assert len(text) > 1000
    assert "content_blocked" in reply.text
    account = await lite.account(reply.headers["x-request-id"], key)
    assert (account["outcome"], account["error_code"], account["guard"]) == (
        "content_blocked",
        "content_blocked",
        "no-magic",
    )
    assert account["cost_usd"] == "0.00"
    balance, loss = money(lite)
    assert balance == 10**9
    # What had come by then, counted by ourselves; the words of the error are nobody's output.
    assert 1_500 * 2_000 < loss < 15_000_000
    nowhere(lite, "esame")


@pytest.mark.parametrize("window", [False, True], ids=["buffer", "window"])
async def test_arrays_and_legacy_completions_pass_guardrails_too(lite: Gateway, sandbox: Running, window: bool) -> None:
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(MASKING, direction="output"), window=window)
    prompt = f"[[say: to {MAIL} it goes]]"
    array = await post(lite, key, "gemini", prompt, path=f"/v1beta/models/{MODEL}:streamGenerateContent")
    assert array.headers["content-type"].startswith("application/json")
    parts = [part for event in array.json() for part in event["candidates"][0]["content"]["parts"]]
    assert "".join(part["text"] for part in parts) == "to [EMAIL] it goes"
    asked = {"model": MODEL, "prompt": prompt, "stream": True, "max_tokens": 50}
    stream = await lite.ask(key, asked, path="/v1/completions")
    text = "".join(event["choices"][0]["text"] for event in events(stream.text) if event["choices"])
    assert (stream.status_code, text, stream.text.endswith("data: [DONE]\n\n")) == (200, "to [EMAIL] it goes", True)


SAID = f"Write to {MAIL}."
LIKELY = {"token": MAIL, "logprob": -1.0, "bytes": [97], "top_logprobs": []}
REPEATED: dict[str, dict[str, Any]] = {
    "chat": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": SAID,
                    "reasoning_details": [{"type": "reasoning.text", "text": SAID}],
                    "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.test", "title": MAIL}}],
                    "audio": {"id": "a", "data": "AAAA", "transcript": SAID, "expires_at": 1},
                },
                "logprobs": {"content": [LIKELY]},
                "finish_reason": "stop",
            }
        ],
        "citations": ["https://a.test"],
        "search_results": [{"url": "https://a.test", "title": MAIL, "snippet": SAID}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    },
    "responses": {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [
            {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": MAIL}},
            {
                "type": "message",
                "id": "m",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {
                        "type": "output_text",
                        "text": SAID,
                        "annotations": [
                            {"type": "url_citation", "url": "u", "title": MAIL, "start_index": 0, "end_index": 1}
                        ],
                        "logprobs": [LIKELY],
                    }
                ],
            },
        ],
        "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
    },
    "anthropic": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {
                "type": "text",
                "text": SAID,
                "citations": [
                    {
                        "type": "web_search_result_location",
                        "url": "https://a.test",
                        "title": MAIL,
                        "encrypted_index": "e",
                        "cited_text": SAID,
                    }
                ],
            },
            {
                "type": "web_fetch_tool_result",
                "tool_use_id": "t",
                "content": {
                    "type": "web_fetch_result",
                    "url": "https://a.test",
                    "content": {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": SAID},
                    },
                },
            },
        ],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 5},
    },
    "gemini": {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": SAID}]},
                "finishReason": "STOP",
                "groundingMetadata": {
                    "webSearchQueries": [MAIL],
                    "searchEntryPoint": {"renderedContent": f"<a>{MAIL}</a>"},
                    "groundingChunks": [{"web": {"uri": "https://a.test", "title": MAIL}}],
                    "groundingSupports": [
                        {"segment": {"endIndex": len(SAID), "text": SAID}, "groundingChunkIndices": [0]}
                    ],
                },
                "citationMetadata": {"citations": [{"uri": "https://a.test", "title": MAIL}]},
                "logprobsResult": {"chosenCandidates": [{"token": MAIL, "logProbability": -1.0}]},
            }
        ],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8},
    },
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_an_answer_repeats_of_its_text_is_masked_too(lite: Gateway, client: str) -> None:
    """Sources quote it, likelihoods tell its tokens, and a search its words."""
    async with canned(200, REPEATED[client]) as upstream:
        guard = msgspec.structs.replace(MASKING, direction="output")
        key = await prepared(lite, upstream.url, guard, family="new-api")
        for stream in (False, True):
            reply = await post(lite, key, client, "hello", stream=stream)
            assert said(client, stream, reply).startswith("Write to [EMAIL].")
            assert MAIL not in reply.text


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALLED = f'[[tools: f {{"to": "{MAIL}", "card": 4111111111111111, "n": 7}}; f {{"to": "x"}}]]'


@pytest.mark.parametrize("window", [False, True], ids=["buffer", "window"])
async def test_arguments_of_tools_are_masked_and_stay_json(lite: Gateway, sandbox: Running, window: bool) -> None:
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(MASKING, direction="output"), window=window)
    for stream in (False, True):
        reply = await post(lite, key, "chat", CALLED, stream=stream, body={"tools": TOOLS})
        assert reply.status_code == 200, reply.text
        arguments = ["", ""]
        if stream:
            assert is_whole("chat", reply.text)
            for event in events(reply.text):
                for choice in event.get("choices", []):
                    for call in choice["delta"].get("tool_calls", []):
                        arguments[call["index"]] += call["function"].get("arguments", "")
        else:
            calls = reply.json()["choices"][0]["message"]["tool_calls"]
            arguments = [call["function"]["arguments"] for call in calls]
        assert msgspec.json.decode(arguments[0]) == {"to": "[EMAIL]", "card": "[CARD]", "n": 7}
        assert msgspec.json.decode(arguments[1]) == {"to": "x"}


async def test_several_choices_are_looked_at_whole_and_cannot_be_streamed(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(MASKING, direction="output"), window=True)
    reply = await post(lite, key, "chat", f"[[say: to {MAIL}]]", body={"n": 2})
    assert [choice["message"]["content"] for choice in reply.json()["choices"]] == ["to [EMAIL]"] * 2
    reply = await post(lite, key, "chat", "hello", body={"n": 2}, stream=True)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")


async def test_g52_a_blocked_call_goes_to_no_other_model(lite: Gateway, sandbox: Running) -> None:
    for window in (False, True):
        key = await prepared(
            lite,
            sandbox.base_url,
            msgspec.structs.replace(BLOCKING, direction="output"),
            window=window,
            fallbacks={MODEL: ("other",)},
        )
        await lite.channel(sandbox.base_url, ("other",), model_map={"other": MODEL})
        await lite.price("other", per_1m_usd="1")
        for stream in (False, True):
            before = len(sent(sandbox))
            reply = await post(lite, key, "chat", f"[[say: a {WORD}]]", stream=stream)
            assert "content_blocked" in reply.text
            assert len(sent(sandbox)) == before + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_no_text_stays_here_as_the_operators_loss(lite: Gateway, stream: bool) -> None:
    key = await prepared(lite, "http://127.0.0.1:9", msgspec.structs.replace(MASKING, direction="output"))
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    choice = {"index": 0, "message": {"role": "assistant", "content": "BYTE"}, "finish_reason": "stop"}
    async with canned(200, {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}) as upstream:
        upstream.body = upstream.body.replace(b"BYTE", b"\xff")
        await lite.channel(upstream.url, (MODEL,), priority=1)
        reply = await post(lite, key, "chat", "hello", stream=stream)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
    posted, lost = money(lite)
    assert posted == 10**9
    assert lost > 0


class Hook:
    """An operator's hook: answers with what `decide` makes of the question, or with bytes of its own."""

    def __init__(self, decide: Callable[[dict[str, Any]], object]) -> None:
        self.decide = decide
        self.questions: list[tuple[dict[bytes, bytes], bytes]] = []
        self.over = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.split(b"\r\n")[1:-2]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
                body = await reader.readexactly(int(headers[b"content-length"]))
                self.questions.append((headers, body))
                answer = self.decide(msgspec.json.decode(body))
                if answer is None:
                    await self.over.wait()
                    break
                text = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
                status = 500 if answer == b"broken" else 200
                writer.write(b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n\r\n%b" % (status, len(text), text))
        writer.close()


@contextlib.asynccontextmanager
async def hooked(decide: Callable[[dict[str, Any]], object]) -> AsyncIterator[Hook]:
    hook = Hook(decide)
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/look?no"[:-3]
    try:
        yield hook
    finally:
        server.close()
        hook.over.set()
        for writer in hook.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def hook_guard(url: str, **more: Any) -> Guard:
    return Guard(name="ask-us", kind="hook", url=url, secret="hook-secret", **{"deadline_s": 5.0, **more})


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_hook_sees_signed_texts_and_replaces_them(lite: Gateway, sandbox: Running, client: str) -> None:
    def decide(question: dict[str, Any]) -> object:
        return {"action": "replace", "texts": [text.replace("red", "blue") for text in question["texts"]]}

    async with hooked(decide) as hook:
        key = await prepared(lite, sandbox.base_url, MASKING, hook_guard(hook.url), window=True)
        for stream in (False, True):
            reply = await post(lite, key, client, f"[[say: a red one of {MAIL} now]]", stream=stream)
            assert said(client, stream, reply) == "a blue one of [EMAIL] now"
    assert [msgspec.json.decode(body)["direction"] for _, body in hook.questions] == ["input", "output"] * 2
    headers, body = hook.questions[0]
    question = msgspec.json.decode(body)
    assert (question["guard"], question["model"], question["group"]) == ("ask-us", MODEL, "default")
    # Each guardrail sees what the one before it left.
    assert question["texts"] == ["[[say: a red one of [EMAIL] now]]"]
    moment, mark = [part.partition("=")[2] for part in headers[b"x-elkapi-signature"].decode().split(",")]
    expected = hmac.digest(b"hook-secret", moment.encode() + b"." + body, hashlib.sha256).hex()
    assert hmac.compare_digest(mark, expected)


async def test_a_hook_blocks_with_its_reason(lite: Gateway, sandbox: Running) -> None:
    async with hooked(lambda question: {"action": "block", "reason": "not\non Sundays"}) as hook:
        key = await prepared(lite, sandbox.base_url, hook_guard(hook.url))
        reply = await post(lite, key, "chat", "hello")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_blocked")
    assert "'ask-us': noton Sundays" in reply.json()["error"]["message"]
    assert sent(sandbox) == []


NONSENSE: dict[str, object] = {
    "broken": b"broken",
    "no json": b"<html>",
    "no text": b'{"action": "\xff"}',
    "bottomless": b'{"x":' * 5_000,
    "no action": {},
    "unknown": {"action": "shrug"},
    "too few": {"action": "replace", "texts": []},
    "slow": None,
}


@pytest.mark.parametrize("direction", ["input", "output"])
@pytest.mark.parametrize("when_down", ["open", "closed"])
async def test_a_hook_that_is_down_lets_through_or_refuses_as_its_guard_says(
    lite: Gateway, sandbox: Running, direction: Any, when_down: Any
) -> None:
    cases = iter(NONSENSE.values())
    async with hooked(lambda _: next(cases)) as hook:
        guard = hook_guard(hook.url, direction=direction, when_down=when_down, deadline_s=60.0)
        key = await prepared(lite, sandbox.base_url, guard)
        for case in NONSENSE:
            if case == "slow":  # Only here may the deadline pass.
                await lite.guard(msgspec.structs.replace(guard, deadline_s=0.3))
            reply = await post(lite, key, "chat", "[[say: ok]] [[input: 50]]")
            assert reply.status_code == (200 if when_down == "open" else 503), case
            if when_down == "closed":
                assert reply.json()["error"]["code"] == "guardrail_unavailable"
        assert len(hook.questions) >= len(NONSENSE) - 1
    cost = len(NONSENSE) * (50 * 1_000 + 1 * 2_000)
    assert len(sent(sandbox)) == (0 if (when_down, direction) == ("closed", "input") else len(NONSENSE))
    expected = {
        ("open", "input"): (10**9 - cost, 0),
        ("open", "output"): (10**9 - cost, 0),
        ("closed", "input"): (10**9, 0),
        ("closed", "output"): (10**9, cost),
    }
    assert money(lite) == expected[when_down, direction]


async def test_a_hook_that_nobody_listens_at_is_down(lite: Gateway, sandbox: Running) -> None:
    async with hooked(lambda _: {"action": "allow"}) as hook:
        pass
    key = await prepared(lite, sandbox.base_url, hook_guard(hook.url, direction="input"))
    assert (await post(lite, key, "chat", "hello")).status_code == 503


async def test_a_hook_whose_secret_does_not_open_is_never_asked(lite: Gateway, sandbox: Running) -> None:
    async with hooked(lambda _: {"action": "allow"}) as hook:
        key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(hook_guard(hook.url), secret=""))
        assert (await post(lite, key, "chat", "hello")).status_code == 503
        assert hook.questions == []


async def test_a_keys_guards_take_the_place_of_its_groups_and_a_missing_one_stops_the_call(
    lite: Gateway, sandbox: Running
) -> None:
    await prepared(lite, sandbox.base_url, BLOCKING, MASKING)
    await lite.group("default", 1_000_000, Policy(guards=("no-magic",)))
    plain, own, lost = [
        await lite.key("1", policy=policy)
        for policy in (Policy(), Policy(guards=("no-mail",)), Policy(guards=("gone",)))
    ]
    replies = [await post(lite, key, "chat", f"[[say: ok]] {WORD} {MAIL}") for key in (plain, own, lost)]
    assert [reply.status_code for reply in replies] == [400, 200, 503]
    assert replies[2].json()["error"]["code"] == "guardrail_unavailable"


async def test_the_cache_keeps_what_passed_and_a_changed_guardrail_begins_anew(lite: Gateway, sandbox: Running) -> None:
    guard = msgspec.structs.replace(MASKING, direction="output")
    for window in (False, True):
        key = await prepared(lite, sandbox.base_url, guard, window=window, cache=True)
        prompt = f"[[say: to {MAIL} it goes]] {window}"
        seen = []
        for stream in (True, False, True):
            reply = await post(lite, key, "chat", prompt, stream=stream)
            await lite.plane.answers.idle()
            assert said("chat", stream, reply) == "to [EMAIL] it goes"
            seen.append(reply.headers["x-elkapi-cache"])
        assert seen == ["miss", "hit", "hit"]
    await lite.guard(msgspec.structs.replace(guard, action="block"))
    for _ in range(2):
        reply = await post(lite, key, "chat", prompt, stream=False)
        await lite.plane.answers.idle()
        assert (reply.status_code, reply.headers["x-elkapi-cache"]) == (400, "miss")


async def test_an_idempotent_repeat_of_a_buffered_stream_is_that_stream(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(MASKING, direction="output"))
    replies = [
        await post(lite, key, "chat", f"[[say: to {MAIL}]]", stream=True, headers={"idempotency-key": "k"})
        for _ in range(2)
    ]
    assert [said("chat", True, reply) for reply in replies] == ["to [EMAIL]"] * 2
    assert replies[1].headers["idempotent-replayed"] == "true"
    assert len(sent(sandbox)) == 1


async def ended(gate: Gateway, key: str, response_id: str) -> dict[str, Any]:
    while True:
        reply = await gate.http.get(f"/v1/responses/{response_id}", headers={"authorization": f"Bearer {key}"})
        response = dict(reply.json())
        if response["status"] not in ("queued", "in_progress"):
            return response
        await asyncio.sleep(0.01)


async def test_answers_that_are_kept_or_made_in_the_background_are_looked_at_too(
    lite: Gateway, sandbox: Running
) -> None:
    blocking = msgspec.structs.replace(BLOCKING, words=(WORD, "you said"))
    key = await prepared(
        lite, sandbox.base_url, msgspec.structs.replace(MASKING, direction="output"), blocking, window=True
    )
    asked = {"model": MODEL, "input": f"[[say: to {MAIL} it goes]]", "max_output_tokens": 100}
    for more in ({}, {"stream": True}, {"background": True}, {"background": True, "stream": True}):
        reply = await lite.ask(key, {**asked, **more}, path="/v1/responses")
        assert reply.status_code == 200, reply.text
        assert MAIL not in reply.text or more.get("background")
        response = events(reply.text)[-1]["response"] if "stream" in more else reply.json()
        response = await ended(lite, key, response["id"])
        assert text_of("responses", response) == "to [EMAIL] it goes"
    # What it goes on from is looked at with it.
    later = {"model": MODEL, "input": f"{WORD}?", "previous_response_id": response["id"], "background": True}
    assert (await lite.ask(key, later, path="/v1/responses")).json()["error"]["code"] == "content_blocked"
    spoken = {**asked, "input": "hello", "background": True}
    response = await ended(lite, key, (await lite.ask(key, spoken, path="/v1/responses")).json()["id"])
    assert response["status"] == "failed"
    assert "content_blocked" in response["error"]["message"]
    chat = await post(lite, key, "chat", f"[[say: to {MAIL}]]", stream=True, body={"store": True})
    assert said("chat", True, chat) == "to [EMAIL]"
    listed = await lite.http.get("/v1/chat/completions", headers={"authorization": f"Bearer {key}"})
    assert listed.json()["data"][0]["choices"][0]["message"]["content"] == "to [EMAIL]"
    money(lite)


async def test_a_line_of_a_batch_is_looked_at_like_any_call(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox.base_url, BLOCKING)
    asked = [
        {"custom_id": name, "params": ask("anthropic", MODEL, prompt).body | {"stream": False}}
        for name, prompt in (("good", "[[say: plugh]]"), ("bad", f"say {WORD}"))
    ]
    batch = (await lite.ask(key, {"requests": asked}, path="/v1/messages/batches")).json()
    headers = {"authorization": f"Bearer {key}", "anthropic-version": "2023-06-01"}
    while batch["processing_status"] != "ended":
        await asyncio.sleep(0.02)
        batch = (await lite.http.get(f"/v1/messages/batches/{batch['id']}", headers=headers)).json()
    reply = await lite.http.get(f"/v1/messages/batches/{batch['id']}/results", headers=headers)
    rows = [msgspec.json.decode(row) for row in reply.text.splitlines()]
    results = {row["custom_id"]: row["result"] for row in rows}
    assert results["good"]["message"]["content"][0]["text"] == "plugh"
    assert (results["bad"]["type"], "content_blocked" in str(results["bad"])) == ("errored", True)
    assert len(sent(sandbox)) == 1
    assert money(lite)[1] == 0


@pytest.mark.parametrize(
    ("prompt", "loss"),
    # Without usage the bytes are counted: 31 of the question, 4 tokens of what frames it, and 2 of the answer.
    [("[[input: 50]]", 50 * 1_000 + 2_000), ("[sandbox: no-usage]", (8 + 4) * 1_000 + 2_000)],
    ids=["usage", "no usage"],
)
async def test_a_caller_who_leaves_while_a_hook_looks_at_the_answer_pays_nothing(
    lite: Gateway, sandbox: Running, prompt: str, loss: int
) -> None:
    async with hooked(lambda _: None) as hook:
        key = await prepared(lite, sandbox.base_url, hook_guard(hook.url, direction="output"))
        call = asyncio.create_task(post(lite, key, "chat", f"[[say: ok]] {prompt}"))
        await until(lambda: hook.questions)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        rows = await until(lambda: lite.sql("select record from requests"))
    record = msgspec.json.decode(bytes(rows[0][0]))
    assert (record["outcome"], record["charge_nano"], record["loss_nano"]) == ("client_gone", 0, loss)
    assert [attempt["fate"] for attempt in record["attempts"]] == ["complete"]
    assert money(lite) == (10**9, loss)


async def test_a_caller_who_leaves_while_a_blocked_answer_is_counted_leaves_the_operators_loss(
    lite: Gateway, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = asyncio.Event()

    async def never_counts(*_: Any) -> Any:
        counting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(hold, "count_locally", never_counts)
    key = await prepared(lite, sandbox.base_url, msgspec.structs.replace(BLOCKING, direction="output"))
    call = asyncio.create_task(post(lite, key, "chat", f"[[say: {WORD}]] [sandbox: no-usage]"))
    await counting.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    rows = await until(lambda: lite.sql("select record from requests"))
    record = msgspec.json.decode(bytes(rows[0][0]))
    assert (record["outcome"], record["charge_nano"]) == ("client_gone", 0)
    assert [attempt["fate"] for attempt in record["attempts"]] == ["complete"]
    assert record["loss_nano"] > 0
    assert money(lite) == (10**9, record["loss_nano"])
    nowhere(lite, WORD)


async def test_an_answer_that_cannot_be_looked_at_stays_here_as_the_operators_loss(lite: Gateway) -> None:
    usage = {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}
    choice = {"index": 0, "message": {"role": "assistant", "content": "XX"}, "finish_reason": "stop"}
    async with canned(200, {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}) as upstream:
        upstream.body = upstream.body.replace(b"XX", b"\xff")
        key = await prepared(lite, upstream.url, MASKING)
        reply = await post(lite, key, "chat", "hello")
    assert reply.status_code == 502, reply.text
    assert "could not be read" in reply.json()["error"]["message"]
    assert money(lite) == (10**9, 50 * 1_000 + 2_000)


async def test_a_blocked_answer_is_lost_at_what_it_would_have_been_charged(lite: Gateway) -> None:
    """As it was served, and with cache writes of unknown life as those that live an hour."""
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 400, "output_tokens": 0, "speed": "fast"}
    answer = {**whole_of("anthropic", usage), "content": [{"type": "text", "text": WORD}]}
    fast = Variant(when={"speed": ("fast",)}, input_nano_per_1m=3 * 10**9, cache_write_1h_nano_per_1m=6 * 10**9)
    async with canned(200, answer) as upstream:
        await priced(lite, MODEL, "anthropic", upstream.url, Amounts(input_nano_per_1m=10**9, variants=(fast,)))
        await lite.guard(msgspec.structs.replace(BLOCKING, direction="output"))
        key = await lite.key("1", policy=Policy(guards=(BLOCKING.name,)))
        long = [{"type": "text", "text": "Long. " * 500, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
        reply = await post(lite, key, "anthropic", "hello", body={"system": long})
    assert (reply.status_code, "content_blocked" in reply.text) == (400, True), reply.text
    assert money(lite) == (10**9, 10 * 3_000 + 400 * 6_000)


async def test_calls_without_guardrails_pass_byte_for_byte(lite: Gateway) -> None:
    async with canned(200, {}) as upstream:
        await prepared(lite, upstream.url, BLOCKING)
        key = await lite.key("1")
        body = b'{ "model":"gpt-4o" , "messages":[{"role":"user","content":"xyzzy"}], "x":1.0 }'
        await lite.ask(key, body, path="/v1/chat/completions")
    assert upstream.bodies == [body]


async def test_embeddings_are_masked_too(lite: Gateway, sandbox: Running) -> None:
    await lite.channel(sandbox.base_url)
    await lite.price(SMALL, per_1m_usd="20")
    await lite.guard(MASKING)
    key = await lite.key("1", policy=Policy(guards=("no-mail",)))
    reply = await lite.ask(key, {"model": SMALL, "input": ["a", MAIL]})
    assert reply.status_code == 200, reply.text
    assert sent(sandbox)[0]["input"] == ["a", "[EMAIL]"]
