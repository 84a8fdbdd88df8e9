"""The contents of a new installation: one group, one owner, the system accounts, public prices. No user, no key.

There is deliberately no default password or key: a person or `make run` creates the first key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Table

from elkapi.money import RATIO_ONE_MICRO, parse_usd
from elkapi.storage.media_prices import media_prices
from elkapi.storage.text_prices import text_prices, text_rates
from elkapi.types import Amounts, Tier, Variant

DEFAULT_GROUP = "default"
OPERATOR = "operator"

# code -> kind: the system accounts of ledger.accounts (a test compares them). Customers' accounts come with their keys.
SYSTEM_ACCOUNTS = {
    "revenue": "revenue",
    "operator-loss": "loss",
    "funding": "funding",
    "upstream": "upstream",
    "quota-funding": "funding",
    "quota-spent": "spent",
}

# Public list prices in US dollars per million tokens (input, cached input, output); the operator's own records replace
# them. OpenAI's are those of developers.openai.com/api/docs/pricing. Families with more classes or with tiers are in
# PUBLIC_RECORDS and in the tables below, other makers' models in `text_prices`.
PUBLIC_TEXT_PRICES_USD_PER_1M = {
    "gpt-4o": ("2.50", "1.25", "10"),
    "gpt-4o-mini": ("0.15", "0.075", "0.60"),
    "gpt-4.1": ("2", "0.50", "8"),
    "gpt-4.1-mini": ("0.40", "0.10", "1.60"),
    "gpt-4.1-nano": ("0.10", "0.025", "0.40"),
    "gpt-5": ("1.25", "0.125", "10"),
    "gpt-5-mini": ("0.25", "0.025", "2"),
    "gpt-5-nano": ("0.05", "0.005", "0.40"),
    "gpt-5.1": ("1.25", "0.125", "10"),
    "gpt-5.2": ("1.75", "0.175", "14"),
    "gpt-5.3-codex": ("1.75", "0.175", "14"),
    "gpt-5.4": ("2.50", "0.25", "15"),
    "gpt-5.4-mini": ("0.75", "0.075", "4.50"),
    "gpt-5.4-nano": ("0.20", "0.02", "1.25"),
    "gpt-5.5": ("5", "0.50", "30"),
    "o3": ("2", "0.50", "8"),
    "o4-mini": ("1.10", "0.275", "4.40"),
}
# The same for OpenAI's tier `priority`, which it also calls `fast`.
PUBLIC_PRIORITY_PRICES_USD_PER_1M = {
    "gpt-4o": ("4.25", "2.125", "17"),
    "gpt-4o-mini": ("0.25", "0.125", "1"),
    "gpt-4.1": ("3.50", "0.875", "14"),
    "gpt-4.1-mini": ("0.70", "0.175", "2.80"),
    "gpt-4.1-nano": ("0.20", "0.05", "0.80"),
    "gpt-5": ("2.50", "0.25", "20"),
    "gpt-5-mini": ("0.45", "0.045", "3.60"),
    "gpt-5.1": ("2.50", "0.25", "20"),
    "gpt-5.2": ("3.50", "0.35", "28"),
    "gpt-5.3-codex": ("3.50", "0.35", "28"),
    "gpt-5.4": ("5", "0.50", "30"),
    "gpt-5.4-mini": ("1.50", "0.15", "9"),
    "gpt-5.5": ("12.50", "1.25", "75"),
    "o3": ("3.50", "0.875", "14"),
    "o4-mini": ("2", "0.50", "8"),
}
# The same for OpenAI's tier `flex`.
PUBLIC_FLEX_PRICES_USD_PER_1M = {
    "gpt-5": ("0.625", "0.0625", "5"),
    "gpt-5-mini": ("0.125", "0.0125", "1"),
    "gpt-5-nano": ("0.025", "0.0025", "0.20"),
    "gpt-5.1": ("0.625", "0.0625", "5"),
    "gpt-5.2": ("0.875", "0.0875", "7"),
    "gpt-5.4": ("1.25", "0.13", "7.50"),
    "gpt-5.4-mini": ("0.375", "0.0375", "2.25"),
    "gpt-5.4-nano": ("0.10", "0.01", "0.625"),
    "gpt-5.5": ("2.50", "0.25", "15"),
    "o3": ("1", "0.25", "4"),
    "o4-mini": ("0.55", "0.138", "2.20"),
}
# The same above LONG_GPT_TOKENS of input, plain and with `flex`; `priority` has no price of its own there.
PUBLIC_LONG_PRICES_USD_PER_1M = {
    "gpt-5.4": (("5", "0.50", "22.50"), ("2.50", "0.25", "11.25")),
    "gpt-5.5": (("10", "1", "45"), ("5", "0.50", "22.50")),
}
# A web search costs the same with each tool of these OpenAI models.
PUBLIC_SEARCH_PRICES_USD = dict.fromkeys(
    (*(model for model in PUBLIC_TEXT_PRICES_USD_PER_1M if model.startswith("gpt-5")), "o3", "o4-mini"), "0.01"
)
# OpenAI's models since GPT-5.6 (input, cached input, output). Writing their cache costs 1.25 times the input, for 12
# hours twice. Above LONG_GPT_TOKENS of input, input and cache cost twice and output 1.5 times. `priority` costs twice,
# `flex` half.
PUBLIC_GPT_PRICES_USD_PER_1M = {
    "gpt-5.6": ("4", "0.40", "20"),
    "gpt-5.6-sol": ("4", "0.40", "20"),
    "gpt-5.6-terra": ("2", "0.20", "12"),
    "gpt-5.6-luna": ("0.20", "0.02", "1.20"),
    "gpt-6.2-sol": ("2", "0.10", "10"),
    "gpt-6.1-sol": ("2", "0.10", "10"),
    "gpt-6.1-terra": ("1", "0.05", "5"),
    "gpt-6-sol": ("2", "0.20", "10"),
    "gpt-6-luna": ("0.10", "0.01", "0.50"),
    "gpt-6-astra": ("10", "1", "50"),
}
LONG_GPT_TOKENS = 272_000
# Input and output of Claude models; their cache is priced as fixed multiples of the input.
PUBLIC_CLAUDE_PRICES_USD_PER_1M = {
    "claude-haiku-4-5": ("1", "5"),
    "claude-haiku-5-5": ("0.10", "0.50"),
    "claude-sonnet-4-5": ("3", "15"),
    "claude-sonnet-4-6": ("3", "15"),
    "claude-sonnet-5": ("2", "10"),
    "claude-sonnet-5-5": ("2", "10"),
    "claude-opus-4-1": ("15", "75"),
    "claude-opus-4-5": ("5", "25"),
    "claude-opus-4-6": ("5", "25"),
    "claude-opus-4-7": ("5", "25"),
    "claude-opus-4-8": ("5", "25"),
    "claude-opus-5": ("5", "25"),
    "claude-opus-5-5": ("4", "20"),
    "claude-fable-5": ("10", "50"),
    "claude-fable-5-1": ("10", "50"),
}
# What a read of their cache costs where it is not a tenth of the input.
PUBLIC_CLAUDE_CACHED_USD_PER_1M = {
    "claude-sonnet-5-5": "0.10",
    "claude-opus-5-5": "0.20",
    "claude-fable-5-1": "0.25",
}
# The tokens of input above which a whole call costs this instead.
PUBLIC_CLAUDE_LONG_USD_PER_1M = {"claude-haiku-5-5": (100_000, "0.50", "2.50")}


def _tier(*words: str) -> dict[str, tuple[str, ...]]:
    return {"service_tier": words}


def _searching(given: str, cached: str, out: str) -> dict[str, Any]:
    """The rates of a model of Google's before Gemini 3, with that of a call that searched."""
    return text_rates(given, cached, out) | {"search_nano": parse_usd("0.035")}


def _hearing(given: str, cached: str, out: str, heard: str, heard_again: str) -> dict[str, Any]:
    """The same with a separate price for audio input; `heard_again` is that of cached audio."""
    rates = {"audio_input_nano_per_1m": parse_usd(heard), "cached_audio_nano_per_1m": parse_usd(heard_again)}
    return _searching(given, cached, out) | rates


PUBLIC_RECORDS = {
    "gemini-2.5-pro": Amounts(
        **_searching("1.25", "0.125", "10"),
        tiers=(Tier(above_tokens=200_000, **_searching("2.50", "0.25", "15")),),
        variants=(
            Variant(when=_tier("priority"), above_tokens=200_000, **_searching("4.50", "0.45", "27")),
            Variant(when=_tier("priority"), **_searching("2.25", "0.225", "18")),
            Variant(when=_tier("flex"), above_tokens=200_000, **_searching("1.25", "0.25", "7.50")),
            Variant(when=_tier("flex"), **_searching("0.625", "0.125", "5")),
        ),
    ),
    "gemini-2.5-flash": Amounts(
        **_hearing("0.30", "0.03", "2.50", "1", "0.10"),
        variants=(
            Variant(when=_tier("priority"), **_hearing("0.54", "0.054", "4.50", "1.80", "0.18")),
            Variant(when=_tier("flex"), **_hearing("0.15", "0.03", "1.25", "0.50", "0.10")),
        ),
    ),
    "gemini-2.5-flash-lite": Amounts(
        **_hearing("0.10", "0.01", "0.40", "0.30", "0.03"),
        variants=(
            Variant(when=_tier("priority"), **_hearing("0.18", "0.018", "0.72", "0.54", "0.054")),
            Variant(when=_tier("flex"), **_hearing("0.05", "0.01", "0.20", "0.15", "0.03")),
        ),
    ),
}
# Embedding models, per million input tokens.
PUBLIC_PRICES_USD_PER_1M = {
    "text-embedding-3-small": "0.02",
    "text-embedding-3-large": "0.13",
    "text-embedding-ada-002": "0.10",
    "gemini-embedding-001": "0.15",
    "mistral-embed": "0.10",
}
SEED_SOURCE = "seed"


def seed(connection: Connection, tables: Mapping[str, Table], now_ns: int) -> None:
    """Fill the newly created tables; runs once, in the migration that creates them, with that migration's tables."""
    connection.execute(
        tables["meta"].insert(), [{"name": "config_version", "value": "1"}, {"name": "routing_version", "value": "1"}]
    )
    connection.execute(
        tables["groups"].insert(), {"name": DEFAULT_GROUP, "ratio_micro": RATIO_ONE_MICRO, "description": ""}
    )
    connection.execute(tables["owners"].insert(), {"name": OPERATOR, "created_ns": now_ns})
    connection.execute(
        tables["accounts"].insert(), [{"code": code, "kind": kind} for code, kind in SYSTEM_ACCOUNTS.items()]
    )
    connection.execute(
        tables["prices"].insert(),
        [
            {
                "model": model,
                "version": 1,
                "record": msgspec.json.encode(amounts).decode(),
                "source": SEED_SOURCE,
                "created_ns": now_ns,
            }
            for model, amounts in public_prices().items()
        ],
    )


def public_prices() -> dict[str, Amounts]:
    """Every seeded record, by model."""
    found = {model: Amounts(input_nano_per_1m=parse_usd(usd)) for model, usd in PUBLIC_PRICES_USD_PER_1M.items()}
    for model, prices in PUBLIC_TEXT_PRICES_USD_PER_1M.items():
        search_nano = parse_usd(PUBLIC_SEARCH_PRICES_USD.get(model, "0"))
        long = PUBLIC_LONG_PRICES_USD_PER_1M.get(model)
        tiers = () if long is None else (_long_tier(*long[0], search_nano),)
        variants = _variants(model, search_nano)
        found[model] = Amounts(**text_rates(*prices), search_nano=search_nano, tiers=tiers, variants=variants)
    for model, prices in PUBLIC_GPT_PRICES_USD_PER_1M.items():
        found[model] = _gpt(*prices)
    for model, (given, out) in PUBLIC_CLAUDE_PRICES_USD_PER_1M.items():
        cached = PUBLIC_CLAUDE_CACHED_USD_PER_1M.get(model)
        above = PUBLIC_CLAUDE_LONG_USD_PER_1M.get(model)
        tiers = () if above is None else (Tier(above_tokens=above[0], **_claude_rates(*above[1:])),)
        found[model] = Amounts(**_claude_rates(given, out, cached), tiers=tiers)
    return found | PUBLIC_RECORDS | text_prices() | media_prices()


def _gpt(given: str, cached: str, out: str) -> Amounts:
    def rates(halves: int, out_quarters: int) -> dict[str, Any]:
        nano = parse_usd(given) * halves // 2
        return {
            "input_nano_per_1m": nano,
            "cached_nano_per_1m": parse_usd(cached) * halves // 2,
            "cache_write_5m_nano_per_1m": nano * 5 // 4,
            "cache_write_1h_nano_per_1m": nano * 2,
            "output_nano_per_1m": parse_usd(out) * out_quarters // 4,
            "search_nano": parse_usd("0.01"),
        }

    priority, flex = _tier("priority", "fast"), _tier("flex")
    return Amounts(
        **rates(2, 4),
        tiers=(Tier(above_tokens=LONG_GPT_TOKENS, **rates(4, 6)),),
        variants=(
            Variant(when=priority, above_tokens=LONG_GPT_TOKENS, **rates(8, 12)),
            Variant(when=priority, **rates(4, 8)),
            Variant(when=flex, above_tokens=LONG_GPT_TOKENS, **rates(2, 3)),
            Variant(when=flex, **rates(1, 2)),
        ),
    )


def _long_tier(given: str, cached: str, out: str, search_nano: int) -> Tier:
    return Tier(above_tokens=LONG_GPT_TOKENS, **text_rates(given, cached, out), search_nano=search_nano)


def _claude_rates(given: str, out: str, cached: str | None = None) -> dict[str, Any]:
    nano = parse_usd(given)
    return {
        "input_nano_per_1m": nano,
        "cached_nano_per_1m": nano // 10 if cached is None else parse_usd(cached),
        "cache_write_5m_nano_per_1m": nano * 5 // 4,
        "cache_write_1h_nano_per_1m": nano * 2,
        "output_nano_per_1m": parse_usd(out),
        "search_nano": parse_usd("0.01"),
    }


def _variants(model: str, search_nano: int) -> tuple[Variant, ...]:
    """The rates of an OpenAI model at its other tiers; a search costs the same at each."""
    found = []
    if (long := PUBLIC_LONG_PRICES_USD_PER_1M.get(model)) is not None:
        rates = text_rates(*long[1]) | {"search_nano": search_nano}
        found.append(Variant(when=_tier("flex"), above_tokens=LONG_GPT_TOKENS, **rates))
    for prices, words in (
        (PUBLIC_PRIORITY_PRICES_USD_PER_1M, ("priority", "fast")),
        (PUBLIC_FLEX_PRICES_USD_PER_1M, ("flex",)),
    ):
        if model in prices:
            found.append(Variant(when=_tier(*words), **text_rates(*prices[model]), search_nano=search_nano))
    return tuple(found)
