"""What is kept of a task's request, and how its callers see it: no pictures, and their own names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.tasks.record import TEXT_CHARS_KEPT_MAX, Asked, Told, in_callers_words, kept_body
from elkapi.types import Price, State, Usage
from tests.unit.tasks.test_showing import a_task

LONG = "a" * (TEXT_CHARS_KEPT_MAX + 1)


def asked(**fields: Any) -> Asked:
    price = Price(id=1, model="m", version=1)
    named: dict[str, Any] = {
        "body": {},
        "group": "default",
        "price": price,
        "accounts": (1,),
        "upper": Usage(calls=1),
    } | fields
    return Asked(ratio_micro=1_000_000, held_nano=0, **named)


def test_a_request_is_kept_without_what_is_too_long_to_be_words() -> None:
    words = LONG[:-1]
    body = {"prompt": words, "image": LONG, "n": 2, "sound": True, "images": [LONG, {"url": "short", "data": LONG}]}
    cut = "a" * 64 + "..."
    assert kept_body(body) == {
        "prompt": words,
        "image": cut,
        "n": 2,
        "sound": True,
        "images": [cut, {"url": "short", "data": cut}],
    }
    assert body["image"] == LONG


@pytest.mark.parametrize(
    ("own_mark", "shown"),
    [("mine", b'{"external_task_id":"mine","prompt":"of task_1"}'), ("", b'{"external_task_id":"task_1"}')],
)
def test_a_caller_reads_its_own_name_of_a_task_in_the_place_of_ours(own_mark: str, shown: bytes) -> None:
    said = shown.replace(b'"mine"', b'"task_1"')
    assert in_callers_words(asked(mark="task_1", own_mark=own_mark), said) == shown


def test_a_view_has_the_name_of_the_model_that_was_asked_for_and_the_length_of_one_of_what_is_made() -> None:
    task = a_task("kling.text-to-video", State.RUNNING, {"data": {}})
    upper = Usage(calls=2, video_ms=8_000, audio_ms=2_000)
    task = msgspec.structs.replace(task, asked=asked(upper=upper), told=Told(upstream_model="theirs"))
    view = task.view()
    assert (view.model, view.renamed, view.asked_ms, view.reply) == ("m", True, 5_000, b"")
    view = msgspec.structs.replace(task, asked=asked(asked_model="alias"), told=Told(upstream_model="alias")).view()
    assert (view.model, view.renamed, view.asked_ms) == ("alias", False, 0)
    assert not msgspec.structs.replace(task, told=Told()).view().renamed
