"""Usage is read where it can stand and believed only when it is possible."""

from __future__ import annotations

import msgspec
import pytest

from elkapi.pricing.meter import (
    is_believable,
    is_blank,
    is_possible,
    looks_like_json_object,
    metered,
    with_client_model,
)
from elkapi.types import Usage

UPPER = Usage(input_tokens=100, calls=1)
WRITES = Usage(input_tokens=100, output_tokens=10, calls=1)


def reply(usage: str) -> bytes:
    return b'{"object":"list","data":[{"embedding":[0.1,0.2]}],"model":"m","usage":' + usage.encode() + b"}"


def test_usage_at_the_tail_of_a_large_reply_is_found() -> None:
    body = b'{"data":[' + b"0.5," * 50_000 + b'0],"usage":{"prompt_tokens":8,"total_tokens":8}}'
    assert metered(body, "", UPPER)[0] == Usage(input_tokens=8, calls=1)


def test_usage_that_comes_first_is_found_too() -> None:
    body = b'{"usage":{"prompt_tokens":8,"total_tokens":8},"data":[' + b"0.5," * 5_000 + b"0]}"
    assert metered(body, "", UPPER)[0] == Usage(input_tokens=8, calls=1)


def test_usage_with_members_after_it_is_found_however_it_is_spaced() -> None:
    usage = b'"usage" : \n{"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 3}, "total_tokens": 8}'
    body = b'{"model":"m",' + usage + b',"service_tier":"default"}'
    assert metered(body, "", UPPER)[0] == Usage(input_tokens=5, cached_tokens=3, calls=1)


def test_an_object_that_never_closes_is_given_up_at_once() -> None:
    assert metered(b'{"usage":{' + b'"a":{"b":1},' * 170 + b"{", "", UPPER)[0] is None


def test_g23_cached_tokens_are_a_class_of_their_own_and_never_make_input_negative() -> None:
    inside = reply('{"prompt_tokens":10,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}')
    above = reply('{"prompt_tokens":10,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":40}}')
    assert metered(inside, "", UPPER)[0] == Usage(input_tokens=6, cached_tokens=4, calls=1)
    assert metered(above, "", UPPER)[0] is None


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens":-5}',
        '{"prompt_tokens":101}',
        '{"prompt_tokens":"8"}',
        '{"prompt_tokens":1.5}',
        "null",
        "{}",
        "[]",
    ],
)
def test_g21_impossible_usage_is_no_usage(usage: str) -> None:
    assert metered(reply(usage), "", UPPER)[0] is None


@pytest.mark.parametrize(
    ("usage", "upper", "possible"),
    [
        (Usage(input_tokens=100), UPPER, True),
        (Usage(input_tokens=60, cached_tokens=41), UPPER, False),
        # A provider may count words of its own before the caller's, and a little more than it was allowed.
        (Usage(input_tokens=100 + 8192, output_tokens=10 + 1024), WRITES, True),
        (Usage(input_tokens=101 + 8192), WRITES, False),
        (Usage(output_tokens=11 + 1024), WRITES, False),
        (Usage(output_tokens=5, reasoning_tokens=6 + 1024), WRITES, False),
        (Usage(searches=1000), UPPER, True),
        (Usage(searches=1001), UPPER, False),
    ],
)
def test_g21_a_usage_is_possible_up_to_the_most_of_its_call(usage: Usage, upper: Usage, possible: bool) -> None:
    assert is_possible(usage, upper) is possible
    assert is_believable(usage, upper, answered=True) is possible


def test_what_is_known_of_a_model_is_no_limit_of_what_it_may_write() -> None:
    """Its bound is a guess where the caller set no limit, and a thinking model often writes more."""
    upper, long = Usage(input_tokens=10, output_tokens=8192), Usage(input_tokens=5, reasoning_tokens=200_000)
    assert not is_possible(long, upper)
    assert is_possible(long, upper, limited=False)
    assert is_believable(long, upper, limited=False, answered=True)
    assert not is_possible(Usage(input_tokens=5, output_tokens=3_000_000), upper, limited=False)
    assert not is_possible(Usage(input_tokens=5, output_tokens=1), Usage(input_tokens=3), limited=False)


@pytest.mark.parametrize(
    ("usage", "upper", "blank"),
    [
        (Usage(calls=1), UPPER, True),
        (Usage(cached_tokens=1), UPPER, False),
        (Usage(reasoning_tokens=1), WRITES, False),
        (Usage(searches=1), UPPER, False),
        # A call that has no input, such as a search of nothing but its own, has none to tell of.
        (Usage(calls=1), Usage(searches=1, calls=1), False),
    ],
)
def test_g48_a_usage_of_nothing_beside_an_answer_is_missing(usage: Usage, upper: Usage, blank: bool) -> None:
    assert is_blank(usage, upper) is blank
    assert is_believable(usage, upper, answered=True) is not blank
    assert is_believable(usage, upper, answered=False)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ('{"total_tokens":9}', 9),
        ('{"prompt_tokens":null,"total_tokens":9}', 9),
        ('{"prompt_tokens":8,"total_tokens":9}', 8),
        ('{"total_tokens":-9}', None),
        ('{"total_tokens":101}', None),
        ('{"prompt_tokens":"8","total_tokens":9}', None),
    ],
)
def test_what_has_no_output_may_tell_its_total_alone(usage: str, tokens: int | None) -> None:
    """As the reranks of vLLM do, and other servers' vectors; an answer that was written has more to tell."""
    assert metered(reply(usage), "rerank", UPPER)[0] == (None if tokens is None else Usage(tokens, calls=1))
    assert metered(reply('{"total_tokens":9}'), "chat", WRITES)[0] is None
    assert metered(reply('{"completion_tokens":4,"total_tokens":9}'), "chat", WRITES)[0] is None


@pytest.mark.parametrize(
    ("members", "tokens", "searches"),
    [
        ({"meta": {"billed_units": {"input_tokens": 7, "search_units": 0}, "tokens": {"input_tokens": 7}}}, 7, 0),
        ({"meta": {"tokens": {"input_tokens": 7, "output_tokens": 0}}}, 7, 0),
        ({"usage": {"prompt_tokens": 0, "total_tokens": 0}, "meta": {"billed_units": {"search_units": 2}}}, 0, 2),
        ({"usage": {"prompt_tokens": 9, "total_tokens": 9}, "meta": {"billed_units": {"search_units": 2}}}, 9, 2),
        ({"usage": {"prompt_tokens": 9, "total_tokens": 9}, "meta": {"api_version": {"version": "1"}}}, 9, 0),
        ({"usage": {"prompt_tokens": 9, "total_tokens": 9}, "meta": None}, 9, 0),
        ({"meta": {"tokens": {"input_tokens": -7}}}, None, 0),
        ({"meta": {"tokens": {"input_tokens": 101}}}, None, 0),
        ({}, None, 0),
    ],
)
@pytest.mark.parametrize("meta_first", [True, False])
def test_g21_a_rerank_is_metered_by_what_its_meta_tells(
    members: dict[str, object], tokens: int | None, searches: int, meta_first: bool
) -> None:
    """SiliconFlow tells its tokens there, and Cohere's units come in it through another gateway."""
    document = {"text": "a", "meta": {"tokens": {"input_tokens": 1}}}
    results = {"results": [{"index": 0, "relevance_score": 0.5, "document": document}]}
    body = msgspec.json.encode(members | results if meta_first else results | members)
    told = None if tokens is None else Usage(input_tokens=tokens, searches=searches, calls=1)
    assert metered(body, "rerank", UPPER)[0] == told
    # The end of a long answer.
    if members.get("meta") and not meta_first:
        assert metered(body[1:], "rerank", UPPER)[0] == told


def test_a_reply_without_usage_has_none() -> None:
    assert metered(b'{"data":[]}', "", UPPER)[0] is None
    # One that tells one side alone has none either.
    assert metered(reply('{"input_tokens":3}'), "anthropic", WRITES)[0] is None


@pytest.mark.parametrize(
    ("body", "answer"),
    [(b'{"a":1}', True), (b"<html></html>", False), (b"", False), (b'{"a":[1,2', False), (b"[]", False)],
)
def test_only_a_whole_object_can_be_an_answer(body: bytes, answer: bool) -> None:
    assert looks_like_json_object(body) is answer


def test_the_client_sees_its_own_name_of_a_mapped_model_wherever_it_stands() -> None:
    for body in (
        b'{"model": "their-x","data":[%s]}' % (b"1," * 3000 + b"1"),
        b'{"data":[%s],"model":"their-x"}' % (b"1," * 3000 + b"1"),
        b'{"data":[%s],"model":"their-x","more":"%s"}' % (b"1," * 3000 + b"1", b"x" * 3000),
        # What stands deep inside a long reply is nothing of ours.
        b'{"data":[%s{"model":"m"}%s],"model":"their-x"}' % (b"1," * 3000, b",1" * 3000),
    ):
        renamed = with_client_model(body, "mine")
        assert b"their-x" not in renamed
        assert b'"mine"' in renamed
        assert len(renamed) == len(body) - len("their-x") + len("mine")


@pytest.mark.parametrize(
    ("before", "after"),
    [("i" * 5_000, "o" * 5_000), ("i\n" * 5_000, "o\n" * 5_000), ("", "o" * 5_000), ("i" * 5_000, "")],
)
def test_the_models_name_is_found_wherever_it_stands_and_no_other(before: str, after: str) -> None:
    tools = [{"type": "image_generation", "model": "gpt-image-1"}]
    reply = {"instructions": before, "model": "their-x", "output": after, "tools": tools}
    renamed = with_client_model(msgspec.json.encode(reply), "mine", nested=True)
    assert msgspec.json.decode(renamed) == reply | {"model": "mine"}


@pytest.mark.parametrize("before", ["", "i" * 5_000])
@pytest.mark.parametrize("after", ["", "o" * 5_000])
def test_what_a_function_of_geminis_is_asked_keeps_its_own_version(before: str, after: str) -> None:
    called = [{"text": before}, {"functionCall": {"name": "f", "args": {"modelVersion": "7"}}}, {"text": after}]
    reply = {"candidates": [{"content": {"parts": called}}], "modelVersion": "their-x", "responseId": "r"}
    renamed = with_client_model(msgspec.json.encode(reply), "mine", "modelVersion")
    assert msgspec.json.decode(renamed) == reply | {"modelVersion": "mine"}


def test_a_part_of_a_reply_is_renamed_at_its_ends() -> None:
    piece = b"x" * 5_000 + b'"}]}],"modelVersion":"their-x","responseId":"r"}'
    renamed = with_client_model(piece, "mine", "modelVersion", whole=False)
    assert renamed == piece.replace(b"their-x", b"mine")
