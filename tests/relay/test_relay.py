"""The relayed route end to end: bytes, money, retry, records, and what each channel override does to the wire."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from email.utils import formatdate
from typing import Any

import msgspec
import pytest

from elkapi.money import parse_ratio
from elkapi.sandbox.server import Running, running
from tests.canned import canned
from tests.gateway import SMALL, Gateway, gateway
from tests.waiting import until

GOOD = {"model": SMALL, "input": "the quick brown fox"}
SECRET = "sk-upstream-secret"


def sent(sandbox: Running) -> list[Any]:
    return sandbox.sandbox.recorder.shown()


def body_of(received: Any) -> bytes:
    return base64.b64decode(received.body_base64)


def bill_nano(sandbox: Running) -> int:
    return sandbox.sandbox.bill.statement().cost_nano_usd_total


def balance_nano(gate: Gateway) -> int:
    return gate.books().customers_posted_nano


def held_nano(gate: Gateway) -> int:
    return gate.books().customers_held_nano


async def test_a_call_is_answered_charged_exactly_and_accounted_for(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    reply = await gate.ask(key, GOOD)
    assert reply.status_code == 200
    assert reply.json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert reply.headers["x-elkapi-cost-usd"] == "0.00000008"
    assert balance_nano(gate) == 10**9 - 80
    assert held_nano(gate) == 0
    assert bill_nano(sandbox) == 80
    account = await gate.account(reply.headers["x-request-id"], key)
    assert account["cost_usd"] == "0.00000008"
    assert account["price"]["arithmetic"] == [
        {"class": "input_tokens", "units": 4, "nano_usd": 20_000_000, "per_units": 1_000_000, "ratio_micro": 1_000_000}
    ]
    assert [entry["kind"] for entry in account["ledger"]] == ["hold", "post"]
    assert sandbox.sandbox.bill.statement().lines
    line = msgspec.json.decode(sandbox.sandbox.bill.statement().lines[0])
    assert line["client_request_id"] == reply.headers["x-request-id"]


async def test_customers_never_see_channels_and_strangers_see_nothing(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, name="very-secret-channel")
    key, stranger = await gate.key("1"), await gate.key("1")
    reply = await gate.ask(key, GOOD)
    request_id = reply.headers["x-request-id"]
    assert "very-secret-channel" not in str(await gate.account(request_id, key))
    # Every key the command makes has the same owner; ids can be guessed, so they must keep nothing secret.
    neighbour = await gate.http.get(f"/v1/requests/{request_id}", headers={"authorization": f"Bearer {stranger}"})
    assert neighbour.status_code == 404
    with gate.database.write() as connection:
        from elkapi.storage.schema import keys, owners

        other = connection.execute(owners.insert().values(name="other", created_ns=0)).inserted_primary_key
        assert other is not None
        connection.execute(keys.update().where(keys.c.hint.like(f"%{stranger[-4:]}")).values(owner_id=other[0]))
    gate.plane.key_cache.evict(0, None)
    hidden = await gate.http.get(f"/v1/requests/{request_id}", headers={"authorization": f"Bearer {stranger}"})
    assert hidden.status_code == 404


async def test_unknown_fields_reach_the_upstream_byte_for_byte(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    body = b'{ "input" : "caf\\u00e9",\n "model":"text-embedding-3-small" , "future_field":{"x":[1, 2.50,null]} }'
    assert (await gate.ask(key, body)).status_code == 200
    assert body_of(sent(sandbox)[0]) == body


async def test_the_clients_key_and_headers_never_travel_upstream(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    await gate.ask(key, GOOD, headers={"openai-organization": "org-client", "x-stainless-os": "Linux", "cookie": "a=b"})
    headers = dict(sent(sandbox)[0].headers)
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert key not in str(headers)
    assert not {"openai-organization", "x-stainless-os", "cookie"} & set(headers)


async def test_the_engine_path_puts_its_model_into_the_body(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    reply = await gate.ask(key, b'{"input":"x"}', path=f"/v1/engines/{SMALL}/embeddings")
    assert reply.status_code == 200
    assert body_of(sent(sandbox)[0]) == b'{"model":"text-embedding-3-small","input":"x"}'
    assert sent(sandbox)[0].target == "/v1/embeddings"


@pytest.mark.parametrize("form", ["openai", "gemini"])
async def test_mistral_gets_the_length_of_a_vector_by_its_own_name_and_no_user_which_it_refuses(
    gate: Gateway, form: str
) -> None:
    answer = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    asked: dict[str, tuple[str, dict[str, object]]] = {
        "openai": ("/v1/embeddings", {"model": "mine", "input": ["a"], "dimensions": 256, "user": "u"}),
        "gemini": (
            "/v1beta/models/mine:embedContent",
            {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 256},
        ),
    }
    path, body = asked[form]
    async with canned(200, answer) as upstream:
        await gate.channel(upstream.url, ("mine",), family="mistral", model_map={"mine": "codestral-embed"})
        await gate.price("mine", per_1m_usd="1")
        reply = await gate.ask(await gate.key("1"), body, path=path)
    assert reply.status_code == 200, reply.text
    told = msgspec.json.decode(upstream.bodies[0])
    told.pop("encoding_format", None)
    assert told == {"model": "codestral-embed", "input": ["a"], "output_dimension": 256}


@pytest.mark.parametrize("label", [b'"object":"embedding",', b""])
async def test_fewer_vectors_than_texts_are_no_answer_and_the_next_channel_is_asked(
    gate: Gateway, sandbox: Running, label: bytes
) -> None:
    """Nobody could tell which of the texts they belong to."""
    answer = b'{"data":[{%b"index":0,"embedding" : [0.5]}],"usage":{"prompt_tokens":2,"total_tokens":2}}' % label
    async with canned(200) as upstream:
        upstream.body = answer
        await gate.channel(upstream.url, name="short", priority=1)
        key = await gate.key("1")
        refused = await gate.ask(key, {"model": SMALL, "input": ["a", "b"]})
        assert refused.status_code == 502, refused.text
        one = await gate.ask(key, {"model": SMALL, "input": ["a"]})
        assert one.status_code == 200, one.text
        await gate.channel(sandbox.base_url)
        reply = await gate.ask(key, {"model": SMALL, "input": ["a", "b"]})
    assert (reply.status_code, len(reply.json()["data"])) == (200, 2)
    gate.closed_books()


@pytest.mark.parametrize("vector", [b"[]", b" []", b"null", b'""'])
async def test_an_answer_without_a_vector_is_a_failure_free_of_charge(gate: Gateway, vector: bytes) -> None:
    """Ollama answers so for a text that its model failed on."""
    async with canned(200) as upstream:
        upstream.body = b'{"data":[{"embedding":%b,"index":0}],"usage":{"prompt_tokens":2,"total_tokens":2}}' % vector
        await gate.channel(upstream.url)
        key = await gate.key("1")
        for texts in (["a"], "a"):
            reply = await gate.ask(key, {"model": SMALL, "input": texts})
            assert reply.status_code == 502, reply.text
            account = await gate.account(reply.headers["x-request-id"], key)
            assert account["cost_usd"] == "0.00"
    gate.closed_books()


@pytest.mark.parametrize(
    "vector",
    [b"null", b"[]", b'""', b"[null,null]", b"[NaN, NaN]", b"[0.5,null]", b'"AADAfwAAwH8="', b'"AADA/wAAwP8="'],
)
async def test_a_vector_that_is_none_after_others_is_a_failure_free_of_charge(gate: Gateway, vector: bytes) -> None:
    """A model that overflows in half precision gives NaN for one text only, which servers write as null."""
    answer = b'{"data":[{"embedding":[0.5, 0.25],"index":0},{"embedding":%b,"index":1}],"usage":{"prompt_tokens":2}}'
    async with canned(200) as upstream:
        upstream.body = answer % vector
        await gate.channel(upstream.url)
        key = await gate.key("1")
        reply = await gate.ask(key, {"model": SMALL, "input": ["a", "b"]})
        assert reply.status_code == 502, reply.text
        account = await gate.account(reply.headers["x-request-id"], key)
        assert account["cost_usd"] == "0.00"
    gate.closed_books()


@pytest.mark.parametrize(
    "second",
    [b"", b",{}", b',{"values":[]}', b',{"values": [\n null\n]}', b',{"values":[0.5,null]}', b',{"values":["NaN"]}'],
)
async def test_a_missing_vector_of_geminis_is_a_failure_free_of_charge(gate: Gateway, second: bytes) -> None:
    asked = {"requests": [{"model": "models/mine", "content": {"parts": [{"text": text}]}} for text in "ab"]}
    await gate.price("mine", per_1m_usd="1")
    key = await gate.key("1")
    async with canned(200) as upstream:
        await gate.channel(upstream.url, ("mine",), family="gemini")
        upstream.body = b'{"embeddings":[{"values":[0.5]}%b]}' % second
        batch = await gate.ask(key, asked, path="/v1beta/models/mine:batchEmbedContents")
        upstream.body = b'{"embedding":%b}' % (second[1:] or b"{}")
        one = await gate.ask(key, asked["requests"][0], path="/v1beta/models/mine:embedContent")
        for reply in (batch, one):
            assert reply.status_code == 502, reply.text
            account = await gate.account(reply.headers["x-request-id"], key)
            assert account["cost_usd"] == "0.00"
    gate.closed_books()


@pytest.mark.parametrize(("texts", "tokens"), [(1, 6), (2, 12)])
async def test_words_that_a_provider_puts_before_a_short_text_are_charged(
    gate: Gateway, texts: int, tokens: int
) -> None:
    rows = [{"index": index, "embedding": [0.5]} for index in range(texts)]
    answer = {"data": rows, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    async with canned(200, answer) as upstream:
        await gate.channel(upstream.url, ("mine",))
        await gate.price("mine", per_1m_usd="1")
        reply = await gate.ask(await gate.key("1"), {"model": "mine", "input": ["hi"] * texts})
    assert float(reply.headers["x-elkapi-cost-usd"]) == tokens / 1_000_000


async def test_a_mapped_model_is_spliced_both_ways_and_priced_by_the_clients_name(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(sandbox.base_url, ("mine",), model_map={"mine": SMALL})
    await gate.price("mine", per_1m_usd="1")
    key = await gate.key("1")
    reply = await gate.ask(key, b'{"input":"a b", "model" : "mine"}')
    assert body_of(sent(sandbox)[0]) == b'{"input":"a b", "model" : "text-embedding-3-small"}'
    assert reply.json()["model"] == "mine"
    assert SMALL not in reply.text
    assert reply.headers["x-elkapi-cost-usd"] == "0.000002"


async def test_parameter_overrides_are_visible_in_the_bytes(gate: Gateway, sandbox: Running) -> None:
    raw = msgspec.Raw
    await gate.channel(
        sandbox.base_url,
        param_set={"dimensions": raw(b"4")},
        param_default={"user": raw(b'"gateway"'), "encoding_format": raw(b'"base64"')},
        param_remove=("secret",),
    )
    key = await gate.key("1")
    body = b'{"model":"text-embedding-3-small","input":"x","dimensions":8,"secret":1,"encoding_format":"float"}'
    reply = await gate.ask(key, body)
    assert len(reply.json()["data"][0]["embedding"]) == 4
    assert msgspec.json.decode(body_of(sent(sandbox)[0])) == {
        "model": SMALL,
        "input": "x",
        "dimensions": 4,
        "encoding_format": "float",
        "user": "gateway",
    }


async def test_header_overrides_and_the_allow_list_are_visible_on_the_wire(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(
        sandbox.base_url,
        header_set={"X-Team": "blue", "Accept": "application/json; v=2"},
        header_remove=("x-client-request-id",),
        forward_headers=("X-Trace", "Authorization"),
    )
    key = await gate.key("1")
    await gate.ask(key, GOOD, headers={"x-trace": "t1", "x-other": "no"})
    headers = dict(sent(sandbox)[0].headers)
    assert headers["x-team"] == "blue"
    assert headers["accept"] == "application/json; v=2"
    assert headers["x-trace"] == "t1"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert not {"x-other", "x-client-request-id"} & set(headers)


async def test_a_call_that_meets_a_connection_that_had_died_is_made_once_more_at_its_channel(
    gate: Gateway,
) -> None:
    answer = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"m","usage":%b}'
    answer %= b'{"prompt_tokens":4,"total_tokens":4}'
    calls_of_connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(calls_of_connections)
        calls_of_connections.append(0)
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
            calls_of_connections[number] += 1
            if number == 0 and calls_of_connections[0] == 2:
                break
            kept = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            writer.write(kept % (len(answer), answer))
            if number:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await gate.channel(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", ("m",))
    await gate.price("m", per_1m_usd="1")
    key = await gate.key("1")
    for _ in range(2):
        reply = await gate.ask(key, {"model": "m", "input": "one two three"})
        assert reply.status_code == 200, reply.text
    server.close()
    assert calls_of_connections == [2, 1]
    attempts = (await gate.account(reply.headers["x-request-id"], key))["attempts"]
    assert [one["outcome"] == "ok" for one in attempts] == [False, True]
    # Whether the first try was billed nobody knows.
    assert gate.sql("select reason from unknown_outcomes") == [("retried",)]
    assert balance_nano(gate) == 10**9 - 2 * 4_000


async def test_a_channels_own_meaning_of_a_status_decides_what_becomes_of_its_answer(
    gate: Gateway, sandbox: Running
) -> None:
    """A 400 that means the channel is busy goes to the next one; without that word it is the caller's own."""
    key = await gate.key("1")
    async with canned(400, {"error": {"message": "no"}}) as odd:
        await gate.channel(odd.url, priority=10, status_map={400: 503})
        await gate.channel(sandbox.base_url)
        reply = await gate.ask(key, GOOD)
    assert (reply.status_code, len(odd.bodies)) == (200, 1)
    account = await gate.account(reply.headers["x-request-id"], key)
    assert [one["outcome"] for one in account["attempts"]] == ["status_503", "ok"]
    async with canned(400, {"error": {"message": "no"}}) as plain:
        await gate.channel(plain.url, priority=20)
        assert (await gate.ask(key, GOOD)).status_code == 400


async def test_group_ratios_are_applied_exactly(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, groups=("default", "vip"))
    await gate.group("vip", parse_ratio("0.125"))
    key = await gate.key("1", group="vip")
    assert (await gate.ask(key, GOOD)).headers["x-elkapi-cost-usd"] == "0.00000001"


async def test_the_next_channel_answers_when_one_refuses_limits_fails_or_is_not_there(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel("http://127.0.0.1:9", priority=10)
    for fault in ("status=429", "status=500", "status=503", "html", "invalid-json", "cut-after=1", "close-keepalive"):
        with running() as bad:
            bad.sandbox.stand(fault)
            await gate.channel(bad.base_url, priority=9)
    await gate.channel(sandbox.base_url)
    async with gateway_like(gate, attempts_max=20):
        key = await gate.key("1")
        reply = await gate.ask(key, GOOD)
    assert reply.status_code == 200
    assert held_nano(gate) == 0


class gateway_like:
    """Settings of a running gateway, changed for one block."""

    def __init__(self, gate: Gateway, **changes: Any) -> None:
        self.gate, self.changes = gate, changes

    async def __aenter__(self) -> None:
        self.before = self.gate.plane.settings
        self.gate.plane.settings = msgspec.structs.replace(self.before, **self.changes)

    async def __aexit__(self, *_: object) -> None:
        self.gate.plane.settings = self.before


@pytest.mark.parametrize(
    ("fault", "status", "code", "fate"),
    [
        ("status=429, retry-after=7", 429, "upstream_rate_limited", "none"),
        ("status=529, retry-after=7", 503, "upstream_overloaded", "none"),
        ("status=500", 502, "upstream_error", "none"),
        ("status=401", 502, "upstream_error", "none"),
        ("html", 502, "upstream_error", "unknown"),
        ("invalid-json", 502, "upstream_error", "unknown"),
        ("cut-after=1", 502, "upstream_error", "unknown"),
        ("hang", 504, "upstream_timeout", "unknown"),
        ("hang-after-headers", 504, "upstream_timeout", "unknown"),
    ],
)
async def test_g49_a_failed_call_is_free_and_told_apart(
    gate: Gateway, sandbox: Running, fault: str, status: int, code: str, fate: str
) -> None:
    sandbox.sandbox.stand(fault)
    # Only what is to pass is short: a machine that stands still is no fault of the others.
    short = {"header_s": 0.2, "first_byte_s": 0.2} if "hang" in fault else {}
    await gate.channel(sandbox.base_url, limits=_limits(**short))
    key = await gate.key("1")
    reply = await gate.ask(key, GOOD)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    if "retry-after" in fault:
        assert reply.headers["retry-after"] == "7"
    assert balance_nano(gate) == 10**9
    assert held_nano(gate) == 0
    account = await gate.account(reply.headers["x-request-id"], key)
    assert account["cost_usd"] == "0.00"
    assert [entry["kind"] for entry in account["ledger"]] == ["hold", "void"]
    assert ("unknown_outcome" in account["flags"]) is (fate == "unknown")


def _limits(**values: Any) -> Any:
    from elkapi.types import ChannelLimits

    return ChannelLimits(**values)


async def test_a_parameter_error_survives_but_the_upstream_stays_unknown(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    reply = await gate.ask(key, {"model": SMALL, "input": "x", "dimensions": 5000})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "dimensions"
    assert balance_nano(gate) == 10**9


async def test_a_body_that_ends_with_its_connection_is_no_answer_when_it_is_cut_anywhere(gate: Gateway) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    whole = msgspec.json.encode({"object": "list", "data": [vector], "model": SMALL, "usage": usage})
    bodies = iter((whole[: whole.index(b"}") + 1], whole[:-1], whole))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + next(bodies))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await gate.channel(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        key = await gate.key("1")
        assert [(await gate.ask(key, GOOD)).status_code for _ in range(3)] == [502, 502, 200]


async def test_an_upstreams_answers_are_read_also_when_it_compresses_them_unasked(gate: Gateway) -> None:
    refusal = {"error": {"message": "No.", "type": "invalid_request_error", "param": "user", "code": "no_user"}}
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    vectors = {"object": "list", "data": [vector], "model": SMALL, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    key = await gate.key("1")
    async with canned(200, vectors) as answering, canned(400, refusal) as refusing:
        answering.squeeze()
        refusing.squeeze()
        await gate.channel(answering.url)
        assert (await gate.ask(key, GOOD)).json() == vectors
        await gate.channel(refusing.url, priority=1)
        reply = await gate.ask(key, GOOD)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, "no_user", "user")


@pytest.mark.parametrize(
    ("param", "status", "code"), [("tools", 404, "upstream_rejected"), ("model", 503, "model_not_found")]
)
async def test_a_404_is_about_the_model_unless_it_names_another_parameter(
    gate: Gateway, param: str, status: int, code: str
) -> None:
    unknown = {"error": {"message": "No such thing.", "type": "invalid_request_error", "param": param, "code": None}}
    async with canned(404, unknown) as first, canned(404, unknown) as second:
        await gate.channel(first.url)
        await gate.channel(second.url)
        reply = await gate.ask(await gate.key("1"), GOOD)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (status, param, code)
        # What one account does not know another may.
        assert (len(first.bodies), len(second.bodies)) == (1, 1)


@pytest.mark.parametrize(("refused", "status", "code"), [(410, 503, "model_not_found"), (405, 502, "upstream_error")])
async def test_a_model_that_a_provider_retired_or_does_not_serve_there_is_asked_for_elsewhere(
    gate: Gateway, refused: int, status: int, code: str
) -> None:
    key = await gate.key("1")
    gone = {"type": "about:blank", "title": "Gone", "status": refused, "detail": "It has reached its end of life."}
    async with canned(refused, gone) as first, canned(refused, gone) as second:
        await gate.channel(first.url, priority=1)
        await gate.channel(second.url)
        reply = await gate.ask(key, GOOD)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert (len(first.bodies), len(second.bodies)) == (1, 1)


async def test_a_date_in_retry_after_is_waited_for_like_a_number(gate: Gateway) -> None:
    key = await gate.key("1")
    async with canned(429, {"error": {"message": "Slow down."}}) as upstream:
        upstream.extra = f"retry-after: {formatdate(time.time() + 90, usegmt=True)}\r\n".encode()
        await gate.channel(upstream.url)
        reply = await gate.ask(key, GOOD)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "upstream_rate_limited")
        assert 60 <= int(reply.headers["retry-after"]) <= 90


async def test_google_is_asked_again_when_it_said_to(lite: Gateway) -> None:
    """It says so in the body, and sends no Retry-After."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "41.5s"}
    refusal = {"error": {"code": 429, "message": "Quota.", "status": "RESOURCE_EXHAUSTED", "details": [info]}}
    async with canned(429, refusal) as upstream:
        await lite.channel(upstream.url, (SMALL,), family="gemini")
        await lite.price(SMALL, per_1m_usd="1")
        key = await lite.key("1")
        assert (await lite.ask(key)).headers["retry-after"] == "42"


async def test_g78_planted_secrets_appear_in_no_answer_and_no_log(
    gate: Gateway, sandbox: Running, tmp_path: Any
) -> None:
    await gate.channel(sandbox.base_url, name="planted-channel")
    key = await gate.key("1")
    answers = []
    for fault in ("echo-secrets", "echo-secrets, status=400", "echo-secrets, status=422", "echo-secrets, status=500"):
        sandbox.sandbox.stand(fault)
        for _ in range(2):
            reply = await gate.ask(key, GOOD)
            answers.append(reply.text + str(reply.headers))
    # A key in the address, as some clients were set up for other gateways.
    assert (await gate.ask(key, GOOD, path=f"/v1/{key}/embeddings")).status_code == 404
    gate.plane.log.close()
    log = (tmp_path / "gateway.log").read_text()
    port = sandbox.base_url.rpartition(":")[2]
    for answer in answers:
        assert SECRET not in answer
        assert port not in answer
        assert "planted-channel" not in answer
        assert key not in answer
    assert SECRET not in log
    assert key not in log


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_key_that_an_upstream_repeats_is_in_no_record(gate: Gateway, status: int) -> None:
    """SECURITY.md: a stolen database holds no provider's key, and no command prints one back."""
    said = f"{'x' * 269} {SECRET} is not welcome"
    async with canned(status, {"error": {"message": said, "type": "invalid_request_error"}}) as upstream:
        await gate.channel(upstream.url)
        key = await gate.key("1")
        reply = await gate.ask(key, GOOD)
        ((record,),) = await until(lambda: gate.sql("select record from requests"))
    assert reply.status_code in (400, 502)
    assert b"xxx" in bytes(record)
    assert SECRET[:9].encode() not in bytes(record)


async def test_a_bad_key_is_disabled_alone_with_its_reason_while_others_go_on(gate: Gateway, sandbox: Running) -> None:
    sandbox.sandbox.stand("refuse-key=bad1")
    await gate.channel(sandbox.base_url, secrets=("sk-upstream-bad1", "sk-upstream-good"))
    key = await gate.key("1")
    for calls in range(1, 101):
        assert (await gate.ask(key, GOOD)).status_code == 200
        if len(sent(sandbox)) > calls:
            break  # Chance has picked the bad key, and the good one after it.
    await until(lambda: gate.sql("select 1 from channel_keys where not enabled"))
    rows = gate.sql("select hint, enabled, reason from channel_keys order by id")
    assert [bool(enabled) for _, enabled, _ in rows] == [False, True]
    assert "401" in rows[0][2]
    await gate.settled()
    before = len(sent(sandbox))
    await gate.ask(key, GOOD)
    assert len(sent(sandbox)) == before + 1


async def test_g48_missing_usage_is_counted_locally_and_flagged(gate: Gateway, sandbox: Running) -> None:
    sandbox.sandbox.stand("no-usage")
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    reply = await gate.ask(key, {"model": SMALL, "input": [1, 2, 3, 4, 5]})
    assert reply.headers["x-elkapi-cost-usd"] == "0.0000001"
    account = await gate.account(reply.headers["x-request-id"], key)
    assert account["flags"] == ["usage_missing", "counted_locally"]


@pytest.mark.parametrize("usage", ["-5", "huge"])
async def test_g21_impossible_usage_never_refills_or_drains_a_balance(
    gate: Gateway, sandbox: Running, usage: str
) -> None:
    sandbox.sandbox.stand(f"usage={usage}")
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    reply = await gate.ask(key, {"model": SMALL, "input": [1, 2, 3]})
    assert reply.headers["x-elkapi-cost-usd"] == "0.00000006"
    assert balance_nano(gate) == 10**9 - 60


async def test_an_idempotent_repeat_is_answered_from_store_and_charged_once(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    headers = {"idempotency-key": "order-1"}
    first = await gate.ask(key, GOOD, headers=headers)
    again = await gate.ask(key, GOOD, headers=headers)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    other = await gate.ask(key, {"model": SMALL, "input": "another body"}, headers=headers)
    assert other.status_code == 409
    assert len(sent(sandbox)) == 1
    assert balance_nano(gate) == 10**9 - 80


async def test_100_parallel_calls_with_one_idempotency_key_are_one_call_and_one_charge(
    gate: Gateway, sandbox: Running
) -> None:
    sandbox.sandbox.stand("delay=100ms")
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    headers = {"idempotency-key": "storm"}
    replies = await asyncio.gather(*(gate.ask(key, GOOD, headers=headers) for _ in range(100)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert len(sent(sandbox)) == 1
    assert balance_nano(gate) == 10**9 - 80


async def test_an_error_before_the_upstream_frees_the_idempotency_key(gate: Gateway, sandbox: Running) -> None:
    await gate.channel("http://127.0.0.1:9")
    key = await gate.key("1")
    headers = {"idempotency-key": "k"}
    assert (await gate.ask(key, GOOD, headers=headers)).status_code == 502
    await gate.channel(sandbox.base_url)
    assert (await gate.ask(key, GOOD, headers=headers)).status_code == 200


async def test_a_large_reply_is_streamed_with_its_end_held_back(tmp_path: Any, sandbox: Running) -> None:
    async with gateway(tmp_path, reply_buffer_bytes_max=10_000) as gate:
        await gate.channel(sandbox.base_url, ("mine",), model_map={"mine": SMALL})
        await gate.price("mine", per_1m_usd="1")
        key = await gate.key("1")
        reply = await gate.ask(key, {"model": "mine", "input": ["a b c"] * 40})
        assert reply.headers["transfer-encoding"] == "chunked"
        assert len(reply.json()["data"]) == 40
        assert reply.json()["model"] == "mine"
        account = await gate.account(reply.headers["x-request-id"], key)
        assert account["cost_usd"] == "0.00012"


async def test_a_large_reply_that_breaks_never_looks_whole_and_is_free(tmp_path: Any, sandbox: Running) -> None:
    async with gateway(tmp_path, reply_buffer_bytes_max=10_000) as gate:
        sandbox.sandbox.stand("cut-after=100000b")
        await gate.channel(sandbox.base_url)
        key = await gate.key("1")
        with pytest.raises(Exception, match=r"peer closed|disconnected|incomplete"):
            await gate.ask(key, {"model": SMALL, "input": ["a b c"] * 40})
        await until(lambda: not held_nano(gate))
        assert balance_nano(gate) == 10**9


async def test_a_client_that_leaves_amid_a_large_reply_pays_what_the_gateway_counts_of_its_input(tmp_path: Any) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        answer = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[' + b"0.5," * 40_000
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n" + answer)
        await reader.read()  # until the gateway hangs up
        writer.close()

    async with gateway(tmp_path, reply_buffer_bytes_max=10_000) as gate:
        server = await asyncio.start_server(half, "127.0.0.1", 0)
        await gate.channel(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", ("mine",))
        await gate.price("mine", per_1m_usd="1")
        headers = {"authorization": f"Bearer {await gate.key('1')}", "content-type": "application/json"}
        body = {"model": "mine", "input": [1, 2, 3], "encoding_format": "float"}
        async with gate.http.stream("POST", "/v1/embeddings", json=body, headers=headers) as reply:
            assert await anext(reply.aiter_raw())
            assert held_nano(gate)
        await until(lambda: gate.sql("select id from requests"))
        ((record,),) = gate.sql("select record from requests")
        told = msgspec.json.decode(record)
        assert (told["outcome"], told["status"], told["flags"]) == (
            "client_gone",
            499,
            ["client_gone", "counted_locally"],
        )
        assert (balance_nano(gate), held_nano(gate)) == (10**9 - 3_000, 0)
        server.close()


async def test_g43_a_client_that_leaves_cancels_the_upstream_and_pays_nothing(gate: Gateway, sandbox: Running) -> None:
    sandbox.sandbox.stand("delay=30s")
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    asking = asyncio.create_task(gate.ask(key, GOOD))
    await until(lambda: sent(sandbox))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: sent(sandbox)[0].outcome is not None and not held_nano(gate))
    assert sent(sandbox)[0].outcome == "aborted"
    assert balance_nano(gate) == 10**9


async def test_ghsa_h7x2_no_caller_can_choose_the_upstream(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    with running() as evil:
        body = {**GOOD, "api_base": evil.base_url, "base_url": evil.base_url}
        headers = {"x-portkey-custom-host": evil.base_url, "host": "evil.example", "x-forwarded-host": evil.base_url}
        assert (await gate.ask(key, body, headers=headers)).status_code == 200
        assert not sent(evil)
    assert len(sent(sandbox)) == 1


async def test_a_private_upstream_is_refused_unless_the_channel_allows_it(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, allow_private=False)
    key = await gate.key("1")
    assert (await gate.ask(key, GOOD)).status_code == 502
    assert not sent(sandbox)


async def test_test_keys_reach_only_the_sandbox(tmp_path: Any) -> None:
    async with gateway(tmp_path, sandbox="on", bundled=("all-MiniLM-L6-v2",)) as gate:
        with running() as live:
            await gate.channel(live.base_url)
            key = await gate.key("0", scope="test")
            assert key.startswith("sk-test-")
            listed = await gate.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert [model["id"] for model in listed.json()["data"]] == [SMALL]
            assert (await gate.ask(key, GOOD)).status_code == 502
            assert not sent(live)


async def test_a_test_key_may_use_no_more_models_of_the_sandbox_than_it_is_allowed(tmp_path: Any) -> None:
    async with gateway(tmp_path, sandbox="on") as gate:
        key = await gate.key("0", scope="test", models=("another",))
        listed = await gate.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert listed.json()["data"] == []
        refused = await gate.ask(key, GOOD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")


async def test_floats_equal_base64_to_the_bit_when_relayed(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    floats = (await gate.ask(key, {**GOOD, "encoding_format": "float"})).json()["data"][0]["embedding"]
    packed = (await gate.ask(key, {**GOOD, "encoding_format": "base64"})).json()["data"][0]["embedding"]
    assert list(struct.unpack("<1536f", base64.b64decode(packed))) == floats


@pytest.mark.parametrize("named", [{}, {"model": None}, {"model": SMALL}, {"model": "another"}])
async def test_a_deployment_is_the_model_of_its_path_whatever_the_body_names(
    gate: Gateway, sandbox: Running, named: dict[str, Any]
) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    path = f"/openai/deployments/{SMALL}/embeddings?api-version=2024-10-21"
    body = {"input": "the quick brown fox", "note": "model", **named}
    reply = await gate.ask(None, body, path=path, headers={"api-key": key})
    assert reply.status_code == 200, reply.text
    assert balance_nano(gate) == 10**9 - 80
    arrived = body_of(sent(sandbox)[0])
    assert msgspec.json.decode(arrived) == {**body, "model": SMALL}
    assert arrived.count(b'"model":') == 1
    assert key not in str(sent(sandbox)[0].headers)


@pytest.mark.parametrize("buffered", [True, False], ids=["held", "pumped"])
@pytest.mark.parametrize("encoding", ["base64", "float", None])
async def test_base64_is_what_a_caller_gets_who_asked_for_it_of_an_upstream_that_does_not_know_it(
    tmp_path: Any, encoding: str | None, buffered: bool
) -> None:
    vectors = [[index + 0.25 * step for step in range(64)] for index in range(300)]
    rows = [{"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(vectors)]
    answer = {"object": "list", "data": rows, "model": SMALL, "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    limits: dict[str, Any] = {} if buffered else {"reply_buffer_bytes_max": 4096}
    async with gateway(tmp_path, **limits) as gate, canned(200, answer) as upstream:
        await gate.channel(upstream.url, family="lmstudio")
        key = await gate.key("1")
        reply = await gate.ask(key, GOOD if encoding is None else {**GOOD, "encoding_format": encoding})
        assert reply.status_code == 200
        assert balance_nano(gate) == 10**9 - 80
    got = reply.json()
    if encoding == "base64":
        for row in got["data"]:
            row["embedding"] = list(struct.unpack("<64f", base64.b64decode(row["embedding"])))
    assert got == answer


async def test_a_vector_that_is_none_is_another_channels_to_answer(gate: Gateway, sandbox: Running) -> None:
    answer = {"object": "list", "data": [{"embedding": [1, "a"]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    async with canned(200, answer) as upstream:
        await gate.channel(upstream.url, priority=1)
        await gate.channel(sandbox.base_url)
        reply = await gate.ask(await gate.key("1"), {**GOOD, "encoding_format": "base64"})
    assert reply.status_code == 200
    assert len(base64.b64decode(reply.json()["data"][0]["embedding"])) == 1536 * 4
    assert balance_nano(gate) == 10**9 - 80
