"""`POST /v1/quote`: what it says is what the call then holds, and it asks nobody and costs nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.ledger import check
from elkapi.money import format_usd, parse_usd
from elkapi.sandbox.server import Running
from elkapi.types import Guard, Policy
from tests.gateway import SMALL, Gateway, gateway
from tests.text_calls import CLIENTS, ask

BIG, LITTLE = "big-model", "little-model"


@pytest.fixture
async def priced(tmp_path: Path, sandbox: Running) -> AsyncIterator[Gateway]:
    """BIG and LITTLE at the sandbox's chat, and an embedding model."""
    async with gateway(tmp_path) as gate:
        names = {BIG: "gpt-4o", LITTLE: "gpt-4o-mini"}
        await gate.channel(sandbox.base_url, (BIG, LITTLE, SMALL), model_map=names)
        await gate.price(BIG, per_1m_usd="3", output_per_1m_usd="15")
        await gate.price(LITTLE, per_1m_usd="0.5", output_per_1m_usd="2", per_call_usd="0.001")
        await gate.price(SMALL, per_1m_usd="0.02")
        yield gate


async def quoted(gate: Gateway, key: str | None, path: str, body: Any, **headers: str) -> Any:
    # The body's bytes bound its tokens, so it is quoted in the very bytes that are sent.
    text = b'{"path":%b,"body":%b}' % (msgspec.json.encode(path), msgspec.json.encode(body))
    return await gate.ask(key, text, path="/v1/quote", headers=headers)


def drawn(draw: random.Random) -> tuple[str, dict[str, Any], dict[str, str]]:
    """(path, body, headers) of a call of any kind."""
    model = draw.choice((BIG, LITTLE, "nick"))
    client = draw.choice((*CLIENTS, "embeddings"))
    words = " ".join(draw.choice(("plain", "ünïcode", "[[tokens: 30]]", "x" * 40)) for _ in range(draw.randint(1, 60)))
    if client == "embeddings":
        return "/v1/embeddings", {"model": SMALL, "input": draw.choice((words, [words, "two"], [1, 2, 3]))}, {}
    asked = ask(client, model, words, stream=draw.random() < 0.4, max_tokens=draw.choice((1, 40, 3000)))
    body = dict(asked.body)
    if client != "anthropic" and draw.random() < 0.5:
        for name in ("max_tokens", "max_output_tokens", "generationConfig"):
            body.pop(name, None)
    headers = dict(asked.headers)
    if draw.random() < 0.2:
        headers["x-elkapi-fallback"] = "none"
    return asked.path, body, headers


@pytest.mark.parametrize("seed", range(4))
async def test_the_call_holds_what_was_quoted_or_is_refused_where_the_quote_is_not_covered(
    priced: Gateway, seed: int
) -> None:
    draw = random.Random(seed)
    verdicts = set()
    fallbacks: tuple[dict[str, tuple[str, ...]], ...] = ({}, {LITTLE: (BIG,)}, {"*": (BIG, LITTLE)})
    for _ in range(14):
        path, body, headers = drawn(draw)
        policy = Policy(aliases={"nick": LITTLE}, fallbacks=draw.choice(fallbacks))
        await priced.group("default", draw.choice((300_000, 1_000_000, 1_250_001)), policy)
        key = await priced.key(draw.choice(("0", "0.0002", "0.002", "0.02", "5")))
        quote = await quoted(priced, key, path, body, **headers)
        assert quote.status_code == 200, quote.text
        said = quote.json()
        assert said["hold_nano_usd"] >= max(one["most_nano_usd"] for one in (said, *said["fallbacks"]))
        reply = await priced.ask(key, body, path=path, headers=headers)
        assert reply.status_code == (200 if said["covered"] else 403), (said, reply.text)
        verdicts.add(said["covered"])
        if not said["covered"]:
            assert reply.json()["error"].get("code") in ("insufficient_user_quota", 403, None)
            continue
        account = await priced.account(reply.headers["x-request-id"], key)
        assert (said["hold_usd"], said["model"]) == (account["held_usd"], account["model"])
        assert parse_usd(said["hold_usd"]) == said["hold_nano_usd"]
        for name in ("id", "version", "group_ratio"):
            assert said["price"][name] == account["price"][name]
    assert verdicts == {True, False}
    with priced.database.read() as connection:
        assert check(connection).ok


async def test_a_quote_of_a_response_that_goes_on_covers_the_history_too(priced: Gateway) -> None:
    key = await priced.key("5")
    asked = ask("responses", BIG, "A long beginning. " * 50)
    first = await priced.ask(key, asked.body, path=asked.path)
    body = {"model": BIG, "input": "And?", "previous_response_id": first.json()["id"], "max_output_tokens": 40}
    said = (await quoted(priced, key, asked.path, body)).json()
    alone = {name: value for name, value in body.items() if name != "previous_response_id"}
    assert said["hold_nano_usd"] > (await quoted(priced, key, asked.path, alone)).json()["hold_nano_usd"]
    reply = await priced.ask(key, body, path=asked.path)
    account = await priced.account(reply.headers["x-request-id"], key)
    assert account["held_usd"] == said["hold_usd"]
    gone = await quoted(priced, key, asked.path, body | {"previous_response_id": "resp_0"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (400, "previous_response_not_found")


async def test_a_quote_looks_at_the_call_with_the_keys_guardrails(priced: Gateway) -> None:
    await priced.guard(Guard(name="no-magic", kind="words", words=("xyzzy",)))
    await priced.guard(Guard(name="no-mail", kind="pii", find=("email",), action="mask"))
    key = await priced.key("5", policy=Policy(guards=("no-magic", "no-mail")))
    asked = ask("chat", BIG, "Write to jane.with.a.long.name@example.com")
    said = (await quoted(priced, key, asked.path, asked.body)).json()
    reply = await priced.ask(key, asked.body, path=asked.path)
    account = await priced.account(reply.headers["x-request-id"], key)
    assert account["held_usd"] == said["hold_usd"]
    blocked = ask("chat", BIG, "xyzzy")
    itself = await priced.ask(key, blocked.body, path=blocked.path)
    refused = await quoted(priced, key, blocked.path, blocked.body)
    assert refused.status_code == itself.status_code == 400
    assert refused.json()["error"]["code"] == itself.json()["error"]["code"] == "content_blocked"


async def test_a_quote_asks_no_upstream_holds_nothing_and_leaves_no_record(priced: Gateway, sandbox: Running) -> None:
    key = await priced.key("1", policy=Policy(requests_per_min=1))
    asked = ask("chat", BIG, "hello")
    for _ in range(3):
        reply = await quoted(priced, key, asked.path, asked.body)
        assert reply.status_code == 200, reply.text
        assert "x-elkapi-cost-usd" not in reply.headers
    assert not sandbox.sandbox.recorder.shown()
    assert priced.sql("select count(*) from requests")[0][0] == 0
    assert priced.sql("select count(*) from transfers where kind = 'hold'")[0][0] == 0
    assert (await priced.ask(key, asked.body, path=asked.path)).status_code == 200


async def test_g33_a_quote_names_model_price_unit_bounds_and_fallbacks(priced: Gateway) -> None:
    key = await priced.key("1", policy=Policy(aliases={"nick": LITTLE}, fallbacks={LITTLE: (BIG,)}))
    asked = ask("anthropic", "nick", "hello", max_tokens=100)
    said = (await quoted(priced, key, asked.path, asked.body, **asked.headers)).json()
    assert (said["asked_model"], said["model"], said["unit"]) == ("nick", LITTLE, "token")
    assert said["operation"] == "anthropic.messages"
    assert said["upper"]["output_tokens"] == 100
    assert said["price"]["rates"] == {
        "input_nano_per_1m": 500_000_000,
        "output_nano_per_1m": 2_000_000_000,
        "call_nano": 1_000_000,
    }
    (fallback,) = said["fallbacks"]
    assert fallback["model"] == BIG
    assert said["hold_nano_usd"] == fallback["most_nano_usd"] > said["most_nano_usd"]
    alone = {**asked.headers, "x-elkapi-fallback": "none"}
    said = (await quoted(priced, key, asked.path, asked.body, **alone)).json()
    assert said["fallbacks"] == []
    # To the nano: what is there may be just as much.
    for less, covered in ((0, True), (1, False)):
        key = await priced.key(format_usd(said["hold_nano_usd"] - less), policy=Policy(aliases={"nick": LITTLE}))
        short = (await quoted(priced, key, asked.path, asked.body, **alone)).json()
        assert (short["covered"], short["hold_nano_usd"]) == (covered, said["hold_nano_usd"])


async def test_a_quote_without_an_output_limit_names_the_one_that_the_balance_covers(priced: Gateway) -> None:
    key = await priced.key("0.01")
    asked = ask("chat", BIG, "hello")
    del asked.body["max_tokens"]
    said = (await quoted(priced, key, asked.path, asked.body)).json()
    assert said["covered"]
    assert 16 <= said["output_tokens_max"] < 1000
    assert said["hold_nano_usd"] <= 10_000_000


@pytest.mark.parametrize("names", [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")])
async def test_a_call_with_two_output_limits_holds_the_greater_of_them(priced: Gateway, names: tuple[str, str]) -> None:
    # Both are sent on, and there are upstreams that go by either.
    key = await priced.key("5")
    less, more = names
    call = {"model": BIG, "messages": [{"role": "user", "content": "hello"}], less: 5, more: 3000}
    said = (await quoted(priced, key, "/v1/chat/completions", call)).json()
    assert said["upper"]["output_tokens"] == 3000


@pytest.mark.parametrize(
    ("path", "more", "found"),
    [
        ("/v1/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]}, True),
        ("/v1/messages", {"tools": [{"name": "web_search", "input_schema": {"type": "object"}}]}, False),
        ("/v1/messages", {"mcp_servers": [{"type": "url", "url": "https://s.example", "name": "s"}]}, True),
        ("/v1/messages", {"tools": [], "mcp_servers": None}, False),
        ("/v1/chat/completions", {"web_search_options": {}}, True),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "web_search"}}]}, False),
        ("/v1/responses", {"tools": [{"type": "mcp", "server_label": "s", "server_url": "https://s.example"}]}, True),
    ],
)
async def test_a_call_with_a_tool_of_the_providers_holds_what_that_may_find(
    priced: Gateway, path: str, more: dict[str, Any], found: bool
) -> None:
    # Its results are input of the same call: held for its own bytes alone it would be paid by the operator.
    key = await priced.key("5")
    said = {"input": "hello"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "hello"}]}
    quote = await quoted(priced, key, path, {"model": BIG, "max_tokens": 100, **said, **more})
    assert quote.status_code == 200, quote.text
    assert (quote.json()["upper"]["input_tokens"] > 100_000) == found


async def test_a_call_that_may_compact_its_context_holds_that_too(priced: Gateway) -> None:
    key = await priced.key("5")
    body = {"model": BIG, "max_tokens": 100, "messages": [{"role": "user", "content": "hello " * 500}]}
    for edits, more in (([{"type": "clear_tool_uses_20250919"}], False), ([{"type": "compact_20260112"}], True)):
        asked = {**body, "context_management": {"edits": edits}}
        upper = (await quoted(priced, key, "/v1/messages", asked)).json()["upper"]
        assert (upper["input_tokens"] > 6000) == more
        assert (upper["output_tokens"] > 10_000) == more


async def test_a_tool_of_the_providers_is_known_however_its_letters_are_written(priced: Gateway) -> None:
    body = rb"""{"model":"big-model","max_tokens":9,"messages":[{"role":"user","content":"hello"}],
        "t\u006fols":[{"type":"web\u005fsearch_20250305","name":"web_search"}]}"""
    text = b'{"path":"/v1/messages","body":%b}' % body
    quote = await priced.ask(await priced.key("5"), text, path="/v1/quote")
    assert quote.json()["upper"]["input_tokens"] > 100_000


async def test_errors_are_those_of_the_call_itself(priced: Gateway) -> None:
    key = await priced.key("1", models=(BIG,))
    for path, body in (
        ("/v1/chat/completions", ask("chat", "nobody", "x").body),
        ("/v1/chat/completions", {"model": BIG, "messages": "none"}),
        ("/v1/chat/completions", ask("chat", LITTLE, "x").body),
        ("/v1/messages", {"model": BIG, "messages": []}),
        ("/v1/embeddings", {"model": BIG}),
        ("/v1/invented", {}),
    ):
        itself = await priced.ask(key, body, path=path)
        reply = await quoted(priced, key, path, body)
        assert reply.status_code == itself.status_code >= 400, reply.text
        if path != "/v1/messages":  # Anthropic's own paths word their errors in its form.
            mine, theirs = reply.json()["error"], itself.json()["error"]
            assert (mine["code"], mine["param"]) == (theirs["code"], theirs["param"])


async def test_a_quote_needs_a_key_and_a_call_that_goes_to_a_model(priced: Gateway) -> None:
    asked = ask("chat", BIG, "hello")
    assert (await quoted(priced, None, asked.path, asked.body)).status_code == 401
    key = await priced.key("1")
    for body in (
        b'{"path":"/v1/messages/count_tokens","body":{}}',
        b'{"path":"/v1/chat/completions","body":{},"more":1}',
        b'{"path":"/v1/chat/completions"}',
        b"[]",
    ):
        reply = await priced.ask(key, body, path="/v1/quote")
        assert reply.status_code == 400, reply.text
    assert (await priced.http.get("/v1/quote", headers={"authorization": f"Bearer {key}"})).status_code == 405
