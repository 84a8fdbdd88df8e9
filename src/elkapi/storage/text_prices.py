"""Public list prices of text models other than OpenAI's and Anthropic's, as a fresh installation starts with them.

In US dollars per million tokens, from the makers' own pages (named at each table) as of November 2026, where the price
tables of LiteLLM, models.dev and genai-prices agree on them. The operator's own records replace them. Left out is what
they do not agree on, names that change their model ("-latest", unless it has one price), and prices in another
currency. What an operator cannot lose by stands for what a record cannot say: the price of DeepSeek's peak hours, and
the price after an introduction that ends on a set day.
"""

from __future__ import annotations

from typing import Any

from elkapi.money import parse_usd
from elkapi.types import Amounts, Tier, Variant

# Input, cached input, output.
_Rates = tuple[str, str, str]
# Audio input, cached audio input.
_Sound = tuple[str, str]

# ai.google.dev/gemini-api/docs/pricing: standard, priority and flex. Until the end of 2026 Google takes half of this
# for Gemini 3.6 to 3.8 Flash.
_FLASH: tuple[_Rates, _Rates, _Rates] = (("1.50", "0.15", "7.50"), ("2.70", "0.27", "13.50"), ("0.75", "0.075", "3.75"))
_GEMINI: dict[str, tuple[_Rates, _Rates, _Rates]] = {
    "gemini-3-flash-preview": (("0.50", "0.05", "3"), ("0.90", "0.09", "5.40"), ("0.25", "0.05", "1.50")),
    "gemini-3.1-flash-lite": (("0.25", "0.025", "1.50"), ("0.45", "0.045", "2.70"), ("0.125", "0.0125", "0.75")),
    "gemini-3.1-pro-preview": (("2", "0.20", "12"), ("3.60", "0.36", "21.60"), ("1", "0.20", "6")),
    "gemini-3.5-flash": (("1.50", "0.15", "9"), ("2.70", "0.27", "16.20"), ("0.75", "0.08", "4.50")),
    "gemini-3.5-flash-lite": (("0.30", "0.03", "2.50"), ("0.54", "0.05", "4.50"), ("0.15", "0.02", "1.25")),
    "gemini-3.6-flash": _FLASH,
    "gemini-3.7-flash": _FLASH,
    "gemini-3.8-flash": _FLASH,
    "gemini-4-argon": (("4", "0.20", "20"), ("7.20", "0.36", "36"), ("2", "0.10", "10")),
    "gemini-4-hydrogen": (("1.50", "0.075", "7.50"), ("2.70", "0.135", "13.50"), ("0.75", "0.0375", "3.75")),
}
# The same above LONG_GEMINI_TOKENS of input.
_GEMINI_LONG: dict[str, tuple[_Rates, _Rates, _Rates]] = {
    "gemini-3.1-pro-preview": (("4", "0.40", "18"), ("7.20", "0.72", "32.40"), ("2", "0.40", "9")),
}
LONG_GEMINI_TOKENS = 200_000
# Audio of the models whose audio has a price of its own, again standard, priority and flex.
_GEMINI_SOUND: dict[str, tuple[_Sound, _Sound, _Sound]] = {
    "gemini-3-flash-preview": (("1", "0.10"), ("1.80", "0.18"), ("0.50", "0.10")),
    "gemini-3.1-flash-lite": (("0.50", "0.05"), ("0.90", "0.09"), ("0.25", "0.025")),
}
_GEMINI_SEARCH_USD = "0.014"
_GEMINI_TIERS = ((), ("priority",), ("flex",))

# docs.x.ai/developers/pricing. From 200,000 tokens of input on, that number included, everything costs twice.
_XAI: dict[str, _Rates] = {
    "grok-4.20-0309-non-reasoning": ("1.25", "0.20", "2.50"),
    "grok-4.20-0309-reasoning": ("1.25", "0.20", "2.50"),
    "grok-4.3": ("1.25", "0.20", "2.50"),
    "grok-4.5": ("2", "0.30", "6"),
    "grok-4.6": ("2", "0.50", "6"),
    "grok-4.7": ("2", "0.50", "6"),
    "grok-build-0.1": ("1", "0.20", "2"),
}
SHORT_GROK_TOKENS = 199_999
_XAI_SEARCH_USD = "0.005"

_PLAIN: dict[str, _Rates] = {
    # api-docs.deepseek.com/quick_start/pricing: peak hours; at other times everything costs half.
    "deepseek-flash": ("0.30", "0.006", "1.20"),
    "deepseek-v4-flash": ("0.30", "0.006", "1.20"),
    "deepseek-v4-pro": ("1.32", "0.044", "3.96"),
    # docs.mistral.ai/inference/pricing
    "codestral-2508": ("0.30", "0.03", "0.90"),
    "ministral-3b-2512": ("0.10", "0.01", "0.10"),
    "ministral-8b-2512": ("0.15", "0.015", "0.15"),
    "ministral-14b-2512": ("0.20", "0.02", "0.20"),
    "mistral-large-2512": ("0.50", "0.05", "1.50"),
    "mistral-large-4": ("0.70", "0.07", "2.10"),
    "mistral-medium-2604": ("1.50", "0.15", "7.50"),
    "mistral-medium-3-5": ("1.50", "0.15", "7.50"),
    "mistral-medium-latest": ("1.50", "0.15", "7.50"),
    "mistral-small-2603": ("0.15", "0.015", "0.60"),
    "mistral-small-latest": ("0.15", "0.015", "0.60"),
    # platform.kimi.ai/docs/pricing/chat
    "kimi-k2.6": ("0.95", "0.16", "4"),
    "kimi-k2.7-code": ("0.95", "0.19", "4"),
    "kimi-k2.7-code-highspeed": ("1.90", "0.38", "8"),
    "kimi-k3": ("3", "0.30", "15"),
    "kimi-k3.1-pro": ("2", "0.20", "10"),
    "kimi-k3.1-pro-highspeed": ("4", "0.20", "20"),
    # docs.z.ai/guides/overview/pricing; open.bigmodel.cn sells the same models in yuan.
    "glm-4.5": ("0.60", "0.11", "2.20"),
    "glm-4.5-air": ("0.20", "0.03", "1.10"),
    "glm-4.6": ("0.60", "0.11", "2.20"),
    "glm-4.7": ("0.60", "0.11", "2.20"),
    "glm-5": ("1", "0.20", "3.20"),
    "glm-5.1": ("1.40", "0.26", "4.40"),
    "glm-5.2": ("1.40", "0.26", "4.40"),
    "glm-5.3": ("1.40", "0.26", "4.40"),
    "glm-5.3-flash": ("0.15", "0.03", "0.50"),
    # alibabacloud.com/help/en/model-studio, Singapore
    "qwen3.7-max": ("2.50", "0.50", "7.50"),
    # platform.minimax.io/docs/pricing
    "MiniMax-M2.5": ("0.30", "0.03", "1.20"),
    "MiniMax-M2.7": ("0.30", "0.06", "1.20"),
    "MiniMax-M3": ("0.30", "0.06", "1.20"),
    "MiniMax-M3.1-Flash": ("0.15", "0.015", "0.60"),
}
# The models of that table that cost more above so many tokens of input.
_PLAIN_LONG: dict[str, tuple[int, _Rates]] = {"MiniMax-M3": (512_000, ("0.60", "0.12", "2.40"))}
# What a write of their cache costs, for five minutes and for an hour, where it is not the input's price.
_WRITES: dict[str, tuple[str, str | None]] = {
    "kimi-k3": ("3", "6"),
    "kimi-k3.1-pro": ("2", "4"),
    "kimi-k3.1-pro-highspeed": ("4", "8"),
    "qwen3.7-max": ("3.125", None),
    "MiniMax-M2.5": ("0.375", None),
    "MiniMax-M2.7": ("0.375", None),
}


def text_prices() -> dict[str, Amounts]:
    """The records of this module's models, by model."""
    found = {model: _plain(model) for model in _PLAIN}
    found |= {model: _grok(prices) for model, prices in _XAI.items()}
    return found | {model: _gemini(model) for model in _GEMINI}


def text_rates(given: str, cached: str, out: str, times: int = 1) -> dict[str, Any]:
    """The rates of input, cached input and output, from US dollars per million tokens."""
    names = ("input_nano_per_1m", "cached_nano_per_1m", "output_nano_per_1m")
    return {name: parse_usd(usd) * times for name, usd in zip(names, (given, cached, out), strict=True)}


def _plain(model: str) -> Amounts:
    rates = text_rates(*_PLAIN[model])
    if model in _WRITES:
        short, long = _WRITES[model]
        rates["cache_write_5m_nano_per_1m"] = parse_usd(short)
        rates["cache_write_1h_nano_per_1m"] = parse_usd(long if long is not None else short)
    tiers: tuple[Tier, ...] = ()
    if model in _PLAIN_LONG:
        above, prices = _PLAIN_LONG[model]
        tiers = (Tier(above_tokens=above, **text_rates(*prices)),)
    return Amounts(**rates, tiers=tiers)


def _grok(prices: _Rates) -> Amounts:
    search_nano = parse_usd(_XAI_SEARCH_USD)
    long = Tier(above_tokens=SHORT_GROK_TOKENS, **text_rates(*prices, times=2), search_nano=search_nano)
    return Amounts(**text_rates(*prices), search_nano=search_nano, tiers=(long,))


def _gemini(model: str) -> Amounts:
    sounds, longs = _GEMINI_SOUND.get(model), _GEMINI_LONG.get(model)

    def rates(place: int, long: bool = False) -> dict[str, Any]:
        found = text_rates(*(longs if long and longs else _GEMINI[model])[place])
        if sounds is not None:
            heard, again = sounds[place]
            found |= {"audio_input_nano_per_1m": parse_usd(heard), "cached_audio_nano_per_1m": parse_usd(again)}
        return found | {"search_nano": parse_usd(_GEMINI_SEARCH_USD)}

    variants: list[Variant] = []
    for place, words in enumerate(_GEMINI_TIERS):
        if words and longs is not None:
            long_rates = rates(place, long=True)
            variants.append(Variant(when={"service_tier": words}, above_tokens=LONG_GEMINI_TOKENS, **long_rates))
        if words:
            variants.append(Variant(when={"service_tier": words}, **rates(place)))
    tiers = () if longs is None else (Tier(above_tokens=LONG_GEMINI_TOKENS, **rates(0, long=True)),)
    return Amounts(**rates(0), tiers=tiers, variants=tuple(variants))
