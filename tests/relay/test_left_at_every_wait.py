"""A caller who leaves at any of a call's waits: before it, or in the moment its answer comes. Nothing stays held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from elkapi.relay import hold
from elkapi.relay.call import Call
from elkapi.relay.count import count_left, count_locally
from elkapi.sandbox.server import Running
from elkapi.storage import secrets
from elkapi.types import Guard, Policy
from tests.gateway import SMALL, Gateway, gateway
from tests.text_calls import Asked, ask
from tests.waiting import until

MODEL = "gpt-4o"
WAITS_MAX = 40


def unlimited(asked: Asked) -> Asked:
    return Asked(asked.path, {name: value for name, value in asked.body.items() if name != "max_tokens"})


LINE = {"custom_id": "one", "params": ask("anthropic", MODEL, "[[say: ok]]").body}
# What is asked, and what of the balance there is: the poor one's holds are lowered.
CASES: dict[str, tuple[Asked, str]] = {
    "whole": (ask("chat", MODEL, "[[say: ok]]"), "10"),
    "stream": (ask("anthropic", MODEL, "[[say: ok]] [sandbox: no-usage]", stream=True), "10"),
    "broken": (ask("chat", MODEL, "[[tokens: 9]] [sandbox: cut-after=5]", stream=True), "10"),
    "blocked": (ask("chat", MODEL, "[[say: xyzzy]] [sandbox: no-usage]"), "10"),
    "poor": (unlimited(ask("chat", MODEL, "[[say: ok]]")), "0.02"),
    "stored": (ask("responses", MODEL, "[[say: ok]]", store=True), "10"),
    "background": (ask("responses", MODEL, "[[say: ok]]", stream=True, background=True), "10"),
    "batch": (Asked("/v1/messages/batches", {"requests": [LINE]}), "10"),
    "embedding": (Asked("/v1/embeddings", {"model": SMALL, "input": "hello"}), "10"),
}


class Steps:
    """Awaits `work`, and has its caller leave at the wait of this number."""

    def __init__(self, work: Any, number: int, with_answer: bool, leave: Callable[[], None]):
        self._work, self._number, self._with_answer, self._leave = work, number, with_answer, leave

    def __await__(self) -> Generator[Any, Any, None]:
        steps, error = self._work.__await__(), None
        while True:
            try:
                waited = steps.send(None) if error is None else steps.throw(error)
            except StopIteration:
                return
            error = None
            self._number -= 1
            if self._number == 0:
                if self._with_answer and waited is not None:
                    # Before the call itself is told of the answer.
                    waited.add_done_callback(lambda _: self._leave())
                else:
                    self._leave()
            try:
                yield waited
            except BaseException as raised:
                error = raised


def waiting(count: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same count, as where the model process is asked for it."""

    async def counted(*what: Any) -> Any:
        await asyncio.sleep(0.001)
        return await count(*what)

    return counted


def is_quiet(gate: Gateway) -> bool:
    plane = gate.plane
    # A hold whose caller left may be made yet.
    busy = gate.server.under_way or len(plane.background) or plane.ledger.depth or gate.books().open_holds
    return not busy and not gate.sql("select 1 from message_batches where is_done = 0")


@pytest.mark.parametrize("with_answer", [False, True], ids=["before", "with the answer"])
@pytest.mark.parametrize("name", CASES)
async def test_g43_whenever_a_caller_leaves_nothing_stays_held_and_every_place_is_given_back(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch, name: str, with_answer: bool
) -> None:
    for count in (count_left, count_locally):
        monkeypatch.setattr(hold, count.__name__, waiting(count))
    if name == "stored":
        monkeypatch.setattr(secrets, "SEAL_INLINE_BYTES", -1)  # As what is long is sealed: a wait before the booking.
    asked, balance = CASES[name]
    async with gateway(tmp_path, batch_look_s=0.05) as gate:
        await gate.channel(sandbox.base_url, (MODEL, SMALL))
        for model in (MODEL, SMALL):
            await gate.price(model, per_1m_usd="30", output_per_1m_usd="60")
        await gate.guard(Guard(name="later", kind="words", words=("xyzzy",), direction="output"))
        key = await gate.key(balance, policy=Policy(guards=("later",) if name == "blocked" else (), parallel_max=1))
        handler, left = gate.server.handler, False

        async def stepped(call: Call) -> None:
            reply: Any = call.reply
            connection = reply.connection

            def leave() -> None:
                nonlocal left
                left = True
                connection.connection_lost(None)
                connection.connection_lost = lambda _: None
                connection.transport.abort()

            await Steps(handler(call), number, with_answer, leave)

        gate.server.handler = stepped
        for number in range(1, WAITS_MAX):
            left = False
            try:
                reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
            except httpx.HTTPError:
                assert left
            else:
                # A place that was not given back would refuse the next call.
                assert reply.status_code == (400 if name == "blocked" else 200), (number, reply.text)
            await until(lambda: is_quiet(gate), what=f"quiet after {number}")
            gate.closed_books()
            stats = gate.plane.client.stats()
            assert (stats["open"] - stats["idle"], stats["dialing"], stats["waiting"]) == (0, 0, 0)
            if not left:
                break
        assert 2 < number < WAITS_MAX - 1
        assert '"unexpected"' not in (tmp_path / "gateway.log").read_text()
