"""What a submit's body asks for, and what of it a provider is sent: pure, one case a row.

Bodies that can be read two ways are tests/tasks/test_bad_submits.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from elkapi.catalog import CATALOG
from elkapi.errors import BadRequest, GatewayError, UnsupportedMediaType
from elkapi.relay import asking
from elkapi.relay.asking import Asked, asked_for, crossed, deciding_names, provider_body

KLING, EFFECTS, EXTEND = "/kling/v1/videos/text2video", "/kling/v1/videos/effects", "/kling/v1/videos/video-extend"
PIKA, LUMA, VEO = "/pika/generate", "/dream-machine/v1/generations", "/v1beta/models/veo-3:predictLongRunning"
NEUTRAL, GUIDE = "/v1/tasks", "/v1/task/submit"
FORM = b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--B--\r\n'


def ask(path: str, body: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> Asked:
    match = CATALOG.match("POST", path)
    return asked_for(match, CATALOG.family_of[match.operation.id], aliases, msgspec.json.encode(body), body)


@pytest.mark.parametrize(
    ("path", "body", "model", "said", "form"),
    [
        (KLING, {"model_name": "kling-v2-1"}, "kling-v2-1", "", "native"),
        (KLING, {}, "kling-v1", "", "native"),
        (KLING, {"model_name": "fast"}, "kling-v1-6", "fast", "native"),
        (KLING, {"model": "kling-v2-1", "prompt": "x"}, "kling-v2-1", "", "kling-flat"),
        (KLING, {"model_name": "kling-v2-1", "model": "other"}, "kling-v2-1", "", "native"),
        (KLING, {"model_name": "m", "prompt": "x", "metadata": {}}, "m", "", "kling-flat"),
        (EXTEND, {"model": "other"}, "kling-video-extend", "", "native"),
        (EFFECTS, {"input": {"model_name": "kling-v1-5"}}, "kling-v1-5", "", "native"),
        (PIKA, {"model": 2}, "pika-2.0", "", "native"),
        (PIKA, {"model": 1.5}, "pika-1.5", "", "native"),
        (PIKA, {"model": "2.2"}, "pika-2.2", "", "native"),
        (PIKA, {"model": "pika-2.2"}, "pika-2.2", "", "native"),
        (PIKA, {}, "pika-1.5", "", "native"),
        (VEO, {"instances": [{"prompt": "x"}]}, "veo-3", "", "native"),
        (LUMA, {"model": "ray-2", "metadata": {}}, "ray-2", "", "native"),
        (LUMA, {"model": "m" * 2048}, "m" * 2048, "", "native"),
        (NEUTRAL, {"model": "kling-v3/text-to-video", "input": {"prompt": "x"}}, "kling-v3", "", "neutral"),
        (NEUTRAL, {"model": "fast/image-to-video", "input": {"prompt": "x"}}, "kling-v1-6", "fast", "neutral"),
        (GUIDE, {"model": "kling-v3/text-to-video", "input": {"prompt": "x"}}, "kling-v3", "", "task-submit"),
        ("/v1/videos", {"model": "sora/text-to-video", "prompt": "x"}, "sora/text-to-video", "", "video"),
        ("/v1/videos/extensions", {"model": "other", "prompt": "x"}, "", "", "video"),
    ],
)
def test_the_model_is_what_the_caller_named_or_its_account_calls_so(
    path: str, body: dict[str, Any], model: str, said: str, form: str
) -> None:
    asked = ask(path, body, {"fast": "kling-v1-6", "pika": "no"})
    assert (asked.model, asked.said, asked.form, asked.shown) == (model, said, form, body)
    assert (asked.media is not None) == (form not in ("native", "video") or path == "/v1/videos")


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/minimax/v1/video_generation", {}, "missing_model", "model"),
        (KLING, {"model_name": ""}, "invalid_request", "model_name"),
        (KLING, {"model_name": "m" * 2049}, "invalid_request", "model_name"),
        (KLING, {"model_name": 7}, "invalid_request", "model_name"),
        (PIKA, {"model": True}, "invalid_request", "model"),
        (KLING, {"callback_url": 7}, "invalid_request", "callback_url"),
        (KLING, {"callback_url": ""}, None, None),
        (KLING, {"callback_url": None}, None, None),
    ],
)
def test_what_names_no_model_or_no_address_is_refused_by_its_name(
    path: str, body: dict[str, Any], code: str | None, param: str | None
) -> None:
    if code is None:
        assert ask(path, body).callback_url == ""
        return
    with pytest.raises(BadRequest) as caught:
        ask(path, body)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("path", "body", "refs", "files"),
    [
        (KLING, {"video_id": "v1", "task_id": 7, "input": {"task_id": "t2", "video_id": "v1"}}, ("v1", "7", "t2"), ()),
        (KLING, {"session_id": "s", "video": {"id": "v"}, "task_id": "", "video_id": None}, ("s", "v"), ()),
        (LUMA, {"keyframes": {"frame0": {"id": "a"}, "frame1": {"id": "b"}}}, ("a", "b"), ()),
        (f"{LUMA}/g1/upscale", {}, ("g1",), ()),
        ("/v1/videos/v1/remix", {"prompt": "x"}, ("v1",), ()),
        (VEO, {"instances": [{"video": {"uri": "u1"}}, {"video": {"uri": "u1"}}]}, (), ("u1",)),
        (VEO, {"instances": [{"video": {"uri": {"a": 1}}}]}, (), ()),
        ("/runwayml/v1/image_to_video", {"model": "m", "x": [{"y": "runway://f"}, "runway"]}, ("runway://f",), ()),
    ],
)
def test_all_that_a_body_goes_on_from_is_looked_up_once(
    path: str, body: dict[str, Any], refs: tuple[str, ...], files: tuple[str, ...]
) -> None:
    asked = ask(path, body)
    assert (asked.refs, asked.files) == (refs, files)


@pytest.mark.parametrize("beyond", [0, 1])
def test_names_and_files_together_are_bounded(beyond: int) -> None:
    body = {
        "characters": [{"id": str(number)} for number in range(asking.REFS_MAX - 1)],
        "instances": [{"video": {"uri": str(number)}} for number in range(1 + beyond)],
    }
    if not beyond:
        assert len(ask(KLING, body).refs) == asking.REFS_MAX - 1
        return
    with pytest.raises(BadRequest, match=re.escape("refers to 17")):
        ask(KLING, body)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_body_nests_as_deep_as_may_be_and_no_deeper(beyond: int) -> None:
    # The body is a level itself, and what stands in the innermost list one more.
    nested = b"[" * (asking.DEPTH_MAX + beyond - 2) + b"1" + b"]" * (asking.DEPTH_MAX + beyond - 2)
    operation = CATALOG.match("POST", KLING).operation
    sent = b'{"a":{"b":' + nested + b"}}"
    if not beyond:
        assert asking._read(operation, b"application/json", sent)[1] == sent
        return
    with pytest.raises(BadRequest, match="nested too deeply"):
        asking._read(operation, b"application/json", sent)


@pytest.mark.parametrize(
    ("path", "kind", "sent", "error", "said"),
    [
        (KLING, b"application/json", b'{"Model_Name":"dear"}', BadRequest, "`model_name`"),
        (EFFECTS, b"application/json", b'{"input":{"Model_Name":"dear"}}', BadRequest, "`model_name`"),
        (KLING, b"application/json", b'{"a":{"b":1,"b":2}}', BadRequest, "`b`"),
        (KLING, b"text/plain", b"{}", UnsupportedMediaType, ""),
        (KLING, b"multipart/form-data; boundary=B", FORM, UnsupportedMediaType, ""),
        ("/v1/videos", b"text/plain", FORM, UnsupportedMediaType, ""),
        ("/v1/videos", b"Multipart/Form-Data; boundary=B", FORM, None, ""),
        ("/v1/videos", None, b'{"prompt":"x"}', None, ""),
    ],
)
def test_a_body_is_read_as_its_operation_is_declared_and_names_what_it_costs_once_and_plainly(
    path: str, kind: bytes | None, sent: bytes, error: type[GatewayError] | None, said: str
) -> None:
    operation = CATALOG.match("POST", path).operation
    if error is None:
        assert asking._read(operation, kind, sent)[0] == {"prompt": "x"}
        return
    with pytest.raises(error, match=said or None):
        asking._read(operation, kind, sent)


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"Video_ID": "v"}, "video_id"),
        ({"Video_ID": 7}, "video_id"),
        ({"input": {"Task_Id": "t"}}, "task_id"),
        ({"Input": {"task_id": "t"}}, "input"),
        ({"Keyframes": {"Frame0": {"ID": "a"}}}, "keyframes"),
        ({"content": [{"x": 1}, {"draft_task": {"Id": "t"}}]}, "id"),
        ({"instances": [{"video": {"URI": "u"}}]}, "uri"),
        ({"Video_ID": None, "Task_ID": {"a": "t"}, "Input": {"text": "t"}, "video": "v"}, None),
    ],
)
def test_what_is_gone_on_from_is_named_as_it_is_looked_up(body: dict[str, Any], right: str | None) -> None:
    if right is None:
        assert ask(KLING, body).refs == ()
        return
    with pytest.raises(BadRequest, match=f"`{right}`"):
        ask(KLING, body)


def test_a_neutral_request_is_priced_as_what_its_provider_is_asked() -> None:
    asked = ask(NEUTRAL, {"model": "m", "input": {"prompt": "x", "duration": 10}, "callback_url": "https://theirs"})
    put = crossed(asked, CATALOG, "kling")
    assert (put.operation.id, put.family.name, put.model) == ("kling.text-to-video", "kling", "m")
    assert msgspec.json.decode(put.sent) == put.body
    assert (put.upper.video_ms, put.features["duration"]) == (10_000, "10")
    # Ark counts in tokens, of which the neutral form knows nothing.
    assert (asked.upper.output_tokens, crossed(asked, CATALOG, "ark-video").upper.output_tokens > 0) == (0, True)
    # Whose provider takes no address is given none, theirs or ours.
    there = crossed(asked, CATALOG, "veo")
    sent, _ = provider_body(there, "m", "", "https://ours", {})
    assert b"https://" not in sent


def test_what_decides_the_cost_is_known_by_its_top_member() -> None:
    assert deciding_names(CATALOG.match("POST", EFFECTS).operation) == (
        *("model", "duration", "input", "mode", "effect_scene"),
    )


@pytest.mark.parametrize(
    ("path", "body", "upstream_model", "callback", "sent"),
    [
        # What need not change goes on byte for byte.
        (LUMA, {"model": "ray-2", "prompt": "x"}, "ray-2", "", None),
        (PIKA, {"model": "1.5", "prompt": "x"}, "pika-1.5", "", None),
        (PIKA, {"prompt": "x"}, "pika-1.5", "", None),
        (PIKA, {"prompt": "x"}, "pika-2.2", "", {"prompt": "x", "model": "2.2"}),
        (LUMA, {"prompt": "x"}, "ray-1-6", "", {"prompt": "x", "model": "ray-1-6"}),
        (LUMA, {"model": "ray-2"}, "theirs", "", {"model": "theirs"}),
        (
            KLING,
            {"duration": 5},
            "kling-v1",
            "",
            {"duration": "5", "model_name": "kling-v1", "external_task_id": "task_1"},
        ),
        (EXTEND, {"model": "m"}, "theirs", "", {"model": "m", "external_task_id": "task_1"}),
        # A caller's address is never told, ours only where it calls us back.
        (LUMA, {"model": "m", "callback_url": "https://theirs"}, "m", "", {"model": "m"}),
        (
            LUMA,
            {"model": "m", "callback_url": "https://theirs"},
            "m",
            "https://ours",
            {"model": "m", "callback_url": "https://ours"},
        ),
        (LUMA, {"model": "m"}, "m", "https://ours", {"model": "m", "callback_url": "https://ours"}),
        # Accounts are shared: the name there is ours.
        (
            KLING,
            {"model_name": "m", "external_task_id": "mine"},
            "m",
            "",
            {"model_name": "m", "external_task_id": "task_1"},
        ),
        # Of two members that name the model one is left, in which the provider looks.
        (
            KLING,
            {"model_name": "mine", "model": "other"},
            "theirs",
            "",
            {"model_name": "theirs", "external_task_id": "task_1"},
        ),
        (
            LUMA,
            {"model": "m", "keyframes": {"frame0": {"id": "task_9", "type": ["task_9", 1]}}},
            "m",
            "",
            {"model": "m", "keyframes": {"frame0": {"id": "native-9", "type": ["native-9", 1]}}},
        ),
    ],
)
def test_a_provider_is_sent_what_it_knows_and_nothing_that_is_only_the_callers(
    path: str, body: dict[str, Any], upstream_model: str, callback: str, sent: dict[str, Any] | None
) -> None:
    asked = ask(path, body)
    before = msgspec.json.encode(body)
    made, content_type = provider_body(asked, upstream_model, "task_1", callback, {"task_9": "native-9"})
    assert content_type == b"application/json"
    if sent is None:
        assert made is asked.sent
    else:
        assert msgspec.json.decode(made) == sent
    assert msgspec.json.encode(asked.body) == before
