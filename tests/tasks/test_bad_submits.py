"""Bad submits: a clear 400 each, nothing held, nothing begun, no provider asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from elkapi.relay import asking, large
from elkapi.tasks import record
from tests.tasks.conftest import MODEL, Tasks

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=B"}
VIDEO, VIDEOS, ARK = "/kling/v1/videos/text2video", "/v1/videos", "/volc/v3/contents/generations/tasks"
EFFECTS, VEO = "/kling/v1/videos/effects", "/v1beta/models/veo-3:predictLongRunning"


def part(name: str, value: bytes, kind: bytes = b"") -> bytes:
    head = b'--B\r\nContent-Disposition: form-data; name="%b"\r\n' % name.encode()
    return head + (b"Content-Type: %b\r\n" % kind if kind else b"") + b"\r\n" + value + b"\r\n"


def submit(members: bytes) -> bytes:
    return b'{"model_name":"%b","prompt":"x",%b}' % (MODEL.encode(), members)


def effect(inside: bytes, beside: bytes = b"") -> bytes:
    return b'{"effect_scene":"hug",%b"input":{"model_name":"%b",%b}}' % (beside, MODEL.encode(), inside)


@pytest.mark.parametrize(
    ("path", "headers", "body", "said"),
    [
        (VIDEO, JSON, submit(b'"duration":"5","duration":"10"'), "duplicate_field"),
        (VIDEO, JSON, submit(b'"mode":"std","mod\\u0065":"pro"'), "duplicate_field"),
        (VIDEO, JSON, submit(b'"Duration":"10"'), "`duration`"),
        (ARK, JSON, b'{"model":"m","content":[],"resolution":"480p","re\\u017folution":"1080p"}', "`resolution`"),
        (EFFECTS, JSON, effect(b'"mode":"pro"', b'"mode":"std",'), "`mode`"),
        (EFFECTS, JSON, effect(b'"duration":"10"', b'"duration":5,'), "`duration`"),
        (EFFECTS, JSON, effect(b'"mode":"std","Mode":"pro"'), "`mode`"),
        (EFFECTS, JSON, effect(b'"duration":"10","duration":"5"'), "duplicate_field"),
        (VEO, JSON, b'{"instances":[],"parameters":{"sampleCount":1,"SampleCount":4}}', "`sampleCount`"),
        (VEO, JSON, b'{"instances":[],"parameters":{"sampleCount":4,"sampleC\\u006funt":1}}', "`sampleCount` twice"),
        (VIDEO, JSON, submit(b'"input":{"task_id":"theirs","task_id":"mine"}'), "duplicate_field"),
        (VIDEO, JSON, submit(b'"Video_ID":"theirs"'), "`video_id`"),
        (VIDEO, JSON, submit(b'"input":{"task_id":"mine","Task_Id":"theirs"}'), "`task_id`"),
        (ARK, JSON, b'{"model":"m","content":[{"type":"draft_task","Draft_Task":{"ID":"theirs"}}]}', "`draft_task`"),
        (VIDEO, JSON, submit(b'"a":' + b"[" * 100 + b"]" * 100), "nested too deeply"),
        (VIDEO, JSON, submit(b'"a":' + b"[" * 900 + b"]" * 900), "nested too deeply"),
        (VIDEO, JSON, b"[1]", "Expected `object`"),
        (
            VIDEOS,
            FORM,
            part("prompt", b"x") + part("metadata", b"a") + part("metadata[x]", b"1") + b"--B--",
            "metadata",
        ),
        (VIDEOS, FORM, part("model", b"sora-2") + part("model", b"sora-2-pro") + b"--B--", "duplicate_field"),
        (VIDEOS, FORM, part("prompt", b"x") + part("seconds", b"4") * 2 + b"--B--", "duplicate_field"),
        (
            VIDEOS,
            FORM,
            part("prompt", b"x") + part("input_reference", b"x") * 3 + b"--B--",
            "the first and the last frame",
        ),
        (VIDEOS, FORM, part("prompt", b"\xff\xfe") + b"--B--", "invalid_multipart_form"),
        (VIDEOS, FORM, part("prompt", b"x", b"text/plain; charset=nope") + b"--B--", "invalid_multipart_form"),
        (VIDEOS, FORM, part("prompt", b"x")[:20], "invalid_multipart_form"),
        (VIDEOS, {"content-type": "multipart/form-data"}, part("prompt", b"x") + b"--B--", "boundary"),
    ],
)
async def test_a_body_that_cannot_be_read_one_way_only_is_refused(
    tasks: Tasks, path: str, headers: dict[str, str], body: bytes, said: str
) -> None:
    reply = await sent(tasks, path, headers, body)
    assert reply.status_code == 400, reply.text
    assert said in reply.text
    assert not tasks.upstream.requests
    assert not tasks.rows()
    assert tasks.gate.books().customers_held_nano == 0


async def test_more_names_of_earlier_tasks_than_any_task_has_are_not_looked_up(tasks: Tasks) -> None:
    content = b",".join(b'{"type":"draft_task","draft_task":{"id":"x%d"}}' % number for number in range(100))
    reply = await sent(tasks, ARK, JSON, b'{"model":"m","content":[%b]}' % content)
    assert reply.status_code == 400
    assert "at most 16" in reply.text


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "said"),
    [
        (VIDEO, JSON, submit(b'"duration":"5"'), 200, "submitted"),
        (VIDEO, JSON, submit(b'"duration":"5","duration":"10"'), 400, "duplicate_field"),
        (VIDEOS, FORM, part("model", b"sora-2") + part("model", b"sora-2-pro") + b"--B--", 400, "duplicate_field"),
    ],
)
async def test_a_large_body_is_read_on_a_thread_and_refused_alike(
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    said: str,
) -> None:
    loop_thread = threading.get_ident()
    threads: list[int] = []

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any) -> Any:
            threads.append(threading.get_ident())
            return work(*args)

        return note

    monkeypatch.setattr(large, "INLINE_BYTES", 16)
    for owner, name in ((asking, "_read"), (asking, "asked_for"), (record, "kept_body")):
        monkeypatch.setattr(owner, name, noted(getattr(owner, name)))
    reply = await sent(tasks, path, headers, body)
    assert reply.status_code == status, reply.text
    assert said in reply.text
    assert threads
    assert loop_thread not in threads


async def sent(tasks: Tasks, path: str, headers: dict[str, str], body: bytes) -> Any:
    return await tasks.gate.http.post(path, content=body, headers={**headers, "authorization": f"Bearer {tasks.key}"})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/minimax/v1/query/video_generation", "task_id"),
        ("/v1/files/retrieve", "file_id"),
        ("/v1/video/query", "id"),
        ("/runway/feed", "task_id"),
    ],
)
async def test_a_query_without_an_id_is_told_the_name_that_it_wants(tasks: Tasks, path: str, name: str) -> None:
    reply = await tasks.call("GET", path)
    assert reply.status_code == 400
    assert f"`{name}` is missing" in reply.text
