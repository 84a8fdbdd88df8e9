"""The official google-genai package, unmodified, with Veo: operations begun, awaited and downloaded, Gemini and Vertex.

Since its third version the package begins videos at Vertex only, while it still asks after those of the Gemini API and
downloads them; there the submit is made by hand, as the package's second version did.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2 import credentials

from elkapi.sandbox.pictures import png
from tests.clients.video_origins import Origin

# The package's own asynchronous session is a subclass that aiohttp advises against.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]

MODEL = "veo-3.0-generate-001"
FRAME = {"bytesBase64Encoded": base64.b64encode(png("frame")).decode(), "mimeType": "image/png"}
WAIT_S = 60.0


def client_of(origin: Origin, platform: str) -> genai.Client:
    if platform == "gemini":
        options: Any = {"base_url": origin.base_url, "api_version": "v1beta"}
        return genai.Client(api_key=origin.keys["gemini"], http_options=options)
    token = credentials.Credentials(origin.keys["vertex"])
    place: dict[str, Any] = {"project": "p", "location": "us-central1"}
    return genai.Client(vertexai=True, credentials=token, http_options={"base_url": origin.base_url}, **place)


@pytest.fixture
def gemini(origin: Origin) -> Iterator[genai.Client]:
    client = client_of(origin, "gemini")
    yield client
    client.close()


@pytest.fixture
def vertex(origin: Origin) -> Iterator[genai.Client]:
    """Straight at the sandbox alone: a gateway's callers ask in the Gemini API's form, whoever makes the video."""
    if origin.is_gateway:
        pytest.skip("Vertex's own paths are a provider's, not the gateway's")
    client = client_of(origin, "vertex")
    yield client
    client.close()


def submitted(
    origin: Origin, prompt: str, model: str = MODEL, instance: dict[str, Any] | None = None, **parameters: Any
) -> httpx.Response:
    body = {"instances": [{"prompt": prompt, **(instance or {})}], "parameters": parameters}
    url = f"{origin.base_url}/v1beta/models/{model}:predictLongRunning"
    return httpx.post(url, json=body, headers={"x-goog-api-key": origin.keys["gemini"]})


def begun(origin: Origin, prompt: str, **fields: Any) -> types.GenerateVideosOperation:
    answer = submitted(origin, prompt, **fields)
    assert answer.status_code == 200, answer.text
    return types.GenerateVideosOperation.model_validate({"name": answer.json()["name"]})


def asked(client: genai.Client, prompt: str, **config: Any) -> types.GenerateVideosOperation:
    return client.models.generate_videos(
        model=MODEL,
        source=types.GenerateVideosSource(prompt=prompt),
        config=types.GenerateVideosConfig(**config),
    )


def finished(client: genai.Client, operation: types.GenerateVideosOperation) -> types.GenerateVideosOperation:
    """The operation once it is done, asked for as the package's own documentation does."""
    deadline_s = time.monotonic() + WAIT_S
    while not operation.done:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
        operation = client.operations.get(operation)
    return operation


def videos(operation: types.GenerateVideosOperation) -> list[types.GeneratedVideo]:
    assert operation.error is None
    assert operation.response is not None
    return operation.response.generated_videos or []


def test_a_video_of_the_gemini_api_is_awaited_and_downloaded(
    origin: Origin, gemini: genai.Client, tmp_path: Path
) -> None:
    operation = begun(origin, "a lighthouse in fog")
    assert (operation.name or "").startswith(f"models/{MODEL}/operations/")
    (made,) = videos(finished(gemini, operation))
    content = gemini.files.download(file=made)
    assert content[4:8] == b"ftyp"
    assert made.video is not None
    made.video.save(str(tmp_path / "video.mp4"))
    assert (tmp_path / "video.mp4").read_bytes() == content


def test_the_address_of_a_video_wants_the_key(origin: Origin, gemini: genai.Client) -> None:
    (made,) = videos(finished(gemini, begun(origin, "a lighthouse")))
    assert made.video is not None
    assert made.video.uri is not None
    assert httpx.get(made.video.uri).status_code in (401, 403)
    sent = {"x-goog-api-key": origin.keys["gemini"], "range": "bytes=4-7"}
    part = httpx.get(made.video.uri, headers=sent)
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_settings_pictures_and_an_earlier_video_are_taken(origin: Origin, gemini: genai.Client) -> None:
    operation = begun(
        origin,
        "it turns",
        instance={"image": FRAME, "lastFrame": FRAME},
        sampleCount=2,
        durationSeconds=6,
        aspectRatio="9:16",
        resolution="720p",
        negativePrompt="rain",
        personGeneration="allow_adult",
    )
    made = videos(finished(gemini, operation))
    assert len(made) == 2
    assert made[0].video is not None
    longer = begun(origin, "and on", instance={"video": {"uri": made[0].video.uri}})
    assert len(videos(finished(gemini, longer))) == 1


def test_vertex_answers_the_bytes_themselves(vertex: genai.Client) -> None:
    operation = asked(vertex, "a lighthouse", seed=7, generate_audio=False, number_of_videos=2)
    assert not operation.done
    made = videos(finished(vertex, operation))
    assert len(made) == 2
    assert made[0].video is not None
    assert made[0].video.mime_type == "video/mp4"
    assert (made[0].video.video_bytes or b"")[4:8] == b"ftyp"


@pytest.mark.parametrize("platform", ["gemini", "vertex"])
def test_a_filtered_video_is_done_without_samples(
    origin: Origin, platform: str, request: pytest.FixtureRequest
) -> None:
    for done in (ended(origin, platform, request, "[sandbox: task-moderated]"),):
        assert videos(done) == []
        assert done.response is not None
        assert done.response.rai_media_filtered_count == 1
        assert done.response.rai_media_filtered_reasons


@pytest.mark.parametrize("platform", ["gemini", "vertex"])
def test_a_failed_operation_carries_its_error(origin: Origin, platform: str, request: pytest.FixtureRequest) -> None:
    for done in (ended(origin, platform, request, "[sandbox: task-fails]"),):
        assert done.error is not None
        assert done.error["code"] == 13
        assert done.error["message"]


@pytest.mark.parametrize("platform", ["gemini", "vertex"])
def test_what_is_not_there_is_not_found(origin: Origin, platform: str, request: pytest.FixtureRequest) -> None:
    client: genai.Client = request.getfixturevalue(platform)
    place = f"projects/p/locations/us-central1/publishers/google/models/{MODEL}"
    name = f"models/{MODEL}" if platform == "gemini" else place
    with pytest.raises(errors.ClientError) as refused:
        client.operations.get(types.GenerateVideosOperation.model_validate({"name": f"{name}/operations/unknown"}))
    assert refused.value.code == 404
    # What no channel of a gateway's serves is its own to say.
    expected = 503 if origin.is_gateway else 404
    assert submitted(origin, "boats", model="veo-9.9-generate-001").status_code == expected


@pytest.mark.parametrize(
    "parameters",
    [{"durationSeconds": 5}, {"aspectRatio": "1:1"}, {"resolution": "8k"}, {"seed": 1}, {"sampleCount": 9}],
)
def test_what_cannot_be_made_is_refused(origin: Origin, parameters: dict[str, Any]) -> None:
    answer = submitted(origin, "boats", **parameters)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_vertex_words_its_refusals_for_the_package(vertex: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as refused:
        asked(vertex, "boats", duration_seconds=5)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


def ended(origin: Origin, platform: str, request: pytest.FixtureRequest, prompt: str) -> types.GenerateVideosOperation:
    client: genai.Client = request.getfixturevalue(platform)
    return finished(client, begun(origin, prompt) if platform == "gemini" else asked(client, prompt))


async def test_the_asynchronous_client_awaits_and_downloads_too(origin: Origin) -> None:
    client = client_of(origin, "gemini")
    operation = begun(origin, "fog", model="veo-3.1-fast-generate-preview")
    deadline_s = time.monotonic() + WAIT_S
    while not operation.done:
        assert time.monotonic() < deadline_s
        operation = await client.aio.operations.get(operation)
    (made,) = videos(operation)
    assert (await client.aio.files.download(file=made))[4:8] == b"ftyp"
    await client.aio.aclose()
    client.close()
