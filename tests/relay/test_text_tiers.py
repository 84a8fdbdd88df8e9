"""Prices by what is served, as the answer tells it and not the request: a tier, a speed, a place of inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.sandbox.eventstream import MEDIA_TYPE, event
from elkapi.types import Amounts, Policy, Tier, Variant
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.relay.test_text_usage import CLIENT_OF, frames_of, priced, whole_of
from tests.scripted import Stage, Watch, scripted
from tests.text_calls import CLIENTS, ask, events

MODEL = "tiered"
# Nano-USD a token in and out: plain, above 10,000 tokens of input, fast, fast above 10,000, flexible, in the states.
PLAIN, LONG, FAST, LONG_FAST, FLEX, GEO = (4, 20), (8, 30), (9, 41), (17, 61), (2, 10), (5, 22)


def rates(of: tuple[int, int]) -> dict[str, int]:
    return {"input_nano_per_1m": of[0] * 10**6, "output_nano_per_1m": of[1] * 10**6}


AMOUNTS = Amounts(
    **rates(PLAIN),
    tiers=(Tier(above_tokens=10_000, **rates(LONG)),),
    variants=(
        Variant(when={"service_tier": ("fast", "priority")}, above_tokens=10_000, **rates(LONG_FAST)),
        Variant(when={"service_tier": ("fast", "priority")}, **rates(FAST)),
        Variant(when={"service_tier": ("flex",)}, **rates(FLEX)),
        Variant(when={"speed": ("fast",)}, **rates(FAST)),
        Variant(when={"inference_geo": ("us",)}, **rates(GEO)),
    ),
)
GIVEN, MADE = 100, 7
USAGE: dict[str, dict[str, Any]] = {
    "chat": {"prompt_tokens": GIVEN, "completion_tokens": MADE, "total_tokens": GIVEN + MADE},
    "responses": {"input_tokens": GIVEN, "output_tokens": MADE, "total_tokens": GIVEN + MADE},
    "anthropic": {"input_tokens": GIVEN, "output_tokens": MADE},
    "gemini": {"promptTokenCount": GIVEN, "candidatesTokenCount": MADE, "totalTokenCount": GIVEN + MADE},
}
FAMILY = {"chat": "openai", "responses": "openai", "anthropic": "anthropic", "gemini": "gemini"}
# (wire, what is asked, where the answer tells it, the features, the rates)
TOLD: list[tuple[str, dict[str, str], dict[str, str], tuple[int, int]]] = [
    ("chat", {"service_tier": "fast"}, {"service_tier": "priority"}, FAST),
    ("chat", {"service_tier": "flex"}, {"service_tier": "flex"}, FLEX),
    ("chat", {"service_tier": "flex"}, {"service_tier": "default"}, PLAIN),
    ("responses", {"service_tier": "priority"}, {"service_tier": "fast"}, FAST),
    ("responses", {"service_tier": "auto"}, {"service_tier": "default"}, PLAIN),
    ("anthropic", {"speed": "fast"}, {"speed": "fast"}, FAST),
    ("anthropic", {"speed": "fast"}, {"speed": "standard", "inference_geo": "us"}, GEO),
    ("gemini", {"serviceTier": "priority"}, {"service_tier": "priority"}, FAST),
    ("gemini", {"service_tier": "flex"}, {"service_tier": "STANDARD"}, PLAIN),
    ("gemini", {}, {"trafficType": "ON_DEMAND_PRIORITY"}, FAST),
    ("gemini", {}, {"trafficType": "ON_DEMAND_FLEX"}, FLEX),
    ("gemini", {}, {"trafficType": "ON_DEMAND"}, PLAIN),
    ("chat", {}, {"service_tier": "priority"}, FAST),
    ("chat", {"service_tier": "priority"}, {}, PLAIN),
]


def cost(of: tuple[int, int], given: int = GIVEN) -> str:
    return f"{(of[0] * given + of[1] * MADE) / 1e9:.9f}".rstrip("0")


def features_in(told: dict[str, str]) -> dict[str, str]:
    """The features that an answer's words mean."""
    return {
        "service_tier" if name == "trafficType" else name: word.lower().removeprefix("on_demand_")
        for name, word in told.items()
    }


def answers(wire: str, told: dict[str, str], given: int = GIVEN) -> tuple[bytes, bytes]:
    """(whole, frames) of an answer that tells how it was served; an early event of a stream does not know it yet."""
    words = {"serviceTier" if (wire, name) == ("gemini", "service_tier") else name: w for name, w in told.items()}
    usage = dict(USAGE[wire])
    for name, count in usage.items():
        usage[name] = count - GIVEN + given if count >= GIVEN else count
    if wire in ("anthropic", "gemini"):
        usage |= words
        return msgspec.json.encode(whole_of(wire, usage)), frames_of(wire, usage)
    mark = b'"model":"theirs"'
    members = b"".join(b',"%b":"%b"' % (name.encode(), word.encode()) for name, word in words.items())
    whole = msgspec.json.encode(whole_of(wire, usage)).replace(mark, mark + members)
    first, _, rest = frames_of(wire, usage).partition(b"\n\n")
    early = mark + b',"service_tier":"auto"' if words else mark
    return whole, first.replace(mark, early) + b"\n\n" + rest.replace(mark, mark + members)


async def account_of(gate: Gateway, key: str, client: str, stream: bool, **more: Any) -> dict[str, Any]:
    asked = ask(client, MODEL, "Tell me. " * 20, stream=stream, max_tokens=50, **more)
    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    return await gate.account(reply.headers["x-request-id"], key)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("wire", "asked", "told", "of"), TOLD)
async def test_g29_a_call_costs_what_the_tier_costs_that_its_answer_tells(
    tmp_path: Path, wire: str, asked: dict[str, str], told: dict[str, str], of: tuple[int, int], stream: bool
) -> None:
    whole, frames = answers(wire, told)
    async with canned(200, msgspec.Raw(whole), frames) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, FAMILY[wire], upstream.url, AMOUNTS)
        account = await account_of(gate, await gate.key("1"), CLIENT_OF[wire], stream, **asked)
        assert account["cost_usd"] == cost(of)
        assert account.get("features", {}) == features_in(told)
        assert [term["nano_usd"] for term in account["price"]["arithmetic"]] == [rate * 10**6 for rate in of]
        assert account["flags"] == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_the_tier_is_told_across_dialects_and_above_the_length_that_it_has_another_price_for(
    tmp_path: Path, client: str, stream: bool
) -> None:
    whole, frames = answers("chat", {"service_tier": "priority"}, given=10_001)
    async with canned(200, msgspec.Raw(whole), frames) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "compatible", upstream.url, AMOUNTS)
        asked = ask(client, MODEL, "Tell me. " * 3_000, stream=stream, max_tokens=50)
        key = await gate.key("1")
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        account = await gate.account(reply.headers["x-request-id"], key)
        assert account["cost_usd"] == cost(LONG_FAST, 10_001)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("word", "of"), [("flex", FLEX), ("priority", FAST)])
async def test_an_answer_from_the_cache_costs_its_share_of_what_the_call_costs_that_it_saves(
    tmp_path: Path, word: str, of: tuple[int, int], stream: bool
) -> None:
    """It was a share of the plain price: the whole of it for a `flex` call was twice what asking again costs."""
    whole, frames = answers("chat", {"service_tier": word})
    async with canned(200, msgspec.Raw(whole), frames) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        key = await gate.key("1", policy=Policy(cache=True, cache_hit_ratio_micro=1_000_000))
        asked = await account_of(gate, key, "chat", stream, service_tier=word)
        await gate.plane.answers.idle()
        kept = await account_of(gate, key, "chat", stream, service_tier=word)
        assert (kept["cached"], kept["features"], len(upstream.bodies)) == (True, {"service_tier": word}, 1)
        assert kept["held_usd"] == kept["cost_usd"] == asked["cost_usd"] == cost(of)
        assert kept["price"]["arithmetic"] == asked["price"]["arithmetic"]
        gate.closed_books()


async def test_an_answer_that_was_served_dearer_than_its_hold_is_not_kept(tmp_path: Path) -> None:
    """A hit would hold all that it cost, and be refused where a new call is not."""
    whole, _ = answers("chat", {"service_tier": "fast"}, given=300)
    async with canned(200, msgspec.Raw(whole)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        key = await gate.key("1", policy=Policy(cache=True, cache_hit_ratio_micro=1_000_000))
        for number in (1, 2):
            account = await account_of(gate, key, "chat", False)
            await gate.plane.answers.idle()
            assert (account["flags"], len(upstream.bodies)) == (["above_hold"], number)


async def test_a_whole_answer_to_a_call_for_a_stream_is_read_for_its_tier_too(tmp_path: Path) -> None:
    whole, _ = answers("chat", {"service_tier": "fast"})
    async with canned(200, msgspec.Raw(whole)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        account = await account_of(gate, await gate.key("1"), "chat", True)
        assert account["cost_usd"] == cost(FAST)


async def test_an_answer_too_large_to_be_held_back_is_read_for_its_tier_all_the_same(tmp_path: Path) -> None:
    whole, _ = answers("chat", {})
    # The word stands before what would be held back of it.
    large = whole.replace(b'"model":"theirs"', b'"service_tier":"fast","model":"theirs"').replace(
        b"well", b"well" * 5_000
    )
    async with canned(200, msgspec.Raw(large)) as upstream, gateway(tmp_path, reply_buffer_bytes_max=1_000) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        account = await account_of(gate, await gate.key("1"), "chat", False)
        assert account["cost_usd"] == cost(FAST)


async def test_what_a_caller_has_repeated_in_its_answer_is_no_word_of_the_upstream(tmp_path: Path) -> None:
    whole, frames = answers("responses", {"service_tier": "default"})
    forged = b'"metadata":{"service_tier":"flex"},"tools":[{"service_tier":"flex"}],"model":"theirs"'
    forge = (b'"model":"theirs"', forged)
    async with canned(200, msgspec.Raw(whole.replace(*forge)), frames.replace(*forge)) as upstream:
        async with gateway(tmp_path) as gate:
            await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
            key = await gate.key("1")
            for stream in (False, True):
                account = await account_of(gate, key, "responses", stream, metadata={"service_tier": "flex"})
                assert account["cost_usd"] == cost(PLAIN)


async def test_what_is_held_covers_the_tier_that_is_asked_for_and_no_dearer_one(tmp_path: Path) -> None:
    async with canned(200) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        key = await gate.key("1")

        async def held(**more: Any) -> int:
            asked = ask("chat", MODEL, "Tell me.", max_tokens=50, **more)
            reply = await gate.ask(key, {"path": asked.path, "body": asked.body}, path="/v1/quote")
            return int(reply.json()["hold_nano_usd"])

        # Words of one length: each byte of a body counts as a token.
        plain, flex, fast = [await held(service_tier=word) for word in ("auto", "flex", "fast")]
        assert plain == flex < fast
        assert upstream.bodies == []


CHANNEL_ASKS: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"param_set": {"service_tier": msgspec.Raw(b'"fast"')}}),
    ("openai", {"param_default": {"service_tier": msgspec.Raw(b'"fast"')}}),
    ("bedrock", {"param_set": {"serviceTier": msgspec.Raw(b'{"type":"priority"}')}}),
    ("bedrock", {"header_set": {"X-Amzn-Bedrock-Service-Tier": "priority"}}),
    ("gemini", {"header_set": {"X-Vertex-AI-LLM-Shared-Request-Type": "Priority"}}),
]


@pytest.mark.parametrize(("family", "channel"), CHANNEL_ASKS)
async def test_g36_a_tier_that_a_channel_asks_for_is_held_for(
    tmp_path: Path, family: str, channel: dict[str, Any]
) -> None:
    """It was held at the plain price, and what exceeded that was the operator's loss."""
    async with canned(200) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        key, asked = await gate.key("1"), ask("chat", MODEL, "Tell me.", max_tokens=50)
        holds = []
        for asks in (False, True):
            if asks:
                await priced(gate, MODEL, family, upstream.url, AMOUNTS, **channel)
            reply = await gate.ask(key, {"path": asked.path, "body": asked.body}, path="/v1/quote")
            quoted = reply.json()
            upper = quoted["upper"]["input_tokens"], quoted["upper"]["output_tokens"]
            holds.append((quoted["hold_nano_usd"], upper))
    for (nano, (given, made)), (input_nano, output_nano) in zip(holds, (PLAIN, FAST), strict=True):
        assert nano == input_nano * given + output_nano * made


async def test_g36_a_tier_that_nobody_asked_for_costs_the_caller_no_more_than_was_held(tmp_path: Path) -> None:
    whole, _ = answers("chat", {"service_tier": "fast"}, given=900)
    async with canned(200, msgspec.Raw(whole)) as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        key = await gate.key("1")
        account = await account_of(gate, key, "chat", False)
        assert account["cost_usd"] == account["held_usd"]
        assert account["flags"] == ["above_hold"]


async def test_a_stream_that_breaks_off_is_the_operators_loss_at_the_tier_that_it_told(tmp_path: Path) -> None:
    _, frames = answers("chat", {"service_tier": "fast"})
    content, _, _ = frames.replace(b'"auto"', b'"fast"').partition(b"\n\n")
    async with canned(200, {}, content + b"\n\n") as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, "openai", upstream.url, AMOUNTS)
        account = await account_of(gate, await gate.key("1"), "chat", True)
        assert (account["outcome"], account["features"], account["cost_usd"]) == (
            "broken_stream",
            {"service_tier": "fast"},
            "0.00",
        )
        used = account["usage"]
        ((loss,),) = gate.sql("SELECT loss_nano FROM requests")
        assert loss == used["input_tokens"] * FAST[0] + used["output_tokens"] * FAST[1]


# (wire, what is asked, what its first frames tell, members of the channel, the rates of what had passed then)
HALF_TOLD: list[tuple[str, dict[str, str], dict[str, str], dict[str, Any], tuple[int, int]]] = [
    ("responses", {"service_tier": "fast"}, {"service_tier": "auto"}, {}, FAST),
    ("responses", {"service_tier": "flex"}, {"service_tier": "auto"}, {}, FLEX),
    ("responses", {"service_tier": "flex"}, {"service_tier": "default"}, {}, PLAIN),
    ("responses", {"service_tier": "auto"}, {"service_tier": "auto"}, {}, PLAIN),
    ("chat", {"service_tier": "fast"}, {}, {}, FAST),
    ("chat", {"service_tier": "fast"}, {"service_tier": "default"}, {}, PLAIN),
    ("chat", {"service_tier": "fast"}, {}, {"param_remove": ("service_tier",)}, PLAIN),
    ("chat", {}, {}, {"param_set": {"service_tier": msgspec.Raw(b'"flex"')}}, FLEX),
    ("chat", {}, {}, {"header_set": {"X-Amzn-Bedrock-Service-Tier": "flex"}}, FLEX),
    ("anthropic", {"speed": "fast"}, {}, {}, FAST),
    ("anthropic", {"speed": "fast"}, {"speed": "standard"}, {}, PLAIN),
    # The chat's word does not cross to Gemini, which is not asked for it.
    ("gemini", {"service_tier": "fast"}, {}, {}, PLAIN),
]


@pytest.mark.parametrize("breaks", [False, True], ids=["left", "broken"])
@pytest.mark.parametrize(("wire", "asked", "told", "channel", "of"), HALF_TOLD)
async def test_g39_g41_what_had_passed_of_a_stream_costs_the_tier_asked_for_where_it_had_told_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wire: str,
    asked: dict[str, str],
    told: dict[str, str],
    channel: dict[str, Any],
    of: tuple[int, int],
    breaks: bool,
) -> None:
    """A response tells its tier at its end alone, so whoever left before that had `priority` at the plain price."""
    rows = [frame + b"\n\n" for frame in frames_of(wire, USAGE[wire]).replace(b"\r\n", b"\n").split(b"\n\n")[:-1]]
    if wire == "gemini":
        rows[0] = rows[0].replace(b',"finishReason":"STOP"', b"")
    mark, words = b'"model":"theirs"', msgspec.json.encode(told).strip(b"{}")
    if wire == "anthropic":
        mark = b'"input_tokens":%d' % GIVEN
    rows[0] = rows[0].replace(mark, mark + b"," * bool(words) + words)
    content = 1 + next(number for number, row in enumerate(rows) if b"well" in row)
    client = "chat" if wire == "gemini" else CLIENT_OF[wire]
    async with scripted() as upstream, gateway(tmp_path) as gate:
        await priced(gate, MODEL, FAMILY[wire], upstream.url, AMOUNTS, **channel)
        call = ask(client, MODEL, "Tell me. " * 20, stream=True, max_tokens=50, **asked)
        staged = Stage(gate, upstream, Watch(monkeypatch), await gate.key("1"), call)
        reader, writer, played = await staged.call()
        await staged.play(played, rows[:content])
        assert b" 200 " in await reader.readline()
        played.break_off() if breaks else writer.close()
        record = await staged.watch.records.get()
        cost = record.usage.input_tokens * of[0] + record.usage.output_tokens * of[1]
        assert record.usage.output_tokens > 0
        assert (record.charge_nano, record.loss_nano) == ((0, cost) if breaks else (cost, 0)), record
        writer.close()


@pytest.mark.parametrize(
    ("wire", "family", "header", "stream"),
    [
        ("anthropic", "bedrock", b"X-Amzn-Bedrock-Service-Tier", False),
        ("gemini", "gemini", b"x-gemini-service-tier", False),
        ("gemini", "gemini", b"x-gemini-service-tier", True),
    ],
)
async def test_a_tier_that_only_an_answers_head_tells_is_priced(
    tmp_path: Path, wire: str, family: str, header: bytes, stream: bool
) -> None:
    claude = {"model_map": {MODEL: "anthropic.claude-sonnet-4-5-20250929-v1:0"}} if family == "bedrock" else {}
    async with canned(200, whole_of(wire, USAGE[wire]), frames_of(wire, USAGE[wire])) as upstream:
        upstream.extra = header + b": Flex\r\n"
        async with gateway(tmp_path) as gate:
            await priced(gate, MODEL, family, upstream.url, AMOUNTS, **claude)
            account = await account_of(gate, await gate.key("1"), wire, stream)
            assert (account["cost_usd"], account["features"]) == (cost(FLEX), {"service_tier": "flex"})


CONVERSED = [
    event("messageStart", {"role": "assistant"}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "well"}}),
    event("contentBlockStop", {"contentBlockIndex": 0}),
    event("messageStop", {"stopReason": "end_turn"}),
]


async def test_a_converse_that_breaks_before_it_has_told_its_tier_is_lost_at_the_one_asked_for(tmp_path: Path) -> None:
    """It has said by then why it stopped, but not yet what it used."""
    async with canned(200) as upstream, gateway(tmp_path) as gate:
        upstream.body, upstream.kind = b"".join(CONVERSED), MEDIA_TYPE.encode()
        asks = {"serviceTier": msgspec.Raw(b'{"type":"priority"}')}
        await priced(gate, MODEL, "bedrock", upstream.url, AMOUNTS, param_set=asks)
        account = await account_of(gate, await gate.key("1"), "chat", True)
        ((loss,),) = gate.sql("SELECT loss_nano FROM requests")
        used = account["usage"]
        assert (account["outcome"], account["features"]) == ("broken_stream", {"service_tier": "priority"})
        assert loss == used["input_tokens"] * FAST[0] + used["output_tokens"] * FAST[1]


async def test_converse_tells_its_tier_in_an_object(tmp_path: Path) -> None:
    usage = {"inputTokens": GIVEN, "outputTokens": MADE, "totalTokens": GIVEN + MADE}
    told = {"serviceTier": {"type": "priority"}}
    frames = b"".join([*CONVERSED, event("metadata", {"usage": usage, "metrics": {"latencyMs": 1}, **told})])
    for stream in (False, True):
        async with canned(200, whole_of("converse", usage) | told) as upstream, gateway(tmp_path / str(stream)) as gate:
            if stream:
                upstream.body, upstream.kind = frames, MEDIA_TYPE.encode()
            await priced(gate, MODEL, "bedrock", upstream.url, AMOUNTS)
            account = await account_of(gate, await gate.key("1"), "chat", stream)
            assert (account["cost_usd"], account["features"]) == (cost(FAST), {"service_tier": "priority"})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("wire", "family", "told", "shown"),
    [
        ("chat", "compatible", {"service_tier": "default"}, "default"),
        ("chat", "compatible", {"service_tier": "priority"}, "priority"),
        ("anthropic", "anthropic", {}, "default"),
    ],
)
async def test_a_response_that_another_dialect_answered_says_how_it_was_served_and_not_what_was_asked(
    tmp_path: Path, wire: str, family: str, told: dict[str, str], shown: str, stream: bool
) -> None:
    """It said `fast` of a call that was served, and charged, as plain."""
    whole, frames = answers(wire, told)
    async with canned(200, msgspec.Raw(whole), frames.replace(b'"auto"', b'"%b"' % shown.encode())) as upstream:
        async with gateway(tmp_path) as gate:
            await priced(gate, MODEL, family, upstream.url, AMOUNTS)
            asked = ask("responses", MODEL, "Tell me.", stream=stream, max_tokens=50, service_tier="fast", store=False)
            reply = await gate.ask(await gate.key("1"), asked.body, path=asked.path)
            answer = events(reply.text)[-1]["response"] if stream else reply.json()
            assert (answer["status"], answer["service_tier"]) == ("completed", shown)
