"""How the sender of notices shares its places and spares hosts that nobody answers at, without tables or sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from elkapi.clock import ManualClock
from elkapi.ids import new_id
from elkapi.tasks import notify
from elkapi.tasks.notify import ANSWER_BYTES_MAX, DEADLINES, PAUSE_S_MAX, Due, Notifier
from elkapi.tasks.retrying import wait_after
from elkapi.tasks.signing import new_secret
from elkapi.types import NoticeBody
from elkapi.upstream import ConnectFailed, UpstreamReply, UpstreamRequest


class Rows:
    """An outbox of these notices; `asked` is what each `take` was given, `told` what each try came to, `then` how many
    tries there were and when the next is due."""

    def __init__(self) -> None:
        self.due: list[Due] = []
        self.asked: list[tuple[int, int, dict[str, int], dict[int, int], list[str]]] = []
        self.told: list[tuple[str, int | None, str, str]] = []
        self.then: list[tuple[int, int]] = []
        self.set_back = 0

    def add(self, host: str, key_id: int = 1, tries: int = 0) -> None:
        body = NoticeBody(f"https://{host}/in?t=1", b"{}", (("X-Own", "1"),))
        self.due.append(Due((new_id(), 0, 1), host, key_id, tries, 1 << 62, body, (new_secret(),)))

    async def is_any_due(self, now_ns: int) -> bool:
        return bool(self.due)

    async def take(
        self,
        count: int,
        per_host_max: int,
        busy: Mapping[str, int],
        busy_keys: Mapping[int, int],
        paused: Collection[str],
        now_ns: int,
    ) -> list[Due]:
        self.asked.append((count, per_host_max, dict(busy), dict(busy_keys), list(paused)))
        found = [due for due in self.due if due.host not in paused][:count]
        self.due = [due for due in self.due if due not in found]
        return found

    async def wait_no_longer(self, now_ns: int) -> None:
        self.set_back += 1

    async def ended(self, notice: Any, told: Any, then: Any, tries: int) -> None:
        self.told.append((then.state, told.status, told.error, told.answer))
        self.then.append((tries, then.due_ns))


class Answer(UpstreamReply):
    """A 200 with this body; `closed` tells whether its reader gave the rest up."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__()
        self.status = 200
        self.closed = False
        self._rest = body

    async def _pull(self) -> bytes:
        return b""

    def cancel(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rows() -> Rows:
    return Rows()


async def test_a_host_where_nobody_answers_is_spared_for_longer_each_time_until_somebody_does(
    clock: ManualClock, rows: Rows
) -> None:
    answers = False

    async def send(_request: UpstreamRequest) -> UpstreamReply:
        if not answers:
            raise ConnectFailed("nobody", phase="connect", sent=False)
        return Answer()

    sender = Notifier(rows, send, clock, lambda: 0.0)
    for pause_s in (1, 2, 4, 8, 16, PAUSE_S_MAX, PAUSE_S_MAX):
        rows.add("dead.test")
        await sender.run_once()
        assert rows.told.pop() == ("pending", None, "connect_failed", "")
        clock.advance(pause_s - 0.1)
        rows.add("dead.test")
        await sender._start_due()
        assert (rows.asked[-1][-1], len(rows.due)) == (["dead.test"], 1)
        rows.due.clear()
        clock.advance(0.2)
    answers = True
    rows.add("dead.test")
    await sender.run_once()
    assert rows.told.pop()[:2] == ("delivered", 200)
    answers = False
    rows.add("dead.test")
    await sender.run_once()
    rows.add("dead.test")
    clock.advance(1.1)
    await sender.run_once()
    assert len(rows.told) == 2


async def test_no_more_hosts_are_remembered_than_the_bound(
    clock: ManualClock, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(_request: UpstreamRequest) -> UpstreamReply:
        raise ConnectFailed("nobody", phase="connect", sent=False)

    monkeypatch.setattr(notify, "PAUSES_MAX", 2)
    sender = Notifier(rows, send, clock, lambda: 0.0)
    for host in ("a.test", "b.test", "c.test"):
        rows.add(host)
        await sender.run_once()
    rows.add("a.test")
    await sender.run_once()
    assert rows.asked[-1][-1] == ["b.test", "c.test"]


async def test_a_place_is_given_to_the_next_notice_when_one_is_delivered(clock: ManualClock, rows: Rows) -> None:
    flying: dict[str, asyncio.Future[UpstreamReply]] = {}

    async def send(request: UpstreamRequest) -> UpstreamReply:
        flying[request.origin.host] = asyncio.get_running_loop().create_future()
        return await flying[request.origin.host]

    sender = Notifier(rows, send, clock, lambda: 0.0, parallel_max=2, host_parallel_max=3)
    for key_id, host in enumerate(("a.test", "b.test", "c.test")):
        rows.add(host, key_id)
    await sender._start_due()
    await asyncio.sleep(0)
    assert rows.asked == [(2, 3, {}, {}, [])]
    await sender._start_due()
    assert len(rows.asked) == 1
    running = asyncio.ensure_future(sender.run_once())
    flying["a.test"].set_result(Answer())
    while "c.test" not in flying:
        await asyncio.sleep(0)
    assert rows.asked[1:] == [(1, 3, {"b.test": 1}, {1: 1}, [])]
    for host in ("b.test", "c.test"):
        flying[host].set_result(Answer())
    await running
    assert [told[0] for told in rows.told] == ["delivered"] * 3


@pytest.mark.parametrize("size", [1, ANSWER_BYTES_MAX + 1])
async def test_the_rest_of_an_answer_is_given_up_whatever_its_length(clock: ManualClock, rows: Rows, size: int) -> None:
    answer = Answer(b"x" * size)

    async def send(_request: UpstreamRequest) -> UpstreamReply:
        return answer

    rows.add("long.test")
    await Notifier(rows, send, clock, lambda: 0.0).run_once()
    assert answer.closed
    assert rows.told == [("delivered", 200, "", "x" * min(size, 500))]


async def test_waits_end_once_after_the_clock_was_set_back(clock: ManualClock, rows: Rows) -> None:
    async def send(_request: UpstreamRequest) -> UpstreamReply:
        raise AssertionError

    sender = Notifier(rows, send, clock, lambda: 0.0)
    await sender.run_once()
    clock.set_by(-3600)
    for _ in range(2):
        await sender.run_once()
    assert rows.set_back == 1


async def test_a_notice_is_sent_as_json_within_its_deadlines_and_the_next_try_waits_by_their_number(
    clock: ManualClock, rows: Rows
) -> None:
    sent = []

    async def send(request: UpstreamRequest) -> UpstreamReply:
        sent.append(request)
        raise ConnectFailed("nobody", phase="connect", sent=False)

    rows.add("hook.test", tries=3)
    await Notifier(rows, send, clock, lambda: 0.0).run_once()
    (request,), headers = sent, dict(sent[0].headers)
    assert (request.method, request.target, request.body, request.deadlines) == (b"POST", b"/in?t=1", b"{}", DEADLINES)
    assert (headers[b"content-type"], headers[b"accept-encoding"]) == (b"application/json", b"identity")
    assert (headers[b"x-own"], headers[b"webhook-timestamp"]) == (b"1", b"%d" % (clock.now_ns() // 10**9))
    assert rows.then == [(4, clock.now_ns() + round(wait_after(4, 0.0) * 1e9))]


async def test_what_a_try_came_to_may_be_lost_and_others_are_sent_all_the_same(clock: ManualClock, rows: Rows) -> None:
    async def send(request: UpstreamRequest) -> UpstreamReply:
        if request.origin.host == "a.test":
            raise RuntimeError("a bug")
        return Answer()

    for host in ("a.test", "b.test"):
        rows.add(host)
    await Notifier(rows, send, clock, lambda: 0.0).run_once()
    assert [told[0] for told in rows.told] == ["delivered"]


async def test_whoever_stops_the_sender_stops_what_it_is_sending(clock: ManualClock, rows: Rows) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def send(_request: UpstreamRequest) -> UpstreamReply:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            stopped.set()
        raise AssertionError

    rows.add("slow.test")
    running = asyncio.ensure_future(Notifier(rows, send, clock, lambda: 0.0).run_once())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stopped.is_set()
