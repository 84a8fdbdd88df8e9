"""Kling's envelope, its signed tokens, its operations and what each of them costs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from elkapi.sandbox.providers.kling import ACCESS_KEY, SECRET_KEY
from elkapi.sandbox.server import Running
from elkapi.sandbox.videos import seconds_of
from tests.waiting import until_blocking

from .exchanging import bill_lines, own_sandbox

TEXT = "/v1/videos/text2video"
PICTURE = "https://pictures.example/a.png"


def signed(access: str = ACCESS_KEY, secret: str = SECRET_KEY, **claims: Any) -> str:
    """A token as Kling's documentation has it."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    now_s = int(time.time())
    header = encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    payload = encoded(json.dumps({"iss": access, "exp": now_s + 1800, "nbf": now_s - 5, **claims}).encode())
    signature = hmac.new(secret.encode(), f"{header}.{payload}".encode(), hashlib.sha256).digest()
    return f"{header}.{payload}.{encoded(signature)}"


sandbox = pytest.fixture(own_sandbox)


@pytest.fixture
def kling(sandbox: Running) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {signed()}"}
    with httpx.Client(base_url=sandbox.base_url + "/kling", headers=headers) as client:
        yield client


def submitted(kling: httpx.Client, path: str = TEXT, **body: Any) -> Any:
    answer = kling.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["code"], answer.json()["message"]) == (0, "SUCCEED")
    return answer.json()["data"]


def ended(kling: httpx.Client, task_id: str, path: str = TEXT) -> Any:
    def shown() -> Any:
        return kling.get(f"{path}/{task_id}").json()["data"]

    until_blocking(lambda: shown()["task_status"] in ("succeed", "failed"))
    return shown()


def test_a_video_is_submitted_then_succeeds(sandbox: Running, kling: httpx.Client) -> None:
    started = submitted(kling, prompt="a dog", model_name="kling-v1-6", duration="10", external_task_id="mine")
    assert started["task_status"] == "submitted"
    assert started["task_id"].isdecimal()
    assert started["created_at"] > 1_000_000_000_000
    task = ended(kling, started["task_id"])
    assert (task["task_status"], task["task_info"]) == ("succeed", {"external_task_id": "mine"})
    (video,) = task["task_result"]["videos"]
    assert seconds_of(httpx.get(video["url"]).content) == float(video["duration"]) == 10
    assert kling.get(f"{TEXT}/mine").json()["data"]["task_id"] == task["task_id"]
    (line,) = bill_lines(sandbox)
    assert (line.provider, line.model, line.cost_nano_usd) == ("kling", "kling-v1-6", 560_000_000)


@pytest.mark.parametrize(
    ("path", "body", "model", "nano_usd"),
    [
        ("/v1/videos/image2video", {"image": PICTURE, "mode": "pro"}, "kling-v1", 490_000_000),
        (TEXT, {"prompt": "a", "model_name": "kling-v2-6", "sound": "on"}, "kling-v2-6", 420_000_000),
        (
            "/v1/videos/lip-sync",
            {"input": {"video_url": PICTURE, "mode": "audio2video", "audio_type": "url", "audio_url": PICTURE}},
            "kling-lip-sync",
            70_000_000,
        ),
        (
            "/v1/videos/effects",
            {"effect_scene": "hug", "input": {"images": [PICTURE, PICTURE], "duration": "10"}},
            "kling-effects",
            560_000_000,
        ),
        ("/v1/images/generations", {"prompt": "a", "n": 3}, "kling-v1", 10_500_000),
        (
            "/v1/images/editing/expand",
            {"image": PICTURE, "down_expansion_ratio": 0.5},
            "kling-image-expand",
            28_000_000,
        ),
        (
            "/v1/images/kolors-virtual-try-on",
            {"human_image": PICTURE, "cloth_image": PICTURE},
            "kolors-virtual-try-on-v1",
            70_000_000,
        ),
    ],
)
def test_every_operation_has_its_result_and_price(
    sandbox: Running, kling: httpx.Client, path: str, body: Any, model: str, nano_usd: int
) -> None:
    task = ended(kling, submitted(kling, path, **body)["task_id"], path)
    assert task["task_status"] == "succeed"
    found = task["task_result"].get("videos") or task["task_result"]["images"]
    assert len(found) == body.get("n", 1)
    assert httpx.get(found[-1]["url"]).status_code == 200
    (line,) = bill_lines(sandbox)
    assert (line.model, line.cost_nano_usd) == (model, nano_usd)


def test_an_extension_starts_from_a_finished_video(kling: httpx.Client) -> None:
    path = "/v1/videos/video-extend"
    (video,) = ended(kling, submitted(kling, prompt="a dog")["task_id"])["task_result"]["videos"]
    task = ended(kling, submitted(kling, path, video_id=video["id"])["task_id"], path)
    assert task["task_info"]["parent_video"]["id"] == video["id"]
    assert task["task_result"]["videos"][0]["duration"] == "9.5"
    newer = ended(kling, submitted(kling, prompt="a dog", model_name="kling-v2-6")["task_id"])
    refused = kling.post(path, json={"video_id": newer["task_result"]["videos"][0]["id"]})
    assert (refused.status_code, refused.json()["code"]) == (400, 1201)
    assert kling.post(path, json={"video_id": "unknown"}).status_code == 404


def test_a_face_is_found_at_once_and_then_speaks(sandbox: Running, kling: httpx.Client) -> None:
    path = "/v1/videos/advanced-lip-sync"
    (video,) = ended(kling, submitted(kling, prompt="a dog")["task_id"])["task_result"]["videos"]
    found = submitted(kling, "/v1/videos/identify-face", video_id=video["id"])
    (face,) = found["face_data"]
    assert (face["start_time"], face["end_time"]) == (0, 5_000)
    assert httpx.get(face["face_image"]).content.startswith(b"\x89PNG")
    chosen = [{"face_id": face["face_id"], "sound_file": "aaaa", "sound_start_time": 0, "sound_end_time": 3_000}]
    task = ended(kling, submitted(kling, path, session_id=found["session_id"], face_choose=chosen)["task_id"], path)
    assert task["task_info"]["parent_video"]["id"] == video["id"]
    assert [(line.model, line.cost_nano_usd) for line in bill_lines(sandbox)][1:] == [("kling-lip-sync", 70_000_000)]
    stranger = {"authorization": "Bearer sk-another-gateway"}
    for headers, session_id in (({}, "unknown"), (stranger, found["session_id"])):
        answer = kling.post(path, json={"session_id": session_id, "face_choose": chosen}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, 1203)


def test_faces_of_a_video_elsewhere_are_found_too(sandbox: Running, kling: httpx.Client) -> None:
    path = "/v1/videos/advanced-lip-sync"
    found = submitted(kling, "/v1/videos/identify-face", video_url=PICTURE)
    body = {"session_id": found["session_id"], "face_choose": [{"face_id": found["face_data"][0]["face_id"]}]}
    assert ended(kling, submitted(kling, path, **body)["task_id"], path)["task_info"] == {}
    assert [(line.model, line.cost_nano_usd) for line in bill_lines(sandbox)] == [("kling-lip-sync", 70_000_000)]


@pytest.mark.parametrize("fault", ["task-fails", "task-moderated"])
def test_a_failure_is_told_in_the_task(sandbox: Running, kling: httpx.Client, fault: str) -> None:
    task = ended(kling, submitted(kling, prompt=f"[sandbox: {fault}]")["task_id"])
    assert (task["task_status"], task["task_result"]) == ("failed", {})
    assert task["task_status_msg"]
    assert bill_lines(sandbox) == []


def test_tasks_are_listed_by_their_action(kling: httpx.Client) -> None:
    ids = [submitted(kling, prompt="a dog")["task_id"] for _ in range(3)]
    image = submitted(kling, "/v1/images/generations", prompt="a dog")["task_id"]
    page = kling.get(TEXT, params={"pageNum": 2, "pageSize": 2}).json()["data"]
    assert [task["task_id"] for task in page] == [ids[0]]
    assert kling.get(f"{TEXT}/{image}").json()["code"] == 1203
    assert kling.get(TEXT, params={"pageSize": 501}).status_code == 400


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"secret": "another"}, 1002),
        ({"access": "another"}, 1002),
        ({"nbf": 4_000_000_000}, 1003),
        ({"exp": 1_000_000_000}, 1004),
        ({"exp": "soon"}, 1002),
    ],
)
def test_a_token_must_be_signed_and_of_now(kling: httpx.Client, claims: Any, code: int) -> None:
    answer = kling.get(TEXT, headers={"authorization": f"Bearer {signed(**claims)}"})
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.json()["request_id"]


@pytest.mark.parametrize(("given", "code"), [("", 1001), ("Bearer nonsense", 1002), ("Bearer a.b.c", 1002)])
def test_what_is_no_token_is_refused(kling: httpx.Client, given: str, code: int) -> None:
    assert kling.get(TEXT, headers={"authorization": given}).json()["code"] == code


def test_a_task_belongs_to_its_key_and_not_to_its_token(sandbox: Running, kling: httpx.Client) -> None:
    task_id = submitted(kling, prompt="a dog")["task_id"]
    again = {"authorization": f"Bearer {signed(jti='new')}"}
    assert kling.get(f"{TEXT}/{task_id}", headers=again).status_code == 200
    plain = {"authorization": "Bearer sk-another-gateway"}
    assert kling.get(f"{TEXT}/{task_id}", headers=plain).json()["code"] == 1203
    at_the_root = httpx.get(f"{sandbox.base_url}{TEXT}/{task_id}", headers=again)
    assert at_the_root.json()["data"]["task_id"] == task_id


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (TEXT, {}, 1201),
        (TEXT, {"prompt": "a", "duration": 5}, 1201),
        (TEXT, {"prompt": "a", "model_name": "kling-v9"}, 1203),
        (TEXT, {"prompt": "a", "sound": "on"}, 1201),
        (TEXT, {"prompt": "a", "camera_control": {"type": "simple"}}, 1201),
        (TEXT, {"prompt": "a", "camera_control": {"type": "simple", "config": {"pan": 1, "tilt": 1}}}, 1201),
        (TEXT, {"prompt": "a", "callback_url": "nowhere"}, 1201),
        (TEXT, {"prompt": "[sandbox: task-refused]"}, 1301),
        ("/v1/videos/image2video", {"prompt": "a"}, 1201),
        ("/v1/videos/image2video", {"image": "data:image/png;base64,aaaa"}, 1201),
        ("/v1/videos/image2video", {"image": "aaaa", "image_tail": "aaaa", "static_mask": "aaaa"}, 1201),
        ("/v1/videos/lip-sync", {"input": {"mode": "text2video"}}, 1201),
        ("/v1/videos/identify-face", {}, 1201),
        ("/v1/videos/identify-face", {"video_id": "a", "video_url": PICTURE}, 1201),
        ("/v1/videos/identify-face", {"video_id": "unknown"}, 1203),
        ("/v1/videos/advanced-lip-sync", {"session_id": "a", "face_choose": [{}]}, 1201),
        ("/v1/videos/effects", {"effect_scene": "hug", "input": {"images": ["aaaa"], "duration": "5"}}, 1201),
        ("/v1/images/generations", {"prompt": "a", "n": 10}, 1201),
        ("/v1/images/editing/expand", {"image": "aaaa", "up_expansion_ratio": 2, "left_expansion_ratio": 2}, 1201),
        ("/v1/images/kolors-virtual-try-on", {"human_image": "aaaa"}, 1201),
    ],
)
def test_kling_refuses_with_its_codes(kling: httpx.Client, path: str, body: Any, code: int) -> None:
    answer = kling.post(path, json=body)
    assert (answer.status_code >= 400, answer.json()["code"]) == (True, code)


def test_an_id_of_the_callers_own_is_taken_once(kling: httpx.Client) -> None:
    submitted(kling, prompt="a dog", external_task_id="mine")
    assert kling.post(TEXT, json={"prompt": "a dog", "external_task_id": "mine"}).json()["code"] == 1201


def test_an_asked_status_comes_in_the_envelope(kling: httpx.Client) -> None:
    answer = kling.post(TEXT, json={"prompt": "[sandbox: status=429, code=1303]"})
    assert (answer.status_code, answer.json()["code"]) == (429, 1303)
