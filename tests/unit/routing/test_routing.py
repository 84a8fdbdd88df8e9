"""plan, verdict and health as tables."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest

from elkapi.clock import ManualClock
from elkapi.routing.affinity import SESSIONS_MAX, TTL_S, Affinity, Place
from elkapi.routing.fallback import reason_after, reason_in
from elkapi.routing.health import PARTS_MAX, Health, Part
from elkapi.routing.plan import plan
from elkapi.routing.verdict import (
    Verdict,
    on_busy,
    on_failure,
    on_status,
    on_submit_status,
    on_unreadable,
    parse_retry_after_s,
)
from elkapi.routing.walk import Walk
from elkapi.types import Attempt, Channel, ChannelKey, FallbackReason

NOW_NS = 1_800_000_000_000_000_000


def is_openai(channel: Channel, _model: str) -> bool:
    return channel.family == "openai"


def channel(id: int, *, priority: int = 0, weight: int = 1, keys: int = 1, **more: Any) -> Channel:
    return Channel(
        id=id,
        name=f"c{id}",
        family="openai",
        base_url="https://a.example",
        keys=tuple(ChannelKey(id * 10 + n, f"k{n}") for n in range(keys)),
        models=("m",),
        priority=priority,
        weight=weight,
        **more,
    )


def order(
    *tiers: tuple[Channel, ...],
    health: Health | None = None,
    attempts_max: int = 9,
    seed: int = 1,
    preferred: Place | None = None,
) -> list[int]:
    chosen = plan(tiers, "m", is_openai, health or Health(10, 100), Random(seed), attempts_max, preferred)
    return [attempt.channel.id for attempt in chosen]


def test_higher_priority_comes_first() -> None:
    assert order((channel(1, priority=5),), (channel(2),)) == [1, 2]


@pytest.mark.parametrize("more", [(), (channel(3, weight=0),)])
def test_weights_share_the_first_place(more: tuple[Channel, ...]) -> None:
    tier = (channel(1, weight=3), channel(2, weight=1), *more)
    firsts = Counter(order(tier, seed=seed)[0] for seed in range(2000))
    assert 1350 < firsts[1] < 1650
    assert firsts[3] == 0


@pytest.mark.parametrize("keys", [2, 600])
def test_keys_share_the_first_place(keys: int) -> None:
    tier = (channel(1, keys=keys),)
    firsts = [plan((tier,), "m", is_openai, Health(10, 100), Random(seed), 1)[0].key.id for seed in range(200)]
    assert 75 < sum(key < 10 + keys // 2 for key in firsts) < 125


def test_g63_no_channel_key_is_planned_twice_and_another_channel_comes_before_another_key() -> None:
    attempts = plan(((channel(1, keys=3), channel(2)),), "m", is_openai, Health(10, 100), Random(1), 9)
    assert len({attempt.key.id for attempt in attempts}) == len(attempts) == 4
    assert {attempt.channel.id for attempt in attempts[:2]} == {1, 2}


def test_every_key_of_a_better_channel_comes_before_a_worse_channel() -> None:
    assert order((channel(1, priority=5, keys=3),), (channel(2, keys=2), channel(3)))[:3] == [1, 1, 1]


def test_channels_of_one_priority_take_turns_by_key() -> None:
    turns = order((channel(1, keys=2), channel(2, keys=2), channel(3, keys=2)))
    assert sorted(turns[:3]) == sorted(turns[3:]) == [1, 2, 3]


def test_a_single_channel_is_tried_with_each_of_its_keys() -> None:
    attempts = plan(((channel(1, keys=3),),), "m", is_openai, Health(10, 100), Random(1), 9)
    assert sorted(attempt.key.id for attempt in attempts) == [10, 11, 12]


def test_no_channel_is_no_attempt_and_the_only_one_is_tried_whatever_its_health() -> None:
    health = Health(10, 100)
    health.failed(("channel", 1))
    health.failed(("key", 10))
    assert order() == []
    assert order((channel(1),), health=health) == [1]


def test_the_only_channel_is_left_out_with_its_key_disabled_or_when_it_does_not_serve_the_operation() -> None:
    dead = Channel(
        id=1, name="d", family="openai", base_url="u", keys=(ChannelKey(1, "k", enabled=False),), models=("m",)
    )
    other = Channel(id=2, name="o", family="anthropic", base_url="u", keys=(ChannelKey(2, "k"),), models=("m",))
    assert order((dead,)) == []
    assert order((other,)) == []


def test_other_families_and_disabled_keys_are_left_out() -> None:
    dead = Channel(
        id=1, name="d", family="openai", base_url="u", keys=(ChannelKey(1, "k", enabled=False),), models=("m",)
    )
    other = Channel(id=2, name="o", family="anthropic", base_url="u", keys=(ChannelKey(2, "k"),), models=("m",))
    assert order((dead, other)) == []


def test_g61_a_cooling_channel_comes_last_but_is_not_lost() -> None:
    health = Health(10, 100, ManualClock())
    health.failed(("channel", 1))
    assert order((channel(1, priority=9),), (channel(2),), health=health) == [2, 1]


def test_what_cools_down_for_one_model_is_planned_first_for_the_others() -> None:
    health = Health(10, 100, ManualClock())
    dear, cheap = channel(1, priority=9), channel(2)
    dear = msgspec.structs.replace(dear, model_map={"mine": "big"})
    health.failed(("channel", 1, "big"))
    health.failed(("key", 10, "m"))

    def first(model: str) -> int:
        return plan(((dear,), (cheap,)), model, is_openai, health, Random(1), 9)[0].channel.id

    assert {model: first(model) for model in ("mine", "big", "m", "other")} == {"mine": 2, "big": 2, "m": 2, "other": 1}
    attempts = plan(((dear,), (cheap,)), "big", is_openai, health, Random(1), 9, Place(1, 10))
    assert [attempt.channel.id for attempt in attempts] == [2, 1]


def test_a_cooling_key_comes_after_its_channels_other_keys_and_after_other_channels() -> None:
    health = Health(10, 100, ManualClock())
    health.failed(("key", 10))
    attempts = plan(((channel(1, keys=2), channel(2)),), "m", is_openai, health, Random(1), 9)
    assert [attempt.key.id for attempt in attempts][-1] == 10
    assert attempts[-1].why == "priority 0, weight 1, cooling down"
    assert attempts[0].why == "priority 0, weight 1"


@pytest.mark.parametrize("seed", range(8))
def test_g61_a_sessions_channel_and_key_come_first_among_the_best_priority_alone(seed: int) -> None:
    tier = (channel(1), channel(2, keys=2), channel(3))
    attempts = plan((tier,), "m", is_openai, Health(10, 100), Random(seed), 9, Place(2, 21))
    assert attempts[0].key.id == 21
    assert attempts[0].why.endswith("last used by this session")
    assert len({attempt.key.id for attempt in attempts}) == len(attempts) == 4
    better = (channel(4, priority=1), channel(5, priority=1))
    assert set(order(better, tier, seed=seed, preferred=Place(2, 21))[:2]) == {4, 5}


def test_of_thousands_of_channels_and_keys_only_those_that_may_be_asked_are_looked_at() -> None:
    many = tuple(channel(id) for id in range(1, 5001))
    asked: list[int] = []

    def noted(one: Channel, model: str) -> bool:
        asked.append(one.id)
        return is_openai(one, model)

    attempts = plan((many,), "m", noted, Health(10, 100), Random(1), 64)
    assert len({attempt.channel.id for attempt in attempts}) == 64
    assert len(asked) == 64
    keys = plan(((channel(1, keys=5000),),), "m", noted, Health(10, 100), Random(1), 64)
    assert len({attempt.key.id for attempt in keys}) == 64
    last = plan((many,), "m", noted, Health(10, 100), Random(1), 64, Place(4999, 49990))
    assert [attempt.channel.id for attempt in last].count(4999) == 1
    assert last[0].channel.id == 4999


def test_weights_share_the_first_place_among_many_and_weight_0_is_left_for_the_end() -> None:
    tier = (channel(1, weight=300), *(channel(id, weight=id % 2) for id in range(2, 602)))
    orders = [order(tier, seed=seed, attempts_max=400) for seed in range(300)]
    assert 110 < sum(chosen[0] == 1 for chosen in orders) < 190
    for chosen in orders:
        assert len(set(chosen)) == 400
        assert {id % 2 for id in chosen[:301]} == {1}
        assert {id % 2 for id in chosen[301:]} == {0}


def test_g61_of_many_channels_that_cool_down_all_but_a_few_the_few_come_first() -> None:
    health = Health(10, 100, ManualClock())
    for id in range(1, 998):
        health.failed(("channel", id))
    attempts = plan((tuple(channel(id) for id in range(1, 1001)),), "m", is_openai, health, Random(1), 64)
    assert {attempt.channel.id for attempt in attempts[:3]} == {998, 999, 1000}
    assert len({attempt.channel.id for attempt in attempts}) == 64


def test_g61_a_sessions_channel_that_cools_down_is_not_preferred() -> None:
    health = Health(10, 100, ManualClock())
    health.failed(("channel", 2))
    assert order((channel(1), channel(2)), health=health, preferred=Place(2, 20)) == [1, 2]


def keys_asked(*tier: Channel, health: Health | None = None, place: Place) -> list[int]:
    attempts = plan((tier,), "m", is_openai, health or Health(10, 100), Random(1), 9, place)
    return [attempt.key.id for attempt in attempts]


def test_g61_a_sessions_key_that_cools_down_or_is_disabled_is_not_preferred() -> None:
    health = Health(10, 100, ManualClock())
    health.failed(("key", 20))
    assert keys_asked(channel(1), channel(2), health=health, place=Place(2, 20)) == [10, 20]
    disabled = msgspec.structs.replace(channel(2), keys=(ChannelKey(20, "k0", enabled=False), ChannelKey(21, "k1")))
    assert 20 not in keys_asked(channel(1), disabled, place=Place(2, 20))


def test_g61_a_sessions_channel_that_does_not_serve_the_call_is_not_preferred() -> None:
    other = msgspec.structs.replace(channel(2), family="gemini")
    assert keys_asked(channel(1), other, channel(3), place=Place(2, 20)) in ([10, 30], [30, 10])


def test_g61_where_everything_cools_down_all_are_tried_whichever_answered_the_session_last() -> None:
    health = Health(10, 100, ManualClock())
    health.failed(("channel", 1))
    health.failed(("key", 20))
    assert sorted(order((channel(1), channel(2)), health=health, preferred=Place(2, 20))) == [1, 2]


def test_g62_a_session_is_forgotten_by_a_failure_where_it_was_answered_and_by_time() -> None:
    clock = ManualClock()
    affinity = Affinity(clock)
    affinity.answered(b"s", 1, 10)
    affinity.failed(b"s", 1, 11)
    affinity.failed(b"s", 2, 10)
    affinity.failed(b"other", 1, 10)
    assert affinity.place(b"s") == Place(1, 10)
    affinity.failed(b"s", 1, 10)
    assert affinity.place(b"s") is None
    affinity.answered(b"s", 2, 20)
    clock.advance(TTL_S - 1)
    assert affinity.place(b"s") == Place(2, 20)
    clock.advance(1)
    assert affinity.place(b"s") is None
    assert len(affinity) == 0


def test_no_more_sessions_are_remembered_than_the_bound_and_the_longest_unused_goes_first() -> None:
    affinity = Affinity(ManualClock())
    for number in range(SESSIONS_MAX):
        affinity.answered(b"%d" % number, 1, 10)
    affinity.answered(b"0", 1, 10)
    affinity.answered(b"one more", 1, 10)
    assert len(affinity) == SESSIONS_MAX
    assert affinity.place(b"0") is not None
    assert affinity.place(b"1") is None


def test_a_model_without_an_alias_or_a_mapping_keeps_its_name_upstream() -> None:
    for tier in ((channel(1),), (channel(1), channel(2))):
        attempts = plan((tier,), "m", is_openai, Health(10, 100), Random(1), 9)
        assert {attempt.upstream_model for attempt in attempts} == {"m"}


def test_aliases_and_the_model_map_give_the_upstream_name() -> None:
    tier = (channel(1, aliases={"m": "real"}, model_map={"real": "theirs"}),)
    assert plan((tier,), "m", is_openai, Health(10, 100), Random(1), 9)[0].upstream_model == "theirs"


def test_attempts_are_bounded() -> None:
    assert len(order(tuple(channel(n) for n in range(1, 9)), attempts_max=3)) == 3


def test_g66_any_transport_failure_cools_the_channel() -> None:
    for code in ("upstream_connect_failed", "upstream_header_timeout", "upstream_cut", "upstream_tls_failed"):
        assert on_failure(code, sent=False).cool == "channel"
        assert not on_failure(code, sent=False).model_only


def test_only_an_unsent_failure_is_surely_unbilled() -> None:
    assert on_failure("x", sent=False).fate == "none"
    assert on_failure("x", sent=True).fate == "unknown"


def test_a_closed_idle_connection_is_tried_once_more_on_the_same_channel_which_does_not_cool_down() -> None:
    first = on_failure("upstream_cut", sent=True, stale=True)
    assert (first.action, first.fate, first.cool, first.again) == ("next", "unknown", None, True)
    second = on_failure("upstream_cut", sent=True, stale=True, before=["status_500", "upstream_cut"])
    assert (second.action, second.cool, second.again) == ("next", None, False)
    assert on_failure("upstream_cut", sent=True, stale=True, before=["status_500"]).again
    assert not on_failure("upstream_cut", sent=True).again


def test_a_busy_channel_was_not_asked_and_a_reply_that_is_no_answer_may_be_billed() -> None:
    busy = on_busy(3.5)
    assert (busy.action, busy.fate, busy.cool, busy.at_least_s) == ("next", "none", None, 3.5)
    empty = on_unreadable("empty")
    assert (empty.action, empty.outcome, empty.fate, empty.cool) == ("next", "empty", "unknown", "channel")
    assert not empty.model_only


@pytest.mark.parametrize("status", [408, 502, 504, 520, 524])
def test_nobody_else_is_asked_after_a_submit_of_unknown_fate(status: int) -> None:
    verdict = on_submit_status(status)
    assert (verdict.action, verdict.fate, verdict.cool, verdict.model_only) == ("fail", "unknown", "channel", True)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500, 503, 521, 525])
def test_a_submit_refused_for_sure_is_judged_like_any_other_call(status: int) -> None:
    assert on_submit_status(status, 7.0) == on_status(status, 7.0)


@pytest.mark.parametrize(("status", "waits"), [(408, True), (425, True), (429, True), (503, True), (403, False)])
def test_a_wait_that_the_upstream_asked_for_is_kept(status: int, waits: bool) -> None:
    assert on_status(status, 7.0).at_least_s == (7.0 if waits else 0.0)


def test_a_refusal_is_not_billed_and_a_disabled_key_says_why() -> None:
    assert on_status(204).fate == "complete"
    assert {on_status(status).fate for status in range(300, 600)} == {"none"}
    assert on_status(401).disable_key == "the upstream refused this key (status 401)"
    assert on_status(402).disable_key == "the upstream account is out of funds (status 402)"


@pytest.mark.parametrize(
    ("status", "action", "cool", "disables"),
    [
        (200, "accept", None, False),
        (299, "accept", None, False),
        (300, "next", "channel", False),
        (302, "next", "channel", False),
        (400, "fail", None, False),
        (401, "next", "key", True),
        (402, "next", "key", True),
        (403, "next", "key", False),
        (404, "next", None, False),
        (405, "next", None, False),
        (410, "next", None, False),
        (408, "next", "key", False),
        (409, "fail", None, False),
        (413, "fail", None, False),
        (415, "fail", None, False),
        (425, "next", "key", False),
        (422, "fail", None, False),
        (429, "next", "key", False),
        (500, "next", "channel", False),
        (503, "next", "channel", False),
        (529, "next", "channel", False),
    ],
)
def test_each_status_has_its_verdict(status: int, action: str, cool: str | None, disables: bool) -> None:
    verdict = on_status(status)
    assert (verdict.action, verdict.cool, verdict.disable_key is not None) == (action, cool, disables)
    # A refused key is refused for every model; the other statuses may be about the one that was asked.
    assert verdict.model_only is (cool is not None and not disables)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2", 2),
        (b"0.5", 0.5),
        (b"-3", 0),
        (b"nan", 0),
        (b"Wed", 0),
        (b"\xff", 0),
        (None, 0),
        (b"1e9", 3600),
        (b"Fri, 15 Jan 2027 08:01:00 GMT", 60),
        (b"Fri Jan 15 08:01:00 2027", 60),
        (b"Fri, 15 Jan 2027 07:59:00 GMT", 0),
        (b"Sat, 16 Jan 2027 08:00:00 GMT", 3600),
    ],
)
def test_retry_after_is_read_within_bounds(value: bytes | None, seconds: float) -> None:
    assert parse_retry_after_s(value, NOW_NS) == seconds


def test_g67_a_second_failure_never_shortens_a_cooldown() -> None:
    clock = ManualClock()
    health = Health(10, 100, clock)
    health.failed(("channel", 1), at_least_s=60)
    health.failed(("channel", 1))
    clock.advance(59)
    assert not health.ready("channel", 1, "m")
    clock.advance(1)
    assert health.ready("channel", 1, "m")


def test_cooldowns_double_up_to_the_maximum_and_success_ends_them() -> None:
    clock = ManualClock()
    health = Health(10, 35, clock)
    waits = []
    for _ in range(4):
        health.failed(("key", 1))
        waits.append(health.cooling()[("key", 1)])
        clock.advance(waits[-1])
    assert waits == [10, 20, 35, 35]
    health.failed(("key", 1))
    health.succeeded(0, 1, "m")
    assert health.ready("key", 1, "m")


def test_success_ends_the_cooldown_of_the_channel_and_of_the_key_that_answered_alone() -> None:
    health = Health(10, 35, ManualClock())
    parts: list[Part] = [("channel", 1), ("key", 1), ("channel", 2), ("key", 2)]
    for part in parts:
        health.failed(part)
    health.succeeded(1, 2, "m")
    assert set(health.cooling()) == {("channel", 2), ("key", 1)}


def test_a_cooldown_for_one_model_leaves_the_others_and_ends_when_that_model_answers() -> None:
    health = Health(10, 35, ManualClock())
    parts: list[Part] = [("channel", 1, "big"), ("key", 2, "big"), ("key", 2, "small"), ("key", 3, "big")]
    for part in parts:
        health.failed(part)
    assert [health.ready("channel", 1, model) for model in ("big", "small", "tiny")] == [False, True, True]
    assert [health.ready("key", 2, model) for model in ("big", "small", "tiny")] == [False, False, True]
    health.succeeded(1, 2, "tiny")
    assert set(health.cooling()) == set(parts)
    health.succeeded(1, 2, "big")
    assert set(health.cooling()) == {("key", 2, "small"), ("key", 3, "big")}


def test_parts_whose_cooldown_is_over_are_not_told_as_cooling() -> None:
    clock = ManualClock()
    health = Health(10, 35, clock)
    health.failed(("channel", 1))
    clock.advance(10)
    assert health.cooling() == {}


def test_no_more_parts_are_remembered_than_the_bound() -> None:
    health = Health(10, 35, ManualClock())
    for number in range(PARTS_MAX + 1):
        health.failed(("key", number))
    assert len(health.cooling()) == PARTS_MAX
    assert health.ready("key", 0, "m")
    assert not health.ready("key", PARTS_MAX, "m")


@pytest.mark.parametrize(
    ("status", "told", "reason"),
    [
        (400, "This model's maximum context length is 4096 tokens.", "context"),
        (400, "This model's maximum prompt length is 131072 but the request contains 136973 tokens.", "context"),
        (400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", "context"),
        (400, "the request exceeds the available context size. try increasing the context size", "context"),
        (400, "Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)", "context"),
        (400, '{"error":{"code":"1261","message":"Prompt exceeds max length"}}', "context"),
        (400, "The input (250000 tokens) is longer than the model's context length (200000 tokens).", "context"),
        (400, "The decoder prompt (length 9254) is longer than the maximum model length of 4096.", "context"),
        (
            400,
            "You passed 65537 input tokens and requested 0 output tokens. However, the model's context length is only "
            "65536 tokens, resulting in a maximum input length of 65536 tokens.",
            "context",
        ),
        (
            400,
            '{"error":"Trying to keep the first 6269 tokens when context the overflows. However, the model is loaded '
            'with context length of only 4096 tokens"}',
            "context",
        ),
        (
            400,
            '{"error":{"message":"prompt token count of 391491 exceeds the limit of 128000",'
            '"code":"model_max_prompt_tokens_exceeded"}}',
            "context",
        ),
        (400, "length of prompt_tokens (200000) must be less than max_seq_len (163840).", "context"),
        (400, "Total tokens of image and text exceed max message tokens. Request id: 0217", "context"),
        (400, "`fade` must be less than max_seq_len", None),
        (400, "Input length 203743 exceeds the maximum length 202752", "context"),
        (400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", "context"),
        (413, "prompt is too long", "context"),
        (500, "prompt is too long", None),
        (399, "prompt is too long", None),
        (400, '{"error":{"code": "content_filter"}}', "refusal"),
        (400, '{"error":{"code":"content_policy_violation"}}', "refusal"),
        (400, '{"innererror":{"code":"ResponsibleAIPolicyViolation"}}', "refusal"),
        (400, '{"error":{"message":"The request was rejected ...","type":"content_filter"}}', "refusal"),
        (400, '{"error":{"code":"data_inspection_failed","message":"Input data may contain ..."}}', "refusal"),
        (400, '{"code":"DataInspectionFailed","message":"Input data may contain ..."}', "refusal"),
        (400, '{"error":{"message":"Content Exists Risk","type":"invalid_request_error"}}', "refusal"),
        (400, '{"code":"c","error":"Content violates usage guidelines. Failed check: ..."}', "refusal"),
        (400, '{"error":{"code":403,"metadata":{"reasons":["a"],"flagged_input":"b"}}}', "refusal"),
        (400, '{"error":{"message":"\\"flagged_input\\": \\"message\\":\\"Content Exists Risk"}}', None),
        (400, '{"error":{"code":"invalid_value","message":"content_filter"}}', None),
    ],
)
def test_a_refusal_for_length_or_content_is_told_from_other_refusals(
    status: int, told: str, reason: FallbackReason | None
) -> None:
    assert reason_in(status, told.encode()) == reason


def test_a_failure_of_the_channels_is_a_reason_where_the_upstream_told_none() -> None:
    assert [reason_after(None, status) for status in (400, 428, 429, 499, 500)] == [None, None, "error", None, "error"]
    assert reason_after("context", 500) == "context"


KEY_RESTS, CHANNEL_RESTS, REFUSED = on_status(429, 7.0), on_status(503, 3.0), on_status(400)
STALE = on_failure("upstream_cut", sent=True, stale=True)


@pytest.mark.parametrize(
    ("verdicts", "asked", "wait_s"),
    [
        # A channel that failed is asked with none of its keys; one key that rests leaves the others.
        ({0: CHANNEL_RESTS, 2: CHANNEL_RESTS}, [0, 2, 3], 3.0),
        ({0: KEY_RESTS, 1: CHANNEL_RESTS}, [0, 1, 2], 7.0),
        ({0: on_status(404)}, [0, 1, 2], 0.0),
        ({0: REFUSED}, [0], 0.0),
        # Neither a connection that had died nor a channel without room is one of the upstreams that were asked.
        ({0: [STALE, on_status(404)]}, [0, 0, 1, 2], 0.0),
        ({0: [STALE, CHANNEL_RESTS]}, [0, 0, 2, 3], 3.0),
        ({0: on_busy(9.0), 1: on_busy(2.0)}, [0, 1, 2, 3], 9.0),
    ],
)
def test_a_walk_asks_so_many_upstreams_and_none_that_failed_in_the_same_call(
    verdicts: dict[int, Verdict | list[Verdict]], asked: list[int], wait_s: float
) -> None:
    first, *others = (channel(number) for number in range(3))
    attempts = [Attempt(one, ChannelKey(number, "k"), "m", "") for number, one in enumerate((first, first, *others))]
    walk, seen, told = Walk(attempts, 3), list[int](), list[str]()
    while (attempt := walk.next()) is not None:
        seen.append(attempt.key.id)
        given = verdicts.get(attempt.key.id, on_status(404))
        verdict = given.pop(0) if isinstance(given, list) else given
        told.append(verdict.outcome)
        walk.judged(attempt, verdict)
    assert (seen, walk.outcomes, walk.retry_after_s) == (asked, told, wait_s)
