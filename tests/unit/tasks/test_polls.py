"""One poll of a task, without provider or database: what is stepped, when it is asked again, what its operator hears.

What an answer means and what an end costs have tests of their own; a whole task's way is tests/tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from elkapi.catalog import CATALOG, Role
from elkapi.catalog.operation import Operation
from elkapi.clock import ManualClock
from elkapi.settings import Settings
from elkapi.storage.repos.tasks import Owned, TaskRow
from elkapi.tasks import polls
from elkapi.tasks.copying import CopyFailed
from elkapi.tasks.polls import Polls, Watched
from elkapi.tasks.record import Asked, Task, Told
from elkapi.types import Channel, ChannelKey, Price, RequestRecord, State, TaskAsset, TaskStep, Usage

ID = b"t" * 16
KLING = next(one for one in CATALOG.operations if one.family == "kling" and one.role is Role.SUBMIT)
assert KLING.task is not None
# With what other providers tell beside it.
SPEC = msgspec.structs.replace(
    KLING.task,
    progress="progress",
    error_code="error_code",
    states={**KLING.task.states, "cancelled": State.CANCELLED, "expired": State.EXPIRED},
)
OPERATION: Operation = msgspec.structs.replace(KLING, task=SPEC)
EAST = Channel(1, "east", "kling", "https://east.example", keys=(ChannelKey(11, "a"), ChannelKey(12, "b")), models=())
WEST = Channel(2, "west", "kling", "https://west.example", keys=(ChannelKey(21, "c"),), models=())
HELD = 5_000


def said(state: str, **more: Any) -> tuple[Any, bytes]:
    reply = {"data": {"task_status": state, "task_status_msg": "why"}, **more}
    return reply, msgspec.json.encode(reply)


MADE = {"task_result": {"videos": [{"id": "v", "url": "https://files.example/v.mp4"}]}}
DONE = ({"data": {"task_status": "succeed", **MADE}}, b"{}")


class World:
    """A poller's parts around one task: the row as it stands, what its provider answers next, all that was heard."""

    def __init__(self, operation: Operation = OPERATION, **asked: Any) -> None:
        self.operation = operation
        self.clock = ManualClock()
        now_ns = self.clock.now_ns()
        price = Price(id=1, model="m", version=1, call_nano=HELD)
        self.asked = Asked(
            body={},
            group="default",
            price=price,
            ratio_micro=10**6,
            held_nano=HELD,
            accounts=(1,),
            upper=Usage(calls=1),
            path="/v1/videos/text2video",
            **asked,
        )
        self.told = Told()
        self.row = TaskRow(
            ID, 1, 7, operation.id, "kling", "native", "m", "queued", 1, 0, "n1", 1, 11, None, now_ns, now_ns,
            *(None, None, None, None), b"", None,
        )  # fmt: skip
        self.answers: list[tuple[Any, bytes] | float | None] = []
        self.requests: list[tuple[str, int, int, Mapping[str, str]]] = []
        self.steps: list[TaskStep] = []
        self.refused = 0
        self.callers_hear: list[State] = []
        self.is_purged = False
        self.alerts: list[tuple[str, str]] = []
        self.ended: list[RequestRecord] = []
        self.left: list[Watched] = []
        self.copy_fails: CopyFailed | None = None
        self.channels = {channel.id: channel for channel in (EAST, WEST)}
        self.added: dict[int, Channel] = {}
        self.settings = Settings()
        self.polls: Polls
        self.watched: Watched

    def start(self) -> None:
        parts: Any = SimpleNamespace(
            settings=self.settings,
            operations={self.operation.id: self.operation},
            snapshot=lambda: SimpleNamespace(channel=self.channels.get),
            refresh=self.refresh,
            storage=self,
            ledger=self,
            way=SimpleNamespace(families=CATALOG.family_of),
            copier=self,
            tell=self.tell,
            ended=lambda _, record: self.ended.append(record),
            clock=self.clock,
        )
        self.polls = Polls(parts, self.left.append)
        row = {name: getattr(self.row, name) for name in Owned.__struct_fields__}
        self.watched = Watched(Owned(**row), self.clock.monotonic_s())

    async def refresh(self) -> None:
        self.channels |= self.added

    async def poll(self, *answers: tuple[Any, bytes] | float | None) -> float | None:
        """What the next poll says, to which the provider answers so."""
        self.answers += answers
        again_s = await self.polls.of(self.watched)
        assert self.answers == []
        return again_s

    # What a poller has

    async def ask(self, _way: Any, _operation: Any, account: Any, what: str, values: Mapping[str, str]) -> Any:
        self.requests.append((what, account[0].id, account[1].id, values))
        return self.answers.pop(0)

    async def opened(self, task_id: bytes) -> Task | None:
        assert task_id == ID
        return None if self.is_purged else Task(self.row, self.asked, self.told)

    async def read(self, ask: Any) -> TaskRow | None:
        return None if self.is_purged else self.row

    def tell(self, task: Task, step: TaskStep) -> TaskStep:
        self.callers_hear.append(step.state)
        return step

    async def write(self, change: Any) -> Any:
        return change(None)

    def raise_alert(self, _connection: Any, *, kind: str, subject: str, detail: Any, now_ns: int) -> bool:
        self.alerts.append((kind, subject))
        return False

    async def step(self, step: TaskStep) -> bool:
        if self.is_purged or step.version != self.row.version:
            self.refused += 1
            return False
        self.steps.append(step)
        changed = {name: value for name in ("native_id", "started_ns") if (value := getattr(step, name)) is not None}
        self.row = msgspec.structs.replace(
            self.row, state=step.state.value, progress=step.progress, version=step.version + 1, **changed
        )
        return True

    async def copy(self, task: Task, number: int, made: Any, request: Any, source: str) -> TaskAsset:
        if self.copy_fails is not None:
            raise self.copy_fails
        return TaskAsset(id=ID, kind="video", content_type="video/mp4", size_bytes=1, source=source, duration_ms=5000)

    def somebody_steps(self, state: State, **changed: Any) -> None:
        self.row = msgspec.structs.replace(self.row, state=state.value, version=self.row.version + 1, **changed)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return made(monkeypatch)


def made(monkeypatch: pytest.MonkeyPatch, operation: Operation = OPERATION, **asked: Any) -> World:
    world = World(operation, **asked)
    monkeypatch.setattr(polls, "asked", world.ask)
    monkeypatch.setattr("elkapi.storage.repos.alerts.raise_alert", world.raise_alert)
    world.start()
    return world


async def test_progress_only_rises_is_never_whole_before_the_end_and_is_written_only_where_it_moved(
    world: World,
) -> None:
    seen = []
    for word, progress in (("submitted", None), ("submitted", 2), *(("processing", one) for one in (40, 30, 100, 50))):
        world.clock.advance(1)
        assert await world.poll(said(word, progress=progress)) == 5.0
        seen.append((world.row.state, world.row.progress, world.row.version))
    assert seen == [("queued", 0, 1), ("queued", 2, 2), *[("running", 40, 3)] * 2, *[("running", 99, 4)] * 2]
    waits, begins, goes_on = world.steps
    # Its answer is kept and its caller told where the state moved; it began when it was first seen to run.
    assert (begins.started_ns, world.callers_hear) == (begins.now_ns, [State.RUNNING])
    assert begins.told is not None
    assert msgspec.json.decode(begins.told) == {"reply": said("processing", progress=40)[0], "polled": True}
    for step in (waits, goes_on):
        assert (step.started_ns, step.told) == (None, None)
    assert world.refused == 0
    assert world.requests[0] == ("GET {submit}/{id}", 1, 11, {"id": "n1", "submit": "/v1/videos/text2video"})
    assert world.polls.counts == {"polls": 6}


async def test_a_long_task_is_asked_about_ever_more_rarely_and_an_overdue_one_hardly_ever(world: World) -> None:
    waits = []
    for age_s in (90, 30, 280, 5_000, 24 * 3600 - 5_400, 1):
        world.clock.advance(age_s)
        waits.append(await world.poll(said("submitted")))
    assert waits == [5.0, 6.0, 20.0, 30.0, 30.0, polls.OVERDUE_EVERY_S]
    assert world.alerts == [("task_overdue", "task:task_" + ID.hex())]
    world.settings = Settings(task_poll_every_s=0.25)
    world.start()
    world.clock.advance(5_000)
    assert await world.poll(said("submitted")) == 0.25


async def test_who_does_not_answer_is_asked_later_each_time_and_not_before_it_wants_to_be(world: World) -> None:
    assert [await world.poll(0.0) for _ in range(6)] == [5.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert await world.poll(90.0) == 90.0
    assert world.polls.counts["failures"] == 7
    assert await world.poll(said("submitted")) == 5.0
    assert await world.poll(7.0) == 7.0
    assert world.steps == []


async def test_an_unknown_word_keeps_a_task_running_and_is_one_alert_for_all_tasks(world: World) -> None:
    await world.poll(said("dreaming"))
    assert world.row.state == "running"
    assert world.alerts == [("task_unknown_word", f"{OPERATION.id}:dreaming")]
    assert world.polls.counts == {"polls": 1, "unknown_words": 1, "task_unknown_word": 1}


async def test_a_task_whose_account_is_gone_from_here_is_left_as_it_is(world: World) -> None:
    world.channels[1] = msgspec.structs.replace(EAST, keys=EAST.keys[1:])
    assert await world.poll() == polls.OVERDUE_EVERY_S
    assert (world.requests, world.steps) == ([], [])
    assert world.alerts == [("task_channel_gone", "task:task_" + ID.hex())]


async def test_a_task_of_an_account_that_is_newer_than_the_snapshot_is_polled_at_once(world: World) -> None:
    world.added[1] = world.channels.pop(1)
    assert await world.poll(said("submitted")) == 5.0
    assert (len(world.requests), world.alerts) == (1, [])


@pytest.mark.parametrize("asked_to_cancel", [False, True])
async def test_a_task_that_its_provider_does_not_know_has_ended_only_where_it_was_cancelled(
    world: World, asked_to_cancel: bool
) -> None:
    world.told = Told(cancel_asked=asked_to_cancel)
    again_s = await world.poll(None)
    if not asked_to_cancel:
        assert (again_s, world.steps, world.polls.counts["failures"]) == (5.0, [], 1)
        return
    assert again_s is None
    (step,) = world.steps
    assert (step.state, step.error_code) == (State.CANCELLED, "cancelled")
    assert world.ended[0].charge_nano == 0


@pytest.mark.parametrize(
    ("word", "theirs", "state", "code", "status"),
    [
        ("failed", None, State.FAILED, "task_failed", 502),
        ("failed", "moderated", State.FAILED, "moderated", 502),
        ("cancelled", None, State.CANCELLED, "cancelled", 499),
        ("expired", None, State.EXPIRED, "expired", 502),
    ],
)
async def test_an_end_without_a_result_is_free_and_has_a_code(
    world: World, word: str, theirs: str | None, state: State, code: str, status: int
) -> None:
    assert await world.poll(said(word, error_code=theirs)) is None
    (step,) = world.steps
    assert (step.state, step.error_code, step.finished_ns) == (state, code, world.clock.now_ns())
    (record,) = world.ended
    assert (record.outcome, record.status, record.charge_nano, record.loss_nano) == (code, status, 0, 0)
    assert world.polls.counts == {"polls": 1, f"ended_{state.value}": 1}


async def test_a_success_is_copied_in_the_place_of_another_poll_and_charged(world: World) -> None:
    assert await world.poll(DONE) is None
    assert world.left == [world.watched]
    (step,) = world.steps
    assert (step.state, step.progress, step.refs) == (State.SUCCEEDED, 100, ("v",))
    assert (world.ended[0].charge_nano, world.callers_hear) == (HELD, [State.SUCCEEDED])
    assert (world.alerts, world.polls.counts) == ([], {"polls": 1, "ended_succeeded": 1})


async def test_polls_keep_their_places_where_too_many_copies_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "COPIES_WAITING_MAX", 0)
    assert await world.poll(DONE) is None
    assert world.left == []


async def test_a_success_that_was_held_for_and_comes_to_nothing_is_told_to_the_operator(world: World) -> None:
    world.asked = msgspec.structs.replace(world.asked, ratio_micro=0)
    assert await world.poll(DONE) is None
    assert world.ended[0].charge_nano == 0
    assert world.alerts == [("task_without_charge", "task:task_" + ID.hex())]


@pytest.mark.parametrize("ours", [False, True], ids=["the provider's", "our store's"])
async def test_a_file_that_is_not_had_is_tried_again_while_its_task_is_all_but_done(world: World, ours: bool) -> None:
    world.settings = Settings(asset_copy_tries_max=3)
    world.start()
    world.copy_fails = CopyFailed("gone", again=True, ours=ours)
    assert [await world.poll(DONE) for _ in range(2)] == [4.0, 8.0]
    # It is told once that it runs, and when it began to.
    (nearly,) = world.steps
    assert (nearly.state, nearly.progress, nearly.started_ns) == (State.RUNNING, 99, world.clock.now_ns())
    assert world.alerts == []
    third = await world.poll(DONE)
    assert world.polls.counts["copies_failed"] == 3
    if ours:
        # However long that takes: it was made, and only we are in the way.
        assert (third, len(world.steps)) == (16.0, 1)
        assert world.alerts == [("task_result_not_stored", "task:task_" + ID.hex())]
        # Where its provider has it no longer, what it billed is lost.
        assert await world.poll(said("succeed")) is None
        assert (world.ended[0].outcome, world.ended[0].charge_nano, world.ended[0].loss_nano) == ("no_result", 0, HELD)
        return
    assert third is None
    assert world.ended[0].outcome == "result_unavailable"
    assert (world.ended[0].charge_nano, world.ended[0].loss_nano) == (0, HELD)


async def test_files_that_were_not_given_and_files_that_could_not_be_stored_are_counted_apart(world: World) -> None:
    world.settings = Settings(asset_copy_tries_max=2)
    world.start()
    await world.poll(said("processing", progress=40))
    for ours in (False, True):
        world.copy_fails = CopyFailed("gone", again=True, ours=ours)
        assert await world.poll(DONE) is not None
    assert [kind for kind, _ in world.alerts] == ["task_result_not_stored"]
    nearly = world.steps[-1]
    assert (nearly.progress, nearly.started_ns) == (99, None)
    world.alerts.clear()
    world.copy_fails = CopyFailed("gone", again=True)
    assert await world.poll(DONE) is None
    assert world.alerts == []


@pytest.mark.parametrize(("word", "copied"), [("succeed", False), ("failed", True)])
async def test_what_was_not_made_after_all_costs_nobody(world: World, word: str, copied: bool) -> None:
    if copied:
        world.copy_fails = CopyFailed("gone", again=True)
        await world.poll(DONE)
    assert await world.poll(said(word)) is None
    assert (world.ended[0].charge_nano, world.ended[0].loss_nano) == (0, 0)


async def test_a_file_that_can_never_be_had_is_tried_once(world: World) -> None:
    world.copy_fails = CopyFailed("too large", again=False)
    assert await world.poll(DONE) is None
    assert (world.ended[0].outcome, world.ended[0].loss_nano) == ("result_unavailable", HELD)


@pytest.mark.parametrize("answer", [said("processing"), said("failed"), DONE], ids=["goes on", "fails", "succeeds"])
async def test_what_somebody_else_stepped_meanwhile_is_not_stepped_again(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: tuple[Any, bytes]
) -> None:
    world.somebody_steps(State.RUNNING, progress=7, native_id="n2", channel_id=2, channel_key_id=21)
    stale = Task(world.row, world.asked, world.told)
    stale = Task(msgspec.structs.replace(stale.row, version=1), stale.asked, stale.told)

    async def opened(_: bytes) -> Task:
        return stale

    monkeypatch.setattr(world, "opened", opened)
    again_s = await world.poll(answer)
    assert (again_s, world.steps, world.ended) == (
        5.0 if answer[0]["data"]["task_status"] == "processing" else 0.0,
        [],
        [],
    )
    owned = world.watched.owned
    assert (owned.version, owned.state, owned.progress) == (2, "running", 7)
    assert (owned.native_id, owned.channel_id, owned.channel_key_id) == ("n2", 2, 21)


@pytest.mark.parametrize("purged", [False, True])
@pytest.mark.parametrize("answer", [said("submitted"), said("processing", progress=5), said("failed"), DONE, None])
async def test_what_somebody_else_ended_is_not_asked_about_again(
    world: World, answer: tuple[Any, bytes] | None, purged: bool
) -> None:
    world.watched.owned = msgspec.structs.replace(world.watched.owned, state="running")
    world.somebody_steps(State.CANCELLED)
    world.is_purged = purged
    assert await world.poll(answer) is None
    assert (world.steps, world.ended) == ([], [])


def unknown(monkeypatch: pytest.MonkeyPatch, operation: Operation = OPERATION, **asked: Any) -> World:
    """A task whose submit was put to an account of each channel and never answered."""
    world = made(monkeypatch, operation, mark="task_1", places=((1, 12), (2, 21)), **asked)
    world.row = msgspec.structs.replace(world.row, native_id=None, channel_id=None, channel_key_id=None)
    world.start()
    return world


async def test_a_submit_of_unknown_outcome_is_looked_for_at_every_account_that_it_may_have_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = unknown(monkeypatch, own_mark="mine")
    found = ({"data": {"task_id": "n9"}}, b"{}")
    assert await world.poll(None, found) == 0.0
    values = {"mark": "task_1", "submit": "/v1/videos/text2video"}
    assert world.requests == [("GET {submit}/{mark}", 1, 12, values), ("GET {submit}/{mark}", 2, 21, values)]
    (step,) = world.steps
    assert (step.state, step.native_id, step.channel_id, step.channel_key_id) == (State.QUEUED, "n9", 2, 21)
    assert not step.unnamed
    assert world.watched.owned.native_id == "n9"


@pytest.mark.parametrize(
    ("answers", "gone", "tries"),
    [((None, None), (), 6), ((None, 0.0), (), 120), ((None,), (2,), 120)],
    ids=["nobody knows it", "one does not answer", "one is gone from here"],
)
async def test_a_submit_that_is_found_nowhere_ends_free_and_listed_later_where_somebody_said_nothing(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[Any, ...], gone: tuple[int, ...], tries: int
) -> None:
    world = unknown(monkeypatch, own_mark="mine")
    for channel_id in gone:
        del world.channels[channel_id]
    waits = [await world.poll(*answers) for _ in range(tries)]
    assert waits[:5] == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert waits[5:] == [*(min(2.0 * n, 30.0) for n in range(6, tries)), None]
    (step,) = world.steps
    assert (step.state, step.error_code) == (State.FAILED, "not_begun")
    assert step.unnamed
    assert world.ended[0].flags == ("unknown_outcome",)


async def test_a_submit_that_nobody_can_be_asked_about_ends_at_once_and_its_name_stays_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = msgspec.structs.replace(OPERATION, task=msgspec.structs.replace(SPEC, recall=""))
    world = unknown(monkeypatch, without, own_mark="mine")
    assert await world.poll() is None
    assert (world.steps[0].error_code, world.steps[0].unnamed) == ("outcome_unknown", False)
    assert world.ended[0].flags == ("unknown_outcome",)
