"""The one price function: exact integers, rounded once, half away from zero."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.money import divide_half_away, format_usd, parse_ratio, parse_usd
from elkapi.pricing.price import amount_nano, arithmetic, quote
from elkapi.types import Price, Usage

SMALL = Price(id=1, model="m", version=1, input_nano_per_1m=parse_usd("0.02"))


def test_two_cents_a_million_is_twenty_nano_a_token() -> None:
    assert amount_nano(SMALL, Usage(input_tokens=8), 1_000_000) == 160


@pytest.mark.parametrize(
    ("numerator", "denominator", "rounded"), [(5, 10, 1), (4, 10, 0), (-5, 10, -1), (-4, 10, 0), (15, 10, 2), (0, 3, 0)]
)
def test_halves_go_away_from_zero(numerator: int, denominator: int, rounded: int) -> None:
    assert divide_half_away(numerator, denominator) == rounded


def test_a_per_call_price_does_not_look_at_tokens() -> None:
    price = Price(id=1, model="m", version=1, call_nano=parse_usd("0.04"))
    assert amount_nano(price, Usage(input_tokens=999, calls=1), parse_ratio("0.5")) == parse_usd("0.02")


prices = st.builds(
    Price,
    id=st.just(1),
    model=st.just("m"),
    version=st.just(1),
    input_nano_per_1m=st.integers(0, 10**12),
    cached_nano_per_1m=st.none() | st.integers(0, 10**12),
    output_nano_per_1m=st.integers(0, 10**12),
    call_nano=st.integers(0, 10**10),
)
usages = st.builds(
    Usage,
    input_tokens=st.integers(0, 10**7),
    cached_tokens=st.integers(0, 10**7),
    output_tokens=st.integers(0, 10**7),
    calls=st.integers(0, 9),
)


@given(prices, usages, st.integers(0, 5_000_000))
def test_the_amount_is_within_half_a_nano_of_the_exact_fraction(price: Price, usage: Usage, ratio: int) -> None:
    cached = price.input_nano_per_1m if price.cached_nano_per_1m is None else price.cached_nano_per_1m
    per_million = Fraction(
        usage.input_tokens * price.input_nano_per_1m
        + usage.cached_tokens * cached
        + usage.output_tokens * price.output_nano_per_1m,
        1_000_000,
    )
    exact = (per_million + usage.calls * price.call_nano) * Fraction(ratio, 1_000_000)
    amount = amount_nano(price, usage, ratio)
    assert amount >= 0
    assert abs(amount - exact) <= Fraction(1, 2)


@given(prices, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 5_000_000))
def test_g36_a_quote_bounds_every_split_of_its_input(price: Price, fresh: int, cached: int, ratio: int) -> None:
    bound = quote(price, "g", ratio, Usage(input_tokens=fresh + cached, calls=1)).nano
    assert amount_nano(price, Usage(input_tokens=fresh, cached_tokens=cached, calls=1), ratio) <= bound


def test_the_arithmetic_shown_adds_up_to_the_charge() -> None:
    usage = Usage(input_tokens=123, cached_tokens=7, calls=1)
    price = Price(
        id=1, model="m", version=1, input_nano_per_1m=130_000_000, cached_nano_per_1m=65_000_000, call_nano=11
    )
    terms = arithmetic(price, usage, 800_000)
    total = sum(Fraction(t["units"] * t["nano_usd"] * t["ratio_micro"], t["per_units"] * 1_000_000) for t in terms)
    assert abs(amount_nano(price, usage, 800_000) - total) <= Fraction(1, 2)
    assert [t["class"] for t in terms] == ["input_tokens", "cached_tokens", "calls"]


@given(st.integers(0, 10**15))
def test_printed_dollars_read_back_as_the_same_amount(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano


@pytest.mark.parametrize("text", ["", "abc", "NaN", "inf", "0.0000000001", "1e30"])
def test_an_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_usd(text)
