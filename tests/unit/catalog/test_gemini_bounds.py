"""A Gemini call's limits bound it in either of Google's spellings, mixed as Google takes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.catalog.text import names_objects, read_generate
from elkapi.errors import BadRequest


def _body(**members: Any) -> bytes:
    return msgspec.json.encode({"contents": [{"parts": [{"text": "x"}]}], **members})


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("limit", ["maxOutputTokens", "max_output_tokens"])
@pytest.mark.parametrize("count", ["candidateCount", "candidate_count"])
def test_limit_and_candidates_are_read_in_every_mixture_of_spellings(config: str, limit: str, count: str) -> None:
    facts = read_generate(_body(**{config: {limit: 500, count: 8}}))
    assert (facts.output_limit, facts.choices, facts.upper.output_tokens) == (500, 8, 4000)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"generationConfig": {}, "generation_config": {"candidateCount": 8}}, "generationConfig"),
        ({"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9000}}, "maxOutputTokens"),
        ({"generation_config": {"candidate_count": 8, "candidateCount": 1}}, "candidateCount"),
    ],
)
def test_what_is_given_in_both_spellings_is_refused(members: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_generate(_body(**members))
    assert (refused.value.param, refused.value.code) == ("generationConfig", "duplicate_field")
    assert named in refused.value.message


def test_a_tier_in_both_spellings_is_refused_unless_one_says_nothing() -> None:
    """The price goes by one of them, and Google might go by the other."""
    with pytest.raises(BadRequest, match="`serviceTier` is set in both") as refused:
        read_generate(_body(service_tier="flex", serviceTier="priority"))
    assert (refused.value.param, refused.value.code) == ("serviceTier", "duplicate_field")
    read_generate(_body(service_tier=None, serviceTier="priority"))


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize(
    ("inside", "right"),
    [
        (b'"maxOutputTokens":1,"MaxOutputTokens":9000', "maxOutputTokens"),
        (b'"RoutingConfig":{"autoMode":{}}', "routingConfig"),
        (b'"max_output_tokens":1,"MAX_OUTPUT_TOKENS":9000', "max_output_tokens"),
        ('"maxOutputTo\u212aens":9000'.encode(), "maxOutputTokens"),
        (b'"maxOutputToken\\u017F":9000', "maxOutputTokens"),
        (b'"\\u004daxOutputTokens":9000', "maxOutputTokens"),
        (b'"candidatecount":8', "candidateCount"),
        (b'"temperature":1,"Candidate_Count":8', "candidate_count"),
    ],
)
def test_a_limit_in_other_letters_is_refused_and_named(config: str, inside: bytes, right: str) -> None:
    with pytest.raises(BadRequest, match=f"must be spelled `{right}`"):
        read_generate(b'{"contents":[{}],"%b":{%b}}' % (config.encode(), inside))


@pytest.mark.parametrize("name", ["GenerationConfig", "generationconfig", "Generation_config", "GENERATION_CONFIG"])
def test_a_config_in_other_letters_is_refused_and_named(name: str) -> None:
    with pytest.raises(BadRequest, match="must be spelled") as refused:
        read_generate(_body(generationConfig={"maxOutputTokens": 1}, **{name: {"maxOutputTokens": 9000}}))
    assert refused.value.param == name


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("name", ["maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count"])
def test_a_limit_that_stands_twice_is_refused(config: str, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_generate(b'{"contents":[{}],"%b":{"%b":9,"%b":1}}' % (config.encode(), name.encode(), name.encode()))
    assert (refused.value.param, refused.value.code) == (name, "duplicate_field")


def test_what_only_looks_like_a_limit_passes() -> None:
    inside = {"type": "object", "properties": {"MaxOutputTokens": {}, "maxOutputTokens": {}, "GenerationConfig": {}}}
    tools = [{"functionDeclarations": [{"name": "f", "parameters": inside}]}]
    text = [{"parts": [{"text": 'write "MaxOutputTokens": 5'}]}]
    facts = read_generate(_body(generationConfig={"maxOutputTokens": 5}, tools=tools, systemInstruction=text[0]))
    assert (facts.output_limit, facts.choices) == (5, 1)


@pytest.mark.parametrize("member", ["routingConfig", "routing_config"])
def test_a_call_that_has_its_model_chosen_elsewhere_names_other_models(member: str) -> None:
    """Vertex AI goes by it and not by the model of the path, whose price the call has."""
    routed = {member: {"manualMode": {"modelName": "gemini-3-pro"}}}
    assert read_generate(_body(generationConfig=routed)).other_models
    other = {"routingConfig", "routing_config"} - {member}
    assert read_generate(_body(generationConfig=dict.fromkeys(other) | routed)).other_models
    assert not read_generate(_body(generationConfig={member: None})).other_models
    assert not read_generate(_body(generationConfig={})).other_models


@pytest.mark.parametrize(
    "place",
    [
        {"outputUriPrefix": "gs://bucket/made/"},
        {"output_uri_prefix": "GS://bucket/made/"},
        {"responseFormat": [{"video": {"delivery": "URI", "gcsUri": "gs://bucket/a.mp4"}}]},
    ],
)
def test_a_place_of_google_storage_to_write_to_is_an_object_of_the_accounts(place: dict[str, Any]) -> None:
    assert names_objects(_body(generationConfig=place))
