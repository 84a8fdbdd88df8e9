"""Sixteen upstream faults in every client dialect: a full answer from the next channel, or an explicit error.

Never a truncated success, never a double charge, and nobody pays for a failure (guarantees 41, 49, 50, 51, 53 to 57).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from elkapi.sandbox.deliver import Client
from elkapi.sandbox.server import Running, running
from elkapi.types import ChannelLimits
from tests.gateway import Gateway
from tests.text_calls import CLIENTS, ask, has_error, is_whole, streamed_text, text_of
from tests.unit.upstream.upstream_peers import ManualTimers
from tests.waiting import until

MODEL = "test-model"
SAID = "one two three four five six seven eight nine ten"
# What is waited out, and nothing else: a machine that stands still for a while is no fault.
LIMITS: dict[str, dict[str, Any]] = {
    "hang": {"header_s": 0.3},
    "hang-after-headers": {"first_byte_s": 0.3},
    "stall-after=1": {"idle_s": 0.3},
}
# After content, a deadline is let pass by the test: one that passed before would be a fault of another kind.
LATE = ("stall-after=5", "endless")
# Where it comes in one piece with the content before it, nobody was told any: then the next channel is asked.
TOLD = "error-after=2"
# Fault -> what a stream comes to: the next channel's answer, this channel's, or an explicit error.
STREAM_FAULTS = {
    "refused": "next",
    "hang": "next",
    "hang-after-headers": "next",
    "status=429": "next",
    "status=500": "next",
    "status=503": "next",
    "status=529": "next",
    "invalid-json": "next",
    "html": "next",
    "cut-after=5": "error",
    "stall-after=5": "error",
    "error-before": "next",
    TOLD: "error",
    "slow-drip=20ms": "this",
    "truncated": "error",
    "endless": "error",
}


@pytest.fixture
def spare() -> Iterator[Running]:
    """The next channel's upstream: nothing is ever wrong with it."""
    with running() as served:
        yield served


async def two_channels(lite: Gateway, bad_url: str, spare: Running, fault: str) -> str:
    limits = ChannelLimits(**LIMITS.get(fault, {}))
    await lite.channel(bad_url, (MODEL,), family="openai", priority=5, limits=limits, model_map={MODEL: "gpt-4o"})
    await lite.channel(spare.base_url, (MODEL,), family="openai", model_map={MODEL: "gpt-4o"})
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    return await lite.key("10")


def errors_follow_content(lite: Gateway, patched: pytest.MonkeyPatch) -> None:
    """The sandbox sends an event of an error when the gateway has begun to answer."""
    begin = Client.__init__

    def when_told(self: Client, receive: Any, send: Any, wire: Any) -> None:
        async def sends(message: MutableMapping[str, Any]) -> None:
            if b"error" in (event := message.get("body", b"")) and b'"error":null' not in event:
                await until(lambda: any(one.current and one.current.started for one in lite.server.connections))
            await send(message)

        begin(self, receive, sends, wire)

    patched.setattr(Client, "__init__", when_told)


def paid(lite: Gateway) -> int:
    return 10 * 10**9 - lite.closed_books().customers_posted_nano


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("fault", STREAM_FAULTS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_g50_a_faulty_stream_is_replaced_or_ends_in_an_explicit_error(
    lite: Gateway, sandbox: Running, spare: Running, monkeypatch: pytest.MonkeyPatch, client: str, fault: str
) -> None:
    refused = fault == "refused"
    if not refused:
        sandbox.sandbox.stand(fault)
    if fault == TOLD:
        errors_follow_content(lite, monkeypatch)
    key = await two_channels(lite, dead_url() if refused else sandbox.base_url, spare, fault)
    timers = ManualTimers()
    if fault in LATE:
        lite.plane.client._timers = lite.plane.client._dialing.timers = timers
    asked = ask(client, MODEL, f"[[say: {SAID}]]", stream=True)
    headers = {"authorization": f"Bearer {key}", **asked.headers}
    async with lite.http.stream("POST", asked.path, json=asked.body, headers=headers) as reply:
        timers.advance(10**6)  # The head comes with the first content.
        await reply.aread()
    assert reply.status_code == 200, reply.text
    assert bool(spare.sandbox.bill.statement().lines) is (STREAM_FAULTS[fault] == "next")
    if STREAM_FAULTS[fault] == "error":
        assert has_error(client, reply.text), reply.text
        # SDKs show the words of such an event and nothing else.
        assert f"(request id: {reply.headers['x-request-id']})" in reply.text
        assert not is_whole(client, reply.text), reply.text
        account = await lite.account(reply.headers["x-request-id"], key)
        assert account["outcome"] != "ok"
        assert paid(lite) == 0
    else:
        assert streamed_text(client, reply.text) == SAID
        assert is_whole(client, reply.text)
        assert not has_error(client, reply.text)
        assert paid(lite) > 0


WHOLE_FAULTS = ("refused", "hang", "hang-after-headers", "status=429", "status=500", "status=503", "status=529")
BROKEN_BODIES = ("invalid-json", "html", "cut-after=1", "stall-after=1")


@pytest.mark.parametrize("fault", [*WHOLE_FAULTS, *BROKEN_BODIES])
@pytest.mark.parametrize("client", CLIENTS)
async def test_g51_a_faulty_answer_is_replaced_under_every_dialect(
    lite: Gateway, sandbox: Running, spare: Running, client: str, fault: str
) -> None:
    refused = fault == "refused"
    if not refused:
        sandbox.sandbox.stand(fault)
    key = await two_channels(lite, dead_url() if refused else sandbox.base_url, spare, fault)
    asked = ask(client, MODEL, f"[[say: {SAID}]]")
    reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    assert text_of(client, reply.json()) == SAID
    assert len(spare.sandbox.bill.statement().lines) == 1
    assert paid(lite) > 0
