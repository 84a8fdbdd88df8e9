"""Reads the bodies of OpenAI's video routes, form or JSON: fields, models, lengths and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem, Request
from elkapi.sandbox.multipart import Part, parts_of
from elkapi.sandbox.pictures import png_size
from elkapi.sandbox.providers.openai_read import image_source, invalid, json_object

MODEL_DEFAULT = "sora-2"
SECONDS_DEFAULT = "4"
SECONDS = ("4", "8", "12")
EXTENSION_SECONDS = ("4", "8", "12", "16", "20")
SIZE_DEFAULT = "720x1280"
SIZES = ("720x1280", "1280x720")
PRO_SIZES = (*SIZES, "1024x1792", "1792x1024")
PROMPT_CHARS_MAX = 32_000
NAME_CHARS_MAX = 80
PICTURES = ("image/jpeg", "image/png", "image/webp")
VIDEOS = ("video/mp4",)
# Snapshots of a model are named by their date.
_MODEL = re.compile(r"sora-2(?P<pro>-pro)?(?:-\d{4}-\d{2}-\d{2})?")
_STARTS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
_NESTED = re.compile(r"(\w+)\[(\w+)\]")

Fields = Mapping[str, Any]


class VideoAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested video. `source` is the source video's id, shown to callers only if `is_remix`."""

    model: str
    prompt: str
    seconds: int
    size: str
    source: str | None = None
    is_remix: bool = False


def fields_of(request: Request) -> Fields:
    """The body's fields: strings and files of a form, or values of a JSON object. A form's `a[b]` is b inside a."""
    content_type = request.header("content-type") or ""
    if not content_type.startswith("multipart/form-data"):
        return json_object(request.body)
    parts = parts_of(content_type, request.body)
    fields: dict[str, Any] = {}
    for part in parts:
        value = part if part.filename is not None else part.content.decode("utf-8", "replace")
        nested = _NESTED.fullmatch(part.name)
        if nested is None:
            fields[part.name] = value
        elif isinstance(inner := fields.setdefault(nested[1], {}), dict):
            inner[nested[2]] = value
    return fields


def creation(fields: Fields) -> VideoAsked:
    """Read the fields of `POST /v1/videos`. Raises Problem."""
    model = model_of(fields)
    sizes = PRO_SIZES if is_pro(model) else SIZES
    size = choice(fields, "size", sizes, SIZE_DEFAULT)
    reference_checked(fields.get("input_reference"), size)
    seconds = choice(fields, "seconds", SECONDS, SECONDS_DEFAULT)
    return VideoAsked(model=model, prompt=prompt_of(fields), seconds=int(seconds), size=size)


def model_of(fields: Fields) -> str:
    """The model's name, or the default. Raises Problem."""
    model = fields.get("model")
    if model is None:
        return MODEL_DEFAULT
    if not isinstance(model, str) or _MODEL.fullmatch(model) is None:
        message = f"Invalid value: '{model}'. Supported values are: 'sora-2' and 'sora-2-pro'."
        raise Problem(400, message, code="invalid_value", param="model")
    return model


def is_pro(model: str) -> bool:
    """Whether this is a pro model, which supports the larger sizes."""
    found = _MODEL.fullmatch(model)
    return found is not None and found["pro"] is not None


def prompt_of(fields: Fields) -> str:
    """The prompt. Raises Problem if it is missing."""
    return _text(fields, "prompt", PROMPT_CHARS_MAX)


def choice(fields: Fields, name: str, values: tuple[str, ...], default: str | None) -> str:
    """A field that is one of `values`; required if `default` is None. Raises Problem."""
    value = fields.get(name)
    if value is None:
        if default is None:
            raise missing(name)
        return default
    if not isinstance(value, str):
        raise Problem(400, f"Invalid type for '{name}': expected a string.", code="invalid_type", param=name)
    if value not in values:
        known = ", ".join(f"'{word}'" for word in values)
        message = f"Invalid value: '{value}'. Supported values are: {known}."
        raise Problem(400, message, code="invalid_value", param=name)
    return value


def reference_checked(reference: object, size: str) -> None:
    """Raise Problem for a first frame that is no image, or a PNG whose size differs from the video's."""
    if reference is None:
        return
    if isinstance(reference, Part):
        if sniffed(reference) not in PICTURES:
            known = ", ".join(PICTURES)
            message = f"Unsupported file mimetype {reference.media_type!r}. Supported are: {known}."
            raise Problem(400, message, code="unsupported_file_mimetype", param="input_reference")
        found = png_size(reference.content)
        if found is not None and "{}x{}".format(*found) != size:
            raise invalid("Inpaint image must match the requested width and height", "input_reference")
        return
    if not isinstance(reference, dict) or ("image_url" in reference) == ("file_id" in reference):
        raise invalid("input_reference must be a file, or an object with image_url or file_id.", "input_reference")
    if "image_url" in reference:
        image_source(reference["image_url"], "input_reference.image_url")


def source_of(fields: Fields) -> str | Part:
    """The source of an edit or extension: an uploaded file, or a video's id. Raises Problem."""
    video = fields.get("video")
    if video is None:
        raise missing("video")
    if isinstance(video, Part):
        return video_file(video)
    video_id = video.get("id") if isinstance(video, dict) else None
    if not isinstance(video_id, str):
        raise invalid("video must be a file, or an object with the id of a completed video.", "video")
    return video_id


def video_file(part: object) -> Part:
    """An uploaded MP4. Raises Problem if the part is anything else."""
    if not isinstance(part, Part):
        raise missing("video")
    if sniffed(part) not in VIDEOS:
        raise Problem(400, "The video must be an MP4 file.", code="unsupported_file_mimetype", param="video")
    return part


def sniffed(part: Part) -> str:
    """A file's media type by its first bytes, or the declared one if they are unknown."""
    head = part.content[:12]
    if head[4:8] == b"ftyp":
        return "video/mp4"
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _STARTS if head.startswith(start)), part.media_type)


def character_name(fields: Fields) -> str:
    """The name of a character. Raises Problem."""
    return _text(fields, "name", NAME_CHARS_MAX)


def _text(fields: Fields, name: str, chars_max: int) -> str:
    text = fields.get(name)
    if text is None:
        raise missing(name)
    if not isinstance(text, str) or not 1 <= len(text) <= chars_max:
        raise invalid(f"{name} must be a text of 1 to {chars_max} characters.", name)
    return text


def missing(name: str) -> Problem:
    """The 400 for a missing required field."""
    return Problem(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
