"""Bad input: the right status, a stable code, a request id, and nothing held, charged, leaked or sent upstream."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest

from elkapi.sandbox.server import Running
from tests.gateway import SMALL, Gateway
from tests.text_calls import ask

GOOD = {"model": SMALL, "input": "hello"}


def codes(reply: Any) -> tuple[int, str, str | None]:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"] in error["message"]
    return reply.status_code, error["code"], error["param"]


def untouched(gate: Gateway, sandbox: Running | None = None) -> None:
    assert gate.sql("select count(*) from transfers where kind = 'hold'") == [(0,)]
    if sandbox is not None:
        assert not sandbox.sandbox.recorder.shown()


async def test_a_key_that_is_missing_malformed_unknown_disabled_or_expired_is_401(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(sandbox.base_url)
    expired = await gate.key("1", expires_at_ns=time.time_ns() - 1)
    disabled = await gate.key("1")
    gate_sql_disable(gate)
    await gate.settled()
    for key in (None, "x", "sk-' OR 1=1 --", "sk-" + "A" * 48, expired, disabled):
        reply = await gate.ask(key, GOOD)
        assert codes(reply)[:2] == (401, "invalid_api_key"), key
    untouched(gate, sandbox)


def gate_sql_disable(gate: Gateway) -> None:
    from elkapi.storage.repos import keys

    with gate.database.write() as connection:
        newest = keys.list_keys(connection)[-1]
        keys.set_enabled(connection, newest.id, False, now_ns=time.time_ns(), actor="test")


async def test_a_model_the_key_may_not_use_is_403(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1", models=("other",))
    assert codes(await gate.ask(key, GOOD)) == (403, "model_not_allowed", "model")
    untouched(gate, sandbox)


async def test_a_conversation_to_be_kept_by_the_upstream_is_refused_so_that_sdks_send_it_whole(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(sandbox.base_url, ("claude",), family="anthropic")
    key = await gate.key("1")
    asked = ask("anthropic", "claude", "hi")
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_of_somebody_else"}):
        reply = await gate.ask(key, {**asked.body, "thread": thread}, path=asked.path, headers=asked.headers)
        assert reply.status_code == 400
        assert reply.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
    untouched(gate, sandbox)


async def test_an_empty_balance_is_403_with_what_it_lacks_and_never_reaches_an_upstream(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("0")
    refused = await gate.ask(key, GOOD)
    assert codes(refused)[:2] == (403, "insufficient_user_quota")
    quoted = (await gate.ask(key, {"path": "/v1/embeddings", "body": GOOD}, path="/v1/quote")).json()
    assert f"may cost, {quoted['hold_usd']} USD: 0.00 USD are available." in refused.json()["error"]["message"]
    untouched(gate, sandbox)


async def test_an_unknown_model_is_503_with_close_names_and_no_retry(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url)
    key = await gate.key("1")
    reply = await gate.ask(key, {"model": "text-embedding-3-smal", "input": "x"})
    assert codes(reply)[:2] == (503, "model_not_found")
    assert reply.headers["x-should-retry"] == "false"
    assert SMALL in reply.text
    untouched(gate, sandbox)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions", "/kling/v1/videos/text2video"])
async def test_a_name_that_no_model_can_have_is_refused_and_neither_compared_nor_told(gate: Gateway, path: str) -> None:
    key = await gate.key("1")
    name = "model_name" if path.startswith("/kling") else "model"
    body = {name: "m" * 2049, "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    reply = await gate.ask(key, body, path=path)
    assert reply.status_code == 400, reply.text
    assert "model" in reply.text
    assert len(reply.content) < 1000


async def test_a_model_whose_channels_have_no_key_in_service_is_told_as_that(gate: Gateway) -> None:
    await gate.channel("http://127.0.0.1:9", secrets=())
    await gate.price(SMALL, per_1m_usd="1")
    reply = await gate.ask(await gate.key("1"), GOOD)
    assert codes(reply)[:2] == (503, "model_not_found")
    assert "has no working upstream right now" in reply.json()["error"]["message"]


async def test_a_model_that_is_there_for_other_calls_is_not_offered_in_its_own_place(gate: Gateway) -> None:
    await gate.channel("http://127.0.0.1:9", family="minimax", models=("minimax-only",))
    await gate.price("minimax-only", per_1m_usd="1")
    key = await gate.key("1", models=("minimax-only",))
    reply = await gate.ask(key, {"model": "minimax-only", "query": "a", "documents": ["b"]}, path="/v1/rerank")
    assert codes(reply)[:2] == (503, "model_not_found")
    assert "the model supports other calls" in reply.json()["error"]["message"]
    assert "Available" not in reply.json()["error"]["message"]


async def test_the_seeds_own_model_on_a_fresh_installation_gets_the_corrected_call(tmp_path: Any) -> None:
    from tests.gateway import gateway

    async with gateway(tmp_path, bundled=("all-MiniLM-L6-v2",)) as gate:
        key = await gate.key("1")
        reply = await gate.ask(
            key, {"model": "text-embedding-3-large", "input": "The food was delicious and the waiter..."}
        )
        assert codes(reply)[:2] == (503, "model_not_found")
        message = reply.json()["error"]["message"]
        assert "Send instead" in message
        assert '"model": "all-MiniLM-L6-v2"' in message


async def test_a_model_without_a_price_is_refused_not_free(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, ("unpriced",))
    key = await gate.key("1")
    assert codes(await gate.ask(key, {"model": "unpriced", "input": "x"}))[:2] == (503, "model_price_error")
    untouched(gate, sandbox)


@pytest.mark.parametrize("price", [{"per_second_usd": "0.1"}, {"per_image_usd": "0.04"}])
async def test_g17_a_call_of_text_at_a_price_of_pictures_or_seconds_is_refused_not_free(
    gate: Gateway, sandbox: Running, price: dict[str, str]
) -> None:
    """Nothing that it uses has a price, so it was held at nothing and charged nothing."""
    await gate.channel(sandbox.base_url)
    await gate.price(SMALL, **price)
    key = await gate.key("1")
    body = {"model": SMALL, "input": "x"}
    assert codes(await gate.ask(key, body))[:2] == (503, "model_price_error")
    quoted = await gate.ask(key, {"path": "/v1/embeddings", "body": body}, path="/v1/quote")
    assert codes(quoted)[:2] == (503, "model_price_error")
    untouched(gate, sandbox)
    # The same beside a price of calls is one, and nothing on purpose is one too.
    for fits in ({**price, "per_call_usd": "0.01"}, {}):
        await gate.price(SMALL, **fits)
        assert (await gate.ask(key, body)).status_code == 200


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"\xff\xfe\x00", None),
    (b'{"model":"m","input":"\xc3"}', None),
    (b'{"model":"m","input":"a","x":' + b"[" * 500_000 + b"]" * 500_000 + b"}", None),
    (b'{"model":"a","model":"b","input":"x"}', "model"),
    (b'{"model":"m","input":"x","input":"a much longer text"}', "input"),
    (b'{"model":"m","input":"x","in\\u0070ut":["y"]}', "input"),
    (b'{"model":"m","Model":"dear","input":"x"}', "Model"),
    (b'{"model":"m","input":"x","INPUT":["y"]}', "INPUT"),
    (b'{"model":"m","input":"x","\\u0049nput":5}', "Input"),
    (b'{"model":5,"input":"x"}', "model"),
    (b'{"input":"x"}', "model"),
    (b'{"model":null,"input":"x"}', "model"),
    (b'{"model":"m"}', "input"),
    (b'{"model":"m","input":""}', "input"),
    (b'{"model":"m","input":[]}', "input"),
    (b'{"model":"m","input":["a",{}]}', "input"),
    (b'{"model":"m","input":"x","dimensions":0}', "dimensions"),
    (b'{"model":"m","input":"x","dimensions":1e99}', "dimensions"),
    (json.dumps({"model": "m", "input": ["x"] * 2049}).encode(), "input"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_a_bad_body_is_400_naming_the_field(gate: Gateway, body: bytes, param: str | None) -> None:
    key = await gate.key("1")
    status, _, named = codes(await gate.ask(key, body))
    assert (status, named) == (400, param)
    untouched(gate)


async def test_size_type_method_and_path_mistakes_have_their_status(tmp_path: Any) -> None:
    from tests.gateway import gateway

    async with gateway(tmp_path, body_bytes_max=1000) as gate:
        key = await gate.key("1")
        auth = {"authorization": f"Bearer {key}"}
        assert codes(await gate.ask(key, b"x" * 1001))[:2] == (413, "read_request_body_failed")
        assert codes(await gate.ask(key, b"x=1", headers={"content-type": "text/plain"}))[0] == 415
        wrong = await gate.http.get("/v1/embeddings", headers=auth)
        assert codes(wrong)[:2] == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST, OPTIONS"
        assert codes(await gate.http.get("/v1/nowhere"))[:2] == (404, "unknown_url")
        assert (await gate.http.get("/v1/models")).status_code == 401
        untouched(gate)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages", "/v1/messages/batches", "/v1/videos", "/v1/quote"])
@pytest.mark.parametrize("coding", ["gzip", "zstd", "GZIP"])
async def test_a_compressed_body_is_told_so_and_not_that_it_is_no_text(gate: Gateway, path: str, coding: str) -> None:
    key, packed = await gate.key("1"), gzip.compress(json.dumps(GOOD).encode())
    reply = await gate.ask(key, packed, path=path, headers={"content-encoding": coding})
    assert reply.status_code == 415
    assert coding in reply.json()["error"]["message"]
    plain = await gate.ask(key, GOOD, path=path, headers={"content-encoding": "identity"})
    assert plain.status_code in (400, 503)
    untouched(gate)


async def test_errors_take_the_callers_dialect(gate: Gateway) -> None:
    anthropic = (await gate.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})).json()
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "authentication_error"
    assert anthropic["request_id"].startswith("req_")
    google = (await gate.http.get("/v1beta/models")).json()
    assert google["error"]["status"] == "UNAUTHENTICATED"
    assert google["error"]["code"] == 401


SOUND = {"data": "UklGRg==", "format": "wav"}
HEARD = {
    "chat": ("messages", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": SOUND}]}]}),
    "responses": ("input", {"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": SOUND}]}]}),
}


@pytest.mark.parametrize("client", HEARD)
async def test_what_the_upstream_cannot_carry_is_named_by_the_callers_own_member(
    gate: Gateway, sandbox: Running, client: str
) -> None:
    await gate.channel(sandbox.base_url, ("claude-x",), family="anthropic", secrets=("sk-ant-upstream",))
    await gate.price("claude-x", per_1m_usd="1")
    param, body = HEARD[client]
    reply = await gate.ask(await gate.key("1"), {"model": "claude-x", **body}, path=ask(client, "m", "").path)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_browsers_may_call_and_read(gate: Gateway) -> None:
    preflight = await gate.http.options(
        "/v1/embeddings",
        headers={"origin": "https://app.example", "access-control-request-headers": "authorization,x-stainless-os"},
    )
    assert preflight.status_code == 204
    assert "content-length" not in preflight.headers
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    refused = await gate.http.post("/v1/embeddings", headers={"origin": "https://app.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


async def test_nobody_without_a_key_can_make_the_gateway_collect_a_body(gate: Gateway) -> None:
    for path in ("/", "/docs", "/docs/errors", "/console", "/api/status"):
        reply = await gate.http.post(path, content=b"x" * 100_000)
        assert codes(reply)[:2] == (405, "method_not_allowed")
        assert reply.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("path", ["/api/embed", "/api/chat", "/api/v1/models"])
async def test_another_servers_address_below_api_is_no_page(gate: Gateway, path: str) -> None:
    reply = await gate.http.post(path, content=b"x" * 100_000)
    assert codes(reply)[:2] == (404, "unknown_url")
    assert "allow" not in reply.headers


@pytest.mark.parametrize("body", [b"", b" \r\n"])
async def test_an_empty_body_is_called_empty(gate: Gateway, body: bytes) -> None:
    reply = await gate.ask(await gate.key("1"), body)
    assert codes(reply)[:2] == (400, "bad_request_body")
    assert reply.json()["error"]["message"].startswith("The body is empty; a JSON object is expected.")
    untouched(gate)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/videos/a%00b",
        "/v1/videos/a%00b/content",
        "/v1/videos?after=a%00b",
        "/v1/tasks/%00",
        "/kling/v1/videos/text2video/%00",
        "/minimax/v1/query/video_generation?task_id=%00",
    ],
)
async def test_a_task_whose_name_no_database_can_keep_is_nobodys(gate: Gateway, path: str) -> None:
    reply = await gate.http.get(path, headers={"authorization": f"Bearer {await gate.key('1')}"})
    assert reply.status_code == 404, reply.text


@pytest.mark.parametrize("query", ["filter.model=%00", "filter.task_ids=%00&filter.task_ids=b"])
async def test_a_list_of_what_no_database_can_keep_is_empty(gate: Gateway, query: str) -> None:
    path = f"/volc/v3/contents/generations/tasks?{query}"
    reply = await gate.http.get(path, headers={"authorization": f"Bearer {await gate.key('1')}"})
    assert (reply.status_code, reply.json()["items"]) == (200, [])


async def test_a_name_that_no_database_can_keep_is_refused_before_anything_is_held(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(sandbox.base_url)
    await gate.price(SMALL, per_1m_usd="1")
    key = await gate.key("1")
    body = {"model": SMALL, "input": [{"type": "item_reference", "id": "a\0b"}]}
    assert (await gate.ask(key, body, path="/v1/responses")).status_code == 404
    line = {"model": SMALL, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    batch = {"requests": [{"custom_id": "a\0b", "params": line}]}
    reply = await gate.ask(key, batch, path="/v1/messages/batches", headers={"anthropic-version": "2023-06-01"})
    assert reply.status_code == 400
    assert "requests.0.custom_id: must not contain the character U+0000." in reply.json()["error"]["message"]
    untouched(gate, sandbox)
