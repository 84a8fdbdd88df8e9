"""The one price function: exact integers, rounded once, half away from zero."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.money import divide_half_away, format_ratio, format_usd, parse_ratio, parse_usd
from elkapi.pricing.price import amount_nano, arithmetic, dearest_for, is_of_media, priced_for, quote
from elkapi.storage.seeds import public_prices
from elkapi.types import Price, Rates, Tier, Usage, Variant

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


_rate = st.integers(0, 10**12)
_maybe = st.none() | _rate
_RATES = {
    "input_nano_per_1m": _rate,
    "cached_nano_per_1m": _maybe,
    "cached_audio_nano_per_1m": _maybe,
    "cache_write_5m_nano_per_1m": _maybe,
    "cache_write_1h_nano_per_1m": _maybe,
    "audio_input_nano_per_1m": _maybe,
    "image_input_nano_per_1m": _maybe,
    "output_nano_per_1m": _rate,
    "reasoning_nano_per_1m": _maybe,
    "audio_output_nano_per_1m": _maybe,
    "image_output_nano_per_1m": _maybe,
    "search_nano": st.integers(0, 10**10),
    "call_nano": st.integers(0, 10**10),
    "video_second_nano": st.integers(0, 10**10),
    "image_nano": st.integers(0, 10**10),
    "audio_second_nano": st.integers(0, 10**10),
}
tiers = st.lists(st.builds(Tier, above_tokens=st.integers(1, 10**6), **_RATES), max_size=2).map(
    lambda rows: tuple(sorted(rows, key=lambda row: row.above_tokens))
)
prices = st.builds(Price, id=st.just(1), model=st.just("m"), version=st.just(1), tiers=tiers, **_RATES)
usages = st.builds(
    Usage,
    **{name: st.integers(0, 10**6) for name in Usage.__struct_fields__ if name not in ("calls", "searches")},
    calls=st.integers(0, 9),
    searches=st.integers(0, 9),
)
PARENTS = {
    name: ("output" if "output" in name or name == "reasoning_tokens" else "input") + "_nano_per_1m"
    for name in Usage.__struct_fields__
    if name.endswith("_tokens")
}


def _exact(price: Price, usage: Usage, ratio: int) -> Fraction:
    """The amount by the definition: every class by its own rate, else its parent's, of the highest tier exceeded."""
    exceeded = [tier for tier in price.tiers if usage.input_total > tier.above_tokens]
    rates = exceeded[-1] if exceeded else price
    total = Fraction(usage.calls * rates.call_nano + usage.searches * rates.search_nano)
    total += usage.images * rates.image_nano
    sound = rates.audio_second_nano or rates.video_second_nano
    total += Fraction(usage.video_ms * rates.video_second_nano + usage.audio_ms * sound, 1000)
    for name, parent in PARENTS.items():
        own = getattr(rates, name.removesuffix("_tokens") + "_nano_per_1m")
        if name == "cached_audio_tokens" and own is None:
            own = rates.cached_nano_per_1m
        rate = getattr(rates, parent) if own is None else own
        total += Fraction(getattr(usage, name) * rate, 1_000_000)
    return total * Fraction(ratio, 1_000_000)


@given(prices, usages, st.integers(0, 5_000_000))
def test_the_amount_is_within_half_a_nano_of_the_exact_fraction(price: Price, usage: Usage, ratio: int) -> None:
    exact = _exact(price, usage, ratio)
    amount = amount_nano(price, usage, ratio)
    assert amount >= 0
    assert abs(amount - exact) <= Fraction(1, 2)


def upper_of(usage: Usage) -> Usage:
    """The bound of a call that comes to this usage: what went in and what came out, of whatever class."""
    return Usage(
        input_tokens=usage.input_total,
        output_tokens=usage.output_total,
        searches=usage.searches,
        calls=usage.calls,
        video_ms=usage.video_ms,
        images=usage.images,
        audio_ms=usage.audio_ms,
    )


@given(prices, usages, st.integers(0, 5_000_000), st.lists(st.integers(0, 2_000_000), max_size=2).map(tuple))
def test_further_ratios_are_applied_before_the_one_rounding(
    price: Price, usage: Usage, ratio: int, further: tuple[int, ...]
) -> None:
    """That of a batch's line, that of an answer from the cache, or both."""
    amount = amount_nano(price, usage, ratio, further)
    exact = _exact(price, usage, ratio) * Fraction(prod(further), 1_000_000 ** len(further))
    assert abs(amount - exact) <= Fraction(1, 2)
    upper = upper_of(usage)
    assert amount <= quote(price, "g", ratio, upper, True, further).nano


@pytest.mark.parametrize("usage", [Usage(input_tokens=8), Usage(input_tokens=8, reasoning_tokens=1)])
def test_a_batchs_ratio_of_zero_is_a_ratio_and_none_is_one(usage: Usage) -> None:
    assert amount_nano(SMALL, usage, 1_000_000, (0,)) == quote(SMALL, "g", 1_000_000, usage, False, (0,)).nano == 0
    assert amount_nano(SMALL, usage, 1_000_000) == quote(SMALL, "g", 1_000_000, usage).nano == 160


@given(prices, usages, st.integers(0, 5_000_000))
def test_g36_a_quote_bounds_every_split_of_its_tokens(price: Price, usage: Usage, ratio: int) -> None:
    upper = upper_of(usage)
    assert amount_nano(price, usage, ratio) <= quote(price, "g", ratio, upper, wide=True).nano


@pytest.mark.parametrize("name", Usage.__struct_fields__)
def test_every_class_is_priced_also_where_a_call_has_no_other(name: str) -> None:
    rates: dict[str, Any] = {rate: 10**9 + number for number, rate in enumerate(Rates.__struct_fields__)}
    price, usage = Price(id=1, model="m", version=1, **rates), Usage(**{name: 10**6})
    assert amount_nano(price, usage, 1_000_000) == _exact(price, usage, 1_000_000) >= 10**9


def test_a_narrow_quote_leaves_out_what_the_call_cannot_have() -> None:
    price = Price(id=1, model="m", version=1, input_nano_per_1m=10, cache_write_1h_nano_per_1m=20 * 10**6)
    upper = Usage(input_tokens=10**6, calls=1)
    assert quote(price, "g", 1_000_000, upper).nano == 10
    assert quote(price, "g", 1_000_000, upper, wide=True).nano == 20 * 10**6
    # What is free is, however much a call may bring.
    free = Price(id=1, model="m", version=1)
    assert quote(free, "g", 1_000_000, Usage(input_tokens=10**7, output_tokens=10**7), wide=True).nano == 0


def test_a_long_context_is_priced_whole_by_its_tier() -> None:
    tier = Tier(above_tokens=200_000, input_nano_per_1m=parse_usd("6"), output_nano_per_1m=parse_usd("22.5"))
    price = Price(
        id=1, model="m", version=1, input_nano_per_1m=parse_usd("3"), output_nano_per_1m=parse_usd("15"), tiers=(tier,)
    )
    at, above = Usage(input_tokens=200_000, output_tokens=10), Usage(input_tokens=200_001, output_tokens=10)
    assert amount_nano(price, at, 1_000_000) == parse_usd("0.60015")
    assert amount_nano(price, above, 1_000_000) == parse_usd("1.200231")


def test_g36_a_quote_covers_a_tier_from_its_first_token_and_all_that_is_below_it() -> None:
    dear = Tier(above_tokens=1000, input_nano_per_1m=3 * 10**6)
    cheap = Tier(above_tokens=2000, input_nano_per_1m=10**6)
    price = Price(id=1, model="m", version=1, input_nano_per_1m=2 * 10**6, tiers=(dear, cheap))
    bounds = {tokens: quote(price, "g", 1_000_000, Usage(input_tokens=tokens)).nano for tokens in (1000, 1001, 2001)}
    # Where the last tier is the cheapest, the call may still come to less than it begins with.
    assert bounds == {1000: 2000, 1001: 3003, 2001: 6003}
    assert amount_nano(price, Usage(input_tokens=2000), 1_000_000) == 6000


@given(prices, usages, st.integers(0, 5_000_000))
def test_the_arithmetic_of_every_class_adds_up_to_the_charge(price: Price, usage: Usage, ratio: int) -> None:
    terms = arithmetic(price, usage, ratio)
    total = sum((Fraction(int(t["units"]) * int(t["nano_usd"]), int(t["per_units"])) for t in terms), Fraction(0))
    assert abs(total * Fraction(ratio, 1_000_000) - amount_nano(price, usage, ratio)) <= Fraction(1, 2)


def test_the_arithmetic_shown_adds_up_to_the_charge() -> None:
    usage = Usage(input_tokens=123, cached_tokens=7, calls=1)
    price = Price(
        id=1, model="m", version=1, input_nano_per_1m=130_000_000, cached_nano_per_1m=65_000_000, call_nano=11
    )
    terms: Any = arithmetic(price, usage, 800_000)
    shares = [Fraction(t["units"] * t["nano_usd"] * t["ratio_micro"], t["per_units"] * 1_000_000) for t in terms]
    assert abs(amount_nano(price, usage, 800_000) - sum(shares, Fraction())) <= Fraction(1, 2)
    assert [t["class"] for t in terms] == ["input_tokens", "cached_tokens", "calls"]


_words = st.sampled_from(("a", "b", "c"))
_names = ("mode", "resolution", "sound")
_features = st.dictionaries(st.sampled_from(_names), _words)
_variants = st.lists(
    st.builds(
        Variant,
        when=st.dictionaries(st.sampled_from(_names), st.lists(_words, min_size=1, max_size=2).map(tuple), min_size=1),
        **_RATES,
    ),
    max_size=4,
).map(tuple)
varied = st.builds(Price, id=st.just(1), model=st.just("m"), version=st.just(1), variants=_variants, **_RATES)


def test_a_second_is_a_thousand_milliseconds_and_halves_are_rounded_once() -> None:
    price = Price(id=1, model="m", version=1, video_second_nano=1, image_nano=3, audio_second_nano=1)
    assert amount_nano(price, Usage(video_ms=500), 1_000_000) == 1
    assert amount_nano(price, Usage(video_ms=250, audio_ms=250), 1_000_000) == 1
    assert amount_nano(price, Usage(video_ms=499), 1_000_000) == 0
    assert amount_nano(price, Usage(images=4), 500_000) == 6


def test_a_second_of_sound_costs_what_one_of_video_does_where_it_has_no_price() -> None:
    sound = Usage(audio_ms=2000)
    for price, nano in (
        (Price(id=1, model="m", version=1, video_second_nano=5), 10),
        (Price(id=1, model="m", version=1, video_second_nano=5, audio_second_nano=3), 6),
        (Price(id=1, model="m", version=1, audio_second_nano=3), 6),
    ):
        assert amount_nano(price, sound, 1_000_000) == quote(price, "g", 1_000_000, sound).nano == nano
        assert arithmetic(price, sound, 1_000_000)[0]["nano_usd"] == nano // 2


def test_the_first_variant_that_fits_stands_in_for_the_record() -> None:
    pro = Variant(when={"mode": ("pro",), "resolution": ("1080p", "4k")}, video_second_nano=5)
    loud = Variant(when={"sound": ("on",)}, call_nano=7)
    price = Price(id=4, model="m", version=2, video_second_nano=1, variants=(pro, loud))
    assert priced_for(price, {}) == Price(id=4, model="m", version=2, video_second_nano=1)
    assert priced_for(price, {"mode": "pro"}).video_second_nano == 1
    assert priced_for(price, {"mode": "pro", "resolution": "4k", "sound": "on"}).video_second_nano == 5
    assert priced_for(price, {"sound": "on"}) == Price(id=4, model="m", version=2, call_nano=7)


@given(varied, _features, st.sets(st.sampled_from(_names)), _features, usages, st.integers(0, 5_000_000))
def test_g36_the_dearest_variant_bounds_all_that_the_unknown_features_may_become(
    price: Price, known: dict[str, str], unknown: set[str], later: dict[str, str], usage: Usage, ratio: int
) -> None:
    """Also where a unit's count stays below its bound, whatever the unknown features are in the end."""
    known = {name: word for name, word in known.items() if name not in unknown}
    became = known | {name: word for name, word in later.items() if name in unknown}
    upper = msgspec.structs.replace(upper_of(usage), video_ms=usage.video_ms + 40, images=usage.images + 1)
    bound = quote(dearest_for(price, known, unknown), "g", ratio, upper, wide=True)
    assert amount_nano(priced_for(price, became), usage, ratio) <= bound.nano
    if not unknown:
        assert dearest_for(price, known) == priced_for(price, known)


def test_a_variant_may_ask_for_a_long_input_and_without_one_that_fits_the_tiers_count() -> None:
    long = Variant(when={"service_tier": ("fast",)}, above_tokens=100, input_nano_per_1m=16)
    fast = Variant(when={"service_tier": ("fast",)}, input_nano_per_1m=8)
    tier = Tier(above_tokens=100, input_nano_per_1m=5)
    price = Price(id=1, model="m", version=1, input_nano_per_1m=4, tiers=(tier,), variants=(long, fast))
    for features, tokens, nano in (
        ({}, 100, 4),
        ({}, 101, 5),
        ({"service_tier": "fast"}, 100, 8),
        ({"service_tier": "fast"}, 101, 16),
        ({"service_tier": "flex"}, 101, 5),
    ):
        (term,) = arithmetic(priced_for(price, features, tokens), Usage(input_tokens=tokens), 1_000_000)
        assert term["nano_usd"] == nano, (features, tokens)
    assert dearest_for(price, {"service_tier": "fast"}).input_nano_per_1m == 8, "a task has no input to be long"


@pytest.mark.parametrize(("word", "tokens", "dearest"), [("fast", 100, 8), ("fast", 101, 16), ("flex", 101, 5)])
def test_a_quote_takes_in_what_may_fit_and_no_variant_that_cannot(word: str, tokens: int, dearest: int) -> None:
    """Else a call of another tier, or a shorter one, would hold far more than it can cost."""
    million = 1_000_000
    price = Price(
        id=1,
        model="m",
        version=1,
        input_nano_per_1m=4 * million,
        tiers=(Tier(above_tokens=100, input_nano_per_1m=5 * million),),
        variants=(
            Variant(when={"service_tier": ("fast",)}, above_tokens=100, input_nano_per_1m=16 * million),
            Variant(when={"service_tier": ("fast",)}, input_nano_per_1m=8 * million),
            Variant(when={"service_tier": ("fast",), "speed": ("fast",)}, input_nano_per_1m=50 * million),
        ),
    )
    held = quote(price, "g", million, Usage(input_tokens=tokens), features={"service_tier": (word, "default")})
    assert held.nano == tokens * dearest


def test_a_sound_whose_variant_is_unknown_is_held_for_what_its_dearest_second_costs() -> None:
    loud = Variant(when={"voice": ("loud",)}, video_second_nano=9)
    price = Price(id=1, model="m", version=1, audio_second_nano=2, variants=(loud,))
    sound = Usage(audio_ms=1000)
    assert quote(dearest_for(price, {}, {"voice"}), "g", 1_000_000, sound).nano == 9
    assert amount_nano(priced_for(price, {"voice": "loud"}), sound, 1_000_000) == 9


@pytest.mark.parametrize(
    ("rates", "of_media"),
    [
        ({}, False),
        ({"video_second_nano": 1}, True),
        ({"image_nano": 1, "audio_second_nano": 1}, True),
        ({"image_nano": 1, "call_nano": 1}, False),
        ({"image_nano": 1, "tiers": (Tier(above_tokens=9, input_nano_per_1m=1),)}, False),
    ],
)
def test_a_free_model_is_free_and_one_of_media_has_no_price_for_text(rates: dict[str, Any], of_media: bool) -> None:
    assert is_of_media(Price(id=1, model="m", version=1, **rates)) is of_media


_text_variants = st.lists(
    st.builds(
        Variant,
        when=st.dictionaries(st.sampled_from(_names), st.lists(_words, min_size=1, max_size=2).map(tuple), min_size=1),
        above_tokens=st.integers(0, 10**6),
        **_RATES,
    ),
    max_size=4,
).map(tuple)
_asked = st.dictionaries(st.sampled_from(_names), st.lists(_words, min_size=1, max_size=3).map(tuple))
_both = st.builds(
    Price, id=st.just(1), model=st.just("m"), version=st.just(1), tiers=tiers, variants=_text_variants, **_RATES
)


@given(_both, _asked, st.data(), usages, st.integers(0, 5_000_000))
def test_g36_what_may_be_asked_for_bounds_it_served_or_not(
    price: Price, asked: dict[str, tuple[str, ...]], data: st.DataObject, usage: Usage, ratio: int
) -> None:
    """Each feature is served as one of the words that are asked with, or as none of them."""
    served = {name: data.draw(st.sampled_from((*words, "none"))) for name, words in asked.items()}
    upper = upper_of(usage)
    bound = quote(price, "g", ratio, upper, wide=True, features=asked)
    assert amount_nano(priced_for(price, served, usage.input_total), usage, ratio) <= bound.nano


@pytest.mark.parametrize("name", Rates.__struct_fields__)
def test_a_price_of_which_only_a_variant_costs_is_not_zero(name: str) -> None:
    assert Price(id=1, model="m", version=1).is_zero
    variant = Variant(when={"mode": ("pro",)}, **{name: 1})
    assert not Price(id=1, model="m", version=1, variants=(variant,)).is_zero


@given(st.integers(0, 10**15))
def test_printed_dollars_read_back_as_the_same_amount(nano: int) -> None:
    assert parse_usd(format_usd(nano)) == nano


@pytest.mark.parametrize("text", ["", "abc", "NaN", "inf", "0.0000000001", "1e30", "-1e30", f"1.{'0' * 80}1"])
def test_an_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_usd(text)


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "1E3",
        "10e-1",
        "1_000",
        "１０",
        "٣",
        " 5",
        "5 ",
        "5\n",
        "1 000",
        "1,5",
        "+5",
        "--5",
        "0x10",
        "1/2",
        ".",
        "-",
    ],
)
def test_only_a_plain_decimal_number_is_an_amount_or_a_ratio(text: str) -> None:
    """A slip of the hand is no thousand dollars."""
    with pytest.raises(ValueError, match="is not an amount in US dollars: write it as digits"):
        parse_usd(text)
    with pytest.raises(ValueError, match="is not a ratio: write it as digits"):
        parse_ratio(text)


@pytest.mark.parametrize(
    ("text", "nano"), [("007", 7 * 10**9), (".5", 5 * 10**8), ("5.", 5 * 10**9), ("-0.25", -25 * 10**7)]
)
def test_a_plain_decimal_number_is_taken_as_it_stands(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize("sign", ["", "-"])
def test_an_amount_that_the_ledgers_columns_could_not_hold_is_refused(sign: str) -> None:
    assert abs(parse_usd(f"{sign}4611686018.427387904")) == 2**62
    with pytest.raises(ValueError, match="is too large for an amount in US dollars"):
        parse_usd(f"{sign}4611686018.427387905")


def test_an_amount_that_is_too_fine_is_told_how_fine_it_may_be() -> None:
    with pytest.raises(ValueError, match="at most 9 decimal places"):
        parse_usd("0.0000000001")
    with pytest.raises(ValueError, match="at most 6 decimal places"):
        parse_ratio("0.0000001")


@pytest.mark.parametrize("text", ["-0.000001", "-1"])
def test_a_ratio_below_zero_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is negative"):
        parse_ratio(text)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.00"), (130, "0.00000013"), (1_500_000_000, "1.50"), (-1, "-0.000000001"), (-1_250_000_000, "-1.25")],
)
def test_dollars_are_printed_exactly(nano: int, text: str) -> None:
    assert format_usd(nano) == text
    assert parse_usd(text) == nano


@pytest.mark.parametrize(("micro", "text"), [(0, "0"), (1, "0.000001"), (800_000, "0.8"), (10_000_000, "10")])
def test_ratios_are_printed_exactly(micro: int, text: str) -> None:
    assert format_ratio(micro) == text
    assert parse_ratio(text) == micro


@pytest.mark.parametrize(
    ("model", "tier", "usage", "usd"),
    [
        ("gpt-5", "flex", Usage(input_tokens=10**6, cached_tokens=10**6, output_tokens=10**6, searches=2), "5.7075"),
        ("gpt-5", "fast", Usage(input_tokens=10**6, searches=2), "2.52"),
        ("gpt-5-nano", "flex", Usage(output_tokens=10**6), "0.20"),
        ("o4-mini", "default", Usage(input_tokens=10**6), "1.10"),
        ("gemini-2.5-flash", "standard", Usage(input_tokens=10**6, audio_input_tokens=10**6), "1.30"),
        ("gemini-2.5-flash", "flex", Usage(input_tokens=10**6, audio_input_tokens=10**6), "0.65"),
        ("gemini-2.5-flash", "standard", Usage(cached_tokens=10**6, cached_audio_tokens=10**6), "0.13"),
        ("gemini-2.5-flash", "flex", Usage(cached_audio_tokens=10**6), "0.10"),
        # Of a price that does not tell them apart, sound from the cache costs what the rest of it does.
        ("gemini-2.5-pro", "standard", Usage(cached_audio_tokens=100_000), "0.0125"),
        ("gemini-2.5-flash-lite", "priority", Usage(audio_input_tokens=10**6), "0.54"),
        ("gemini-2.5-pro", "priority", Usage(input_tokens=200_000), "0.45"),
        ("gemini-2.5-pro", "priority", Usage(input_tokens=400_000, output_tokens=10**6), "28.80"),
        ("gemini-2.5-pro", "flex", Usage(input_tokens=400_000), "0.50"),
        ("gpt-6.2-sol", "default", Usage(input_tokens=100_000, cached_tokens=172_000, output_tokens=10**5), "1.2172"),
        ("gpt-6.2-sol", "default", Usage(input_tokens=100_001, cached_tokens=172_000, output_tokens=10**5), "1.934404"),
        ("gpt-6.1-sol", "fast", Usage(input_tokens=100_000, cached_tokens=100_000, output_tokens=10**5), "2.42"),
        ("gpt-6.1-sol", "priority", Usage(input_tokens=400_000, output_tokens=10**5), "6.20"),
        ("gpt-6-luna", "default", Usage(cache_write_5m_tokens=10**5, cache_write_1h_tokens=10**5), "0.0325"),
        ("gpt-6-sol", "flex", Usage(input_tokens=100_000, cached_tokens=100_000, output_tokens=10**5), "0.61"),
        ("gpt-6-sol", "flex", Usage(input_tokens=400_000, cache_write_5m_tokens=10**5, output_tokens=10**5), "1.80"),
        ("gpt-5.6-sol", "default", Usage(cache_write_5m_tokens=100_000, output_tokens=10**5), "2.50"),
        ("gpt-5.1", "flex", Usage(input_tokens=10**6, output_tokens=10**5), "1.125"),
        ("gpt-5.4", "default", Usage(input_tokens=272_000, output_tokens=10**5), "2.18"),
        ("gpt-5.4", "default", Usage(input_tokens=272_001, output_tokens=10**5), "3.610005"),
        ("gpt-5.4", "flex", Usage(input_tokens=272_001, output_tokens=10**5, searches=1), "1.8150025"),
        ("gpt-5.5", "priority", Usage(input_tokens=100_000, output_tokens=10**5), "8.75"),
        ("gemini-2.5-pro", "standard", Usage(searches=1), "0.035"),
        ("gemini-2.5-flash", "flex", Usage(searches=1, calls=1), "0.035"),
        ("gemini-3.1-pro-preview", "standard", Usage(input_tokens=200_000, searches=3), "0.442"),
        ("gemini-3.1-pro-preview", "standard", Usage(input_tokens=200_001, searches=3), "0.842004"),
        ("gemini-3.1-pro-preview", "priority", Usage(input_tokens=400_000, output_tokens=10**5), "6.12"),
        ("gemini-3.1-pro-preview", "flex", Usage(cached_tokens=10**6), "0.40"),
        ("gemini-3-flash-preview", "standard", Usage(audio_input_tokens=10**6, cached_audio_tokens=10**6), "1.10"),
        ("gemini-3.8-flash", "standard", Usage(input_tokens=10**6, reasoning_tokens=10**6), "9"),
        ("gemini-4-argon", "standard", Usage(input_tokens=10**6, cached_tokens=10**6, output_tokens=10**6), "24.20"),
        ("gemini-4-hydrogen", "flex", Usage(cached_tokens=10**6), "0.0375"),
        # xAI's long calls begin at exactly 200,000 tokens.
        ("grok-4.7", "default", Usage(input_tokens=199_999, output_tokens=10**5), "0.999998"),
        ("grok-4.7", "default", Usage(input_tokens=100_000, cached_tokens=100_000, output_tokens=10**5), "1.70"),
        ("grok-4.3", "default", Usage(cached_tokens=400_000, searches=2), "0.17"),
        ("deepseek-flash", "default", Usage(input_tokens=10**6, cached_tokens=10**6, output_tokens=10**6), "1.506"),
        ("deepseek-v4-pro", "default", Usage(cached_tokens=10**6), "0.044"),
        ("mistral-large-4", "default", Usage(input_tokens=10**6, cached_tokens=10**6), "0.77"),
        ("kimi-k3", "default", Usage(cache_write_5m_tokens=10**6, cache_write_1h_tokens=10**6), "9"),
        ("qwen3.7-max", "default", Usage(cache_write_5m_tokens=10**6, cached_tokens=10**6), "3.625"),
        ("glm-5.3", "default", Usage(input_tokens=10**6, reasoning_tokens=10**6), "5.80"),
        ("MiniMax-M3", "default", Usage(input_tokens=512_001), "0.3072006"),
        ("claude-opus-5-5", "standard", Usage(cached_tokens=10**6, cache_write_5m_tokens=10**6), "5.20"),
        ("claude-sonnet-5-5", "standard", Usage(cached_tokens=10**6, cache_write_1h_tokens=10**6), "4.10"),
        ("claude-fable-5-1", "standard", Usage(cached_tokens=10**6, output_tokens=10**6), "50.25"),
        ("claude-opus-5", "standard", Usage(cached_tokens=10**6, output_tokens=10**6), "25.50"),
        ("claude-haiku-5-5", "standard", Usage(input_tokens=50_000, cached_tokens=50_000), "0.0055"),
        (
            "claude-haiku-5-5",
            "standard",
            Usage(input_tokens=50_001, cached_tokens=50_000, output_tokens=10**5),
            "0.2775005",
        ),
    ],
)
def test_a_fresh_installation_knows_what_a_tier_costs(model: str, tier: str, usage: Usage, usd: str) -> None:
    record = public_prices()[model]
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    price = priced_for(Price(id=1, model=model, version=1, **fields), {"service_tier": tier}, usage.input_total)
    assert amount_nano(price, usage, 1_000_000) == parse_usd(usd)
