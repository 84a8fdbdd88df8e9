"""Upstream families as data: every one is addressable, and a call finds its native wire or one to translate into."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.catalog.upstreams import (
    UPSTREAM_FAMILIES,
    Endpoint,
    auth_headers,
    endpoint_for,
    endpoint_path,
    target_path,
)
from elkapi.types import Channel, ChannelKey

KEY = ChannelKey(1, "secret")


def _channel(family: str, **fields: Any) -> Channel:
    return Channel(id=1, name="c", family=family, base_url="https://h", keys=(KEY,), models=("m",), **fields)


@pytest.mark.parametrize(
    ("family", "wire", "model", "found"),
    [
        ("openai", "chat", "gpt-4o", "chat"),
        ("openai", "anthropic", "gpt-4o", "chat"),
        ("openai", "gemini", "gpt-4o", "chat"),
        *(
            ("openai", "chat", name, "chat")
            for name in ("gpt-5.6-terra", "o3", "gpt-4o-mini", "gpt-5-mini", "ft:gpt-4o:x")
        ),
        *(
            ("openai", "chat", name, "responses")
            for name in ("gpt-5.1-codex-max", "codex-mini-latest", "o4-mini-deep-research")
        ),
        *(
            ("openai", "anthropic", name, "responses")
            for name in ("gpt-6-cyber", "gpt-5.5-pro-2026-04-23", "gpt-6.2-astra-law")
        ),
        # Chat completions refuse their tools beside reasoning, and Claude Code's calls have both.
        *(
            (family, wire, name, "responses")
            for family in ("openai", "azure")
            for wire in ("anthropic", "gemini")
            for name in ("gpt-5.4", "gpt-5.4-mini-2026-03-17", "gpt-5.6-sol", "gpt-6-luna", "gpt-6.2-sol", "gpt-10")
        ),
        *(("azure", wire, "gpt-5.3-chat-latest", "chat") for wire in ("anthropic", "gemini", "chat")),
        ("openai", "anthropic", "gpt-5", "chat"),
        ("openai", "anthropic", "o3", "chat"),
        ("openrouter", "anthropic", "openai/gpt-5.6-sol", "chat"),
        ("azure", "gemini", "computer-use-preview", "responses"),
        ("openrouter", "chat", "openai/gpt-5.3-codex", "chat"),
        ("deepseek", "responses", "deepseek-chat", "chat"),
        ("minimax", "anthropic", "MiniMax-M3", "anthropic"),
        ("minimax", "gemini", "MiniMax-M3", "chat"),
        ("anthropic", "chat", "claude-x", "anthropic"),
        ("gemini", "anthropic", "gemini-2.5-pro", "gemini"),
        ("vertex", "chat", "gemini-2.5-pro", "gemini"),
        ("vertex", "chat", "claude-sonnet-4-5", "anthropic"),
        ("bedrock", "chat", "eu.anthropic.claude-x-v1:0", "anthropic"),
        ("bedrock", "anthropic", "amazon.nova-pro-v1:0", "converse"),
        ("elkapi", "gemini", "whatever", "gemini"),
    ],
)
def test_a_text_call_finds_a_wire_of_every_family(family: str, wire: str, model: str, found: str) -> None:
    served = endpoint_for(family, wire, True, model)
    assert served is not None
    assert served[0] == found


@pytest.mark.parametrize(
    ("family", "wire", "found"),
    [
        ("gemini", "embeddings", "gemini-batch-embed"),
        ("openai", "gemini-batch-embed", "embeddings"),
        ("cohere", "rerank", "cohere-rerank"),
        ("anthropic", "completions", "anthropic"),
        ("anthropic", "embeddings", None),
        ("anthropic", "moderations", None),
        ("deepseek", "anthropic-count", None),
    ],
)
def test_other_calls_cross_only_where_an_answer_can_be_carried_back(family: str, wire: str, found: str | None) -> None:
    served = endpoint_for(family, wire, False, "m")
    assert (served and served[0]) == found


def test_minimax_takes_its_key_for_anthropics_messages_as_anthropic_does() -> None:
    served = endpoint_for("minimax", "anthropic", True, "MiniMax-M3")
    assert served is not None
    headers = auth_headers(_channel("minimax"), ChannelKey(1, "k"), served[1].auth)
    assert headers == [(b"x-api-key", b"k")]


def test_deepseeks_completions_are_asked_where_they_are() -> None:
    """Elsewhere it answers "completions api is only available when using beta api"."""
    for family, path in (("deepseek", "/beta/completions"), ("together", "/v1/completions")):
        served = endpoint_for(family, "completions", False, "m")
        assert served is not None
        assert served[1].path == path


def test_a_model_and_options_are_percent_encoded_into_the_path() -> None:
    endpoint = UPSTREAM_FAMILIES["azure"].wires["chat"]
    channel = _channel("azure")
    assert endpoint_path(channel, endpoint, "a/b#c?d", False) == (
        "/openai/deployments/a%2Fb%23c%3Fd/chat/completions?api-version=2024-10-21"
    )
    newer = _channel("azure", options={"api-version": "2025-01-01&x=1"})
    assert endpoint_path(newer, endpoint, "m", True).endswith("?api-version=2025-01-01%26x%3D1")


def test_a_stream_may_have_a_path_of_its_own() -> None:
    endpoint = UPSTREAM_FAMILIES["gemini"].wires["gemini"]
    assert endpoint_path(_channel("gemini"), endpoint, "g", False) == "/v1beta/models/g:generateContent"
    assert endpoint_path(_channel("gemini"), endpoint, "g", True).endswith("g:streamGenerateContent?alt=sse")


@pytest.mark.parametrize(
    ("base", "path", "joined"),
    [
        ("", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/api/paas/v4", "/v1/chat/completions", "/api/paas/v4/chat/completions"),
        ("/v1beta", "/v1beta/models/m:countTokens", "/v1beta/models/m:countTokens"),
        # Google's and DeepInfra's addresses for OpenAI's packages.
        ("/v1beta/openai/", "/v1/chat/completions", "/v1beta/openai/chat/completions"),
        # DeepSeek's completions are part of its beta, with either of the bases that it documents.
        ("", "/beta/completions", "/beta/completions"),
        ("/v1", "/beta/completions", "/beta/completions"),
        ("/beta", "/beta/completions", "/beta/completions"),
        ("/beta/", "/v1/chat/completions", "/beta/chat/completions"),
        ("/v1", "/anthropic/v1/messages", "/anthropic/v1/messages"),
        ("", "/anthropic/v1/messages", "/anthropic/v1/messages"),
        ("/v1/openai", "/v1/models", "/v1/openai/models"),
        ("/openai", "/v1/chat/completions", "/openai/v1/chat/completions"),
        ("/compatible-mode/v1/", "/v1/embeddings", "/compatible-mode/v1/embeddings"),
    ],
)
def test_a_base_with_a_version_is_not_given_another(base: str, path: str, joined: str) -> None:
    assert target_path(base, path) == joined


@pytest.mark.parametrize(
    ("family", "header"),
    [
        ("openai", (b"authorization", b"Bearer secret")),
        ("anthropic", (b"x-api-key", b"secret")),
        ("gemini", (b"x-goog-api-key", b"secret")),
        ("azure", (b"api-key", b"secret")),
    ],
)
def test_a_credential_travels_as_its_provider_wants(family: str, header: tuple[bytes, bytes]) -> None:
    assert auth_headers(_channel(family), KEY) == [header]


def test_every_family_is_complete() -> None:
    for family in UPSTREAM_FAMILIES.values():
        assert family.wires, family.name
        assert all(isinstance(endpoint, Endpoint) for endpoint in family.wires.values())
        if family.operator_may_add and family.base_url:
            assert family.base_url.startswith(("https://", "http://127.0.0.1")), family.name
