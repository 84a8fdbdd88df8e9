"""The sandbox's Bedrock models of vendors other than Anthropic: features and prices.

Which features a model has is AWS's own table ("Supported models and model features" of the Converse API).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from elkapi.sandbox.rates import Rate

THOUGHT_TOKENS = 6


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One line of models. `choices` are the supported forced tool choices, `fields` its additional model fields.

    `extras`: it supports the status of a tool result and cache points. `thinks_tokens`: it reasons by default.
    """

    rate: Rate
    images: bool = False
    documents: bool = True
    tools: bool = True
    choices: frozenset[str] = frozenset()
    extras: bool = False
    thinks_tokens: int = 0
    fields: frozenset[str] = frozenset()


def _rate(input_nano_usd: int, output_nano_usd: int) -> Rate:
    """Cache reads cost a quarter of the input, and writes the same."""
    return Rate(input=input_nano_usd, output=output_nano_usd, cached=input_nano_usd // 4, cache_write=input_nano_usd)


_NOVA: dict[str, Any] = {
    "choices": frozenset({"any", "tool"}),
    "extras": True,
    "fields": frozenset({"inferenceConfig", "reasoningConfig"}),
}
# The first pattern that matches the model's name applies.
_ROWS: tuple[tuple[str, Model], ...] = (
    (r"amazon\.nova-micro-.*", Model(rate=_rate(35, 140), documents=False, **_NOVA)),
    (r"amazon\.nova-lite-.*", Model(rate=_rate(60, 240), images=True, **_NOVA)),
    (r"amazon\.nova-.*", Model(rate=_rate(800, 3200), images=True, **_NOVA)),
    (r"meta\.llama(4|3-2-(11|90)b)-.*", Model(rate=_rate(240, 970), images=True)),
    (r"meta\.llama.*", Model(rate=_rate(720, 720))),
    (r"mistral\.mistral-large-.*", Model(rate=_rate(2000, 6000), choices=frozenset({"any"}))),
    (r"deepseek\..*", Model(rate=_rate(1350, 5400), tools=False, thinks_tokens=THOUGHT_TOKENS)),
)
_PREFIX = re.compile(r"(?:arn:[^ ]*/)?(?:(?:us|eu|apac|jp|au|global)\.)?")


def find(model_id: str) -> tuple[str, Model] | None:
    """The model's name without region or ARN, and its model line; None for an unknown vendor."""
    prefix = _PREFIX.match(model_id)
    name = model_id[prefix.end() :] if prefix else model_id
    for pattern, model in _ROWS:
        if re.fullmatch(pattern, name):
            return name, model
    return None
