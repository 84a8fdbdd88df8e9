"""Volcengine's own Ark package, unmodified: Seedance tasks created, read, listed, cancelled and deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from volcenginesdkarkruntime import Ark, AsyncArk
from volcenginesdkarkruntime._exceptions import ArkBadRequestError, ArkNotFoundError
from volcenginesdkarkruntime.types.content_generation.content_generation_task import ContentGenerationTask

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

MODEL = "doubao-seedance-1-5-pro-251215"
WAIT_S = 60.0
ENDED = ("succeeded", "failed", "cancelled", "expired")


@pytest.fixture
def client(origin: Origin) -> Iterator[Ark]:
    with Ark(base_url=origin.base_url + "/api/v3", api_key=origin.keys["ark"], max_retries=0) as client:
        yield client


def text(prompt: str) -> list[Any]:
    return [{"type": "text", "text": prompt}]


def finished(client: Ark, task_id: str) -> ContentGenerationTask:
    deadline_s = time.monotonic() + WAIT_S
    while (task := client.content_generation.tasks.get(task_id=task_id)).status not in ENDED:
        assert task.status in ("queued", "running")
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return task


def made(client: Ark, prompt: str = "tea over ice", **fields: Any) -> ContentGenerationTask:
    return finished(client, client.content_generation.tasks.create(model=MODEL, content=text(prompt), **fields).id)


def test_a_task_succeeds_with_its_values_and_its_tokens(client: Ark) -> None:
    task = made(client, resolution="720p", ratio="16:9", duration=5, seed=11, generate_audio=True)
    assert (task.status, task.error) == ("succeeded", None)
    assert (task.resolution, task.ratio, task.duration, task.framespersecond, task.seed) == ("720p", "16:9", 5, 24, 11)
    assert (task.usage.completion_tokens, task.usage.total_tokens) == (108_900, 108_900)
    content = httpx.get(task.content.video_url).content
    assert content[4:8] == b"ftyp"


def test_the_last_frame_comes_along_when_it_is_asked_for(client: Ark) -> None:
    task = made(client, return_last_frame=True)
    assert httpx.get(task.content.last_frame_url).content.startswith(b"\x89PNG")


def test_pictures_and_the_switches_of_an_old_model_are_taken(client: Ark) -> None:
    frame = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}, "role": "first_frame"}
    content: list[Any] = [*text("a boat --rs 480p --dur 4 --ratio 1:1"), frame]
    created = client.content_generation.tasks.create(model="doubao-seedance-1-0-pro-250528", content=content)
    task = finished(client, created.id)
    assert (task.resolution, task.ratio, task.duration) == ("480p", "1:1", 4)


def test_tasks_are_listed_by_what_they_are(client: Ark) -> None:
    ids = [made(client, f"boat {number}").id for number in range(2)]
    failed = made(client, "[sandbox: task-fails]").id
    chosen = client.content_generation.tasks.list(task_ids=[*ids, failed], status="succeeded")
    assert (chosen.total, [task.id for task in chosen.items]) == (2, ids[::-1])
    page = client.content_generation.tasks.list(task_ids=[*ids, failed], page_num=2, page_size=1)
    assert (page.total, [task.id for task in page.items]) == (3, [ids[1]])


def test_a_queued_task_is_cancelled_and_an_ended_one_deleted(client: Ark) -> None:
    created = client.content_generation.tasks.create(model=MODEL, content=text("[sandbox: task-queued=60s]"))
    client.content_generation.tasks.delete(created.id)
    assert client.content_generation.tasks.get(task_id=created.id).status == "cancelled"
    task = made(client)
    client.content_generation.tasks.delete(task.id)
    with pytest.raises(ArkNotFoundError):
        client.content_generation.tasks.get(task_id=task.id)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("task-fails", "failed", "InternalServiceError"),
        ("task-moderated", "failed", "OutputVideoSensitiveContentDetected"),
        ("task-expires", "expired", None),
    ],
)
def test_a_task_may_end_otherwise(client: Ark, fault: str, status: str, code: str | None) -> None:
    task = made(client, f"[sandbox: {fault}]")
    assert task.status == status
    assert (task.error.code if task.error else None) == code
    assert task.usage is None or not task.usage.completion_tokens


def test_what_is_not_there_is_not_found(client: Ark, origin: Origin) -> None:
    with pytest.raises(ArkNotFoundError) as refused:
        client.content_generation.tasks.get(task_id="cgt-20260101000000-none0")
    assert refused.value.code == "ResourceNotFound"
    if origin.is_gateway:
        return  # A model that no channel serves is the gateway's own to refuse.
    with pytest.raises(ArkNotFoundError) as refused:
        client.content_generation.tasks.create(model="no-such-model", content=text("boats"))
    assert refused.value.code == "InvalidEndpointOrModel.NotFound"


@pytest.mark.parametrize("fields", [{"duration": 99}, {"ratio": "2:1"}, {"resolution": "4k"}, {"service_tier": "x"}])
def test_what_cannot_be_made_is_refused(client: Ark, fields: dict[str, Any]) -> None:
    with pytest.raises(ArkBadRequestError) as refused:
        client.content_generation.tasks.create(model=MODEL, content=text("boats"), **fields)
    assert (refused.value.code, refused.value.param) == ("InvalidParameter", next(iter(fields)))


async def test_the_asynchronous_client_makes_a_video_too(origin: Origin) -> None:
    async with AsyncArk(base_url=origin.base_url + "/api/v3", api_key=origin.keys["ark"], max_retries=0) as client:
        created = await client.content_generation.tasks.create(model=MODEL, content=text("boats"))
        deadline_s = time.monotonic() + WAIT_S
        while (task := await client.content_generation.tasks.get(task_id=created.id)).status not in ENDED:
            assert time.monotonic() < deadline_s
        assert task.status == "succeeded"
