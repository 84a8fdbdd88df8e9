"""The official openai package, unmodified: videos made, awaited, listed, downloaded, remixed, extended and deleted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Video

from elkapi.sandbox.pictures import png
from tests.clients.video_origins import Origin

# The package marks every method of its videos deprecated, for OpenAI's own service has ended; the dialect lives on.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")]

MODEL = "sora-2"


@pytest.fixture
def client(origin: Origin) -> Iterator[OpenAI]:
    with OpenAI(api_key=origin.keys["openai"], base_url=origin.base_url + "/v1", max_retries=0) as client:
        yield client


def made(client: OpenAI, prompt: str = "paper boats", **fields: Any) -> Video:
    video = client.videos.create_and_poll(prompt=prompt, model=MODEL, poll_interval_ms=50, **fields)
    assert video.status == "completed", video
    return video


def mp4_seconds(content: bytes) -> float:
    """The length that the header of a video tells."""
    at = content.index(b"mvhd") + 4
    timescale, duration = struct.unpack(">II", content[at + 12 : at + 20])
    return float(duration) / float(timescale)


def test_a_video_is_queued_then_made(client: OpenAI) -> None:
    video = client.videos.create(prompt="paper boats on a canal")
    assert (video.object, video.model, video.seconds, video.size) == ("video", MODEL, "4", "720x1280")
    assert (video.status, video.progress, video.error) == ("queued", 0, None)
    done = client.videos.poll(video.id)
    assert (done.id, done.status, done.progress) == (video.id, "completed", 100)
    assert done.completed_at is not None
    assert done.expires_at is not None
    assert done.created_at <= done.completed_at < done.expires_at


def test_a_video_is_as_long_as_it_was_asked_for(client: OpenAI) -> None:
    video = made(client, seconds="8", size="1280x720")
    content = client.videos.download_content(video.id).read()
    assert content[4:8] == b"ftyp"
    assert mp4_seconds(content) == pytest.approx(8, abs=0.1)


@pytest.mark.parametrize(("variant", "start"), [("thumbnail", b"RIFF"), ("spritesheet", b"\xff\xd8\xff")])
def test_pictures_of_a_video_can_be_downloaded(client: OpenAI, variant: Any, start: bytes) -> None:
    video = made(client)
    content = client.videos.download_content(video.id, variant=variant).read()
    assert content.startswith(start)


def test_a_part_of_a_video_can_be_downloaded(client: OpenAI) -> None:
    video = made(client)
    whole = client.videos.download_content(video.id).read()
    part = client.videos.download_content(video.id, extra_headers={"Range": "bytes=4-7"})
    assert part.response.status_code == 206
    assert part.read() == whole[4:8]


def test_a_first_frame_is_sent_as_a_file(client: OpenAI) -> None:
    video = made(client, input_reference=("first.png", png("first", 720, 1280), "image/png"))
    assert video.size == "720x1280"


def test_a_video_that_is_not_there_yet_cannot_be_downloaded(client: OpenAI) -> None:
    video = client.videos.create(prompt="slow boats")
    with pytest.raises(openai.BadRequestError):
        client.videos.download_content(video.id)


def test_a_remix_names_its_source(client: OpenAI) -> None:
    source = made(client, seconds="8", size="1280x720")
    remix = client.videos.remix(source.id, prompt="the same at night")
    assert (remix.remixed_from_video_id, remix.seconds, remix.size) == (source.id, "8", "1280x720")
    assert client.videos.poll(remix.id, poll_interval_ms=50).status == "completed"


def test_edits_and_extensions_start_from_a_file(client: OpenAI) -> None:
    # The package for Python sends a video as a file only; the one for Node also names one by its id.
    source = ("source.mp4", client.videos.download_content(made(client).id).read(), "video/mp4")
    edited = client.videos.edit(prompt="in red", video=source)
    assert client.videos.poll(edited.id, poll_interval_ms=50).status == "completed"
    extended = client.videos.extend(prompt="and on", seconds="8", video=source)
    assert extended.seconds == "12"
    assert client.videos.poll(extended.id, poll_interval_ms=50).status == "completed"


def test_a_character_can_be_read_again(client: OpenAI) -> None:
    content = client.videos.download_content(made(client).id).read()
    character = client.videos.create_character(name="Ada", video=("ada.mp4", content, "video/mp4"))
    assert character.name == "Ada"
    assert character.id is not None
    assert client.videos.get_character(character.id).to_dict() == character.to_dict()


def test_videos_are_listed_page_by_page(client: OpenAI) -> None:
    ids = [client.videos.create(prompt=f"boat {number}").id for number in range(3)]
    newest = [video.id for video, _ in zip(client.videos.list(limit=2), range(3), strict=False)]
    assert newest == ids[::-1]
    after = client.videos.list(after=ids[1], order="asc", limit=1)
    assert [video.id for video in after.data] == [ids[2]]
    assert after.has_more is False


def test_a_deleted_video_is_gone(client: OpenAI) -> None:
    video = made(client)
    deleted = client.videos.delete(video.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (video.id, "video.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)


def test_a_refused_prompt_is_a_failed_video(client: OpenAI) -> None:
    video = client.videos.create_and_poll(prompt="[sandbox: task-moderated]", model=MODEL, poll_interval_ms=50)
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == "moderation_blocked"


def test_a_failed_video_tells_why(client: OpenAI) -> None:
    video = client.videos.create_and_poll(prompt="[sandbox: task-fails]", model=MODEL, poll_interval_ms=50)
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.message


def test_what_is_not_there_is_not_found(client: OpenAI) -> None:
    for call in (client.videos.retrieve, client.videos.download_content, client.videos.delete):
        with pytest.raises(openai.NotFoundError):
            call("video_0000")
    with pytest.raises(openai.NotFoundError):
        client.videos.remix("video_0000", prompt="again")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seconds": "5"}, "seconds"),
        ({"size": "1x1"}, "size"),
        ({"size": "1792x1024"}, "size"),
        ({"prompt": ""}, "prompt"),
        ({"input_reference": ("a.txt", b"text", "text/plain")}, "input_reference"),
    ],
)
def test_what_cannot_be_made_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(**{"prompt": "boats", "model": MODEL, **fields})
    assert refused.value.param == param


async def test_the_asynchronous_client_makes_a_video_too(origin: Origin) -> None:
    async with AsyncOpenAI(api_key=origin.keys["openai"], base_url=origin.base_url + "/v1", max_retries=0) as client:
        video = await client.videos.create_and_poll(prompt="boats", model="sora-2-pro", size="1024x1792")
        assert (video.status, video.size) == ("completed", "1024x1792")
        content = await client.videos.download_content(video.id)
        assert (await content.aread())[4:8] == b"ftyp"
        assert (await client.videos.delete(video.id)).deleted
