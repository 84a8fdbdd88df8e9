"""A whole reply's bytes -> `Usage`, reading only where usage can be; an upstream's counts are checked, not trusted.

A count that is negative, not an integer, contradictory or above the call's possible maximum is no usage (guarantee 21).
`translate.usage` defines how each dialect counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.catalog.jsonedit import string_member
from elkapi.errors import NOT_JSON, BadRequest
from elkapi.translate import usage as counts
from elkapi.translate.crossing import with_model_named
from elkapi.translate.rerank import Meta, read_meta
from elkapi.types import Usage

TAIL_BYTES = 2048
# A provider may prepend instructions of its own (for tools, for a schema), and count them.
INPUT_SLACK_TOKENS = 8192
OUTPUT_SLACK_TOKENS = 1024
# How much a bound by constants may fall short: tools and files together come to at most a few whole contexts.
OPEN_SLACK_TOKENS = 2_000_000
# The most output of a call without a limit: its bound is then what is known of the model, which may write more.
UNLIMITED_OUTPUT_TOKENS_MAX = 2_000_000
# The most searches of a call beyond those it is held for.
SEARCHES_SLACK = 1000

Found = tuple[Usage | None, bool]
_raw = msgspec.json.Decoder(msgspec.Raw)
NOTHING: Found = (None, False)


class _Meter:
    """How one wire reports usage: the member, its view, and the reader of the view."""

    def __init__(self, member: str, view: type[Any], read: Callable[[Any], Found]) -> None:
        self.quoted = b'"' + member.encode() + b'"'
        self.opening = self.quoted + b":{"
        # Possessive runs: without them a step per character took three times as long.
        self.pattern = re.compile(self.quoted + rb"\s*+:\s*+(\{(?:[^{}]++|\{[^{}]*+\})*+\})")
        self.view = msgspec.json.Decoder(view)
        self.reply = msgspec.json.Decoder(msgspec.defstruct("Reply", [(member, view | None, None)]))
        self.member = member
        self.read = read

    def find(self, body: bytes) -> Found:
        """The last usage object of a body."""
        tail = len(body) - TAIL_BYTES if len(body) > TAIL_BYTES else 0
        if body[-2:] == b"}}" and (start := body.rfind(self.opening, tail)) >= 0:
            # Most servers put it last, and decoding from there is faster than a pattern; anything else is not one whole
            # object.
            try:
                return self.read(self.view.decode(body[start + len(self.opening) - 1 : -1]))
            except NOT_JSON:
                pass
        try:
            start = body.rfind(self.quoted, tail)
            if start >= 0 and (hit := self.pattern.match(body, start)) is not None:
                return self.read(self.view.decode(hit.group(1)))
            # Some servers put usage first; decoding the whole reply is the rare, slower way.
            view = getattr(self.reply.decode(body), self.member)
        except NOT_JSON:
            return NOTHING
        return NOTHING if view is None else self.read(view)


def _plain(read: Callable[[Any], Usage | None]) -> Callable[[Any], Found]:
    return lambda view: (read(view), False)


def _embedded(view: counts.GeminiUsage) -> Found:
    return (counts.read_gemini_usage(view), False) if view.promptTokenCount is not None else NOTHING


_OPENAI = _Meter("usage", counts.ChatUsage, _plain(counts.read_input_usage))
_WRITTEN = _Meter("usage", counts.ChatUsage, lambda view: counts.read_written_usage(view) or NOTHING)
_META = _Meter("meta", Meta, _plain(read_meta))
_METERS = {
    "chat": _WRITTEN,
    "completions": _WRITTEN,
    "responses": _Meter("usage", counts.ResponsesUsage, _plain(counts.read_responses_usage)),
    "responses-compact": _Meter("usage", counts.ResponsesUsage, _plain(counts.read_responses_usage)),
    "anthropic": _Meter("usage", counts.AnthropicUsage, lambda view: counts.read_anthropic_usage(view) or NOTHING),
    "gemini": _Meter("usageMetadata", counts.GeminiUsage, _plain(counts.read_gemini_usage)),
    "gemini-embed": _Meter("usageMetadata", counts.GeminiUsage, _embedded),
    "gemini-batch-embed": _Meter("usageMetadata", counts.GeminiUsage, _embedded),
}


def metered(body: bytes, wire: str, upper: Usage, open_ended: bool = False, limited: bool = True) -> Found:
    """(usage, unsplit): the usage of a whole reply in disjoint classes; None if it is missing or impossible.

    `unsplit`: cache writes came without their lifetimes.
    """
    usage, unsplit = _METERS.get(wire, _OPENAI).find(body)
    if wire == "rerank" and _META.quoted in body:
        usage = _with_meta(usage, body)
    if usage is None or not is_possible(usage, upper, open_ended, limited):
        return NOTHING
    return usage, unsplit


def _with_meta(usage: Usage | None, body: bytes) -> Usage | None:
    """Add what only a rerank's `meta` tells: SiliconFlow's tokens, and Cohere's units behind another gateway."""
    try:
        # The documents of a whole answer may have such a member too.
        meta = getattr(_META.reply.decode(body), _META.member)
    except NOT_JSON:
        told = _META.find(body)[0]
    else:
        told = None if meta is None else read_meta(meta)
    if told is None or usage is None or not usage.input_total:
        return told or usage
    return msgspec.structs.replace(usage, searches=told.searches)


def is_possible(usage: Usage, upper: Usage, open_ended: bool = False, limited: bool = True) -> bool:
    """Whether a call of at most `upper` can have used this much. `open_ended`: part of its input is bounded only by
    constants. `limited` False: its output is bounded only by what is known of the model."""
    if usage.searches > upper.searches + SEARCHES_SLACK:
        return False
    if not upper.output_tokens:
        return usage.input_total <= upper.input_tokens
    return usage.input_total <= upper.input_tokens + (
        OPEN_SLACK_TOKENS if open_ended else INPUT_SLACK_TOKENS
    ) and usage.output_total <= upper.output_total + (OUTPUT_SLACK_TOKENS if limited else UNLIMITED_OUTPUT_TOKENS_MAX)


def is_blank(usage: Usage, upper: Usage) -> bool:
    """Whether the usage is all zero: if there was an answer, its upstream does not count."""
    if usage.input_tokens or usage.output_tokens or not upper.input_tokens:
        return False
    return not (usage.input_total or usage.output_total or usage.searches)


def is_believable(
    usage: Usage, upper: Usage, open_ended: bool = False, limited: bool = True, *, answered: bool
) -> bool:
    """Whether a call of at most `upper` can have used this much, given whether anything was `answered`."""
    return is_possible(usage, upper, open_ended, limited) and not (answered and is_blank(usage, upper))


def looks_like_json_object(body: bytes) -> bool:
    """Whether the body of a 200 can be an answer, by a cheap look at both ends: an HTML page or a truncated body
    cannot."""
    return body[:1] == b"{" and body[-1:] == b"}"


def is_json(body: bytes) -> bool:
    """As `looks_like_json_object`, by reading all of it."""
    try:
        _raw.decode(body)
    except NOT_JSON:
        return False
    return True


def with_client_model(
    body: bytes, client_model: str, member: str = "model", *, whole: bool = True, nested: bool = False
) -> bytes:
    """The reply with the client's name of the model in place of the upstream's, so that callers never see the mapping.

    Whatever the upstream's name, which may be a dated one, the first `model` member near either end is usually the
    model. `nested`: its tools may have such a member too, and only the beginning is certain. `whole` False: this is a
    part of a reply.
    """
    replacement = msgspec.json.encode(client_model)
    if member == "model":
        renamed, count = with_model_named(body[:TAIL_BYTES], member, replacement)
        if count:
            return renamed + body[TAIL_BYTES:]
    if not nested:
        cut = max(0, len(body) - TAIL_BYTES)
        renamed, count = with_model_named(body[cut:], member, replacement)
        if count or not whole:
            return body[:cut] + renamed
    if b'"%b"' % member.encode() not in body:
        return body
    try:
        span = string_member(body, member)
    except BadRequest:
        return body  # The member is there twice, with different values.
    return body if span is None else body[: span[0]] + replacement + body[span[1] :]
