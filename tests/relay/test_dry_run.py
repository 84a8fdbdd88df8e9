"""The dry run of routing tells what the relay then does: same attempts, same outcomes, same end (guarantee 60)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from elkapi.admin.context import Admin
from elkapi.admin.explain import Question, explain
from elkapi.sandbox.server import Running
from elkapi.types import Policy
from tests.canned import canned
from tests.gateway import gateway
from tests.text_calls import CLIENTS, ask

BIG, SMALL = "big-model", "small-model"
OVERLONG = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}
CASES = {
    "all well": {},
    "first down": {"first": "503"},
    "both down": {"first": "503", "second": "500"},
    "limited, then down": {"first": "429", "second": "502"},
    "bad key": {"first": "401"},
    "gone": {"first": "404", "second": "404"},
    "overlong": {"first": "context"},
    "everything down": {"first": "503", "second": "503", "third": "503"},
}


@pytest.mark.parametrize("case", CASES)
async def test_g60_the_dry_run_tells_what_the_relay_then_does(tmp_path: Path, sandbox: Running, case: str) -> None:
    fail, number = CASES[case], list(CASES).index(case)
    client, stream = CLIENTS[number % len(CLIENTS)], number % 3 == 1
    async with gateway(tmp_path) as gate, contextlib.AsyncExitStack() as stack:
        mapped: dict[str, Any]
        for name, model, priority in (("first", BIG, 2), ("second", BIG, 1), ("third", SMALL, 0)):
            url, mapped = sandbox.base_url, {"model_map": {model: "gpt-4o"}}
            if (what := fail.get(name)) is not None:
                status, body = (400, OVERLONG) if what == "context" else (int(what), {"error": {"message": "no"}})
                url, mapped = (await stack.enter_async_context(canned(status, body))).url, {}
            await gate.channel(url, (model,), name=name, priority=priority, **mapped)
            await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")
        secret = await gate.key("1", policy=Policy(fallbacks={BIG: (SMALL,)}))
        with gate.database.read() as connection:
            from elkapi.storage.repos import keys

            (row,) = keys.list_keys(connection)
        said = explain(Admin(gate.installation, "test"), Question(key=row.name, model=BIG, fail=fail))
        asked = ask(client, BIG, "hello", stream=stream)
        reply = await gate.ask(secret, asked.body, path=asked.path, headers=asked.headers)
        account = await gate.account(reply.headers["x-request-id"], secret)
    told = [(step.outcome, step.model) for step in said.steps]
    assert told == [(attempt["outcome"], attempt.get("model", BIG)) for attempt in account["attempts"]]
    if said.answered_by is None:
        assert said.told is not None
        assert reply.status_code == int(said.told.split()[0])
        assert account["error_code"] == said.told.split()[1].rstrip(":")
    else:
        assert reply.status_code == 200, reply.text
        assert account["model"] == said.answered_by
