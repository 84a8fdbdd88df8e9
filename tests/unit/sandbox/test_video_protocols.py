"""The shapes and refusals of the providers of videos that no SDK speaks for, and what the SDKs do not show."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from elkapi.sandbox.app import Options
from elkapi.sandbox.pictures import JPEG, png
from elkapi.sandbox.server import Running, running
from elkapi.sandbox.videos import mp4, seconds_of
from tests.waiting import until_blocking

from .exchanging import bill_lines, own_sandbox

GENERATE, QUERY, RETRIEVE = "/v1/video_generation", "/v1/query/video_generation", "/v1/files/retrieve"
CONTENT = "/v1/files/retrieve_content"
ARK = "/api/v3/contents/generations/tasks"
VEO = "/v1beta/models/veo-3.1-generate-preview:predictLongRunning"
GOOGLE = {"x-goog-api-key": "AIza-any"}
PIKA: dict[str, Any] = {"promptText": "a boat", "options": {"parameters": {}, "extend": False}}


sandbox = pytest.fixture(own_sandbox)


def bill(sandbox: Running) -> tuple[str, str, int]:
    """Provider, model and cost of the only bill line, once it is there."""
    until_blocking(lambda: bill_lines(sandbox))
    (line,) = bill_lines(sandbox)
    return line.provider, line.model, line.cost_nano_usd


def polled(http: httpx.Client, url: str, ended: Any, **fields: Any) -> Any:
    """The first answer of `url` that has ended."""
    found: list[Any] = []

    def is_there() -> bool:
        found.append(http.get(url, **fields).json())
        return bool(ended(found[-1]))

    until_blocking(is_there)
    return found[-1]


# MiniMax


def minimax(http: httpx.Client, place: str = "/minimax", **fields: Any) -> Any:
    answer = http.post(place + GENERATE, json={"model": "MiniMax-Hailuo-02", "prompt": "a boat", **fields})
    assert answer.status_code == 200
    return answer.json()


def minimax_ended(http: httpx.Client, task_id: str, place: str = "/minimax") -> Any:
    params = {"task_id": task_id}
    return polled(http, place + QUERY, lambda body: body["status"] in ("Success", "Fail"), params=params)


@pytest.mark.parametrize("place", ["", "/minimax"])
def test_minimax_makes_a_file_of_a_task(sandbox: Running, http: httpx.Client, place: str) -> None:
    started = minimax(http, place, duration=10)
    assert started["base_resp"] == {"status_code": 0, "status_msg": "success"}
    assert started["task_id"].isdecimal()
    done = minimax_ended(http, started["task_id"], place)
    assert (done["status"], done["video_width"], done["video_height"]) == ("Success", 1366, 768)
    file = http.get(place + RETRIEVE, params={"file_id": done["file_id"]}).json()["file"]
    assert (str(file["file_id"]), file["purpose"]) == (done["file_id"], "video_generation")
    content = httpx.get(file["download_url"]).content
    assert len(content) == file["bytes"]
    assert seconds_of(content) == 10
    assert http.get(place + CONTENT, params={"file_id": done["file_id"]}).content == content
    assert bill(sandbox) == ("minimax", "MiniMax-Hailuo-02", 560_000_000)


def test_minimax_names_its_states(http: httpx.Client) -> None:
    task_id = minimax(http, prompt="[sandbox: task-queued=300ms, task-takes=300ms]")["task_id"]
    seen: list[str] = []
    while not seen or seen[-1] not in ("Success", "Fail"):
        seen.append(http.get("/minimax" + QUERY, params={"task_id": task_id}).json()["status"])
    order = ["Preparing", "Queueing", "Processing", "Success"]
    assert sorted(set(seen), key=order.index) == sorted(set(seen), key=seen.index)
    assert seen[-1] == "Success"


@pytest.mark.parametrize(("fault", "code"), [("task-fails", 1000), ("task-moderated", 1027)])
def test_minimax_fails_inside_the_answer(sandbox: Running, http: httpx.Client, fault: str, code: int) -> None:
    done = minimax_ended(http, minimax(http, prompt=f"[sandbox: {fault}]")["task_id"])
    assert (done["status"], done["file_id"], done["base_resp"]["status_code"]) == ("Fail", "", code)
    assert bill_lines(sandbox) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "Hailuo-99"}, 2013),
        ({"prompt": ""}, 2013),
        ({"prompt": "a" * 2_001}, 2013),
        ({"duration": 7}, 2013),
        ({"duration": 10, "resolution": "1080P"}, 2013),
        ({"resolution": "768p"}, 2013),
        ({"model": "I2V-01"}, 2013),
        ({"model": "S2V-01"}, 2013),
        ({"model": "T2V-01", "duration": 10}, 2013),
        ({"model": "MiniMax-Hailuo-2.3", "last_frame_image": "https://pictures.example/a.png"}, 2013),
        ({"first_frame_image": "iVBORw0KGgo="}, 2013),
        ({"first_frame_image": "data:image/png;base64," + base64.b64encode(png("a", 300, 400)).decode()}, 2013),
        ({"first_frame_image": "data:image/png;base64," + base64.b64encode(png("a", 302, 900)).decode()}, 2013),
        ({"prompt": "[sandbox: task-refused]"}, 1026),
        ({"prompt": "[sandbox: code=1008]"}, 1008),
    ],
)
def test_minimax_refuses_with_status_200(sandbox: Running, http: httpx.Client, fields: Any, code: int) -> None:
    answer = minimax(http, **fields)
    assert answer["base_resp"]["status_code"] == code
    assert answer["base_resp"]["status_msg"]
    assert "task_id" not in answer
    assert bill_lines(sandbox) == []


def test_minimax_refuses_keys_and_unknown_ids_with_status_200(http: httpx.Client) -> None:
    for headers, code in (({"authorization": ""}, 1004), ({}, 2013)):
        for url, params in ((QUERY, {"task_id": "1"}), (RETRIEVE, {"file_id": "1"}), (CONTENT, {"file_id": "x"})):
            answer = http.get("/minimax" + url, params=params, headers=headers)
            assert (answer.status_code, answer.json()["base_resp"]["status_code"]) == (200, code)


def test_an_asked_status_stays_one_at_minimax(http: httpx.Client) -> None:
    answer = http.post("/minimax" + GENERATE, json={"prompt": "[sandbox: status=429]"})
    assert (answer.status_code, answer.json()["base_resp"]["status_code"]) == (429, 1002)


def test_minimax_takes_pictures(sandbox: Running, http: httpx.Client) -> None:
    picture = "data:image/png;base64," + base64.b64encode(png("a", 320, 320)).decode()
    subject = [{"type": "character", "image": ["https://pictures.example/a.png"]}]
    fields: dict[str, Any] = {"model": "S2V-01", "first_frame_image": picture, "subject_reference": subject}
    assert minimax_ended(http, minimax(http, **fields)["task_id"])["status"] == "Success"
    assert bill(sandbox) == ("minimax", "S2V-01", 650_000_000)


# Pika


def pika_ended(http: httpx.Client, task_id: str) -> Any:
    def is_over(body: Any) -> bool:
        return bool(body["videos"]) and body["videos"][0]["status"] in ("finished", "error")

    (video,) = polled(http, f"/pika/feed/{task_id}", is_over)["videos"]
    return video


def test_pika_feeds_a_video(sandbox: Running, http: httpx.Client) -> None:
    body = {**PIKA, "model": "2.0", "pikaffect": "Dissolve"}
    body["options"] = {**PIKA["options"], "parameters": {"seed": 7}, "aspectRatio": 1.0, "camera": {"pan": "left"}}
    task_id = http.post("/pika/generate", json=body).json()["id"]
    first = http.get("/pika/feed/", params={"id": task_id}).json()
    assert (first["id"], first["promptText"], first["videos"]) == (task_id, "a boat", [])
    video = pika_ended(http, task_id)
    assert (video["status"], video["progress"], video["seed"], video["error"]) == ("finished", 100, 7, "")
    assert seconds_of(httpx.get(video["resultUrl"]).content) == video["duration"] == 5
    assert httpx.get(video["videoPoster"]).content == JPEG
    assert bill(sandbox) == ("pika", "pika-2.0", 350_000_000)


@pytest.mark.parametrize("fault", ["task-fails", "task-moderated", "task-expires"])
def test_pika_tells_a_failure_in_the_video(sandbox: Running, http: httpx.Client, fault: str) -> None:
    task_id = http.post("/pika/generate", json={**PIKA, "promptText": f"[sandbox: {fault}]"}).json()["id"]
    video = pika_ended(http, task_id)
    assert (video["status"], video["resultUrl"]) == ("error", "")
    assert video["error"]
    assert bill_lines(sandbox) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"promptText": ""},
        {"model": 1.5},
        {"pikaffect": "Boil"},
        {"image": ""},
        {"options": {"parameters": {}}},
        {"options": {"extend": False}},
        {"options": {"parameters": {"motion": 5}, "extend": False}},
        {"options": {"parameters": {}, "extend": True}},
        {"options": {"parameters": {}, "extend": False, "camera": {"zoom": "left"}}},
        {"promptText": "[sandbox: task-refused]"},
    ],
)
def test_pika_refuses_in_the_resellers_words(http: httpx.Client, fields: Any) -> None:
    answer = http.post("/pika/generate", json={**PIKA, **fields})
    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "message", "data"}


def test_pika_knows_no_foreign_task_and_no_stranger(http: httpx.Client) -> None:
    assert http.get("/pika/feed/unknown").json()["code"] == "task_not_exist"
    refused = http.post("/pika/generate", json=PIKA, headers={"authorization": ""})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "new_api_error")


# Sora, the reverse form


def test_sora_is_wrapped_by_a_reseller(sandbox: Running, http: httpx.Client) -> None:
    body = {"prompt": "a boat", "resolution": 480, "duration": 10, "aspect_ratio": "9:16", "n_variants": 2}
    begun = http.post("/sora/v1/videos", json=body).json()
    assert (begun["code"], len(begun["data"])) == ("success", len("task_") + 26)
    done = polled(http, f"/sora/v1/videos/{begun['data']}", lambda body: body["data"]["finish_time"])["data"]
    assert (done["action"], done["status"], done["progress"], done["start_time"]) == (
        "sora-video",
        "SUCCESS",
        "100%",
        0,
    )
    films = [httpx.get(one["url"]).content for one in done["data"]["generations"]]
    assert [seconds_of(film) for film in films] == [10, 10]
    assert bill(sandbox) == ("sora", "sora", 300_000_000)


def test_sora_tells_a_failure_in_the_envelope(sandbox: Running, http: httpx.Client) -> None:
    begun = http.post("/sora/v1/videos", json={"prompt": "[sandbox: task-moderated]"}).json()
    failed = polled(http, f"/sora/v1/videos/{begun['data']}", lambda body: body["data"]["finish_time"])["data"]
    assert (failed["status"], failed["data"]["generations"]) == ("FAILURE", [])
    assert failed["fail_reason"] == failed["data"]["failure_reason"]
    assert bill_lines(sandbox) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"model": "sora-9"},
        {"duration": 7},
        {"duration": "5"},
        {"resolution": "4k"},
        {"aspect_ratio": "2:1"},
        {"n_variants": 9},
        {"images": "x"},
        {"image_url": 5},
        {"notify_hook": "nowhere"},
        {"prompt": "[sandbox: task-refused]"},
    ],
)
def test_sora_refuses_in_the_resellers_words(http: httpx.Client, fields: Any) -> None:
    answer = http.post("/sora/v1/videos", json={"prompt": "a boat", **fields})
    assert (answer.status_code, set(answer.json())) == (400, {"code", "message", "data"})
    assert http.get("/sora/v1/videos/unknown").json()["code"] == "task_not_exist"


# Ark


def ark(http: httpx.Client, text: str = "a boat", **fields: Any) -> httpx.Response:
    content = fields.pop("content", [{"type": "text", "text": text}])
    return http.post(ARK, json={"model": "doubao-seedance-2-0-260128", "content": content, **fields})


def picture(role: str | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
    return item if role is None else {**item, "role": role}


def test_ark_answers_a_submit_with_its_id_alone(http: httpx.Client) -> None:
    body = ark(http).json()
    assert list(body) == ["id"]
    assert body["id"].startswith("cgt-")
    assert ark(http, safety_identifier="who").json()["safety_identifier"] == "who"


@pytest.mark.parametrize(
    ("model", "fields", "tokens", "rate"),
    [
        ("doubao-seedance-2-0-260128", {}, 1280 * 720 * 121 // 1024, 7_000),
        ("doubao-seedance-2-0-fast-260128", {"duration": 4}, 1280 * 720 * 97 // 1024, 5_600),
        ("doubao-seedance-1-5-pro-251215", {"generate_audio": False}, 1280 * 720 * 121 // 1024, 1_200),
        ("doubao-seedance-1-5-pro-251215", {"draft": True}, 864 * 480 * 121 // 1024, 2_400),
        ("doubao-seedance-1-0-pro-250528", {"service_tier": "flex"}, 1920 * 1088 * 121 // 1024, 1_250),
        ("doubao-seedance-1-0-pro-250528", {"frames": 29, "ratio": "1:1"}, 1440 * 1440 * 29 // 1024, 2_500),
        ("doubao-seedance-1-0-lite-t2v-250428", {"resolution": "480p"}, 864 * 480 * 121 // 1024, 1_800),
    ],
)
def test_ark_bills_the_tokens_of_what_it_made(
    sandbox: Running, http: httpx.Client, model: str, fields: Any, tokens: int, rate: int
) -> None:
    task_id = ark(http, model=model, **fields).json()["id"]
    task = polled(http, f"{ARK}/{task_id}", lambda body: body["status"] == "succeeded")
    assert task["usage"] == {"completion_tokens": tokens, "total_tokens": tokens}
    assert bill(sandbox) == ("ark", model, tokens * rate)


def test_ark_charges_a_video_made_from_another_by_another_rate(sandbox: Running, http: httpx.Client) -> None:
    source = {"type": "video_url", "video_url": {"url": "https://videos.example/a.mp4"}, "role": "reference_video"}
    ark(http, content=[{"type": "text", "text": "again"}, source])
    assert bill(sandbox)[2] == 1280 * 720 * 121 // 1024 * 4_300


def test_ark_makes_a_video_from_a_draft(http: httpx.Client) -> None:
    model = "doubao-seedance-1-5-pro-251215"
    draft = ark(http, model=model, draft=True).json()["id"]
    content = [{"type": "draft_task", "draft_task": {"id": draft}}]
    assert ark(http, model=model, content=content).status_code == 400
    polled(http, f"{ARK}/{draft}", lambda body: body["status"] == "succeeded")
    assert ark(http, model=model, content=content).status_code == 200


def test_ark_neither_cancels_nor_deletes_what_runs(http: httpx.Client) -> None:
    task_id = ark(http, "[sandbox: task-queued=0s, task-takes=30s]").json()["id"]
    refused = http.delete(f"{ARK}/{task_id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "InvalidAction.RunningTaskDeletion")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"content": []}, 400, "InvalidParameter"),
        ({"content": None}, 400, "MissingParameter"),
        ({"model": ""}, 400, "MissingParameter"),
        ({"model": "doubao-seedream"}, 404, "InvalidEndpointOrModel.NotFound"),
        ({"content": [{"type": "text", "text": " "}]}, 400, "InvalidParameter"),
        ({"content": [picture("first_frame"), picture("reference_image")]}, 400, "InvalidParameter"),
        ({"content": [picture("last_frame")]}, 400, "InvalidParameter"),
        ({"content": [picture("middle")]}, 400, "InvalidParameter"),
        ({"execution_expires_after": 60}, 400, "InvalidParameter"),
        ({"service_tier": "flex"}, 400, "InvalidParameter"),
        ({"draft": True}, 400, "InvalidParameter"),
        ({"duration": 3}, 400, "InvalidParameter"),
        ({"seed": 1.5}, 400, "InvalidParameter"),
        ({"callback_url": "nowhere"}, 400, "InvalidParameter"),
        ({"content": [{"type": "text", "text": "[sandbox: task-refused]"}]}, 400, "InputTextSensitiveContentDetected"),
    ],
)
def test_ark_refuses_in_its_own_words(http: httpx.Client, fields: Any, status: int, code: str) -> None:
    answer = ark(http, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"code", "message", "param", "type"}


@pytest.mark.parametrize(
    "content",
    [[picture()], [picture(), picture()], [picture()] * 3, [picture("first_frame"), picture("last_frame")]],
)
def test_ark_takes_pictures_with_and_without_roles(http: httpx.Client, content: Any) -> None:
    assert ark(http, content=content).status_code == 200


def test_ark_wants_a_key(http: httpx.Client) -> None:
    refused = http.get(ARK, headers={"authorization": ""})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "AuthenticationError")
    assert http.get(ARK, params={"page_size": 0}).status_code == 400


def test_ark_shows_a_wrong_usage_when_it_is_asked_to(http: httpx.Client) -> None:
    task_id = ark(http).json()["id"]
    polled(http, f"{ARK}/{task_id}", lambda body: body["status"] == "succeeded")
    for fault, usage in (("no-usage", None), ("usage=-5", {"completion_tokens": -5, "total_tokens": -5})):
        task = http.get(f"{ARK}/{task_id}", headers={"x-sandbox-fault": fault}).json()
        assert task.get("usage") == usage


# Veo


@pytest.mark.parametrize(
    ("model", "parameters", "nano_usd"),
    [
        ("veo-3.1-generate-preview", {"sampleCount": 2}, 2 * 8 * 400_000_000),
        ("veo-3.1-generate-preview", {"resolution": "4k"}, 8 * 600_000_000),
        ("veo-3.0-fast-generate-001", {"durationSeconds": 4}, 4 * 150_000_000),
        ("veo-2.0-generate-001", {"durationSeconds": 5}, 5 * 350_000_000),
    ],
)
def test_veo_bills_the_seconds_of_every_video(
    sandbox: Running, http: httpx.Client, model: str, parameters: Any, nano_usd: int
) -> None:
    body = {"instances": [{"prompt": "a boat"}], "parameters": parameters}
    url = f"/v1beta/models/{model}:predictLongRunning"
    assert http.post(url, json=body, headers=GOOGLE).status_code == 200
    assert bill(sandbox) == ("gemini", model, nano_usd)


def test_an_operation_of_veo_that_runs_is_a_name_only(http: httpx.Client) -> None:
    body = {"instances": [{"prompt": "a boat [sandbox: task-takes=30s]"}]}
    started = http.post(VEO, json=body, headers=GOOGLE).json()
    assert http.get(f"/v1beta/{started['name']}", headers=GOOGLE).json() == started
    assert http.get(f"/v1beta/{started['name']}", headers={"x-goog-api-key": "AIza-other"}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"instances": []},
        {"instances": [{}]},
        {"instances": [{"prompt": "a", "seed": 1}]},
        {"instances": [{"prompt": "a", "lastFrame": {"bytesBase64Encoded": "aaaa", "mimeType": "image/png"}}]},
        {"instances": [{"prompt": "a", "image": {"bytesBase64Encoded": "aaaa"}}]},
        {"instances": [{"prompt": "a", "image": {"bytesBase64Encoded": "?", "mimeType": "image/png"}}]},
        {"instances": [{"prompt": "a"}], "parameters": {"durationSeconds": "8"}},
        {"instances": [{"prompt": "a"}], "parameters": {"resolution": "1080p", "durationSeconds": 4}},
        {"instances": [{"prompt": "a"}], "parameters": {"generateAudio": True}},
    ],
)
def test_veo_refuses_in_googles_words(http: httpx.Client, body: Any) -> None:
    answer = http.post(VEO, json=body, headers=GOOGLE)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


# OpenAI


def video(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/videos", json={"prompt": "a boat", **fields})


@pytest.mark.parametrize(
    ("fields", "nano_usd"),
    [
        ({}, 4 * 100_000_000),
        ({"model": "sora-2-pro", "seconds": "12"}, 12 * 300_000_000),
        ({"model": "sora-2-pro-2025-10-06", "size": "1024x1792"}, 4 * 500_000_000),
    ],
)
def test_openai_bills_a_video_by_its_seconds(sandbox: Running, http: httpx.Client, fields: Any, nano_usd: int) -> None:
    assert video(http, **fields).status_code == 200
    assert bill(sandbox)[2] == nano_usd


def test_an_extension_is_billed_by_its_new_part(sandbox: Running, http: httpx.Client) -> None:
    files = {"video": ("a.mp4", mp4("a", 720, 1280, 8_000), "video/mp4")}
    extended = http.post("/v1/videos/extensions", data={"prompt": "on", "seconds": "16"}, files=files).json()
    assert extended["seconds"] == "24"
    assert bill(sandbox)[2] == 16 * 100_000_000


def test_a_running_video_says_when_to_ask_again(http: httpx.Client) -> None:
    slow = video(http, prompt="[sandbox: task-takes=30s]").json()["id"]
    assert http.get(f"/v1/videos/{slow}").headers["openai-poll-after-ms"] == "5000"
    assert http.get(f"/v1/videos/{slow}/content").status_code == 400
    assert http.delete(f"/v1/videos/{slow}").status_code == 400
    done = polled(http, f"/v1/videos/{video(http).json()['id']}", lambda body: body["status"] == "completed")
    assert "openai-poll-after-ms" not in http.get(f"/v1/videos/{done['id']}").headers
    assert http.get(f"/v1/videos/{done['id']}/content", params={"variant": "poster"}).status_code == 400


@pytest.mark.parametrize("field", ["image_url", "file_id"])
def test_a_first_frame_may_be_named(http: httpx.Client, field: str) -> None:
    value = "https://pictures.example/a.png"
    assert video(http, input_reference={field: value}).status_code == 200
    form = {"prompt": (None, "a boat"), f"input_reference[{field}]": (None, value)}
    assert http.post("/v1/videos", files=form).status_code == 200
    assert video(http, input_reference={}).status_code == 400


def test_a_first_frame_has_the_size_of_the_video(http: httpx.Client) -> None:
    for size, status in (((720, 1280), 200), ((1280, 720), 400)):
        files = {"input_reference": ("a", png("a", *size), "application/octet-stream")}
        answer = http.post("/v1/videos", data={"prompt": "a boat"}, files=files)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("/v1/videos", {}),
        ("/v1/videos/edits", {"prompt": "a"}),
        ("/v1/videos/edits", {"prompt": "a", "video": "text"}),
        ("/v1/videos/extensions", {"prompt": "a", "video[id]": "video_1"}),
        ("/v1/videos/characters", {"name": "Ada"}),
        ("/v1/videos/characters", {"name": "", "video": "text"}),
    ],
)
def test_openai_names_what_is_missing(http: httpx.Client, url: str, form: dict[str, str]) -> None:
    answer = http.post(url, files={name: (None, value) for name, value in form.items()})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_openai_does_not_find_what_belongs_to_another(http: httpx.Client) -> None:
    video_id = video(http).json()["id"]
    for url in (f"/v1/videos/{video_id}", f"/v1/videos/{video_id}/content", "/v1/videos/characters/char_1"):
        assert http.get(url, headers={"authorization": "Bearer sk-another"}).status_code == 404
    assert http.get("/v1/videos", headers={"authorization": "Bearer sk-another"}).json()["data"] == []


# Runway


RUNWAY = {"authorization": "Bearer key_any", "x-runway-version": "2024-11-06"}
FRAME = {"model": "gen4_turbo", "promptImage": "https://pictures.example/a.png", "ratio": "1280:720"}


def runway(http: httpx.Client, operation: str = "image_to_video", **body: Any) -> httpx.Response:
    return http.post(f"/runwayml/v1/{operation}", json=body, headers=RUNWAY)


def test_runway_shows_every_state_as_it_is(sandbox: Running, http: httpx.Client) -> None:
    begun = runway(http, **FRAME, promptText="[sandbox: task-queued=200ms, task-takes=200ms]", duration=4).json()
    assert begun == {"id": begun["id"], "estimatedCost": {"credits": 5 * 4}}
    url = f"/v1/tasks/{begun['id']}"
    pending = http.get(url, headers=RUNWAY).json()
    assert (pending["status"], pending["estimatedCost"]) == ("PENDING", {"credits": 5 * 4})
    running_or_done = polled(http, url, lambda body: body["status"] != "PENDING", headers=RUNWAY)
    assert running_or_done["status"] in ("RUNNING", "SUCCEEDED")
    done = polled(http, url, lambda body: body["status"] == "SUCCEEDED", headers=RUNWAY)
    assert set(done) == {"id", "createdAt", "status", "output", "cost"}
    assert done["cost"] == {"credits": 5 * 4}
    assert seconds_of(httpx.get(done["output"][0]).content) == 4
    assert bill(sandbox) == ("runway", "gen4_turbo", 5 * 4 * 10_000_000)


def test_runway_wants_its_version_and_a_key(http: httpx.Client) -> None:
    assert http.post("/v1/image_to_video", json=FRAME).status_code == 400
    assert http.post("/v1/image_to_video", json=FRAME, headers={**RUNWAY, "authorization": ""}).status_code == 401
    assert http.get("/v1/tasks/unknown", headers=RUNWAY).json() == {"error": "Task not found"}


@pytest.mark.parametrize(
    ("operation", "body", "nano_usd"),
    [
        ("text_to_image", {"model": "gen4_image", "promptText": "a"}, 80_000_000),
        ("image_upscale", {"model": "magnific_precision_upscaler_v2", "imageUri": "https://a.example/"}, 200_000_000),
        ("voice_dubbing", {"model": "eleven_voice_dubbing", "audioUri": "data:,", "targetLang": "en"}, 10_000_000),
        ("video_to_video", {"model": "aleph2", "videoUri": "https://a.example/"}, 750_000_000),
    ],
)
def test_runway_has_a_price_for_every_kind(
    sandbox: Running, http: httpx.Client, operation: str, body: Any, nano_usd: int
) -> None:
    assert runway(http, operation, **body).status_code == 200
    assert bill(sandbox)[2] == nano_usd


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("image_to_video", {}),
        ("image_to_video", {**FRAME, "model": "gen4.5"}),
        ("image_to_video", {**FRAME, "promptImage": [{"uri": "https://a.example/", "position": "last"}]}),
        ("image_to_video", {**FRAME, "promptImage": []}),
        ("image_to_video", {**FRAME, "seed": -1}),
        ("image_to_video", {**FRAME, "promptText": "[sandbox: task-refused]"}),
        ("text_to_image", {"model": "gen4_image_turbo", "promptText": "a"}),
        ("video_to_video", {"model": "seedance2", "videoUri": "https://a.example/"}),
    ],
)
def test_runway_refuses_in_its_own_words(http: httpx.Client, operation: str, body: Any) -> None:
    answer = runway(http, operation, **body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_runway_shows_the_credits_of_an_organization(http: httpx.Client) -> None:
    shown = http.get("/v1/organization", headers=RUNWAY).json()
    assert shown["creditBalance"] == shown["tier"]["maxMonthlyCreditSpend"] == 100_000
    assert shown["usage"]["models"]["gen4_turbo"] == {"dailyGenerations": 0}


# Luma


def luma(http: httpx.Client, path: str = "generations", **body: Any) -> httpx.Response:
    return http.post(f"/dream-machine/v1/{path}", json=body)


@pytest.mark.parametrize(
    ("path", "body", "nano_usd"),
    [
        ("generations", {"prompt": "a"}, 320_000_000),
        (
            "generations/video",
            {"prompt": "a", "model": "ray-2", "duration": "9s", "resolution": "1080p"},
            1_917_000_000,
        ),
        ("generations/image", {"prompt": "a", "model": "photon-1"}, 15_000_000),
    ],
)
def test_luma_answers_a_generation_and_bills_it(
    sandbox: Running, http: httpx.Client, path: str, body: Any, nano_usd: int
) -> None:
    answer = luma(http, path, **body)
    assert (answer.status_code, answer.json()["state"]) == (201, "queued")
    assert bill(sandbox)[2] == nano_usd


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("generations", {}),
        ("generations", {"prompt": "a", "aspect_ratio": "2:1"}),
        ("generations", {"prompt": "a", "duration": 5}),
        ("generations", {"keyframes": {"frame2": {}}}),
        ("generations", {"keyframes": {"frame0": {"type": "image"}}}),
        ("generations", {"prompt": "[sandbox: task-refused]"}),
        ("generations/image", {"prompt": "a"}),
        ("generations/image/reframe", {"generation_type": "reframe_image", "model": "photon-1", "aspect_ratio": "1:1"}),
        ("generations/video/modify", {"generation_type": "modify_video", "media": {"url": "https://a.example/"}}),
    ],
)
def test_luma_refuses_with_a_detail(http: httpx.Client, path: str, body: Any) -> None:
    answer = luma(http, path, **body)
    assert (answer.status_code, list(answer.json())) == (400, ["detail"])


def test_luma_answers_a_finished_picture_at_once(sandbox: Running, http: httpx.Client) -> None:
    answer = luma(http, "generations/image", model="photon-1", prompt="a", sync=True, sync_timeout=60)
    assert (answer.status_code, answer.json()["state"]) == (201, "completed")
    assert httpx.get(answer.json()["assets"]["image"]).content == JPEG
    assert bill(sandbox) == ("luma", "photon-1", 15_000_000)


@pytest.mark.parametrize(("fault", "state"), [("task-takes=30s", "dreaming"), ("task-moderated", "failed")])
def test_luma_answers_an_unfinished_or_failed_picture_too(http: httpx.Client, fault: str, state: str) -> None:
    answer = luma(http, "generations/image", model="photon-1", prompt=f"[sandbox: {fault}]", sync=True)
    assert answer.json()["state"] == state


def test_luma_knows_its_own(http: httpx.Client) -> None:
    generation = luma(http, prompt="a").json()["id"]
    url = f"/dream-machine/v1/generations/{generation}"
    assert http.get(url, headers={"authorization": "Bearer luma-another"}).status_code == 404
    assert luma(http, f"generations/{generation}/upscale").status_code == 400
    assert http.get(url, headers={"authorization": ""}).status_code == 403
    assert http.delete(url).status_code == 204
    assert http.get("/dream-machine/v1/ping").json() == {"message": "pong"}
    assert http.get("/dream-machine/v1/credits").json()["credit_balance"] > 0
    assert http.get("/dream-machine/v1/generations/concepts/list").json()
    assert http.get("/dream-machine/v1/generations", params={"limit": 101}).status_code == 422


# DuoMi


RAW = {"authorization": "raw-key"}
DUOMI = {"callback_url": "https://callbacks.example/", "prompt": "a cat"}
ZEROS = {"x": 0, "y": 0, "z": 0, "r": 0, "bg_x_pan": 0, "bg_y_pan": 0}
STYLED = {"model": "gen4", "ratio": "9:16", "style": "cinematic", "options": {"seconds": 10, "motion_vector": ZEROS}}
MELTS = {"style": "Melt", "options": {}}


def duomi(http: httpx.Client, path: str, **body: Any) -> Any:
    answer = http.post(f"/api/video/{path}", json={**DUOMI, **body}, headers=RAW)
    assert answer.status_code == 200
    return answer.json()


def duomi_ended(http: httpx.Client, product: str, task_id: str) -> Any:
    def is_over(body: Any) -> bool:
        return body["data"]["state"] in ("succeeded", "error")

    url = f"/api/video/{product}/feed"
    return polled(http, url, is_over, params={"task_id": task_id}, headers=RAW)["data"]


@pytest.mark.parametrize(
    ("path", "body", "model", "nano_usd"),
    [
        ("runway/pro/generate", STYLED, "runway-gen4", 200_000_000),
        (
            "runway/pro/generate",
            {"model": "gen3", "ratio": "16:9", "image": "https://a.example/"},
            "runway-gen3",
            100_000_000,
        ),
        (
            "runway/pro/video2video",
            {"model": "gen4", "video": "https://a.example/", "options": {"flip": True}},
            "runway-video2video",
            100_000_000,
        ),
        (
            "runway/pro/act_one",
            {"video": "https://a.example/", "image": "https://b.example/"},
            "runway-act-one",
            100_000_000,
        ),
        ("pika/pro/generate", MELTS, "pika-1.5", 100_000_000),
        ("pika/pro/generate", {**MELTS, "model": 2.0, "video": "https://a.example/"}, "pika-2", 100_000_000),
    ],
)
def test_duomi_feeds_what_was_made(
    sandbox: Running, http: httpx.Client, path: str, body: Any, model: str, nano_usd: int
) -> None:
    begun = duomi(http, path, **body)
    assert (begun["code"], begun["data"]["state"]) == (200, "pending")
    done = duomi_ended(http, path.partition("/")[0], begun["data"]["task_id"])
    assert (done["state"], done["status"], done["refund"]) == ("succeeded", "3", "0")
    assert httpx.get(done["video_url"]).content[4:8] == b"ftyp"
    assert bill(sandbox) == ("duomi", model, nano_usd)


@pytest.mark.parametrize("fault", ["task-fails", "task-moderated"])
def test_duomi_gives_back_what_a_failure_cost(sandbox: Running, http: httpx.Client, fault: str) -> None:
    begun = duomi(http, "pika/pro/generate", **{**MELTS, "prompt": f"[sandbox: {fault}]"})
    done = duomi_ended(http, "pika", begun["data"]["task_id"])
    assert (done["state"], done["refund"], done["video_url"]) == ("error", "1", "")
    assert done["msg"]
    assert bill_lines(sandbox) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("runway/pro/generate", {}),
        ("runway/pro/generate", {**STYLED, "options": {"seconds": 7, "motion_vector": ZEROS}}),
        ("runway/pro/generate", {**STYLED, "options": {"seconds": 5}}),
        ("runway/pro/generate", {**STYLED, "callback_url": None}),
        ("runway/pro/act_one", {"video": "https://a.example/"}),
        ("pika/pro/generate", {**MELTS, "model": "1.5"}),
        ("pika/pro/generate", {**MELTS, "style": "Boil"}),
        ("pika/pro/generate", {**MELTS, "prompt": "[sandbox: task-refused]"}),
    ],
)
def test_duomi_refuses_inside_the_answer(http: httpx.Client, path: str, body: Any) -> None:
    answer = duomi(http, path, **body)
    assert (answer["code"], answer["data"]) == (400, None)
    assert answer["msg"]


def test_duomi_takes_a_raw_key_only(http: httpx.Client) -> None:
    assert http.post("/api/video/pika/pro/generate", json={}).status_code == 401
    assert http.get("/api/video/pika/feed", params={"task_id": "x"}, headers=RAW).json()["code"] == 400


# Every provider, as the gateway's own channel to a sandbox asks it


SHARED = "sk-sandbox"
BEARER = {"authorization": f"Bearer {SHARED}"}


@pytest.mark.parametrize(
    ("url", "body", "headers"),
    [
        ("/kling/v1/videos/text2video", {"prompt": "a"}, BEARER),
        ("/kling/v1/images/generations", {"prompt": "a"}, BEARER),
        (VEO, {"instances": [{"prompt": "a"}]}, {"x-goog-api-key": SHARED}),
        (ARK, {"model": "doubao-seedance-2-0-260128", "content": [{"type": "text", "text": "a"}]}, BEARER),
        ("/runway/v1/image_to_video", FRAME, {**BEARER, "x-runway-version": "2024-11-06"}),
        ("/dream-machine/v1/generations/video", {"prompt": "a"}, BEARER),
        ("/minimax/v1/video_generation", {"model": "T2V-01", "prompt": "a"}, BEARER),
        ("/pika/generate", PIKA, BEARER),
        ("/sora/v1/videos", {"prompt": "a"}, BEARER),
        ("/api/video/runway/pro/generate", {**DUOMI, **STYLED}, {"authorization": SHARED}),
        ("/api/video/pika/pro/generate", {**DUOMI, **MELTS}, {"authorization": SHARED}),
        ("/v1/videos", {"prompt": "a"}, BEARER),
    ],
)
def test_one_key_begins_a_task_of_every_provider(url: str, body: Any, headers: dict[str, str]) -> None:
    with running(Options(keys=frozenset({SHARED}))) as sandbox:
        answer = httpx.post(sandbox.base_url + url, json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        until_blocking(lambda: len(bill_lines(sandbox)) == 1)
