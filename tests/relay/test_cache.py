"""The response cache: hits in every dialect and form, at their price, for their owner alone; nothing half is kept."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.cache.answers import FILE
from elkapi.sandbox.server import Running
from elkapi.storage.repos import channels
from elkapi.types import Policy
from tests.canned import canned
from tests.gateway import ACTOR, SMALL, Gateway, gateway
from tests.text_calls import CLIENTS, ask, events, has_error, is_whole, streamed_text, text_of
from tests.waiting import until

MODEL = "gpt-4o"
RECORDINGS = Path(__file__).parents[1] / "unit" / "translate" / "recordings"
ON = Policy(cache=True)
SAID = "The quick brown fox jumps over the lazy dog."
PROMPT = f"[[say: {SAID}]]"
FORMS = [(False, False), (False, True), (True, False), (True, True)]


async def prepared(gate: Gateway, url: str, model: str = MODEL, **channel: Any) -> None:
    await gate.channel(url, (model,), **channel)
    await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")


async def post(
    gate: Gateway, key: str, client: str = "chat", *, stream: bool = False, cache: str = "", **more: Any
) -> Any:
    stateless = {"store": False} if client == "responses" else {}
    asked = ask(client, MODEL, more.pop("prompt", PROMPT), stream=stream)
    asked.body.update({**stateless, **more.pop("body", {})})
    headers = {**asked.headers, **({"x-elkapi-cache": cache} if cache else {}), **more.pop("headers", {})}
    reply = await gate.ask(key, asked.body, path=more.pop("path", asked.path), headers=headers, **more)
    await gate.plane.answers.idle()
    return reply


def said(client: str, stream: bool, reply: Any) -> str:
    if stream:
        assert is_whole(client, reply.text), reply.text
        return streamed_text(client, reply.text)
    return text_of(client, reply.json())


def asked_upstream(sandbox: Running) -> int:
    return len(sandbox.sandbox.recorder.shown())


def kept(gate: Gateway) -> list[bytes]:
    """The answers in the store of this host, as they lie there."""
    path = gate.plane.settings.data_path / FILE
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("select sealed from answers")]


def balance(gate: Gateway) -> int:
    return gate.closed_books().customers_posted_nano


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_hit_is_the_same_answer_in_the_form_asked_for_and_no_upstream_is_asked(
    lite: Gateway, sandbox: Running, client: str
) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    for number, (first, then) in enumerate(FORMS, 1):
        words = f"{SAID} {number}"
        miss = await post(lite, key, client, stream=first, prompt=f"[[say: {words}]]")
        assert (miss.status_code, miss.headers["x-elkapi-cache"]) == (200, "miss"), miss.text
        once = balance(lite)
        hit = await post(lite, key, client, stream=then, prompt=f"[[say: {words}]]")
        assert (hit.status_code, hit.headers["x-elkapi-cache"]) == (200, "hit"), hit.text
        assert hit.headers["content-type"].startswith("text/event-stream" if then else "application/json")
        assert said(client, then, hit) == said(client, first, miss) == words
        assert asked_upstream(sandbox) == number
        if first == then:
            assert hit.content == miss.content
        assert int(hit.headers["x-elkapi-cache-age"]) >= 0
        assert hit.headers["x-elkapi-cost-usd"] == "0.00"
        assert balance(lite) == once
        paid = await lite.account(miss.headers["x-request-id"], key)
        free = await lite.account(hit.headers["x-request-id"], key)
        assert (free["cached"], free["flags"], paid["cached"]) == (True, ["cached"], False)
        assert (free["attempts"], free["cost_usd"], free["held_usd"], free["ledger"]) == ([], "0.00", "0.00", [])
        assert free["usage"] == paid["usage"]
    lite.closed_books()


async def test_a_chat_stream_from_the_cache_tells_its_usage_to_who_asked_and_to_nobody_else(
    lite: Gateway, sandbox: Running
) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    for number, form in enumerate(FORMS, 1):
        told: list[bool] = []
        for wanted in form:
            body = {"stream_options": {"include_usage": wanted}}
            reply = await post(lite, key, stream=True, body=body, prompt=f"[[say: {SAID} {number}]]")
            assert said("chat", True, reply) == f"{SAID} {number}"
            told.append(any(event.get("usage") for event in events(reply.text)))
        assert told == list(form)
        assert asked_upstream(sandbox) == number


async def test_an_array_of_geminis_is_a_form_like_the_others(lite: Gateway, sandbox: Running) -> None:
    await prepared(
        lite, sandbox.base_url, family="gemini", secrets=("AIzaUpstream",), model_map={MODEL: "gemini-2.5-pro"}
    )
    key = await lite.key("1", policy=ON)
    path = f"/v1beta/models/{MODEL}:streamGenerateContent"
    array = (await post(lite, key, "gemini", path=path)).json()
    assert "".join(text_of("gemini", part) for part in array if part["candidates"][0]["content"]["parts"]) == SAID
    for stream in (False, True):
        hit = await post(lite, key, "gemini", stream=stream)
        assert (hit.headers["x-elkapi-cache"], said("gemini", stream, hit)) == ("hit", SAID)
    assert (await post(lite, key, "gemini", path=path)).json() == array
    assert asked_upstream(sandbox) == 1


async def test_legacy_completions_are_kept_in_every_form(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    for number, form in enumerate(FORMS, 1):
        texts = []
        for stream in form:
            asked = {"model": MODEL, "prompt": f"[[say: {SAID} {number}]]", "stream": stream, "max_tokens": 50}
            reply = await lite.ask(key, asked, path="/v1/completions")
            await lite.plane.answers.idle()
            chunks = events(reply.text) if stream else [reply.json()]
            texts.append("".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]))
        assert texts == [f"{SAID} {number}"] * 2
        assert (reply.headers["x-elkapi-cache"], asked_upstream(sandbox)) == ("hit", number)


@pytest.mark.parametrize("path", ["/v1/embeddings", f"/v1/engines/{SMALL}/embeddings"])
async def test_embeddings_are_kept_too_by_whichever_path_they_are_asked(
    lite: Gateway, sandbox: Running, path: str
) -> None:
    await lite.channel(sandbox.base_url)
    await lite.price(SMALL, per_1m_usd="20")
    key = await lite.key("1", policy=ON)
    first = await lite.ask(key)
    await lite.plane.answers.idle()
    hit = await lite.ask(key, {"input": "hello", "model": SMALL, "user": "u-1"}, path=path)
    assert (hit.headers["x-elkapi-cache"], hit.content) == ("hit", first.content)
    other = await lite.ask(key, {"input": "hello", "model": SMALL, "dimensions": 8}, path=path)
    assert other.headers["x-elkapi-cache"] == "miss"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_hit_costs_its_ratio_of_the_call_to_the_nano_dollar_and_is_held_exactly(
    gate: Gateway, sandbox: Running, stream: bool
) -> None:
    await prepared(gate, sandbox.base_url)
    await gate.group("default", 1_500_000, Policy(cache=True, cache_hit_ratio_micro=333_333))
    key = await gate.key("1")
    before = balance(gate)
    prompt = f"{PROMPT} [[input: 8000]]{' ' * 8_000}"
    await post(gate, key, prompt=prompt)
    once = balance(gate)
    hit = await post(gate, key, prompt=prompt, stream=stream)
    account = await gate.account(hit.headers["x-request-id"], key)
    usage = account["usage"]
    whole = usage["input_tokens"] * 1_000 + usage["output_tokens"] * 2_000
    assert before - once == (whole * 3 + 1) // 2
    # 1.5 x 0.333333 is 0.4999995: the ratios are not rounded themselves, and the record says both.
    assert (account["price"]["group_ratio"], account["price"]["hit_ratio"]) == ("1.5", "0.333333")
    assert once - balance(gate) == (whole * 4_999_995 + 5_000_000) // 10_000_000
    assert account["cost_usd"] == account["held_usd"] == hit.headers["x-elkapi-cost-usd"]
    assert [entry["kind"] for entry in account["ledger"]] == ["hold", "post"]
    gate.closed_books()


async def test_a_priced_hit_needs_its_price_and_a_free_one_needs_nothing(gate: Gateway, sandbox: Running) -> None:
    await prepared(gate, sandbox.base_url)
    await gate.group("default", 1_000_000, Policy(cache=True, cache_shared=True, cache_hit_ratio_micro=500_000))
    await post(gate, await gate.key("1"))
    poor = await gate.key()
    refused = await post(gate, poor)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_user_quota")
    await gate.group("default", 1_000_000, Policy(cache=True, cache_shared=True))
    assert (await post(gate, poor)).headers["x-elkapi-cache"] == "hit"
    gate.closed_books()


async def test_only_the_key_that_asked_gets_the_answer_unless_its_group_shares(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    for policy, expected in ((ON, "miss"), (Policy(cache=True, cache_shared=True), "hit")):
        one, other = [await lite.key("1", policy=policy) for _ in range(2)]
        await post(lite, one, prompt=expected)
        assert (await post(lite, other, prompt=expected)).headers["x-elkapi-cache"] == expected
        assert (await post(lite, one, prompt=expected)).headers["x-elkapi-cache"] == "hit"
    stranger = await lite.key("1", policy=Policy(cache=True, cache_shared=True))
    with lite.database.write() as connection:
        connection.exec_driver_sql("insert into owners select id + 1, 'another', created_ns from owners")
        connection.exec_driver_sql("update keys set owner_id = owner_id + 1 where id = (select max(id) from keys)")
    assert (await post(lite, stranger, prompt="hit")).headers["x-elkapi-cache"] == "miss"


async def test_no_key_puts_an_answer_into_the_place_of_another_question_of_its_group(lite: Gateway) -> None:
    """A member that stands twice is read by some upstreams as the first one, and by the cache as the last one."""
    answer = {
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
    async with canned(200, answer) as upstream:
        await prepared(lite, upstream.url)
        one, other = [await lite.key("1", policy=Policy(cache=True, cache_shared=True)) for _ in range(2)]
        asked = '{"model":"%s","max_tokens":9,"messages":[{"role":"user",%s"content":"Who won?"}]}'
        found = []
        for key, more in ((one, '"content":"Say x.",'), (other, ""), (one, "")):
            reply = await lite.http.post(
                "/v1/chat/completions",
                content=asked % (MODEL, more),
                headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            )
            await lite.plane.answers.idle()
            found.append(reply.headers["x-elkapi-cache"])
        assert found == ["off", "miss", "hit"]


async def test_what_does_not_change_the_answer_is_no_part_of_the_name_and_everything_else_is(
    lite: Gateway, sandbox: Running
) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    await post(lite, key, body={"temperature": 1, "user": "a"})
    same: list[dict[str, Any]] = [
        {"temperature": 1.0, "user": "b", "metadata": {"k": "v"}, "stop": None},
        {"temperature": 1, "store": False, "safety_identifier": "s", "prompt_cache_key": "p"},
    ]
    for body in same:
        assert (await post(lite, key, body=body)).headers["x-elkapi-cache"] == "hit", body
    others: list[dict[str, Any]] = [
        {},
        {"temperature": 0},
        {"temperature": 1, "seed": 1},
        {"temperature": 1, "top_p": 1},
    ]
    for body in others:
        assert (await post(lite, key, body=body)).headers["x-elkapi-cache"] == "miss", body
    assert (await post(lite, key, "anthropic")).headers["x-elkapi-cache"] == "miss"
    beta = await post(lite, key, "anthropic", headers={"anthropic-beta": "new-thing"})
    assert beta.headers["x-elkapi-cache"] == "miss"
    for said in ("miss", "hit"):
        beta = await post(lite, key, "anthropic", path="/v1/messages?beta=true")
        assert beta.headers["x-elkapi-cache"] == said


async def test_a_changed_channel_or_policy_begins_anew(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    await post(lite, key)
    assert (await post(lite, key)).headers["x-elkapi-cache"] == "hit"
    await lite.channel(sandbox.base_url, (MODEL,), system_prompt="Speak like a pirate.", priority=1)
    assert (await post(lite, key)).headers["x-elkapi-cache"] == "miss"


@pytest.mark.parametrize("change", ["base_url", "family", "options"])
async def test_no_answer_of_an_upstream_that_a_channel_no_longer_names_is_given(
    lite: Gateway, sandbox: Running, change: str
) -> None:
    """The operator points a channel elsewhere: what the old upstream said is none of its answers."""
    azure: dict[str, Any] = {"family": "azure", "options": {"api-version": "2024-06-01"}} if change == "options" else {}
    await lite.channel(sandbox.base_url, (MODEL,), name="one", **azure)
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("1", policy=ON)
    await post(lite, key)
    assert (await post(lite, key)).headers["x-elkapi-cache"] == "hit"
    async with canned(503) as elsewhere:
        with lite.database.write() as connection:
            channel_id = channels.find_id(connection, "one")
            assert channel_id is not None
            spec = channels.read_spec(connection, lite.installation.sealer, channel_id)
            assert spec is not None
            config = msgspec.structs.replace(spec.config, options={"api-version": "2024-10-21"})
            changes: dict[str, dict[str, Any]] = {
                "base_url": {"base_url": elsewhere.url},
                "family": {"family": "deepseek"},
                "options": {"config": config},
            }
            spec = msgspec.structs.replace(spec, **changes[change])
            channels.replace_channel(connection, lite.installation.sealer, channel_id, spec, now_ns=1, actor=ACTOR)
        await lite.settled()
        assert (await post(lite, key)).headers["x-elkapi-cache"] == "miss"


async def test_g52_the_caller_decides_within_what_the_policy_allows(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    silent, willing, forbidden = [await lite.key("1", policy=policy) for policy in (Policy(), ON, Policy(cache=False))]
    assert "x-elkapi-cache" not in (await post(lite, silent)).headers
    said_of: dict[str, list[str]] = {}
    for word in ("on", "on", "off", "refresh", "max-age=100", "max-age=0", "on, max-age=0"):
        said_of.setdefault(word, []).append((await post(lite, silent, cache=word)).headers["x-elkapi-cache"])
    assert said_of == {
        "on": ["miss", "hit"],
        "off": ["off"],
        "refresh": ["miss"],
        "max-age=100": ["hit"],
        "max-age=0": ["miss"],
        "on, max-age=0": ["miss"],
    }
    assert (await post(lite, willing, cache="off")).headers["x-elkapi-cache"] == "off"
    for word in ("on", "max-age=100"):
        assert (await post(lite, forbidden, cache=word)).headers["x-elkapi-cache"] == "off"
    for word in ("maybe", "max-age=-1", "max-age=1e9", "on, off", ""):
        wrong = await lite.ask(silent, path="/v1/embeddings", headers={"x-elkapi-cache": word})
        assert wrong.status_code in (400, 503)
    for word in ("maybe", "max-age=" + "9" * 5_000):
        wrong = await post(lite, silent, cache=word)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "X-Elkapi-Cache")
    lite.closed_books()


async def test_an_answer_older_than_the_policy_allows_is_asked_anew(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=Policy(cache=True, cache_age_max_s=3600))
    await post(lite, key)
    (sealed,) = kept(lite)
    assert SAID.encode() not in sealed
    assert (lite.plane.settings.data_path / FILE).stat().st_mode & 0o077 == 0
    real, late = lite.plane.clock, lite.plane.clock.now_ns() + 3601 * 10**9

    class Later:
        def now_ns(self) -> int:
            return late

        def monotonic_s(self) -> float:
            return real.monotonic_s()

    lite.plane.answers._clock = Later()
    assert (await post(lite, key)).headers["x-elkapi-cache"] == "miss"


TOOL = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
NEVER_KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    "truncated": ("[[say: one two three four five six]]", {"max_tokens": 2}),
    "refused": ("[[refuse: I will not.]]", {}),
    "filtered": ("[[say: so]] [[finish: filter]]", {}),
    "tool": ('[[tools: f {"a": 1}]]', TOOL),
    "no usage": ("[[say: so]] [sandbox: no-usage]", {}),
    "failed": ("[sandbox: status=500]", {}),
    "broken": ("[[say: one two three]] [sandbox: cut-after=2]", {}),
    "two": ("hello", {"n": 2}),
    "stored": ("hello", {"store": True}),
}


async def test_what_is_not_a_whole_answer_in_words_is_not_kept(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    for case, (prompt, body) in NEVER_KEPT.items():
        for stream in (False, True, False, True):
            reply = await post(lite, key, prompt=prompt, body=body, stream=stream)
            assert reply.headers["x-elkapi-cache"] in ("miss", "off"), (case, stream)
    assert kept(lite) == []


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_an_answer_whose_upstream_says_that_something_went_wrong_is_not_kept(
    lite: Gateway, client: str, streamed: bool
) -> None:
    part = {"content": {"role": "model", "parts": [{"text": SAID}]}, "finishReason": "MALFORMED_FUNCTION_CALL"}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 9, "totalTokenCount": 19}
    body = {"candidates": [part], "usageMetadata": usage, "modelVersion": "gemini-2.5-pro"}
    async with canned(200, body, b"data: %b\r\n\r\n" % msgspec.json.encode(body)) as upstream:
        await prepared(
            lite, upstream.url, family="gemini", secrets=("AIzaUpstream",), model_map={MODEL: "gemini-2.5-pro"}
        )
        key = await lite.key("1", policy=ON)
        for _ in range(2):
            reply = await post(lite, key, client, stream=streamed)
            assert (reply.status_code, said(client, streamed, reply)) == (200, SAID)
            assert reply.headers["x-elkapi-cache"] == "miss"
    assert kept(lite) == []


async def test_a_stream_whose_pieces_come_one_by_one_is_kept_whole(lite: Gateway) -> None:
    words = SAID.split()

    async def piecemeal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        deltas: list[dict[str, Any]] = [{"delta": {"content": f"{word} "}, "finish_reason": None} for word in words]
        deltas.insert(0, {"delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        for delta in (*deltas, {"delta": {}, "finish_reason": "stop"}):
            writer.write(b"data: " + msgspec.json.encode({**chunk, "choices": [{"index": 0, **delta}]}) + b"\n\n")
            await writer.drain()
            await asyncio.sleep(0.005)
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        writer.write(b"data: " + msgspec.json.encode({**chunk, "choices": [], "usage": usage}) + b"\n\n")
        writer.write(b"data: [DONE]\n\n")
        writer.close()

    server = await asyncio.start_server(piecemeal, "127.0.0.1", 0)
    await prepared(lite, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    key = await lite.key("1", policy=ON)
    first, again = [await post(lite, key, stream=True) for _ in range(2)]
    server.close()
    assert [reply.headers["x-elkapi-cache"] for reply in (first, again)] == ["miss", "hit"]
    assert again.text == first.text
    assert said("chat", True, again).split() == words


async def test_a_stream_that_was_cut_or_left_is_not_kept(lite: Gateway) -> None:
    whole = (RECORDINGS / "chat-text.sse").read_bytes()
    cut = whole[: whole.index(b"data: [DONE]") // 2]
    async with canned(200, {}, cut) as upstream:
        await prepared(lite, upstream.url)
        key = await lite.key("1", policy=ON)
        for _ in range(2):
            reply = await post(lite, key, stream=True)
            assert has_error("chat", reply.text)
            assert reply.headers["x-elkapi-cache"] == "miss"
    assert kept(lite) == []


async def test_the_answer_of_a_model_that_stood_in_is_not_kept(lite: Gateway, sandbox: Running) -> None:
    async with canned(503, {}) as down:
        await lite.channel(down.url, (MODEL,))
        await lite.channel(sandbox.base_url, ("other",), model_map={"other": MODEL})
        for model in (MODEL, "other"):
            await lite.price(model, per_1m_usd="1")
        key = await lite.key("1", policy=Policy(cache=True, fallbacks={MODEL: ("other",)}))
        for _ in range(2):
            reply = await post(lite, key)
            assert (reply.status_code, reply.headers["x-elkapi-cache"]) == (200, "miss")


async def test_an_alias_shares_the_answers_of_its_model_and_is_told_the_name(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=Policy(cache=True, aliases={"fast": MODEL}))
    await post(lite, key)
    hit = await post(lite, key, body={"model": "fast"})
    assert (hit.headers["x-elkapi-cache"], hit.headers["x-elkapi-model"]) == ("hit", MODEL)
    assert (await lite.account(hit.headers["x-request-id"], key))["asked_model"] == "fast"


async def test_responses_are_kept_only_where_the_provider_keeps_none(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=ON)
    for body in ({"input": "x"}, {"input": "x", "store": True}):
        reply = await lite.ask(key, {"model": MODEL, **body}, path="/v1/responses")
        assert reply.headers["x-elkapi-cache"] == "off"


@pytest.mark.parametrize("ratio", [0, 500_000], ids=["free", "priced"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_idempotency_key_and_the_cache_agree(
    lite: Gateway, sandbox: Running, stream: bool, ratio: int
) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1", policy=Policy(cache=True, cache_hit_ratio_micro=ratio))
    await post(lite, key)
    hit = await post(lite, key, stream=stream, headers={"idempotency-key": "once"})
    assert hit.headers["x-elkapi-cache"] == "hit"
    after = balance(lite)
    # The claim is the hit's: a repeat is that answer again, at no price, and another body is a conflict.
    again = await post(lite, key, stream=stream, headers={"idempotency-key": "once"})
    assert (again.headers["idempotent-replayed"], again.content) == ("true", hit.content)
    assert balance(lite) == after
    other = await post(lite, key, prompt="other", headers={"idempotency-key": "once"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    first = await post(lite, key, prompt="new", headers={"idempotency-key": "twice"})
    again = await post(lite, key, prompt="new", headers={"idempotency-key": "twice"})
    assert (first.headers["x-elkapi-cache"], again.headers["idempotent-replayed"]) == ("miss", "true")
    lite.closed_books()


async def test_a_hit_counts_as_a_request_and_uses_no_tokens_of_a_limit(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    prompt = f"{PROMPT} [[input: 100]]"
    key = await lite.key("1", policy=Policy(cache=True, tokens_per_min=200, requests_per_min=4))
    statuses = [(await post(lite, key, prompt=prompt)).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 200, 429]


async def test_calls_that_did_not_opt_in_never_open_the_store(lite: Gateway, sandbox: Running) -> None:
    await prepared(lite, sandbox.base_url)
    key = await lite.key("1")
    for _ in range(2):
        assert (await post(lite, key)).status_code == 200
    assert asked_upstream(sandbox) == 2
    assert lite.plane.answers._opened is None


async def test_a_cache_of_no_bytes_is_off(tmp_path: Path, sandbox: Running) -> None:
    async with gateway(tmp_path, cache_bytes_max=0) as gate:
        await prepared(gate, sandbox.base_url)
        key = await gate.key("1", policy=ON)
        for _ in range(2):
            assert (await post(gate, key)).headers["x-elkapi-cache"] == "off"


async def test_equal_calls_at_once_may_all_miss_and_leave_one_answer(lite: Gateway) -> None:
    async with answering() as upstream:
        upstream.gate.clear()
        await prepared(lite, upstream.url)
        key = await lite.key("1", policy=ON)
        calls = [asyncio.create_task(post(lite, key)) for _ in range(4)]
        await until(lambda: upstream.waiting >= 4)
        upstream.gate.set()
        assert [(await call).headers["x-elkapi-cache"] for call in calls] == ["miss"] * 4
        assert (await post(lite, key)).headers["x-elkapi-cache"] == "hit"
        assert len(upstream.bodies) == 4


ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 19},
}


def answering() -> Any:
    return canned(200, ANSWER)


async def test_hosts_share_one_redis_and_a_dead_one_is_a_miss(tmp_path: Path, redis_url: str, sandbox: Running) -> None:
    async with gateway(tmp_path, redis_url=redis_url) as one, gateway(tmp_path / "b", redis_url=redis_url) as other:
        # Two hosts of one installation have one secret key.
        other.plane.answers._sealer = one.plane.answers._sealer
        keys = []
        for gate in (one, other):
            await prepared(gate, sandbox.base_url)
            keys.append(await gate.key("1", policy=ON))
        assert (await post(one, keys[0])).headers["x-elkapi-cache"] == "miss"
        hit = await post(other, keys[1])
        assert (hit.headers["x-elkapi-cache"], said("chat", False, hit)) == ("hit", SAID)
        assert asked_upstream(sandbox) == 1
        assert not (one.plane.settings.data_path / FILE).exists()


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
async def test_a_dead_redis_never_fails_a_call(tmp_path: Path, sandbox: Running, silent: bool) -> None:
    async with canned(200, {}) as nobody:
        # Something that never answers as Redis does; or a port that nothing listens on any more.
        port = nobody.url.rpartition(":")[2]
        if silent:
            async with gateway(tmp_path, redis_url=f"redis://127.0.0.1:{port}/0", cache_wait_s=0.1) as gate:
                await expect_misses(gate, sandbox)
            return
    async with gateway(tmp_path, redis_url=f"redis://127.0.0.1:{port}/0") as gate:
        await expect_misses(gate, sandbox)


async def expect_misses(gate: Gateway, sandbox: Running) -> None:
    await prepared(gate, sandbox.base_url)
    key = await gate.key("1", policy=ON)
    for _ in range(3):
        reply = await post(gate, key)
        assert (reply.status_code, reply.headers["x-elkapi-cache"]) == (200, "miss")
    gate.closed_books()
