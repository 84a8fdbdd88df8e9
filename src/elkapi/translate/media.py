"""Read a video request in any of the neutral forms into `MediaAsk`; `media_write` writes a provider's body.

The forms differ in their names of fields, so one reader knows all the names. Unknown fields are kept in `extra`, for
providers whose maps allow it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.errors import BadRequest

IMAGES_MAX = 16
_SIZE = re.compile(r"(\d{1,5})\s*[x×*:]\s*(\d{1,5})")
_TRUE, _FALSE = frozenset({"on", "true", "1", "yes"}), frozenset({"off", "false", "0", "no"})
_SECONDS = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)s?")
_VEO_FORMS = frozenset({"veo-query", "veo-alias", "wrapped-v2"})
# A duration that the model chooses, if it can.
AUTO = -1
# The bound of whole numbers, since a string may contain one beyond any JSON integer.
_WHOLE_MAX = (1 << 63) - 1
# Two numbers below this are an aspect ratio such as 16:9, not pixels.
_PIXELS_MIN = 64
_4K_LINES = 2160
# The names of each neutral field in the forms; the first one found counts.
_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "promptText", "text"),
    "negative_prompt": ("negative_prompt", "negativePrompt"),
    "image": ("image", "image_url", "first_frame_image", "first_frame", "input_reference", "promptImage"),
    "last_image": ("last_image", "image_tail", "last_frame", "last_frame_image", "image_end_url"),
    "video": ("video", "video_url"),
    "seconds": ("seconds", "duration"),
    "size": ("size",),
    "width": ("width",),
    "height": ("height",),
    "ratio": ("aspect_ratio", "ratio"),
    "resolution": ("resolution",),
    "seed": ("seed",),
    "count": ("n", "count", "n_variants"),
    "audio": ("audio", "generate_audio", "sound"),
    "fps": ("fps",),
    "mode": ("mode",),
    "callback_url": ("callback_url", "notify_hook", "webhook_url"),
}
_LISTS = ("images", "image_urls")
# Fields that are for a gateway or have no effect.
_DROPPED = {"model", "metadata", "input", "user", "response_format", "stream", "group", "enhance_prompt"}
_DROPPED |= {"enable_upsample", "expand_prompt", "max_tokens", "messages"}
# The switches that the text of a prompt may contain, such as `--dur 5`, and the field that each sets.
_SWITCHES = {"ratio": "ratio", "rt": "ratio", "dur": "seconds", "duration": "seconds", "rs": "resolution"}
_SWITCHES |= {"resolution": "resolution", "seed": "seed", "fps": "fps", "wm": "watermark", "cf": "camera_fixed"}
_SWITCH = re.compile(r"(?:^|\s)--(\w+)\s+(\S+)")
# The values of a switch; with any other value it is ordinary text.
_SWITCH_VALUES = {
    "ratio": re.compile(r"\d{1,2}:\d{1,2}|adaptive"),
    "seconds": re.compile(r"\d{1,4}"),
    "resolution": re.compile(r"\d{3,4}p"),
    "seed": re.compile(r"-1|\d{1,10}"),
    "fps": re.compile(r"\d{1,3}"),
    "watermark": re.compile(r"true|false"),
    "camera_fixed": re.compile(r"true|false"),
}


class MediaAsk(msgspec.Struct, kw_only=True):
    """A request for a video, independent of the form; "" and None mean not given. Images are URLs or data URLs.

    `ratio` is like 16:9, `resolution` like 720p. If they are not given but `width` and `height` are, they are derived
    from those and listed in `derived`. `words` maps fields to the caller's names if those differ.
    """

    model: str
    prompt: str = ""
    negative_prompt: str = ""
    image: str = ""
    references: tuple[str, ...] = ()
    last_image: str = ""
    video: str = ""
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    ratio: str = ""
    resolution: str = ""
    seed: int | None = None
    count: int = 1
    audio: bool | None = None
    fps: int | None = None
    mode: str = ""
    callback_url: str = ""
    extra: dict[str, Any] = {}
    derived: frozenset[str] = frozenset()
    words: Mapping[str, str] = {}

    def word(self, field: str) -> str:
        """The caller's name of a field."""
        return self.words.get(field, field)


# OpenAI's own field names for a video, the formats of their values, and all field names known here.
_OWN = frozenset({"model", "prompt", "seconds", "size", "input_reference"})
_OWN_SECONDS, _OWN_SIZE = re.compile(r"\d+", re.ASCII), re.compile(r"\d+x\d+", re.ASCII)
_KNOWN = {name for names in _NAMES.values() for name in names} | set(_LISTS) | _DROPPED


def is_own(body: Mapping[str, Any]) -> bool:
    """Whether a video request uses only OpenAI's own fields, so that it can pass unchanged."""
    spelled = all(
        body.get(name) is None or (isinstance(body[name], str) and own.fullmatch(body[name]))
        for name, own in (("seconds", _OWN_SECONDS), ("size", _OWN_SIZE))
    )
    return spelled and not isinstance(body.get("input_reference"), str) and not (_KNOWN - _OWN) & body.keys()


def read(form: str, body: Mapping[str, Any], model: str) -> MediaAsk:
    """The request in a body of the given form. Raises BadRequest naming the field."""
    if form in ("neutral", "task-submit"):
        given = body.get("input")
        if not isinstance(given, dict):
            raise BadRequest("`input` must be an object that describes the task.", param="input")
        callback = {"callback_url": body["callback_url"]} if body.get("callback_url") is not None else {}
        return _ask({**given, **callback}, model)
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadRequest("`metadata` must be an object.", param="metadata")
    ask = _ask({**(metadata or {}), **body}, model)
    if form in _VEO_FORMS and "frames" in model and ask.references:
        # The two images of a `*-frames` model are the first and the last frame.
        ask.last_image, ask.references = ask.references[0], ask.references[1:]
        ask.words = {**ask.words, "last_image": ask.word("references")}
    if form in _VEO_FORMS and "components" in model and ask.image:
        # The images of a `*-components` model are references for what the video shows.
        ask.image, ask.references = "", (ask.image, *ask.references)
        ask.words = {**ask.words, "references": ask.word("image")}
    return ask


def read_messages(body: Mapping[str, Any], model: str) -> MediaAsk:
    """The request in the last user message of a chat: its text, with inline switches, its images in order, its video.

    Raises BadRequest naming the field.
    """
    messages = body.get("messages")
    last = None
    if isinstance(messages, list):
        last = next((m for m in reversed(messages) if isinstance(m, dict) and m.get("role") == "user"), None)
    if last is None:
        raise BadRequest("`messages` must contain a user message that describes the video.", param="messages")
    content = last.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise BadRequest("`content` is missing from the last user message.", param="messages")
    texts = [part.get("text", "") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    pictures, films = [[_url(one, "messages") for one in _held(parts, kind)] for kind in ("image_url", "video_url")]
    if len(pictures) > 2 or len(films) > 1:
        message = "A video supports at most two images, the first and the last frame, and one video."
        raise BadRequest(message, param="messages")
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" and not (isinstance(part, dict) and (part.get("image_url") or part.get("video_url"))):
            raise BadRequest(f"A video cannot be made from a part of type {str(kind)[:64]!r}.", param="messages")
    text = "\n".join(text for text in texts if isinstance(text, str))
    said: dict[str, Any] = {name: value for hit in _SWITCH.finditer(text) for name, value in _switched(hit)}
    said["prompt"] = _SWITCH.sub(lambda hit: "" if list(_switched(hit)) else hit.group(0), text).strip()
    if pictures:
        said["image"] = pictures[0]
    if len(pictures) > 1:
        said["last_image"] = pictures[1]
    if films:
        said["video"] = films[0]
    if body.get("n") is not None:
        said["n"] = body["n"]
    return _ask(said, model)


def _held(parts: list[Any], kind: str) -> list[Any]:
    return [part[kind] for part in parts if isinstance(part, dict) and part.get(kind)]


def _switched(hit: re.Match[str]) -> list[tuple[str, Any]]:
    name, value = _SWITCHES.get(hit.group(1)), hit.group(2)
    if name is None or _SWITCH_VALUES[name].fullmatch(value) is None:
        return []
    return [(name, value == "true" if value in ("true", "false") else value)]


def _ask(body: Mapping[str, Any], model: str) -> MediaAsk:
    # The first name with a value, otherwise the first name.
    words = {
        field: next((name for name in names if body.get(name) not in (None, "")), names[0])
        for field, names in _NAMES.items()
    }
    said = {field: None if (value := body.get(word)) == "" else value for field, word in words.items()}
    image, references = _pictures(body, said, words)
    width, height, ratio = _shape(said, words)
    if said["ratio"] is None and said["size"] is not None:
        words["ratio"] = words["size"]
    resolution = _resolution(said["resolution"], words["resolution"])
    derived = frozenset[str]()
    if width and height:
        asked = {"ratio": said["ratio"], "resolution": resolution}
        derived = frozenset(field for field, value in asked.items() if not value)
        resolution = resolution or ("4k" if min(width, height) == _4K_LINES else f"{min(width, height)}p")
    return MediaAsk(
        model=model,
        prompt=_text(said["prompt"], words["prompt"]),
        negative_prompt=_text(said["negative_prompt"], words["negative_prompt"]),
        image=image,
        references=tuple(references),
        last_image=_url(said["last_image"], words["last_image"]) if said["last_image"] is not None else "",
        video=_url(said["video"], words["video"]) if said["video"] is not None else "",
        seconds=_seconds(said["seconds"], words["seconds"]),
        width=width,
        height=height,
        ratio=ratio,
        resolution=resolution,
        seed=_whole(said["seed"], words["seed"]),
        count=_from_one(said["count"], words["count"]) or 1,
        audio=_truth(said["audio"], words["audio"]),
        fps=_from_one(said["fps"], words["fps"]),
        mode=_text(said["mode"], words["mode"]),
        callback_url=_text(said["callback_url"], words["callback_url"]),
        extra={name: value for name, value in body.items() if name not in _KNOWN},
        derived=derived,
        words={field: word for field, word in words.items() if word != field},
    )


def _pictures(body: Mapping[str, Any], said: dict[str, Any], words: dict[str, str]) -> tuple[str, list[str]]:
    """(first frame, other images), as URLs; a last frame in the same list as the first is put into `said`.

    `words` is updated with the caller's name of each.
    """
    words["references"] = next((name for name in _LISTS if body.get(name)), _LISTS[0])
    listed: Any = body.get(words["references"]) or []
    if not isinstance(listed, list) or len(listed) > IMAGES_MAX:
        message = f"`{words['references']}` must be an array of at most {IMAGES_MAX} images."
        raise BadRequest(message, param=words["references"])
    pictures = [_url(one, words["references"]) for one in listed]
    if isinstance(said["image"], list):
        # A list of images: the first frame, then the last.
        if not 1 <= len(said["image"]) <= 2:
            message = f"`{words['image']}` must have one or two images: the first and the last frame."
            raise BadRequest(message, param=words["image"])
        said["image"], *last = said["image"]
        if last:
            said["last_image"], words["last_image"] = last[0], words["image"]
    image = _url(said["image"], words["image"]) if said["image"] is not None else ""
    if not image and pictures:
        image, pictures, words["image"] = pictures[0], pictures[1:], words["references"]
    return image, pictures


def _shape(said: Mapping[str, Any], words: Mapping[str, str]) -> tuple[int | None, int | None, str]:
    """(width, height, ratio) from the size fields, which give pixels or only an aspect ratio."""
    width, height = _from_one(said["width"], "width"), _from_one(said["height"], "height")
    ratio = _text(said["ratio"], words["ratio"])
    if said["size"] is not None:
        found = _SIZE.fullmatch(str(said["size"]).strip())
        if found is None:
            raise BadRequest(
                "`size` must be in pixels, such as 1280x720, or an aspect ratio, such as 16:9.",
                param="size",
                code="invalid_size",
            )
        left, right = int(found.group(1)), int(found.group(2))
        if min(left, right) < _PIXELS_MIN:
            ratio = ratio or f"{left}:{right}"
        else:
            width, height = width or left, height or right
    if (named := _SIZE.fullmatch(ratio)) is not None:
        left, right = int(named.group(1)), int(named.group(2))
        if min(left, right) >= _PIXELS_MIN:
            width, height, ratio = width or left, height or right, ""
        else:
            ratio = f"{left}:{right}"
    if width and height and not ratio:
        ratio = _nearest(width, height)
    return width, height, ratio


def _nearest(width: int, height: int) -> str:
    named = ((16, 9), (9, 16), (1, 1), (4, 3), (3, 4), (21, 9), (9, 21), (3, 2), (2, 3))
    left, right = min(named, key=lambda pair: abs(pair[0] / pair[1] - width / height))
    return f"{left}:{right}"


def _resolution(value: Any, name: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = _text(value, name)
    return f"{text}p" if text.isdecimal() else text


def _url(value: Any, name: str) -> str:
    if isinstance(value, dict):
        value = value.get("url") or value.get("image_url") or value.get("uri")
        if isinstance(value, dict):
            value = value.get("url")
    if not isinstance(value, str) or not value:
        raise BadRequest(f"The file in `{name}` must be a URL or base64 data.", param=name)
    return value


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` must be a string.", param=name)
    return value


def _seconds(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and (hit := _SECONDS.fullmatch(value.strip())) is not None:
        value = float(hit.group(1))
    if isinstance(value, int | float) and not isinstance(value, bool) and (0 < value <= 3600 or value == AUTO):
        return float(value)
    raise BadRequest(f"`{name}` must be a number of seconds above 0, at most 3600.", param=name)


def _whole(value: Any, name: str) -> int | None:
    if value is None:
        return None
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or isinstance(value, bool) or (isinstance(value, float) and whole != value):
        raise BadRequest(f"`{name}` must be a whole number.", param=name)
    if abs(whole) > _WHOLE_MAX:
        raise BadRequest(f"`{name}` must be from -{_WHOLE_MAX} to {_WHOLE_MAX}.", param=name)
    return whole


def _from_one(value: Any, name: str) -> int | None:
    whole = _whole(value, name)
    if whole is not None and whole < 1:
        raise BadRequest(f"`{name}` must be at least 1.", param=name)
    return whole


def _truth(value: Any, name: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise BadRequest(f"`{name}` must be true or false.", param=name)
    return word in _TRUE
