"""Usage x price x group ratio -> nano-USD: the one price function, for quotes and for charges alike (guarantee 29)."""

from __future__ import annotations

import msgspec

from elkapi.money import PER_MILLION, RATIO_ONE_MICRO, divide_half_away
from elkapi.types import Price, Quote, Usage


def amount_nano(price: Price, usage: Usage, ratio_micro: int) -> int:
    """The amount of `usage`, rounded half away from zero once, at the very end. Never negative."""
    cached_nano = price.input_nano_per_1m if price.cached_nano_per_1m is None else price.cached_nano_per_1m
    millionths = (
        usage.input_tokens * price.input_nano_per_1m
        + usage.cached_tokens * cached_nano
        + usage.output_tokens * price.output_nano_per_1m
        + usage.calls * price.call_nano * PER_MILLION
    )
    return divide_half_away(millionths * ratio_micro, PER_MILLION * RATIO_ONE_MICRO)


def quote(price: Price, group: str, ratio_micro: int, upper: Usage) -> Quote:
    """The most a call may cost; cached units are assumed to be absent, since they may be cheaper or dearer.

    The dearer of the two input prices bounds the input, so the quote holds whichever class the upstream reports.
    """
    bound = price
    if price.cached_nano_per_1m is not None and price.cached_nano_per_1m > price.input_nano_per_1m:
        bound = msgspec.structs.replace(price, input_nano_per_1m=price.cached_nano_per_1m)
    return Quote(price, group, ratio_micro, upper, amount_nano(bound, upper, ratio_micro))


def arithmetic(price: Price, usage: Usage, ratio_micro: int) -> list[dict[str, int]]:
    """The terms behind a charge, for `GET /v1/requests/{id}`: units x nano per million (or per call)."""
    cached_nano = price.input_nano_per_1m if price.cached_nano_per_1m is None else price.cached_nano_per_1m
    terms = (
        ("input_tokens", usage.input_tokens, price.input_nano_per_1m, PER_MILLION),
        ("cached_tokens", usage.cached_tokens, cached_nano, PER_MILLION),
        ("output_tokens", usage.output_tokens, price.output_nano_per_1m, PER_MILLION),
        ("calls", usage.calls, price.call_nano, 1),
    )
    return [
        {"class": name, "units": units, "nano_usd": nano, "per_units": per, "ratio_micro": ratio_micro}  # type: ignore[dict-item]
        for name, units, nano, per in terms
        if units and nano
    ]
