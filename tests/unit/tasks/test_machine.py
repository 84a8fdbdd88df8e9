"""What a provider's answer says of a task: its state word decides, nothing else does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.catalog import CATALOG
from elkapi.catalog.jsonpath import put
from elkapi.catalog.task import Made, TaskSpec
from elkapi.tasks import machine
from elkapi.types import State

SPECS = {one.task.fetch + one.id: one.task for one in CATALOG.operations if one.task is not None and one.task.state}
LOUD = "failed: error 500, refunded"


def said(spec: TaskSpec, word: str, *, text: str, progress: str) -> Any:
    """An answer with this word of state, this text where errors stand, this progress, and no file."""
    reply: dict[str, Any] = {}
    for path in (spec.state, spec.progress, *spec.error):
        if (listed := path.partition("[")[0]) != path:
            put(listed, reply, [{}])
    for path in spec.error:
        put(path, reply, text)
    if spec.progress:
        put(spec.progress, reply, progress)
    put(spec.state, reply, word)
    return reply


def words(spec: TaskSpec, *states: State) -> list[str]:
    return [word for word, state in spec.states.items() if state in states]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_g71_a_failure_is_known_by_its_state_never_by_its_text_or_progress(spec: TaskSpec) -> None:
    for word in words(spec, State.QUEUED, State.RUNNING):
        if word:
            assert machine.read(spec, said(spec, word, text=LOUD, progress="100%")).state is spec.states[word]
    failed = words(spec, State.FAILED, State.CANCELLED, State.EXPIRED)
    assert failed
    for word in failed:
        assert machine.read(spec, said(spec, word, text="all is well", progress="0%")).state is spec.states[word]
    for word in words(spec, State.SUCCEEDED):
        # Nothing was made: there is nothing to charge for.
        assert machine.read(spec, said(spec, word, text="", progress="100%")).state is State.FAILED
    unknown = machine.read(spec, said(spec, LOUD, text=LOUD, progress="100%"))
    assert (unknown.state, unknown.known) == (State.RUNNING, False)


@pytest.mark.parametrize(
    ("state", "why"),
    [(State.CANCELLED, "was cancelled"), (State.EXPIRED, "in time"), (State.FAILED, "gave no reason")],
)
def test_an_end_without_words_says_what_it_is(state: State, why: str) -> None:
    spec = CATALOG.by_id["seedance.submit"].task
    assert spec is not None
    assert why in machine.read(spec, {"status": state.value, "error": None}).error


@pytest.mark.parametrize("kept_not", ["a\0b", "a\nb", "x" * 2_001, "é" * 1_001])
def test_a_providers_name_that_no_index_of_a_database_can_hold_is_none(kept_not: str) -> None:
    spec = CATALOG.by_id["kling.text-to-video"].task
    assert spec is not None
    assert machine.native_id(spec, {"data": {"task_id": kept_not}}) == ""
    assert machine.native_id(spec, {"data": {"task_id": "x" * 2_000}}) == "x" * 2_000
    made = [{"id": name, "url": "https://a.test/1.mp4"} for name in (kept_not, "v1")]
    reading = machine.read(spec, {"data": {"task_status": "succeed", "task_result": {"videos": made}}})
    assert (reading.state, reading.refs) == (State.SUCCEEDED, ("v1",))


def test_a_providers_code_is_kept_without_what_no_database_keeps() -> None:
    spec = CATALOG.by_id["seedance.submit"].task
    assert spec is not None
    assert machine.read(spec, {"status": "failed", "error": {"code": "a\0b", "message": "no"}}).error_code == "ab"


def spec_of(operation: str) -> TaskSpec:
    spec = CATALOG.by_id[operation].task
    assert spec is not None
    return spec


SORA, KLING, VEO = map(spec_of, ("sora.create", "kling.text-to-video", "veo.predict"))


def test_a_task_that_new_api_knows_nothing_of_yet_is_queued() -> None:
    reading = machine.read(SORA, {"id": "task_1", "status": "unknown", "progress": 0})
    assert (reading.state, reading.known) == (State.QUEUED, True)


@pytest.mark.parametrize(
    ("value", "percent"),
    [
        (37, 37),
        (1, 1),
        (0.37, 37),
        (1.0, 100),
        (1.6, 2),
        ("37", 37),
        (" 37% ", 37),
        # As text it is always percents.
        ("0.6", 1),
        (140, 100),
        (-5, 0),
        ("", None),
        ("soon", None),
        ("nan", None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([50], None),
    ],
)
def test_progress_is_percents_a_share_or_text_and_else_nothing(value: Any, percent: int | None) -> None:
    reading = machine.read(SORA, {"status": "in_progress", "progress": value})
    assert (reading.state, reading.progress) == (State.RUNNING, percent)


@pytest.mark.parametrize(("value", "name"), [("n1", "n1"), (7, "7"), (True, ""), ([], ""), ({"a": 1}, ""), (None, "")])
def test_a_providers_name_is_a_text_or_a_number(value: Any, name: str) -> None:
    assert machine.native_id(KLING, {"data": {"task_id": value}}) == name


def test_what_was_made_is_addresses_and_without_one_that_counts_it_is_a_failure() -> None:
    spec = msgspec.structs.replace(KLING, made=(*KLING.made, Made("data.cover", "image", optional=True)))
    data: dict[str, Any] = {"task_status": "succeed", "cover": "https://a.test/1.png"}
    videos = [{"url": "https://a.test/1.mp4"}, {"url": ""}, {"url": ["no"]}, {"url": 7}]
    reading = machine.read(spec, {"data": {**data, "task_result": {"videos": videos}}})
    assert [value for _, value in reading.made] == ["https://a.test/1.mp4", "7", "https://a.test/1.png"]
    assert (reading.state, reading.known, reading.progress) == (State.SUCCEEDED, True, 100)
    for said, told in (("risk control", "risk control"), (None, machine.NOTHING_MADE)):
        empty = machine.read(spec, {"data": {**data, "task_status_msg": said}})
        assert (empty.state, empty.error_code, empty.error) == (State.FAILED, machine.NO_RESULT, told)


@pytest.mark.parametrize(
    ("name", "reply", "fetched", "refusal"),
    [
        ("kling", {"code": 0}, False, None),
        ("kling", {}, False, None),
        ("kling", {"code": 1301, "message": "unsafe"}, False, ("unsafe", "1301", False, False)),
        ("kling", {"code": 5000}, False, ("The provider refused the request.", "5000", True, False)),
        ("kling", {"code": 1302}, False, ("The provider refused the request.", "1302", True, True)),
        # An account that is at fault is not the caller's.
        *(
            ("kling", {"code": code, "message": "no"}, False, ("no", str(code), True, False))
            for code in (1000, 1004, 1100, 1103, 1304)
        ),
        *(
            ("minimax", {"base_resp": {"status_code": code, "status_msg": "no"}}, False, ("no", str(code), True, busy))
            for code, busy in ((1024, False), (1033, False), (2056, False), (1041, True), (2045, True))
        ),
        (
            "minimax",
            {"base_resp": {"status_code": 2013}},
            False,
            ("The provider refused the request.", "2013", False, False),
        ),
        # Python takes false for 0 as well.
        ("kling", {"code": False}, False, ("The provider refused the request.", "False", False, False)),
        (
            "kling",
            {"code": 1302, "data": {"task_status": "processing"}},
            True,
            ("The provider refused the request.", "1302", True, True),
        ),
        ("kling", {"data": {"task_status": "processing"}}, True, None),
        ("kling", {}, True, ("The provider refused the request.", "None", False, False)),
        # What MiniMax says of a task counts, whatever stands beside it.
        ("minimax", {"status": "Fail", "base_resp": {"status_code": 1026}}, True, None),
        (
            "minimax",
            {"base_resp": {"status_code": 1004}},
            True,
            ("The provider refused the request.", "1004", True, False),
        ),
        ("runway", {"code": 7}, False, None),
    ],
)
def test_an_error_inside_a_success_is_one_where_it_tells_nothing_of_a_task(
    name: str, reply: Any, fetched: bool, refusal: tuple[str, str, bool, bool] | None
) -> None:
    spec = {"kling": KLING, "minimax": spec_of("minimax.generate")}.get(name)
    found = machine.refused(CATALOG.families[name], reply, spec if fetched else None)
    assert (None if found is None else (found.message, found.code, found.elsewhere, found.busy)) == refusal


def test_a_submit_that_is_answered_with_its_end_is_told_as_one_that_waits() -> None:
    videos = [{"id": "v", "url": "https://a.test/1.mp4"}, {"id": "w"}]
    told = machine.reopened(KLING, {"data": {"task_status": "succeed", "task_result": {"videos": videos}}})
    made = [{"id": "v", "url": None}, {"id": "w", "url": None}]
    assert told == {"data": {"task_status": "submitted", "task_result": {"videos": made}}}
    assert machine.reopened(KLING, {"data": {"task_id": "1"}}) == {"data": {"task_id": "1"}}
    assert machine.reopened(VEO, {"name": "n", "done": True}) == {"name": "n", "done": False}
    # What is only an id says nothing that is not to be known yet.
    by_id = msgspec.structs.replace(SORA, made=(Made("file", via="GET /files/{value}"),), states={"": State.QUEUED})
    assert machine.reopened(by_id, {"status": "completed", "file": "f"}) == {"status": "completed", "file": "f"}
