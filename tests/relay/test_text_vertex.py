"""Vertex AI as an upstream: a service account's key is exchanged for a token, for Gemini's models and for Claude's."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from elkapi.sandbox.server import Running
from tests.gateway import Gateway
from tests.text_calls import CLIENTS, ask, is_whole, streamed_text, text_of

MODEL = "test-model"
SAID = "hello world"


@pytest.fixture(scope="module")
def account() -> str:
    """A service account's key file, as an operator pastes it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    members = {"type": "service_account", "client_email": "a@p.example", "private_key": pem, "private_key_id": "1"}
    return msgspec.json.encode(members).decode()


async def served(gate: Gateway, sandbox: Running, account: str, theirs: str) -> str:
    """A key for MODEL, which Vertex serves by its own name."""
    await gate.channel(
        f"{sandbox.base_url}/v1/projects/p/locations/us-east5",
        (MODEL,),
        family="vertex",
        secrets=(account,),
        options={"token-url": f"{sandbox.base_url}/token"},
        model_map={MODEL: theirs},
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    return await gate.key("10")


@pytest.mark.parametrize("theirs", ["gemini-2.5-pro", "claude-sonnet-4-5"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_every_dialect_is_answered_by_vertex_with_one_exchanged_token(
    gate: Gateway, sandbox: Running, account: str, client: str, theirs: str
) -> None:
    key = await served(gate, sandbox, account, theirs)
    whole = ask(client, MODEL, f"[[say: {SAID}]]")
    reply = await gate.ask(key, whole.body, path=whole.path, headers=whole.headers)
    assert reply.status_code == 200, reply.text
    assert text_of(client, reply.json()) == SAID
    streamed = ask(client, MODEL, f"[[say: {SAID}]]", stream=True)
    stream = await gate.ask(key, streamed.body, path=streamed.path, headers=streamed.headers)
    assert stream.status_code == 200, stream.text
    assert streamed_text(client, stream.text) == SAID
    assert is_whole(client, stream.text)
    assert [request.target for request in sandbox.sandbox.recorder.shown()].count("/token") == 1


async def test_a_call_whose_token_did_not_come_was_not_sent_and_may_be_repeated(
    gate: Gateway, sandbox: Running, account: str
) -> None:
    key = await served(gate, sandbox, account, "gemini-2.5-pro")
    asked = ask("chat", MODEL, f"[[say: {SAID}]]")
    headers = {**asked.headers, "idempotency-key": "once"}
    sandbox.sandbox.stand("cut-after=1b")
    broken = await gate.ask(key, asked.body, path=asked.path, headers=headers)
    assert broken.status_code == 502, broken.text
    sandbox.sandbox.stand("")
    again = await gate.ask(key, asked.body, path=asked.path, headers=headers)
    assert (again.status_code, text_of("chat", again.json())) == (200, SAID)


def contents(part: dict[str, object]) -> dict[str, object]:
    return {"contents": [{"role": "user", "parts": [{"text": "read it"}, part]}]}


def content(part: dict[str, object], kind: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": kind, "text": "read it"}, part]}]


@pytest.mark.parametrize(
    ("client", "more"),
    [
        ("gemini", contents({"fileData": {"mimeType": "application/pdf", "fileUri": "gs://bucket/a.pdf"}})),
        ("gemini", contents({"file_data": {"mime_type": "video/mp4", "file_\\u0075ri": " GS://bucket/a.mp4"}})),
        ("gemini", {"tools": [{"retrieval": {"vertexAiSearch": {"datastore": "projects/p/locations/global"}}}]}),
        ("chat", {"messages": content({"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}}, "text")}),
        ("responses", {"input": content({"type": "input_file", "file_url": "gs://bucket/a.pdf"}, "input_text")}),
    ],
)
async def test_a_caller_names_what_only_the_operators_account_reads_where_the_channel_allows_it(
    gate: Gateway, sandbox: Running, account: str, client: str, more: dict[str, Any]
) -> None:
    """Vertex AI reads it with the rights of whoever signs the call, which is the operator."""

    async def channel(priority: int, **options: str) -> None:
        await gate.channel(
            f"{sandbox.base_url}/v1/projects/p/locations/us-east5",
            (MODEL,),
            family="vertex",
            secrets=(account,),
            options={"token-url": f"{sandbox.base_url}/token", **options},
            model_map={MODEL: "gemini-2.5-pro"},
            priority=priority,
        )

    await channel(0)
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await gate.key("10")
    plain = ask(client, MODEL, 'what is {"fileUri": "gs://bucket/a.pdf"}?')
    reply = await gate.ask(key, plain.body, path=plain.path, headers=plain.headers)
    assert reply.status_code == 200, reply.text
    named = ask(client, MODEL, "read it", **more)
    body = msgspec.json.encode(named.body).replace(b"\\\\u", b"\\u")
    reply = await gate.ask(key, body, path=named.path, headers=named.headers)
    assert reply.status_code == 400, reply.text
    assert "Objects of Google Cloud Storage" in reply.text
    gate.closed_books()
    assert len(sandbox.sandbox.recorder.shown()) == 2
    await channel(1, **{"own-objects": "allow"})
    reply = await gate.ask(key, body, path=named.path, headers=named.headers)
    assert reply.status_code == 200, reply.text


async def test_a_key_that_is_no_service_account_costs_nothing_and_reaches_nobody(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(
        sandbox.base_url, (MODEL,), family="vertex", secrets=("not-json",), model_map={MODEL: "gemini-2.5-pro"}
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await gate.key("10")
    asked = ask("chat", MODEL, "hi")
    reply = await gate.ask(key, asked.body, path=asked.path)
    assert reply.status_code == 502
    assert "not-json" not in reply.text
    assert not sandbox.sandbox.recorder.shown()
    gate.closed_books()


async def test_a_body_for_googles_gemini_api_fits_vertex_too(gate: Gateway, sandbox: Running, account: str) -> None:
    """Vertex AI refuses turns without a role, and the wrapper that countTokens takes elsewhere."""
    key = await served(gate, sandbox, account, "gemini-2.5-pro")
    turn = {"parts": [{"text": "hi"}]}
    path = f"/v1beta/models/{MODEL}"
    assert (await gate.ask(key, {"contents": [turn]}, path=f"{path}:generateContent")).status_code == 200
    wrapped = {"model": f"models/{MODEL}", "contents": [turn], "systemInstruction": turn, "safetySettings": []}
    counted = await gate.ask(key, {"generateContentRequest": wrapped}, path=f"{path}:countTokens")
    assert counted.status_code == 200, counted.text
    sent = [
        msgspec.json.decode(base64.b64decode(request.body_base64)) for request in sandbox.sandbox.recorder.shown()[1:]
    ]
    contents = [turn | {"role": "user"}]
    assert sent == [{"contents": contents}, {"contents": contents, "systemInstruction": turn}]
