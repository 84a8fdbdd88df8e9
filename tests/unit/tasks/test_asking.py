"""Asking a task's provider: what is noted where nobody answers."""

from __future__ import annotations

import pytest

from elkapi.catalog import CATALOG, Role
from elkapi.clock import ManualClock
from elkapi.settings import Settings
from elkapi.tasks.asking import Way, asked
from elkapi.tasks.request import Signer
from elkapi.types import Channel, ChannelKey
from elkapi.upstream import UpstreamReply, UpstreamRequest
from elkapi.upstream.gcp import TokenSource


async def _nobody(request: UpstreamRequest) -> UpstreamReply:
    raise AssertionError(f"{request.target!r} was asked")


async def test_a_poll_that_nobody_answers_is_one_event_in_the_log_whatever_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    submit = next(one for one in CATALOG.operations if one.family == "kling" and one.role is Role.SUBMIT)
    stranger = Channel(1, "east", "openai", "https://upstream.example", keys=(), models=("m",))
    clock = ManualClock()
    way = Way(Settings(), Signer(TokenSource(_nobody, clock), clock), _nobody, CATALOG.family_of, clock)
    with caplog.at_level("INFO", "elkapi.tasks"):
        assert await asked(way, submit, (stranger, ChannelKey(1, "secret")), "GET /{id}", {"id": "1"}) == 0.0
    (line,) = caplog.records
    assert line.getMessage() == "task_poll_unanswered"
    assert vars(line)["error"] == "the channel east does not speak kling"
