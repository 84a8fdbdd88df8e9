"""An operator's change reaches every worker: a revoked key is refused, a changed channel used, by whichever answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from elkapi.admin import channels, keys
from elkapi.admin.channels import ChannelFields
from tests.cluster import PER_CALL, PER_CALL_WORDS, Answer, Cluster, Upstream, client, upstream, words
from tests.process.conftest import WORKERS, Stage
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Each on a connection of its own. The workers take connections from one queue, so any of them may be left out.
CALLS_AT_ONCE = 40


async def answers_of_all(gate: Cluster, key: str) -> list[Answer]:
    async with client(gate.origin, CALLS_AT_ONCE, reuse=False) as caller:
        text = words(PER_CALL_WORDS, "change")
        return await asyncio.gather(*(caller.embed(key, PER_CALL, text) for _ in range(CALLS_AT_ONCE)))


async def called_every_worker(
    gate: Cluster, key: str, event: str, request_ids: Callable[[], set[str]] | None = None
) -> None:
    """Call until each worker has written `event`, with `request_ids` for one of these. What was seen once of a worker
    holds for its later calls; how long it took (a second is promised, settings.snapshot_poll_s is 0.2) is printed."""
    workers = set(gate.children("worker"))
    assert len(workers) == WORKERS
    lines: list[dict[str, Any]] = []
    gate.new_events(event)

    async def all_did() -> bool:
        await answers_of_all(gate, key)
        lines.extend(gate.new_events(event))
        ids = None if request_ids is None else request_ids()
        return {line["pid"] for line in lines if ids is None or line["request_id"] in ids} == workers

    await until(all_did, what=f"every worker writes {event}")


def billed_ids(of: Upstream) -> set[str]:
    return {line["client_request_id"] for line in of.bill()}


async def test_a_revoked_key_is_refused_by_every_worker(
    shared_stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = shared_stage.gate
    key = gate.key("revoked", 10**9)
    await called_every_worker(gate, key, "request")
    changed_s = time.monotonic()
    keys.revoke_key(gate.admin, "revoked")
    await called_every_worker(gate, key, "refused")
    with capsys.disabled():
        print(f"\n{gate.admin.database.dialect}: a revoked key was refused everywhere {seen_s(changed_s)} later")
    answers = await answers_of_all(gate, key)
    assert {(answer.status, answer.code) for answer in answers} == {(401, "invalid_api_key")}


async def test_a_changed_channel_is_used_by_every_worker(
    shared_stage: Stage, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate, before = shared_stage.gate, shared_stage.sandbox
    key = gate.key("changed", 10**9)
    await called_every_worker(gate, key, "request", lambda: billed_ids(before))
    with upstream(tmp_path_factory.mktemp("other")) as other:
        changed_s = time.monotonic()
        channels.edit_channel(gate.admin, "upstream", ChannelFields(base_url=other.base_url))
        await called_every_worker(gate, key, "request", lambda: billed_ids(other))
        with capsys.disabled():
            print(f"\n{gate.admin.database.dialect}: a changed channel was used everywhere {seen_s(changed_s)} later")
        billed_before, billed_other = len(before.bill()), len(other.bill())
        assert {answer.status for answer in await answers_of_all(gate, key)} == {200}
        assert len(before.bill()) == billed_before
        assert len(other.bill()) == billed_other + CALLS_AT_ONCE
        channels.edit_channel(gate.admin, "upstream", ChannelFields(base_url=before.base_url))


def seen_s(since_s: float) -> str:
    return f"at most {time.monotonic() - since_s:.2f} s"
