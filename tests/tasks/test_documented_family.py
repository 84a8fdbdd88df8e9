"""The family that docs/adding-a-family.md builds, taken from the page and run against a provider of its kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from elkapi.catalog import FAMILIES, Catalog, Role
from elkapi.catalog.upstreams import UPSTREAM_FAMILIES
from elkapi.money import parse_usd
from tests.tasks.conftest import Tasks
from tests.tasks.provider import Answer

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"
# "About 40": without its docstring, imports and blank lines.
LINES_MAX = 42


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def built() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    return names


class Loom:
    """The provider that the page makes up."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> Answer:
        self.asked.append((method, path, body))
        if method == "POST" and path.endswith("/stop"):
            self.jobs[path.split("/")[3]]["state"] = "torn"
            return 200, {"code": 0}
        if method == "POST":
            if body.get("prompt") == "no":
                return 200, {"code": 1400, "message": "not this"}
            job_id = f"job-{len(self.jobs)}"
            self.jobs[job_id] = {"id": job_id, "state": "waiting", "percent": 0}
            return 200, {"code": 0, "job": self.jobs[job_id]}
        return 200, {"code": 0, "job": self.jobs[path.rsplit("/", 1)[1]]}


@pytest.fixture(autouse=True)
def documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that serves the page's family beside its own."""
    names = built()
    catalog = Catalog((*FAMILIES, names["FAMILY"]))
    for room in ("elkapi.worker", "elkapi.control.tasking"):
        monkeypatch.setattr(f"{room}.CATALOG", catalog)
    monkeypatch.setitem(UPSTREAM_FAMILIES, "loom", names["ACCOUNT"])


@pytest.fixture
async def loom(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> Loom:
    made = Loom(tasks.upstream.origin)
    monkeypatch.setattr(tasks.upstream, "answer", made.answer)
    models = ("loom-2", "loom-still", "loom-upscale", "loom-lips")
    await tasks.gate.channel(tasks.upstream.origin, models, family="loom", secrets=("sk-loom",))
    await tasks.gate.price("loom-2", per_second_usd="0.10")
    await tasks.gate.price("loom-still", per_image_usd="0.05")
    await tasks.gate.price("loom-upscale", per_call_usd="0.25")
    await tasks.gate.price("loom-lips", per_second_usd="0.10")
    return made


def test_ten_operations_are_about_forty_lines() -> None:
    code = blocks()[0].partition("JOB = ")[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= LINES_MAX
    assert len(built()["FAMILY"].operations) == 10


async def test_every_submit_begins_a_task_that_is_polled_copied_and_charged(tasks: Tasks, loom: Loom) -> None:
    submits = [one for one in built()["FAMILY"].operations if one.role is Role.SUBMIT]
    begun: dict[str, Any] = {}
    for operation in submits:
        body = {"prompt": "cloth", "length": 5, "task_id": next(iter(begun), None)}
        reply = await tasks.call("POST", operation.path, {name: value for name, value in body.items() if value})
        assert reply.status_code == 200, reply.text
        begun[reply.json()["job"]["id"]] = operation
    assert [one[1] for one in loom.asked] == [one.path.removeprefix("/loom") for one in submits]
    for job in loom.jobs.values():
        job |= {"state": "done", "percent": 100, "videos": [{"url": f"{loom.origin}/files/{job['id']}.mp4"}]}
    async with tasks.polling():
        await tasks.until("succeeded", len(submits))
    shown = (await tasks.call("GET", f"/loom/v2/jobs/{next(iter(begun))}")).json()
    assert shown["job"]["state"] == "done"
    assert shown["job"]["videos"][0]["url"].startswith(tasks.gate.origin + "/v1/assets/")
    listed = (await tasks.call("GET", "/loom/v2/jobs?limit=2")).json()
    assert (len(listed["jobs"]), listed["total"]) == (2, len(submits))
    for asked in ("limit=1_0", "limit=0", "limit=%2B5"):
        refused = await tasks.call("GET", f"/loom/v2/jobs?{asked}")
        assert refused.status_code == 400, asked
    report = tasks.gate.books()
    assert report.customers_held_nano == 0
    # Four videos of five seconds, an image, an upscale.
    assert report.charged_nano == parse_usd("2.00") + parse_usd("0.05") + parse_usd("0.25")


async def test_a_refusal_inside_a_success_a_stop_and_a_failure_are_free(tasks: Tasks, loom: Loom) -> None:
    refused = await tasks.call("POST", "/loom/v2/text-to-video", {"prompt": "no", "length": 5})
    assert (refused.status_code, refused.json()) == (200, {"code": 1400, "message": "not this"})
    for _ in range(2):
        await tasks.call("POST", "/loom/v2/text-to-video", {"prompt": "cloth", "length": 5})
    assert tasks.gate.books().customers_held_nano == parse_usd("1.00")
    stopped = await tasks.call("POST", "/loom/v2/jobs/job-0/stop")
    assert stopped.status_code == 200, stopped.text
    loom.jobs["job-1"] |= {"state": "torn", "reason": "thread broke"}
    async with tasks.polling():
        await tasks.until("failed", 2)
    assert (await tasks.call("GET", "/loom/v2/jobs/job-1")).json()["job"]["reason"] == "thread broke"
    assert (await tasks.call("GET", "/loom/v2/jobs/job-1", key=await tasks.gate.key("1"))).status_code == 404
    report = tasks.gate.books()
    assert (report.customers_held_nano, report.charged_nano) == (0, 0)
