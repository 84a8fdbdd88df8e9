"""Native answers as callers read them: the provider's words where it spoke, ours where we ended the task, no address of
its own.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter
from runwayml.types import ImageToVideoCreateResponse, TaskRetrieveResponse
from runwayml.types.task_retrieve_response import Pending, Running, Throttled

from elkapi.catalog import CATALOG
from elkapi.catalog.jsonpath import put
from elkapi.settings import Settings
from elkapi.storage.repos.tasks import TaskRow
from elkapi.tasks import machine, record
from elkapi.tasks.showing import Showing
from elkapi.tasks.telling import Teller
from elkapi.types import Price, State, TaskAsset, TaskStep, Usage

OPERATIONS = {one.id: one for one in CATALOG.operations}
THEIRS, OURS = "https://cdn.provider.test/", "https://gateway.test/a"
SHOWING = Showing(OPERATIONS, CATALOG.family_of, lambda asset, origin: f"{OURS}/{asset.source.rpartition('/')[2]}")


def a_task(submit: str, state: State, reply: Any, *files: str, error: str = "") -> record.Task:
    """A task of a submit in a state; of `files` we have copies."""
    row = TaskRow(
        id=b"t" * 16,
        owner_id=1,
        key_id=1,
        operation=submit,
        wire=OPERATIONS[submit].wire or "",
        form="native",
        model="m",
        state=state.value,
        version=2,
        progress=0,
        native_id="n1",
        channel_id=1,
        channel_key_id=1,
        worker=None,
        created_ns=1,
        updated_ns=1,
        started_ns=None,
        finished_ns=2 if state.is_end else None,
        deleted_ns=None,
        error_code=None,
        asked_sealed=b"",
        told_sealed=None,
    )
    asked = record.Asked(
        body={"promptText": "a dog"},
        group="default",
        price=Price(id=1, model="m", version=1),
        ratio_micro=1_000_000,
        held_nano=0,
        accounts=(1,),
        upper=Usage(calls=1),
    )
    assets = tuple(
        TaskAsset(id=b"a", kind="video", content_type="video/mp4", size_bytes=1, source=THEIRS + name) for name in files
    )
    told = record.Told(reply=msgspec.Raw(msgspec.json.encode(reply)), polled=True, assets=assets, error=error)
    return record.Task(row, asked, told)


def shown(fetch: str, task: record.Task) -> Any:
    return SHOWING.shown(OPERATIONS[fetch], task, "https://gateway.test")[1]


PIKA = {"id": "n1", "status": "finished", "progress": 100, "resultUrl": THEIRS + "v", "sharingUrl": THEIRS + "s"}
PIKA_DONE = {"id": "n1", "promptText": "a dog", "videos": [{**PIKA, "videoPoster": THEIRS + "p"}]}


@pytest.mark.parametrize("fetch", ["pika.query", "pika.feed"])
def test_no_form_tells_an_address_of_the_provider(fetch: str) -> None:
    body = shown(fetch, a_task("pika.generate", State.SUCCEEDED, PIKA_DONE, "v"))
    assert THEIRS not in str(body)
    (video,) = (body if fetch == "pika.query" else body["data"]["data"])["videos"]
    # The poster could not be fetched, so there is none.
    assert (video["resultUrl"], video["sharingUrl"], video["videoPoster"]) == (f"{OURS}/v", f"{OURS}/v", None)


def test_a_pika_task_that_failed_without_a_video_is_no_task_that_waits() -> None:
    told: dict[str, Any] = {"id": "n1", "promptText": "", "videos": []}
    (video,) = shown("pika.query", a_task("pika.generate", State.FAILED, told, error="lost"))["videos"]
    assert video == {"id": "n1", "status": "error", "error": "lost", "progress": 0, "resultUrl": ""}


def test_a_minimax_task_that_we_ended_says_so_in_its_words() -> None:
    told = {"task_id": "n1", "status": "Processing", "base_resp": {"status_code": 0, "status_msg": "success"}}
    body = shown("minimax.query", a_task("minimax.generate", State.FAILED, told, error="lost"))
    assert (body["status"], body["base_resp"]) == ("Fail", {"status_code": 1000, "status_msg": "lost"})
    theirs = {"task_id": "n1", "status": "Fail", "base_resp": {"status_code": 1027, "status_msg": "output"}}
    assert shown("minimax.query", a_task("minimax.generate", State.FAILED, theirs, error="output")) == theirs


def test_an_ark_task_that_we_ended_has_a_code_beside_its_words() -> None:
    told = {"id": "n1", "status": "running", "error": None}
    body = shown("seedance.query", a_task("seedance.submit", State.FAILED, told, error="lost"))
    assert (body["status"], body["error"]) == ("failed", {"code": "InternalServiceError", "message": "lost"})
    theirs = {"id": "n1", "status": "failed", "error": {"code": "InvalidParameter", "message": "no"}}
    assert shown("seedance.query", a_task("seedance.submit", State.FAILED, theirs, error="no")) == theirs


def test_an_ark_task_has_both_of_its_times_before_it_was_asked_about() -> None:
    """Ark's SDK reads `updated_at` off every task."""
    task = a_task("seedance.submit", State.QUEUED, {"id": "n1"})
    told = msgspec.structs.replace(task.told, polled=False)
    row = msgspec.structs.replace(task.row, created_ns=1_790_000_000 * 10**9)
    body = shown("seedance.query", record.Task(row, task.asked, told))
    assert (body["status"], body["created_at"], body["updated_at"]) == ("queued", 1_790_000_000, 1_790_000_000)


def test_a_minimax_query_names_the_file_too() -> None:
    told = {"task_id": "n1", "status": "Success", "file_id": "7", "base_resp": {"status_code": 0, "status_msg": ""}}
    body = shown("minimax.query", a_task("minimax.generate", State.SUCCEEDED, told, "v"))
    assert body == {**told, "file": {"download_url": f"{OURS}/v"}}


def test_a_code_without_a_task_is_no_word_on_a_task() -> None:
    operation = OPERATIONS["minimax.generate"]
    family, spec = CATALOG.family_of[operation.id], operation.task
    assert spec is not None
    busy = {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}
    assert machine.refused(family, busy, spec) is not None
    assert machine.refused(family, {**busy, "status": "Fail"}, spec) is None


def called_back(submit: str, state: State, reply: Any, *files: str, error: str = "") -> tuple[record.Task, Any]:
    """A task as a step leaves it, and what its caller's receiver is told of that step."""
    done = a_task(submit, state, reply, *files, error=error)
    asked = msgspec.structs.replace(done.asked, callback_url="https://caller.test/x")
    task = record.Task(msgspec.structs.replace(done.row, state="queued"), asked, record.Told())
    after = record.encode(done.told)
    step = TaskStep(id=task.row.id, version=2, key_id=1, state=state, progress=100, now_ns=3, finished_ns=2, told=after)
    teller = Teller(
        Settings(), OPERATIONS, CATALOG.family_of, lambda asset, origin: f"{OURS}/{asset.source.rpartition('/')[2]}"
    )
    (notice,) = teller.told(task, step).notices
    return done, msgspec.json.decode(notice.body)


def test_a_callback_tells_no_address_of_the_provider() -> None:
    told = {"task_id": "n1", "state": "succeeded", "video_url": THEIRS + "v", "poster": THEIRS + "p"}
    _, body = called_back("runway.generate-text", State.SUCCEEDED, {"code": 200, "data": told}, "v")
    # The poster could not be fetched, so there is none.
    assert (body["state"], body["video_url"], body["poster"]) == ("succeeded", f"{OURS}/v", None)


@pytest.mark.parametrize(
    ("submit", "fetch", "state", "told"),
    [
        (
            "minimax.generate",
            "minimax.query",
            State.SUCCEEDED,
            {"task_id": "n1", "status": "Success", "file_id": "7", "base_resp": {"status_code": 0, "status_msg": ""}},
        ),
        (
            "minimax.generate",
            "minimax.query",
            State.FAILED,
            {"task_id": "n1", "status": "Processing", "base_resp": {"status_code": 0, "status_msg": "success"}},
        ),
        ("luma.generate", "luma.query", State.SUCCEEDED, {"id": "n1", "assets": {"video": THEIRS + "v"}}),
        ("luma.generate", "luma.query", State.FAILED, {"id": "n1", "state": "dreaming"}),
        ("runway.image-to-video", "runway.task", State.FAILED, {"id": "n1", "status": "RUNNING"}),
        ("seedance.submit", "seedance.query", State.FAILED, {"id": "n1", "status": "running", "error": None}),
    ],
)
def test_a_callback_says_of_a_task_what_a_query_of_it_answers(submit: str, fetch: str, state: State, told: Any) -> None:
    files = ("v",) if state is State.SUCCEEDED else ()
    task, body = called_back(submit, state, told, *files, error="" if files else "lost")
    answered = shown(fetch, task)
    if submit == "minimax.generate":
        # Its callbacks have words of their own.
        answered["status"] = {"Success": "success", "Fail": "failed"}[answered["status"]]
    assert body | answered == body


ODD: tuple[Any, ...] = (None, "x", 7, True, ["x"], [None], {"a": None}, {"x": ["y"]})


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED])
@pytest.mark.parametrize(
    ("fetch", "submit", "paths"),
    [
        ("kling.query", "kling.extend", ("data", "data.task_info", "data.task_info.parent_video")),
        ("luma.query", "luma.generate", ("assets", "assets.video")),
        ("minimax.query", "minimax.generate", ("base_resp", "file_id")),
        ("pika.query", "pika.generate", ("videos",)),
        ("seedance.query", "seedance.submit", ("content", "error")),
        ("veo.operation", "veo.predict", ("response", "response.generateVideoResponse")),
        ("runway.task", "runway.image-to-video", ("output", "failure")),
        ("runway.feed-get", "runway.generate-text", ("data", "data.video_url", "data.msg")),
    ],
)
def test_members_of_another_kind_than_documented_are_shown_too(
    fetch: str, submit: str, paths: tuple[str, ...], state: State
) -> None:
    hooks = CATALOG.family_of[submit].hooks
    for path in paths:
        for odd in ODD:
            told: dict[str, Any] = {}
            put(path, told, odd)
            shown(fetch, a_task(submit, state, told, "v", error="lost"))
            shown("runway.feed-get", a_task(submit, state, told, "v", error="lost"))
            # A step that cannot be told of is not made.
            called_back(submit, state, told, "v", error="lost")
            if hooks.accept is not None:
                hooks.accept({**told, "done": True})


@pytest.mark.parametrize("submit", ["kling.text-to-video", "minimax.generate", "runway.generate-text"])
def test_a_code_of_another_kind_than_documented_is_a_refusal(submit: str) -> None:
    family = CATALOG.family_of[submit]
    assert family.in_band is not None
    for odd in ODD:
        if odd is not None:
            told: dict[str, Any] = {}
            put(family.in_band.path, told, odd)
            refusal = machine.refused(family, told)
            assert refusal is not None
            assert not refusal.elsewhere


CREDITS = 25
RUNWAY: dict[str, Any] = {"id": "n1", "createdAt": "2026-01-01T00:00:00.000Z"}
RUNWAY_TOLD: dict[State, Any] = {
    State.QUEUED: {**RUNWAY, "status": "PENDING", "estimatedCost": {"credits": CREDITS}},
    State.RUNNING: {**RUNWAY, "status": "RUNNING", "progress": 0.5, "estimatedCost": {"credits": CREDITS}},
    State.SUCCEEDED: {**RUNWAY, "status": "SUCCEEDED", "output": [THEIRS + "v"], "cost": {"credits": CREDITS}},
    State.FAILED: {**RUNWAY, "status": "FAILED", "failure": "no", "cost": {"credits": 0}},
}


@pytest.mark.parametrize(("state", "polled"), [(State.QUEUED, False), *((state, True) for state in RUNWAY_TOLD)])
def test_runways_sdk_is_told_what_its_caller_pays_and_never_what_the_account_there_does(
    state: State, polled: bool
) -> None:
    task = a_task("runway.image-to-video", state, RUNWAY_TOLD[state], "v")
    task = record.Task(
        task.row,
        msgspec.structs.replace(task.asked, held_nano=400_000_000),
        msgspec.structs.replace(task.told, polled=polled, charged_nano=312_000_001 if state is State.SUCCEEDED else 0),
    )
    body = shown("runway.task", task)
    told = TypeAdapter(TaskRetrieveResponse).validate_python(body)
    paid = told.estimated_cost if isinstance(told, Pending | Running | Throttled) else told.cost
    assert paid.credits == {State.SUCCEEDED: 32, State.FAILED: 0}.get(state, 40.0)
    wrapped = SHOWING.shown(OPERATIONS["runway.feed-get"], task, "https://gateway.test")[1]
    assert str(CREDITS) not in str(body) + str(wrapped["data"]["data"])
    if not state.is_end:
        begun = SHOWING.submitted("native", task, msgspec.json.encode(RUNWAY_TOLD[State.QUEUED]))
        assert ImageToVideoCreateResponse.model_validate_json(begun).estimated_cost.credits == 40.0
        assert str(CREDITS).encode() not in SHOWING.submitted("wrapped", task, b"")


def test_what_klings_account_pays_is_shown_to_nobody() -> None:
    data = {"task_id": "n1", "task_status": "succeed", "task_result": {"videos": []}, "final_unit_deduction": "3.5"}
    task = a_task("kling.text-to-video", State.SUCCEEDED, {"code": 0, "message": "", "request_id": "r", "data": data})
    told = shown("kling.query", task)
    wrapped = SHOWING.shown(OPERATIONS["runway.feed-get"], task, "https://gateway.test")[1]
    for body in (told, wrapped["data"]["data"]):
        assert "succeed" in str(body)
        assert "3.5" not in str(body)


def test_a_task_that_we_ended_tells_no_estimate_of_its_provider() -> None:
    body = shown("runway.task", a_task("runway.image-to-video", State.CANCELLED, RUNWAY_TOLD[State.RUNNING]))
    assert (body["status"], body["cost"]) == ("CANCELLED", {"credits": 0})
    assert str(CREDITS) not in str(body)


@pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED])
def test_a_task_that_its_route_can_only_call_failed_says_why(state: State) -> None:
    told = {"id": "n1", "state": "dreaming", "failure_reason": None}
    body = shown("luma.query", a_task("luma.generate", state, told, error="The task was cancelled."))
    assert (body["state"], body["failure_reason"]) == ("failed", "The task was cancelled.")
    told = {"id": "n1", "status": "RUNNING"}
    body = shown("runway.task", a_task("runway.image-to-video", State.CANCELLED, told, error="The task was cancelled."))
    assert body["status"] == "CANCELLED"
    assert "failure" not in body
