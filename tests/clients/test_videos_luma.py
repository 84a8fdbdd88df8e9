"""The official lumaai package, unmodified: generations created, read, listed, extended, changed and deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import lumaai
import pytest
from lumaai import AsyncLumaAI, LumaAI
from lumaai.types import Generation

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

WAIT_S = 60.0
PICTURE = "https://pictures.example/a.png"


@pytest.fixture
def client(origin: Origin) -> Iterator[LumaAI]:
    base_url = origin.base_url + "/dream-machine/v1"
    with LumaAI(auth_token=origin.keys["luma"], base_url=base_url, max_retries=0) as client:
        yield client


def ended(client: LumaAI, generation: Generation) -> Generation:
    deadline_s = time.monotonic() + WAIT_S
    while generation.state not in ("completed", "failed"):
        assert generation.state in ("queued", "dreaming")
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
        generation = client.generations.get(str(generation.id))
    return generation


def made(client: LumaAI, prompt: str = "fox in tall grass") -> Generation:
    return ended(client, client.generations.create(prompt=prompt, model="ray-2"))


def content(generation: Generation) -> bytes:
    assert generation.assets is not None
    url = generation.assets.video or generation.assets.image
    assert url is not None
    return httpx.get(url).content


def test_a_video_is_made_and_downloaded(client: LumaAI) -> None:
    begun = client.generations.create(
        prompt="fox", model="ray-2", aspect_ratio="16:9", duration="9s", resolution="1080p", loop=True
    )
    assert (begun.state, begun.assets, begun.model) == ("queued", None, "ray-2")
    done = ended(client, begun)
    assert (done.state, done.failure_reason) == ("completed", None)
    assert content(done)[4:8] == b"ftyp"


def test_pictures_are_made(client: LumaAI) -> None:
    begun = client.generations.image.create(prompt="fox", model="photon-1", format="png")
    assert content(ended(client, begun)).startswith(b"\x89PNG")
    reframed = client.generations.image.reframe(
        generation_type="reframe_image", media={"url": PICTURE}, model="photon-1", aspect_ratio="1:1"
    )
    assert ended(client, reframed).state == "completed"


def test_a_video_is_extended_changed_and_given_a_sound(client: LumaAI) -> None:
    source = str(made(client).id)
    longer = client.generations.create(
        prompt="on", model="ray-2", keyframes={"frame0": {"type": "generation", "id": source}}
    )
    larger = client.generations.upscale(source, resolution="4k")
    louder = client.generations.audio(source, prompt="wind")
    changed = client.generations.video.modify(
        generation_type="modify_video", media={"url": PICTURE}, model="ray-2", mode="flex_1"
    )
    for generation in (longer, larger, louder, changed):
        assert generation.id != source
        assert ended(client, generation).state == "completed"


def test_generations_are_listed_and_deleted(client: LumaAI) -> None:
    ids = [str(made(client).id) for _ in range(2)]
    page = client.generations.list(limit=1, offset=1)
    assert [generation.id for generation in page.generations] == [ids[0]]
    client.generations.delete(ids[0])
    with pytest.raises(lumaai.NotFoundError):
        client.generations.get(ids[0])


@pytest.mark.parametrize("fault", ["task-fails", "task-moderated"])
def test_a_failed_generation_tells_why(client: LumaAI, fault: str) -> None:
    failed = made(client, f"[sandbox: {fault}]")
    assert (failed.state, failed.assets) == ("failed", None)
    assert failed.failure_reason


def test_what_cannot_be_made_is_refused(client: LumaAI, origin: Origin) -> None:
    # A model that no channel serves is the gateway's own to refuse.
    model: Any = "ray-9"
    with pytest.raises(lumaai.InternalServerError if origin.is_gateway else lumaai.BadRequestError):
        client.generations.create(prompt="fox", model=model)
    with pytest.raises(lumaai.BadRequestError):
        client.generations.create(model="ray-2")
    with pytest.raises(lumaai.NotFoundError):
        client.generations.upscale("00000000-0000-4000-8000-000000000000")


async def test_the_asynchronous_client_makes_a_video_too(origin: Origin) -> None:
    base_url = origin.base_url + "/dream-machine/v1"
    async with AsyncLumaAI(auth_token=origin.keys["luma"], base_url=base_url, max_retries=0) as client:
        generation = await client.generations.create(prompt="fox", model="ray-flash-2")
        deadline_s = time.monotonic() + WAIT_S
        while generation.state != "completed":
            assert time.monotonic() < deadline_s
            generation = await client.generations.get(str(generation.id))
