"""A whole reply's bytes -> `Usage`, reading only where usage can stand; what an upstream says is checked, not trusted.

A count that is negative, not an integer, contradicts itself or is above the call's possible maximum is no usage
(guarantee 21). How each dialect counts is `translate.usage`'s.
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
from elkapi.types import Usage

TAIL_BYTES = 2048
# A provider may put instructions of its own before the caller's (for tools, for a schema), and count them.
INPUT_SLACK_TOKENS = 8192
OUTPUT_SLACK_TOKENS = 1024
# What a bound by constants may be short of: tools and files together come to no more than a few whole contexts.
OPEN_SLACK_TOKENS = 2_000_000
# No call runs more searches beyond those that it is held for.
SEARCHES_SLACK = 1000

Found = tuple[Usage | None, bool]
_raw = msgspec.json.Decoder(msgspec.Raw)
NOTHING: Found = (None, False)


class _Meter:
    """How one wire reports usage: the member, its view, and the view's meaning."""

    def __init__(self, member: str, view: type[Any], read: Callable[[Any], Found]) -> None:
        self.quoted = b'"' + member.encode() + b'"'
        self.opening = self.quoted + b":{"
        # Runs are taken whole and never given back: a step a character took three times as long.
        self.pattern = re.compile(self.quoted + rb"\s*+:\s*+(\{(?:[^{}]++|\{[^{}]*+\})*+\})")
        self.view = msgspec.json.Decoder(view)
        self.reply = msgspec.json.Decoder(msgspec.defstruct("Reply", [(member, view | None, None)]))
        self.member = member
        self.read = read

    def find(self, body: bytes) -> Found:
        """The last usage object of a body."""
        tail = len(body) - TAIL_BYTES if len(body) > TAIL_BYTES else 0
        if body[-2:] == b"}}" and (start := body.rfind(self.opening, tail)) >= 0:
            # Most servers put it last, and a decoder is quicker than a pattern; anything else is not one whole object.
            try:
                return self.read(self.view.decode(body[start + len(self.opening) - 1 : -1]))
            except NOT_JSON:
                pass
        try:
            start = body.rfind(self.quoted, tail)
            if start >= 0 and (hit := self.pattern.match(body, start)) is not None:
                return self.read(self.view.decode(hit.group(1)))
            # Some servers put usage first; decoding the whole reply is the rare, slower way to find it.
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


def metered(body: bytes, wire: str, upper: Usage, open_ended: bool = False) -> Found:
    """(usage, unsplit): what a whole reply reports, in disjoint classes; None when it is missing or impossible.

    `unsplit`: cache writes came without their lifetimes.
    """
    usage, unsplit = _METERS.get(wire, _OPENAI).find(body)
    if usage is None or not is_possible(usage, upper, open_ended):
        return NOTHING
    return usage, unsplit


def is_possible(usage: Usage, upper: Usage, open_ended: bool = False) -> bool:
    """Whether a call of at most `upper` can have used this much. `open_ended`: constants bound a part of its input."""
    if usage.searches > upper.searches + SEARCHES_SLACK:
        return False
    if not upper.output_tokens:
        return usage.input_total <= upper.input_tokens
    return (
        usage.input_total <= upper.input_tokens + (OPEN_SLACK_TOKENS if open_ended else INPUT_SLACK_TOKENS)
        and usage.output_total <= upper.output_total + OUTPUT_SLACK_TOKENS
    )


def is_blank(usage: Usage, upper: Usage) -> bool:
    """Whether it says that a call used nothing: where there was an answer, its upstream does not count."""
    if usage.input_tokens or usage.output_tokens or not upper.input_tokens:
        return False
    return not (usage.input_total or usage.output_total or usage.searches)


def is_believable(usage: Usage, upper: Usage, open_ended: bool = False, *, answered: bool) -> bool:
    """Whether a call of at most `upper` can have used this much, given whether anything was `answered`."""
    return is_possible(usage, upper, open_ended) and not (answered and is_blank(usage, upper))


def looks_like_json_object(body: bytes) -> bool:
    """Whether a 200 can be an answer at all: an HTML page or a cut body is not (a cheap look at both ends)."""
    return body[:1] == b"{" and body[-1:] == b"}"


def is_json(body: bytes) -> bool:
    """The same by a look at all of it."""
    try:
        _raw.decode(body)
    except NOT_JSON:
        return False
    return True


def with_client_model(
    body: bytes, client_model: str, member: str = "model", *, whole: bool = True, nested: bool = False
) -> bytes:
    """The reply with the model's client name where the upstream wrote its own (callers never see the mapping).

    Whatever the upstream calls it, a dated name perhaps: mostly the first such member of the reply's two ends is the
    model. `nested`: its tools may have one too, and only its beginning is sure. `whole` False: it is a part of a reply.
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
        return body  # It stands there twice, and each says another.
    return body if span is None else body[: span[0]] + replacement + body[span[1] :]
