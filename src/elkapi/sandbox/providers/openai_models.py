"""OpenAI's text models in the sandbox: names, token prices and reasoning."""

from __future__ import annotations

from elkapi.sandbox.rates import Rate

UNKNOWN_PREFIX = "no-such"
"""A model whose name begins so is unknown; any other name is served, so that a compatible provider's models are too."""

CREATED = 1_735_689_600
"""When a text model was made, Unix seconds, in model lists."""

THINKS_TOKENS = {"none": 0, "minimal": 2, "low": 4, "medium": 8, "high": 16, "xhigh": 32, "max": 64}
"""How long a model thinks at each reasoning effort."""


def _rate(input_nano: int, output_nano: int, cached_nano: int) -> Rate:
    return Rate(input=input_nano, output=output_nano, cached=cached_nano, cache_write=input_nano)


# Nano-USD per token: US dollars per million tokens, times a thousand.
TEXT_MODELS = {
    "gpt-5": _rate(1250, 10_000, 125),
    "gpt-5-mini": _rate(250, 2000, 25),
    "gpt-4.1": _rate(2000, 8000, 500),
    "gpt-4.1-mini": _rate(400, 1600, 100),
    "gpt-4o": _rate(2500, 10_000, 1250),
    "gpt-4o-mini": _rate(150, 600, 75),
    "o3": _rate(2000, 8000, 500),
    "o4-mini": _rate(1100, 4400, 275),
    "gpt-3.5-turbo-instruct": _rate(1500, 2000, 1500),
    "deepseek-chat": _rate(270, 1100, 70),
    "deepseek-reasoner": _rate(550, 2190, 140),
}
OTHER_RATE = _rate(1000, 4000, 250)


def rate_of(name: str) -> Rate:
    """The price record of a served model; names without one of their own share `OTHER_RATE`."""
    return TEXT_MODELS.get(name, OTHER_RATE)


def shows_thinking(name: str) -> bool:
    """Whether a model's thoughts are shown, as the open models behind compatible providers do."""
    return "deepseek" in name.lower() or "reasoner" in name.lower()


def thinks_tokens(name: str, effort: object) -> int:
    """The thinking tokens of a model: by the requested effort; reasoning models have a default."""
    if isinstance(effort, str):
        return THINKS_TOKENS[effort]
    return THINKS_TOKENS["medium"] if "reasoner" in name.lower() else 0
