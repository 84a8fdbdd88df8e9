"""What a media task may cost, from its request, and what it did cost, from its files; prices are elsewhere.

The request bounds the units and names the features that select a price's variant. Nothing is underestimated: a length
or count that cannot be read is refused, and a feature that the request leaves open is `unfixed`, for which the dearest
variant is held.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from elkapi.catalog.jsonpath import first, first_of
from elkapi.catalog.task import Meter
from elkapi.errors import BadRequest
from elkapi.types import TaskAsset, Usage

SECONDS_MAX = 3600
COUNT_MAX = 100
FEATURE_CHARS_MAX = 64
# A file's length is read to a tenth of a second; within this distance of the requested length it counts as the
# requested one.
STEP_MS = 100
NEAR_MS = 250
RESOLUTION = "resolution"
_SIDES = ((480, "480p"), (540, "540p"), (720, "720p"), (768, "768p"), (1080, "1080p"))
_ORDER = (*(name for _, name in _SIDES), "4k")
_NUMBER = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s?")
_SIZE = re.compile(r"(\d{2,5})[x×*:](\d{2,5})")
_LINES = re.compile(r"(\d{3,4})p")
# Below this, two numbers are an aspect ratio such as 16:9, not pixels.
_PIXELS_MIN = 64


def bound(meter: Meter, body: Mapping[str, Any]) -> tuple[Usage, dict[str, str]]:
    """The most units that a request can come to, and its features. Raises BadRequest for what cannot be counted.

    Several results of a kind count as so many calls. A meter in tokens is bounded by its `tokens_max`.
    """
    features = _features(meter, body)
    count = _count(meter, body)
    has_length = meter.unit in ("second", "token") or bool(meter.seconds)
    each_ms = _length_ms(meter, body) if has_length else 0
    if meter.frames_s is not None:
        each_ms = max(each_ms, math.ceil(meter.frames_s(body) * 1000))
    if meter.unit == "image":
        return Usage(images=count, calls=count), features
    if meter.unit == "token":
        if meter.tokens_max is None:
            raise ValueError("a meter in tokens needs tokens_max")
        if meter.input_s is not None:
            each_ms += math.ceil(meter.input_s(body) * 1000)
        return Usage(output_tokens=meter.tokens_max(features, each_ms) * count, calls=count), features
    return _lasting(meter, each_ms * count, count), features


def _lasting(meter: Meter, ms: int, calls: int) -> Usage:
    return Usage(audio_ms=ms, calls=calls) if meter.sound else Usage(video_ms=ms, calls=calls)


def unfixed(meter: Meter, features: Mapping[str, str]) -> frozenset[str]:
    """The features of the meter that the request leaves open, for `price.dearest_for`."""
    names = set(meter.features)
    if "size" in names:
        names.add(RESOLUTION)
    return frozenset(names - features.keys())


def measured(
    meter: Meter, asked: Usage, features: Mapping[str, str], assets: tuple[TaskAsset, ...]
) -> tuple[Usage, dict[str, str]]:
    """The units of the billed files of a finished task; the caller caps the charge at the hold.

    Providers bill the requested seconds: a length is rounded to 100 ms, and within 250 ms of the requested one it
    counts as that. A file of unknown length counts as requested, and so does one that `extends`. A lower resolution
    than requested is charged as it is; a higher one as requested. If no file tells anything, `asked` counts; tokens,
    which the provider should report, are bounded by what the files can have taken.
    """
    kind = "image" if meter.unit == "image" else "audio" if meter.sound else "video"
    assets = tuple(asset for asset in assets if not asset.beside)
    files = [asset for asset in assets if asset.kind == kind]
    if not files and kind != "image":
        # Speech is metered by its seconds as well, and the speech of a film may come as a film.
        files = [asset for asset in assets if asset.kind in ("audio", "video")]
    if not files:
        return asked, _with_resolution(meter, features, files)
    if meter.unit == "token":
        features = _with_resolution(meter, features, files)
        lengths_ms = [file.duration_ms for file in files if file.duration_ms is not None]
        if meter.tokens_max is None or len(lengths_ms) < len(files):
            return asked, features
        tokens = min(asked.output_tokens, meter.tokens_max(features, sum(lengths_ms)))
        return Usage(output_tokens=tokens, calls=asked.calls), features
    calls = min(asked.calls, len(files))
    if kind == "image":
        return Usage(images=len(files), calls=calls), _with_resolution(meter, features, files)
    asked_ms = asked.video_ms + asked.audio_ms
    each_ms = asked_ms // max(asked.calls, 1)
    if meter.extends or not asked_ms:
        return _lasting(meter, asked_ms, calls), _with_resolution(meter, features, files)
    ms = sum(charged_ms(file.duration_ms, each_ms) for file in files)
    return _lasting(meter, ms, calls), _with_resolution(meter, features, files)


def charged_ms(file_ms: int | None, asked_ms: int) -> int:
    """The part of a file's length that is charged if `asked_ms` was requested; see `measured`."""
    if file_ms is None or abs(file_ms - asked_ms) <= NEAR_MS:
        return asked_ms
    return (file_ms + STEP_MS // 2) // STEP_MS * STEP_MS


def resolution_of(width: int, height: int) -> str:
    """The resolution name of a size by its shorter side: the smallest that contains it, so 1280 x 704 is 720p."""
    shorter = min(width, height)
    return next((name for side, name in _SIDES if shorter <= side), "4k")


def at_least(features: Mapping[str, str], resolution: str | None) -> dict[str, str]:
    """The features with a lower resolution raised to this one; None raises nothing."""
    known = features.get(RESOLUTION)
    if resolution not in _ORDER or known not in _ORDER or _ORDER.index(resolution) <= _ORDER.index(known):
        return dict(features)
    return {**features, RESOLUTION: resolution}


def as_told(meter: Meter, features: Mapping[str, str], reply: Any) -> dict[str, str]:
    """The features with the resolution that the provider says it made, where it is below the known one: the sides of a
    square or upright picture can look like those of a higher resolution.
    """
    told = first(meter.resolution_told, reply) if meter.resolution_told else None
    word = _resolution(told.lower()) if isinstance(told, str) else None
    known = features.get(RESOLUTION)
    if word is None or known not in _ORDER or _ORDER.index(word) >= _ORDER.index(known):
        return dict(features)
    return {**features, RESOLUTION: word}


def _with_resolution(meter: Meter, features: Mapping[str, str], files: list[TaskAsset]) -> dict[str, str]:
    """The features with the files' resolution, if the meter uses one and the files' is below the known one."""
    known = features.get(RESOLUTION)
    found = [resolution_of(file.width, file.height) for file in files if file.width and file.height]
    if not found or not {RESOLUTION, "size"} & meter.features.keys() or (known is not None and known not in _ORDER):
        return dict(features)
    highest = max(found, key=_ORDER.index)
    if known is not None and _ORDER.index(highest) >= _ORDER.index(known):
        return dict(features)
    return {**features, RESOLUTION: highest}


def _features(meter: Meter, body: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, places in meter.features.items():
        paths = tuple(place for place in places if not place.startswith("="))
        _, value = _said(paths, body)
        if value is None:
            value = next((place[1:] for place in places if place.startswith("=")), None)
        if value is not None:
            found[name] = _word(value, paths[0] if paths else name)
    found |= {name: "true" if judge(body) else "false" for name, judge in meter.judged.items()}
    return _with_asked_resolution(found)


def _said(paths: tuple[str, ...], body: Mapping[str, Any]) -> tuple[str, Any]:
    """(the first of these paths that has a value, the value), ("", None) if none has.

    Raises BadRequest if two of them differ: a provider reads one path, so another value could be served than is priced.
    """
    found = {path: value for path in paths if (value := first_of((path,), body)) is not None}
    if len(found) > 1 and len({_word(value, path) for path, value in found.items()}) > 1:
        places = " and ".join(f"`{path}`" for path in found)
        raise BadRequest(
            f"{places} have different values; send only one of them.", code="duplicate_field", param=next(iter(found))
        )
    return next(iter(found.items()), ("", None))


def _with_asked_resolution(features: dict[str, str]) -> dict[str, str]:
    """Derive the resolution from sizes: a feature `resolution` is normalized, otherwise the first size found sets
    it."""
    for name in sorted(features, key=lambda name: name != RESOLUTION):
        if resolution := _resolution(features[name]):
            return {**features, RESOLUTION: features.get(RESOLUTION, resolution) if name != RESOLUTION else resolution}
    return features


def _resolution(word: str) -> str | None:
    if word in _ORDER:
        return word
    if lines := _LINES.fullmatch(word):
        return resolution_of(int(lines[1]), int(lines[1]))
    size = _SIZE.fullmatch(word)
    if size is None or min(int(size[1]), int(size[2])) < _PIXELS_MIN:
        return None
    return resolution_of(int(size[1]), int(size[2]))


def spelled(feature: str, word: str) -> str:
    """The word of a price's variant, spelled as a call's feature spells it. Raises BadRequest for what no call can
    say."""
    word = _word(word, feature)
    return (_resolution(word) or word) if feature == RESOLUTION else word


def _word(value: Any, param: str) -> str:
    """A value as the lower-case word that variants name; 5, 5.0 and "5s" are one word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}"
    if not isinstance(value, str) or len(value) > FEATURE_CHARS_MAX:
        raise BadRequest(
            f"`{param}` must be a string of at most {FEATURE_CHARS_MAX} characters or a number.", param=param
        )
    word = value.strip().lower()
    number = _NUMBER.fullmatch(word)
    return f"{float(number[1]):g}" if number else word


def _length_ms(meter: Meter, body: Mapping[str, Any]) -> int:
    """Milliseconds, rounded up, of the first length found.

    Providers that bill in tokens take -1 for a length that the model chooses, Runway "auto"; their meters' default is
    the longest.
    """
    param, value = _said(meter.seconds, body)
    if value is None or value == "auto" or (meter.unit == "token" and value == -1):
        return math.ceil(meter.seconds_default * 1000)
    seconds = _decimal(value)
    if seconds is None or not 0 < seconds <= SECONDS_MAX:
        raise BadRequest(f"`{param}` must be a number of seconds above 0, at most {SECONDS_MAX}.", param=param)
    return math.ceil(seconds * 1000)


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value)) if math.isfinite(value) else None
    number = _NUMBER.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    return Decimal(number[1]) if number else None


def _count(meter: Meter, body: Mapping[str, Any]) -> int:
    value = first(meter.count, body) if meter.count else None
    if value is None:
        return 1
    count = _decimal(value)
    if count is None or count != count.to_integral_value() or not 1 <= count <= COUNT_MAX:
        raise BadRequest(f"`{meter.count}` must be a whole number from 1 to {COUNT_MAX}.", param=meter.count)
    return int(count)
