"""The sender of notices against a real receiver, on both databases: each event comes, in order, under one id."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from elkapi.admin import keys, webhooks
from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.clock import ManualClock
from elkapi.control.outbox import NoticeOutbox
from elkapi.control.store import Store
from elkapi.ids import event_id_text, new_id
from elkapi.settings import Settings
from elkapi.storage.installation import Installation
from elkapi.storage.repos import audit, webhook_secrets
from elkapi.storage.repos.notices import LEASE_S
from elkapi.storage.schema import notices
from elkapi.tasks.notify import DEADLINES, Notifier
from elkapi.tasks.signing import new_secret
from elkapi.types import Notice
from elkapi.upstream import UpstreamClient
from tests.receiver import OK, Received, Receiver, answer, receiving
from tests.storage.test_notice_rows import a_notice, written
from tests.waiting import until

KEY_ID = 7
DAY_NS = 86_400_000_000_000


class Sender:
    """A notifier with the parts that its process has; made and closed by `sending`."""

    def __init__(self, settings: Settings, clock: ManualClock, **limits: Any) -> None:
        self.clock = clock
        self.client = UpstreamClient()
        self.store = Store(settings, clock)
        given: dict[str, Any] = {"allow_private": True} | limits
        self.job = Notifier(NoticeOutbox(self.store, clock), self.client.send, clock, lambda: 0.0, **given)

    async def after(self, seconds: float, step_s: float = 5.0) -> None:
        """Run as a gateway would while this time passes."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            await self.job.run_once()


@contextlib.asynccontextmanager
async def sending(settings: Settings, clock: ManualClock, **limits: Any) -> AsyncIterator[Sender]:
    sender = Sender(settings, clock, **limits)
    try:
        yield sender
    finally:
        await sender.client.aclose()
        sender.store.close()


@pytest.fixture
def clock() -> ManualClock:
    """The time: standardwebhooks takes no other."""
    return ManualClock(time.time_ns())


@pytest.fixture
def admin(installation: Installation, clock: ManualClock) -> Admin:
    return Admin(installation, "test", clock)


def notice_to(receiver: Receiver, clock: ManualClock, **fields: Any) -> Notice:
    now_ns = clock.now_ns()
    given = {"url": receiver.url, "created_ns": now_ns, "until_ns": now_ns + DAY_NS, "key_id": KEY_ID}
    return a_notice(**(given | fields))


def id_of(notice: Notice) -> str:
    return event_id_text(notice.task_id, notice.place, notice.number)


def secret_of(installation: Installation) -> webhook_secrets.WebhookSecret:
    with installation.database.write() as connection:
        return webhook_secrets.ensure(connection, installation.sealer, KEY_ID, new_secret, 1)


def verified(secret: str, event: Received) -> Any:
    return Webhook(secret).verify(event.body, event.headers)


async def test_an_event_comes_signed_as_standard_webhooks_are(
    settings: Settings, installation: Installation, clock: ManualClock, admin: Admin
) -> None:
    async with receiving(lambda _: answer(200, b"thanks")) as receiver, sending(settings, clock) as sender:
        notice = notice_to(receiver, clock, headers=(("X-Task", "task_1"),))
        await written(installation, notice)
        await sender.job.run_once()
        [event] = receiver.got
        assert (event.id, event.path, event.headers["x-task"]) == (id_of(notice), "/in?token=t", "task_1")
        secret = secret_of(installation).secret
        assert verified(secret, event) == {"type": "task.succeeded"}
        changed = msgspec.structs.replace(event, body=event.body.replace(b"succeeded", b"failed"))
        with pytest.raises(WebhookVerificationError):
            verified(secret, changed)
        view = webhooks.show_notice(admin, event.id)
        assert (view.row.state, view.row.tries) == ("delivered", 1)
        assert view.body is not None
        assert view.body.url == receiver.url
        [told] = view.tries
        assert (told.status, told.error, told.answer) == (200, "", "thanks")
        await sender.after(600, 60)
        assert len(receiver.got) == 1


async def test_events_do_not_wait_for_hours_after_the_clock_was_set_back(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    answers = iter([answer(503), OK, OK])
    async with receiving(lambda _: next(answers)) as receiver, sending(settings, clock) as sender:
        refused, fresh = (notice_to(receiver, clock, task_id=new_id()) for _ in range(2))
        await written(installation, refused)
        await sender.job.run_once()
        await written(installation, fresh)
        clock.set_by(-3 * 3600)
        await sender.job.run_once()
        assert [event.id for event in receiver.got[:1]] == [id_of(refused)]
        assert sorted(event.id for event in receiver.got[1:]) == sorted(map(id_of, (refused, fresh)))


async def test_a_receiver_that_is_down_for_ten_minutes_gets_every_event_afterwards(
    settings: Settings, installation: Installation
) -> None:
    # Events come 600 to 960 s after the first try; standardwebhooks takes what is less than five minutes from now.
    clock = ManualClock(time.time_ns() - 780_000_000_000)
    async with receiving() as receiver, sending(settings, clock) as sender:
        await receiver.close()
        tasks = [new_id() for _ in range(5)]
        sent = [notice_to(receiver, clock, task_id=task, number=number) for task in tasks for number in (1, 2, 3)]
        await written(installation, *sent)
        await sender.job.run_once()
        await sender.after(600)
        assert receiver.got == []
        await receiver.open()
        await sender.after(360)
        secret = secret_of(installation).secret
        assert all(verified(secret, event) for event in receiver.got)
        assert Counter(event.id for event in receiver.got) == Counter(id_of(notice) for notice in sent)
        for task in tasks:
            of_task = [event.id for event in receiver.got if task.hex() in event.id]
            assert of_task == sorted(of_task)


async def test_what_a_killed_sender_had_sent_is_sent_again_under_the_same_id(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    async with receiving() as receiver, sending(settings, clock) as killed, sending(settings, clock) as next_one:
        notice = notice_to(receiver, clock)
        await written(installation, notice)
        receiver.held.clear()
        run = asyncio.create_task(killed.job.run_once())
        await until(lambda: receiver.got)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        receiver.held.set()
        await next_one.job.run_once()
        assert len(receiver.got) == 1
        await next_one.after(LEASE_S)
        assert [event.id for event in receiver.got] == [id_of(notice)] * 2


async def test_two_senders_never_send_one_notice_at_the_same_time(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    async with receiving() as receiver, sending(settings, clock) as one, sending(settings, clock) as other:
        sent = [notice_to(receiver, clock, number=number % 3, task_id=new_id()) for number in range(60)]
        await written(installation, *sent)
        while len(receiver.got) < len(sent):
            await asyncio.gather(one.job.run_once(), other.job.run_once())
        await asyncio.gather(one.job.run_once(), other.job.run_once())
        assert Counter(event.id for event in receiver.got) == Counter(map(id_of, sent))
        assert set(receiver.most_at_once.values()) == {1}


async def test_a_host_is_sent_a_few_at_a_time_and_others_do_not_wait_for_it(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    async with receiving() as slow, receiving() as quick, sending(settings, clock, host_parallel_max=3) as sender:
        slow.held.clear()
        quick_url = quick.url.replace("127.0.0.1", "localhost")
        await written(installation, *(notice_to(slow, clock) for _ in range(8)))
        await written(installation, *(notice_to(quick, clock, url=quick_url) for _ in range(8)))
        run = asyncio.create_task(sender.job.run_once())
        await until(lambda: len(quick.got) >= 8)
        assert len(slow.got) <= 3
        slow.held.set()
        await run
        assert len(slow.got) == 8


async def test_a_key_whose_receivers_hang_keeps_no_other_keys_events_waiting(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    """As many as there are places are no more than its hosts may have; it had them all."""
    async with receiving() as slow, receiving() as quick, sending(settings, clock, parallel_max=4) as sender:
        slow.held.clear()
        await written(installation, *(notice_to(slow, clock) for _ in range(8)))
        run = asyncio.create_task(sender.job.run_once())
        await until(lambda: len(slow.got) == 2)
        quick_url = quick.url.replace("127.0.0.1", "localhost")
        await written(installation, *(notice_to(quick, clock, url=quick_url, key_id=KEY_ID + 1) for _ in range(3)))
        await until(lambda: len(quick.got) == 3)
        assert len(slow.got) == 2
        slow.held.set()
        await run


async def test_ssrf_an_address_that_is_not_public_is_never_connected_to(
    settings: Settings, installation: Installation, clock: ManualClock, admin: Admin
) -> None:
    async with receiving() as receiver, sending(settings, clock, allow_private=False) as sender:
        hosts = ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0")
        sent = [notice_to(receiver, clock, url=f"http://{host}:{receiver.port}/") for host in hosts]
        await written(installation, *sent)
        await sender.job.run_once()
        assert receiver.connections == 0
        for notice in sent:
            view = webhooks.show_notice(admin, id_of(notice))
            assert [told.error for told in view.tries] == ["address_refused"]
            assert view.row.state == "pending"


async def test_a_redirect_is_not_followed_and_a_long_answer_is_cut(
    settings: Settings, installation: Installation, clock: ManualClock, admin: Admin
) -> None:
    async with receiving() as receiver, sending(settings, clock) as sender:
        long = "é\0" + "x" * 200_000
        receiver.says = lambda _: answer(302, long.encode(), f"location: http://127.0.0.1:{receiver.port}/other")
        notice = notice_to(receiver, clock)
        await written(installation, notice)
        await sender.job.run_once()
        assert [event.path for event in receiver.got] == ["/in?token=t"]
        view = webhooks.show_notice(admin, id_of(notice))
        [told] = view.tries
        assert (told.status, len(told.answer), view.row.state) == (302, 500, "pending")
        receiver.says = lambda _: OK
        await sender.after(5)
        assert webhooks.show_notice(admin, id_of(notice)).row.state == "delivered"


async def test_gone_is_the_end_and_a_replay_sends_it_again(
    settings: Settings, installation: Installation, clock: ManualClock, admin: Admin
) -> None:
    async with receiving(lambda _: answer(410)) as receiver, sending(settings, clock) as sender:
        notice = notice_to(receiver, clock)
        await written(installation, notice)
        await sender.job.run_once()
        await sender.after(3600, 600)
        event = id_of(notice)
        assert webhooks.show_notice(admin, event).row.state == "given_up"
        assert [row.number for row in webhooks.list_notices(admin, state="given_up")] == [1]
        receiver.says = lambda _: OK
        assert webhooks.replay(admin, event).state == "pending"
        await sender.job.run_once()
        view = webhooks.show_notice(admin, event)
        assert (view.row.state, [told.status for told in view.tries]) == ("delivered", [410, 204])
        assert [event.id for event in receiver.got] == [event] * 2
    with pytest.raises(Missing):
        webhooks.replay(admin, event_id_text(new_id(), 0, 1))
    with pytest.raises(InvalidInput):
        webhooks.show_notice(admin, "evt_1")


async def test_a_receiver_says_when_it_wants_to_be_asked_again(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    async with (
        receiving(lambda _: answer(503, b"", "retry-after: 120")) as receiver,
        sending(settings, clock) as sender,
    ):
        await written(installation, notice_to(receiver, clock))
        await sender.job.run_once()
        await sender.after(115)
        assert len(receiver.got) == 1
        await sender.after(5)
        assert len(receiver.got) == 2


async def test_an_event_that_nobody_takes_is_given_up_after_a_day(
    settings: Settings, installation: Installation, clock: ManualClock, admin: Admin
) -> None:
    async with receiving(lambda _: b"") as receiver, sending(settings, clock) as sender:
        notice = notice_to(receiver, clock)
        await written(installation, notice)
        await sender.job.run_once()
        await sender.after(86_400, 300)
        view = webhooks.show_notice(admin, id_of(notice))
        assert view.row.state == "given_up"
        assert view.tries[-1].status is None
        assert view.tries[-1].at_ns > clock.now_ns() - 3_600_000_000_000
        assert len(view.tries) == view.row.tries


async def test_after_a_new_secret_both_sign_for_a_day(
    settings: Settings, installation: Installation, clock: ManualClock
) -> None:
    admin = Admin(installation, "test", clock)
    made = keys.create_key(admin, keys.KeyInput(name="k"))[0].row
    first = webhooks.tell_secret(admin, "k")
    with pytest.raises(Refused):
        webhooks.tell_secret(admin, "k")
    second = webhooks.tell_secret(admin, "k", rotate=True)
    assert first.secret != second.secret
    async with receiving() as receiver, sending(settings, clock) as sender:
        await written(installation, notice_to(receiver, clock, key_id=made.id))
        await sender.job.run_once()
        assert verified(first.secret, receiver.got[0])
        assert verified(second.secret, receiver.got[0])
        clock.advance(86_401)
        with installation.database.read() as connection:
            secret = webhook_secrets.get(connection, installation.sealer, made.id)
        assert secret is not None
        assert secret.in_force(clock.now_ns()) == (second.secret,)


async def test_a_secret_is_shown_and_replaced_for_its_key_alone(installation: Installation, admin: Admin) -> None:
    ids = [keys.create_key(admin, keys.KeyInput(name=name))[0].row.id for name in ("a", "b")]
    with installation.database.write() as connection:
        before = [webhook_secrets.ensure(connection, installation.sealer, id_, new_secret, 1) for id_ in ids]
    assert webhooks.tell_secret(admin, "a").secret == before[0].secret
    webhooks.tell_secret(admin, "a", rotate=True)
    with installation.database.read() as connection:
        assert webhook_secrets.get(connection, installation.sealer, ids[1]) == before[1]
        told = [(row.action, row.subject) for row in audit.newest(connection, limit=3)]
    assert webhooks.tell_secret(admin, "b").secret == before[1].secret
    done = ["webhook.secret.show", "webhook.secret.rotate", "webhook.secret.show"]
    assert told == [(action, f"key:{ids[0]}") for action in done]


async def test_what_does_not_open_with_this_key_is_given_up(
    settings: Settings, installation: Installation, clock: ManualClock, admin: Admin
) -> None:
    async with receiving() as receiver, sending(settings, clock) as sender:
        notice = notice_to(receiver, clock)
        await written(installation, notice)
        with installation.database.write() as connection:
            connection.execute(notices.update().values(sealed=b"\1" + bytes(100)))
        await sender.job.run_once()
        view = webhooks.show_notice(admin, id_of(notice))
        assert (view.row.state, view.body, view.tries[0].error) == ("given_up", None, "sealed_with_another_key")
        assert receiver.connections == 0


def test_a_lease_is_longer_than_a_try() -> None:
    assert DEADLINES.connect_s + DEADLINES.total_s < LEASE_S
