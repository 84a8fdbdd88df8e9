"""The sandbox's Gemini models: features, limits and prices."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.rates import Rate


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `signs_calls`: function calls must be returned with their signature; `pictures`: generates images."""

    rate: Rate
    thinks: bool
    always_thinks: bool
    signs_calls: bool
    pictures: bool
    input_tokens_max: int = 1_048_576
    output_tokens_max: int = 65_536


class Embedder(msgspec.Struct, frozen=True):
    """One embedding model."""

    dimensions: int
    nano_usd_per_token: int
    input_tokens_max: int = 2_048


RATES = {
    "pro": Rate(input=1_250, output=10_000, cached=125, cache_write=1_250),
    "flash": Rate(input=300, output=2_500, cached=30, cache_write=300),
    "flash-lite": Rate(input=100, output=400, cached=10, cache_write=100),
}
LISTED = {
    "gemini-3-pro-preview": "Gemini 3 Pro",
    "gemini-3-flash-preview": "Gemini 3 Flash",
    "gemini-3-pro-image-preview": "Gemini 3 Pro Image",
    "gemini-2.5-pro": "Gemini 2.5 Pro",
    "gemini-2.5-flash": "Gemini 2.5 Flash",
    "gemini-2.5-flash-lite": "Gemini 2.5 Flash-Lite",
    "gemini-2.5-flash-image": "Gemini 2.5 Flash Image",
    "gemini-2.0-flash": "Gemini 2.0 Flash",
}
EMBEDDERS = {
    "gemini-embedding-001": Embedder(3072, 150),
    "text-embedding-004": Embedder(768, 0),
    "text-embedding-005": Embedder(768, 25),
}
_NAME = re.compile(r"gemini-([1-9](?:\.[0-9])?)-(pro|flash-lite|flash)((?:-[a-z0-9]+)*)")


def model_of(name: str) -> Model:
    """The model of any Gemini name in the usual format, including previews and dated ones. Raises Problem 404."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise no_such_model(name)
    version, line, rest = float(found[1]), found[2], found[3]
    pictures = "-image" in rest
    return Model(
        rate=RATES[line],
        thinks=version >= 2.5 and not (pictures and version < 3),
        always_thinks=version >= 2.5 and line == "pro",
        signs_calls=version >= 3,
        pictures=pictures,
    )


def embedder_of(name: str) -> Embedder:
    """An embedding model. Raises Problem 404."""
    if name not in EMBEDDERS:
        raise no_such_model(name)
    return EMBEDDERS[name]


def listed(name: str) -> dict[str, Any]:
    """One entry of the model list. Raises Problem 404."""
    if name in EMBEDDERS:
        limits = {"inputTokenLimit": EMBEDDERS[name].input_tokens_max, "outputTokenLimit": 1}
        methods = ["embedContent", "countTextTokens", "countTokens"]
        return {
            "name": f"models/{name}",
            "version": "001",
            "displayName": name,
            **limits,
            "supportedGenerationMethods": methods,
        }
    if name not in LISTED:
        raise no_such_model(name)
    model = model_of(name)
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": LISTED[name],
        "description": f"{LISTED[name]}, as the sandbox plays it",
        "inputTokenLimit": model.input_tokens_max,
        "outputTokenLimit": model.output_tokens_max,
        "supportedGenerationMethods": ["generateContent", "countTokens", "createCachedContent", "batchGenerateContent"],
        "temperature": 1,
        "topP": 0.95,
        "topK": 64,
        "maxTemperature": 2,
        "thinking": model.thinks,
    }


def no_such_model(name: str, method: str = "generateContent") -> Problem:
    """The 404 for a model that does not support this method."""
    message = (
        f"models/{name} is not found for API version v1beta, or is not supported for {method}. Call ListModels to see "
        "the list of available models and their supported methods."
    )
    return Problem(404, message)
