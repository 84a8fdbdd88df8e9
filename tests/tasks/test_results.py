"""From a submit to a file: polled, copied into our store, shown by our address, and there for who has it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from elkapi.admin.context import Admin
from elkapi.admin.tasks import list_tasks
from elkapi.control.tasking import MakeCopier, opened_poller, polling
from elkapi.money import parse_usd
from elkapi.roles import WorkerOrder
from elkapi.storage.repos.tasks import task_id_text
from elkapi.tasks.results import AssetCopier
from tests.assets import media
from tests.tasks.conftest import MODEL, Tasks
from tests.tasks.provider import Provider
from tests.tasks.test_rows import AT_ONCE, Caller, serving
from tests.waiting import until

MAKE: MakeCopier = AssetCopier


async def test_a_finished_task_has_its_file_at_our_address(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    film = media.mp4(5000, 1280, 720)
    answer = Provider.answer
    monkeypatch.setattr(
        Provider, "answer", lambda self, *asked: (200, film) if "/files/" in asked[1] else answer(self, *asked)
    )
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    order = WorkerOrder(settings=tasks.gate.plane.settings)
    async with opened_poller(order, tasks.gate.installation, MAKE) as poller, polling(poller):
        await tasks.until("succeeded")
    shown = (await tasks.call("GET", f"/kling/v1/videos/text2video/{task_id}")).json()
    url = shown["data"]["task_result"]["videos"][0]["url"]
    assert url.startswith(f"{tasks.gate.origin}/v1/assets/")
    assert tasks.upstream.origin not in str(shown)
    assert (await tasks.gate.http.get(url)).content == film


@pytest.mark.parametrize("status", [403, 400])
async def test_an_address_that_expired_before_its_copy_is_asked_for_anew(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """What it made is there, and billed: stores answer 403 or (Google's) 400 to an address signed too long ago."""
    monkeypatch.setattr("elkapi.tasks.polls.COPY_AGAIN_FIRST_S", 0.01)
    answer, asked_for = Provider.answer, 0

    def expiring(self: Provider, method: str, path: str, body: object) -> object:
        nonlocal asked_for
        if "/files/" not in path:
            return answer(self, method, path, body)
        asked_for += 1
        return (status, b"Request has expired") if asked_for == 1 else (200, media.mp4(5000, 1280, 720))

    monkeypatch.setattr(Provider, "answer", expiring)
    tasks.upstream.succeed((await tasks.submit()).json()["data"]["task_id"])
    order = WorkerOrder(settings=tasks.gate.plane.settings)
    async with opened_poller(order, tasks.gate.installation, MAKE) as poller, polling(poller):
        await tasks.until("succeeded")
    assert tasks.gate.books().loss_nano == 0


async def test_a_poster_that_is_the_video_once_more_is_neither_kept_nor_charged(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from gateways that know no `variant` of a video's content."""
    video = {"id": "v1", "object": "video", "seconds": "8", "size": "1280x720", "created_at": 1}

    def answer(self: Provider, method: str, path: str, body: object) -> object:
        if "/content" in path:
            return 200, media.mp4(4000, 1280, 720)
        return 200, {**video, "status": "queued" if method == "POST" else "completed"}

    monkeypatch.setattr(Provider, "answer", answer)
    await tasks.gate.channel(tasks.upstream.origin, ("sora-2",), family="new-api")
    await tasks.gate.price("sora-2", per_second_usd="0.10")
    asked = {"model": "sora-2", "prompt": "a dog", "seconds": "8", "size": "1280x720"}
    task_id = (await tasks.call("POST", "/v1/videos", asked)).json()["id"]
    order = WorkerOrder(settings=tasks.gate.plane.settings)
    async with opened_poller(order, tasks.gate.installation, MAKE) as poller, polling(poller):
        await tasks.until("succeeded")
    assert [one["type"] for one in (await tasks.call("GET", f"/v1/tasks/{task_id}")).json()["output"]] == ["video"]
    books = tasks.gate.books()
    assert (books.charged_nano, books.loss_nano) == (parse_usd("0.40"), 0)


async def test_a_thumbnail_of_luma_that_does_not_come_costs_its_caller_no_video(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Provider, method: str, path: str, body: object) -> object:
        if "/files/" in path:
            return (404, {}) if "thumb" in path else (200, media.mp4(5000, 1280, 720))
        generation = {"id": "l1", "state": "queued", "model": "ray-2", "created_at": "2026-11-22T09:00:00Z"}
        if method == "POST":
            return 201, generation
        files = {name: f"{self.origin}/files/{file}" for name, file in (("video", "a.mp4"), ("image", "thumb.jpg"))}
        return 200, {**generation, "state": "completed", "assets": files}

    monkeypatch.setattr(Provider, "answer", answer)
    await tasks.gate.channel(tasks.upstream.origin, ("ray-2",), family="luma")
    await tasks.gate.price("ray-2", per_second_usd="0.10")
    asked = {"model": "ray-2", "prompt": "a dog", "duration": "5s"}
    assert (await tasks.call("POST", "/dream-machine/v1/generations", asked)).status_code == 201
    order = WorkerOrder(settings=tasks.gate.plane.settings)
    async with opened_poller(order, tasks.gate.installation, MAKE) as poller, polling(poller):
        await tasks.until("succeeded")
    shown = (await tasks.call("GET", "/dream-machine/v1/generations/l1")).json()["assets"]
    assert (shown["image"], shown["video"].startswith(tasks.gate.origin)) == (None, True)
    assert tasks.gate.books().charged_nano == parse_usd("0.50")


async def test_a_copy_with_a_watermark_is_at_our_address_too_and_costs_nothing(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, film = Provider.answer, media.mp4(5000, 1280, 720)
    monkeypatch.setattr(
        Provider, "answer", lambda self, *asked: (200, film) if "/files/" in asked[1] else answer(self, *asked)
    )
    await tasks.gate.price(MODEL, per_second_usd="0.01")
    asked = {"model_name": MODEL, "prompt": "a dog", "duration": "10", "watermark_info": {"enabled": True}}
    task_id = (await tasks.submit(asked)).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    (video,) = tasks.upstream.tasks[task_id]["task_result"]["videos"]
    video["watermark_url"] = f"{tasks.upstream.origin}/files/marked.mp4"
    order = WorkerOrder(settings=tasks.gate.plane.settings)
    async with opened_poller(order, tasks.gate.installation, MAKE) as poller, polling(poller):
        await tasks.until("succeeded")
    shown = (await tasks.call("GET", f"/kling/v1/videos/text2video/{task_id}")).json()["data"]
    (video,) = shown["task_result"]["videos"]
    assert video["url"] != video["watermark_url"]
    assert (await tasks.gate.http.get(video["watermark_url"])).content == film
    assert tasks.upstream.origin not in str(shown)
    books = tasks.gate.books()
    assert (books.charged_nano, books.loss_nano) == (parse_usd("0.05"), 0)


async def test_a_store_that_fails_ends_no_task_and_is_told_to_the_operator(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, settings = Provider.answer, tasks.gate.plane.settings
    admin = Admin(tasks.gate.installation, "test")
    monkeypatch.setattr(
        Provider, "answer", lambda self, *asked: (200, media.png()) if "/files/" in asked[1] else answer(self, *asked)
    )
    Path(settings.data_dir, "assets").write_bytes(b"no folder")
    task_id = (await tasks.submit()).json()["data"]["task_id"]
    tasks.upstream.succeed(task_id)
    monkeypatch.setattr("elkapi.tasks.polls.COPY_AGAIN_FIRST_S", 0.01)
    monkeypatch.setattr("elkapi.tasks.polls.COPY_AGAIN_MAX_S", 0.1)
    order = WorkerOrder(settings=msgspec.structs.replace(settings, asset_copy_tries_max=2))
    async with opened_poller(order, tasks.gate.installation, MAKE) as poller, polling(poller):
        await until(lambda: poller.counts["copies_failed"] >= 5)
        # Its caller sees a task that runs and is nearly done, and nothing of the provider's addresses.
        shown = (await tasks.call("GET", f"/kling/v1/videos/text2video/{task_id}")).json()
        assert (shown["data"]["task_status"], "task_result" in shown["data"]) == ("processing", False)
        neutral = (await tasks.call("GET", f"/v1/tasks/{task_id_text(list_tasks(admin)[0].id)}")).json()
        assert (neutral["status"], neutral["progress"]) == ("running", 99)
        assert tasks.gate.books().customers_held_nano == parse_usd("0.50")
        ((kind, detail),) = tasks.gate.sql("select kind, detail from alerts")
        assert (kind, settings.data_dir in detail) == ("task_result_not_stored", True)
        assert len(tasks.rows()) == 1
        assert tasks.rows()[0][1] <= 3
        Path(settings.data_dir, "assets").unlink()
        await tasks.until("succeeded")
    assert (tasks.gate.books().loss_nano, tasks.gate.books().charged_nano) == (0, parse_usd("0.50"))


@pytest.mark.parametrize(("keep_s", "kept_s"), [(3600.0, 3600), (0.0, None)])
def test_a_video_says_how_long_its_file_is_kept(tmp_path: Path, keep_s: float, kept_s: int | None) -> None:
    with serving(tmp_path, asset_keep_s=keep_s) as one:
        video = Caller(one, "sora.create").through(AT_ONCE)
        if kept_s is None:
            assert video["expires_at"] is None
        else:
            assert video["created_at"] <= video["expires_at"] - kept_s <= video["completed_at"]
