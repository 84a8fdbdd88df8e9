"""What goes wrong with tasks on request, at every provider alike: words nobody knows, files that are lost, codes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.catalog.jsonpath import first
from elkapi.sandbox.app import Options, create
from elkapi.sandbox.tasks import ODD

BEARER = {"authorization": "Bearer sk-any"}
RAW = {"authorization": "raw-key"}
RUNWAY = {**BEARER, "x-runway-version": "2024-11-06"}
GOOGLE = {"x-goog-api-key": "AIza-any"}
VERTEX = "/v1/projects/p/locations/l/publishers/google/models/veo-3.1-generate-001"
CALLBACK = "https://callbacks.example/"


class Case(msgspec.Struct, frozen=True):
    """A task of one provider: how it is begun and asked about, where its word stands, and where its file is.

    `running` and `done` are the words beside the odd one; no `word` where states have none. `file` is where the file's
    address stands, or the address itself.
    """

    submit: str
    body: Callable[[str], dict[str, Any]]
    id: str
    fetch: str
    word: str
    running: str
    done: str
    file: str
    headers: dict[str, str] = msgspec.field(default_factory=lambda: BEARER)
    missing: int = 404


CASES = {
    "openai": Case("/v1/videos", lambda text: {"prompt": text}, "id", "/v1/videos/{id}",
                   "status", "in_progress", "completed", "/v1/videos/{id}/content"),
    "veo": Case("/v1beta/models/veo-3.1-generate-preview:predictLongRunning",
                lambda text: {"instances": [{"prompt": text}]}, "name", "/v1beta/{id}", "", "", "",
                "response.generateVideoResponse.generatedSamples[0].video.uri", GOOGLE, missing=403),
    "ark": Case("/api/v3/contents/generations/tasks",
                lambda text: {"model": "doubao-seedance-1-0-pro-250528", "content": [{"type": "text", "text": text}]},
                "id", "/api/v3/contents/generations/tasks/{id}", "status", "running", "succeeded",
                "content.video_url"),
    "kling": Case("/kling/v1/videos/text2video", lambda text: {"prompt": text}, "data.task_id",
                  "/kling/v1/videos/text2video/{id}", "data.task_status", "processing", "succeed",
                  "data.task_result.videos[0].url"),
    "luma": Case("/dream-machine/v1/generations", lambda text: {"prompt": text}, "id",
                 "/dream-machine/v1/generations/{id}", "state", "dreaming", "completed", "assets.video"),
    "minimax": Case("/minimax/v1/video_generation", lambda text: {"model": "T2V-01", "prompt": text}, "task_id",
                    "/minimax/v1/query/video_generation?task_id={id}", "status", "Processing", "Success", "file_id"),
    "runway": Case("/runway/v1/text_to_video",
                   lambda text: {"model": "veo3.1", "promptText": text, "ratio": "1280:720"}, "id",
                   "/runway/v1/tasks/{id}", "status", "RUNNING", "SUCCEEDED", "output[0]", RUNWAY),
    "sora": Case("/sora/v1/videos", lambda text: {"prompt": text}, "data", "/sora/v1/videos/{id}", "data.status",
                 "IN_PROGRESS", "SUCCESS", "data.data.generations[0].url"),
    "pika": Case("/pika/generate",
                 lambda text: {"promptText": text, "options": {"parameters": {}, "extend": False}}, "id",
                 "/pika/feed/{id}", "videos[0].status", "pending", "finished", "videos[0].resultUrl"),
    "duomi-runway": Case("/api/video/runway/pro/act_one",
                         lambda text: {"video": CALLBACK, "image": CALLBACK, "callback_url": CALLBACK, "note": text},
                         "data.task_id", "/api/video/runway/feed?task_id={id}", "data.state", "running", "succeeded",
                         "data.video_url", RAW),
    "duomi-pika": Case("/api/video/pika/pro/generate",
                       lambda text: {"prompt": text, "style": "Melt", "options": {}, "callback_url": CALLBACK},
                       "data.task_id", "/api/video/pika/feed?task_id={id}", "data.state", "running", "succeeded",
                       "data.video_url", RAW),
}  # fmt: skip
WORDED = [name for name, case in CASES.items() if case.word]


class Sandbox:
    """A sandbox whose clock only a test moves, and a task of one provider in it."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0
        self.sandbox = create(Options(now=lambda: self.now_s))
        transport = httpx.ASGITransport(app=self.sandbox)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        self.case: Case
        self.id = ""

    async def begin(self, name: str, fault: str) -> None:
        self.case = case = CASES[name]
        body = case.body(f"a boat [sandbox: task-queued=0s, task-takes=2s, {fault}]")
        reply = await self.http.post(case.submit, json=body, headers=case.headers)
        assert reply.status_code in (200, 201), reply.text
        self.id = str(first(case.id, reply.json()))

    async def shown(self) -> Any:
        reply = await self.http.get(self.case.fetch.format(id=self.id), headers=self.case.headers)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def word_at(self, after_s: float) -> Any:
        """Its word so long after its submit."""
        self.now_s = 1_700_000_000.0 + after_s
        return first(self.case.word, await self.shown())

    async def file_at(self, after_s: float) -> httpx.Response:
        self.now_s = 1_700_000_000.0 + after_s
        url = self.case.file.format(id=self.id)
        if not url.startswith("/"):
            url = str(first(url, await self.shown()))
        if self.case.file == "file_id":
            asked = await self.http.get(f"/minimax/v1/files/retrieve?file_id={url}", headers=self.case.headers)
            url = asked.json()["file"]["download_url"]
        return await self.http.get(url, headers=self.case.headers)

    def billed(self) -> int:
        return self.sandbox.bill.statement().lines_total


@pytest.fixture
async def one() -> AsyncIterator[Sandbox]:
    served = Sandbox()
    async with served.http:
        yield served


@pytest.mark.parametrize("name", WORDED)
async def test_a_task_stands_for_a_while_at_a_word_that_nobody_knows(one: Sandbox, name: str) -> None:
    await one.begin(name, "task-odd=3s")
    assert await one.word_at(1.0) == one.case.running
    assert str(await one.word_at(2.0)).lower() == ODD
    assert str(await one.word_at(4.9)).lower() == ODD
    assert one.billed() == 0
    assert await one.word_at(5.0) == one.case.done
    assert one.billed() == 1
    assert (await one.file_at(5.0)).status_code == 200


@pytest.mark.parametrize("name", WORDED)
async def test_a_word_that_nobody_knows_can_come_before_a_failure(one: Sandbox, name: str) -> None:
    await one.begin(name, "task-odd=3s, task-fails")
    assert str(await one.word_at(3.0)).lower() == ODD
    assert await one.word_at(5.0) not in (None, one.case.running, one.case.done)
    assert one.billed() == 0


@pytest.mark.parametrize("name", CASES)
async def test_a_file_is_lost_for_a_while_and_billed_all_the_same(one: Sandbox, name: str) -> None:
    await one.begin(name, "file-lost=5s")
    lost = await one.file_at(6.9)
    assert lost.status_code == one.case.missing, lost.text
    assert one.billed() == 1
    found = await one.file_at(7.0)
    assert (found.status_code, found.content[4:8]) == (200, b"ftyp")


@pytest.mark.parametrize("name", CASES)
async def test_a_file_is_lost_for_ever(one: Sandbox, name: str) -> None:
    await one.begin(name, "file-lost")
    # Until its address ends, where it is one of those.
    assert (await one.file_at(86_400.0)).status_code == one.case.missing
    assert one.billed() == 1


async def test_minimax_refuses_the_bytes_of_a_lost_file_inside_a_success(one: Sandbox) -> None:
    await one.begin("minimax", "file-lost")
    one.now_s += 10.0
    file_id = (await one.shown())["file_id"]
    reply = await one.http.get(f"/minimax/v1/files/retrieve_content?file_id={file_id}", headers=BEARER)
    assert (reply.status_code, reply.json()["base_resp"]["status_code"]) == (200, 2013)


async def test_vertex_has_no_file_to_lose_and_no_word(one: Sandbox) -> None:
    headers = {"authorization": "Bearer ya29.any"}
    body = {"instances": [{"prompt": "[sandbox: task-queued=0s, task-takes=0s, file-lost]"}]}
    begun = await one.http.post(f"{VERTEX}:predictLongRunning", json=body, headers=headers)
    asked = {"operationName": begun.json()["name"]}
    done = await one.http.post(f"{VERTEX}:fetchPredictOperation", json=asked, headers=headers)
    assert done.json()["response"]["videos"]


@pytest.mark.parametrize(
    ("name", "code", "path", "message"),
    [
        ("kling", 1102, "code", "message"),
        ("kling", 1999, "code", "message"),
        ("minimax", 1008, "base_resp.status_code", "base_resp.status_msg"),
        ("duomi-pika", 500, "code", "msg"),
    ],
)
async def test_a_code_is_a_refusal_inside_a_success(
    one: Sandbox, name: str, code: int, path: str, message: str
) -> None:
    case = CASES[name]
    for method, url, content in (
        ("POST", case.submit, case.body("a boat")),
        ("GET", case.fetch.format(id="1"), None),
    ):
        headers = {**case.headers, "x-sandbox-fault": f"code={code}"}
        reply = await one.http.request(method, url, json=content, headers=headers)
        assert (reply.status_code, first(path, reply.json())) == (200, code)
        assert first(message, reply.json())
    assert not one.sandbox.store.begun


async def test_a_refusal_inside_a_success_has_its_requests_id_at_kling(one: Sandbox) -> None:
    reply = await one.http.get(CASES["kling"].fetch, headers={**BEARER, "x-sandbox-fault": "code=1302"})
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(("fault", "status"), [("status=429, code=1303", 429), ("retry-after=1, code=1303", 429)])
async def test_a_code_beside_a_status_keeps_the_status(one: Sandbox, fault: str, status: int) -> None:
    reply = await one.http.get(CASES["kling"].fetch, headers={**BEARER, "x-sandbox-fault": fault})
    assert (reply.status_code, reply.json()["code"]) == (status, 1303)


async def test_a_code_alone_means_nothing_where_refusals_have_a_status(one: Sandbox) -> None:
    reply = await one.http.post(
        "/pika/generate", json=CASES["pika"].body("x"), headers={**BEARER, "x-sandbox-fault": "code=1"}
    )
    assert reply.status_code == 200
