"""The front around a call: what its caller, the log and the count are told of each way to end."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from elkapi.access.cache import KeyCache
from elkapi.clock import ManualClock
from elkapi.edge import front
from elkapi.edge.front import REASON_CHARACTERS_MAX, Front, dialect_of
from elkapi.errors import BadRequest, GatewayError, ModelForbidden, NoChannel, NoPrice, Unavailable
from elkapi.relay.call import Call, ClientGone
from elkapi.relay.relay import Failed, Left
from elkapi.settings import Settings
from elkapi.types import Grant

KEY = "sk-" + "A" * 48
ID = bytes(range(16))


class Answered:
    """A front whose calls end with `fault`, and what it said of the last one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: BaseException, **settings: Any) -> None:
        async def ends(*_: object) -> None:
            raise fault

        monkeypatch.setattr(front, "serve", ends)
        self.clock, self.lines = ManualClock(), list[dict[str, Any]]()
        self.counted: Counter[tuple[str, int]] = Counter()
        plane: Any = SimpleNamespace(
            settings=Settings(**settings),
            clock=self.clock,
            log=SimpleNamespace(write=self._write),
            metrics=SimpleNamespace(requests=self.counted),
            key_cache=KeyCache(10),
        )
        self.plane = plane
        self.key_digest: bytes | None = None
        self.ready: str | None = None
        self.front = Front(plane, lambda: self.ready)
        self.reply = Mock(started=False, common=b"")

    def _write(self, event: str, level: str = "info", /, **fields: Any) -> None:
        self.lines.append({"event": event, "level": level, **fields})

    async def asks(self, path: str = "/v1/embeddings", method: str = "POST", **headers: str) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        call = Call(ID, method, path, "", named, "10.0.0.1", b"", self.reply, self.clock.monotonic_s())
        call.memo.key_digest = self.key_digest
        self.clock.advance(0.25)
        await self.front(call)


@pytest.mark.parametrize(
    ("fault", "status", "code", "told"),
    [
        (BadRequest("It is wrong."), 400, "invalid_request", ("refused", "info")),
        (GatewayError("It broke."), 500, "internal_error", ("error", "warning")),
        (Unavailable("It is away."), 503, "service_unavailable", ("error", "warning")),
        (RuntimeError("a bug"), 500, "internal_error", ("error", "warning")),
    ],
)
async def test_an_error_is_answered_counted_and_logged_without_a_callers_key(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int, code: str, told: tuple[str, str]
) -> None:
    one = Answered(monkeypatch, fault, trusted_proxies=("10.0.0.0/8",))
    await one.asks(f"/v1/{KEY}/embeddings", x_forwarded_for="192.0.2.7")
    ((answered, _, body),) = [sent.args for sent in one.reply.send.call_args_list]
    assert (answered, msgspec.json.decode(body)["error"]["code"]) == (status, code)
    assert b"a bug" not in body
    assert one.counted == {("rejected", status): 1}
    *before, line = one.lines
    assert line == {
        "event": told[0],
        "level": told[1],
        "request_id": "req_" + ID.hex(),
        "method": "POST",
        "path": "/v1/sk-AAAA...AAAA/embeddings",
        "status": status,
        "code": code,
        "client_ip": "192.0.2.7",
        "ms": 250.0,
    }
    if isinstance(fault, GatewayError):
        assert before == []
    else:
        assert [(said["event"], said["level"], said["request_id"]) for said in before] == [
            ("unexpected", "error", "req_" + ID.hex())
        ]
        assert "RuntimeError: a bug" in before[0]["trace"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (NoChannel("No channel serves the model 'gpt-9'."), "No channel serves the model 'gpt-9'."),
        (NoPrice("The model 'gpt-9' has no price."), "The model 'gpt-9' has no price."),
        (ModelForbidden("This API key may not use the model 'gpt-9'."), "This API key may not use the model 'gpt-9'."),
        (NoChannel("x" * 1000), "x" * REASON_CHARACTERS_MAX),
        # Its message may quote the body.
        (BadRequest("The field 'secret' is wrong."), None),
    ],
)
async def test_the_log_says_whose_call_was_refused_and_which_model_it_lacked(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, reason: str | None
) -> None:
    one, digest = Answered(monkeypatch, fault), b"d" * 32
    one.plane.key_cache.put(digest, Grant(7, "tina", 1, "default", "live", (), None, None, True), 0, 0.0)
    for one.key_digest in (digest, b"e" * 32):
        await one.asks()
    assert [(line.get("key_id"), line.get("reason")) for line in one.lines] == [(7, reason), (None, reason)]


@pytest.mark.parametrize("fault", [BadRequest("It is wrong."), RuntimeError("a bug"), Failed(Unavailable("Away."), ())])
async def test_a_started_answer_is_cut_off_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    one = Answered(monkeypatch, fault)
    one.reply.started = True
    await one.asks()
    assert one.reply.abort.call_count == 1
    assert not one.reply.send.called
    assert not one.reply.finish.called


async def test_a_stream_that_broke_ends_with_its_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Answered(monkeypatch, Failed(Unavailable("Away."), (), farewell=b"data: error"))
    one.reply.started = True
    await one.asks()
    one.reply.finish.assert_called_once_with(b"data: error")
    assert not one.reply.abort.called


@pytest.mark.parametrize(
    ("fault", "raised", "is_logged"),
    [
        (ClientGone(), ClientGone, True),
        (asyncio.CancelledError(), asyncio.CancelledError, True),
        # It has its own record, and a line of that.
        (Left((), Mock(), started=True), ClientGone, False),
    ],
)
async def test_a_client_that_left_is_answered_nothing(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException, raised: type[BaseException], is_logged: bool
) -> None:
    one, ended = Answered(monkeypatch, fault), list[type[BaseException]]()
    try:
        await one.asks()
    except (ClientGone, asyncio.CancelledError) as error:
        ended.append(type(error))
    assert ended == [raised]
    assert [(line["event"], line["status"], line["code"]) for line in one.lines] == [
        ("refused", 499, "client_gone")
    ] * is_logged
    assert one.counted == ({("rejected", 499): 1} if is_logged else {})
    assert [one.reply.send.called, one.reply.finish.called, one.reply.abort.called] == [False] * 3


@pytest.mark.parametrize(("reason", "expected"), [(None, (200, b"ready\n")), ("no database", (503, b"no database\n"))])
async def test_a_worker_says_whether_it_is_ready_and_else_why_not(
    monkeypatch: pytest.MonkeyPatch, reason: str | None, expected: tuple[int, bytes]
) -> None:
    one = Answered(monkeypatch, RuntimeError("It is no call."))
    one.ready = reason
    await one.asks("/readyz", "GET")
    status, _, body = one.reply.send.call_args.args
    assert (status, body) == expected


@pytest.mark.parametrize(
    ("path", "headers", "names"),
    [
        ("/v1/embeddings", {}, [b"x-request-id", b"x-oneapi-request-id"]),
        ("/v1/messages", {}, [b"x-request-id", b"x-oneapi-request-id", b"request-id"]),
        ("/v1/models", {"anthropic_version": "1"}, [b"x-request-id", b"x-oneapi-request-id", b"request-id"]),
    ],
)
async def test_each_answer_names_its_request_where_clients_look_for_it(
    monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str], names: list[bytes]
) -> None:
    one = Answered(monkeypatch, BadRequest("It is wrong."))
    await one.asks(path, **headers)
    assert one.reply.common == b"".join(name + b": req_" + ID.hex().encode() + b"\r\n" for name in names)


@pytest.mark.parametrize(
    ("method", "path", "dialect"),
    [
        ("POST", "/v1/embeddings", "openai"),
        ("POST", "/anthropic/v1/messages", "anthropic"),
        ("GET", "/v1beta/models", "gemini"),
        ("POST", "/v1beta/openai/chat/completions", "openai"),
        ("POST", "/v1/models/gemini-2.5-pro:generateContent", "gemini"),
        ("GET", "/v1/models/gpt-4o", "openai"),
        ("POST", "/kling/v1/videos/text2video", "kling"),
        ("POST", "/runwayml/v1/text_to_video", "runway"),
        ("POST", "/runway/v1/pro/generate", "task"),
        ("POST", "/dream-machine/v1/generations", "luma"),
        ("POST", "/v1/video_generation", "minimax"),
        ("POST", "/api/v3/contents/generations/tasks", "ark"),
        ("POST", "/v1/video/generations", "task"),
        ("GET", "/v1/tasks/x", "task"),
    ],
)
def test_an_error_is_in_the_dialect_of_its_path(method: str, path: str, dialect: str) -> None:
    assert dialect_of(Call(ID, method, path, "", [], "", b"", Mock(), 0.0)) == dialect
