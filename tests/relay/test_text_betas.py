"""Claude Code sends betas and their fields together; an upstream that is not sent the betas does not get the fields."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from elkapi.sandbox.server import Running
from tests.gateway import Gateway
from tests.relay.test_text import MODEL, THEIRS
from tests.text_calls import UPSTREAMS, ask

FIND, READ = ({"name": name, "input_schema": {"type": "object"}} for name in ("find", "read"))
PLAIN = {"tools": [FIND, READ]}
FIELDS: dict[str, Any] = {"context_management": {"edits": []}, "tools": [FIND | {"defer_loading": True}, READ]}
BETAS = "claude-code-20250219,context-management-2025-06-27,advanced-tool-use-2025-11-20"
OURS = "context-management-2025-06-27"


async def received(gate: Gateway, sandbox: Running, upstream: str, **channel: Any) -> tuple[str | None, dict[str, Any]]:
    """(the header of betas, the fields of betas) as the upstream gets them from Claude Code."""
    secret, options = UPSTREAMS[upstream]
    mapped = {MODEL: THEIRS[upstream]}
    await gate.channel(
        sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), options=options, model_map=mapped, **channel
    )
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    call = ask("anthropic", MODEL, "hello")
    headers = {**call.headers, "anthropic-beta": BETAS}
    reply = await gate.ask(await gate.key("10"), call.body | FIELDS, path="/v1/messages?beta=true", headers=headers)
    assert reply.status_code == 200, reply.text
    (sent,) = sandbox.sandbox.recorder.shown()
    body = json.loads(base64.b64decode(sent.body_base64))
    return dict(sent.headers).get("anthropic-beta"), {name: body[name] for name in FIELDS if name in body}


async def test_bedrock_gets_neither_the_betas_nor_their_fields(gate: Gateway, sandbox: Running) -> None:
    assert await received(gate, sandbox, "bedrock") == (None, PLAIN)


async def test_bedrock_gets_the_fields_of_the_betas_that_its_channel_sets(gate: Gateway, sandbox: Running) -> None:
    default = {"anthropic_beta": msgspec.Raw(msgspec.json.encode([OURS]))}
    assert await received(gate, sandbox, "bedrock", param_default=default) == (None, FIELDS | PLAIN)


@pytest.mark.parametrize(
    ("channel", "betas", "fields"),
    [
        ({}, BETAS, FIELDS),
        ({"header_remove": ("Anthropic-Beta",)}, None, PLAIN),
        ({"header_set": {"Anthropic-Beta": OURS}}, OURS, FIELDS | PLAIN),
    ],
    ids=["as sent", "removed", "set"],
)
async def test_the_fields_follow_what_the_channel_makes_of_the_header(
    gate: Gateway, sandbox: Running, channel: dict[str, Any], betas: str | None, fields: dict[str, Any]
) -> None:
    assert await received(gate, sandbox, "anthropic", **channel) == (betas, fields)
