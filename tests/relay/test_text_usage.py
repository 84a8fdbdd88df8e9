"""Providers' usage objects as they send them, through the gateway: the classes, the charge, whole and streamed.

The charge is worked out here from the golden classes, with a price of its own for each, so that nothing can be counted
twice or in another's place unseen.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import elkapi
from elkapi.storage.repos import prices
from elkapi.types import Amounts, Rates, Usage
from tests.canned import canned
from tests.gateway import ACTOR, SMALL, Gateway, gateway
from tests.scripted import Stage, Watch, scripted
from tests.text_calls import CLIENTS, ask
from tests.waiting import until

GOLDEN = msgspec.json.decode((Path(__file__).parents[1] / "golden" / "usage.json").read_bytes())
# Nano-USD a token, all different; the price's field by the usage's.
NANO = {
    "input_tokens": 1_000,
    "cached_tokens": 103,
    "cached_audio_tokens": 331,
    "cache_write_5m_tokens": 1_257,
    "cache_write_1h_tokens": 2_011,
    "audio_input_tokens": 3_019,
    "image_input_tokens": 1_511,
    "output_tokens": 5_003,
    "reasoning_tokens": 7_001,
}
RATES: dict[str, Any] = {name.replace("_tokens", "_nano_per_1m"): nano * 10**6 for name, nano in NANO.items()}
AMOUNTS = Amounts(**RATES)
SEARCH_NANO = 10_000_019
# How each wire's answers are written around a usage object: (family, path of the channel, whole, frames of the stream).
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs"}
ANTHROPIC = {"id": "msg_1", "type": "message", "role": "assistant", "model": "theirs", "stop_sequence": None}


def whole_of(wire: str, usage: dict[str, Any]) -> dict[str, Any]:
    match wire:
        case "chat":
            choice = {"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}
            return {**CHAT, "choices": [choice], "usage": usage}
        case "anthropic":
            content = [{"type": "text", "text": "well"}]
            return {**ANTHROPIC, "content": content, "stop_reason": "end_turn", "usage": usage}
        case "responses":
            part = {"type": "output_text", "text": "well", "annotations": [], "logprobs": []}
            item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
            head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "theirs", "error": None}
            return {**head, "status": "completed", "output": [item], "usage": usage}
        case "converse":
            message = {"role": "assistant", "content": [{"text": "well"}]}
            return {"output": {"message": message}, "stopReason": "end_turn", "usage": usage}
    candidate = {"content": {"role": "model", "parts": [{"text": "well"}]}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "theirs", "responseId": "r"}


def frames_of(wire: str, usage: dict[str, Any]) -> bytes:
    """The same as a stream; of wires whose streams are not server-sent events there is none."""
    rows: list[dict[str, Any]]
    match wire:
        case "chat":
            chunk = {**CHAT, "object": "chat.completion.chunk"}
            delta = {"index": 0, "delta": {"role": "assistant", "content": "well"}, "finish_reason": None}
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            rows = [
                {**chunk, "choices": [delta]},
                {**chunk, "choices": [last]},
                {**chunk, "choices": [], "usage": usage},
            ]
            return b"".join(b"data: " + msgspec.json.encode(row) + b"\n\n" for row in rows) + b"data: [DONE]\n\n"
        case "anthropic":
            start: dict[str, Any] = {
                **ANTHROPIC,
                "content": [],
                "stop_reason": None,
                "usage": {**usage, "output_tokens": 1},
            }
            block = {"type": "text", "text": ""}
            rows = [
                {"type": "message_start", "message": start},
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "well"}},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
                {"type": "message_stop"},
            ]
        case "responses":
            done = whole_of(wire, usage)
            begun = {**done, "status": "in_progress", "output": [], "usage": None}
            delta = {"item_id": "m", "output_index": 0, "content_index": 0, "delta": "well", "logprobs": []}
            rows = [
                {"type": "response.created", "response": begun, "sequence_number": 0},
                {"type": "response.output_text.delta", **delta, "sequence_number": 1},
                {"type": "response.completed", "response": done, "sequence_number": 2},
            ]
        case _:
            return b"data: " + msgspec.json.encode(whole_of(wire, usage)) + b"\r\n\r\n"
    return b"".join(b"event: %b\ndata: %b\n\n" % (row["type"].encode(), msgspec.json.encode(row)) for row in rows)


SECRETS = {"bedrock": "AKIDSANDBOX:sandbox-secret"}
CLIENT_OF = {"chat": "chat", "responses": "responses", "anthropic": "anthropic", "gemini": "gemini", "converse": "chat"}


BLANK: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    ("responses", {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}),
    ("anthropic", {"input_tokens": 0, "output_tokens": 0}),
    ("gemini", {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}),
]


async def priced(gate: Gateway, model: str, family: str, url: str, amounts: Amounts = AMOUNTS, **channel: Any) -> None:
    options = channel.pop("options", {"region": "us-east-1"} if family == "bedrock" else {})
    secrets = (SECRETS.get(family, "sk-upstream"),)
    with gate.database.write() as connection:
        prices.add_version(connection, model=model, amounts=amounts, source="test", now_ns=1, actor=ACTOR)
    await gate.channel(url, (model,), family=family, secrets=secrets, options=options, **channel)


async def account_of(gate: Gateway, key: str, client: str, model: str, stream: bool) -> dict[str, Any]:
    # Long enough for what the golden figures say went in.
    asked = ask(client, model, "Tell me. " * 2_000, stream=stream, max_tokens=1_000)
    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    return await gate.account(reply.headers["x-request-id"], key)


def cost_usd(classes: dict[str, int]) -> str:
    nano = NANO | {"searches": SEARCH_NANO}
    return f"{sum(nano[name] * count for name, count in classes.items()) / 1e9:.9f}".rstrip("0")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g23_g24_g28_every_providers_golden_usage_is_charged_class_by_class_and_once(
    tmp_path: Path, stream: bool
) -> None:
    amounts = msgspec.structs.replace(AMOUNTS, search_nano=SEARCH_NANO)
    async with gateway(tmp_path) as gate:
        key = await gate.key("1000")
        for number, row in enumerate(GOLDEN):
            wire, model = row["wire"], f"model-{number}"
            if stream and wire == "converse":
                continue
            async with canned(200, whole_of(wire, row["usage"]), frames_of(wire, row["usage"])) as upstream:
                await priced(gate, model, row["provider"], upstream.url, amounts)
                account = await account_of(gate, key, CLIENT_OF[wire], model, stream)
            used = {name: count for name, count in account["usage"].items() if name != "calls"}
            assert used == row["classes"], row["note"]
            assert account["cost_usd"] == cost_usd(row["classes"]), row["note"]
            # What is shown as the arithmetic is those terms and no other.
            assert {term["class"]: term["units"] for term in account["price"]["arithmetic"]} == row["classes"]


async def test_g28_g29_cache_tokens_cost_the_same_whichever_dialect_reports_them(tmp_path: Path) -> None:
    """$0.0913 instead of $0.0544: the classes of a translated answer are those of the upstream's, priced once."""
    rows = [row for row in GOLDEN if row["wire"] == "anthropic"]
    (row,) = [row for row in rows if row["classes"].get("cache_write_1h_tokens")]
    costs = set()
    async with canned(200, whole_of("anthropic", row["usage"]), frames_of("anthropic", row["usage"])) as upstream:
        async with gateway(tmp_path) as gate:
            await priced(gate, "claude", "anthropic", upstream.url)
            key = await gate.key("1000")
            for client in CLIENTS:
                for stream in (False, True):
                    costs.add((await account_of(gate, key, client, "claude", stream))["cost_usd"])
    assert costs == {cost_usd(row["classes"])}


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        ("chat", {"prompt_tokens": 100}),
        ("chat", {"prompt_tokens": 100, "completion_tokens": -5}),
        ("responses", {}),
        ("anthropic", {}),
        ("anthropic", {"input_tokens": 100}),
        ("anthropic", {"output_tokens": 5}),
        ("gemini", {}),
        ("gemini", {"candidatesTokenCount": 5}),
        *BLANK,
    ],
)
async def test_g21_g48_a_usage_that_leaves_out_what_it_must_tell_is_missing_and_no_usage_of_zero(
    tmp_path: Path, wire: str, usage: dict[str, Any]
) -> None:
    """Counted here: a token for four bytes of the prompt and of "well", and what frames a message."""
    async with canned(200, whole_of(wire, usage), frames_of(wire, usage)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "vague", {"chat": "openai", "responses": "openai"}.get(wire, wire), upstream.url)
        key = await gate.key("1000")
        for stream in (False, True):
            for client in {CLIENT_OF[wire], *(() if wire == "responses" else ("anthropic",))}:
                account = await account_of(gate, key, client, "vague", stream)
                assert account["usage"]["input_tokens"] == 4504, (client, stream)
                assert account["usage"]["output_tokens"] >= 1, (client, stream)
                assert account["flags"] == ["usage_missing", "estimated_locally"], (client, stream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("wire", "usage"), BLANK)
async def test_a_usage_of_zeros_is_believed_of_an_answer_with_nothing_in_it(
    tmp_path: Path, wire: str, usage: dict[str, Any], stream: bool
) -> None:
    whole = msgspec.json.decode(msgspec.json.encode(whole_of(wire, usage)).replace(b'"well"', b'""'))
    frames = frames_of(wire, usage).replace(b'"well"', b'""')
    async with canned(200, whole, frames) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "vague", {"chat": "openai", "responses": "openai"}.get(wire, wire), upstream.url)
        account = await account_of(gate, await gate.key("1000"), CLIENT_OF[wire], "vague", stream)
    assert (account["flags"], account["cost_usd"]) == ([], "0.00")


async def test_an_embedding_of_a_text_is_never_of_no_tokens(tmp_path: Path) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    answer = {"object": "list", "data": [vector], "model": SMALL, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    async with canned(200, answer) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "vague", "openai", upstream.url)
        key = await gate.key("1000")
        reply = await gate.ask(key, {"model": "vague", "input": "eight is"}, path="/v1/embeddings")
        account = await gate.account(reply.headers["x-request-id"], key)
    assert (account["usage"]["input_tokens"], account["flags"]) == (2, ["usage_missing", "estimated_locally"])


@pytest.mark.parametrize("batch", [False, True])
async def test_an_embedding_of_a_film_costs_what_google_counts_by_its_kind(tmp_path: Path, batch: bool) -> None:
    counted = [{"modality": "IMAGE", "tokenCount": 5000}, {"modality": "AUDIO", "tokenCount": 1500}]
    usage = {"promptTokenCount": 6503, "promptTokenDetails": [*counted, {"modality": "TEXT", "tokenCount": 3}]}
    film = {"fileData": {"fileUri": "https://example.com/f", "mimeType": "video/mp4"}}
    asked: dict[str, Any] = {"content": {"parts": [{"text": "a film"}, film]}}
    answer: dict[str, Any] = {"embedding": {"values": [0.5]}, "usageMetadata": usage}
    if batch:
        asked = {"requests": [asked | {"model": "models/vague"}]}
        answer = {"embeddings": [{"values": [0.5]}], "usageMetadata": usage}
    async with canned(200, answer) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "vague", "gemini", upstream.url)
        key = await gate.key("1000")
        verb = "batchEmbedContents" if batch else "embedContent"
        reply = await gate.ask(key, asked, path=f"/v1beta/models/vague:{verb}")
        account = await gate.account(reply.headers["x-request-id"], key)
    assert account["flags"] == []
    told = account["usage"]
    assert (told["input_tokens"], told["image_input_tokens"], told["audio_input_tokens"]) == (3, 5000, 1500)


def early_and_late(wire: str, early: dict[str, Any], late: dict[str, Any] | None) -> bytes:
    """A stream of 2,000 characters whose first frame tells `early` of its usage, and whose last tells `late`."""
    answer = "well " * 400
    if wire == "anthropic":
        frames = frames_of(wire, early).replace(b'"well"', msgspec.json.encode(answer))
        head, _, tail = frames.rpartition(b',"usage":' + msgspec.json.encode(early))
        return head + (b"" if late is None else b',"usage":' + msgspec.json.encode(late)) + tail
    if wire == "gemini":
        first, last = whole_of(wire, early), whole_of(wire, late or {})
        first["candidates"] = [{"content": {"role": "model", "parts": [{"text": answer}]}, "index": 0}]
        last["candidates"] = [{"content": {"role": "model", "parts": []}, "finishReason": "STOP", "index": 0}]
        return b"".join(b"data: " + msgspec.json.encode(chunk) + b"\r\n\r\n" for chunk in (first, last))
    frames = frames_of(wire, late or {}).replace(b'"well"', msgspec.json.encode(answer))
    return frames.replace(b'"finish_reason":null}]', b'"finish_reason":null}],"usage":' + msgspec.json.encode(early), 1)


@pytest.mark.parametrize(
    ("wire", "early", "late"),
    [
        ("anthropic", {"input_tokens": 100, "output_tokens": 1}, None),
        ("anthropic", {"input_tokens": 100, "output_tokens": 1}, {}),
        ("anthropic", {"input_tokens": 100, "output_tokens": 1}, {"output_tokens": -400}),
        ("anthropic", {"input_tokens": 100, "output_tokens": 1}, {"output_tokens": "400"}),
        ("gemini", {"promptTokenCount": 100, "candidatesTokenCount": 1}, {}),
        ("gemini", {"promptTokenCount": 100}, {"promptTokenCount": 100, "candidatesTokenCount": -400}),
        ("chat", {"prompt_tokens": 100, "completion_tokens": 1}, {"prompt_tokens": 100}),
        ("chat", {"prompt_tokens": 100, "completion_tokens": 1}, {"prompt_tokens": 100, "completion_tokens": -400}),
    ],
)
async def test_g21_a_stream_whose_last_figures_cannot_be_is_not_charged_by_its_first_ones(
    tmp_path: Path, wire: str, early: dict[str, Any], late: dict[str, Any] | None
) -> None:
    """Two thousand characters for the one token that had been counted when the answer began."""
    async with canned(200, {}, early_and_late(wire, early, late)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "fading", {"chat": "openai"}.get(wire, wire), upstream.url)
        key = await gate.key("1000")
        for client in ("chat", "anthropic", "gemini"):
            account = await account_of(gate, key, client, "fading", stream=True)
            used = {"input_tokens": 4504, "output_tokens": 500, "calls": 1}
            assert (account["usage"], account["flags"]) == (used, ["usage_missing", "estimated_locally"]), client


SEARCHES = [{"type": "web_search_call", "id": f"ws_{number}", "status": "completed"} for number in range(2)]


@pytest.mark.parametrize("wire", ["responses", "gemini"])
async def test_g28_searches_cost_the_same_whole_and_streamed_where_only_the_answer_shows_them(
    tmp_path: Path, wire: str
) -> None:
    """Two of them at $0.010000019, beside 100 tokens in and 50 out: neither wire counts them in its usage."""
    if wire == "responses":
        whole = whole_of(wire, {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
        whole["output"] = [*SEARCHES, *whole["output"]]
        frames = response_frames(whole)
    else:
        whole = whole_of(wire, {"promptTokenCount": 100, "candidatesTokenCount": 50, "totalTokenCount": 150})
        whole["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["first", "second"]}
        frames = b"data: " + msgspec.json.encode(whole) + b"\r\n\r\n"
    async with canned(200, whole, frames) as upstream, gateway(tmp_path) as gate:
        family = "openai" if wire == "responses" else wire
        await priced(gate, "searcher", family, upstream.url, msgspec.structs.replace(AMOUNTS, search_nano=SEARCH_NANO))
        key = await gate.key("1000")
        for stream in (False, True):
            account = await account_of(gate, key, wire, "searcher", stream)
            used = {"input_tokens": 100, "output_tokens": 50, "searches": 2, "calls": 1}
            assert (account["usage"], account["cost_usd"]) == (used, "0.020350188"), f"stream={stream}"


def response_frames(whole: dict[str, Any]) -> bytes:
    """A response's stream: its items one by one, and itself at the end."""
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    rows = [
        {"type": "response.created", "response": begun},
        *[
            {"type": f"response.output_item.{word}", "output_index": index, "item": item}
            for index, item in enumerate(whole["output"])
            for word in ("added", "done")
        ],
        {"type": "response.completed", "response": whole},
    ]
    return b"".join(b"event: %b\ndata: %b\n\n" % (r["type"].encode(), msgspec.json.encode(r)) for r in rows)


@pytest.mark.parametrize("told", [None, 1], ids=["shown", "told"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g28_a_page_that_a_search_opens_is_no_search(tmp_path: Path, stream: bool, told: int | None) -> None:
    """OpenAI bills the first of these three and says so; a compatible server may say nothing of it."""
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    actions = ({"type": "search", "query": "q"}, {"type": "open_page", "url": "u"}, {"type": "find_in_page"})
    made = [{**SEARCHES[0], "id": f"ws_{number}", "action": action} for number, action in enumerate(actions)]
    whole["output"] = [*made, *whole["output"]]
    if told is not None:
        none = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        whole["tool_usage"] = {"image_gen": none, "web_search": {"num_requests": told}}
    async with canned(200, whole, response_frames(whole)) as upstream, gateway(tmp_path) as gate:
        amounts = msgspec.structs.replace(AMOUNTS, search_nano=SEARCH_NANO)
        await priced(gate, "searcher", "openai", upstream.url, amounts)
        account = await account_of(gate, await gate.key("1000"), "responses", "searcher", stream)
        assert (account["usage"]["searches"], account["cost_usd"]) == (1, "0.010350169")


# (client, members of its body that say how long a cache lives, whether that is long)
LIVES: list[tuple[str, dict[str, Any], bool]] = [
    ("chat", {"prompt_cache_options": {"ttl": "12h"}}, True),
    ("chat", {"prompt_cache_options": {"ttl": "30m"}}, False),
    ("anthropic", {"cache_control": {"type": "ephemeral", "ttl": "1h"}}, True),
    ("anthropic", {"cache_control": {"type": "ephemeral"}}, False),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "lives", "long"), LIVES)
async def test_g26_cache_writes_that_chat_completions_do_not_split_cost_the_dearest_they_can_be(
    tmp_path: Path, client: str, lives: dict[str, Any], long: bool, stream: bool
) -> None:
    """Chat completions (OpenAI's, OpenRouter's) tell of all writes together: long ones had the price of short ones."""
    details = {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 400}}
    usage = {"prompt_tokens": 500, "completion_tokens": 10, "total_tokens": 510, **details}
    async with canned(200, whole_of("chat", usage), frames_of("chat", usage)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "kept", "compatible", upstream.url)
        asked = ask(client, "kept", "Tell me. " * 200, stream=stream, **lives)
        key = await gate.key("1000")
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        account = await gate.account(reply.headers["x-request-id"], key)
    writes = {"cache_write_1h_tokens" if long else "cache_write_5m_tokens": 400}
    assert account["cost_usd"] == cost_usd({"input_tokens": 100, "output_tokens": 10, **writes})
    assert account["flags"] == (["cache_write_unsplit"] if long else [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g26_cache_writes_that_live_long_for_a_channel_cost_the_dearest_they_can_be(
    tmp_path: Path, stream: bool
) -> None:
    """The caller says nothing of them: what the channel puts into each call had the price of short ones."""
    details = {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 400}}
    usage = {"prompt_tokens": 500, "completion_tokens": 10, "total_tokens": 510, **details}
    asks = {"prompt_cache_options": msgspec.Raw(b'{"ttl":"12h"}')}
    async with canned(200, whole_of("chat", usage), frames_of("chat", usage)) as upstream, gateway(tmp_path) as gate:
        await priced(
            gate, "kept", "compatible", upstream.url, Amounts(cache_write_1h_nano_per_1m=10**10), param_set=asks
        )
        account = await account_of(gate, await gate.key("1000"), "chat", "kept", stream)
    assert (account["cost_usd"], account["flags"]) == ("0.004", ["cache_write_unsplit"])


async def test_g36_the_searches_that_a_channel_asks_for_are_held(tmp_path: Path) -> None:
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    whole["output"] = [*SEARCHES, *whole["output"]]
    asks = {"tools": msgspec.Raw(b'[{"type":"web_search"}]')}
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "finder", "openai", upstream.url, Amounts(search_nano=SEARCH_NANO), param_set=asks)
        account = await account_of(gate, await gate.key("1"), "responses", "finder", stream=False)
    assert (account["held_usd"], account["cost_usd"], account["flags"]) == ("0.10000019", "0.020000038", [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "kinds",
    [
        *(("file_search_call",), ("code_interpreter_call",), ("web_search_call",), ("computer_call",)),
        ("file_search_call", "web_search_call"),
    ],
)
async def test_a_tool_that_was_run_and_has_no_price_is_flagged(
    tmp_path: Path, kinds: tuple[str, ...], stream: bool
) -> None:
    """OpenAI bills each of them but the last; a record of prices has a class for searches alone, and this has none."""
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    made = [{"type": one, "id": one, "status": "completed"} for one in kinds]
    whole["output"] = [*made, *whole["output"]]
    async with canned(200, whole, response_frames(whole)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "tooled", "openai", upstream.url)
        account = await account_of(gate, await gate.key("1000"), "responses", "tooled", stream)
    assert account["flags"] == ([] if kinds == ("computer_call",) else ["unpriced_tools"])


async def test_a_search_of_a_free_model_is_nothing_to_flag(tmp_path: Path) -> None:
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    whole["output"] = [*SEARCHES, *whole["output"]]
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "free", "openai", upstream.url, Amounts())
        account = await account_of(gate, await gate.key("1"), "responses", "free", stream=False)
    assert (account["usage"]["searches"], account["cost_usd"], account["flags"]) == (2, "0.00", [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("where", "flags"), [("container_reference", ["unpriced_tools"]), ("local", [])])
async def test_a_shell_in_a_container_of_the_providers_is_flagged_and_the_callers_own_is_not(
    tmp_path: Path, where: str, flags: list[str], stream: bool
) -> None:
    """OpenAI bills the container."""
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    ran = {"type": "shell_call", "id": "s", "call_id": "c", "status": "completed", "action": {"commands": ["ls"]}}
    whole["output"] = [ran | {"environment": {"type": where}}, *whole["output"]]
    async with canned(200, whole, response_frames(whole)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "tooled", "openai", upstream.url)
        account = await account_of(gate, await gate.key("1000"), "responses", "tooled", stream)
    assert account["flags"] == flags


@pytest.mark.parametrize("breaks", [False, True], ids=["left", "broken"])
async def test_a_tool_without_a_price_is_flagged_also_where_the_answer_did_not_come_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    whole["output"] = [{"type": "file_search_call", "id": "x", "status": "completed"}, *whole["output"]]
    rows = [row + b"\n\n" for row in response_frames(whole).split(b"\n\n")[:-2]]
    async with scripted() as upstream, gateway(tmp_path) as gate:
        await priced(gate, "tooled", "openai", upstream.url)
        call = ask("responses", "tooled", "Tell me. " * 20, stream=True)
        staged = Stage(gate, upstream, Watch(monkeypatch), await gate.key("1000"), call)
        reader, writer, played = await staged.call()
        await staged.play(played, rows)
        assert b" 200 " in await reader.readline()
        played.break_off() if breaks else writer.close()
        record = await staged.watch.records.get()
        assert "unpriced_tools" in record.flags
        writer.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g28_searches_that_xai_tells_of_are_paid_also_those_of_x(tmp_path: Path, stream: bool) -> None:
    """Those of X stand as calls of a custom tool, which nothing counted; a search that failed is not billed."""
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, "num_server_side_tools_used": 3}
    told = {"web_search_calls": 1, "x_search_calls": 2, "code_interpreter_calls": 0}
    whole = whole_of("responses", usage | {"server_side_tool_usage_details": told})
    whole["output"] = [*SEARCHES, *whole["output"]]
    async with canned(200, whole, response_frames(whole)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "grok", "xai", upstream.url, msgspec.structs.replace(AMOUNTS, search_nano=SEARCH_NANO))
        key, tools = await gate.key("1000"), [{"type": "x_search"}]
        asked = ask("responses", "grok", "Tell me.", stream=stream, tools=tools)
        reply = await gate.ask(key, asked.body, path=asked.path)
        account = await gate.account(reply.headers["x-request-id"], key)
    paid = cost_usd({"input_tokens": 100, "output_tokens": 50, "searches": 3})
    assert (account["usage"]["searches"], account["cost_usd"], account["flags"]) == (3, paid, [])


@pytest.mark.parametrize(
    ("stream", "held_back_bytes"),
    [(False, 4_000_000), (True, 4_000_000), (False, 1_000)],
    ids=["whole", "streamed", "large"],
)
async def test_g28_g36_the_pictures_that_a_response_had_made_are_held_and_paid_by_their_own_classes(
    tmp_path: Path, stream: bool, held_back_bytes: int
) -> None:
    """Another model of OpenAI's made them: its tokens stand beside the response's usage, and were nobody's to pay.

    An answer with pictures in it is mostly larger than what is held back of others.
    """
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    picture = {"type": "image_generation_call", "id": "ig", "status": "completed", "result": "iVBORw0KGgo=" * 1_000}
    whole["output"] = [{**picture, "action": "generate"}, *whole["output"]]
    made = {"input_tokens": 60, "cached_tokens": 10, "output_tokens": 6_240, "total_tokens": 6_300}
    whole["tool_usage"] = {"image_gen": made}
    async with (
        canned(200, whole, response_frames(whole)) as upstream,
        gateway(tmp_path, reply_buffer_bytes_max=held_back_bytes) as gate,
    ):
        amounts = msgspec.structs.replace(AMOUNTS, image_output_nano_per_1m=40_009 * 10**6)
        await priced(gate, "painter", "openai", upstream.url, amounts)
        tools = [{"type": "image_generation"}]
        asked = ask("responses", "painter", "Tell me. " * 20, stream=stream, max_tokens=100, tools=tools)
        key = await gate.key("1000")
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        account = await gate.account(reply.headers["x-request-id"], key)
    classes = {"input_tokens": 100, "cached_tokens": 10, "image_input_tokens": 50, "output_tokens": 50}
    assert account["usage"] == {**classes, "image_output_tokens": 6_240, "calls": 1}
    assert account["flags"] == []
    nano = sum(NANO[name] * count for name, count in classes.items()) + 6_240 * 40_009
    assert account["cost_usd"] == f"{nano / 1e9:.9f}".rstrip("0")


@pytest.mark.parametrize(("moving", "frames"), [({}, 9), ({"frame_count": 40}, 40)])
async def test_every_frame_of_a_moving_picture_is_held_and_paid(
    tmp_path: Path, moving: dict[str, int], frames: int
) -> None:
    """Their tokens were more than one picture can have, so none of the call's figures were believed."""
    whole = whole_of("responses", {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    whole["output"] = [{"type": "image_generation_call", "id": "ig", "result": "R0lGOD"}, *whole["output"]]
    whole["tool_usage"] = {"image_gen": {"input_tokens": 60, "output_tokens": frames * 4_160}}
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "painter", "openai", upstream.url)
        tools = [{"type": "image_generation", "output_format": "gif", **moving}]
        asked = ask("responses", "painter", "Tell me. " * 20, max_tokens=100, tools=tools)
        key = await gate.key("1000")
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        account = await gate.account(reply.headers["x-request-id"], key)
    assert (account["flags"], account["usage"]["image_output_tokens"]) == ([], frames * 4_160)


@pytest.mark.parametrize(
    "asked",
    [
        {"compaction": {"type": "summarize"}},
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
    ],
)
async def test_g36_a_compaction_is_held_and_paid_however_it_is_asked_for(tmp_path: Path, asked: dict[str, Any]) -> None:
    """Its summary may be longer than the call's limit of output: the figures were taken for impossible ones."""
    made = {"type": "compaction", "input_tokens": 300, "output_tokens": 4_000}
    whole = whole_of("anthropic", {"input_tokens": 0, "output_tokens": 0, "iterations": [made]})
    whole |= {"content": [{"type": "compaction", "content": "In short."}], "stop_reason": "compaction"}
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "shortened", "anthropic", upstream.url)
        call = ask("anthropic", "shortened", "Tell me. " * 100, max_tokens=50, **asked)
        key = await gate.key("1000")
        reply = await gate.ask(key, call.body, path=call.path, headers=call.headers)
        account = await gate.account(reply.headers["x-request-id"], key)
    assert (account["flags"], account["cost_usd"]) == ([], cost_usd({"input_tokens": 300, "output_tokens": 4_000}))


async def test_g36_the_searches_of_a_call_are_held_and_paid_also_where_nothing_else_has_a_price(tmp_path: Path) -> None:
    """It was held at nothing, so each search was the operator's."""
    whole = whole_of("gemini", {"promptTokenCount": 100, "candidatesTokenCount": 50, "totalTokenCount": 150})
    whole["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["first", "second"]}
    frames = b"data: " + msgspec.json.encode(whole) + b"\r\n\r\n"
    # Less is held back of other answers: this one is read whole for its searches.
    async with canned(200, whole, frames) as upstream, gateway(tmp_path, reply_buffer_bytes_max=100) as gate:
        await priced(gate, "searcher", "gemini", upstream.url, Amounts(search_nano=SEARCH_NANO))
        key = await gate.key("1")
        for client, tools in (("gemini", {"tools": [{"googleSearch": {}}]}), ("chat", {"web_search_options": {}})):
            for stream in (False, True):
                asked = ask(client, "searcher", "Tell me.", stream=stream, **tools)
                reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
                account = await gate.account(reply.headers["x-request-id"], key)
                assert (account["cost_usd"], account["flags"]) == ("0.020000038", []), (client, stream)
        poor = await gate.key("0.05")
        refused = await gate.ask(poor, asked.body, path=asked.path, headers=asked.headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_user_quota")


@pytest.mark.parametrize("searching", [{"tools": [{"type": "openrouter:web_search"}]}, {"plugins": [{"id": "web"}]}])
async def test_g36_a_search_of_openrouters_own_tool_is_held(tmp_path: Path, searching: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 33, "completion_tokens": 70, "total_tokens": 103}
    whole = whole_of("chat", usage | {"server_tool_use_details": {"web_search_requests": 9}})
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "finder", "openrouter", upstream.url, Amounts(input_nano_per_1m=1, search_nano=SEARCH_NANO))
        asked = ask("chat", "finder", "Tell me.", **searching)
        key = await gate.key("1")
        reply = await gate.ask(key, asked.body, path=asked.path)
        account = await gate.account(reply.headers["x-request-id"], key)
        assert (account["usage"]["searches"], account["flags"]) == (9, [])


@pytest.mark.parametrize(("family", "model"), [("perplexity", "sonar-pro"), ("openrouter", "openai/gpt-4o:online")])
async def test_g36_the_searches_of_a_model_that_searches_unasked_are_held(
    tmp_path: Path, family: str, model: str
) -> None:
    usage = {"prompt_tokens": 33, "completion_tokens": 70, "total_tokens": 103, "num_search_queries": 9}
    async with canned(200, whole_of("chat", usage)) as upstream, gateway(tmp_path) as gate:
        amounts = Amounts(input_nano_per_1m=10**9, search_nano=SEARCH_NANO)
        await priced(gate, "finder", family, upstream.url, amounts, model_map={"finder": model})
        account = await account_of(gate, await gate.key("1"), "chat", "finder", stream=False)
        assert (account["cost_usd"], account["flags"]) == ("0.090033171", [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g36_what_deep_research_reads_and_thinks_is_held_and_charged(tmp_path: Path, stream: bool) -> None:
    usage = {"prompt_tokens": 33, "completion_tokens": 7163, "total_tokens": 7196, "num_search_queries": 18}
    usage |= {"citation_tokens": 120_016, "reasoning_tokens": 173_997}
    async with canned(200, whole_of("chat", usage), frames_of("chat", usage)) as upstream, gateway(tmp_path) as gate:
        usd = {"input": 2, "output": 8, "reasoning": 3}
        rates: dict[str, Any] = {f"{name}_nano_per_1m": each * 10**9 for name, each in usd.items()}
        amounts = Amounts(**rates, search_nano=5_000_000)
        await priced(gate, "finder", "perplexity", upstream.url, amounts, model_map={"finder": "sonar-deep-research"})
        key = await gate.key("9")
        asked = ask("chat", "finder", "Tell me.", stream=stream)
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        account = await gate.account(reply.headers["x-request-id"], key)
        assert (account["cost_usd"], account["flags"]) == ("0.909393", [])
        gate.closed_books()


@pytest.mark.parametrize("mapped", [{}, {"model_map": {"painter": "gemini-2.5-flash-image"}}])
async def test_g36_pictures_of_a_model_that_makes_them_unasked_are_held(tmp_path: Path, mapped: dict[str, Any]) -> None:
    """Nothing in the call says picture, so its output was held at the price of text and the rest was a loss."""
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 1290, "totalTokenCount": 1295}
    whole = whole_of("gemini", usage | {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}]})
    name = "painter" if mapped else "gemini-2.5-flash-image"
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        amounts = Amounts(output_nano_per_1m=2_500_000_000, image_output_nano_per_1m=30_000_000_000)
        await priced(gate, name, "gemini", upstream.url, amounts, **mapped)
        key = await gate.key("1")
        for client in ("gemini", "chat"):
            asked = ask(client, name, "A cat.", max_tokens=1300)
            reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
            account = await gate.account(reply.headers["x-request-id"], key)
            assert (account["cost_usd"], account["flags"]) == ("0.0387", []), client


async def test_g36_the_sound_of_a_model_that_is_named_for_it_is_held(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 100, "total_tokens": 105}
    whole = whole_of("chat", usage | {"completion_tokens_details": {"audio_tokens": 100}})
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        amounts = Amounts(output_nano_per_1m=10_000_000_000, audio_output_nano_per_1m=80_000_000_000)
        await priced(gate, "gpt-4o-audio-preview", "openai", upstream.url, amounts)
        account = await account_of(gate, await gate.key("1"), "chat", "gpt-4o-audio-preview", stream=False)
        assert (account["cost_usd"], account["held_usd"], account["flags"]) == ("0.008", "0.08", [])


@pytest.mark.parametrize(
    ("units", "flags"),
    [
        (3, []),
        (None, ["usage_missing", "estimated_locally"]),
        (-3, ["usage_missing", "estimated_locally"]),
        (10**18, ["usage_missing", "estimated_locally"]),
    ],
)
async def test_g48_a_search_of_many_documents_is_held_and_charged_in_whole_told_or_not(
    tmp_path: Path, units: int | None, flags: list[str]
) -> None:
    """Cohere's unit is a hundred documents: 250 of them are three, at $0.002000003 each."""
    reply = {
        "id": "x",
        "results": [{"index": 0, "relevance_score": 0.5}],
        "meta": {"billed_units": {"search_units": units}},
    }
    asked = {"model": "ranker", "query": "which", "documents": ["one of many"] * 250}
    async with canned(200, reply) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "ranker", "cohere", upstream.url, Amounts(search_nano=2_000_003))
        key = await gate.key("1")
        answer = await gate.ask(key, asked, path="/v1/rerank")
        account = await gate.account(answer.headers["x-request-id"], key)
        # One that is paid by its tokens has nothing for nothing.
        await priced(gate, "by-tokens", "cohere", upstream.url, Amounts(input_nano_per_1m=10**9))
        other = await gate.ask(key, {**asked, "model": "by-tokens"}, path="/v1/rerank")
        by_tokens = await gate.account(other.headers["x-request-id"], key)
    assert (account["usage"]["searches"], account["cost_usd"], account["flags"]) == (3, "0.006000009", flags)
    assert (by_tokens["usage"]["searches"], by_tokens["flags"]) == (3, flags)
    assert answer.json()["id"] == "x"


async def test_g21_a_rerank_at_siliconflow_is_charged_by_the_tokens_of_its_meta(tmp_path: Path) -> None:
    billed = {"input_tokens": 40, "output_tokens": 0, "search_units": 0, "classifications": 0}
    meta = {"billed_units": billed, "tokens": {"input_tokens": 40, "output_tokens": 0}}
    reply = {"id": "x", "results": [{"index": 0, "relevance_score": 0.5}], "meta": meta}
    async with canned(200, reply) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "ranker", "siliconflow", upstream.url, Amounts(input_nano_per_1m=10**9))
        key = await gate.key("1")
        answer = await gate.ask(key, {"model": "ranker", "query": "which", "documents": ["a"] * 9}, path="/v1/rerank")
        account = await gate.account(answer.headers["x-request-id"], key)
    assert answer.json() == reply
    assert (account["usage"]["input_tokens"], account["cost_usd"], account["flags"]) == (40, "0.00004", [])


async def test_a_rerank_in_voyages_form_is_an_answer_and_charged(tmp_path: Path) -> None:
    reply = {"object": "list", "data": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 40}}
    async with canned(200, reply) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "ranker", "jina", upstream.url, Amounts(input_nano_per_1m=10**9))
        key = await gate.key("1")
        answer = await gate.ask(key, {"model": "ranker", "query": "which", "documents": ["a"] * 9}, path="/v1/rerank")
    assert answer.json() == reply
    assert answer.headers["x-elkapi-cost-usd"] == "0.00004"


@pytest.mark.parametrize("wire", ["anthropic", "responses"])
async def test_g21_a_number_of_searches_that_no_call_can_have_made_is_no_usage(tmp_path: Path, wire: str) -> None:
    """The loss above the hold would be too large for the books: the call a 503, and its hold never given back."""
    whole = whole_of(wire, {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150})
    if wire == "anthropic":
        whole["usage"]["server_tool_use"] = {"web_search_requests": 10**12}
    else:
        whole["tool_usage"] = {"web_search": {"num_requests": 10**12}}
    async with canned(200, whole) as upstream, gateway(tmp_path) as gate:
        family = "openai" if wire == "responses" else wire
        await priced(gate, "searcher", family, upstream.url, msgspec.structs.replace(AMOUNTS, search_nano=SEARCH_NANO))
        account = await account_of(gate, await gate.key("1000"), wire, "searcher", stream=False)
        assert (account["usage"]["input_tokens"], account["flags"]) == (4504, ["usage_missing", "estimated_locally"])
        assert gate.sql("select held_nano from accounts where kind = 'customer'") == [(0,)]


def test_g29_rates_are_multiplied_in_one_module_alone() -> None:
    """Whoever else names a rate only stores or shows it: in `pricing.price` alone does one meet an operator."""
    root = Path(elkapi.__file__).parent
    rates = set(Rates.__struct_fields__)
    found = set()
    for path in root.rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "_nano" in text else ():
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv):
                named = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                if named & rates:
                    found.add(path.relative_to(root).as_posix())
    assert found == {"pricing/price.py"}


def test_g23_the_classes_of_a_usage_are_disjoint_and_sum_to_its_totals() -> None:
    for row in GOLDEN:
        usage = Usage(**row["classes"])
        tokens = sum(count for name, count in row["classes"].items() if name != "searches")
        assert usage.input_total + usage.output_total == tokens
        told = row["usage"]
        total = told.get("total_tokens") or told.get("totalTokenCount") or told.get("totalTokens")
        if total is None:
            compactions = [part for part in told.get("iterations", ()) if part["type"] == "compaction"]
            names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
            total = sum(part[name] for part in (told, *compactions) for name in names)
        if "citation_tokens" in told:
            total += told["citation_tokens"] + told["reasoning_tokens"]
        assert usage.input_total + usage.output_total == total, row["note"]


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
PAGES = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", ["anthropic", "chat"])
@pytest.mark.parametrize("given", ["tools", "document"])
async def test_what_tools_and_files_come_to_above_the_hold_is_charged_up_to_it_and_the_rest_is_a_loss(
    tmp_path: Path, given: str, client: str, stream: bool
) -> None:
    usage = {"input_tokens": 400_000, "output_tokens": 20}
    amounts = Amounts(input_nano_per_1m=10**9, output_nano_per_1m=0)
    asked = ask(client, "m", "hello", stream=stream)
    if given == "tools":
        asked.body["tools"] = [SEARCH] if client == "anthropic" else [{"type": "web_search"}]
    elif client == "anthropic":
        asked.body["messages"][0]["content"] = [PAGES]
    else:
        file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
        asked.body["messages"][0]["content"] = [{"type": "file", "file": file}]
    async with (
        gateway(tmp_path) as gate,
        canned(200, whole_of("anthropic", usage), frames_of("anthropic", usage)) as upstream,
    ):
        await priced(gate, "m", "anthropic", upstream.url, amounts)
        reply = await gate.ask(key := await gate.key("10"), asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 200, reply.text
        account = await gate.account(reply.headers["x-request-id"], key)
        assert (account["usage"]["input_tokens"], account["flags"]) == (400_000, ["above_hold"])
        ((charged, loss),) = gate.sql("select charge_nano, loss_nano from requests")
        ((held,),) = gate.sql("select nano from transfers where kind = 'hold'")
        assert (charged, loss) == (held, 400_000_000 - held)


@pytest.mark.parametrize("wire", ["responses", "gemini"])
async def test_callers_never_see_what_a_model_is_mapped_to_wherever_a_reply_says_it(tmp_path: Path, wire: str) -> None:
    answer = whole_of(wire, next(usage for name, usage in BLANK if name == wire))
    if wire == "responses":
        answer["output"][0]["content"][0]["text"] = "well " * 2_000
        model, output = answer.pop("model"), answer.pop("output")
        answer |= {"instructions": "Be brief. " * 1_000, "model": model, "output": output, "store": False}
    else:
        answer["candidates"][0]["content"]["parts"][0]["text"] = "well " * 2_000
    asked = ask(wire, "mine", "hello")
    # A reply of Gemini's with a picture is longer than what is buffered.
    async with gateway(tmp_path, reply_buffer_bytes_max=100_000 if wire == "responses" else 1_000) as gate:
        async with canned(200, answer) as upstream:
            family = "openai" if wire == "responses" else wire
            await gate.channel(upstream.url, ("mine",), family=family, model_map={"mine": "theirs"})
            await gate.price("mine", per_1m_usd="1")
            reply = await gate.ask(await gate.key("1"), asked.body, path=asked.path)
        assert (reply.status_code, "theirs" in reply.text, "mine" in reply.text) == (200, False, True)


async def test_a_large_answer_names_the_callers_model_and_its_writes_are_the_dearest(tmp_path: Path) -> None:
    """What is passed on as it comes is named at its beginning and metered at its end."""
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 400, "output_tokens": 0}
    said = {"content": [{"type": "text", "text": "well " * 5_000}], "stop_reason": "end_turn", "usage": usage}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "theirs", **said}
    amounts = Amounts(input_nano_per_1m=10**9, cache_write_1h_nano_per_1m=2 * 10**9)
    long = [{"type": "text", "text": "Long. " * 500, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    asked = ask("anthropic", "mine", "hello", system=long)
    async with canned(200, answer) as upstream, gateway(tmp_path, reply_buffer_bytes_max=1_000) as gate:
        await priced(gate, "mine", "anthropic", upstream.url, amounts, model_map={"mine": "theirs"})
        reply = await gate.ask(await gate.key("1"), asked.body, path=asked.path, headers=asked.headers)
        assert reply.headers["transfer-encoding"] == "chunked"
        assert reply.json() == {**answer, "model": "mine"}
        assert gate.sql("select charge_nano, loss_nano from requests") == [(10 * 1_000 + 400 * 2_000, 0)]


async def test_a_large_answer_without_its_end_is_broken_off(tmp_path: Path) -> None:
    answer = {**whole_of("chat", {}), "system_fingerprint": "f" * 20_000}
    asked = ask("chat", "gpt-4o", "hello")
    async with canned(200, answer) as upstream, gateway(tmp_path, reply_buffer_bytes_max=1_000) as gate:
        upstream.body = upstream.body[:-1]
        await priced(gate, "gpt-4o", "openai", upstream.url)
        key = await gate.key("1")
        with pytest.raises(httpx.RemoteProtocolError):
            await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        ((charge_nano, record),) = await until(lambda: gate.sql("select charge_nano, record from requests"))
        assert (charge_nano, b"unreadable_reply" in record) == (0, True)


@pytest.mark.parametrize("read_on_s", [5.0, 0.0], ids=["whole", "not soon"])
async def test_who_leaves_a_large_answer_in_the_middle_pays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_on_s: float
) -> None:
    """It was made and is billed in full: a caller who took all but its last bytes paid for the input alone."""
    monkeypatch.setattr("elkapi.relay.relay.READ_ON_S", read_on_s)
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 150, "totalTokenCount": 155}
    answer = whole_of("gemini", usage)
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBO" * 8_000_000}}
    answer["candidates"][0]["content"]["parts"].append(picture)
    asked = ask("gemini", "painter", "Draw.")
    async with canned(200, answer) as upstream, gateway(tmp_path, reply_buffer_bytes_max=1_000) as gate:
        amounts = Amounts(input_nano_per_1m=10**9, output_nano_per_1m=10**10)
        await priced(gate, "painter", "gemini", upstream.url, amounts)
        headers = {
            "authorization": f"Bearer {await gate.key('1')}",
            "content-type": "application/json",
            **asked.headers,
        }
        body = msgspec.json.encode(asked.body)
        async with gate.http.stream("POST", asked.path, content=body, headers=headers) as reply:
            assert reply.status_code == 200
            async for _ in reply.aiter_raw():
                break
        rows = "select charge_nano, loss_nano, record from requests"
        ((charge_nano, loss_nano, record),) = await until(lambda: gate.sql(rows))
        assert (loss_nano, b"client_gone" in record) == (0, True)
        assert (charge_nano == 5 * 1_000 + 150 * 10_000) is bool(read_on_s)
        assert (b"estimated_locally" in record) is not bool(read_on_s)
        gate.closed_books()
