"""Token ids to text and back, against the published vocabularies."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.local import vocabulary
from elkapi.local.vocabulary import UnknownToken


@pytest.mark.parametrize("name", vocabulary.NAMES)
def test_what_the_encoder_wrote_decodes_to_the_same_text(name: str, golden: Any) -> None:
    encoder = vocabulary._encoder(name)
    for text in [*golden.texts, "naïve 你好 \U0001f600\u200d", "\t\n  x"]:
        ids = encoder.encode(text)
        assert vocabulary.decode(ids, name) == text
        assert vocabulary.count(text, name) == len(ids)


def test_known_ids_of_cl100k() -> None:
    assert vocabulary.decode([9906, 1917]) == "Hello world"
    assert vocabulary.decode([100257]) == "<|endoftext|>"


def test_half_a_character_is_replaced_as_tiktoken_does() -> None:
    smile = vocabulary._encoder("cl100k_base").encode("\U0001f600")
    assert len(smile) > 1
    assert vocabulary.decode(smile[:1]) == "\ufffd"


@pytest.mark.parametrize("token", [-1, 100256, 100261, 100277, 2**31, 2**64, 10**30])
def test_an_unknown_id_is_named_with_its_place(token: int) -> None:
    with pytest.raises(UnknownToken) as unknown:
        vocabulary.decode([0, token])
    assert unknown.value.token == token
    assert unknown.value.place == 1


def test_special_looking_text_counts_as_plain_text() -> None:
    assert vocabulary.count("<|endoftext|>", "cl100k_base") == 7
