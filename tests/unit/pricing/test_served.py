"""The words that choose the variant of a text call's price: in bodies, headers and what a channel adds, bounded."""

from __future__ import annotations

import msgspec
import pytest

from elkapi.pricing.served import FEATURES, WORD_CHARS_MAX, asked_by, asked_for, asked_in, served_as, told_in, word_of
from elkapi.types import Channel

TIER = {"service_tier"}
VERTEX = b"x-vertex-ai-llm-shared-request-type"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"service_tier": " Flex ", "speed": "fast"}, {"service_tier": "flex"}),
        ({"serviceTier": "PRIORITY"}, {"service_tier": "priority"}),
        ({"service_tier": {"type": "reserved"}}, {"service_tier": "reserved"}),
        ({"service_tier": "auto"}, {}),
        ({"service_tier": "x" * WORD_CHARS_MAX}, {"service_tier": "x" * WORD_CHARS_MAX}),
        ({"service_tier": "x" * (WORD_CHARS_MAX + 1)}, {}),
        ({"service_tier": 1}, {}),
        ([], {}),
    ],
)
def test_a_body_tells_the_features_that_its_price_goes_by_and_no_other(body: object, words: dict[str, str]) -> None:
    assert asked_for(msgspec.json.encode(body), TIER) == words
    if isinstance(body, dict):
        assert served_as(msgspec.json.encode({"usage": body}), TIER) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b" Flex", {"service_tier": "flex"}),
        (b"x" * WORD_CHARS_MAX, {"service_tier": "x" * WORD_CHARS_MAX}),
        (b"x" * (WORD_CHARS_MAX + 1), {}),
        (b"x", {"service_tier": "x"}),
        (b"", {}),
    ],
)
def test_a_header_tells_a_tier_where_a_price_goes_by_one(value: bytes, words: dict[str, str]) -> None:
    assert asked_in({VERTEX: value}.get, TIER) == words
    assert told_in({b"x-gemini-service-tier": value}.get, TIER) == words
    assert asked_in({VERTEX: value}.get, {"speed"}) == told_in({VERTEX: value}.get, TIER) == {}


def test_what_a_channel_sets_stands_before_what_it_defaults_to_and_its_headers_before_both() -> None:
    both = {name: msgspec.Raw(b'"default"') for name in FEATURES}
    channel = Channel(1, "c", "openai", "http://x", (), ("m",), param_default=both)
    assert asked_by(channel, FEATURES) == dict.fromkeys(FEATURES, "default")
    channel = msgspec.structs.replace(channel, param_set={"speed": msgspec.Raw(b'"fast"')})
    channel = msgspec.structs.replace(channel, header_set={VERTEX.decode().title(): "priority"})
    assert asked_by(channel, FEATURES) == {"service_tier": "priority", "speed": "fast", "inference_geo": "default"}


def test_vertexs_word_for_what_is_paid_by_use_is_its_tier() -> None:
    assert [word_of(text) for text in ("ON_DEMAND_PRIORITY", "ON_DEMAND", " Flex")] == ["priority", "on_demand", "flex"]
