"""An operator's change reaches every worker: a revoked key is refused, a changed channel used, by whichever answers."""

from __future__ import annotations

import asyncio
import time

import pytest

from elkapi.admin import channels, keys
from elkapi.admin.channels import ChannelFields
from tests.cluster import PER_CALL, PER_CALL_WORDS, Answer, Cluster, client, upstream, words
from tests.process.conftest import WORKERS, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# The promise is one second (settings.snapshot_poll_s is 0.2); the limit leaves room for a machine that is busy with
# other tests, and what was seen is printed.
EFFECT_S = 10.0
# Each on a connection of its own: enough that no worker is left out by chance.
CALLS_AT_ONCE = 40


async def answers_of_all(gate: Cluster, key: str) -> list[Answer]:
    async with client(gate.origin, CALLS_AT_ONCE, reuse=False) as caller:
        text = words(PER_CALL_WORDS, "change")
        return await asyncio.gather(*(caller.embed(key, PER_CALL, text) for _ in range(CALLS_AT_ONCE)))


async def workers_that_answer(gate: Cluster, key: str, event: str) -> set[int]:
    """The workers that wrote `event` for calls made now."""
    gate.new_events(event)
    seen: set[int] = set()
    deadline_s = time.monotonic() + EFFECT_S
    while len(seen) < WORKERS and time.monotonic() < deadline_s:
        await answers_of_all(gate, key)
        seen |= {line["pid"] for line in gate.new_events(event)}
    return seen


async def test_a_revoked_key_is_refused_by_every_worker(
    shared_stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = shared_stage.gate
    key = gate.key("revoked", 10**9)
    assert await workers_that_answer(gate, key, "request") == set(gate.children("worker"))
    changed_s = time.monotonic()
    keys.revoke_key(gate.admin, "revoked")
    answers = await answers_of_all(gate, key)
    while any(answer.status != 401 for answer in answers):
        assert time.monotonic() < changed_s + EFFECT_S
        answers = await answers_of_all(gate, key)
    with capsys.disabled():
        print(f"\n{gate.admin.database.dialect}: a revoked key was refused everywhere {seen_s(changed_s)} later")
    assert {answer.code for answer in answers} == {"invalid_api_key"}
    assert await workers_that_answer(gate, key, "refused") == set(gate.children("worker"))
    assert all(answer.status == 401 for answer in await answers_of_all(gate, key))


async def test_a_changed_channel_is_used_by_every_worker(
    shared_stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = shared_stage.gate
    key = gate.key("changed", 10**9)
    assert {answer.status for answer in await answers_of_all(gate, key)} == {200}
    with upstream(tmp_path_factory.mktemp("other")) as other:
        changed_s = time.monotonic()
        channels.edit_channel(gate.admin, "upstream", ChannelFields(base_url=other.base_url))
        billed_before = -1
        while billed_before != len(shared_stage.sandbox.bill()):
            assert time.monotonic() < changed_s + EFFECT_S
            billed_before = len(shared_stage.sandbox.bill())
            await answers_of_all(gate, key)
        with capsys.disabled():
            print(f"\n{gate.admin.database.dialect}: a changed channel was used everywhere {seen_s(changed_s)} later")
        billed_before = len(other.bill())
        assert await workers_that_answer(gate, key, "request") == set(gate.children("worker"))
        assert len(other.bill()) >= billed_before + CALLS_AT_ONCE
        assert len(shared_stage.sandbox.bill()) > 0
        channels.edit_channel(gate.admin, "upstream", ChannelFields(base_url=shared_stage.sandbox.base_url))


def seen_s(since_s: float) -> str:
    return f"at most {time.monotonic() - since_s:.2f} s"
