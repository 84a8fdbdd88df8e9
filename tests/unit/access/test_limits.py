"""What a caller above a limit is told, and what a call is expected to need of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from elkapi.access import UNLIMITED, Limits, Over
from elkapi.clock import ManualClock
from elkapi.errors import CallAboveLimit, RateLimited
from elkapi.types import Channel, ChannelLimits, Policy


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[Limits]:
    clock = ManualClock()
    clock.advance(1_000)
    made = Limits(tmp_path, clock)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("policy", "input_bytes", "said"),
    [
        (
            Policy(parallel_max=1),
            400,
            "This API key has reached its limit of concurrent calls (1). Please try again in 1 s.",
        ),
        (
            Policy(requests_per_min=1),
            400,
            "This API key has reached its limit of requests per minute (1). Please try again in 61 s.",
        ),
        (
            Policy(tokens_per_min=150),
            401,
            "This call is expected to use 101 tokens, more than this API key has left of its limit per minute (150). "
            "Please try again in 61 s.",
        ),
    ],
)
def test_a_refusal_names_the_limit_and_when_to_ask_again(
    limits: Limits, policy: Policy, input_bytes: int, said: str
) -> None:
    limits.key(1, policy, input_bytes)
    with pytest.raises(RateLimited) as refused:
        limits.key(1, policy, input_bytes)
    assert refused.value.message == said
    assert refused.value.headers == ((b"retry-after", said.split()[-2].encode()),)
    limits.key(2, policy, input_bytes)


def test_a_call_that_no_minute_has_room_for_is_not_told_to_wait(limits: Limits) -> None:
    policy = Policy(tokens_per_min=10)
    with pytest.raises(CallAboveLimit) as refused:
        limits.key(1, policy, 41)
    assert (refused.value.retryable, refused.value.headers) == (False, ())
    assert "11 tokens" in refused.value.message
    assert "(10)" in refused.value.message
    limits.key(1, policy, 40)


def test_a_token_is_expected_for_four_bytes_and_one_for_the_rest(limits: Limits) -> None:
    policy = Policy(tokens_per_min=10)
    limits.key(1, policy, 36)
    with pytest.raises(RateLimited):
        limits.key(1, policy, 5)
    limits.key(1, policy, 1)


def test_a_place_is_given_back_once_however_often_it_is_let_go(limits: Limits) -> None:
    policy = Policy(parallel_max=1)
    with limits.key(1, policy, 0):
        pass
    with limits.key(1, policy, 0) as lease:
        lease.release()
    limits.key(1, policy, 0)
    with pytest.raises(RateLimited):
        limits.key(1, policy, 0)


def test_whoever_has_no_limit_needs_no_table(limits: Limits, tmp_path: Path) -> None:
    assert limits.key(1, Policy(), 10**9) is UNLIMITED
    assert limits.channel(Channel(1, "c", "openai", "http://x", (), ())) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["parallel", "requests"])
def test_a_channel_has_the_limits_of_its_own_and_not_those_of_a_key(limits: Limits, kind: str) -> None:
    policy = Policy(requests_per_min=1)
    most = ChannelLimits(parallel_max=2) if kind == "parallel" else ChannelLimits(requests_per_min=2)
    channel = Channel(1, "c", "openai", "http://x", (), (), limits=most)
    limits.key(1, policy, 0)
    assert limits.channel(channel) is not None
    assert limits.channel(channel) is not None
    with pytest.raises(Over) as refused:
        limits.channel(channel)
    assert refused.value.kind == kind
