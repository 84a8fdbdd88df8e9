"""Asking a task's provider: what is noted where nobody answers."""

from __future__ import annotations

import pytest

from elkapi.catalog import CATALOG, Role
from elkapi.clock import ManualClock
from elkapi.settings import Settings
from elkapi.tasks.asking import Way, asked
from elkapi.tasks.request import Signer
from elkapi.types import Channel, ChannelKey
from elkapi.upstream import Send, UpstreamReply, UpstreamRequest
from elkapi.upstream.gcp import TokenSource
from elkapi.upstream.wire import fields_of

SUBMIT = next(one for one in CATALOG.operations if one.family == "kling" and one.role is Role.SUBMIT)


class _Reply(UpstreamReply):
    """A reply whose body is here already."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        super().__init__()
        self.status, self._rest = status, body
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.fields = fields_of(self.headers)

    async def _pull(self) -> bytes:
        return b""

    def cancel(self) -> None: ...


def _way(send: Send) -> Way:
    clock = ManualClock()
    return Way(Settings(), Signer(TokenSource(send, clock), clock), send, CATALOG.family_of, clock)


async def _nobody(request: UpstreamRequest) -> UpstreamReply:
    raise AssertionError(f"{request.target!r} was asked")


async def test_a_poll_that_nobody_answers_is_one_event_in_the_log_whatever_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stranger = Channel(1, "east", "openai", "https://upstream.example", keys=(), models=("m",))
    with caplog.at_level("INFO", "elkapi.tasks"):
        assert await asked(_way(_nobody), SUBMIT, (stranger, ChannelKey(1, "secret")), "GET /{id}", {"id": "1"}) == 0.0
    (line,) = caplog.records
    assert line.getMessage() == "task_poll_unanswered"
    assert vars(line)["error"] == "the channel east does not speak kling"


GOOD = b'{"code": 0, "data": {"task_id": "1", "task_status": "processing"}}'


@pytest.mark.parametrize(
    ("reply", "heard"),
    [
        (_Reply(200, GOOD), ({"code": 0, "data": {"task_id": "1", "task_status": "processing"}}, GOOD)),
        (_Reply(404, b"{}"), None),
        (_Reply(429, GOOD, retry_after="7"), 7.0),
        (_Reply(503, b""), 0.0),
        (_Reply(200, b"<html>"), 0.0),
        (_Reply(200, b'{"code": 1302, "message": "too fast"}'), 0.0),
    ],
    ids=["good", "absent", "asks to be left alone", "away", "no JSON", "refused within a success"],
)
async def test_an_answer_is_heard_a_wait_is_kept_and_what_is_no_answer_says_nothing_of_the_task(
    reply: _Reply, heard: object
) -> None:
    sent: list[UpstreamRequest] = []

    async def send(request: UpstreamRequest) -> UpstreamReply:
        sent.append(request)
        return reply

    kling = Channel(1, "east", "kling", "https://upstream.example", keys=(), models=("m",))
    values = {"id": "a/b", "submit": "/v1/videos/text2video"}
    assert await asked(_way(send), SUBMIT, (kling, ChannelKey(1, "AK|SK")), "GET {submit}/{id}", values) == heard
    assert (sent[0].method, sent[0].target, sent[0].body) == (b"GET", b"/v1/videos/text2video/a%2Fb", b"")
