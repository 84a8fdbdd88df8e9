"""What other gateways' advisories were about, for text calls: who chooses the upstream, what reaches it, what leaks."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from elkapi.sandbox.server import Running, running
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.relay.test_text_usage import priced, whole_of
from tests.text_calls import CLIENTS, ask

MODEL = "test-model"
THEIRS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}
PLANTED = {
    "openai": "sk-planted-upstream-secret-4711",
    "anthropic": "sk-ant-planted-upstream-secret-4711",
    "gemini": "AIzaPlantedUpstreamSecret4711",
}
# What may reach an upstream beside its own credential and the framing: nothing of it is the caller's but the last row.
HARMLESS = {
    "host",
    "accept",
    "accept-encoding",
    "content-type",
    "content-length",
    "connection",
    "user-agent",
    "x-client-request-id",
    "anthropic-version",
    "anthropic-beta",
}
CREDENTIAL = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


async def staged(gate: Gateway, sandbox: Running, family: str) -> str:
    model_map = {MODEL: THEIRS[family]}
    await gate.channel(
        sandbox.base_url,
        (MODEL,),
        name="planted-channel",
        family=family,
        secrets=(PLANTED[family],),
        model_map=model_map,
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    return await gate.key("5")


@pytest.mark.parametrize("family", THEIRS)
async def test_cve_2024_6587_ghsa_h7x2_no_member_header_or_query_of_a_text_call_chooses_its_upstream(
    tmp_path: Path, sandbox: Running, family: str
) -> None:
    async with gateway(tmp_path) as gate:
        key = await staged(gate, sandbox, family)
        with running() as evil:
            names = ("api_base", "base_url", "endpoint", "custom_llm_provider", "extra_headers")
            headers = {
                "x-portkey-custom-host": evil.base_url,
                "x-forwarded-host": evil.base_url.removeprefix("http://"),
                "x-target-url": evil.base_url,
                "forwarded": f"host={evil.base_url}",
            }
            for client in CLIENTS:
                for stream in (False, True):
                    asked = ask(client, MODEL, "hello", stream=stream)
                    body = asked.body | dict.fromkeys(names, evil.base_url)
                    joint = "&" if "?" in asked.path else "?"
                    path = f"{asked.path}{joint}api_base={evil.base_url}"
                    # An upstream may refuse a member it does not know; nobody goes elsewhere for it.
                    reply = await gate.ask(key, body, path=path, headers={**asked.headers, **headers})
                    assert reply.status_code in (200, 400), reply.text
            assert not evil.sandbox.recorder.shown()
        assert len(sandbox.sandbox.recorder.shown()) == 2 * len(CLIENTS)


async def test_cve_2025_66405_a_model_name_is_one_segment_of_the_upstreams_path(
    tmp_path: Path, sandbox: Running
) -> None:
    odd = "odd#name?x=1&key=2/../up"
    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url, (MODEL,), family="gemini", model_map={MODEL: odd}, secrets=("AIzaSecret",))
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key("1")
        for stream in (False, True):
            asked = ask("chat", MODEL, "hello", stream=stream)
            await gate.ask(key, asked.body, path=asked.path)
    targets = [shown.target for shown in sandbox.sandbox.recorder.shown()]
    assert targets
    for target in targets:
        path = target.partition("?")[0]
        assert path.startswith("/v1beta/models/odd%23name%3F"), target
        assert path.endswith(("up:generateContent", "up:streamGenerateContent")), target
        assert "/../" not in target
        assert target.partition("?")[2] in ("", "alt=sse"), target


@pytest.mark.parametrize("family", THEIRS)
async def test_no_header_of_a_caller_is_smuggled_to_an_upstream(tmp_path: Path, sandbox: Running, family: str) -> None:
    async with gateway(tmp_path) as gate:
        key = await staged(gate, sandbox, family)
        smuggled = {
            "cookie": "session=mine",
            "x-forwarded-for": "10.0.0.1",
            "x-api-key": key,
            "x-goog-api-key": key,
            "openai-organization": "org-mine",
            "proxy-authorization": "Basic bWluZQ==",
            "x-stainless-lang": "python",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "te": "trailers",
        }
        for client in CLIENTS:
            asked = ask(client, MODEL, "hello")
            reply = await gate.ask(key, asked.body, path=asked.path, headers={**asked.headers, **smuggled})
            assert reply.status_code == 200, reply.text
    for shown in sandbox.sandbox.recorder.shown():
        names = {name.lower() for name, _ in shown.headers}
        assert names <= HARMLESS | {CREDENTIAL[family]}
        told = " ".join(f"{name}: {text}" for name, text in shown.headers)
        assert PLANTED[family] in told
        assert key not in told


async def test_a_request_with_two_lengths_is_refused_and_nothing_of_it_reaches_an_upstream(
    tmp_path: Path, sandbox: Running
) -> None:
    async with gateway(tmp_path) as gate:
        key = await staged(gate, sandbox, "openai")
        host, port = gate.origin.removeprefix("http://").split(":")
        for lines in (
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            "content-length: 4\r\ncontent-length: 5\r\n",
            "transfer-encoding: chunked, identity\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            hidden = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{lines}\r\n"
            writer.write(head.encode() + b"0\r\n\r\n" + hidden.encode())
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
            assert answer.count(b"HTTP/1.1 ") == 1
            writer.close()
    assert not sandbox.sandbox.recorder.shown()


@pytest.mark.parametrize("family", THEIRS)
async def test_g78_planted_secrets_of_an_upstream_appear_in_no_text_answer_and_no_log(
    tmp_path: Path, sandbox: Running, family: str
) -> None:
    said: list[str] = []
    async with gateway(tmp_path, cooldown_s=0.0) as gate:
        key = await staged(gate, sandbox, family)
        for status in (400, 422, 500):
            sandbox.sandbox.stand(f"echo-secrets, status={status}")
            for client in CLIENTS:
                for stream in (False, True):
                    asked = ask(client, MODEL, "hello", stream=stream)
                    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
                    assert reply.status_code == (502 if status == 500 else status)
                    said.append(reply.text + str(reply.headers))
    log = (tmp_path / "gateway.log").read_text()
    port = sandbox.base_url.rpartition(":")[2]
    secrets: tuple[Any, ...] = (PLANTED[family], key)
    for text in (*said, log):
        assert not [secret for secret in secrets if secret in text]
    for text in said:
        assert "planted-channel" not in text
        assert f":{port}" not in text
        assert THEIRS[family] not in text


USAGE: dict[str, dict[str, Any]] = {
    "chat": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    "responses": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
    "anthropic": {"input_tokens": 9, "output_tokens": 2},
}
NAMES_ANOTHER: list[tuple[str, str, dict[str, Any]]] = [
    (
        "anthropic",
        "anthropic",
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-1"}]},
    ),
    ("anthropic", "anthropic", {"fallbacks": [{"model": "claude-opus-4-1", "max_tokens": 64}]}),
    ("anthropic", "anthropic", {"fallbacks": "default"}),
    ("openrouter", "chat", {"models": ["openai/o1-pro"]}),
    ("openrouter", "chat", {"tools": [{"type": "openrouter:subagent", "parameters": {"model": "openai/o1-pro"}}]}),
    ("openrouter", "responses", {"models": ["openai/o1-pro"], "store": False}),
]


@pytest.mark.parametrize(("family", "client", "more"), NAMES_ANOTHER)
async def test_no_call_has_its_provider_ask_a_further_model_that_it_names(
    tmp_path: Path, family: str, client: str, more: dict[str, Any]
) -> None:
    """It was billed at that model's price, paid at none, and a key for one model alone could name any."""
    async with canned(200, whole_of(client, USAGE[client])) as upstream, gateway(tmp_path) as gate:
        await priced(gate, "cheap", family, upstream.url)
        key = await gate.key("10", models=("cheap",))
        named, plain = ask(client, "cheap", "Tell me.", **more), ask(client, "cheap", 'Say "advisor_20260301".')
        reply = await gate.ask(key, named.body, path=named.path, headers=named.headers)
        assert (reply.status_code, upstream.bodies) == (400, []), reply.text
        assert "must name one model" in reply.text
        assert re.search("The `fallbacks?` parameter is not supported", reply.text)
        assert gate.sql("select sum(held_nano) from accounts")[0][0] == 0
        reply = await gate.ask(key, plain.body, path=plain.path, headers=plain.headers)
        assert reply.status_code == 200, reply.text
        await priced(gate, "cheap", family, upstream.url, options={"other-models": "allow"}, priority=1)
        reply = await gate.ask(key, named.body, path=named.path, headers=named.headers)
        assert (reply.status_code, len(upstream.bodies)) == (200, 2), reply.text
