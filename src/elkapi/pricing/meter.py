"""A reply's bytes -> `Usage`, reading only where usage can stand; what an upstream says is checked, never trusted.

A count that is negative, not an integer or above the call's possible maximum is no usage (guarantee 21).
"""

from __future__ import annotations

import re

import msgspec

from elkapi.types import Usage

TAIL_BYTES = 2048
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class UsageView(msgspec.Struct):
    """OpenAI's usage object, as far as embeddings report it."""

    prompt_tokens: int
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Reply(msgspec.Struct):
    usage: UsageView | None = None


_usage = msgspec.json.Decoder(UsageView)
_reply = msgspec.json.Decoder(_Reply)


def read_usage(body: bytes, upper: Usage) -> Usage | None:
    """The usage an embeddings reply reports, in disjoint classes, or None when it is missing or impossible."""
    view = _last_usage(body)
    if view is None:
        return None
    cached = (view.prompt_tokens_details.cached_tokens if view.prompt_tokens_details else 0) or 0
    total = view.prompt_tokens
    if cached < 0 or total < cached or total < 0 or total > upper.input_tokens:
        return None
    return Usage(input_tokens=total - cached, cached_tokens=cached, calls=upper.calls)


def _last_usage(body: bytes) -> UsageView | None:
    try:
        start = body.rfind(b'"usage"', max(0, len(body) - TAIL_BYTES))
        if start >= 0 and (hit := _USAGE.match(body, start)) is not None:
            return _usage.decode(hit.group(1))
        # Some servers put usage first; decoding the whole reply is the rare, slower way to find it.
        return _reply.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def looks_like_json_object(body: bytes) -> bool:
    """Whether a 200 can be an answer at all: an HTML page or a cut body is not (a cheap look at both ends)."""
    return body[:64].lstrip()[:1] == b"{" and body[-64:].rstrip()[-1:] == b"}"


def with_client_model(body: bytes, upstream_model: str, client_model: str) -> bytes:
    """The reply with the model's client name where the upstream wrote its own (callers never see the mapping)."""
    pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(msgspec.json.encode(upstream_model)))
    replacement = msgspec.json.encode(client_model)
    head, tail = body[:TAIL_BYTES], body[TAIL_BYTES:]
    renamed, count = pattern.subn(lambda hit: hit.group(1) + replacement, head, count=1)
    if count:
        return renamed + tail
    cut = max(0, len(body) - TAIL_BYTES)
    return body[:cut] + pattern.sub(lambda hit: hit.group(1) + replacement, body[cut:], count=1)
