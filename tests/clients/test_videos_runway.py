"""The official runwayml package, unmodified: tasks begun, awaited, cancelled and deleted, files uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import runwayml
from runwayml import AsyncRunwayML, RunwayML, TaskFailedError
from runwayml.types import ImageToVideoCreateResponse

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

PICTURE = "https://pictures.example/a.png"
FIELDS: dict[str, Any] = {"model": "gen4_turbo", "prompt_image": PICTURE, "ratio": "1280:720", "duration": 5}


@pytest.fixture
def client(origin: Origin) -> Iterator[RunwayML]:
    with RunwayML(api_key=origin.keys["runway"], base_url=origin.base_url + "/runwayml", max_retries=0) as client:
        yield client


def test_a_video_is_made_and_downloaded(client: RunwayML, origin: Origin) -> None:
    task = client.image_to_video.create(**FIELDS, prompt_text="waves roll in")
    credits = 0 if origin.is_gateway else 25
    assert ImageToVideoCreateResponse.model_validate(task.to_dict()).estimated_cost.credits == credits
    done = task.wait_for_task_output()
    assert done.status == "SUCCEEDED"
    assert done.cost.credits == credits
    assert httpx.get(done.output[0]).content[4:8] == b"ftyp"


# The package sleeps five seconds and more before it asks again, so these wait side by side.


def test_other_tasks_make_files_of_their_own(client: RunwayML) -> None:
    said: dict[str, Any] = {"prompt_text": "a"}
    tasks = [
        (client.text_to_video.create(model="veo3.1", ratio="1280:720", duration=8, **said), b"\0\0\0"),
        (client.text_to_image.create(model="gen4_image", ratio="1280:720", **said), b"\x89PNG"),
        (client.sound_effect.create(model="eleven_text_to_sound_v2", **said), b"RIFF"),
    ]
    with ThreadPoolExecutor(len(tasks)) as threads:
        ends = list(threads.map(lambda begun: begun[0].wait_for_task_output(), tasks))
    for done, (_, start) in zip(ends, tasks, strict=True):
        assert httpx.get(done.output[0]).content.startswith(start)


def test_a_failed_task_is_an_exception(client: RunwayML) -> None:
    codes = {"task-fails": "INTERNAL.BAD_OUTPUT.CODE01", "task-moderated": "SAFETY.OUTPUT.VIDEO"}

    def code_of(fault: str) -> object:
        with pytest.raises(TaskFailedError) as failed:
            client.image_to_video.create(**FIELDS, prompt_text=f"[sandbox: {fault}]").wait_for_task_output()
        assert failed.value.task_details.status == "FAILED"
        return failed.value.task_details.to_dict()["failureCode"]

    with ThreadPoolExecutor(len(codes)) as threads:
        assert list(threads.map(code_of, codes)) == list(codes.values())


def test_a_deleted_task_is_gone(client: RunwayML) -> None:
    task = client.image_to_video.create(**FIELDS, prompt_text="[sandbox: task-queued=60s]")
    assert client.tasks.retrieve(task.id).status == "PENDING"
    client.tasks.delete(task.id)
    with pytest.raises(runwayml.NotFoundError):
        client.tasks.retrieve(task.id)


def test_a_file_is_uploaded_and_used(client: RunwayML, origin: Origin) -> None:
    if origin.is_gateway:
        pytest.skip("the sandbox inside a gateway has no address of its own to upload to; the census uploads to one")
    uploaded = client.uploads.create_ephemeral(file=("a.png", b"\x89PNG", "image/png"))
    assert uploaded.uri.startswith("runway://")
    client.image_to_video.create(**{**FIELDS, "prompt_image": uploaded.uri})


@pytest.mark.parametrize("fields", [{"duration": 99}, {"ratio": "1:1"}, {"prompt_image": "ftp://nowhere"}])
def test_what_cannot_be_made_is_refused(client: RunwayML, fields: dict[str, Any]) -> None:
    with pytest.raises(runwayml.BadRequestError):
        client.image_to_video.create(**{**FIELDS, **fields})


async def test_the_asynchronous_client_awaits_a_video_too(origin: Origin) -> None:
    async with AsyncRunwayML(
        api_key=origin.keys["runway"], base_url=origin.base_url + "/runwayml", max_retries=0
    ) as client:
        done = await (await client.image_to_video.create(**FIELDS)).wait_for_task_output()
        assert done.status == "SUCCEEDED"
