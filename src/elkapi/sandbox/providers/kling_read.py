"""Reads Kling's requests: videos, images, extensions, lip-sync, effects and try-on, with their prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.bodies import decoded_base64, is_address, object_of
from elkapi.sandbox.strict import strictly

PROMPT_CHARS_MAX = 2_500
TEXT_CHARS_MAX = 120
IMAGES_MAX = 9
RATIOS = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960)}
IMAGE_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
# Nano-USD per five seconds by model, for `std` and for `pro`.
RATES = {
    "kling-v1": (140_000_000, 490_000_000),
    "kling-v1-5": (280_000_000, 490_000_000),
    "kling-v1-6": (280_000_000, 490_000_000),
    "kling-v2-master": (1_400_000_000, 1_400_000_000),
    "kling-v2-1": (280_000_000, 490_000_000),
    "kling-v2-1-master": (1_400_000_000, 1_400_000_000),
    "kling-v2-5-turbo": (210_000_000, 350_000_000),
    "kling-v2-6": (210_000_000, 350_000_000),
    "kling-v3": (420_000_000, 560_000_000),
}
IMAGE_RATES = {
    "kling-v1": 3_500_000,
    "kling-v1-5": 28_000_000,
    "kling-v2": 14_000_000,
    "kling-v2-1": 14_000_000,
    "kling-v3": 28_000_000,
}
SOUND_MODELS = ("kling-v2-6", "kling-v3")
TRY_ON = {"kolors-virtual-try-on-v1": 70_000_000, "kolors-virtual-try-on-v1-5": 70_000_000}
EXTENSION_NANO_USD, LIP_SYNC_NANO_USD, EXPANSION_NANO_USD = 140_000_000, 70_000_000, 28_000_000
EFFECT_NANO_USD = 280_000_000
PAIR_SCENES = ("hug", "kiss", "heart_gesture")
SINGLE_SCENES = ("fuzzyfuzzy", "squish", "expansion")
CAMERAS = ("simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward")
Fields = Mapping[str, Any]


class KlingAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested task. `images` is the number of images, 0 for a video; `parent` is a source video's id.

    `session` is the id of an identify-face session.
    """

    model: str
    nano_usd: int
    images: int = 0
    seconds: int = 5
    width: int = RATIOS["16:9"][0]
    height: int = RATIOS["16:9"][1]
    parent: str | None = None
    session: str | None = None
    external_id: str = ""
    callback_url: str | None = None


@strictly
def read(body: bytes, reader: Callable[[Fields], KlingAsked]) -> KlingAsked:
    """Read a body with the reader of its operation. Raises Problem."""
    given = object_of(body, lambda name, why: invalid(f"{name} {why}"))
    url = given.get("callback_url")
    if url is not None and not is_address(url):
        raise invalid("callback_url is invalid")
    external = given.get("external_task_id", "")
    if not isinstance(external, str):
        raise invalid("external_task_id is invalid")
    return msgspec.structs.replace(reader(given), external_id=external, callback_url=url)


def text_to_video(given: Fields) -> KlingAsked:
    """`videos/text2video`."""
    _prompt(given, required=True)
    width, height = RATIOS[_word(given, "aspect_ratio", tuple(RATIOS), "16:9")]
    return msgspec.structs.replace(_video(given), width=width, height=height)


def image_to_video(given: Fields) -> KlingAsked:
    """`videos/image2video`."""
    if "image" not in given and "image_tail" not in given:
        raise invalid("image and image_tail cannot be empty at the same time")
    for name in ("image", "image_tail", "static_mask"):
        if name in given:
            _picture(given[name], name)
    masks = "static_mask" in given or "dynamic_masks" in given
    if sum((masks, "image_tail" in given, "camera_control" in given)) > 1:
        raise invalid("image_tail, masks and camera_control exclude each other")
    _prompt(given, required=False)
    return _video(given)


def extension(given: Fields) -> KlingAsked:
    """`videos/video-extend`."""
    _prompt(given, required=False)
    if not isinstance(given.get("video_id"), str):
        raise invalid("video_id cannot be empty")
    return KlingAsked(model="kling-video-extend", nano_usd=EXTENSION_NANO_USD, parent=given["video_id"])


def lip_sync(given: Fields) -> KlingAsked:
    """`videos/lip-sync`: all fields are inside `input`."""
    inner = _inside(given)
    if ("video_id" in inner) == ("video_url" in inner):
        raise invalid("one of video_id and video_url is needed")
    if _word(inner, "mode", ("text2video", "audio2video"), None) == "text2video":
        text = inner.get("text")
        if not isinstance(text, str) or not 1 <= len(text) <= TEXT_CHARS_MAX:
            raise invalid(f"text must have 1 to {TEXT_CHARS_MAX} characters")
        if not isinstance(inner.get("voice_id"), str):
            raise invalid("voice_id cannot be empty")
        _word(inner, "voice_language", ("zh", "en"), "zh")
        _number(inner, "voice_speed", 0.8, 2.0)
    else:
        kind = _word(inner, "audio_type", ("file", "url"), None)
        if not isinstance(inner.get(f"audio_{kind}"), str):
            raise invalid(f"audio_{kind} cannot be empty")
    video_id = inner.get("video_id")
    if video_id is not None and not isinstance(video_id, str):
        raise invalid("video_id is invalid")
    return KlingAsked(model="kling-lip-sync", nano_usd=LIP_SYNC_NANO_USD, parent=video_id)


def advanced_lip_sync(given: Fields) -> KlingAsked:
    """`videos/advanced-lip-sync`."""
    chosen = given.get("face_choose")
    if not isinstance(given.get("session_id"), str) or not isinstance(chosen, list) or not chosen:
        raise invalid("session_id and face_choose cannot be empty")
    for choice in chosen:
        if not isinstance(choice, dict) or not isinstance(choice.get("face_id"), str):
            raise invalid("face_id cannot be empty")
    return KlingAsked(model="kling-lip-sync", nano_usd=LIP_SYNC_NANO_USD, session=given["session_id"])


def faces(given: Fields) -> KlingAsked:
    """`videos/identify-face`, which is free."""
    video_id, url = given.get("video_id"), given.get("video_url")
    if (video_id is None) == (url is None):
        raise invalid("one of video_id and video_url is needed")
    if url is not None and not is_address(url):
        raise invalid("video_url is invalid")
    if video_id is not None and not isinstance(video_id, str):
        raise invalid("video_id is invalid")
    return KlingAsked(model="kling-identify-face", nano_usd=0, parent=video_id)


def effects(given: Fields) -> KlingAsked:
    """`videos/effects`: one image, or two for a scene with a pair."""
    scene = _word(given, "effect_scene", (*SINGLE_SCENES, *PAIR_SCENES), None)
    inner = _inside(given)
    pictures = inner.get("images") if scene in PAIR_SCENES else [inner.get("image")]
    if not isinstance(pictures, list) or len(pictures) != (2 if scene in PAIR_SCENES else 1):
        raise invalid("images must hold two pictures")
    for picture in pictures:
        _picture(picture, "image")
    models = ("kling-v1", "kling-v1-5", "kling-v1-6")
    _word(inner, "model_name", models, "kling-v1-6" if scene not in PAIR_SCENES else "kling-v1")
    _word(inner, "mode", ("std", "pro"), "std")
    seconds = int(_word(inner, "duration", ("5", "10") if scene in PAIR_SCENES else ("5",), None))
    return KlingAsked(model="kling-effects", nano_usd=EFFECT_NANO_USD * seconds // 5, seconds=seconds)


def image(given: Fields) -> KlingAsked:
    """`images/generations`."""
    model = _word(given, "model_name", tuple(IMAGE_RATES), "kling-v1")
    _prompt(given, required=True)
    if "image" in given:
        _picture(given["image"], "image")
        if given.get("negative_prompt"):
            raise invalid("negative_prompt is not supported with image")
    _word(given, "image_reference", ("subject", "face", ""), "")
    _word(given, "resolution", ("1k", "2k"), "1k")
    _word(given, "aspect_ratio", IMAGE_RATIOS, "16:9")
    for name in ("image_fidelity", "human_fidelity"):
        _number(given, name, 0, 1)
    count = _count(given)
    return KlingAsked(model=model, nano_usd=IMAGE_RATES[model] * count, images=count)


def expansion(given: Fields) -> KlingAsked:
    """`images/editing/expand`."""
    _picture(given.get("image"), "image")
    up, down, left, right = (
        _number(given, f"{side}_expansion_ratio", 0, 2) or 0.0 for side in ("up", "down", "left", "right")
    )
    if (1 + up + down) * (1 + left + right) > 3:
        raise invalid("the expanded area must be at most three times the original one")
    count = _count(given)
    return KlingAsked(model="kling-image-expand", nano_usd=EXPANSION_NANO_USD * count, images=count)


def try_on(given: Fields) -> KlingAsked:
    """`images/kolors-virtual-try-on`."""
    model = _word(given, "model_name", tuple(TRY_ON), "kolors-virtual-try-on-v1")
    for name in ("human_image", "cloth_image"):
        _picture(given.get(name), name)
    return KlingAsked(model=model, nano_usd=TRY_ON[model], images=1)


def invalid(why: str) -> Problem:
    """The error for invalid parameters: HTTP 400, code 1201."""
    return Problem(400, why, code="1201")


def _video(given: Fields) -> KlingAsked:
    """The fields that text2video and image2video share. The model is in `model_name`; `model` is ignored."""
    model = given.get("model_name", "kling-v1")
    if model not in RATES:
        raise Problem(404, f"model {model} is not found", code="1203")
    mode = _word(given, "mode", ("std", "pro"), "std")
    sound = _word(given, "sound", ("off", "on"), "off")
    if sound == "on" and model not in SOUND_MODELS:
        raise invalid(f"sound is not supported by {model}")
    if "cfg_scale" in given and model.startswith("kling-v2"):
        raise invalid(f"cfg_scale is not supported by {model}")
    _number(given, "cfg_scale", 0, 1)
    lengths = tuple(str(seconds) for seconds in range(3, 16)) if model == "kling-v3" else ("5", "10")
    seconds = int(_word(given, "duration", lengths, "5"))
    if "camera_control" in given:
        _camera_checked(given["camera_control"])
    rate = RATES[model][mode == "pro"] * (2 if sound == "on" else 1)
    return KlingAsked(model=model, nano_usd=rate * seconds // 5, seconds=seconds)


def _camera_checked(control: object) -> None:
    if not isinstance(control, dict):
        raise invalid("camera_control is invalid")
    kind, config = _word(control, "type", CAMERAS, None), control.get("config")
    if (kind == "simple") != isinstance(config, dict):
        raise invalid("camera_control.config belongs to the type simple, which needs it")
    if isinstance(config, dict):
        moves = [_number(config, name, -10, 10) for name in ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")]
        if sum(bool(move) for move in moves) != 1:
            raise invalid("one move of camera_control.config must be other than 0")


def _prompt(given: Fields, *, required: bool) -> None:
    for name in ("prompt", "negative_prompt"):
        text = given.get(name, "")
        if not isinstance(text, str) or len(text) > PROMPT_CHARS_MAX:
            raise invalid(f"{name} must be a text of at most {PROMPT_CHARS_MAX} characters")
    if required and not given.get("prompt"):
        raise invalid("prompt cannot be empty")


def _inside(given: Fields) -> dict[str, Any]:
    inner = given.get("input")
    if not isinstance(inner, dict):
        raise invalid("input cannot be empty")
    return {name: entry for name, entry in inner.items() if entry is not None}


def _word(given: Fields, name: str, words: tuple[str, ...], default: str | None) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or value not in words:
        raise invalid(f"{name} value '{value}' is invalid")
    return value


def _number(given: Fields, name: str, low: float, high: float) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid(f"{name} must be from {low:g} to {high:g}")
    return float(value)


def _count(given: Fields) -> int:
    count = given.get("n", 1)
    if type(count) is not int or not 1 <= count <= IMAGES_MAX:
        raise invalid(f"n must be from 1 to {IMAGES_MAX}")
    return count


def _picture(picture: object, name: str) -> None:
    """Raise Problem for what is neither a URL nor plain base64; Kling accepts no data URLs."""
    if not is_address(picture) and not decoded_base64(picture):
        raise invalid(f"{name} is neither an address nor valid base64")
