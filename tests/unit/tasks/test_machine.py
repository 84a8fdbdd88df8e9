"""What a provider's answer says of a task: its state word decides, nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.catalog import CATALOG
from elkapi.catalog.jsonpath import put
from elkapi.catalog.task import TaskSpec
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
