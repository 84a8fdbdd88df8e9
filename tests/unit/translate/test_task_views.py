"""Tasks in the neutral and wrapped forms: every form in every state says the words that its contract knows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types import Video

from elkapi.translate.task_views import rendered, submitted
from elkapi.types import State, TaskAsset, TaskView

URL, THEIRS = "https://gateway.test/v1/assets/a/video.mp4", "https://cdn.provider.test/v.mp4"
S_NS = 1_000_000_000
ASSET = TaskAsset(
    id=b"a" * 16,
    kind="video",
    content_type="video/mp4",
    size_bytes=9,
    source=THEIRS,
    url=URL,
    width=1280,
    height=720,
    duration_ms=5000,
)
ID = "task_" + "0f" * 16
FOUR = {"queued", "in_progress", "completed", "failed"}
# form -> (where its status stands, its words, where the address of the file stands)
WORDS: dict[str, tuple[str, set[str], str]] = {
    "neutral": ("status", {state.value for state in State}, "output.0.url"),
    "task-submit": ("status", FOUR, "output.urls.0"),
    "wrapped": ("data.status", {"QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"}, "data.data.video_url"),
    "wrapped-v2": ("status", {"NOT_START", "IN_PROGRESS", "SUCCESS", "FAILURE"}, "data.output"),
    "sora-wrapped": (
        "data.status",
        {"QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"},
        "data.data.generations.0.url",
    ),
    "video": ("status", FOUR, "metadata.url"),
    "unified": ("status", FOUR, "url"),
    "kling-flat": ("status", FOUR, "url"),
    "veo-query": ("status", {"pending", "processing", "completed", "failed"}, "video_url"),
    "veo-alias": ("data.status", {"processing", "completed", "failed"}, "data.upstreamData.video_url"),
}


def at(state: State) -> TaskView:
    done = state is State.SUCCEEDED
    return TaskView(
        id=ID,
        native_id="n1",
        operation="runway.image-to-video",
        wire="duomi-runway",
        model="gen4",
        state=state,
        progress=37,
        created_ns=1_790_000_000 * S_NS,
        started_ns=0 if state is State.QUEUED else 1_790_000_003 * S_NS,
        finished_ns=1_790_000_080 * S_NS if state.is_end else 0,
        error_code="" if done or not state.is_end else "moderation_blocked",
        error="" if done or not state.is_end else "It is not allowed.",
        assets=(ASSET,) if done else (),
        reply=msgspec.json.encode({"code": 200, "data": {"state": "x", "video_url": THEIRS}}),
        asked={"prompt": "a cat", "seconds": 8},
    )


def found(path: str, body: Any) -> Any:
    for step in path.split("."):
        body = body[int(step) if step.isdecimal() else step]
    return body


@pytest.mark.parametrize("form", WORDS)
def test_a_form_says_its_contracts_words_and_our_address(form: str) -> None:
    where, words, url = WORDS[form]
    bodies = {state: rendered(form, at(state)) for state in State}
    assert {found(where, body) for body in bodies.values()} == words
    assert found(url, bodies[State.SUCCEEDED]) == URL
    ends = {found(where, bodies[state]) for state in State if state.is_end}
    assert not ends & {found(where, bodies[state]) for state in State if not state.is_end}
    for state, body in bodies.items():
        assert msgspec.json.decode(msgspec.json.encode(body)) == body
        failed = state.is_end and state is not State.SUCCEEDED
        assert (b"It is not allowed." in msgspec.json.encode(body)) is failed
        assert state is not State.SUCCEEDED or THEIRS.encode() not in msgspec.json.encode(body)


def test_the_envelope_has_seconds_and_its_progress_is_text() -> None:
    data = rendered("wrapped", at(State.RUNNING))["data"]
    assert (data["task_id"], data["action"], data["progress"]) == ("n1", "IMAGE_TO_VIDEO", "37%")
    assert (data["submit_time"], data["start_time"], data["finish_time"]) == (1_790_000_000, 1_790_000_003, 0)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("form", ["video", "unified"])
def test_the_video_object_is_openais(form: str, state: State) -> None:
    video = Video.model_validate(rendered(form, at(state)), strict=True)
    size = "1280x720" if state is State.SUCCEEDED else "720x1280"
    assert (video.id, video.seconds, video.size) == (ID, "8", size)
    assert (video.error is not None) is (state.is_end and state is not State.SUCCEEDED)


@pytest.mark.parametrize(
    ("form", "members"),
    [
        ("wrapped-v2", {"task_id": ID}),
        ("sora-wrapped", {"code": "success", "message": "", "data": ID}),
        ("kling-flat", {"task_id": ID, "status": "queued"}),
    ],
)
def test_answers_to_submits_that_are_little_more_than_an_id(form: str, members: dict[str, Any]) -> None:
    assert submitted(form, at(State.QUEUED)) == members


def test_answers_to_submits_that_are_objects() -> None:
    view = at(State.QUEUED)
    assert submitted("veo-query", view) == {
        "id": ID,
        "status": "pending",
        "enhanced_prompt": "",
        "status_update_time": 1_790_000_000_000,
    }
    assert submitted("veo-alias", view)["data"].keys() == {"taskId", "pollingUrl", "status", "message"}
    unified = {"id": ID, "task_id": ID, "object": "video", "model": "gen4", "status": "queued"}
    assert submitted("unified", view).items() >= (unified | {"created_at": 1_790_000_000}).items()
    assert submitted("task-submit", view).items() >= {"id": ID, "object": "task", "status": "queued"}.items()


@pytest.mark.parametrize(
    ("asked", "assets", "asked_ms", "told"),
    [
        ({}, (), 0, ("4", "720x1280", None)),
        ({}, (), 6000, ("6", "720x1280", None)),
        ({}, (ASSET,), 6000, ("5", "1280x720", None)),
        ({"input": {"prompt": "a", "seconds": 8, "size": "1x2"}}, (ASSET,), 8000, ("8", "1x2", "a")),
        ({"promptText": "a", "metadata": {"duration": "9s", "width": 3, "height": 4}}, (), 0, ("9", "3x4", "a")),
    ],
)
def test_a_video_is_as_long_and_as_large_as_was_asked_or_made(
    asked: dict[str, Any], assets: tuple[TaskAsset, ...], asked_ms: int, told: tuple[str, str, str | None]
) -> None:
    view = msgspec.structs.replace(at(State.SUCCEEDED), asked=asked, assets=assets, asked_ms=asked_ms)
    shown = rendered("video", view)
    assert (shown["seconds"], shown["size"], shown["prompt"]) == told
