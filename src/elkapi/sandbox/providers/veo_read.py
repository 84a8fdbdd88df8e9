"""Reads Veo's long-running predictions: instances and parameters, validated as Gemini or Vertex does."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from elkapi.sandbox.providers.bodies import decoded_base64
from elkapi.sandbox.providers.gemini_models import no_such_model
from elkapi.sandbox.providers.gemini_read import fields_of, json_object
from elkapi.sandbox.providers.gemini_schema import invalid
from elkapi.sandbox.strict import strictly

SIZES = {
    ("720p", "16:9"): (1280, 720),
    ("720p", "9:16"): (720, 1280),
    ("1080p", "16:9"): (1920, 1080),
    ("1080p", "9:16"): (1080, 1920),
    ("4k", "16:9"): (3840, 2160),
    ("4k", "9:16"): (2160, 3840),
}
SECONDS = (4, 6, 8)
OLD_SECONDS = (5, 6, 7, 8)
SECONDS_DEFAULT = 8
SAMPLES_MAX = 4
REFERENCES_MAX = 3
PEOPLE = ("allow_all", "allow_adult", "dont_allow")
INSTANCE = {"prompt", "image", "video", "lastFrame", "referenceImages"}
PARAMETERS = {
    "sampleCount", "durationSeconds", "aspectRatio", "resolution", "personGeneration", "negativePrompt",
    "enhancePrompt",
}  # fmt: skip
VERTEX_PARAMETERS = PARAMETERS | {
    "seed", "fps", "generateAudio", "storageUri", "pubsubTopic", "compressionQuality", "resizeMode", "task",
}  # fmt: skip
VERTEX_INSTANCE = INSTANCE | {"mask"}
_NAME = re.compile(r"veo-(?P<version>[23]\.[0-9])(?P<fast>-fast|-lite)?-generate-(?:preview|exp|[0-9]{3})")


class VeoAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction: the number, length and size of its videos, and the price of a second of one."""

    samples: int
    seconds: int
    width: int
    height: int
    nano_usd_per_second: int


@strictly
def read(body: bytes, model: str, *, vertex: bool = False) -> VeoAsked:
    """Read a body for a model. Raises Problem."""
    name = _NAME.fullmatch(model)
    if name is None:
        raise no_such_model(model, "predictLongRunning")
    given = fields_of(json_object(body), "", {"instances", "parameters", "labels", "webhookConfig"})
    instances = given.get("instances")
    if not isinstance(instances, list) or len(instances) != 1:
        raise invalid("The request must have exactly one instance.")
    instance = _known(instances[0], "instances", VERTEX_INSTANCE if vertex else INSTANCE)
    parameters = _known(given.get("parameters"), "parameters", VERTEX_PARAMETERS if vertex else PARAMETERS)
    _instance_checked(instance)
    resolution = _choice(parameters, "resolution", ("720p", "1080p", "4k"), "720p")
    ratio = _choice(parameters, "aspectRatio", ("16:9", "9:16"), "16:9")
    _choice(parameters, "personGeneration", PEOPLE, None)
    old = name["version"].startswith("2")
    seconds = _whole(parameters, "durationSeconds", OLD_SECONDS if old else SECONDS, SECONDS_DEFAULT)
    if resolution != "720p" and (old or seconds != SECONDS_DEFAULT):
        raise invalid(f"`{resolution}` videos are only supported with a duration of 8 seconds by Veo 3 models.")
    width, height = SIZES[resolution, ratio]
    return VeoAsked(
        samples=_whole(parameters, "sampleCount", tuple(range(1, SAMPLES_MAX + 1)), 1),
        seconds=seconds,
        width=width,
        height=height,
        nano_usd_per_second=_rate(name, resolution, silent=parameters.get("generateAudio") is False),
    )


def _rate(name: re.Match[str], resolution: str, *, silent: bool) -> int:
    """Nano-USD per second, by model, resolution and (Vertex only) audio."""
    if name["version"].startswith("2"):
        return 350_000_000
    large = resolution == "4k"
    if name["fast"]:
        return 100_000_000 if silent else 350_000_000 if large else 150_000_000
    return 200_000_000 if silent else 600_000_000 if large else 400_000_000


def _known(value: object, path: str, known: set[str]) -> dict[str, Any]:
    """An object with only `known` fields. Raises Problem, in Google's words, for any other."""
    found = fields_of(value, path)
    for name in found:
        if name not in known:
            raise invalid(
                f"`{name}` isn't supported by this model. Please remove it or refer to the Gemini API documentation "
                "for supported usage."
            )
    return found


def _instance_checked(instance: dict[str, Any]) -> None:
    """Raise Problem for an instance without prompt, image and video, or with invalid media."""
    prompt = instance.get("prompt") or ""
    if not isinstance(prompt, str):
        raise invalid("Unable to process input: `prompt` must be a string.")
    if not prompt and not instance.get("image") and not instance.get("video"):
        raise invalid("The instance must have a prompt, an image or a video.")
    for name in ("image", "lastFrame", "video", "mask"):
        if instance.get(name) is not None:
            _medium_checked(instance[name], name)
    if instance.get("lastFrame") is not None and instance.get("image") is None:
        raise invalid("`lastFrame` needs an `image` as the first frame.")
    references = instance.get("referenceImages") or []
    if not isinstance(references, list) or len(references) > REFERENCES_MAX:
        raise invalid(f"`referenceImages` must be a list of at most {REFERENCES_MAX} images.")
    for reference in references:
        found = fields_of(reference, "referenceImages")
        if str(found.get("referenceType", "")).lower() not in ("asset", "style"):
            raise invalid("`referenceType` must be asset or style.")
        _medium_checked(found.get("image"), "referenceImages.image")


def _medium_checked(value: object, path: str) -> None:
    """Raise Problem for an image or video that is neither base64 with a media type nor a URI."""
    found = fields_of(value, path)
    data = found.get("bytesBase64Encoded", found.get("encodedVideo"))
    if data is None:
        if not isinstance(found.get("gcsUri", found.get("uri")), str):
            raise invalid(f"Unable to process input: `{path}` holds neither `bytesBase64Encoded` nor an address.")
        return
    if not isinstance(found.get("mimeType", found.get("encoding")), str):
        raise invalid(f"Unable to process input: `{path}` needs a `mimeType`.")
    if decoded_base64(data) is None:
        raise invalid(f"Unable to process input: `{path}` holds no valid base64.")


def _choice(parameters: dict[str, Any], name: str, words: tuple[str, ...], default: str | None) -> str:
    value = parameters.get(name)
    if value is None:
        return default or ""
    if not isinstance(value, str) or value.lower() not in words:
        raise invalid(f"The value `{value}` of `{name}` is not one of: {', '.join(words)}.")
    return value.lower()


def _whole(parameters: dict[str, Any], name: str, values: tuple[int, ...], default: int) -> int:
    value = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in values:
        allowed = ", ".join(map(str, values))
        raise invalid(f"The number value for `{name}` is out of bound. Please provide one of: {allowed}.")
    return int(value)
