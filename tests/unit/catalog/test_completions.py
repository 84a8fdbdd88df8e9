"""What is read of a legacy completion before it is relayed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.catalog.text import read_completion
from elkapi.errors import BadRequest


def _body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "h\u00e9y", **members}).encode()


@pytest.mark.parametrize(
    ("members", "output_tokens"),
    [
        ({}, 16),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 5, "n": 2, "best_of": 3}, 15),
        ({"prompt": ["a", "b"], "max_tokens": 5, "n": 2}, 20),
        ({"prompt": [1, 2, 3]}, 16),
        ({"prompt": [[1], [2, 3]], "max_tokens": 1}, 2),
    ],
)
def test_the_most_a_relayed_completion_can_come_to(members: dict[str, Any], output_tokens: int) -> None:
    body = _body(**members)
    upper = read_completion(body).upper
    assert upper.output_tokens == output_tokens
    assert upper.input_tokens >= len(body)


def test_stream_and_usage_are_read_as_the_caller_said() -> None:
    facts = read_completion(_body(stream=True, stream_options={"include_usage": True}))
    assert (facts.model, facts.stream, facts.include_usage) == ("m", True, True)
    assert read_completion(_body(stream=True)).include_usage is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m"}', "prompt"),
        (_body(prompt=[]), "prompt"),
        (_body(prompt=""), "prompt"),
        (_body(prompt=[{}]), "prompt"),
        (_body(prompt=[True]), "prompt"),
        (_body(model=""), "model"),
        (_body(n=0), "n"),
        (_body(Model="x"), "Model"),
        (_body(Prompt="x"), "Prompt"),
        (b"[]", None),
        (b"{", None),
    ],
)
def test_what_is_wrong_with_a_completion_is_named(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        read_completion(body)
    assert refused.value.param == param
