"""The Seedance models of Volcengine's Ark: accepted inputs, sizes, tokens and prices."""

from __future__ import annotations

import re

import msgspec

FRAMES_PER_SECOND = 24
SEEDANCE_MODELS = (
    "doubao-seedance-2-0-260128",
    "doubao-seedance-2-0-fast-260128",
    "doubao-seedance-1-5-pro-251215",
    "doubao-seedance-1-0-pro-250528",
    "doubao-seedance-1-0-pro-fast-251015",
    "doubao-seedance-1-0-lite-t2v-250428",
    "doubao-seedance-1-0-lite-i2v-250428",
)
RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
RESOLUTIONS = ("480p", "720p", "1080p")
# Width and height of each ratio, in the order of RATIOS.
_SIZES = {
    "480p": ((864, 480), (736, 544), (640, 640), (544, 736), (480, 864), (960, 416)),
    "720p": ((1280, 720), (1120, 832), (960, 960), (832, 1120), (720, 1280), (1504, 640)),
    "1080p": ((1920, 1088), (1664, 1248), (1440, 1440), (1248, 1664), (1088, 1920), (2176, 928)),
}
_NAME = re.compile(r"(?:doubao-|dreamina-)?seedance-(?P<version>\d-\d)(?P<line>(?:-[a-z][a-z0-9]*)*)-\d{6}")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `old`: it accepts switches in the text and generates no audio. Rates are nano-USD per token.

    `rate_silent` is the rate of a video without audio, `rate_video` that of a video made from another.
    """

    old: bool
    drafts: bool
    references: bool
    flex: bool
    seconds: tuple[int, int]
    resolutions: tuple[str, ...]
    resolution_default: str
    rate: int
    rate_silent: int
    rate_video: int


def model_of(name: str) -> Model | None:
    """The model of a name, or of an endpoint `ep-…`, which means the newest; None if unknown."""
    if name.startswith("ep-"):
        return model_of(SEEDANCE_MODELS[0])
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    version, line = found["version"], found["line"]
    second = version.startswith("2")
    rate, silent, from_video = _rates(version, line)
    return Model(
        old=version == "1-0",
        drafts=version == "1-5",
        references=second or "-lite-i2v" in line,
        flex=not second,
        seconds=(4, 15) if second else (4, 12) if version == "1-5" else (2, 12),
        resolutions=RESOLUTIONS[:2] if second and "-fast" in line else RESOLUTIONS,
        resolution_default="1080p" if version == "1-0" and "-pro" in line else "720p",
        rate=rate,
        rate_silent=silent,
        rate_video=from_video,
    )


def size(resolution: str, ratio: str) -> tuple[int, int]:
    """Width and height in pixels."""
    return _SIZES[resolution][RATIOS.index(ratio)]


def tokens(width: int, height: int, frames: int) -> int:
    """The tokens of a video: the pixels of all its frames, divided by 1024."""
    return width * height * frames // 1024


def frames(seconds: int) -> int:
    """The number of frames of a duration, including the first one."""
    return seconds * FRAMES_PER_SECOND + 1


def _rates(version: str, line: str) -> tuple[int, int, int]:
    if version.startswith("2"):
        return (5_600, 5_600, 3_300) if "-fast" in line else (7_000, 7_000, 4_300)
    if version == "1-5":
        return (2_400, 1_200, 2_400)
    rate = 1_800 if "-lite" in line else 1_000 if "-fast" in line else 2_500
    return (rate, rate, rate)
