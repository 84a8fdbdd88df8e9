"""Reads a Seedance task in Ark's format: content, typed fields, and the switches in the text of old models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers import ark_models
from elkapi.sandbox.providers.ark_models import RATIOS, RESOLUTIONS, Model
from elkapi.sandbox.providers.bodies import is_address, object_of
from elkapi.sandbox.strict import strictly

SECONDS_DEFAULT = 5
SEED_MAX = 2**32 - 1
EXPIRES_AFTER_S = (3_600, 259_200)
EXPIRES_AFTER_DEFAULT_S = 172_800
TIERS = ("default", "flex")
FRAME_ROLES = ("first_frame", "last_frame")
REFERENCES_MAX = 15
# The roles of each kind of content.
ROLES: dict[str, tuple[str, ...]] = {
    "image_url": (*FRAME_ROLES, "reference_image"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
_SWITCH = re.compile(r"\s--(\w+)\s+(\S+)")
_SWITCHES = {
    "rs": "resolution", "resolution": "resolution", "rt": "ratio", "ratio": "ratio", "dur": "duration",
    "duration": "duration", "frames": "frames", "fps": "framespersecond", "seed": "seed", "cf": "camera_fixed",
    "camerafixed": "camera_fixed", "wm": "watermark", "watermark": "watermark",
}  # fmt: skip


class ArkAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One task with its effective values. `frames` is its length, `rate` is in nano-USD per token."""

    model: str
    resolution: str
    ratio: str
    frames: int
    by_frames: bool
    seed: int
    service_tier: str
    generate_audio: bool
    draft: bool
    last_frame: bool
    expires_after_s: int
    callback_url: str | None
    draft_task: str | None
    rate: int
    extras: dict[str, Any]

    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return ark_models.size(self.resolution, self.ratio)

    def tokens(self) -> int:
        """The billed tokens of the finished task."""
        return ark_models.tokens(*self.size(), self.frames)


class _Content(msgspec.Struct):
    """The combined items of a content list."""

    text: str = ""
    roles: list[str] = []
    draft_task: str | None = None


@strictly
def read(body: bytes) -> ArkAsked:
    """Read a body. Raises Problem."""
    given = object_of(body, invalid)
    name = given.get("model")
    if not isinstance(name, str) or not name:
        raise missing("model")
    model = ark_models.model_of(name)
    if model is None:
        message = f"The model or endpoint {name} does not exist or you do not have access to it."
        raise Problem(404, message, code="InvalidEndpointOrModel.NotFound", param="model")
    content = _content(given.get("content"), model)
    values = {**_switches(content, model), **{key: value for key, value in given.items() if value is not None}}
    draft = _flag(values, "draft", default=False)
    if draft and not model.drafts:
        raise invalid("draft", f"{name} makes no drafts")
    resolution = "480p" if draft else _word(values, "resolution", model.resolutions, model.resolution_default)
    ratio = _word(values, "ratio", (*RATIOS, "adaptive"), "16:9")
    frames, by_frames = _frames(values, model)
    sounds = _flag(values, "generate_audio", default=not model.old)
    tier = _word(values, "service_tier", TIERS, "default")
    if tier == "flex" and not model.flex:
        raise invalid("service_tier", f"{name} is not served offline")
    for flag in ("camera_fixed", "watermark"):
        _flag(values, flag, default=False)
    rate = model.rate_video if "reference_video" in content.roles else model.rate if sounds else model.rate_silent
    seed = _whole(values, "seed", -1, SEED_MAX, -1)
    return ArkAsked(
        model=name,
        resolution=resolution,
        ratio="16:9" if ratio == "adaptive" else ratio,
        frames=frames,
        by_frames=by_frames,
        # A default seed, the same for the same body.
        seed=len(body) * 7_919 % SEED_MAX if seed == -1 else seed,
        service_tier=tier,
        generate_audio=sounds and not model.old,
        draft=draft,
        last_frame=_flag(values, "return_last_frame", default=False),
        expires_after_s=_whole(values, "execution_expires_after", *EXPIRES_AFTER_S, EXPIRES_AFTER_DEFAULT_S),
        callback_url=_callback(values),
        draft_task=content.draft_task,
        rate=rate // 2 if tier == "flex" else rate,
        extras={key: values[key] for key in ("safety_identifier", "priority", "tools") if key in values},
    )


def invalid(name: str, why: str) -> Problem:
    """The 400 for an invalid parameter."""
    message = f"The parameter `{name}` specified in the request are not valid: {why}."
    return Problem(400, message, code="InvalidParameter", param=name)


def missing(name: str) -> Problem:
    """The 400 for a missing parameter."""
    message = f"The request failed because it is missing `{name}` parameter."
    return Problem(400, message, code="MissingParameter", param=name)


def _content(items: object, model: Model) -> _Content:
    if items is None:
        raise missing("content")
    if not isinstance(items, list) or not items:
        raise invalid("content", "it must be a list of at least one item")
    content = _Content()
    for index, item in enumerate(items):
        _read_item(item, f"content[{index}]", content)
    if content.draft_task is not None and not model.drafts:
        raise invalid("content", "this model takes no draft task")
    if not (content.text.strip() or content.roles or content.draft_task):
        raise invalid("content", "it holds neither a text nor a picture")
    content.roles = _named(content.roles, model)
    _roles_checked(content.roles, model)
    return content


def _read_item(item: object, at: str, content: _Content) -> None:
    kind = item.get("type") if isinstance(item, dict) else None
    held = item.get(kind) if isinstance(item, dict) and isinstance(kind, str) else None
    if kind == "text" and isinstance(held, str):
        content.text += ("\n" if content.text else "") + held
    elif kind == "draft_task" and isinstance(held, dict) and isinstance(held.get("id"), str):
        content.draft_task = held["id"]
    elif kind in ROLES and isinstance(held, dict) and isinstance(item, dict):
        _address_checked(held.get("url"), f"{at}.{kind}.url")
        role = item.get("role") or ("" if kind == "image_url" else ROLES[kind][0])
        if role and role not in ROLES[kind]:
            raise invalid(f"{at}.role", f"it must be one of {', '.join(ROLES[kind])}")
        content.roles.append(role)
    else:
        raise invalid(f"{at}.type", f"{kind!r} is no item that can be read")


def _address_checked(url: object, at: str) -> None:
    if not is_address(url, ("https://", "http://", "data:", "asset://")):
        raise invalid(at, "it must be an address, an asset or base64 data with its type")


def _named(roles: list[str], model: Model) -> list[str]:
    """The roles, with defaults for images without one: first and last frame, or references if there are more."""
    unnamed = roles.count("")
    if unnamed == len(roles) and unnamed <= len(FRAME_ROLES):
        return list(FRAME_ROLES[:unnamed])
    return [role or ("reference_image" if model.references else "first_frame") for role in roles]


def _roles_checked(roles: list[str], model: Model) -> None:
    frames = [role for role in roles if role in FRAME_ROLES]
    others = len(roles) - len(frames)
    if others and not model.references:
        raise invalid("content", "this model takes no references")
    if frames and others:
        raise invalid("content", "first and last frame cannot be mixed with references")
    if sorted(frames) not in ([], ["first_frame"], ["first_frame", "last_frame"]):
        raise invalid("content", "there can be one first frame, and one last frame after it")
    if others > REFERENCES_MAX:
        raise invalid("content", "it holds too many references")


def _switches(content: _Content, model: Model) -> dict[str, Any]:
    """The values of switches such as `--dur 5` in the text of an old model; they are removed from the text."""
    if not model.old:
        return {}
    found: dict[str, Any] = {}
    for word, value in _SWITCH.findall(content.text):
        if word in _SWITCHES:
            found[_SWITCHES[word]] = _typed(value)
    content.text = _SWITCH.sub(lambda match: "" if match[1] in _SWITCHES else match[0], content.text)
    return found


def _typed(value: str) -> object:
    if value in ("true", "false"):
        return value == "true"
    return int(value) if re.fullmatch(r"-?[0-9]{1,10}", value) else value


def _frames(values: Mapping[str, Any], model: Model) -> tuple[int, bool]:
    """(number of frames, whether the caller specified frames)."""
    low, high = model.seconds
    if "frames" in values and model.old:
        frames = _whole(values, "frames", 29, 289, 0)
        if (frames - 25) % 4:
            raise invalid("frames", "it must be 25 + 4n")
        return frames, True
    seconds = _whole(values, "duration", -1, high, SECONDS_DEFAULT)
    if seconds == -1 and not model.old:
        seconds = SECONDS_DEFAULT
    if seconds < low:
        raise invalid("duration", f"it must be from {low} to {high} seconds")
    return ark_models.frames(seconds), False


def _word(values: Mapping[str, Any], name: str, words: tuple[str, ...], default: str) -> str:
    value = values.get(name, default)
    if value not in words:
        known = RESOLUTIONS if name == "resolution" and value not in RESOLUTIONS else words
        raise invalid(name, f"{value!r} is not one of {', '.join(known)}")
    return str(value)


def _flag(values: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise invalid(name, "it must be a boolean")
    return value


def _whole(values: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise invalid(name, f"it must be an integer from {low} to {high}")
    return value


def _callback(values: Mapping[str, Any]) -> str | None:
    url = values.get("callback_url")
    if url is not None and not is_address(url):
        raise invalid("callback_url", "it must be an address")
    return url
