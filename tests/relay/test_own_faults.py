"""A fault of the gateway's own while it handles an answer: free to the caller, and the operator is told of the bill."""

from __future__ import annotations

from pathlib import Path

import pytest

from elkapi.relay import relay
from elkapi.sandbox.server import Running
from tests.gateway import SMALL, gateway


async def test_a_fault_after_the_upstream_answered_is_free_listed_and_never_repeated_by_its_key(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(body: bytes) -> bool:
        raise RuntimeError("a bug")

    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url)
        key = await gate.key("1")
        monkeypatch.setattr(relay, "looks_like_json_object", broken)
        headers = {"Idempotency-Key": "once"}
        first = await gate.ask(key, {"model": SMALL, "input": "a text"}, headers=headers)
        monkeypatch.undo()
        again = await gate.ask(key, {"model": SMALL, "input": "a text"}, headers=headers)
        await gate.settled()
        ((charge_nano, record),) = gate.sql("select charge_nano, record from requests")
        unknown = gate.sql("select request_id from unknown_outcomes")
        held = gate.sql("select sum(held_nano) from accounts where kind = 'customer'")
    assert first.status_code == 500
    assert "a bug" not in first.text
    assert (again.status_code, again.json()["error"]["code"]) == (409, "outcome_unknown")
    assert charge_nano == 0
    assert b'"outcome":"internal_error"' in record
    assert len(unknown) == 1
    assert held == [(0,)]
