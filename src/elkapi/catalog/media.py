"""Maps from a neutral video request to each provider's operations and fields. Data only.

A field map gives, for each neutral field, a path in the provider's body and the value's format there: `duration|int`,
`ratio|colon`. A path that ends in `[+]` appends to a list. A provider does not support fields missing from its map:
those in `MEANING` are refused, all others are hints and are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog.operation import Wire

# Fields without which the video would differ from the one requested.
MEANING = (
    "negative_prompt",
    "image",
    "references",
    "last_image",
    "video",
    "seconds",
    "ratio",
    "resolution",
    "audio",
    "count",
)


class VideoMap(msgspec.Struct, frozen=True, kw_only=True):
    """One wire. `text`, `image` and `video` are the operations for each kind of input, "" if unsupported.

    `base` is the initial content of every body. `models` matches the model names by which an account with several wires
    selects this one. `extra`: unknown fields of the caller are passed on. `by_image` are fields omitted because an
    image determines them, `listed` the caller's own list of parts, which precede ours. `lines` are the supported
    resolutions, by the first pattern that the model's name matches: one derived from a size, but not among them, is
    left to the provider. `auto_seconds`: -1 lets the model choose the duration. `inline`: images are accepted as bytes
    only, so those given by URL are fetched. `demands` are fields that certain models require, with the values used if a
    request omits them.
    """

    text: str
    image: str = ""
    video: str = ""
    fields: Mapping[str, str]
    base: Mapping[str, Any] = {}
    models: str
    extra: bool = True
    by_image: tuple[str, ...] = ()
    listed: str = ""
    lines: Mapping[str, tuple[str, ...]] = {}
    auto_seconds: bool = False
    inline: bool = False
    demands: Mapping[str, Mapping[str, Any]] = {}


_CONTENT = "content[+]"
VIDEO_MAPS: dict[Wire, VideoMap] = {
    # First, because only the model's name distinguishes it from OpenAI's own.
    "sora-reverse": VideoMap(
        text="sora.reverse-create",
        image="sora.reverse-create",
        models=r"^sora$",
        fields={
            "model": "model",
            "prompt": "prompt",
            "image": "image_url",
            "references": "images[+]",
            "ratio": "aspect_ratio|colon",
            "resolution": "resolution",
            "seconds": "duration|int",
            "count": "n_variants|int",
        },
    ),
    "videos": VideoMap(
        text="sora.create",
        image="sora.create",
        models=r"^sora",
        fields={
            "model": "model",
            "prompt": "prompt",
            "seconds": "seconds|str",
            "size": "size|x",
            "image": "input_reference.image_url|data-url",
        },
    ),
    "veo": VideoMap(
        text="veo.predict",
        image="veo.predict",
        models=r"^veo",
        base={"instances": [{}], "parameters": {}},
        extra=False,
        inline=True,
        lines={"": ("720p", "1080p", "4k")},
        fields={
            "prompt": "instances[0].prompt",
            "image": "instances[0].image|google",
            "last_image": "instances[0].lastFrame|google",
            "references": "instances[0].referenceImages[+]|google-asset",
            "negative_prompt": "parameters.negativePrompt",
            "seconds": "parameters.durationSeconds|int",
            "ratio": "parameters.aspectRatio|colon",
            "resolution": "parameters.resolution",
            "count": "parameters.sampleCount|int",
        },
    ),
    "ark-video": VideoMap(
        text="seedance.submit",
        image="seedance.submit",
        video="seedance.submit",
        models=r"seedance|^ep-",
        listed="content",
        auto_seconds=True,
        lines={"": ("480p", "720p", "1080p", "4k")},
        base={"content": []},
        fields={
            "model": "model",
            # Without roles, as the neutral form's contract says, unless there is a first and a last image.
            "image": f"{_CONTENT}|ark-image",
            "first_image": f"{_CONTENT}|ark-first",
            "last_image": f"{_CONTENT}|ark-last",
            "references": f"{_CONTENT}|ark-image",
            "video": f"{_CONTENT}|ark-video",
            "prompt": f"{_CONTENT}|ark-text",
            "ratio": "ratio|colon",
            "resolution": "resolution",
            "seconds": "duration|int",
            "seed": "seed|int",
            "audio": "generate_audio",
        },
    ),
    "kling": VideoMap(
        text="kling.text-to-video",
        image="kling.image-to-video",
        models=r"^kling",
        by_image=("ratio",),
        fields={
            "model": "model_name",
            "prompt": "prompt",
            "negative_prompt": "negative_prompt",
            "image": "image|raw-base64",
            "last_image": "image_tail|raw-base64",
            "seconds": "duration|str",
            "ratio": "aspect_ratio|colon",
            "mode": "mode",
            "audio": "sound|on-off",
        },
    ),
    "minimax-video": VideoMap(
        text="minimax.generate",
        image="minimax.generate",
        models=r"(?i)^(minimax-hailuo|[tis]2v-01|video-01)",
        lines={r"(?i)^([tis]2v-01|video-01)": ("720p",), "": ("512p", "768p", "1080p")},
        fields={
            "model": "model",
            "prompt": "prompt",
            "image": "first_frame_image|data-url",
            "last_image": "last_frame_image|data-url",
            "seconds": "duration|int",
            "resolution": "resolution|capital",
        },
    ),
    "luma": VideoMap(
        text="luma.generate",
        image="luma.generate",
        models=r"^(ray|luma)",
        lines={"": ("540p", "720p", "1080p", "4k")},
        fields={
            "model": "model",
            "prompt": "prompt",
            "image": "keyframes.frame0|luma",
            "last_image": "keyframes.frame1|luma",
            "ratio": "aspect_ratio|colon",
            "resolution": "resolution",
            "seconds": "duration|s",
        },
    ),
    "pika": VideoMap(
        text="pika.generate",
        image="pika.generate",
        video="pika.generate",
        models=r"^pika",
        base={"options": {"parameters": {}, "extend": False}},
        by_image=("ratio",),
        fields={
            "model": "model|pika",
            "prompt": "promptText",
            "negative_prompt": "options.parameters.negativePrompt",
            "image": "image",
            "video": "video",
            "ratio": "options.aspectRatio|quotient",
            "seed": "options.parameters.seed|int",
            "fps": "options.frameRate|int",
        },
    ),
    "duomi-pika": VideoMap(
        text="pika.pro-text",
        image="pika.pro-text",
        video="pika.pro-text",
        models=r"^pika",
        base={"options": {"parameters": {}, "extend": False}},
        fields={
            "model": "model|pika",
            "prompt": "prompt",
            "negative_prompt": "options.parameters.negativePrompt",
            "image": "image",
            "video": "video",
            "ratio": "ratio|colon",
            "seed": "options.parameters.seed|int",
            "fps": "options.frameRate|int",
        },
    ),
    "duomi-runway": VideoMap(
        text="runway.generate-text",
        image="runway.generate-text",
        models=r"^gen[34]$",
        base={
            "style": "cinematic",
            "ratio": "16:9",
            "options": {"seconds": 5, "motion_vector": dict.fromkeys(("x", "y", "z", "r", "bg_x_pan", "bg_y_pan"), 0)},
        },
        fields={
            "model": "model",
            "prompt": "prompt",
            "image": "image",
            "last_image": "image_as_end_frame",
            "ratio": "ratio|colon",
            "seconds": "options.seconds|int",
        },
    ),
    "runway": VideoMap(
        text="runway.text-to-video",
        image="runway.image-to-video",
        models=r"^(gen4|aleph|act_two|veo3|seedance2|happyhorse|gemini_omni)",
        demands={r"^(gen4|veo3)": {"ratio": "1280:720"}, r"^gen4\.5": {"duration": 5}, r"^veo3$": {"duration": 8}},
        fields={
            "model": "model",
            "prompt": "promptText",
            "negative_prompt": "negativePrompt",
            "image": "promptImage|data-url",
            "size": "ratio|size-colon",
            "seconds": "duration|int",
            "seed": "seed|int",
            "audio": "audio",
        },
    ),
}
