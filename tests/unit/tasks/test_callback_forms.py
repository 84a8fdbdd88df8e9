"""Bodies of callbacks: a provider's own answer in its callback's shape, with our addresses, also before it answered."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from elkapi.catalog.families import ark, duomi, kling, luma, minimax, runway
from elkapi.catalog.task import TaskSpec
from elkapi.tasks.callback_forms import SHAPES, body
from elkapi.tasks.showing import word_of
from elkapi.translate.task_views import readdressed, rendered
from elkapi.types import NoticeForm, State, TaskAsset, TaskView

THEIRS, OURS = "https://cdn.provider.test/v.mp4", "https://gateway.test/v1/assets/a/v.mp4"
S_NS = 1_000_000_000
NATIVE: dict[str, Any] = {
    "kling": {
        "code": 0,
        "message": "SUCCEED",
        "data": {
            "task_id": "n1",
            "task_status": "succeed",
            "task_status_msg": "",
            "created_at": 1_790_000_000_000,
            "updated_at": 1_790_000_060_000,
            "task_result": {"videos": [{"id": "v1", "url": THEIRS, "duration": "5"}]},
        },
    },
    "minimax": {
        "task_id": "n1",
        "status": "Success",
        "file_id": "42",
        "file": {"download_url": THEIRS},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    },
    "runway": {"id": "n1", "status": "SUCCEEDED", "createdAt": "2026-01-01T00:00:00.000Z", "output": [THEIRS]},
    "luma": {"id": "n1", "state": "completed", "assets": {"video": THEIRS}, "failure_reason": None},
    "ark": {"id": "n1", "status": "succeeded", "content": {"video_url": THEIRS}, "usage": {"total_tokens": 9}},
    "duomi": {"code": 200, "msg": "", "data": {"task_id": "n1", "state": "succeeded", "video_url": THEIRS}},
    "sora": {"id": "n1", "status": "completed"},
    "guide": {"id": "n1", "status": "completed"},
}
SPECS: dict[str, TaskSpec] = {
    "kling": kling.VIDEO,
    "minimax": minimax.TASK,
    "runway": runway.TASK,
    "luma": luma.TASK,
    "ark": ark.TASK,
    "duomi": duomi.RUNWAY_TASK,
}
WORDS: dict[NoticeForm, tuple[str, set[str]]] = {
    "kling": ("task_status", {"submitted", "processing", "succeed", "failed"}),
    "minimax": ("status", {"processing", "success", "failed"}),
    "runway": ("status", {"PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"}),
    "luma": ("state", {"queued", "dreaming", "completed", "failed"}),
    "ark": ("status", {"queued", "running", "succeeded", "failed", "cancelled", "expired"}),
    "duomi": ("state", {"pending", "running", "succeeded", "error"}),
    "sora": ("status", {"QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"}),
    "guide": ("status", {"queued", "in_progress", "completed", "failed"}),
}


def a_view(form: str, **fields: Any) -> TaskView:
    view = TaskView(
        id="task_" + "a" * 32,
        native_id="n1",
        operation="x",
        wire=form,
        model="m",
        state=State.SUCCEEDED,
        progress=100,
        created_ns=1_790_000_000 * S_NS,
        started_ns=1_790_000_010 * S_NS,
        finished_ns=1_790_000_060 * S_NS,
        assets=(TaskAsset(id=b"a", kind="video", content_type="video/mp4", size_bytes=1, source=THEIRS, url=OURS),),
        reply=msgspec.json.encode(readdressed(NATIVE.get(form, {}), {THEIRS: OURS})),
    )
    return msgspec.structs.replace(view, **fields)


def said(form: NoticeForm, view: TaskView) -> dict[str, Any]:
    word = word_of(SPECS[form], view.state) if form in SPECS else ""
    decoded = msgspec.json.decode(body(form, view, word or ""))
    assert isinstance(decoded, dict)
    return decoded


def test_every_form_has_a_shape() -> None:
    assert set(get_args(NoticeForm)) == set(SHAPES) == {"standard", *NATIVE}
    assert set(NATIVE) == set(WORDS)


def test_the_standard_event_names_what_happened() -> None:
    view = a_view("kling")
    assert said("standard", view) == {
        "type": "task.succeeded",
        "timestamp": "2026-09-21T14:14:20.000Z",
        "data": rendered("neutral", view),
    }


@pytest.mark.parametrize("form", SHAPES)
def test_a_finished_tasks_callback_carries_our_addresses(form: NoticeForm) -> None:
    assert OURS.encode() in body(form, a_view(form), "")


@pytest.mark.parametrize("form", WORDS)
@pytest.mark.parametrize("state", State)
def test_every_state_has_a_word_of_the_provider_also_before_it_answered(form: NoticeForm, state: State) -> None:
    where, words = WORDS[form]
    for reply in (b"", a_view(form).reply, b"[]"):
        shown = said(form, a_view(form, state=state, reply=reply, error="refused", finished_ns=0))
        assert shown[where] in words
        # Who was answered with our id is told of it by that.
        named = "task_" + "a" * 32 if form in ("sora", "guide") else "n1"
        assert named in (shown.get("task_id"), shown.get("id"))


def test_kling_is_the_bare_task_with_times_in_milliseconds() -> None:
    task = said("kling", a_view("kling"))
    assert "code" not in task
    assert task["task_result"]["videos"] == [{"id": "v1", "url": OURS, "duration": "5"}]
    told = msgspec.json.encode({"code": 0, "data": {"task_status": "failed", "task_status_msg": "moderated"}})
    assert said("kling", a_view("kling", reply=told, state=State.FAILED)) == {
        "task_id": "n1",
        "task_status": "failed",
        "task_status_msg": "moderated",
        "task_info": {},
        "created_at": 1_790_000_000_000,
        "updated_at": 1_790_000_060_000,
    }


@pytest.mark.parametrize("info", [None, [], "x", {"parent_video": None}, {"parent_video": "x"}])
def test_klings_task_info_may_be_anything(info: object) -> None:
    task = msgspec.json.decode(a_view("kling").reply)
    task["data"]["task_info"] = info
    told = said("kling", a_view("kling", reply=msgspec.json.encode(task)))
    assert (told["task_status"], told["task_info"]) == ("succeed", info)


def test_minimax_says_what_its_query_says_in_lower_case() -> None:
    assert said("minimax", a_view("minimax")) == {
        "task_id": "n1",
        "status": "success",
        "file_id": "42",
        "file": {"download_url": OURS},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    }


def test_a_failure_says_why_where_no_query_would() -> None:
    failed = {form: said(form, a_view(form, reply=b"", state=State.FAILED, error="refused")) for form in WORDS}
    assert failed["duomi"]["msg"] == failed["sora"]["fail_reason"] == "refused"


def test_forms_of_ours_tell_what_their_fetch_shows() -> None:
    shown = said("sora", a_view("sora", asked={"notify_hook": "https://hooks.test/"}))
    assert (shown["status"], shown["progress"], shown["finish_time"]) == ("SUCCESS", "100%", 1_790_000_060)
    assert (shown["data"]["generations"][0]["url"], shown["notify_hook"]) == (OURS, "https://hooks.test/")
    assert "code" not in shown
    guide = said("guide", a_view("guide"))
    assert (guide["object"], guide["status"], guide["output"]) == ("task", "completed", {"urls": [OURS]})


def test_duomi_is_the_feeds_data_with_times_as_text() -> None:
    shown = said("duomi", a_view("duomi"))
    assert (shown["create_time"], shown["update_time"], shown["video_url"]) == ("1790000000", "1790000060", OURS)
    assert "code" not in shown
