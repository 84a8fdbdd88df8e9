"""Usage x price x group ratio -> nano-USD: the one price function, for quotes and for charges alike (guarantee 29)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

import msgspec

from elkapi.money import PER_MILLION, RATIO_ONE_MICRO, divide_half_away
from elkapi.types import Price, Quote, Rates, Usage, Variant

# Token class -> (its rate, the rate it falls back to). What is counted per item or per second is priced separately.
_PER_MILLION = (
    ("input_tokens", "input_nano_per_1m", "input_nano_per_1m"),
    ("cached_tokens", "cached_nano_per_1m", "input_nano_per_1m"),
    ("cached_audio_tokens", "cached_audio_nano_per_1m", "cached_nano_per_1m"),
    ("cache_write_5m_tokens", "cache_write_5m_nano_per_1m", "input_nano_per_1m"),
    ("cache_write_1h_tokens", "cache_write_1h_nano_per_1m", "input_nano_per_1m"),
    ("audio_input_tokens", "audio_input_nano_per_1m", "input_nano_per_1m"),
    ("image_input_tokens", "image_input_nano_per_1m", "input_nano_per_1m"),
    ("output_tokens", "output_nano_per_1m", "output_nano_per_1m"),
    ("reasoning_tokens", "reasoning_nano_per_1m", "output_nano_per_1m"),
    ("audio_output_tokens", "audio_output_nano_per_1m", "output_nano_per_1m"),
    ("image_output_tokens", "image_output_nano_per_1m", "output_nano_per_1m"),
)
# Class -> (its rate, the number of units that the rate is for).
_APART = (
    ("searches", "search_nano", 1),
    ("calls", "call_nano", 1),
    ("video_ms", "video_second_nano", 1000),
    ("images", "image_nano", 1),
)
_PARENTS = {own: parent for _, own, parent in _PER_MILLION}
_WIDE_INPUT = (
    "cached_audio_nano_per_1m",
    "cache_write_1h_nano_per_1m",
    "audio_input_nano_per_1m",
    "image_input_nano_per_1m",
)
_WIDE_OUTPUT = ("audio_output_nano_per_1m", "image_output_nano_per_1m")


def amount_nano(price: Price, usage: Usage, ratio_micro: int, further_micro: tuple[int, ...] = ()) -> int:
    """The amount of `usage` in nano-USD, rounded half away from zero once, at the very end. Never negative.

    It is also multiplied by the ratios of `further_micro` before rounding.
    """
    rates = rates_for(price, usage.input_total) if price.tiers else price
    millionths = usage.input_tokens * rates.input_nano_per_1m + usage.output_tokens * rates.output_nano_per_1m
    if _has_more(usage):
        millionths = sum(units * nano * (PER_MILLION // per) for _, units, nano, per in _terms(rates, usage))
    else:
        millionths += usage.calls * rates.call_nano * PER_MILLION
    if further_micro:
        return _with_ratios(millionths, (ratio_micro, *further_micro))
    return divide_half_away(millionths * ratio_micro, PER_MILLION * RATIO_ONE_MICRO)


def cost_nano(quoted: Quote, usage: Usage, served: Mapping[str, str]) -> int:
    """The cost in nano-USD of this usage on a quote's terms, as it was served."""
    price = priced_for(quoted.price, served, usage.input_total) if served else quoted.price
    return amount_nano(price, usage, quoted.ratio_micro, quoted.further_micro)


def _has_more(usage: Usage) -> int:
    """Whether there are units besides plain input, output and calls. A chain of `or`, because every call of text
    passes here."""
    return (
        usage.cached_tokens
        or usage.reasoning_tokens
        or usage.searches
        or usage.cache_write_5m_tokens
        or usage.cache_write_1h_tokens
        or usage.cached_audio_tokens
        or usage.audio_input_tokens
        or usage.image_input_tokens
        or usage.audio_output_tokens
        or usage.image_output_tokens
        or usage.video_ms
        or usage.images
        or usage.audio_ms
    )


def _with_ratios(millionths: int, ratios_micro: tuple[int, ...]) -> int:
    return divide_half_away(millionths * prod(ratios_micro), PER_MILLION * RATIO_ONE_MICRO ** len(ratios_micro))


def rates_for(price: Price, input_total: int) -> Rates:
    """The rates of a call with this much input: those of the highest tier that it exceeds."""
    rates: Rates = price
    for tier in price.tiers:
        if input_total > tier.above_tokens:
            rates = tier
    return rates


def is_of_media(price: Price) -> bool:
    """Whether only results of tasks have a price in it, so that a call of text would be free by mistake."""
    texts = [rate for _, rate, _ in _PER_MILLION] + ["search_nano", "call_nano"]
    return not price.is_zero and not any(getattr(rates, name) for rates in (price, *price.tiers) for name in texts)


def priced_for(price: Price, features: Mapping[str, str], input_total: int = 0) -> Price:
    """The price of a call with these features: the record with the rates of the first matching variant.

    If none matches, it is the record with its own rates and tiers.
    """
    if not price.variants:
        return price
    variant = next((one for one in price.variants if _fits(one, features, input_total)), None)
    return msgspec.structs.replace(price, variants=()) if variant is None else _with_rates(price, _own_rates(variant))


def _fits(variant: Variant, features: Mapping[str, str], input_total: int) -> bool:
    if variant.above_tokens and input_total <= variant.above_tokens:
        return False
    return all(features.get(name) in words for name, words in variant.when.items())


def _may_fit(variant: Variant, features: Mapping[str, tuple[str, ...]], input_most: int) -> bool:
    if variant.above_tokens and input_most <= variant.above_tokens:
        return False
    return all(any(word in words for word in features.get(name, ())) for name, words in variant.when.items())


def dearest_for(price: Price, features: Mapping[str, str], unknown: Collection[str] = ()) -> Price:
    """An upper bound of the price of every task with these features, whatever values the `unknown` ones have.

    If several variants may match, each class costs what it does in the dearest of them.
    """
    if not price.variants:
        return price
    possible: list[Rates] = []
    for variant in price.variants:
        if variant.above_tokens:
            continue  # Only calls of text have tiers.
        open_names = [name for name in variant.when if name in unknown]
        if all(features.get(name) in words for name, words in variant.when.items() if name not in open_names):
            possible.append(variant)
            if not open_names:
                break
    else:
        possible.append(price)
    if len(possible) == 1:
        return _with_rates(price, _own_rates(possible[0]))
    whole = [_inherited(rates) for rates in possible]
    return _with_rates(price, {name: max(rates[name] for rates in whole) for name in whole[0]})


def _sound_nano(rates: Rates) -> int:
    """The rate of a second of audio, which is that of video if it has no rate of its own."""
    return rates.audio_second_nano or rates.video_second_nano


def _own_rates(rates: Rates) -> dict[str, int | None]:
    return {name: getattr(rates, name) for name in Rates.__struct_fields__}


def _inherited(rates: Rates) -> dict[str, int]:
    """The rate of every class; its parent's if it has none of its own."""
    own = {**_own_rates(rates), "audio_second_nano": _sound_nano(rates)}
    return {name: (_rate(rates, name) if value is None else value) for name, value in own.items()}


def _rate(rates: Rates, name: str) -> int:
    """A class's rate per million units, or the one that it inherits."""
    nano: int | None = getattr(rates, name)
    return _rate(rates, _PARENTS[name]) if nano is None else nano


def _with_rates(price: Price, rates: Mapping[str, int | None]) -> Price:
    return Price(id=price.id, model=price.model, version=price.version, **rates)  # type: ignore[arg-type]


def quote(
    price: Price,
    group: str,
    ratio_micro: int,
    upper: Usage,
    wide: bool = False,
    further_micro: tuple[int, ...] = (),
    features: Mapping[str, tuple[str, ...]] | None = None,
) -> Quote:
    """The most that a call of at most `upper` input and output tokens may cost, whichever classes the upstream reports.

    `wide` includes the classes that only some calls can have (audio, images, an hour's cache). `features` are those it
    may be asked with, each with its words; they may or may not be served.
    """
    nano = _bound_nano(price, upper, ratio_micro, wide, further_micro)
    for tier in price.tiers:
        if upper.input_total > tier.above_tokens:
            nano = max(nano, _bound_nano(tier, upper, ratio_micro, wide, further_micro))
    if not features:
        return Quote(price, group, ratio_micro, upper, nano, wide, further_micro)
    for variant in price.variants:
        if _may_fit(variant, features, upper.input_total):
            nano = max(nano, _bound_nano(variant, upper, ratio_micro, wide, further_micro))
    return Quote(price, group, ratio_micro, upper, nano, wide, further_micro, dict(features))


def _bound_nano(rates: Rates, upper: Usage, ratio_micro: int, wide: bool, further_micro: tuple[int, ...]) -> int:
    # A comparison instead of `max`, because every call passes here.
    dearest_in, dearest_out = rates.input_nano_per_1m, rates.output_nano_per_1m
    if (cached := rates.cached_nano_per_1m) is not None and cached > dearest_in:
        dearest_in = cached
    if (written := rates.cache_write_5m_nano_per_1m) is not None and written > dearest_in:
        dearest_in = written
    if (reasoning := rates.reasoning_nano_per_1m) is not None and reasoning > dearest_out:
        dearest_out = reasoning
    if wide:
        dearest_in = max(dearest_in, *[getattr(rates, name) or 0 for name in _WIDE_INPUT])
        dearest_out = max(dearest_out, *[getattr(rates, name) or 0 for name in _WIDE_OUTPUT])
    millionths = (
        upper.input_total * dearest_in
        + upper.output_total * dearest_out
        + (upper.searches * rates.search_nano + upper.calls * rates.call_nano) * PER_MILLION
    )
    if upper.video_ms or upper.images or upper.audio_ms:
        millionths += (upper.video_ms * rates.video_second_nano + upper.audio_ms * _sound_nano(rates)) * 1000
        millionths += upper.images * rates.image_nano * PER_MILLION
    if further_micro:
        return _with_ratios(millionths, (ratio_micro, *further_micro))
    return divide_half_away(millionths * ratio_micro, PER_MILLION * RATIO_ONE_MICRO)


def arithmetic(price: Price, usage: Usage, ratio_micro: int) -> list[dict[str, int | str]]:
    """The terms of a charge, for `GET /v1/requests/{id}`: units x nano per so many units."""
    return [
        {"class": name, "units": units, "nano_usd": nano, "per_units": per, "ratio_micro": ratio_micro}
        for name, units, nano, per in _terms(rates_for(price, usage.input_total), usage)
    ]


def _terms(rates: Rates, usage: Usage) -> list[tuple[str, int, int, int]]:
    """(class, units, nano, per how many units) of every class that has units and a rate."""
    terms = []
    for name, own, _ in _PER_MILLION:
        units = getattr(usage, name)
        if units:
            terms.append((name, units, _rate(rates, own), PER_MILLION))
    terms += [(name, getattr(usage, name), getattr(rates, rate), per) for name, rate, per in _APART]
    terms.append(("audio_ms", usage.audio_ms, _sound_nano(rates), 1000))
    return [term for term in terms if term[1] and term[2]]
