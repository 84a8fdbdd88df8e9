"""Usage objects <-> canonical classes: disjoint, summing to the total, never negative (guarantees 21, 23 to 26)."""

from __future__ import annotations

import msgspec
import pytest

from elkapi.translate import usage as u
from elkapi.types import Usage


def _chat(**members: object) -> Usage | None:
    return u.read_chat_usage(msgspec.convert(members, u.ChatUsage))


def _anthropic(**members: object) -> tuple[Usage, bool] | None:
    return u.read_anthropic_usage(msgspec.convert(members, u.AnthropicUsage))


def test_g25_image_tokens_inside_a_cache_hit_are_counted_once() -> None:
    usage = _chat(
        prompt_tokens=1000, completion_tokens=5, prompt_tokens_details={"cached_tokens": 900, "image_tokens": 850}
    )
    assert usage is not None
    assert usage.input_total == 1000
    assert usage.cached_tokens == 900
    assert usage.image_input_tokens + usage.input_tokens == 100


@pytest.mark.parametrize(
    "members",
    [
        {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}},
        {"prompt_tokens": -1},
        {"prompt_tokens": 5, "completion_tokens": -3},
        {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 9}},
    ],
)
def test_g23_usage_that_contradicts_itself_is_not_believed(members: dict[str, object]) -> None:
    assert _chat(**members) is None


def test_reasoning_beside_completion_tokens_is_recognised_by_the_total() -> None:
    beside = _chat(
        prompt_tokens=10, completion_tokens=4, total_tokens=20, completion_tokens_details={"reasoning_tokens": 6}
    )
    inside = _chat(
        prompt_tokens=10, completion_tokens=10, total_tokens=20, completion_tokens_details={"reasoning_tokens": 6}
    )
    assert beside == inside
    assert beside is not None
    assert (beside.output_tokens, beside.reasoning_tokens) == (4, 6)


@pytest.mark.parametrize("spelling", [{"prompt_cache_hit_tokens": 7}, {"cached_tokens": 7}])
def test_cached_tokens_are_read_in_every_providers_spelling(spelling: dict[str, int]) -> None:
    usage = _chat(prompt_tokens=10, completion_tokens=1, **spelling)
    assert usage is not None
    assert (usage.input_tokens, usage.cached_tokens) == (3, 7)


def test_g23_anthropic_cache_above_input_is_never_negative() -> None:
    found = _anthropic(input_tokens=3, cache_read_input_tokens=5000, output_tokens=2)
    assert found is not None
    assert (found[0].input_tokens, found[0].cached_tokens, found[0].input_total) == (3, 5000, 5003)


def test_g26_cache_writes_in_the_older_field_are_counted_and_marked() -> None:
    found = _anthropic(input_tokens=3, cache_creation_input_tokens=100, output_tokens=2)
    assert found == (Usage(input_tokens=3, cache_write_5m_tokens=100, output_tokens=2, calls=1), True)
    split = {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60}
    found = _anthropic(input_tokens=3, cache_creation_input_tokens=100, cache_creation=split, output_tokens=2)
    assert found is not None
    assert not found[1]
    assert (found[0].cache_write_5m_tokens, found[0].cache_write_1h_tokens) == (40, 60)


def test_a_compaction_is_added_to_totals_that_leave_it_out() -> None:
    rows = [
        {"type": "compaction", "input_tokens": 2000, "output_tokens": 70, "cache_read_input_tokens": 500},
        {"type": "message", "input_tokens": 300, "output_tokens": 40},
        {"type": "advisor_message", "model": "another", "input_tokens": 9, "output_tokens": 9},
    ]
    found = _anthropic(input_tokens=300, output_tokens=40, iterations=rows)
    assert found == (Usage(input_tokens=2300, cached_tokens=500, output_tokens=110, calls=1), False)
    assert _anthropic(input_tokens=3, output_tokens=2, iterations=[{"type": "compaction", "input_tokens": -1}]) is None


def test_gemini_thoughts_are_output_beside_the_candidates() -> None:
    view = u.GeminiUsage(promptTokenCount=10, toolUsePromptTokenCount=3, candidatesTokenCount=4, thoughtsTokenCount=6)
    assert u.read_gemini_usage(view) == Usage(input_tokens=13, output_tokens=4, reasoning_tokens=6, calls=1)


def test_cached_sound_is_not_charged_as_sound_where_gemini_says_what_was_cached() -> None:
    view = u.GeminiUsage(
        promptTokenCount=1000,
        cachedContentTokenCount=700,
        promptTokensDetails=[u._Modality("TEXT", 200), u._Modality("AUDIO", 800)],
        cacheTokensDetails=[u._Modality("AUDIO", 700)],
    )
    assert u.read_gemini_usage(view) == Usage(input_tokens=200, cached_tokens=700, audio_input_tokens=100, calls=1)


SAMPLE = Usage(input_tokens=10, cached_tokens=20, cache_write_5m_tokens=3, output_tokens=7, reasoning_tokens=5, calls=1)


def test_what_a_dialect_writes_it_reads_back_to_the_same_total() -> None:
    chat = u.read_chat_usage(msgspec.convert(u.chat_usage_object(SAMPLE), u.ChatUsage))
    responses = u.read_responses_usage(msgspec.convert(u.responses_usage_object(SAMPLE), u.ResponsesUsage))
    anthropic = u.read_anthropic_usage(msgspec.convert(u.anthropic_usage_object(SAMPLE), u.AnthropicUsage))
    assert chat == SAMPLE
    assert responses == SAMPLE
    assert anthropic == (SAMPLE, False)
    gemini = u.read_gemini_usage(msgspec.convert(u.gemini_usage_object(SAMPLE), u.GeminiUsage))
    assert gemini is not None
    assert (gemini.input_total, gemini.output_total) == (SAMPLE.input_total, SAMPLE.output_total)
