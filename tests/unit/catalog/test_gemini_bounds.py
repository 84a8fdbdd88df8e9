"""A Gemini call's limits bound it in either of Google's spellings, mixed as Google takes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.catalog.text import read_generate
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
