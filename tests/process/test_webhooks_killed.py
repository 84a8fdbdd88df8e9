"""A control process killed with kill -9 while a receiver has an event: the next one sends it again, under one id."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import update
from standardwebhooks import Webhook

from elkapi.admin import webhooks
from elkapi.ids import event_id_text
from elkapi.storage.schema import notices
from tests.process.conftest import Stage, running_stage
from tests.receiver import receiving
from tests.storage.test_notice_rows import DAY_NS, a_notice, written
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with running_stage(workers=1, webhook_allow_private=True) as made:
        yield made


async def test_an_event_on_its_way_when_its_sender_is_killed_comes_again(stage: Stage) -> None:
    gate = stage.gate
    gate.key("hooks", 10**9)
    secret = webhooks.tell_secret(gate.admin, "hooks")
    async with receiving() as receiver:
        receiver.held.clear()
        now_ns = time.time_ns()
        notice = a_notice(url=receiver.url, key_id=secret.key_id, created_ns=now_ns, until_ns=now_ns + DAY_NS)
        event = event_id_text(notice.task_id, notice.place, notice.number)
        await written(gate.admin.installation, notice)
        await until(lambda: len(receiver.got) == 1, 30, "the receiver has it")
        (killed,) = gate.children("control")
        gate.kill(killed)
        receiver.held.set()
        await until(lambda: gate.children("control").keys() - {killed}, 60, "another control process runs")
        assert webhooks.show_notice(gate.admin, event).row.state == "pending"
        # As if the lease of the killed one were over.
        with gate.admin.database.write() as connection:
            connection.execute(update(notices).values(due_ns=0))
        await until(lambda: len(receiver.got) == 2, 60, "it comes again")
        assert [got.id for got in receiver.got] == [event] * 2
        assert all(Webhook(secret.secret).verify(got.body, got.headers) for got in receiver.got)
        done = lambda: webhooks.show_notice(gate.admin, event).row.state == "delivered"  # noqa: E731
        await until(done, 30, "it is delivered")
        assert [told.status for told in webhooks.show_notice(gate.admin, event).tries] == [204]
