"""What selects the variant of a text call's price: the words it is asked with, and those its answer was served as.

OpenAI, Google and AWS name a service tier in both, Anthropic its speed and the place of inference (in the answer's
usage). An upstream may serve another tier than the requested one, so the answer decides the charge: if a whole answer
names none, the price without variant applies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.types import Channel, Price

# The features that a variant may depend on.
FEATURES = ("service_tier", "speed", "inference_geo")
WORD_CHARS_MAX = 64
_NAMED = re.compile(rb'"(?:service_?[tT]ier|trafficType|speed|inference_geo)"')
# Headers that request a tier outside the body (Vertex AI's, Bedrock's), and headers that report it (Bedrock's,
# Gemini's).
_ASKING = (b"x-vertex-ai-llm-shared-request-type", b"x-amzn-bedrock-service-tier")
_TELLING = (b"x-amzn-bedrock-service-tier", b"x-gemini-service-tier")
# Leaves the tier to the upstream, which repeats it until it has chosen one: not a word for how a call is served.
NOT_CHOSEN = "auto"
# Prefix of Vertex AI's words for pay-as-you-go; the tier follows.
_BY_USE = "on_demand_"


class _Words(msgspec.Struct):
    """Members of any type: only strings count, and Bedrock's string inside an object."""

    service_tier: object = None
    serviceTier: object = None
    trafficType: object = None
    speed: object = None
    inference_geo: object = None


class _Answer(_Words):
    """A whole answer; Anthropic's and Google's words are in its usage."""

    usage: _Words | None = None
    usageMetadata: _Words | None = None


class _Event(_Answer):
    """A stream event; OpenAI's responses and Anthropic's first event contain the answer."""

    response: _Answer | None = None
    message: _Answer | None = None


_asked = msgspec.json.Decoder(_Words)
_event = msgspec.json.Decoder(_Event)


def features_of(price: Price) -> frozenset[str]:
    """The features that a text call's price depends on; none for most prices."""
    return frozenset(name for variant in price.variants for name in variant.when if name in FEATURES)


def asked_for(body: bytes, names: Collection[str]) -> dict[str, str]:
    """The words of these features in a request's body."""
    try:
        return _words(_asked.decode(body), names)
    except NOT_JSON:
        return {}


def asked_by(channel: Channel, names: Collection[str]) -> dict[str, str]:
    """The words of these features that a channel adds to every call, or to calls without them."""
    members = channel.param_default | channel.param_set
    asked = asked_for(msgspec.json.encode(members), names) if members else {}
    headers = {name.lower().encode(): word.encode() for name, word in channel.header_set.items()}
    return asked | asked_in(headers.get, names)


def asked_in(header: Callable[[bytes], bytes | None], names: Collection[str]) -> dict[str, str]:
    """The words of these features in a call's headers, which are keyed by lower-case name."""
    return _headed(header, names, _ASKING)


def told_in(header: Callable[[bytes], bytes | None], names: Collection[str]) -> dict[str, str]:
    """The words of these features in an answer's headers, which are keyed by lower-case name."""
    return _headed(header, names, _TELLING)


def _headed(header: Callable[[bytes], bytes | None], names: Collection[str], of: tuple[bytes, ...]) -> dict[str, str]:
    if "service_tier" not in names:
        return {}
    word = next((word for name in of if (word := header(name)) is not None), b"")
    return {"service_tier": word.decode("latin-1").strip().lower()} if 0 < len(word) <= WORD_CHARS_MAX else {}


def together(asked: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Every word that a call may be asked with, by feature."""
    words: dict[str, tuple[str, ...]] = {}
    for one in asked:
        for name, word in one.items():
            words[name] = (*words.get(name, ()), word)
    return words


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


def word_of(text: str) -> str:
    """A word as variants name it: in lower case, and Vertex AI's without its pay-as-you-go prefix."""
    return text.strip().lower().removeprefix(_BY_USE)


def _words(told: _Words, names: Collection[str]) -> dict[str, str]:
    tier = next((one for one in (told.service_tier, told.serviceTier, told.trafficType) if one is not None), None)
    if isinstance(tier, dict):
        tier = tier.get("type")
    words = zip(FEATURES, (tier, told.speed, told.inference_geo), strict=True)
    found = {
        name: word_of(word)
        for name, word in words
        if name in names and isinstance(word, str) and len(word) <= WORD_CHARS_MAX
    }
    if found.get("service_tier") == NOT_CHOSEN:
        del found["service_tier"]
    return found
