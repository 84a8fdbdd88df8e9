"""One step of a task is one event for each address, in the form of the route that the caller used."""

from __future__ import annotations

import msgspec

from elkapi.ids import event_id_text
from elkapi.tasks.notices import Callback, form_of, notices_of
from elkapi.types import Notice
from tests.unit.tasks.test_callback_forms import a_view

TASK_ID = bytes(range(16))


def told(*callbacks: Callback, version: int = 3) -> tuple[Notice, ...]:
    return notices_of(
        a_view("kling"),
        task_id=TASK_ID,
        version=version,
        key_id=1,
        owner_id=2,
        callbacks=callbacks,
        neutral=lambda view: {"id": view.id},
        now_ns=5,
        retry_s=2.0,
    )


def test_each_address_has_an_event_of_its_own_and_the_same_step_the_same_id() -> None:
    both = (Callback("https://a.example.test/", "kling"), Callback("https://b.example.test/"))
    shaped, standard = told(*both)
    assert msgspec.json.decode(shaped.body)["task_id"] == "n1"
    assert msgspec.json.decode(standard.body)["type"] == "task.succeeded"
    assert (shaped.url, shaped.until_ns) == ("https://a.example.test/", 2_000_000_005)
    ids = [event_id_text(notice.task_id, notice.place, notice.number) for notice in (shaped, standard)]
    assert len(set(ids)) == 2
    assert told(*both) == (shaped, standard)
    assert told(*both, version=4)[0].number == 4
    assert told() == ()


def test_a_providers_own_route_is_told_in_its_shape() -> None:
    assert form_of(a_view("kling")) == "kling"
    assert form_of(a_view("ark-video")) == "ark"
    assert form_of(msgspec.structs.replace(a_view("kling"), form="neutral")) == "standard"
    assert form_of(a_view("veo")) == "standard"
