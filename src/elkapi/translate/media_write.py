"""Write a `MediaAsk` as a provider's body, by its field map (catalog/media.py)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.catalog.jsonpath import first, put
from elkapi.catalog.media import MEANING, VIDEO_MAPS, VideoMap
from elkapi.errors import BadRequest
from elkapi.translate.ir import image_type
from elkapi.translate.media import AUTO, MediaAsk

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.+)", re.DOTALL)
_PIXELS = {
    ("720p", "16:9"): (1280, 720),
    ("720p", "9:16"): (720, 1280),
    ("720p", "1:1"): (960, 960),
    ("1080p", "16:9"): (1920, 1080),
    ("1080p", "9:16"): (1080, 1920),
}


def kind_of(ask: MediaAsk) -> str:
    """The kind of input of a request: "video", "image" or "text"."""
    return "video" if ask.video else "image" if ask.image or ask.references or ask.last_image else "text"


def write(ask: MediaAsk, wire: str) -> tuple[str, dict[str, Any]]:
    """(operation, body) for a provider. Raises BadRequest for what it cannot carry."""
    plan = VIDEO_MAPS[wire]  # type: ignore[index]
    operation = getattr(plan, kind_of(ask))
    if not operation:
        message = f"The model {ask.model!r} does not support {kind_of(ask)} input."
        raise BadRequest(message, param=ask.word(kind_of(ask)))
    if ask.seconds == AUTO and not plan.auto_seconds:
        word = ask.word("seconds")
        raise BadRequest(f"`{word}` must be above 0 for the model {ask.model!r}.", param=word)
    body: dict[str, Any] = dict(ask.extra) if plan.extra else {}
    kept = _not_text(body.get(plan.listed))
    body |= msgspec.json.decode(msgspec.json.encode(plan.base))
    if kept:
        body[plan.listed] = kept
    if not ask.prompt.strip() and not kept and kind_of(ask) == "text":
        raise BadRequest("`prompt` must not be empty.", param="prompt")
    for field, value in _said(ask, plan):
        place = plan.fields.get(field)
        if place is None:
            # A derived ratio or resolution may be dropped if the map carries another field of the size.
            shaped = field in ask.derived and {"size", "ratio", "resolution"} & plan.fields.keys()
            if field in MEANING and not shaped:
                word = ask.word(field)
                raise BadRequest(f"`{word}` is not supported by the model {ask.model!r}.", param=word)
            continue
        path, _, spelled = place.partition("|")
        spell = SPELLINGS[spelled]
        for one in value if isinstance(value, tuple) else (value,):
            try:
                _place(body, path, spell(one))
            except ValueError as error:
                raise BadRequest(str(error), param=ask.word(field)) from None
    for pattern, members in plan.demands.items():
        if re.search(pattern, ask.model):
            body = {**members, **body}
    return operation, body


def _not_text(items: Any) -> list[Any]:
    """The parts of the caller's own list without its texts, since the prompt is the text."""
    parts = items if isinstance(items, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") != "text"]


_APART = frozenset({"extra", "callback_url", "width", "height", "derived", "words"})


def _said(ask: MediaAsk, plan: VideoMap) -> list[tuple[str, Any]]:
    """The given fields, in the order of the map, which determines the order of lists."""
    said = {
        name: value
        for name in MediaAsk.__struct_fields__
        if name not in _APART and (value := getattr(ask, name)) not in (None, "", ())
    }
    if said.get("count") == 1 and "count" not in plan.fields:
        del said["count"]
    lines = next((lines for pattern, lines in plan.lines.items() if re.search(pattern, ask.model)), None)
    if lines is not None and "resolution" in ask.derived and ask.resolution not in lines:
        del said["resolution"]
    if "image" in said and "last_image" in said and "first_image" in plan.fields:
        said["first_image"] = said.pop("image")
    if kind_of(ask) == "image":
        # The image determines these fields, and the provider refuses them beside it.
        said = {name: value for name, value in said.items() if name not in plan.by_image}
    if "size" in plan.fields:
        size = _size(ask)
        if size is not None:
            said["size"] = size
            said.pop("ratio", None)
            said.pop("resolution", None)
    ordered = [name for name in plan.fields if name in said]
    return [(name, said[name]) for name in (*ordered, *(name for name in said if name not in ordered))]


def _size(ask: MediaAsk) -> tuple[tuple[int, int]] | None:
    if ask.width and ask.height:
        return ((ask.width, ask.height),)
    if not ask.ratio and not ask.resolution:
        return None
    found = _PIXELS.get((ask.resolution.lower() or "720p", ask.ratio or "16:9"))
    if found is None:
        message = f"The model {ask.model!r} needs `size` in pixels, such as 1280x720, for this ratio and resolution."
        raise BadRequest(message, param="size")
    return (found,)


def _place(body: dict[str, Any], path: str, value: Any) -> None:
    if path.endswith("[+]"):
        path = path.removesuffix("[+]")
        put(path, body, [*(first(path, body) or ()), value])
    else:
        put(path, body, value)


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _quotient(value: str) -> float:
    left, _, right = value.partition(":")
    try:
        return int(left) / int(right)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("The aspect ratio must be of the form 16:9.") from None


def is_address(value: str) -> bool:
    """Whether an image is an http(s) URL."""
    return value.startswith(("https://", "http://"))


def _data_url(value: str) -> str:
    """An image in raw base64 as a data URL; anything else as it is."""
    kind = image_type(value, None)
    return value if kind is None else f"data:{kind};base64,{value}"


def _google(value: str) -> dict[str, str]:
    if is_address(value):
        # A placeholder until it is fetched: see `VideoMap.inline`.
        return {"uri": value}
    hit = _DATA.fullmatch(_data_url(value))
    if hit is None:
        message = "Images for this model must be URLs (https://...) or data URLs (data:image/png;base64,...)."
        raise ValueError(message)
    try:
        base64.b64decode(hit.group(2), validate=True)
    except binascii.Error:
        raise ValueError("The image is not valid base64.") from None
    return {"bytesBase64Encoded": hit.group(2), "mimeType": hit.group(1)}


def _ark(kind: str, role: str) -> Callable[[str], dict[str, Any]]:
    return lambda value: {"type": kind, kind: {"url": _data_url(value)}, "role": role}


# Each raises ValueError for a value that it cannot write.
SPELLINGS: dict[str, Callable[[Any], Any]] = {
    "": lambda value: _number(value) if isinstance(value, float) else value,
    "str": lambda value: f"{value:g}" if isinstance(value, float) else str(value),
    "int": lambda value: int(value) if value == int(value) else value,
    "s": lambda value: f"{value:g}s",
    "colon": str,
    "x": lambda value: f"{value[0]}x{value[1]}",
    "size-colon": lambda value: f"{value[0]}:{value[1]}",
    "quotient": _quotient,
    "capital": lambda value: str(value).upper(),
    "on-off": lambda value: "on" if value else "off",
    "raw-base64": lambda value: value.partition(",")[2] if value.startswith("data:") else value,
    "data-url": _data_url,
    "google": _google,
    "google-asset": lambda value: {"image": _google(value), "referenceType": "asset"},
    "luma": lambda value: {"type": "image", "url": value},
    "pika": lambda value: value.removeprefix("pika-"),
    "ark-text": lambda value: {"type": "text", "text": value},
    "ark-image": lambda value: {"type": "image_url", "image_url": {"url": _data_url(value)}},
    "ark-first": _ark("image_url", "first_frame"),
    "ark-last": _ark("image_url", "last_frame"),
    "ark-video": _ark("video_url", "reference_video"),
}
