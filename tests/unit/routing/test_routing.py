"""plan, verdict and health as tables."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from elkapi.clock import ManualClock
from elkapi.routing.health import Health
from elkapi.routing.plan import plan
from elkapi.routing.verdict import on_failure, on_status, parse_retry_after_s
from elkapi.types import Channel, ChannelKey

NOW_NS = 1_800_000_000_000_000_000


def is_openai(channel: Channel, _model: str) -> bool:
    return channel.family == "openai"


def channel(id: int, *, priority: int = 0, weight: int = 1, keys: int = 1, **more: object) -> Channel:
    return Channel(
        id=id,
        name=f"c{id}",
        family="openai",
        base_url="https://a.example",
        keys=tuple(ChannelKey(id * 10 + n, f"k{n}") for n in range(keys)),
        models=("m",),
        priority=priority,
        weight=weight,
        **more,  # type: ignore[arg-type]
    )


def order(*tiers: tuple[Channel, ...], health: Health | None = None, attempts_max: int = 9, seed: int = 1) -> list[int]:
    chosen = plan(tiers, "m", is_openai, health or Health(10, 100), Random(seed), attempts_max)
    return [attempt.channel.id for attempt in chosen]


def test_higher_priority_comes_first() -> None:
    assert order((channel(1, priority=5),), (channel(2),)) == [1, 2]


def test_weights_share_the_first_place() -> None:
    tier = (channel(1, weight=3), channel(2, weight=1), channel(3, weight=0))
    firsts = Counter(order(tier, seed=seed)[0] for seed in range(2000))
    assert 1350 < firsts[1] < 1650
    assert firsts[3] == 0


def test_g63_no_channel_key_is_planned_twice_and_another_channel_comes_before_another_key() -> None:
    attempts = plan(((channel(1, keys=3), channel(2)),), "m", is_openai, Health(10, 100), Random(1), 9)
    assert len({attempt.key.id for attempt in attempts}) == len(attempts) == 4
    assert {attempt.channel.id for attempt in attempts[:2]} == {1, 2}


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


def test_aliases_and_the_model_map_give_the_upstream_name() -> None:
    tier = (channel(1, aliases={"m": "real"}, model_map={"real": "theirs"}),)
    assert plan((tier,), "m", is_openai, Health(10, 100), Random(1), 9)[0].upstream_model == "theirs"


def test_attempts_are_bounded() -> None:
    assert len(order(tuple(channel(n) for n in range(1, 9)), attempts_max=3)) == 3


def test_g66_any_transport_failure_cools_the_channel() -> None:
    for code in ("upstream_connect_failed", "upstream_header_timeout", "upstream_cut", "upstream_tls_failed"):
        assert on_failure(code, sent=False).cool == "channel"


def test_only_an_unsent_failure_is_surely_unbilled() -> None:
    assert on_failure("x", sent=False).fate == "none"
    assert on_failure("x", sent=True).fate == "unknown"


@pytest.mark.parametrize(
    ("status", "action", "cool", "disables"),
    [
        (200, "accept", None, False),
        (302, "next", "channel", False),
        (400, "fail", None, False),
        (401, "next", "key", True),
        (402, "next", "key", True),
        (403, "next", "key", False),
        (404, "next", None, False),
        (408, "next", "key", False),
        (413, "fail", None, False),
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
    assert not health.ready(("channel", 1))
    clock.advance(1)
    assert health.ready(("channel", 1))


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
    health.succeeded(0, 1)
    assert health.ready(("key", 1))
