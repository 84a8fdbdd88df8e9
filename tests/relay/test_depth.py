"""A body nested however deeply has an answer: what reads it may give up, and says so; nothing breaks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.sandbox.server import Running
from tests.gateway import Gateway
from tests.text_calls import CLIENTS, UPSTREAMS, ask

MODEL = "gpt-4o"
THEIRS = {
    "openai": "gpt-4o",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
    "bedrock": "anthropic.claude-sonnet-4-5-20250929-v1:0",
}
# Around the depths at which the decoder of one Python or another gives up, and beyond all of them.
DEPTHS = (60, 200, 480, 700, 900, 990, 1_500, 5_000, 9_000, 30_000, 500_000)


def placed(client: str) -> list[dict[str, Any]]:
    """Where a body may hold anything: a member nobody knows, a schema, what a tool was called with."""
    hole = {"hole": 0}
    schema = {"type": "object", "properties": hole}
    match client:
        case "chat":
            tool: Any = {"type": "function", "function": {"name": "f", "parameters": schema}}
        case "responses":
            tool = {"type": "function", "name": "f", "parameters": schema}
        case "anthropic":
            tool = {"name": "f", "input_schema": schema}
        case _:
            tool = {"functionDeclarations": [{"name": "f", "parametersJsonSchema": schema}]}
    return [{"extra": hole}, {"tools": [tool]}, {"metadata": hole}]


@pytest.mark.parametrize("upstream", THEIRS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_deep_body_is_answered_or_refused_as_too_deep(
    lite: Gateway, sandbox: Running, client: str, upstream: str
) -> None:
    secret, options = UPSTREAMS[upstream]
    theirs = {MODEL: THEIRS[upstream]}
    await lite.channel(
        sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), options=options, model_map=theirs
    )
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("100")
    for depth in DEPTHS:
        for more in placed(client):
            for brackets in (b"[]", b"{}"):
                one = ask(client, MODEL, "hello", **more)
                opened = b"[" * depth + b"]" * depth if brackets == b"[]" else b'{"a":' * depth + b"0" + b"}" * depth
                body = msgspec.json.encode(one.body).replace(b'"hole":0', b'"hole":' + opened)
                reply = await lite.ask(key, body, path=one.path, headers=one.headers)
                assert reply.status_code in (200, 400), (depth, more, brackets, reply.text[:300])
