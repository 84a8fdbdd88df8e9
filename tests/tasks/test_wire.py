"""What the contracts of Kling, Runway, Seedance and Veo say beside their rows: spellings, lengths, errors, names."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.catalog import CATALOG
from elkapi.catalog.families import duomi, kling
from elkapi.pricing.media import bound
from elkapi.storage.repos.tasks import TaskRow
from elkapi.tasks import callback_forms, record
from elkapi.types import Price, Usage
from tests.tasks.rows import PICTURE, SUBMITS
from tests.tasks.test_rows import AT_ONCE, FAULT, Asking, Caller, Served, serving

OPERATIONS = {one.id: one for one in CATALOG.operations}
DATA = "data:image/png;base64,iVBORw0KGgo="
ARK = "/api/v3/contents/generations/tasks"


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("wire")) as one:
        yield one
        report = one.gate.books()
        assert (report.unknown_outcomes, report.loss_nano) == (0, 0)


@pytest.mark.parametrize(
    ("row", "body"),
    [
        ("kling.image-to-video", {"model_name": "kling-v1-6", "image": DATA, "static_mask": DATA}),
        ("kling.image-to-video", {"model_name": "kling-v1-6", "image": PICTURE, "image_tail": DATA}),
        (
            "kling.effects",
            {"effect_scene": "hug", "input": {"model_name": "kling-v1-6", "images": [DATA, DATA], "duration": 5}},
        ),
        ("kling.try-on", {"human_image": DATA, "cloth_image": DATA}),
    ],
)
def test_kling_is_sent_raw_base64(gateways: Served, row: str, body: dict[str, object]) -> None:
    reply = Asking(gateways, row).call("POST", OPERATIONS[row].path, json=body, headers={FAULT: AT_ONCE})
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(
    ("name", "sent"), [("1.5", 1.5), ("pika-2.0", 2.0), (2.2, 2.2), ("turbo", "turbo"), ("pika-inf", "inf")]
)
def test_a_version_of_pikas_is_a_number_where_it_is_one(name: object, sent: object) -> None:
    prepare = duomi.FAMILY.hooks.prepare
    assert prepare is not None
    assert prepare("pika.pro-text", {"model": name, "prompt": "x"}, "m")["model"] == sent


def test_no_prefix_of_base64_is_left_wherever_a_file_of_klings_stands() -> None:
    prepare = kling.FAMILY.hooks.prepare
    assert prepare is not None
    body = {
        "dynamic_masks": [{"mask": DATA, "trajectories": [{"x": 1, "y": 2}]}],
        "input": {"audio_file": DATA},
        "face_choose": [{"face_id": "0", "sound_file": DATA}],
        "prompt": "data: what it is",
    }
    made = prepare("kling.image-to-video", body, "kling-v1")
    assert "data:" not in msgspec.json.encode({**made, "prompt": ""}).decode()
    assert made["prompt"] == body["prompt"]
    assert made["dynamic_masks"][0]["trajectories"] == [{"x": 1, "y": 2}]


@pytest.mark.parametrize(
    ("row", "body", "units"),
    [
        ("runway.image-to-video", {}, ("video_ms", 15_000)),
        ("runway.image-to-video", {"duration": "auto"}, ("video_ms", 15_000)),
        ("runway.image-to-video", {"duration": 5}, ("video_ms", 5_000)),
        ("runway.character-performance", {}, ("video_ms", 30_000)),
        ("runway.text-to-image", {"outputCount": 4}, ("images", 4)),
    ],
)
def test_what_runway_may_make_is_held(row: str, body: dict[str, object], units: tuple[str, int]) -> None:
    meter = OPERATIONS[row].meter
    assert meter is not None
    assert getattr(bound(meter, body)[0], units[0]) == units[1]


def test_a_video_of_runways_own_length_is_paid_as_it_is(gateways: Served) -> None:
    """gen4_turbo makes ten seconds where it is told no length."""
    gateways.run(gateways.gate.price("gen4_turbo", per_second_usd="0.05"))
    caller = Caller(gateways, "runway.image-to-video")
    body = {name: value for name, value in SUBMITS["runway.image-to-video"].body.items() if name != "duration"}
    reply = caller.call("POST", caller.path, json=body, headers={FAULT: AT_ONCE})
    caller.until(reply.json()["id"], "SUCCEEDED")
    assert gateways.charge_nano(reply.headers["x-request-id"]) == 500_000_000


def test_ark_answers_a_delete_and_a_wrong_key_in_its_own_words(gateways: Served) -> None:
    caller = Caller(gateways, "seedance.submit", ARK)
    task_id, _ = caller.begun(AT_ONCE)
    caller.until(task_id, "succeeded")
    gone = caller.call("DELETE", f"{ARK}/{task_id}")
    assert (gone.status_code, gone.json()) == (200, {})
    absent = caller.call("GET", f"{ARK}/{task_id}")
    assert absent.json()["error"] | {"message": ""} == {
        "code": "ResourceNotFound",
        "message": "",
        "param": "id",
        "type": "NotFound",
    }
    refused = caller.call("GET", f"{ARK}/{task_id}", key="sk-nobody")
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "Unauthorized")


@pytest.mark.parametrize(
    "more", [{"frames": 289}, {"frames": "289"}, {"content": [{"type": "text", "text": "a dog --frames 289"}]}]
)
def test_frames_are_held_where_they_last_longer_than_the_duration_beside_them(more: dict[str, object]) -> None:
    meter = OPERATIONS["seedance.submit"].meter
    assert meter is not None
    body = {"content": [{"type": "text", "text": "a dog"}], "duration": 2, "resolution": "480p"}
    short, _ = bound(meter, body)
    held, _ = bound(meter, {**body, **more})
    long, _ = bound(meter, {**body, "duration": 12})
    assert short.output_tokens < long.output_tokens <= held.output_tokens
    assert bound(meter, {**body, "frames": 29})[0] == short


def test_two_reference_pictures_are_the_first_frame_and_the_last(gateways: Served) -> None:
    asking = Asking(gateways, "veo.v1-videos-submit")
    picture: Any = ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")
    parts = [("model", (None, "veo-3.0-generate-001")), ("prompt", (None, "a dog")), ("size", (None, "16x9"))]
    files = [*parts, ("input_reference", picture), ("input_reference", picture)]
    headers = {"authorization": f"Bearer {asking.key}", FAULT: AT_ONCE}
    reply = httpx.post(f"{gateways.gate.origin}/v1/videos", files=files, headers=headers)
    assert reply.status_code == 200, reply.text
    shown = gateways.sandbox.sandbox.recorder.shown()
    sent = next(one for one in reversed(shown) if one.target.endswith(":predictLongRunning"))
    body = msgspec.json.decode(base64.b64decode(sent.body_base64))
    assert {"image", "lastFrame"} <= body["instances"][0].keys()


def test_a_name_of_the_callers_own_is_its_own_though_the_account_is_shared(gateways: Served) -> None:
    row, ids = "kling.text-to-video", []
    body = {**SUBMITS[row].body, "external_task_id": "order-17"}
    callers = [Caller(gateways, row) for _ in range(2)]
    for caller in callers:
        reply = caller.call("POST", caller.path, json=body, headers={FAULT: AT_ONCE})
        assert reply.status_code == 200, reply.text
        assert reply.json()["data"]["task_info"] == {"external_task_id": "order-17"}
        ids.append(reply.json()["data"]["task_id"])
        again = caller.call("POST", caller.path, json=body)
        assert (again.status_code, again.json()["code"]) == (400, 1201)
    assert ids[0] != ids[1]
    for caller, task_id in zip(callers, ids, strict=True):
        done = caller.until("order-17", "succeed")["data"]
        assert (done["task_id"], done["task_info"]["external_task_id"]) == (task_id, "order-17")


def test_a_callback_calls_a_task_as_its_caller_does() -> None:
    ours, task_id = "task_" + "0" * 32, bytes(16)
    asked = record.Asked(
        body={},
        group="g",
        price=Price(id=0, model="m", version=0),
        ratio_micro=0,
        held_nano=0,
        accounts=(),
        upper=Usage(),
        mark=ours,
        own_mark='a "b"',
    )
    told = record.Told(reply=msgspec.Raw(b'{"data":{"task_info":{"external_task_id":"%b"}}}' % ours.encode()))
    facts: dict[str, Any] = dict.fromkeys(TaskRow.__struct_fields__) | {
        "id": task_id,
        "state": "running",
        "created_ns": 0,
    }
    row = TaskRow(**facts | {"progress": 0})
    shown = callback_forms.body("kling", record.Task(row, asked, told).view(), "processing")
    assert msgspec.json.decode(shown)["task_info"] == {"external_task_id": 'a "b"'}


@pytest.mark.parametrize("mark", [17, "x" * 257, "order\0"])
def test_a_name_of_the_callers_own_is_a_short_text(gateways: Served, mark: object) -> None:
    asking = Asking(gateways, "kling.text-to-video")
    reply = asking.call("POST", asking.path, json={**SUBMITS[asking.id].body, "external_task_id": mark})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "external_task_id")


def test_a_repeat_under_one_idempotency_key_may_carry_the_same_name(gateways: Served) -> None:
    asking = Asking(gateways, "kling.text-to-video")
    body = {**SUBMITS[asking.id].body, "external_task_id": "order-18"}
    replies = [asking.call("POST", asking.path, json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert [one.status_code for one in replies] == [200, 200]
    assert replies[0].content == replies[1].content


def test_an_effect_is_made_and_paid_by_the_model_of_its_input(gateways: Served) -> None:
    """kling.md, "kling.effects"."""
    gate, row = gateways.gate, "kling.effects"
    models = {"kling-v1-5": "kling-v1-5", "fx": "kling-v1"}
    url = gateways.sandbox.base_url + "/kling"
    secrets = ("AKSANDBOX|sandbox-secret",)
    more: dict[str, Any] = {"family": "kling", "secrets": secrets, "model_map": models, "forward_headers": (FAULT,)}
    gateways.run(gate.channel(url, tuple(models), **more))
    for number, name in enumerate(models):
        gateways.run(gate.price(name, per_call_usd=f"0.{number + 7}"))
    caller = Caller(gateways, row)
    pair = {"mode": "std", "images": [PICTURE, PICTURE], "duration": "5"}
    for said, charge, upstream in (
        ({"model_name": "kling-v1-5"}, 700_000_000, "kling-v1-5"),
        ({"model_name": "fx"}, 800_000_000, "kling-v1"),
        ({}, 500_000_000, "kling-v1-6"),
    ):
        body = {"effect_scene": "hug", "input": {**pair, **said}}
        reply = caller.call("POST", caller.path, json=body, headers={FAULT: AT_ONCE})
        assert reply.status_code == 200, reply.text
        shown = gateways.sandbox.sandbox.recorder.shown()
        sent = next(one for one in reversed(shown) if one.target.endswith("/videos/effects"))
        assert msgspec.json.decode(base64.b64decode(sent.body_base64))["input"]["model_name"] == upstream
        caller.until(reply.json()["data"]["task_id"], "succeed")
        assert gateways.charge_nano(reply.headers["x-request-id"]) == charge
    for wrong, param in (({"Model_Name": "kling-v1-5"}, "Model_Name"), ({"model_name": 5}, "input.model_name")):
        body = {"effect_scene": "hug", "input": {**pair, **wrong}}
        reply = caller.call("POST", caller.path, json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    meter = OPERATIONS[row].meter
    assert meter is not None
    assert bound(meter, {"effect_scene": "hug"})[1] == {"effect": "hug", "mode": "std", "duration": "5"}
