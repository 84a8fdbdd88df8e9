"""Reads a MiniMax video request: models, durations, resolutions and images, with its error codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.pictures import png_size
from elkapi.sandbox.providers.bodies import decoded_base64, is_address, object_of
from elkapi.sandbox.strict import strictly

BAD_PARAMETERS = "2013"
PROMPT_CHARS_MAX = 2_000
PICTURE_BYTES_MAX = 20 * 1024 * 1024
PICTURE_SIDE_PX_MIN = 300
HAILUO = ("MiniMax-Hailuo-2.3", "MiniMax-Hailuo-2.3-Fast", "MiniMax-Hailuo-02")
OLD = ("T2V-01-Director", "T2V-01", "I2V-01-Director", "I2V-01-live", "I2V-01", "S2V-01", "video-01")
VIDEO_MODELS = (*HAILUO, *OLD)
SIZES = {"512P": (912, 512), "720P": (1280, 720), "768P": (1366, 768), "1080P": (1920, 1080)}
# Nano-USD per video by model, resolution and seconds; the older models have one price.
PRICES = {
    ("MiniMax-Hailuo-2.3", "768P", 6): 280_000_000,
    ("MiniMax-Hailuo-2.3", "768P", 10): 560_000_000,
    ("MiniMax-Hailuo-2.3", "1080P", 6): 490_000_000,
    ("MiniMax-Hailuo-2.3-Fast", "768P", 6): 190_000_000,
    ("MiniMax-Hailuo-2.3-Fast", "768P", 10): 320_000_000,
    ("MiniMax-Hailuo-2.3-Fast", "1080P", 6): 330_000_000,
    ("MiniMax-Hailuo-02", "512P", 6): 100_000_000,
    ("MiniMax-Hailuo-02", "512P", 10): 150_000_000,
    ("MiniMax-Hailuo-02", "768P", 6): 280_000_000,
    ("MiniMax-Hailuo-02", "768P", 10): 560_000_000,
    ("MiniMax-Hailuo-02", "1080P", 6): 490_000_000,
}
OLD_PRICE_NANO_USD = 430_000_000
SUBJECT_PRICE_NANO_USD = 650_000_000
_DATA_URL = re.compile(r"data:image/(?:jpeg|jpg|png|webp);base64,(.*)", re.DOTALL)


class MinimaxAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested video and its price."""

    model: str
    seconds: int
    resolution: str
    callback_url: str | None
    nano_usd: int


@strictly
def read(body: bytes) -> MinimaxAsked:
    """Read a body. Raises Problem with one of MiniMax's codes."""
    given = object_of(body, _wrong)
    model = given.get("model")
    if model not in VIDEO_MODELS:
        raise invalid(f"model {model} is not supported")
    prompt = given.get("prompt") or ""
    if not isinstance(prompt, str) or len(prompt) > PROMPT_CHARS_MAX:
        raise invalid(f"prompt must be a text of at most {PROMPT_CHARS_MAX} characters")
    _pictures_checked(given, model, prompt)
    for flag in ("prompt_optimizer", "fast_pretreatment", "aigc_watermark"):
        if not isinstance(given.get(flag, False), bool):
            raise invalid(f"{flag} must be a boolean")
    seconds, resolution = given.get("duration", 6), given.get("resolution", "768P" if model in HAILUO else "720P")
    return MinimaxAsked(
        model=model,
        seconds=seconds,
        resolution=resolution,
        callback_url=_callback(given),
        nano_usd=_price(model, resolution, seconds),
    )


def invalid(why: str) -> Problem:
    """The error for invalid parameters, which MiniMax sends with status 200 and a code in the body."""
    return Problem(200, f"invalid params, {why}", code=BAD_PARAMETERS)


def _price(model: str, resolution: object, seconds: object) -> int:
    if model in HAILUO:
        price = PRICES.get((model, str(resolution), seconds if type(seconds) is int else 0))
        if price is None:
            raise invalid(f"model {model} does not support resolution {resolution} with duration {seconds}")
        return price
    if resolution != "720P" or seconds != 6:
        raise invalid(f"model {model} makes 720P videos of 6 seconds only")
    return SUBJECT_PRICE_NANO_USD if model == "S2V-01" else OLD_PRICE_NANO_USD


def _pictures_checked(given: Mapping[str, Any], model: str, prompt: str) -> None:
    first, last = given.get("first_frame_image"), given.get("last_frame_image")
    needs_first = model.startswith("I2V") or model.endswith("-Fast")
    if needs_first and first is None:
        raise invalid("first_frame_image is required")
    if last is not None and model != "MiniMax-Hailuo-02":
        raise invalid(f"model {model} does not support last_frame_image")
    if not prompt.strip() and first is None and last is None:
        raise invalid("prompt is required")
    for name, picture in (("first_frame_image", first), ("last_frame_image", last)):
        if picture is not None:
            _picture_checked(picture, name)
    subjects = given.get("subject_reference")
    if model != "S2V-01":
        return
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise invalid("subject_reference must hold one subject")
    images = subjects[0].get("image")
    if subjects[0].get("type") != "character" or not isinstance(images, list) or len(images) != 1:
        raise invalid("subject_reference needs the type character and one image")
    _picture_checked(images[0], "subject_reference")


def _picture_checked(picture: object, name: str) -> None:
    """Raise Problem for what is neither a URL nor a data URL, and for a PNG with too short a side."""
    if not isinstance(picture, str):
        raise invalid(f"{name} must be a text")
    if is_address(picture):
        return
    found = _DATA_URL.fullmatch(picture)
    if found is None:
        raise invalid(f"{name} must be an address or a data URL of a JPEG, PNG or WebP")
    content = decoded_base64(found[1])
    if content is None:
        raise invalid(f"{name} holds no valid base64")
    size = png_size(content)
    if len(content) >= PICTURE_BYTES_MAX:
        raise invalid(f"{name} must be smaller than 20MB")
    if size is not None and min(size) <= PICTURE_SIDE_PX_MIN:
        raise invalid(f"the short side of {name} must be over {PICTURE_SIDE_PX_MIN} px")
    if size is not None and not 2 / 5 <= size[0] / size[1] <= 5 / 2:
        raise invalid(f"the aspect ratio of {name} must be between 2:5 and 5:2")


def _callback(given: Mapping[str, Any]) -> str | None:
    url = given.get("callback_url")
    if url is not None and not is_address(url):
        raise invalid("callback_url must be an address")
    return url


def _wrong(name: str, why: str) -> Problem:
    return invalid(f"{name} {why}")
