"""Every row of tasks that `elkapi operations` lists is called, by each path and alias, through every outcome.

The rows come from the command, the paths from the catalog, the calls from `tests/tasks/rows.py`. The sandbox makes the
files; the gateway polls, copies and serves them. Money is of live keys, with prices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from click.testing import CliRunner

from elkapi.catalog import CATALOG, Role
from elkapi.catalog.jsonpath import compiled, first, put
from elkapi.cli.operations import operations
from elkapi.control.tasking import opened_poller, polling
from elkapi.roles import WorkerOrder
from elkapi.sandbox.server import Running, running
from elkapi.sandbox.tasks import FILES
from elkapi.tasks.results import AssetCopier
from tests.assets.media import mp4
from tests.gateway import Gateway, served
from tests.tasks import shapes
from tests.tasks.conftest import polled_at_once
from tests.tasks.rows import (
    CANCELS,
    CHANNELS,
    CHATS,
    DOCS,
    FAMILIES,
    FETCHES,
    FILE,
    LISTS,
    ONCE,
    SUBMITS,
    Form,
    Once,
    Submit,
)

OPERATIONS = {id_: one for one in CATALOG.operations for id_ in (one.id, *(other for other, _ in one.also))}
CONTRACTS = next(
    (found for above in Path(__file__).parents if (found := above / "shared" / "contracts").is_dir()), Path("nowhere")
)
FAULT = "x-sandbox-fault"
AT_ONCE = "task-queued=0s, task-takes=0s"
OPEN = "task-queued=0s, task-takes=3600s"
BALANCE_USD = "1000"
WAIT_S = 20.0
# Chats that become tasks: `test_video_chat.py` calls them.


def paths(id_: str) -> tuple[str, ...]:
    return (OPERATIONS[id_].path, *OPERATIONS[id_].aliases)


ROUTES = [(id_, path) for id_ in SUBMITS for path in paths(id_)]
SHOWN = [(id_, path) for id_ in FETCHES for path in paths(id_)]


class Served:
    """A gateway with a poller, in a thread of its own, and the sandbox behind every kind of channel."""

    def __init__(self, gate: Gateway, sandbox: Running, loop: asyncio.AbstractEventLoop) -> None:
        self.gate = gate
        self.sandbox = sandbox
        self.loop = loop
        self.http = httpx.Client(base_url=gate.origin, timeout=20)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def key(self) -> str:
        return str(self.run(self.gate.key(BALANCE_USD)))

    @contextlib.contextmanager
    def polling(self) -> Iterator[None]:
        stack = contextlib.AsyncExitStack()

        async def begin() -> None:
            order = WorkerOrder(settings=self.gate.plane.settings)
            poller = await stack.enter_async_context(opened_poller(order, self.gate.installation, AssetCopier))
            await stack.enter_async_context(polling(poller))

        self.run(begin())
        try:
            yield
        finally:
            self.run(stack.aclose())
            self.http.close()

    def charge_nano(self, request_id: str) -> int:
        """What a task cost, once it ended: no more and no less than its record says."""
        number = request_id.removeprefix("req_")
        rows = self.gate.sql("select charge_nano from requests where id = :id", id=bytes.fromhex(number))
        assert len(rows) == 1, rows
        return int(rows[0][0])


class Asking:
    """A key that has money, and a row that it calls."""

    def __init__(self, served_: Served, id_: str, path: str = "", key: str = "") -> None:
        self.served = served_
        self.id = id_
        self.path = path or OPERATIONS[id_].path
        self.key = key or served_.key()

    def call(self, method: str, path: str, *, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.key}", **more.pop("headers", {})}
        return self.served.http.request(method, path, headers=headers, **more)

    def send(self, case: Submit | Once, params: Mapping[str, str], **headers: str) -> httpx.Response:
        """The call, after what it needs."""
        body, params = json.loads(json.dumps(case.body)), dict(params)
        if (needs := case.needs) is not None:
            found = first(needs.path, self.made(needs.row))
            assert isinstance(found, str)
            if needs.into == "{id}":
                params["id"] = found
            else:
                put(needs.into, body, found)
        content: dict[str, Any] = {} if body is None else {"json": body}
        if case.sends == "form":
            content = {"files": {name: part(value) for name, value in flat(body).items()}}
        return self.call(OPERATIONS[self.id].method, self.path.format(**params), headers=headers, **content)

    def made(self, row: str) -> Any:
        """What the same key made by another row."""
        if row in ONCE:
            return Asking(self.served, row, key=self.key).send(ONCE[row], {}).json()
        return Caller(self.served, row, key=self.key).through(AT_ONCE)


class Caller(Asking):
    """A key that has money, and what it does with one submit row."""

    def __init__(self, served_: Served, id_: str, path: str = "", key: str = "") -> None:
        super().__init__(served_, id_, path, key)
        self.submit: Submit = SUBMITS[id_]
        self.form: Form = self.submit.form

    def begin(self, fault: str) -> httpx.Response:
        """The submit, after what it needs."""
        return self.send(self.submit, self.submit.params, **{FAULT: fault})

    def begun(self, fault: str) -> tuple[str, str]:
        """(the id it is asked about by, its request id), once the answer has the contract's shape."""
        reply = self.begin(fault)
        assert reply.status_code in (200, 201), reply.text
        assert reply.headers["content-type"].startswith("application/json")
        body = shaped(reply, self.form.submitted)
        assert self.served.sandbox.base_url not in reply.text
        task_id = first(self.form.id, body)
        assert isinstance(task_id, str), reply.text
        return task_id, reply.headers["x-request-id"]

    def fetch(self, task_id: str, *, row: str = "", path: str = "", key: str | None = None) -> httpx.Response:
        row = row or self.form.fetch
        operation = OPERATIONS[row]
        path = path or operation.path
        if operation.names:
            return self.call("GET", f"/v1beta/{task_id}", key=key)
        filled = filled_in(path, self.id, task_id)
        if "{" in path.replace("{action", ""):
            return self.call(operation.method, filled, key=key)
        if operation.method == "POST":
            return self.call("POST", filled, key=key, json={"task_id": task_id})
        name = "id" if row == "veo.query" else "file_id" if row == "minimax.file" else "task_id"
        return self.call("GET", f"{filled}?{name}={task_id}", key=key)

    def until(self, task_id: str, *wanted: str) -> Any:
        """The answer to a fetch, once the task has come so far; each on the way has the contract's shape."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            reply = self.fetch(task_id)
            assert reply.status_code == 200, reply.text
            body = shaped(reply, self.form.fetched)
            if (word := word_of(self.form, body)) in wanted:
                return body
            assert word in self.form.open or not self.form.state, (word, body)
            assert time.monotonic() < deadline_s, body
            time.sleep(0.02)

    def through(self, fault: str) -> Any:
        """The last answer about a task that succeeded."""
        return self.until(self.begun(fault)[0], done_of(self.form))

    def let_end(self, request_id: str) -> None:
        """Let a task that would run for an hour end now."""
        tasks = self.served.sandbox.sandbox.store.shelf(FILES).all()
        (task,) = (one for one in tasks if one.client_id == request_id)
        task.runs_s = 0.0


def flat(body: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A body as a form has it: `a[b]` is b inside a."""
    found: dict[str, str] = {}
    for name, value in body.items():
        name = f"{prefix}[{name}]" if prefix else name
        found.update(flat(value, name) if isinstance(value, dict) else {name: str(value)})
    return found


def part(value: str) -> tuple[str | None, bytes | str, str] | tuple[None, str]:
    """A part of a form: a field, or a film."""
    return ("a.mp4", mp4(2000, 320, 180), "video/mp4") if value == FILE else (None, value)


def filled_in(path: str, row: str, task_id: str = "") -> str:
    """A path with a task's id in it, and the kind of submit where it stands in the path too."""
    kind = dict(zip(("action", "action2"), OPERATIONS[row].upstream.split("/")[2:4], strict=False))
    return path.format(id=task_id, task_id=task_id, taskId=task_id, **kind)


def shaped(reply: httpx.Response, shape: Any) -> Any:
    """The answer decoded, once it is known to have the shape."""
    msgspec.json.decode(reply.content, type=shape)
    return reply.json()


def word_of(form: Form, body: Any) -> str:
    if form.state:
        return str(first(form.state, body) or "queued")
    # An operation of Google's has no words.
    if not body.get("done"):
        return "running"
    return "done" if compiled(form.files)(body) else "failed"


def running_of(form: Form) -> str:
    return form.running or "running"


def done_of(form: Form) -> str:
    return form.done or "done"


def failed_of(form: Form) -> str:
    return form.failed or "failed"


def why_of(form: Form, body: Any) -> Any:
    if form.why:
        return first(form.why, body)
    reasons = first("response.generateVideoResponse.raiMediaFilteredReasons[0]", body)
    return reasons or first("error.message", body)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("rows")) as one:
        yield one
        report = one.gate.books()
        assert report.unknown_outcomes == 0
        assert report.loss_nano == 0


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[Served]:
    async def furnish(gate: Gateway) -> Served:
        for family, below, secret, models in CHANNELS:
            await gate.channel(
                sandbox.base_url + below, models, family=family, secrets=(secret,), forward_headers=(FAULT,)
            )
        for model in {model for *_, models in CHANNELS for model in models}:
            await gate.price(model, per_call_usd="0.5", output_per_1m_usd="2")
        return Served(gate, sandbox, asyncio.get_running_loop())

    with pytest.MonkeyPatch.context() as patch, running() as sandbox:
        polled_at_once(patch, every_s=0.03)
        with served(folder, furnish, **{"sqlite_synchronous": "NORMAL", **settings}) as one, one.polling():
            yield one


@pytest.mark.parametrize(("id_", "path"), ROUTES)
def test_a_task_is_begun_runs_and_ends_with_files(gateways: Served, id_: str, path: str) -> None:
    seen_through(gateways, id_, path)


@pytest.mark.postgres
def test_tasks_go_the_same_way_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with serving(tmp_path, database_url=postgres_url) as one:
        for id_ in ("kling.extend", "minimax.generate", "sora.create", "veo.predict", "tasks.create"):
            seen_through(one, id_, OPERATIONS[id_].path)
        failing = Caller(one, "luma.generate")
        task_id, request_id = failing.begun(f"{AT_ONCE}, task-fails")
        failing.until(task_id, failed_of(failing.form))
        assert one.charge_nano(request_id) == 0
        assert one.gate.books().customers_held_nano == 0


def seen_through(gateways: Served, id_: str, path: str) -> None:
    """A submit by one of its paths, until its files are fetched."""
    caller = Caller(gateways, id_, path)
    form = caller.form
    task_id, request_id = caller.begun(OPEN)
    caller.until(task_id, running_of(form))
    caller.let_end(request_id)
    done = caller.until(task_id, done_of(form))
    if form.fetch == "minimax.query":
        done = shaped(caller.fetch(done["file_id"], row="minimax.file"), shapes.MinimaxFile)
    urls = compiled(form.files or "file.download_url")(done)
    assert urls, done
    assert gateways.sandbox.base_url not in json.dumps(done)
    for url in urls:
        assert url.startswith(gateways.gate.origin), url
        headers = {"x-goog-api-key": caller.key} if form.fetch == "veo.operation" else {}
        file = httpx.get(url, headers=headers)
        assert file.status_code == 200, file.text
        assert file.headers["content-type"].startswith(caller.submit.made), file.headers
        assert len(file.content) == int(file.headers["content-length"]) > 0
    assert gateways.charge_nano(request_id) > 0


@pytest.mark.parametrize("fault", ["task-fails", "task-moderated"])
@pytest.mark.parametrize("id_", SUBMITS)
def test_a_task_that_fails_says_why_and_is_free(gateways: Served, id_: str, fault: str) -> None:
    caller = Caller(gateways, id_)
    task_id, request_id = caller.begun(f"{AT_ONCE}, {fault}")
    failed = caller.until(task_id, failed_of(caller.form))
    assert why_of(caller.form, failed), failed
    if caller.form.files:
        assert not [one for one in compiled(caller.form.files)(failed) if one], failed
    assert gateways.charge_nano(request_id) == 0


@pytest.mark.parametrize("id_", SUBMITS)
def test_a_submit_that_moderation_refuses_begins_nothing_and_is_free(gateways: Served, id_: str) -> None:
    caller = Caller(gateways, id_)
    reply = caller.begin("task-refused")
    native = caller.form.fetch in ("minimax.query", "runway.feed-get", "pika.feed")
    assert reply.status_code in ((200, 400) if native else (400,)), reply.text
    body = reply.json()
    assert first(refused_path(caller.form), body), body
    assert gateways.charge_nano(reply.headers["x-request-id"]) == 0


def refused_path(form: Form) -> str:
    """Where a refusal's words stand: a native one is the provider's own body."""
    return "msg" if form.submitted is shapes.DuomiBegun else form.absent


@pytest.mark.parametrize(("id_", "path"), SHOWN)
def test_a_task_is_shown_by_each_path_to_its_owner_alone(gateways: Served, id_: str, path: str) -> None:
    caller = Caller(gateways, FETCHES[id_])
    task_id, _ = caller.begun(AT_ONCE)
    done = caller.until(task_id, done_of(caller.form))
    if id_ == "minimax.file":
        task_id = done["file_id"]
    if id_ == "veo.download":
        task_id = re.split(r"/|:", compiled(caller.form.files)(done)[0])[-2]
        path = "/v1beta/files/{id}:download?alt=media"
    reply = caller.fetch(task_id, row=id_, path=path)
    assert reply.status_code == 200, reply.text
    if reply.headers["content-type"].startswith("application/json"):
        body = shaped(reply, shapes.MinimaxFile if id_ == "minimax.file" else caller.form.fetched)
        assert id_ == "minimax.file" or word_of(caller.form, body) == done_of(caller.form)
    else:
        assert reply.headers["content-type"].startswith(("video/", "text/event-stream"))
    for other in (
        caller.fetch(task_id, row=id_, path=path, key=gateways.key()),
        caller.fetch(f"{task_id[:-4]}zzzz", row=id_, path=path),
    ):
        assert other.status_code == 404, other.text
        assert first(absent_path(id_, caller.form), other.json()), other.text


def absent_path(row: str, form: Form) -> str:
    return "error.message" if row == "veo.download" else form.absent


@pytest.mark.parametrize(("id_", "path"), [(id_, path) for id_ in LISTS for path in paths(id_)])
def test_a_list_holds_the_callers_own_tasks(gateways: Served, id_: str, path: str) -> None:
    row, where = LISTS[id_]
    caller = Caller(gateways, row)
    begun = {caller.begun(AT_ONCE)[0] for _ in range(2)}
    path = filled_in(path, row)
    reply = caller.call("GET", path)
    assert reply.status_code == 200, reply.text
    assert set(compiled(where)(reply.json())) == begun, reply.text
    assert not compiled(where)(caller.call("GET", path, key=gateways.key()).json())


@pytest.mark.parametrize(("id_", "path"), [(id_, path) for id_ in CANCELS for path in paths(id_)])
@pytest.mark.parametrize("when", ["open", "ended"])
def test_a_task_is_cancelled_or_forgotten_by_its_owner_alone(gateways: Served, id_: str, path: str, when: str) -> None:
    caller = Caller(gateways, CANCELS[id_])
    task_id, request_id = caller.begun("task-queued=3600s" if when == "open" else AT_ONCE)
    if when == "ended":
        caller.until(task_id, done_of(caller.form))
    method, where = OPERATIONS[id_].method, path.format(id=task_id, task_id=task_id)
    assert caller.call(method, where, key=gateways.key()).status_code == 404
    reply = caller.call(method, where)
    if when == "open" and CANCELS[id_] == "sora.create":
        # OpenAI deletes what has ended, and cancels nothing.
        assert reply.status_code == 409, reply.text
        return
    assert reply.status_code in (200, 204), reply.text
    again = caller.fetch(task_id)
    if again.status_code == 200:
        # Cancelling keeps the task, and so does Ark's DELETE of an open one.
        wanted = "cancelled" if when == "open" else done_of(caller.form)
        assert method == "POST" or when == "open", again.text
        assert word_of(caller.form, again.json()) == wanted
    else:
        assert again.status_code == 404, again.text
    if when == "open":
        assert gateways.charge_nano(request_id) == 0


@pytest.mark.parametrize("id_", ONCE)
def test_a_row_that_is_answered_at_once(gateways: Served, id_: str) -> None:
    asking, case = Asking(gateways, id_), ONCE[id_]
    reply = asking.send(case, {})
    assert reply.status_code == 200, reply.text
    shaped(reply, case.shape)
    if OPERATIONS[id_].role is Role.SUBMIT:
        assert bool(gateways.charge_nano(reply.headers["x-request-id"])) is case.charged
    if "{id}" in asking.path:
        needs = case.needs
        assert needs is not None
        other = Asking(gateways, id_)
        path = asking.path.format(id=reply.json()["id"])
        assert other.call("GET", path).status_code == 404


@pytest.mark.parametrize(("id_", "stream"), [(id_, stream) for id_, (_, ways) in CHATS.items() for stream in ways])
def test_a_chat_is_told_of_its_video(gateways: Served, id_: str, stream: bool) -> None:
    asking = Asking(gateways, id_)
    body = {"model": CHATS[id_][0], "messages": [{"role": "user", "content": "a dog"}], "stream": stream}
    reply = asking.call("POST", asking.path, json=body, headers={FAULT: AT_ONCE})
    assert reply.status_code == 200, reply.text
    assert gateways.sandbox.base_url not in reply.text
    *_, link = re.findall(rf"{re.escape(gateways.gate.origin)}/v1/assets/[^\s)\"\\\]]+", reply.text)
    file = httpx.get(link)
    assert (file.status_code, file.headers["content-type"]) == (200, "video/mp4")


def test_the_same_idempotency_key_asks_once_and_lists_hold_no_such_rows(gateways: Served) -> None:
    asking, case = Asking(gateways, "kling.identify-face"), ONCE["kling.identify-face"]
    film = asking.made("kling.text-to-video")["data"]["task_result"]["videos"][0]["id"]
    replies = [
        asking.call("POST", asking.path, json={"video_id": film}, headers={"idempotency-key": "once"}) for _ in range(2)
    ]
    assert shaped(replies[0], case.shape)["data"]["session_id"]
    assert replies[0].content == replies[1].content
    assert gateways.charge_nano(replies[0].headers["x-request-id"]) > 0
    assert len(asking.call("GET", "/v1/tasks").json()["data"]) == 1


def test_credits_are_the_callers_own(gateways: Served) -> None:
    asking = Asking(gateways, "luma.credits")
    assert asking.send(ONCE["luma.credits"], {}).json() == {"credit_balance": float(BALANCE_USD) * 100}


def test_what_was_uploaded_is_used_where_it_lies_and_by_its_owner_alone(gateways: Served) -> None:
    asking = Caller(gateways, "runway.image-to-video")
    uri = asking.made("runway.upload")["runwayUri"]
    secret = "key_sandbox_2"
    gateways.run(
        gateways.gate.channel(
            f"{gateways.sandbox.base_url}/runway",
            ("gen4_turbo",),
            family="runway",
            secrets=(secret,),
            forward_headers=(FAULT,),
            priority=9,
            name="another account",
        )
    )
    body = {**asking.submit.body, "promptImage": uri}
    reply = asking.call("POST", asking.path, json=body)
    assert reply.status_code == 200, reply.text
    tasks = gateways.sandbox.sandbox.store.shelf(FILES).all()
    (task,) = (one for one in tasks if one.client_id == reply.headers["x-request-id"])
    assert secret not in task.owner
    other = asking.call("POST", asking.path, json=body, key=gateways.key())
    assert other.status_code == 404, other.text
    asking.until(reply.json()["id"], done_of(asking.form))


def test_a_character_is_no_video(gateways: Served) -> None:
    asking = Asking(gateways, "sora.character-create")
    character = asking.send(ONCE["sora.character-create"], {}).json()["id"]
    assert asking.call("GET", f"/v1/videos/{character}").status_code == 404
    video, _ = Caller(gateways, "sora.create", key=asking.key).begun(AT_ONCE)
    assert asking.call("GET", f"/v1/videos/characters/{video}").status_code == 404


def test_every_served_row_of_tasks_is_called_and_every_call_is_a_row() -> None:
    """A new row needs one entry in tests/tasks/rows.py."""
    rows = {row["id"] for row in json.loads(CliRunner().invoke(operations, ["--json"]).output)}
    named = {*SUBMITS, *FETCHES, *LISTS, *CANCELS, *ONCE, *DOCS, *CHATS}
    served_ = {id_ for id_ in rows if id_.startswith(("tasks.", *(f"{name}." for name in FAMILIES)))}
    assert served_ <= named, served_ - named
    assert named <= rows, named - rows


@pytest.mark.skipif(not CONTRACTS.is_dir(), reason="the contracts stand beside the repository only in the workplace")
def test_every_row_of_the_eight_contracts_is_served() -> None:
    rows = {row["id"] for family in FAMILIES for row in yaml.safe_load((CONTRACTS / f"{family}.yaml").read_text())}
    openai = {row["id"]: row for row in yaml.safe_load((CONTRACTS / "openai.yaml").read_text())}
    videos = {id_ for id_, row in openai.items() if "video" in id_ or "veo" in id_ or "/video" in row["path"]}
    assert rows | videos <= {*SUBMITS, *FETCHES, *LISTS, *CANCELS, *ONCE, *DOCS, *CHATS}
