"""What media tasks may cost and did cost: lengths, counts and features out of requests and files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.catalog.families import ark, kling, runway
from elkapi.catalog.task import Meter
from elkapi.errors import BadRequest
from elkapi.money import format_usd, parse_ratio
from elkapi.pricing.media import as_told, at_least, bound, measured, resolution_of, spelled, unfixed
from elkapi.pricing.price import amount_nano, dearest_for, priced_for, quote
from elkapi.storage.media_prices import media_prices
from elkapi.types import Amounts, AssetKind, Price, TaskAsset, Usage, Variant

SECONDS = Meter(
    unit="second",
    seconds=("duration", "input.duration"),
    count="n",
    features={"mode": ("mode", "=std"), "resolution": ("resolution",), "duration": ("duration", "=5")},
)
SIZED = Meter(unit="second", seconds=("seconds",), seconds_default=4.0, features={"size": ("size", "=720x1280")})
PICTURES = Meter(unit="image", count="n", features={"resolution": ("resolution", "=1k")})


def _file(kind: AssetKind = "video", **more: Any) -> TaskAsset:
    return TaskAsset(id=b"a" * 16, kind=kind, content_type="", size_bytes=1, **more)


@pytest.mark.parametrize("value", ["5", 5, "5s", 5.0, " 5S ", "5.0"])
def test_every_spelling_of_five_seconds_is_five_seconds(value: object) -> None:
    usage, features = bound(SECONDS, {"duration": value})
    assert usage == Usage(video_ms=5000, calls=1)
    assert features == {"mode": "std", "duration": "5"}


def test_sound_is_bounded_and_measured_as_sound() -> None:
    meter = Meter(unit="second", seconds=("duration",), seconds_default=30.0, sound=True)
    upper, features = bound(meter, {})
    assert upper == Usage(audio_ms=30_000, calls=1)
    assert measured(meter, upper, features, (_file("audio", duration_ms=4_130),))[0] == Usage(audio_ms=4_100, calls=1)
    # What was made of a film's sound may be a film.
    assert measured(meter, upper, features, (_file("video", duration_ms=4_130),))[0] == Usage(audio_ms=4_100, calls=1)
    assert measured(meter, upper, features, (_file("audio"),))[0] == upper
    assert measured(meter, upper, features, ())[0] == upper


@pytest.mark.parametrize("name", ["speech-to-speech", "voice-isolation", "voice-dubbing"])
def test_runways_voices_are_metered_by_the_second_of_sound(name: str) -> None:
    (operation,) = [one for one in runway.FAMILY.operations if one.id == f"runway.{name}"]
    assert operation.meter is not None
    assert operation.meter.sound


@pytest.mark.parametrize("value", [-1, "-5", 0, math.nan, math.inf, "nan", "inf", 1e300, "9" * 9, 3601, True, {}, [5]])
def test_a_length_that_is_none_is_refused_by_its_name(value: object) -> None:
    body = {"duration": value} if value != {} else {"duration": {"a": 1}}
    with pytest.raises(BadRequest) as refused:
        bound(SECONDS, body)
    assert refused.value.param == "duration"


@pytest.mark.parametrize("value", [0, -1, 101, 1.5, "two", True, math.nan])
def test_a_count_that_is_none_is_refused_by_its_name(value: object) -> None:
    with pytest.raises(BadRequest) as refused:
        bound(PICTURES, {"n": value})
    assert refused.value.param == "n"


def test_lengths_stand_in_the_first_place_that_has_one_else_the_default() -> None:
    assert bound(SECONDS, {"duration": "", "input": {"duration": 10}})[0].video_ms == 10_000
    assert bound(SIZED, {})[0].video_ms == 4000
    assert bound(SECONDS, {"duration": 5, "n": "2"})[0] == Usage(video_ms=10_000, calls=2)
    assert bound(PICTURES, {"n": 3})[0] == Usage(images=3, calls=3)
    assert bound(Meter(), {"duration": 5}) == (Usage(calls=1), {})


@pytest.mark.parametrize("name", ["duration", "mode"])
def test_places_that_say_different_things_are_refused_and_those_that_agree_are_one(name: str) -> None:
    (effects,) = [one.meter for one in kling.FAMILY.operations if one.id == "kling.effects"]
    assert effects is not None
    with pytest.raises(BadRequest) as refused:
        bound(effects, {name: "5", "input": {name: "10"}})
    assert (refused.value.param, refused.value.code) == (name, "duplicate_field")
    assert bound(effects, {name: 5, "input": {name: "5s"}})[1][name] == "5"


@pytest.mark.parametrize(
    ("size", "resolution"),
    [
        ("1280x720", "720p"),
        ("1280:720", "720p"),
        ("720P", "720p"),
        ("1080p", "1080p"),
        ("4K", "4k"),
        ("832*480", "480p"),
        ("1366x768", "768p"),
        ("1024x1792", "1080p"),
        ("3840x2160", "4k"),
        ("64x64", "480p"),
        ("63x64", None),
        ("16:9", None),
        ("1k", None),
    ],
)
def test_sizes_name_a_resolution_by_their_shorter_side(size: str, resolution: str | None) -> None:
    features = bound(SIZED, {"size": size})[1]
    assert features == {"size": size.lower()} | ({"resolution": resolution} if resolution else {})


def test_a_features_word_is_short_and_one_of_a_kind() -> None:
    assert bound(SECONDS, {"mode": "PRO", "resolution": "1920x1080"})[1]["resolution"] == "1080p"
    assert bound(SECONDS, {"mode": False})[1]["mode"] == "false"
    for bad in ("x" * 65, {"a": 1}, ["pro"]):
        with pytest.raises(BadRequest) as refused:
            bound(SECONDS, {"mode": bad})
        assert refused.value.param == "mode"


def test_what_a_request_leaves_open_is_unfixed() -> None:
    assert unfixed(SECONDS, bound(SECONDS, {})[1]) == {"resolution"}
    assert unfixed(SIZED, bound(SIZED, {"size": "auto"})[1]) == {"resolution"}
    assert unfixed(SIZED, bound(SIZED, {})[1]) == frozenset()


def test_tokens_are_bounded_by_the_meters_own_function() -> None:
    meter = Meter(unit="token", seconds=("duration",), tokens_max=lambda features, ms: ms * len(features["mode"]))
    meter = Meter(unit="token", seconds=meter.seconds, features={"mode": ("mode", "=std")}, tokens_max=meter.tokens_max)
    asked, features = bound(meter, {"duration": 5})
    assert asked == Usage(output_tokens=15_000, calls=1)
    assert bound(meter, {"duration": -1})[0] == asked
    assert measured(meter, asked, features, (_file(duration_ms=900),)) == (Usage(output_tokens=2700, calls=1), features)
    assert measured(meter, asked, features, (_file(),)) == (asked, features)
    # One whose length is not known might be of any, and none costs more than was held.
    assert measured(meter, asked, features, (_file(duration_ms=900), _file())) == (asked, features)
    assert measured(meter, asked, features, (_file(duration_ms=60_000),)) == (asked, features)
    with pytest.raises(ValueError, match="tokens_max"):
        bound(Meter(unit="token"), {})


_TEXT, _FILM = {"type": "text", "text": "a dog"}, {"type": "video_url", "video_url": {"url": "https://a.test/b.mp4"}}
_SEEDANCE = {"model": "doubao-seedance-2-0-260128", "content": [_TEXT], "duration": 5, "resolution": "720p"}


def _seedance(**asked: Any) -> tuple[int, dict[str, str]]:
    (meter,) = [one.meter for one in ark.FAMILY.operations if one.id == "seedance.submit"]
    assert meter is not None
    usage, features = bound(meter, _SEEDANCE | asked)
    return usage.output_tokens, features


@pytest.mark.parametrize(
    ("asked", "width", "height", "input_s", "seconds"),
    [
        ({}, 1280, 720, 0, 5),
        ({"resolution": "4k"}, 3326, 2494, 0, 5),
        # What a caller refers to counts as well: at most 15 seconds of videos, 30 from Seedance 2.5 on.
        ({"content": [_TEXT, _FILM]}, 1470, 630, 15, 5),
        ({"model": "doubao-seedance-2-5-260628", "content": [_FILM]}, 1470, 630, 30, 5),
        # The length that the model chooses is at most as long.
        ({"duration": -1}, 1280, 720, 0, 15),
        ({"model": "doubao-seedance-2-5-260628", "duration": -1}, 1280, 720, 0, 30),
        ({"model": "ep-20261201-abcde", "duration": None, "content": [_FILM]}, 1280, 720, 30, 30),
    ],
)
def test_seedances_tokens_are_bounded_with_the_videos_that_a_task_refers_to(
    asked: dict[str, Any], width: int, height: int, input_s: int, seconds: int
) -> None:
    tokens = width * height * ((input_s + seconds) * 24 + 1) // 1024
    assert tokens <= _seedance(**asked)[0] < 2 * tokens


def test_seedances_price_may_depend_on_whether_a_video_is_referred_to() -> None:
    assert _seedance()[1]["video_input"] == "false"
    for item in (_FILM, {"Type": "video_url", "Video_URL": {"url": "https://a.test/b.mp4"}}):
        assert _seedance(content=[_TEXT, item])[1]["video_input"] == "true"
    assert _seedance(content=None, Content=[_FILM])[1]["video_input"] == "true"
    assert _seedance(content=[_TEXT, {"type": "video_url", "video_url": None}, 7])[1]["video_input"] == "false"


def test_a_length_is_bounded_by_all_of_its_last_millisecond() -> None:
    assert bound(SECONDS, {"duration": 5.0001})[0].video_ms == 5001
    assert bound(SECONDS, {"duration": 3600})[0].video_ms == 3_600_000
    assert bound(PICTURES, {"n": 100})[0].images == 100
    # A length in frames is one more that a provider may go by: the longer one counts.
    framed = msgspec.structs.replace(SECONDS, frames_s=lambda body: body["frames"] / 24)
    assert [bound(framed, {"duration": 5, "frames": frames})[0].video_ms for frames in (24, 121)] == [5000, 5042]


@pytest.mark.parametrize(
    ("lengths", "held_ms"),
    [
        (["3", "9"], 12_000),
        ([3, 1.5], 5000),
        ([1e308, 1e308], 5000),
        ([None, [], "x", "nan", "1e5", True], 5000),
    ],
)
def test_shots_that_last_longer_together_than_the_length_asked_for_are_held(lengths: list[Any], held_ms: int) -> None:
    shots = [{"prompt": "a dog", "duration": length} for length in lengths]
    for family, name, body in (
        (kling, "kling.image-to-video", {"multi_prompt": shots}),
        (runway, "runway.text-to-video", {"duration": 5, "providerSettings": {"multiPrompt": shots}}),
    ):
        (meter,) = [one.meter for one in family.FAMILY.operations if one.id == name]
        assert meter is not None
        assert bound(meter, body)[0].video_ms == held_ms


@pytest.mark.parametrize("extends", [True, False])
def test_an_extension_costs_what_it_adds_however_long_its_file_is(extends: bool) -> None:
    meter = Meter(unit="second", seconds=("duration",), extends=extends)
    asked, features = bound(meter, {"duration": 5})
    made = (_file(duration_ms=12_000),)
    assert measured(meter, asked, features, made)[0].video_ms == (5000 if extends else 12_000)
    # What is priced by the call has no seconds to pay, whatever its files last.
    assert measured(Meter(), Usage(calls=1), {}, made)[0] == Usage(calls=1)


@pytest.mark.parametrize(
    ("file_ms", "charged_ms"), [(5040, 5000), (4750, 5000), (5250, 5000), (4749, 4700), (3051, 3100), (None, 5000)]
)
def test_a_file_near_the_length_asked_for_costs_the_length_asked_for(file_ms: int | None, charged_ms: int) -> None:
    asked, features = bound(SECONDS, {"duration": 5})
    assert measured(SECONDS, asked, features, (_file(duration_ms=file_ms),))[0] == Usage(video_ms=charged_ms, calls=1)


def test_files_are_counted_and_posters_are_not() -> None:
    asked, features = bound(SECONDS, {"duration": 5, "n": 2})
    made = (_file(duration_ms=5040), _file("image"))
    assert measured(SECONDS, asked, features, made)[0] == Usage(video_ms=5000, calls=1)
    assert measured(SECONDS, asked, features, (_file("image"),))[0] == asked
    assert measured(SECONDS, asked, features, (_file("audio", duration_ms=7000),))[0] == Usage(video_ms=7000, calls=1)
    # Neither is what came beside a result, such as the same video with a watermark.
    beside = _file(duration_ms=5040, width=8, height=8, beside=True)
    sized = msgspec.structs.replace(SECONDS, features={"resolution": ("resolution", "=720p")})
    assert measured(sized, asked, {"resolution": "720p"}, (*made, beside)) == (
        Usage(video_ms=5000, calls=1),
        {"resolution": "720p"},
    )
    asked, features = bound(PICTURES, {"n": 4})
    assert measured(PICTURES, asked, features, (_file("image"),) * 3)[0] == Usage(images=3, calls=3)


@pytest.mark.parametrize(
    ("asked", "sides", "charged"),
    [
        ("1080p", (1280, 720), "720p"),
        ("720p", (1920, 1080), "720p"),
        (None, (1920, 1080), "1080p"),
        ("2k", (8, 8), "2k"),
    ],
)
def test_a_lower_resolution_is_charged_as_what_it_is(asked: str | None, sides: tuple[int, int], charged: str) -> None:
    usage, features = bound(SECONDS, {"resolution": asked} if asked else {})
    found = measured(SECONDS, usage, features, (_file(width=sides[0], height=sides[1], duration_ms=5000),))[1]
    assert found["resolution"] == charged
    # Where no price goes by a resolution the files' is nobody's.
    plain = Meter(unit="second", seconds=("duration",))
    assert measured(plain, usage, {}, (_file(width=sides[0], height=sides[1], duration_ms=5000),))[1] == {}


_bodies = st.fixed_dictionaries(
    {},
    optional={
        "duration": st.integers(1, 20) | st.sampled_from(("5", "10s")),
        "n": st.integers(1, 3),
        "mode": st.sampled_from(("std", "PRO")),
        "resolution": st.sampled_from(("480p", "720P", "1080p", "4K")),
    },
)
_variants = st.lists(
    st.builds(
        Variant,
        when=st.fixed_dictionaries(
            {"resolution": st.sampled_from((("720p",), ("1080p", "4k"), ("480p",)))},
            optional={"mode": st.sampled_from((("std",), ("pro",)))},
        ),
        video_second_nano=st.integers(0, 10**9),
        call_nano=st.integers(0, 10**9),
    ),
    max_size=3,
).map(tuple)


@given(_bodies, _variants, st.integers(0, 10**9), st.lists(st.sampled_from((480, 720, 1080, 2160)), max_size=3))
def test_g36_the_hold_covers_the_charge_of_any_files_where_the_resolution_was_left_open(
    body: dict[str, Any], variants: tuple[Variant, ...], nano: int, sides: list[int]
) -> None:
    price = Price(id=1, model="m", version=1, video_second_nano=nano, variants=variants)
    usage, features = bound(SECONDS, body)
    held = quote(dearest_for(price, features, unfixed(SECONDS, features)), "g", 1_000_000, usage).nano
    each_ms = usage.video_ms // usage.calls
    files = tuple(_file(width=side, height=side, duration_ms=each_ms + 40) for side in sides[: usage.calls])
    made, became = measured(SECONDS, usage, features, files)
    assert made.video_ms <= usage.video_ms
    if "resolution" not in features:
        assert amount_nano(priced_for(price, became), made, 1_000_000) <= held


@pytest.mark.parametrize(
    ("shorter", "name"),
    [
        *((480, "480p"), (481, "540p"), (540, "540p"), (541, "720p"), (720, "720p"), (721, "768p")),
        *((768, "768p"), (769, "1080p"), (1080, "1080p"), (1081, "4k")),
    ],
)
def test_a_size_has_the_name_of_the_smallest_that_holds_it(shorter: int, name: str) -> None:
    assert resolution_of(shorter, 4000) == name
    assert bound(SIZED, {"size": f"{shorter}p"})[1]["resolution"] == name


def test_a_resolution_beside_a_size_is_the_one_that_counts() -> None:
    meter = Meter(unit="second", features={"size": ("size",), "resolution": ("resolution",)}, seconds=("duration",))
    assert bound(meter, {"size": "1280x720", "resolution": "1080P"})[1]["resolution"] == "1080p"
    assert bound(meter, {"size": "1280x720"})[1]["resolution"] == "720p"


def test_a_file_of_which_one_side_is_known_tells_no_resolution() -> None:
    usage, features = bound(SECONDS, {"resolution": "1080p"})
    files = (_file(width=8, duration_ms=5000), _file(height=8, duration_ms=5000))
    assert measured(SECONDS, usage, features, files)[1]["resolution"] == "1080p"


@pytest.mark.parametrize(
    ("known", "least", "becomes"),
    [
        ("480p", "720p", "720p"),
        ("720p", "720p", "720p"),
        ("1080p", "720p", "1080p"),
        ("720p", None, "720p"),
        ("2k", "720p", "2k"),
        ("480p", "2k", "480p"),
        (None, "720p", None),
    ],
)
def test_a_resolution_is_raised_to_the_least_and_never_lowered(
    known: str | None, least: str | None, becomes: str | None
) -> None:
    features = {"mode": "std"} | ({"resolution": known} if known else {})
    assert at_least(features, least) == {"mode": "std"} | ({"resolution": becomes} if becomes else {})


@pytest.mark.parametrize(
    ("known", "told", "becomes"),
    [
        ("1080p", "720P", "720p"),
        ("1080p", "1280x720", "720p"),
        ("720p", "720p", "720p"),
        ("720p", "1080p", "720p"),
        ("720p", "high", "720p"),
        ("720p", 480, "720p"),
        ("720p", None, "720p"),
        ("2k", "480p", "2k"),
        (None, "480p", None),
    ],
)
def test_what_the_provider_says_it_made_counts_where_it_is_less(
    known: str | None, told: object, becomes: str | None
) -> None:
    meter = msgspec.structs.replace(SECONDS, resolution_told="result.size")
    features = {"resolution": known} if known else {}
    reply = {"result": {"size": told}}
    assert as_told(meter, features, reply) == ({"resolution": becomes} if becomes else {})
    assert as_told(SECONDS, features, reply) == features


def test_a_variants_word_is_spelled_as_a_calls() -> None:
    assert spelled("resolution", "1280x720") == "720p"
    assert spelled("resolution", "2K") == "2k"
    assert spelled("size", "1280X720") == "1280x720"


def test_each_of_several_results_is_measured_beside_its_own_length() -> None:
    asked, features = bound(SECONDS, {"duration": 5, "n": 2})
    made = (_file(duration_ms=5040), _file(duration_ms=4749))
    assert measured(SECONDS, asked, features, made)[0] == Usage(video_ms=9700, calls=2)


def test_the_field_of_a_word_that_is_none_is_named() -> None:
    meter = Meter(unit="second", seconds=("duration",), features={"size": ("input.size",)})
    assert bound(meter, {"input": {"size": "x" * 64}})[1] == {"size": "x" * 64}
    with pytest.raises(BadRequest) as refused:
        bound(meter, {"input": {"size": ["x"]}})
    assert refused.value.param == "input.size"


def test_tokens_of_several_results_are_held_for_each_with_what_they_refer_to() -> None:
    meter = Meter(
        unit="token",
        seconds=("duration",),
        count="n",
        tokens_max=lambda _features, ms: ms,
        input_s=lambda _body: 0.5,
    )
    assert bound(meter, {"duration": 5, "n": 3})[0] == Usage(output_tokens=16_500, calls=3)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_every_size_has_a_name(width: int, height: int) -> None:
    assert resolution_of(width, height) == resolution_of(height, width)


def test_the_worked_example_of_the_page_about_money() -> None:
    page = (Path(__file__).parents[3] / "docs/money.md").read_text("utf-8")
    meter = next(one.meter for one in kling.FAMILY.operations if one.id == "kling.text-to-video")
    assert meter is not None
    price = Price(id=1, model="kling-v1", version=1, **msgspec.structs.asdict(_asked_price()))
    ratio = parse_ratio("0.8")
    paid = {}
    for mode, lengths in (("pro", (5040, 3100)), ("std", (5040,))):
        asked, features = bound(meter, {"duration": "5", "mode": mode})
        held = quote(dearest_for(price, features, unfixed(meter, features)), "g", ratio, asked).nano
        for length in lengths:
            usage, became = measured(meter, asked, features, (_file(duration_ms=length),))
            paid[mode, length] = (held, amount_nano(priced_for(price, became), usage, ratio))
    assert paid == {
        ("pro", 5040): (392_000_000, 392_000_000),
        ("pro", 3100): (392_000_000, 243_040_000),
        ("std", 5040): (112_000_000, 112_000_000),
    }
    for held, amount in paid.values():
        assert f"{format_usd(held)} USD" in " ".join(page.split())
        assert f"{format_usd(amount)} USD" in " ".join(page.split())


def _asked_price() -> Amounts:
    """What the first command of the page sets, as it stands there and as it is seeded."""
    rates = msgspec.structs.replace(media_prices()["kling-v1"], image_nano=0)
    pro = msgspec.structs.replace(rates.variants[0], image_nano=0)
    return msgspec.structs.replace(rates, variants=(pro,))


def test_every_seeded_record_is_one_that_an_operator_could_set() -> None:
    found = media_prices()
    for amounts in found.values():
        assert not Price(id=1, model="m", version=1, **msgspec.structs.asdict(amounts)).is_zero
        assert msgspec.json.decode(msgspec.json.encode(amounts), type=Amounts) == amounts
    assert found["sora-2-pro"].variants[0].video_second_nano == 500_000_000
    assert found["MiniMax-Hailuo-02"].call_nano == 280_000_000
