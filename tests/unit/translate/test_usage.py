"""Usage objects <-> canonical classes: disjoint, summing to the total, never negative (guarantees 21, 23 to 26)."""

from __future__ import annotations

from typing import Any

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
        {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 3}},
        {"prompt_tokens": -1},
        {"prompt_tokens": -1, "prompt_tokens_details": {}},
        {"prompt_tokens": 5, "completion_tokens": -3},
        {"prompt_tokens": 5, "completion_tokens": -3, "completion_tokens_details": {}},
        {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 9}},
        {
            "prompt_tokens": 5,
            "completion_tokens": 9,
            "completion_tokens_details": {"audio_tokens": 5, "image_tokens": 5},
        },
        *(
            {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {name: -1}}
            for name in (
                "cached_tokens",
                "cache_write_tokens",
                "cache_creation_input_tokens",
                "cache_creation_tokens",
                "audio_tokens",
                "image_tokens",
            )
        ),
        {
            "prompt_tokens": 5,
            "prompt_tokens_details": {
                "cache_creation_tokens": 2,
                "cache_creation_token_details": {"ephemeral_1h_input_tokens": 3},
            },
        },
        {"prompt_tokens": 5, "num_cached_tokens": 6},
        *(
            {"prompt_tokens": 5, "completion_tokens": 5, "completion_tokens_details": {name: -1}}
            for name in ("reasoning_tokens", "audio_tokens", "image_tokens")
        ),
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


def test_every_class_of_a_chat_usage_is_counted_once_and_apart() -> None:
    usage = _chat(
        prompt_tokens=1000,
        completion_tokens=500,
        prompt_tokens_details={
            "cached_tokens": 100,
            "cache_write_tokens": 200,
            "audio_tokens": 30,
            "image_tokens": 40,
        },
        completion_tokens_details={"reasoning_tokens": 50, "audio_tokens": 60, "image_tokens": 70},
    )
    assert usage == Usage(
        input_tokens=630,
        cached_tokens=100,
        cache_write_5m_tokens=200,
        audio_input_tokens=30,
        image_input_tokens=40,
        output_tokens=320,
        reasoning_tokens=50,
        audio_output_tokens=60,
        image_output_tokens=70,
        calls=1,
    )
    assert (usage.input_total, usage.output_total) == (1000, 500)


def test_sound_and_pictures_are_never_more_than_what_the_cache_left() -> None:
    usage = _chat(prompt_tokens=10, completion_tokens=1, prompt_tokens_details={"audio_tokens": 3, "image_tokens": 9})
    assert usage == Usage(audio_input_tokens=3, image_input_tokens=7, output_tokens=1, calls=1)


def test_a_prompt_that_was_cached_whole_and_an_answer_of_nothing_but_reasoning_are_believed() -> None:
    usage = _chat(
        prompt_tokens=10,
        completion_tokens=4,
        total_tokens=14,
        prompt_tokens_details={"cached_tokens": 10},
        completion_tokens_details={"reasoning_tokens": 4},
    )
    assert usage == Usage(cached_tokens=10, reasoning_tokens=4, calls=1)


def test_members_that_are_null_count_nothing() -> None:
    nothing = {"cached_tokens": None, "audio_tokens": None, "image_tokens": None, "cache_write_tokens": None}
    none_out = {"reasoning_tokens": None, "audio_tokens": None, "image_tokens": None}
    plain = Usage(input_tokens=10, output_tokens=4, calls=1)
    assert _chat(prompt_tokens=10, completion_tokens=4) == plain
    assert (
        _chat(prompt_tokens=10, completion_tokens=4, prompt_tokens_details=nothing, completion_tokens_details=none_out)
        == plain
    )
    responses = {"input_tokens": 10, "output_tokens": 4}
    assert u.read_responses_usage(msgspec.convert(responses, u.ResponsesUsage)) == plain
    details = {"input_tokens_details": nothing, "output_tokens_details": none_out}
    assert u.read_responses_usage(msgspec.convert(responses | details, u.ResponsesUsage)) == plain


@pytest.mark.parametrize(
    ("more", "reasoning"),
    [
        # What Google's compatible endpoint sends for 93 tokens of thinking: no details at all.
        ({"total_tokens": 105}, 93),
        ({"total_tokens": 105, "prompt_tokens_details": {"cached_tokens": 4}}, 93),
        ({"total_tokens": 12}, 0),
        ({"total_tokens": 11}, 0),
        ({"total_tokens": 105, "completion_tokens_details": {"reasoning_tokens": 2}}, 2),
        ({"total_tokens": 16, "prompt_tokens_details": {"cached_tokens": 4}}, 0),
        ({"total_tokens": 16, "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1}}, 0),
        ({"total_tokens": 105, "prompt_audio_seconds": 7}, 0),
    ],
)
def test_thinking_that_only_the_total_contains_is_counted_unless_it_may_be_input(
    more: dict[str, Any], reasoning: int
) -> None:
    view = msgspec.convert({"prompt_tokens": 9, "completion_tokens": 3, **more}, u.ChatUsage)
    found = u.read_written_usage(view)
    assert found is not None
    assert (found[0].input_total, found[0].reasoning_tokens) == (9, reasoning)
    assert found[0].output_total == (3 if more.get("completion_tokens_details") else 3 + reasoning)


@pytest.mark.parametrize(
    ("members", "cached", "write_5m", "write_1h", "unsplit"),
    [
        # Alibaba's explicit cache, which lives for five minutes.
        (
            {
                "prompt_tokens_details": {
                    "cached_tokens": 30,
                    "cache_creation_input_tokens": 50,
                    "cache_creation": {"ephemeral_5m_input_tokens": 50},
                    "cache_type": "ephemeral",
                }
            },
            30,
            50,
            0,
            True,
        ),
        # LiteLLM's, before it took over OpenAI's name too, and with it.
        ({"prompt_tokens_details": {"cached_tokens": 30, "cache_creation_tokens": 50}}, 30, 50, 0, True),
        (
            {
                "prompt_tokens_details": {
                    "cache_write_tokens": 50,
                    "cache_creation_tokens": 50,
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 40},
                }
            },
            0,
            10,
            40,
            False,
        ),
        # Mistral's three places for what its cache had.
        ({"num_cached_tokens": 60}, 60, 0, 0, False),
        ({"prompt_token_details": {"cached_tokens": 60}}, 60, 0, 0, False),
        ({"num_cached_tokens": 60, "prompt_tokens_details": {"cached_tokens": 60}}, 60, 0, 0, False),
    ],
)
def test_what_the_cache_had_and_took_is_read_by_each_providers_name(
    members: dict[str, Any], cached: int, write_5m: int, write_1h: int, unsplit: bool
) -> None:
    given = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}
    found = u.read_written_usage(msgspec.convert(given | members, u.ChatUsage))
    plain = 100 - cached - write_5m - write_1h
    assert found == (
        Usage(
            input_tokens=plain,
            cached_tokens=cached,
            cache_write_5m_tokens=write_5m,
            cache_write_1h_tokens=write_1h,
            output_tokens=3,
            calls=1,
        ),
        unsplit,
    )


def test_an_embedding_has_no_completion_to_tell_and_a_written_answer_has() -> None:
    view = msgspec.convert({"prompt_tokens": 0}, u.ChatUsage)
    assert u.read_chat_usage(view) == Usage(calls=1)
    assert u.read_written_usage(view) is None
    written = msgspec.convert({"prompt_tokens": 0, "completion_tokens": 0}, u.ChatUsage)
    assert u.read_written_usage(written) == (Usage(calls=1), False)


@pytest.mark.parametrize("members", [{}, {"input_tokens": 3}, {"output_tokens": 3}])
def test_g23_an_anthropic_usage_that_leaves_a_side_out_is_not_believed(members: dict[str, int]) -> None:
    assert _anthropic(**members) is None


@pytest.mark.parametrize(
    "members",
    [
        {"input_tokens": -1},
        {"cache_read_input_tokens": -1},
        {"cache_creation_input_tokens": -1},
        {"cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": -1}},
        {"cache_creation": {"ephemeral_1h_input_tokens": -1, "ephemeral_5m_input_tokens": 1}},
        {
            "cache_creation_input_tokens": 5,
            "cache_creation": {"ephemeral_1h_input_tokens": 9, "ephemeral_5m_input_tokens": -5},
        },
        {"output_tokens_details": {"thinking_tokens": -1}},
        {"output_tokens_details": {"thinking_tokens": 3}},
        {"server_tool_use": {"web_search_requests": -1}},
    ],
)
def test_g23_an_anthropic_usage_that_contradicts_itself_is_not_believed(members: dict[str, object]) -> None:
    assert _anthropic(**{"input_tokens": 3, "output_tokens": 2} | members) is None


def test_every_class_of_an_anthropic_usage_is_counted_once_and_apart() -> None:
    found = _anthropic(
        input_tokens=3,
        output_tokens=9,
        cache_read_input_tokens=5,
        cache_creation_input_tokens=100,
        cache_creation={"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 60},
        output_tokens_details={"thinking_tokens": 9},
        server_tool_use={"web_search_requests": 2},
    )
    assert found == (
        Usage(
            input_tokens=3,
            cached_tokens=5,
            cache_write_5m_tokens=40,
            cache_write_1h_tokens=60,
            reasoning_tokens=9,
            searches=2,
            calls=1,
        ),
        True,
    )


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
    bad, good = {"type": "compaction", "input_tokens": -1}, {"type": "compaction", "input_tokens": 1}
    assert _anthropic(input_tokens=3, output_tokens=2, iterations=[bad]) is None
    assert _anthropic(input_tokens=3, output_tokens=2, iterations=[bad, good]) is None
    assert _anthropic(input_tokens=-3, output_tokens=2, iterations=[good]) is None


def test_every_class_of_a_compaction_is_added_and_a_write_without_its_lifetime_marks_the_whole() -> None:
    unsplit = {"type": "compaction", "cache_creation_input_tokens": 7}
    split = {
        "type": "compaction",
        "cache_creation_input_tokens": 12,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 8},
    }
    found = _anthropic(input_tokens=3, output_tokens=2, iterations=[unsplit])
    assert found == (Usage(input_tokens=3, cache_write_5m_tokens=7, output_tokens=2, calls=1), True)
    found = _anthropic(input_tokens=3, output_tokens=2, iterations=[split])
    both = Usage(input_tokens=3, cache_write_5m_tokens=4, cache_write_1h_tokens=8, output_tokens=2, calls=1)
    assert found == (both, False)
    found = _anthropic(input_tokens=3, output_tokens=2, cache_creation_input_tokens=1, iterations=[split])
    assert found is not None
    assert (found[0].cache_write_5m_tokens, found[1]) == (5, True)


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
    assert u.read_gemini_usage(view) == Usage(
        input_tokens=200, cached_audio_tokens=700, audio_input_tokens=100, calls=1
    )


def test_every_class_of_a_gemini_usage_is_counted_once_and_apart() -> None:
    view = u.GeminiUsage(
        promptTokenCount=100,
        cachedContentTokenCount=10,
        candidatesTokenCount=50,
        thoughtsTokenCount=5,
        promptTokensDetails=[u._Modality("TEXT", 60), u._Modality("AUDIO", 15), u._Modality("IMAGE", 25)],
        cacheTokensDetails=[u._Modality("TEXT", 10), u._Modality("AUDIO", 20), u._Modality("IMAGE", -1)],
        candidatesTokensDetails=[u._Modality("AUDIO", 7), u._Modality("IMAGE", 8)],
    )
    assert u.read_gemini_usage(view) == Usage(
        input_tokens=65,
        cached_audio_tokens=10,
        image_input_tokens=25,
        output_tokens=35,
        reasoning_tokens=5,
        audio_output_tokens=7,
        image_output_tokens=8,
        calls=1,
    )


def test_a_gemini_usage_that_leaves_the_prompt_out_is_not_believed_and_what_else_it_leaves_out_is_zero() -> None:
    assert u.read_gemini_usage(u.GeminiUsage(candidatesTokenCount=5)) is None
    assert u.read_gemini_usage(u.GeminiUsage(promptTokenCount=5)) == Usage(input_tokens=5, calls=1)


def test_what_gemini_wrote_is_in_its_total_where_it_does_not_say_it() -> None:
    def read(**counts: Any) -> Usage | None:
        return u.read_gemini_usage(u.GeminiUsage(promptTokenCount=5, **counts))

    assert read(totalTokenCount=9) == Usage(input_tokens=5, output_tokens=4, calls=1)
    thought = read(toolUsePromptTokenCount=2, thoughtsTokenCount=3, totalTokenCount=14)
    assert thought == Usage(input_tokens=7, output_tokens=4, reasoning_tokens=3, calls=1)
    # Zeros are left out, and a total that cannot be one is not believed.
    assert read(thoughtsTokenCount=3, totalTokenCount=8) == Usage(input_tokens=5, reasoning_tokens=3, calls=1)
    assert read(thoughtsTokenCount=3, totalTokenCount=1) == Usage(input_tokens=5, reasoning_tokens=3, calls=1)
    assert read(candidatesTokenCount=0, totalTokenCount=9) == Usage(input_tokens=5, calls=1)


FULL = Usage(
    input_tokens=1,
    cached_tokens=20,
    cached_audio_tokens=7_000_000,
    cache_write_5m_tokens=300,
    cache_write_1h_tokens=4000,
    audio_input_tokens=50_000,
    image_input_tokens=600_000,
    output_tokens=2,
    reasoning_tokens=30,
    audio_output_tokens=400,
    image_output_tokens=5000,
    searches=3,
    calls=1,
)


def test_every_class_of_a_usage_is_told_in_each_dialects_words() -> None:
    assert u.chat_usage_object(FULL) == {
        "prompt_tokens": 7_654_321,
        "completion_tokens": 5432,
        "total_tokens": 7_659_753,
        "prompt_tokens_details": {
            "cached_tokens": 7_000_020,
            "audio_tokens": 50_000,
            "cache_write_tokens": 4300,
            "image_tokens": 600_000,
        },
        "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 400, "image_tokens": 5000},
    }
    assert u.responses_usage_object(FULL) == {
        "input_tokens": 7_654_321,
        "input_tokens_details": {"cached_tokens": 7_000_020, "cache_write_tokens": 4300},
        "output_tokens": 5432,
        "output_tokens_details": {"reasoning_tokens": 30},
        "total_tokens": 7_659_753,
    }
    assert u.anthropic_usage_object(FULL) == {
        "input_tokens": 650_001,
        "cache_creation_input_tokens": 4300,
        "cache_read_input_tokens": 7_000_020,
        "output_tokens": 5432,
        "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 4000},
        "output_tokens_details": {"thinking_tokens": 30},
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 0},
    }
    assert u.gemini_usage_object(FULL) == {
        "promptTokenCount": 7_654_321,
        "candidatesTokenCount": 5402,
        "totalTokenCount": 7_659_753,
        "cachedContentTokenCount": 7_000_020,
        "thoughtsTokenCount": 30,
    }


def test_classes_that_are_zero_are_left_out_where_a_dialect_leaves_them_out() -> None:
    plain = Usage(input_tokens=3, output_tokens=2, calls=1)
    assert u.chat_usage_object(plain) == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    assert u.anthropic_usage_object(plain) == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 2,
    }
    assert u.gemini_usage_object(plain) == {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}


@pytest.mark.parametrize("lifetime", ["cache_write_5m_tokens", "cache_write_1h_tokens"])
def test_anthropic_is_told_the_lifetime_of_every_cache_write(lifetime: str) -> None:
    told = u.anthropic_usage_object(Usage(input_tokens=3, output_tokens=2, calls=1, **{lifetime: 4}))
    assert told["cache_creation"] == {
        "ephemeral_5m_input_tokens": 4 if lifetime == "cache_write_5m_tokens" else 0,
        "ephemeral_1h_input_tokens": 4 if lifetime == "cache_write_1h_tokens" else 0,
    }


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


@pytest.mark.parametrize(
    ("lives", "unsplit", "long"),
    [
        ({"ttl_30m_tokens": 100, "ttl_12h_tokens": 700}, False, 700),
        ({"ttl_30m_tokens": 800}, False, 0),
        ({"ttl_12h_tokens": 0}, False, 0),
        ({"image_tokens": 1}, True, 0),
        ({}, True, 0),
        (None, True, 0),
    ],
)
def test_cache_writes_that_tell_how_long_they_live_are_split(lives: Any, unsplit: bool, long: int) -> None:
    """They were charged at the dearest class, as if nobody had told."""
    details = {"cache_write_tokens": 800, "cache_write_tokens_details": lives}
    view = msgspec.convert(
        {"prompt_tokens": 1000, "completion_tokens": 5, "prompt_tokens_details": details}, u.ChatUsage
    )
    found = u.read_written_usage(view)
    assert found is not None
    assert (found[0].cache_write_5m_tokens, found[0].cache_write_1h_tokens, found[1]) == (800 - long, long, unsplit)


@pytest.mark.parametrize(("total", "input_tokens"), [(0, 0), (7, 7), (-1, None)])
def test_a_rerank_that_tells_its_total_alone_is_paid_by_it(total: int, input_tokens: int | None) -> None:
    usage = u.read_input_usage(u.ChatUsage(total_tokens=total))
    assert usage == (None if input_tokens is None else Usage(input_tokens=input_tokens, calls=1))


@pytest.mark.parametrize(("web", "x", "searches"), [(2, 3, 5), (2, None, 2), (None, 3, 3), (None, None, 0)])
def test_xais_searches_of_the_web_and_of_x_cost_alike(web: int | None, x: int | None, searches: int) -> None:
    assert u.XaiTools(web_search_calls=web, x_search_calls=x).searches == searches


@pytest.mark.parametrize(("web", "x", "searches"), [(2, 3, 5), (None, None, 0), (-1, 0, None)])
def test_xais_searches_are_counted_in_a_chat_too(web: int | None, x: int | None, searches: int | None) -> None:
    used = {"server_side_tool_usage_details": {"web_search_calls": web, "x_search_calls": x}}
    found = u.read_written_usage(msgspec.convert({"prompt_tokens": 9, "completion_tokens": 5} | used, u.ChatUsage))
    assert (None if found is None else found[0].searches) == searches


def test_what_perplexitys_research_read_and_thought_stands_beside_its_totals() -> None:
    totals = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}

    def read(**more: object) -> Usage | None:
        found = u.read_written_usage(msgspec.convert({**totals, **more}, u.ChatUsage))
        return None if found is None else found[0]

    assert read(citation_tokens=7, reasoning_tokens=4) == Usage(
        input_tokens=17, output_tokens=5, reasoning_tokens=4, calls=1
    )
    assert read(citation_tokens=0) == Usage(input_tokens=10, output_tokens=5, calls=1)
    inside = read(citation_tokens=7, reasoning_tokens=4, completion_tokens_details={"reasoning_tokens": 2})
    assert inside == Usage(input_tokens=17, output_tokens=3, reasoning_tokens=2, calls=1)
    assert read(citation_tokens=-1, reasoning_tokens=4) is read(citation_tokens=1, reasoning_tokens=-4) is None


def test_pictures_that_a_tool_made_are_counted_as_pictures_where_that_can_be() -> None:
    said = Usage(input_tokens=5, cached_tokens=1, output_tokens=6, calls=1)

    def made(**told: int) -> Usage | None:
        return u.with_pictures_made(said, u.ImageGenUsage(**told))

    assert made(input_tokens=9, output_tokens=20, cached_tokens=4) == Usage(
        input_tokens=5, cached_tokens=5, image_input_tokens=5, output_tokens=6, image_output_tokens=20, calls=1
    )
    assert made(input_tokens=4, output_tokens=0, cached_tokens=4) == Usage(
        input_tokens=5, cached_tokens=5, output_tokens=6, calls=1
    )
    for wrong in ((3, 20, 4), (9, -1, 4), (9, 20, -4), (-9, 20, 0)):
        assert made(**dict(zip(("input_tokens", "output_tokens", "cached_tokens"), wrong, strict=True))) is None


@pytest.mark.parametrize(("heard", "rest"), [(3, 4), (7, 0), (9, 0)])
def test_cached_sound_is_apart_from_what_else_was_cached_and_never_more(heard: int, rest: int) -> None:
    rows = [{"modality": "AUDIO", "tokenCount": heard}, {"modality": "TEXT", "tokenCount": 4}]
    usage = u.read_gemini_usage(
        msgspec.convert(
            {"promptTokenCount": 10, "cachedContentTokenCount": 7, "cacheTokensDetails": rows}, u.GeminiUsage
        )
    )
    assert usage == Usage(input_tokens=3, cached_tokens=rest, cached_audio_tokens=7 - rest, calls=1)
