"""A failure's words without who the provider is and what our account there has left, whatever shape they come in."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.tasks import machine, wording
from elkapi.tasks.showing import spec_of
from elkapi.translate.task_views import readdressed
from elkapi.types import Channel, ChannelKey, State
from tests.unit.tasks.test_showing import OPERATIONS, a_task

KEY = ChannelKey(1, "AK-of-ours|SK-of-ours")
ACCOUNT = (Channel(1, "east", "kling", "https://render.provider.example", keys=(KEY,), models=("m",)), KEY)


@pytest.mark.parametrize(
    "said",
    [
        "no face at render.provider.example",
        {"reason": "no face", "at": "render.provider.example", "key": KEY.secret},
        [{"text": "no face"}, ["see https://render.provider.example/help"], 7, None],
    ],
)
def test_a_failure_names_no_provider_and_no_key_in_whatever_shape_it_is_said(said: Any) -> None:
    task = a_task("kling.text-to-video", State.RUNNING, {})
    spec = spec_of(OPERATIONS, task)
    reply = {"code": 0, "data": {"task_id": "n1", "task_status": "failed", "task_status_msg": said}}
    told = readdressed(reply, wording.unfit(spec, reply, task, ACCOUNT))
    for shown in (str(told), machine.read(spec, told).error):
        assert "no face" in shown
        assert "render.provider" not in shown
        assert KEY.secret not in shown


def test_words_that_name_nobody_are_told_as_they_are() -> None:
    task = a_task("kling.text-to-video", State.RUNNING, {})
    reply = {"data": {"task_status": "failed", "task_status_msg": "no face"}}
    assert wording.unfit(spec_of(OPERATIONS, task), reply, task, ACCOUNT) == {}
