"""Reads a request of Pika's universal API as resellers serve it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.bodies import decoded_base64, is_address, object_of
from elkapi.sandbox.strict import strictly

SECONDS = 5
EXTENDED_SECONDS = 9
HEIGHT_PX = 720
MODELS = ("1.5", "2.0")
MODEL_DEFAULT = "1.5"
NANO_USD = {"1.5": 200_000_000, "2.0": 350_000_000}
EFFECTS = (
    "", "Levitate", "Decapitate", "Eye-pop", "Ta-da", "Deflate", "Crumble", "Dissolve", "Squish", "Inflate", "Melt",
    "Crush", "Cake-ify", "Explode",
)  # fmt: skip
RATIO_DEFAULT = 16 / 9
RATIOS = (0.2, 5.0)
CAMERA = {"zoom": ("in", "out"), "pan": ("left", "right"), "tilt": ("up", "down"), "rotate": ("cw", "ccw")}


class PikaAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested video."""

    model: str
    prompt: str
    seconds: int
    width: int
    height: int
    seed: int


@strictly
def read(body: bytes) -> PikaAsked:
    """Read a body. Raises Problem."""
    given = object_of(body, _wrong)
    prompt = given.get("promptText")
    if not isinstance(prompt, str) or not prompt.strip():
        raise invalid("promptText is required")
    model = given.get("model", MODEL_DEFAULT)
    if model not in MODELS:
        raise invalid(f"model must be one of {', '.join(MODELS)}, as a string")
    if given.get("pikaffect", "") not in EFFECTS:
        raise invalid(f"pikaffect must be one of {', '.join(EFFECTS[1:])}")
    for name in ("image", "video"):
        if name in given:
            _medium_checked(given[name], name)
    options = _part(given, "options")
    ratio = _number(options, "aspectRatio", *RATIOS, RATIO_DEFAULT)
    _number(options, "frameRate", 8, 24, 24)
    for name, word in _part(options, "camera", optional=True).items():
        if name not in CAMERA or word not in CAMERA[name]:
            raise invalid(f"options.camera.{name} cannot be {word!r}")
    parameters = _part(options, "parameters")
    _number(parameters, "guidanceScale", 5, 25, 12)
    _number(parameters, "motion", 0, 4, 1)
    if not isinstance(parameters.get("negativePrompt", ""), str):
        raise invalid("options.parameters.negativePrompt must be a string")
    extends = options.get("extend")
    if not isinstance(extends, bool):
        raise invalid("options.extend is required, a boolean")
    if extends and "video" not in given:
        raise invalid("video is required to extend")
    return PikaAsked(
        model=model,
        prompt=prompt,
        seconds=EXTENDED_SECONDS if extends else SECONDS,
        width=round(HEIGHT_PX * ratio / 2) * 2,
        height=HEIGHT_PX,
        seed=int(_number(parameters, "seed", 0, 2**53, 39)),
    )


def invalid(why: str) -> Problem:
    """The 400 for an invalid body, with the resellers' code."""
    return Problem(400, why, code="invalid_request")


def _part(given: Mapping[str, Any], name: str, *, optional: bool = False) -> dict[str, Any]:
    part = given.get(name, {} if optional else None)
    if not isinstance(part, dict):
        raise invalid(f"{name} is required, an object")
    return part


def _number(given: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid(f"{name} must be a number from {low:g} to {high:g}")
    return value


def _medium_checked(value: object, name: str) -> None:
    text = value if isinstance(value, str) else ""
    if not is_address(text) and not decoded_base64(text.partition("base64,")[2] or text):
        raise invalid(f"{name} must be an address or base64, and not empty")


def _wrong(name: str, why: str) -> Problem:
    return invalid(f"{name} {why}")
