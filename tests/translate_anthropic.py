"""Helpers that the tests of the Anthropic dialect share."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from elkapi.translate.anthropic import DIALECT
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import ChatRequest, Event, Message, Text
from elkapi.translate.profiles import Profile, profile_for

BUDGET = profile_for("anthropic", "claude-sonnet-4-5")
ADAPTIVE = profile_for("anthropic", "claude-opus-4-6")
NEWEST = profile_for("anthropic", "claude-opus-4-8")
OLD = profile_for("anthropic", "claude-3-5-haiku-20241022")
EPHEMERAL = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
GOOD: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def facts(**members: Any) -> ReplyFacts:
    return ReplyFacts(id="1", model="my-model", created_s=1_700_000_000, request=asked(), **members)


def asked(**members: Any) -> ChatRequest:
    defaults: dict[str, Any] = {"model": "m", "messages": [Message("user", (Text("hi"),))]}
    return ChatRequest(**defaults | members)


def streamed(events: list[Event]) -> bytes:
    writer = DIALECT.writer(facts())
    return b"".join([*(writer.feed(event) for event in events), writer.finish()])


def read(**members: Any) -> ChatRequest:
    """The neutral request read from an Anthropic body with these fields."""
    return DIALECT.read_request(msgspec.json.encode(GOOD | members))


def written(request: ChatRequest, profile: Profile = BUDGET) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(DIALECT.write_request(request, profile))
    return body


def rewritten(body: dict[str, Any], profile: Profile = BUDGET) -> dict[str, Any]:
    """An Anthropic body, read and written back."""
    return written(DIALECT.read_request(msgspec.json.encode(body)), profile)


def body_of(profile: Profile = BUDGET, **members: Any) -> dict[str, Any]:
    """The Anthropic body of a neutral request with these fields."""
    return written(asked(**members), profile)


def user_says(*parts: Any) -> dict[str, Any]:
    return {"messages": [Message("user", parts)]}
