"""What chooses the variant of a text call's price: the words its body asks with, and those its answer was served as.

OpenAI and Google name a service tier in both, Anthropic its speed and the place of inference (in the answer's usage).
An upstream may serve another tier than was asked for, so what is charged goes by the answer: where that names nothing,
the price without variant counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.types import Price

# The features that a variant may go by.
FEATURES = ("service_tier", "speed", "inference_geo")
WORD_CHARS_MAX = 64
_NAMED = re.compile(rb'"(?:service_?[tT]ier|speed|inference_geo)"')


class _Words(msgspec.Struct):
    """Members that may hold anything: only texts count."""

    service_tier: object = None
    serviceTier: object = None
    speed: object = None
    inference_geo: object = None


class _Answer(_Words):
    """A whole answer; Anthropic's and Google's words stand in its usage."""

    usage: _Words | None = None
    usageMetadata: _Words | None = None


class _Event(_Answer):
    """An event of a stream: OpenAI's responses and Anthropic's first event have the answer inside."""

    response: _Answer | None = None
    message: _Answer | None = None


_asked = msgspec.json.Decoder(_Words)
_event = msgspec.json.Decoder(_Event)


def features_of(price: Price) -> frozenset[str]:
    """The features that a text call's price goes by; none of most prices."""
    return frozenset(name for variant in price.variants for name in variant.when if name in FEATURES)


def asked_for(body: bytes, names: Collection[str]) -> dict[str, str]:
    """The words of these features that a request's body asks with."""
    try:
        return _words(_asked.decode(body), names)
    except NOT_JSON:
        return {}


def served_as(data: bytes, names: Collection[str]) -> dict[str, str]:
    """The words of these features in a whole answer or in one event of a stream, as the upstream sent it."""
    if _NAMED.search(data) is None:
        return {}
    try:
        event = _event.decode(data)
    except NOT_JSON:
        return {}
    found: dict[str, str] = {}
    for answer in (event, event.response, event.message):
        if answer is not None:
            for told in (answer, answer.usage, answer.usageMetadata):
                if told is not None:
                    found |= _words(told, names)
    return found


def _words(told: _Words, names: Collection[str]) -> dict[str, str]:
    tier = told.serviceTier if told.service_tier is None else told.service_tier
    words = zip(FEATURES, (tier, told.speed, told.inference_geo), strict=True)
    return {
        name: word.strip().lower()
        for name, word in words
        if name in names and isinstance(word, str) and len(word) <= WORD_CHARS_MAX
    }
