"""Neutral requests for videos, read from each form and written for each provider, and what is refused of them."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.catalog import CATALOG
from elkapi.catalog.jsonpath import first
from elkapi.catalog.media import MEANING, VIDEO_MAPS
from elkapi.errors import BadRequest
from elkapi.translate.media import MediaAsk, read, read_messages
from elkapi.translate.media_write import SPELLINGS, kind_of, write

A, B, DATA = "https://a.test/1.png", "https://a.test/2.png", "data:image/png;base64,AAAA"
WIRES = sorted(VIDEO_MAPS)


def crossed(form: str, body: dict[str, Any], wire: str, model: str = "m") -> tuple[str, dict[str, Any]]:
    return write(read(form, body, model), wire)


def refused(form: str, body: dict[str, Any], wire: str) -> str | None:
    with pytest.raises(BadRequest) as caught:
        crossed(form, body, wire)
    return caught.value.param


def test_every_map_names_operations_and_spellings_that_exist() -> None:
    known = {operation.id for operation in CATALOG.operations}
    for plan in VIDEO_MAPS.values():
        assert {one for one in (plan.text, plan.image, plan.video) if one} <= known
        assert {place.partition("|")[2] for place in plan.fields.values()} <= SPELLINGS.keys()


@pytest.mark.parametrize(
    ("wire", "place", "raw"),
    [
        ("veo", "instances[0].image.bytesBase64Encoded", True),
        ("ark-video", "content[0].image_url.url", False),
        ("kling", "image", True),
        ("minimax-video", "first_frame_image", False),
        ("videos", "input_reference.image_url", False),
        ("runway", "promptImage", False),
    ],
)
@pytest.mark.parametrize(
    ("given_as", "kind"), [("iVBORw0KGgoAAAANSUhEUg==", "png"), ("/9j/4AAQSkZJRgABAQAAAQ==", "jpeg")]
)
def test_raw_base64_reaches_every_provider_as_it_takes_it(
    wire: str, place: str, raw: bool, given_as: str, kind: str
) -> None:
    _, body = crossed("unified", {"prompt": "p", "images": [given_as]}, wire)
    assert first(place, body) == (given_as if raw else f"data:image/{kind};base64,{given_as}")
    if wire == "veo":
        assert body["instances"][0]["image"]["mimeType"] == f"image/{kind}"


def test_seedance_metadata_is_merged_and_the_prompt_comes_last() -> None:
    parts = [
        {"type": "text", "text": "not this"},
        {"type": "image_url", "image_url": {"url": A}, "role": "reference_image"},
    ]
    metadata = {"duration": 4, "ratio": "16:9", "resolution": "720p", "generate_audio": True, "content": parts}
    operation, body = crossed("unified", {"prompt": "tea", "duration": 8, "metadata": metadata}, "ark-video")
    assert operation == "seedance.submit"
    assert body == {
        "model": "m",
        "content": [parts[1], {"type": "text", "text": "tea"}],
        "duration": 8,
        "ratio": "16:9",
        "resolution": "720p",
        "generate_audio": True,
    }


def test_seedance_pictures_have_roles_only_as_first_and_last() -> None:
    _, body = crossed("unified", {"prompt": "p", "images": [A, B]}, "ark-video")
    assert [part.get("role") for part in body["content"]] == [None, None, None]
    _, body = crossed("neutral", {"input": {"prompt": "p", "image": A, "last_image": B}}, "ark-video")
    assert [part.get("role") for part in body["content"]] == ["first_frame", "last_frame", None]


def test_a_picture_decides_its_shape_where_the_provider_says_so() -> None:
    asked = {"input": {"prompt": "p", "image": A, "aspect_ratio": "16:9"}}
    assert "aspect_ratio" not in crossed("neutral", asked, "kling")[1]
    assert "aspectRatio" not in crossed("neutral", asked, "pika")[1]["options"]
    del asked["input"]["image"]
    assert crossed("neutral", asked, "kling")[1]["aspect_ratio"] == "16:9"


def test_a_last_picture_alone_starts_from_a_picture() -> None:
    operation, body = crossed("neutral", {"input": {"last_image": DATA}}, "kling")
    assert (operation, body["image_tail"]) == ("kling.image-to-video", "AAAA")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("prompt", [None, "", "  "])
def test_a_text_to_video_needs_a_prompt(wire: str, prompt: str | None) -> None:
    assert refused("video", {"prompt": prompt}, wire) == "prompt"


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"n": -3}, "n"),
        ({"n": 2.5}, "n"),
        ({"n": True}, "n"),
        ({"width": -1, "height": 2}, "width"),
        ({"width": "9" * 400, "height": 2}, "width"),
        ({"seed": "9" * 400}, "seed"),
        ({"seconds": "0"}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"seed": [1]}, "seed"),
        ({"audio": "maybe"}, "audio"),
        ({"size": "big"}, "size"),
        ({"images": [A] * 17}, "images"),
        ({"prompt": 5}, "prompt"),
        ({"n_variants": 0}, "n_variants"),
        ({"duration": "long"}, "duration"),
        ({"generate_audio": "maybe"}, "generate_audio"),
        ({"negativePrompt": 5}, "negativePrompt"),
        ({"input_reference": {}}, "input_reference"),
        ({"image_urls": [5]}, "image_urls"),
        ({"image_tail": 5}, "image_tail"),
        ({"notify_hook": 5}, "notify_hook"),
        # No spelling of a list or a truth reaches a provider as a word.
        ({"aspect_ratio": ["16:9"]}, "aspect_ratio"),
        ({"ratio": True}, "ratio"),
        ({"resolution": ["720p"]}, "resolution"),
        ({"resolution": True}, "resolution"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(said: dict[str, Any], param: str) -> None:
    assert refused("neutral", {"input": {"prompt": "p", **said}}, "veo") == param


def test_what_changes_the_video_is_refused_and_a_hint_is_dropped() -> None:
    assert refused("video", {"prompt": "p", "n": 2}, "kling") == "n"
    assert refused("video", {"prompt": "p", "negative_prompt": "fog"}, "ark-video") == "negative_prompt"
    assert refused("video", {"prompt": "p", "images": [A, B]}, "kling") == "images"
    assert refused("veo-query", {"prompt": "p", "images": ["gs://a/1.png"]}, "veo") == "images"
    assert crossed("video", {"prompt": "p", "seed": 7, "n": 1}, "kling")[1] == {"model_name": "m", "prompt": "p"}


@pytest.mark.parametrize(
    ("form", "said", "wire", "param"),
    [
        ("unified", {"duration": 5}, "pika", "duration"),
        ("unified", {"duration": -1}, "kling", "duration"),
        ("sora-wrapped", {"n_variants": 2}, "ark-video", "n_variants"),
        ("unified", {"size": "16:9"}, "minimax-video", "size"),
        ("unified", {"video_url": A}, "kling", "video_url"),
        ("unified", {"image_end_url": B, "image_url": A}, "runway", "image_end_url"),
        ("video", {"input_reference": [A, B]}, "runway", "input_reference"),
        ("veo-query", {"image": "gs://a/1.png"}, "veo", "image"),
        ("unified", {"ratio": "wide"}, "pika", "ratio"),
    ],
)
def test_what_a_provider_cannot_carry_is_refused_by_the_callers_word_for_it(
    form: str, said: dict[str, Any], wire: str, param: str
) -> None:
    assert refused(form, {"prompt": "p", **said}, wire) == param


@pytest.mark.parametrize(
    ("wire", "model", "size", "place", "resolution"),
    [
        ("minimax-video", "MiniMax-Hailuo-02", "1280x720", "resolution", None),
        ("minimax-video", "MiniMax-Hailuo-2.3", "1920x1080", "resolution", "1080P"),
        ("minimax-video", "T2V-01", "1280x720", "resolution", "720P"),
        ("minimax-video", "T2V-01", "1920x1080", "resolution", None),
        ("veo", "veo-3.1-generate-preview", "1024x1792", "parameters.resolution", None),
        ("veo", "veo-3.1-generate-preview", "3840x2160", "parameters.resolution", "4k"),
        ("ark-video", "doubao-seedance-2-0-260128", "1024x1024", "resolution", None),
        ("ark-video", "doubao-seedance-2-0-260128", "864x480", "resolution", "480p"),
        ("luma", "ray-2", "2160x3840", "resolution", "4k"),
    ],
)
def test_a_resolution_that_a_size_implies_is_sent_where_the_model_has_it(
    wire: str, model: str, size: str, place: str, resolution: str | None
) -> None:
    _, body = crossed("unified", {"prompt": "p", "size": size}, wire, model)
    assert first(place, body) == resolution


def test_lines_as_a_number_are_a_resolution() -> None:
    _, body = crossed("sora-wrapped", {"prompt": "p", "resolution": 480, "duration": 5}, "ark-video")
    assert body["resolution"] == "480p"


def test_a_chat_has_its_switches_anywhere_and_leaves_other_texts_alone() -> None:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in (A, B)]
    text = "--dur 5 boat --ratio 16:9 --wm false --look odd --seed ten"
    message = {"role": "user", "content": [{"type": "text", "text": text}, *pictures, {"type": "text", "text": None}]}
    ask = read_messages({"messages": [message]}, "m")
    assert (ask.prompt, ask.seconds, ask.ratio, ask.image, ask.last_image) == (
        "boat --look odd --seed ten",
        5.0,
        "16:9",
        A,
        B,
    )
    assert ask.extra == {"watermark": False}


def test_a_chat_may_refer_to_a_video_and_ask_for_several() -> None:
    film = {"type": "video_url", "video_url": {"url": "https://a.test/1.mp4"}}
    message = {"role": "user", "content": [{"type": "text", "text": "in snow"}, film]}
    _, body = write(read_messages({"messages": [message], "n": 1}, "m"), "ark-video")
    assert body["content"][0] == {**film, "role": "reference_video"}
    with pytest.raises(BadRequest) as refused_:
        write(read_messages({"messages": [message]}, "m"), "veo")
    assert refused_.value.param == "video"
    plain = {"role": "user", "content": "a dog"}
    assert write(read_messages({"messages": [plain], "n": 2}, "m"), "veo")[1]["parameters"]["sampleCount"] == 2
    with pytest.raises(BadRequest) as refused_:
        write(read_messages({"messages": [plain], "n": 2}, "m"), "videos")
    assert refused_.value.param == "n"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "image", "source": {"type": "url", "url": A}},
        {"type": "image_url", "image_url": None},
        {},
        "a dog",
    ],
)
def test_a_part_of_a_chat_that_no_video_can_be_made_from_is_refused(part: Any) -> None:
    content = [{"type": "text", "text": "a dog"}, part]
    with pytest.raises(BadRequest) as refused_:
        read_messages({"messages": [{"role": "user", "content": content}]}, "m")
    assert refused_.value.param == "messages"


@pytest.mark.parametrize("part", [{"url": A}, {"url": ""}, 5])
def test_a_picture_of_a_chat_that_cannot_be_used_is_refused_and_none_is_lost(part: Any) -> None:
    content = [{"type": "image_url", "image_url": one} for one in ({"url": A}, {"url": B}, part)]
    with pytest.raises(BadRequest) as refused_:
        read_messages({"messages": [{"role": "user", "content": content}]}, "m")
    assert refused_.value.param == "messages"


@given(
    st.fixed_dictionaries(
        {"prompt": st.text(min_size=1).filter(str.strip)},
        optional={
            "seconds": st.one_of(st.integers(1, 60), st.integers(1, 60).map(str), st.integers(1, 60).map("{}s".format)),
            "aspect_ratio": st.sampled_from(["16:9", "9:16", "1:1", "16x9"]),
            "resolution": st.sampled_from(["720p", "1080p"]),
            "seed": st.integers(0, 2**31),
            "image": st.sampled_from([A, DATA]),
            "last_image": st.just(DATA),
            "negative_prompt": st.text(),
            "audio": st.sampled_from([True, False, "on", "off"]),
            "fps": st.integers(1, 60),
        },
    ),
    st.sampled_from(WIRES),
)
def test_a_provider_is_given_everything_that_was_meant_or_the_call_is_refused(said: dict[str, Any], wire: Any) -> None:
    """What the map carries stands in the body by its spelling; what it does not is refused, never lost."""
    ask = read("neutral", {"input": said}, "m")
    kept = msgspec.structs.asdict(ask)
    try:
        operation, body = write(ask, wire)
    except BadRequest:
        return
    plan = VIDEO_MAPS[wire]
    assert operation == getattr(plan, kind_of(ask))
    assert msgspec.structs.asdict(ask) == kept
    text = msgspec.json.encode(body)
    assert msgspec.json.encode(said["prompt"]) in text
    for field in MEANING:
        spoken = getattr(ask, field) not in (None, "", (), MediaAsk(model="").count)
        shaped = field in ("ratio", "resolution") and "size" in plan.fields
        if spoken and field not in plan.by_image and not shaped:
            assert field in plan.fields


_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)


@given(st.dictionaries(st.text(max_size=12), _VALUES))
def test_any_object_is_read_or_refused(body: dict[str, Any]) -> None:
    for form, given_body in (("video", body), ("neutral", {"input": body})):
        try:
            ask = read(form, given_body, "m")
        except BadRequest:
            continue
        for wire in WIRES:
            with contextlib.suppress(BadRequest):
                write(ask, wire)


@pytest.mark.parametrize(
    ("wire", "said", "resolution"),
    [
        ("minimax-video", {"size": "1920x1080"}, "1080P"),
        ("minimax-video", {"size": "1366x768"}, "768P"),
        ("minimax-video", {"size": "960x960"}, None),
        ("minimax-video", {"resolution": "960p"}, "960P"),
        ("luma", {"width": 1280, "height": 720}, "720p"),
        ("luma", {"width": 1366, "height": 768}, None),
    ],
)
def test_a_size_names_a_resolution_only_where_it_is_made(
    wire: str, said: dict[str, Any], resolution: str | None
) -> None:
    _, body = crossed("unified", {"prompt": "p", **said}, wire)
    assert body.get("resolution") == resolution


def test_a_length_that_the_model_chooses_goes_to_those_that_can() -> None:
    asked = {"prompt": "tea", "metadata": {"duration": -1}}
    assert crossed("unified", asked, "ark-video")[1]["duration"] == -1
    for wire in WIRES:
        if wire != "ark-video":
            assert refused("unified", asked, wire) == "duration"
    assert refused("unified", {"prompt": "tea", "duration": -2}, "ark-video") == "duration"


def test_two_pictures_of_one_name_are_the_first_frame_and_the_last() -> None:
    pictures = [{"image_url": A}, {"image_url": B}]
    ask = read("video", {"prompt": "p", "input_reference": pictures}, "m")
    assert (ask.image, ask.last_image) == (A, B)
    ask = read("video", {"prompt": "p", "input_reference": pictures[:1]}, "m")
    assert (ask.image, ask.last_image) == (A, "")
    for wrong in ([], [*pictures, {"image_url": A}]):
        with pytest.raises(BadRequest):
            read("video", {"prompt": "p", "input_reference": wrong}, "m")


def test_the_pictures_of_a_components_model_are_what_is_to_be_seen() -> None:
    for form in ("veo-query", "veo-alias", "wrapped-v2"):
        asked = {"prompt": "p", "images": [DATA, DATA]}
        _, body = crossed(form, asked, "veo", "veo3.1-components")
        assert "image" not in body["instances"][0]
        one = {"image": {"bytesBase64Encoded": "AAAA", "mimeType": "image/png"}, "referenceType": "asset"}
        assert body["instances"][0]["referenceImages"] == [one, one]
        _, body = crossed(form, asked, "veo", "veo3.1-frames")
        assert {"image", "lastFrame"} <= body["instances"][0].keys()


@pytest.mark.parametrize("ratio", ["9" * 400 + ":1", "9" * 5_000 + ":1", "16:0", "wide"])
def test_a_shape_that_is_no_quotient_is_refused(ratio: str) -> None:
    with pytest.raises(ValueError, match="must be of the form 16:9"):
        SPELLINGS["quotient"](ratio)
