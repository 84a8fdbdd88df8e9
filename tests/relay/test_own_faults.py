"""A fault of the gateway's own while it handles an answer: free to the caller, and the operator is told of the bill."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import msgspec
import pytest

from elkapi.errors import Unavailable
from elkapi.relay import relay, serve
from elkapi.sandbox.server import Running
from elkapi.storage.secrets import Sealer
from tests.gateway import SMALL, gateway

CHAT = "gpt-4o-mini"


@pytest.mark.parametrize(
    ("where", "sent"),
    [("looks_like_json_object", True), ("build", False)],
    ids=["after its answer", "before it is sent"],
)
async def test_a_fault_is_free_and_listed_and_never_repeated_by_its_key_once_the_upstream_was_asked(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch, where: str, sent: bool
) -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError("a bug")

    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url)
        key = await gate.key("1")
        monkeypatch.setattr(relay, where, broken)
        headers = {"Idempotency-Key": "once"}
        first = await gate.ask(key, {"model": SMALL, "input": "a text"}, headers=headers)
        monkeypatch.undo()
        again = await gate.ask(key, {"model": SMALL, "input": "a text"}, headers=headers)
        await gate.settled()
        charge_nano, record = gate.sql("select charge_nano, record from requests order by id")[0]
        unknown = gate.sql("select request_id from unknown_outcomes")
        held = gate.sql("select sum(held_nano) from accounts where kind = 'customer'")
    assert first.status_code == 500
    assert "a bug" not in first.text
    if sent:
        assert (again.status_code, again.json()["error"]["code"]) == (409, "outcome_unknown")
    else:
        assert again.status_code == 200
    assert charge_nano == 0
    assert b'"outcome":"internal_error"' in record
    assert len(unknown) == sent
    assert held == [(0,)]


@pytest.mark.parametrize(
    ("fault", "told", "status", "outcome"),
    [
        (RuntimeError("a bug"), 500, 500, "internal_error"),
        (Unavailable("Something of ours is away."), 503, 503, "internal_error"),
        (asyncio.CancelledError(), None, 499, "client_gone"),
    ],
    ids=["bug", "refusal", "cancelled"],
)
async def test_whatever_else_ends_a_call_behind_its_hold_gives_all_of_it_back(
    tmp_path: Path,
    sandbox: Running,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    told: int | None,
    status: int,
    outcome: str,
) -> None:
    """Where no attempt is under way nobody else says what became of the call."""

    async def broken(*_: object) -> None:
        assert gate.books().customers_held_nano
        raise fault

    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url)
        key = await gate.key("1")
        monkeypatch.setattr(serve, "answer", broken)
        asking = gate.ask(key, {"model": SMALL, "input": "a text"}, headers={"Idempotency-Key": "once"})
        if told is None:
            with pytest.raises(Exception, match="disconnected"):
                await asking
        else:
            reply = await asking
            assert reply.status_code == told
            assert "a bug" not in reply.text
        monkeypatch.undo()
        ((record, charge_nano),) = gate.sql("select record, charge_nano from requests")
        row = msgspec.json.decode(record)
        assert (row["status"], row["outcome"], charge_nano) == (status, outcome, 0)
        assert gate.closed_books().customers_posted_nano == 10**9
        # Nothing was begun, so its key is free for another try.
        again = await gate.ask(key, {"model": SMALL, "input": "a text"}, headers={"Idempotency-Key": "once"})
        assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)


@pytest.mark.parametrize("keyed", [True, False], ids=["an idempotency key", "a stored answer"])
@pytest.mark.parametrize("lacking", [OSError(errno.EAGAIN, "no random bytes"), RuntimeError("can't start new thread")])
async def test_an_answer_that_cannot_be_sealed_gives_its_hold_back_as_the_operators_loss(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch, lacking: Exception, keyed: bool
) -> None:
    """The machine has no thread, memory or random bytes left for it, once the upstream has answered and billed."""

    async def seal_beside(*_: object) -> bytes:
        raise lacking

    body = {"model": CHAT, "input": "a text", "store": not keyed}
    headers = {"Idempotency-Key": "once"} if keyed else {}
    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url, (CHAT,))
        await gate.price(CHAT, per_1m_usd="1")
        key = await gate.key("1")
        monkeypatch.setattr(Sealer, "seal_beside", seal_beside)
        failed = await gate.ask(key, body, path="/v1/responses", headers=headers)
        monkeypatch.undo()
        again = await gate.ask(key, body, path="/v1/responses", headers=headers)
        ((charge_nano, loss_nano, record),) = gate.sql(
            "select charge_nano, loss_nano, record from requests order by id limit 1"
        )
        gate.closed_books()
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "service_unavailable")
    assert str(lacking) not in failed.text
    assert (charge_nano, loss_nano > 0, msgspec.json.decode(record)["flags"]) == (0, True, ["settle_refused"])
    if keyed:
        assert (again.status_code, again.json()["error"]["code"]) == (409, "outcome_unknown")
    else:
        assert again.status_code == 200
