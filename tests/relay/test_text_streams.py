"""Streams frame by frame: what is asked of the upstream, what a failure costs, and figures that cannot be believed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.relay import hold
from elkapi.relay.count import count_left
from elkapi.routing.health import Part
from elkapi.sandbox.server import Running
from elkapi.types import ChannelLimits
from tests.canned import canned
from tests.gateway import Gateway
from tests.relay.test_text_law import PROMPT_TOKENS, law
from tests.scripted import MODEL, NANO, Played, Stage, frames_of, stage
from tests.text_calls import CLIENTS, Asked, ask, events, has_error, is_whole, streamed_text
from tests.waiting import until

ERRORS = {"compatible": "chat", "anthropic": "anthropic", "gemini": "gemini"}


def without_error(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if b'"error":{' not in frame and b'"error": {' not in frame]


AZURE_ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    "stored": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "store": True}),
    "completions": ("/v1/completions", {"prompt": "hi"}),
}


@pytest.mark.parametrize("asks", [False, True], ids=["plain", "include_usage"])
@pytest.mark.parametrize("way", AZURE_ASKS)
async def test_every_chunk_has_a_choice_for_who_asked_for_no_usage(
    gate: Gateway, sandbox: Running, way: str, asks: bool
) -> None:
    """Azure says of the prompt in a first chunk without choices; OpenAI's callers know one with the usage only."""
    await gate.channel(sandbox.base_url, ("gpt-4o",), family="azure", secrets=("azure-upstream",))
    path, body = AZURE_ASKS[way]
    body = {**body, "model": "gpt-4o", "stream": True, "stream_options": {"include_usage": asks}}
    reply = await gate.ask(await gate.key("1"), body, path=path)
    without = [chunk for chunk in events(reply.text) if not chunk["choices"]]
    members = ("prompt_filter_results", "usage")
    assert [name for chunk in without for name in members if chunk.get(name)] == (list(members) if asks else [])
    assert len(without) == 2 * asks


async def test_an_answer_that_comes_whole_and_compressed_is_told_as_the_stream_asked_for(gate: Gateway) -> None:
    message = {"role": "assistant", "content": "hello"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    answer |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with canned(200, answer) as upstream:
        upstream.squeeze()
        await gate.channel(upstream.url, ("m",))
        await gate.price("m", per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1")
        reply = await gate.ask(key, asked, path="/v1/chat/completions")
        assert streamed_text("chat", reply.text) == "hello"
        assert (await gate.account(reply.headers["x-request-id"], key))["outcome"] == "ok"


@pytest.mark.parametrize("family", ERRORS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_g41_an_error_inside_a_stream_is_free_and_never_counts_as_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, client: str
) -> None:
    frames = frames_of(f"{ERRORS[family]}-error-later")
    async with stage(tmp_path, monkeypatch, family, client) as staged:
        reader, writer, played = await staged.call()
        await staged.play(played, frames)
        record = await staged.watch.records.get()
        answer = await reader.readuntil(b"0\r\n\r\n")
        assert b"error" in answer or b"response.failed" in answer
        assert record.outcome == "broken_stream"
        assert record.charge_nano == 0
        assert record.loss_nano == law(family, without_error(frames)).nano() > 0
        await played.given_up()
        writer.close()
        await staged.check_books(0)


@pytest.mark.parametrize("array", [False, True], ids=["events", "array"])
async def test_a_blocked_prompt_reaches_a_gemini_caller_as_google_said_it_and_costs_as_much_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: bool
) -> None:
    frames = frames_of("gemini-blocked")
    async with stage(tmp_path, monkeypatch, "gemini", "gemini") as staged:
        if array:
            staged.without_sse()
        reader, writer, played = await staged.call()
        await staged.play(played, frames)
        played.end()
        record = await staged.watch.records.get()
        answer = unchunked(await reader.readuntil(b"\r\n0\r\n\r\n"))
        said = msgspec.json.decode(frames[0].removeprefix(b"data:"))
        assert (msgspec.json.decode(answer) if array else events(answer)) == [said]
        assert record.outcome == "ok"
        assert record.charge_nano == said["usageMetadata"]["promptTokenCount"] * NANO["input"]
        writer.close()
        await staged.check_books(record.charge_nano)


@pytest.mark.parametrize("family", ERRORS)
async def test_a_json_array_that_breaks_off_ends_as_json_with_the_error_as_its_last_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    async with stage(tmp_path, monkeypatch, family, "gemini") as staged:
        staged.without_sse()
        reader, writer, played = await staged.call()
        await staged.play(played, frames_of(f"{ERRORS[family]}-error-later"))
        await staged.watch.records.get()
        *told, error = msgspec.json.decode(unchunked(await reader.readuntil(b"0\r\n\r\n")))
        assert any(chunk["candidates"] for chunk in told)
        assert error["error"]["status"] in ("UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED")
        writer.close()


@pytest.mark.parametrize("family", ERRORS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_g53_an_error_after_the_first_event_but_before_content_goes_to_the_next_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, client: str
) -> None:
    name = ERRORS[family]
    setup = [frame for frame in frames_of(f"{name}-error-later") if not law(family, without_error([frame])).content]
    good = frames_of(f"{name}-text")
    async with stage(tmp_path, monkeypatch, family, client, channels=2) as staged:
        reader, writer, first = await staged.call()
        await staged.play(first, setup)
        second = await staged.upstream.calls.get()
        await first.given_up()
        await staged.play(second, good)
        second.end()
        record = await staged.watch.records.get()
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        said = law(family, good)
        assert streamed_text(client, unchunked(answer)) == said.text
        assert record.outcome == "ok"
        assert len(record.attempts) == 2
        assert record.charge_nano == said.nano()
        writer.close()
        await staged.check_books(said.nano())


_OBJECT = b'{\n  "error": {\n    "code": 429,\n    "message": "Q.",\n    "status": "RESOURCE_EXHAUSTED"\n  }\n}\n'
BARE = {"object": _OBJECT, "array": b"[" + _OBJECT + b"]\n"}
TOLD_429 = {
    "chat": b'"type":"rate_limit_error"',
    "responses": b'"code":"rate_limit_exceeded"',
    "anthropic": b'"type":"rate_limit_error"',
    "gemini": b'"status":"RESOURCE_EXHAUSTED"',
}


@pytest.mark.parametrize("family", ["gemini", "compatible"])
@pytest.mark.parametrize("form", BARE)
@pytest.mark.parametrize("client", CLIENTS)
async def test_an_error_that_breaks_into_a_stream_as_a_bare_body_is_told_with_its_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, form: str, client: str
) -> None:
    """Google's servers write it so, which no reader of events sees: the answer was one that broke off."""
    frames = without_error(frames_of(f"{ERRORS[family]}-error-later"))
    async with stage(tmp_path, monkeypatch, family, client) as staged:
        reader, writer, played = await staged.call()
        await staged.play(played, frames)
        played.play(BARE[form])
        played.end()
        record = await staged.watch.records.get()
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert TOLD_429[client] in answer
        assert has_error(client, unchunked(answer))
        assert (record.outcome, record.charge_nano) == ("broken_stream", 0)
        assert record.attempts[0].error == "Q."
        writer.close()
        await staged.check_books(0)


@pytest.mark.parametrize("form", BARE)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_bare_body_of_an_error_before_content_is_the_next_channels_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, client: str
) -> None:
    good = frames_of("gemini-text")
    async with stage(tmp_path, monkeypatch, "gemini", client, channels=2) as staged:
        reader, writer, first = await staged.call()
        first.begin()
        first.play(BARE[form] + b"\n")
        second = await staged.upstream.calls.get()
        await first.given_up()
        await staged.play(second, good)
        second.end()
        record = await staged.watch.records.get()
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert streamed_text(client, unchunked(answer)) == law("gemini", good).text
        assert [attempt.outcome for attempt in record.attempts] == ["status_429", "ok"]
        writer.close()


def unchunked(answer: bytes) -> str:
    """The body of a chunked answer."""
    rest, body = answer.partition(b"\r\n\r\n")[2], b""
    while size := int(rest.partition(b"\r\n")[0], 16):
        start = rest.index(b"\r\n") + 2
        body, rest = body + rest[start : start + size], rest[start + size + 2 :]
    return body.decode()


async def drip(staged: Stage, played: Played) -> None:
    """Signs of life for ever, each as soon as the last has crossed: no silence for an idle deadline to see."""
    played.begin()
    while True:
        await staged.pass_on(played, b": still here\n\n")


@pytest.mark.parametrize("family", ERRORS)
async def test_g55_an_upstream_that_drips_events_without_content_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    name = ERRORS[family]
    good = frames_of(f"{name}-text")
    limits = ChannelLimits(first_token_s=0.3)
    async with stage(tmp_path, monkeypatch, family, "chat", channels=2, limits=limits) as staged:
        _, writer, first = await staged.call()
        dripping = asyncio.create_task(drip(staged, first))
        second = await staged.upstream.calls.get()
        dripping.cancel()
        await first.given_up()
        await staged.play(second, good)
        second.end()
        record = await staged.watch.records.get()
        assert [attempt.outcome for attempt in record.attempts] == ["first_token_timeout", "ok"]
        writer.close()


HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "theirs", "error": None}
MADE = {"type": "image_generation_call", "id": "ig", "status": "completed", "result": "iVBORw0KGgo="}
SHOWN = "iVBO" * 100_000


def told(*rows: dict[str, object]) -> list[bytes]:
    """Events of a response's stream."""
    encoded = [(str(row["type"]).encode(), msgspec.json.encode(row)) for row in rows]
    return [b"event: %b\ndata: %b\n\n" % row for row in encoded]


@pytest.mark.parametrize("store", [False, True], ids=["passed", "kept"])
async def test_a_picture_is_shown_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    """`partial_images` of OpenAI's: more than may come before the first content, they were a 502 of a paid answer."""
    whole = {**HEAD, "status": "completed", "output": [MADE], "usage": {"input_tokens": 9, "output_tokens": 1}}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    early = told(
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**MADE, "result": None}},
        {"type": "response.image_generation_call.partial_image", "item_id": "ig", "partial_image_b64": SHOWN},
    )
    late = told(
        {"type": "response.output_item.done", "output_index": 0, "item": MADE},
        {"type": "response.completed", "response": whole},
    )
    async with stage(tmp_path, monkeypatch, "openai", "responses", store=store) as staged:
        reader, writer, played = await staged.call()
        await staged.play(played, early)
        assert b" 200 " in await reader.readline()
        await until_read(reader, SHOWN[-100:].encode())
        for frame in late:
            await staged.pass_on(played, frame)
        played.end()
        await until_read(reader, b"response.completed")
        assert (await staged.watch.records.get()).outcome == "ok"
        writer.close()


@pytest.mark.parametrize("store", [False, True], ids=["passed", "kept"])
async def test_an_event_that_holds_several_pictures_ends_no_stream(gate: Gateway, store: bool) -> None:
    pictures = [{**MADE, "id": f"ig_{number}", "result": "iVBO" * 1_500_000} for number in range(2)]
    whole = {**HEAD, "status": "completed", "output": pictures, "usage": {"input_tokens": 9, "output_tokens": 1}}
    rows = [{"type": "response.output_item.done", "output_index": 0, "item": picture} for picture in pictures]
    frames = b"".join(told(*rows, {"type": "response.completed", "response": whole}))
    asked = {"model": "m", "input": "hi", "stream": True, "store": store}
    async with canned(200, {}, frames) as upstream:
        await gate.channel(upstream.url, ("m",))
        await gate.price("m", per_1m_usd="1", output_per_1m_usd="2")
        reply = await gate.ask(await gate.key("1"), asked, path="/v1/responses")
    assert [event["type"] for event in events(reply.text)][-1] == "response.completed"


async def until_read(reader: asyncio.StreamReader, text: bytes) -> None:
    seen = b""
    while text not in seen:
        more = await reader.read(65_536)
        assert more
        seen = seen[-len(text) :] + more


async def test_a_response_may_repeat_long_instructions_before_its_first_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents send a hundred kilobytes of tools and rules; OpenAI tells them back twice before it says anything."""
    long = "Be brief. " * 20_000
    begun = {**HEAD, "status": "in_progress", "output": [], "usage": None, "instructions": long}
    delta = {"item_id": "m", "output_index": 0, "content_index": 0, "delta": "well", "logprobs": []}
    whole = {**begun, "status": "completed", "usage": {"input_tokens": 50_000, "output_tokens": 1}}
    early = told({"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun})
    late = told({"type": "response.output_text.delta", **delta}, {"type": "response.completed", "response": whole})
    async with stage(tmp_path, monkeypatch, "openai", "responses", instructions=long) as staged:
        reader, writer, played = await staged.call()
        await staged.play(played, early)
        played.play(late[0])
        assert b" 200 " in await reader.readline()
        played.play(late[1])
        played.end()
        assert (await staged.watch.records.get()).outcome == "ok"
        writer.close()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_stream_whose_first_content_never_came_is_told_as_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    limits = ChannelLimits(first_token_s=0.05)
    async with stage(tmp_path, monkeypatch, "compatible", client, limits=limits) as staged:
        reader, writer, played = await staged.call()
        played.begin()
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 504 ")
        assert [attempt.outcome for attempt in (await staged.watch.records.get()).attempts] == ["first_token_timeout"]
        writer.close()
        await staged.check_books(0)


@pytest.mark.parametrize("wish", [None, {"include_usage": False}, {"include_usage": True}])
async def test_g45_g46_usage_is_always_asked_for_and_shown_only_to_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, bool] | None
) -> None:
    frames = frames_of("chat-text")
    more: dict[str, Any] = {} if wish is None else {"stream_options": wish}
    async with stage(tmp_path, monkeypatch, "compatible", "chat", **more) as staged:
        reader, writer, played = await staged.call()
        assert msgspec.json.decode(played.body)["stream_options"] == {"include_usage": True}
        await staged.play(played, frames)
        record = await staged.watch.records.get()
        assert record.charge_nano == law("compatible", frames).nano()
        answer = unchunked(await reader.readuntil(b"\r\n0\r\n\r\n"))
        shown = [event["usage"] for event in events(answer) if event.get("usage")]
        assert len(shown) == (1 if wish and wish["include_usage"] else 0)
        assert answer.endswith("data: [DONE]\n\n")
        writer.close()


HUGE = b'{"input_tokens":12,'
IMPOSSIBLE = b'{"input_tokens":900000000,'


@pytest.mark.parametrize("client", CLIENTS)
async def test_g21_impossible_usage_of_a_stream_that_was_left_is_counted_locally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    frames = [frame.replace(HUGE, IMPOSSIBLE) for frame in frames_of("anthropic-text")][:5]
    assert IMPOSSIBLE in frames[0]
    async with stage(tmp_path, monkeypatch, "anthropic", client) as staged:
        _, writer, played = await staged.call()
        await staged.play(played, frames)
        writer.close()
        record = await staged.watch.records.get()
        shown = law("anthropic", frames)
        assert record.charge_nano == PROMPT_TOKENS * NANO["input"] + -(-len(shown.text.encode()) // 4) * NANO["output"]
        assert record.flags == ("client_gone", "estimated_locally")


async def test_a_stream_that_the_end_of_a_drain_cut_off_is_free_to_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/money.md: the gateway was stopped during the call, which is not the caller's doing."""
    frames = frames_of("anthropic-text")[:5]
    async with stage(tmp_path, monkeypatch, "anthropic", "anthropic") as staged:
        _, writer, played = await staged.call()
        await staged.play(played, frames)
        assert await staged.gate.server.drain(0, staged.gate.plane.cut_off) == 1
        record = await staged.watch.records.get()
        assert (record.charge_nano, record.outcome, record.status) == (0, "broken_stream", 503)
        assert record.loss_nano == law("anthropic", frames).nano() > 0
        await staged.check_books(0)
        writer.close()


async def test_g41_a_stream_that_broke_off_is_settled_although_its_caller_leaves_while_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, counting, go_on = frames_of("anthropic-text")[:5], asyncio.Event(), asyncio.Event()

    async def slowly(*what: Any) -> Any:
        counting.set()
        await go_on.wait()
        return await count_left(*what)

    monkeypatch.setattr(hold, "count_left", slowly)
    async with stage(tmp_path, monkeypatch, "anthropic", "anthropic") as staged:
        _, writer, played = await staged.call()
        await staged.play(played, frames)
        played.break_off()
        await counting.wait()
        writer.transport.abort()
        await until(lambda: not staged.gate.server.connections)
        go_on.set()
        await until(lambda: not staged.gate.server.under_way)
        assert staged.gate.books().open_holds == 0
        record = await staged.watch.records.get()
        assert (record.charge_nano, record.outcome) == (0, "broken_stream")
        assert record.loss_nano == law("anthropic", frames).nano() > 0
        await staged.check_books(0)


async def test_g26_cache_writes_of_unknown_life_cost_the_dearest_also_when_the_caller_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsplit = b',"cache_creation":{"ephemeral_5m_input_tokens":40,"ephemeral_1h_input_tokens":60}'
    frames = [frame.replace(unsplit, b"") for frame in frames_of("anthropic-cache")][:3]
    hour: dict[str, Any] = {
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    }
    async with stage(tmp_path, monkeypatch, "anthropic", "anthropic", **hour) as staged:
        _, writer, played = await staged.call()
        await staged.play(played, frames)
        writer.close()
        record = await staged.watch.records.get()
        assert "cache_write_unsplit" in record.flags
        assert record.usage.cache_write_1h_tokens == 100
        assert record.usage.cache_write_5m_tokens == 0


@pytest.mark.parametrize("client", CLIENTS)
async def test_g38_a_count_of_our_own_is_never_above_the_output_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    limit = 200  # what tests.text_calls asks for
    delta = frames_of("anthropic-text")[3]
    frames = [*frames_of("anthropic-text")[:3], delta.replace(b"Hel", b"Hel" * 1000)]
    async with stage(tmp_path, monkeypatch, "anthropic", client) as staged:
        _, writer, played = await staged.call()
        await staged.play(played, frames)
        writer.close()
        record = await staged.watch.records.get()
        assert record.usage.output_tokens == limit
        assert record.charge_nano == 12 * NANO["input"] + limit * NANO["output"] <= record.hold_nano


@pytest.mark.parametrize("client", CLIENTS)
async def test_g48_a_stream_without_usage_is_counted_and_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    frames = [frame for frame in frames_of("chat-text") if b'"choices":[]' not in frame]
    async with stage(tmp_path, monkeypatch, "compatible", client) as staged:
        reader, writer, played = await staged.call()
        await staged.play(played, frames)
        record = await staged.watch.records.get()
        await reader.readuntil(b"\r\n0\r\n\r\n")
        assert record.flags == ("usage_missing", "estimated_locally")
        assert record.charge_nano == law("compatible", frames).nano() > 0
        assert record.model == MODEL
        writer.close()


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("client", [*CLIENTS, "completions"])
async def test_a_stream_that_says_why_it_stopped_is_whole_without_its_last_frame(
    lite: Gateway, client: str, counted: bool
) -> None:
    """Azure closes so after its content filter, and some providers of OpenAI's form always do."""
    piece = {"text": "hello"} if client == "completions" else {"delta": {"role": "assistant", "content": "hello"}}
    close: dict[str, Any] = {"text": ""} if client == "completions" else {"delta": {}}
    choices = [{"index": 0, **piece, "finish_reason": None}], [{"index": 0, **close, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[dict[str, object]] = [{**head, "choices": row} for row in choices]
    chunks[-1] |= {"usage": usage} if counted else {}
    frames = b"\n\n".join(b"data: " + msgspec.json.encode(chunk) for chunk in chunks)
    asked = ask(client, "m", "hi", stream=True)
    if client == "completions":
        asked = Asked("/v1/completions", {"model": "m", "prompt": "hi", "stream": True})
    async with canned(200, frames=frames) as upstream:
        await lite.channel(upstream.url, ("m",), family="together")
        await lite.price("m", per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert not has_error("chat" if client == "completions" else client, reply.text), reply.text
        assert "hello" in reply.text
        assert client == "completions" or is_whole(client, reply.text), reply.text
        assert reply.text.count("data: [DONE]") == (client in ("chat", "completions"))
        account = await lite.account(reply.headers["x-request-id"], key)
        assert account["outcome"] == "ok"
        assert account["cost_usd"] != "0.00"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_gemini_that_gave_up_without_a_word_answers_nobody_and_is_free(
    lite: Gateway, client: str, stream: bool
) -> None:
    """Agents took an empty answer for the end of their work; told of a failure they ask again, and the next may do."""
    usage = {"promptTokenCount": 10, "totalTokenCount": 10}
    gave_up = {"candidates": [{"content": {}, "finishReason": "MALFORMED_FUNCTION_CALL"}], "usageMetadata": usage}
    frames = b"data: " + msgspec.json.encode(gave_up) + b"\n\n"
    async with canned(200, gave_up, frames) as first, canned(200, gave_up, frames) as second:
        for upstream in (first, second):
            await lite.channel(upstream.url, ("m",), family="gemini")
        await lite.price("m", per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = ask(client, "m", "hi", stream=stream)
        for _ in range(2):
            reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
            assert reply.status_code == (200 if client == "gemini" else 502), reply.text
            account = await lite.account(reply.headers["x-request-id"], key)
            assert account["cost_usd"] == ("0.00001" if client == "gemini" else "0.00")
        # Both were asked each time, and neither rests.
        assert len(first.bodies) + len(second.bodies) == (2 if client == "gemini" else 4)


BLAMED = {
    "authentication_error": (502, "key", "refused this key"),
    "billing_error": (502, "key", "out of funds"),
    "permission_error": (502, "key", None),
    "not_found_error": (502, None, None),
    "rate_limit_error": (429, "key", None),
    "invalid_request_error": (400, None, None),
    "api_error": (500, "channel", None),
    "Your credit balance is too low to access the Anthropic API.": (502, "key", "out of funds"),
}
TOLD_AS = {
    "chat": {400: "upstream_rejected", 429: "upstream_rate_limited", 500: "upstream_error", 502: "upstream_error"},
    "responses": {400: "invalid_prompt", 429: "rate_limit_error", 500: "server_error", 502: "server_error"},
    "anthropic": {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 502: "api_error"},
    "gemini": {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "INTERNAL"},
}


@pytest.mark.parametrize("kind", BLAMED)
@pytest.mark.parametrize("client", TOLD_AS)
async def test_an_error_after_content_blames_whom_it_would_have_blamed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, kind: str
) -> None:
    status, cooled, disabled = BLAMED[kind]
    error = {"type": kind, "message": "no"} if " " not in kind else {"type": "invalid_request_error", "message": kind}
    frame = b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"
    async with stage(tmp_path, monkeypatch, "anthropic", client) as staged:
        reader, writer, played = await staged.call()
        await staged.play(played, [*frames_of("anthropic-text")[:5], frame])
        await staged.watch.records.get()
        answer = (await reader.readuntil(b"0\r\n\r\n")).decode()
        writer.close()
        assert f'"{TOLD_AS[client][status]}"' in answer.rpartition("data: ")[2], answer
        gate = staged.gate
        ((channel_id, key_id),) = gate.sql("select channel_id, id from channel_keys")
        parts: dict[str, set[Part]] = {
            "channel": {("channel", channel_id, MODEL)},
            "key": {("key", key_id) if disabled else ("key", key_id, MODEL)},
        }
        assert set(gate.plane.health.cooling()) == (parts[cooled] if cooled else set())
        if disabled:
            ((reason,),) = await until(lambda: gate.sql("select reason from channel_keys where not enabled"))
            assert disabled in reason
