"""Telemetry: what a collector gets of each call, what it never gets, and that a dead one costs no call anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from elkapi.control import otlp
from elkapi.control import telemetry as control_telemetry
from elkapi.control.server import listening_socket
from elkapi.control.spoken import content_attributes
from elkapi.control.telemetry import telemetry_running
from elkapi.observe.calls import CallFacts
from elkapi.observe.trace import is_sampled, onward, trace_of
from elkapi.relay import telemetry as worker_telemetry
from elkapi.sandbox.server import Running
from elkapi.types import Guard, Policy
from tests.canned import canned
from tests.collector import Collector, collecting, points, values
from tests.gateway import SMALL, Gateway, gateway
from tests.text_calls import CLIENTS, ask
from tests.waiting import until

MODEL, OTHER = "told-model", "other-model"
PLANTED = "violet-armadillo-4711"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPERATIONS = dict.fromkeys(CLIENTS, "chat") | {"gemini": "generate_content"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker lives on in this process when the control process's part ends, so there is nothing to wait for."""
    monkeypatch.setattr(control_telemetry, "READ_S", 0.02)


@contextlib.asynccontextmanager
async def told(folder: Path, collector: Collector, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that tells `collector`, with the control process's part in this one."""
    settings = {"otlp_endpoint": collector.url, "otlp_metrics_s": 0.1, **settings}
    async with gateway(folder, **settings) as gate:
        path = Path(gate.plane.settings.socket_path("telemetry"))
        with listening_socket(path) as listening, telemetry_running(gate.plane.settings, listening):
            yield gate


async def staged(gate: Gateway, sandbox: Running, **channel: Any) -> str:
    await gate.channel(sandbox.base_url, (MODEL,), name="upstream", model_map={MODEL: "gpt-4o"}, **channel)
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    return await gate.key("1")


async def seen(collector: Collector, count: int) -> list[Span]:
    await until(lambda: len(collector.spans) >= count)
    return collector.spans


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_call_is_a_span_by_the_genai_conventions_in_every_dialect(
    tmp_path: Path, sandbox: Running, stream: bool
) -> None:
    with collecting() as collector:
        async with told(tmp_path, collector) as gate:
            key = await staged(gate, sandbox)
            accounts = {}
            for client in CLIENTS:
                asked = ask(client, MODEL, "[[say: All is well.]]", stream=stream)
                reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
                assert reply.status_code == 200
                accounts[client] = await gate.account(reply.headers["x-request-id"], key)
            spans = await seen(collector, len(CLIENTS))
    by_id = {values(span.attributes)["elkapi.request_id"]: span for span in spans}
    for client, account in accounts.items():
        span = by_id[account["id"]]
        told_of = values(span.attributes)
        operation = OPERATIONS[client]
        assert (span.name, span.kind) == (f"{operation} {MODEL}", Span.SPAN_KIND_CLIENT)
        assert told_of["gen_ai.operation.name"] == operation
        assert told_of["gen_ai.provider.name"] == told_of["gen_ai.system"] == "openai"
        assert told_of["gen_ai.request.model"] == MODEL
        assert told_of["gen_ai.response.model"].startswith("gpt-4o")
        assert told_of["gen_ai.request.max_tokens"] == 200
        assert told_of["gen_ai.response.finish_reasons"] == ["stop"]
        assert told_of["gen_ai.response.id"]
        usage = account["usage"]
        assert told_of["gen_ai.usage.input_tokens"] == usage["input_tokens"]
        assert told_of["gen_ai.usage.output_tokens"] == usage["output_tokens"]
        assert told_of["gen_ai.usage.cost"] == pytest.approx(float(account["cost_usd"]))
        assert told_of["server.address"] == "127.0.0.1"
        assert told_of["elkapi.channel"] == "upstream"
        assert told_of["user.id"].startswith("test-")
        assert ("gen_ai.response.time_to_first_chunk" in told_of) is stream
        assert told_of.get("gen_ai.request.stream", False) is stream
        # Without a caller's trace the request id is the trace's.
        assert span.trace_id.hex() == account["id"].removeprefix("req_")
        assert not span.parent_span_id
        assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60 * 10**9
        assert span.status.code == Status.STATUS_CODE_UNSET
        (attempt,) = span.events
        assert values(attempt.attributes)["elkapi.outcome"] == "ok"
    assert collector.resource["service.name"] == "elkapi"
    durations = points(collector, "gen_ai.client.operation.duration")
    assert sum(point.count for _, point in durations) == len(CLIENTS)
    assert all(point.explicit_bounds[0] == 0.01 for _, point in durations)
    totals = {
        kind: sum(
            point.sum for of, point in points(collector, "gen_ai.client.token.usage") if of["gen_ai.token.type"] == kind
        )
        for kind in ("input", "output")
    }
    assert totals["input"] == sum(account["usage"]["input_tokens"] for account in accounts.values())
    assert totals["output"] == sum(account["usage"]["output_tokens"] for account in accounts.values())
    assert ("gen_ai.client.operation.time_to_first_chunk" in collector.metrics) is stream


async def test_failures_fallbacks_and_embeddings_are_told_as_what_they_were(tmp_path: Path, sandbox: Running) -> None:
    with collecting() as collector:
        async with told(tmp_path, collector) as gate, canned(503, {"error": {"message": "down"}}) as down:
            await gate.channel(down.url, (MODEL,), name="down")
            await gate.channel(sandbox.base_url, (OTHER, SMALL), name="up", model_map={OTHER: "gpt-4o"})
            for model in (MODEL, OTHER, SMALL):
                await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")
            key = await gate.key("1", policy=Policy(fallbacks={MODEL: (OTHER,)}))
            asked = ask("chat", MODEL, "hello")
            stood_in = await gate.ask(key, asked.body, path=asked.path)
            failed = await gate.ask(key, asked.body, path=asked.path, headers={"x-elkapi-fallback": "none"})
            assert (stood_in.status_code, failed.status_code) == (200, 502)
            assert (await gate.ask(key)).status_code == 200
            spans = await seen(collector, 3)
    by_id = {values(span.attributes)["elkapi.request_id"]: span for span in spans}
    other = by_id[stood_in.headers["x-request-id"]]
    assert other.name == f"chat {OTHER}"
    assert values(other.attributes)["elkapi.asked_model"] == MODEL
    assert [values(event.attributes)["elkapi.channel"] for event in other.events] == ["down", "up"]
    assert values(other.events[0].attributes)["http.response.status_code"] == 503
    assert other.events[0].time_unix_nano <= other.events[1].time_unix_nano <= other.end_time_unix_nano
    lost = by_id[failed.headers["x-request-id"]]
    assert lost.status.code == Status.STATUS_CODE_ERROR
    assert values(lost.attributes)["error.type"] == "upstream_error"
    assert "gen_ai.usage.input_tokens" not in values(lost.attributes)
    (embedded,) = [span for span in spans if span.name == f"embeddings {SMALL}"]
    assert values(embedded.attributes)["gen_ai.usage.input_tokens"] > 0
    errors = {of.get("error.type") for of, _ in points(collector, "gen_ai.client.operation.duration")}
    assert errors == {None, "upstream_error"}


async def test_a_caller_who_leaves_a_stream_is_told_with_what_it_cost_and_is_no_failure(
    tmp_path: Path, sandbox: Running
) -> None:
    with collecting() as collector:
        async with told(tmp_path, collector) as gate:
            key = await staged(gate, sandbox)
            sandbox.sandbox.stand("stall-after=5")
            asked = ask("chat", MODEL, "[[say: one two three four five six seven eight nine ten]]", stream=True)
            headers = {"authorization": f"Bearer {key}"}
            async with gate.http.stream("POST", asked.path, json=asked.body, headers=headers) as reply:
                async for piece in reply.aiter_text():
                    if "two" in piece:
                        break
            (span,) = await seen(collector, 1)
    told_of = values(span.attributes)
    assert (told_of["elkapi.outcome"], told_of["elkapi.status"]) == ("client_gone", 499)
    assert "client_gone" in told_of["elkapi.flags"]
    assert told_of["gen_ai.usage.output_tokens"] > 0
    assert told_of["elkapi.charge_nano_usd"] > 0
    assert "error.type" not in told_of
    assert span.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_content_is_told_only_where_the_operator_wants_it(tmp_path: Path, sandbox: Running, stream: bool) -> None:
    prompts = dict.fromkeys(CLIENTS, f"[[say: {PLANTED} said]] {PLANTED} asked")
    for content in (False, True):
        with collecting() as collector:
            async with told(tmp_path / str(content), collector, otlp_content=content) as gate:
                key = await staged(gate, sandbox)
                for client, prompt in prompts.items():
                    asked = ask(client, MODEL, prompt, stream=stream)
                    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
                    assert reply.status_code == 200
                spans = await seen(collector, len(CLIENTS))
        assert any(PLANTED.encode() in raw for raw in collector.raw) is content
        for span in spans:
            told_of = values(span.attributes)
            if not content:
                assert not {name for name in told_of if "messages" in name or "instructions" in name}
                continue
            (question,) = msgspec.json.decode(told_of["gen_ai.input.messages"])
            assert question["role"] == "user"
            assert question["parts"] == [{"type": "text", "content": prompts["chat"]}]
            (answer,) = msgspec.json.decode(told_of["gen_ai.output.messages"])
            assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
            assert "".join(part["content"] for part in answer["parts"]) == f"{PLANTED} said"


async def test_what_a_guardrail_masks_or_blocks_is_told_to_no_collector_either(
    tmp_path: Path, sandbox: Running
) -> None:
    mail, word = "jane.planted@example.com", "xyzzy-planted"
    with collecting() as collector:
        async with told(tmp_path, collector, otlp_content=True) as gate:
            await staged(gate, sandbox)
            await gate.guard(Guard(name="no-mail", kind="pii", find=("email",), action="mask"))
            await gate.guard(Guard(name="no-magic", kind="words", words=(word,)))
            names = ("no-mail", "no-magic")
            for streams in (None, "window"):
                key = await gate.key("1", policy=Policy(guards=names, guard_streams=streams))
                for stream in (False, True):
                    for prompt, status in ((f"[[say: Write to {mail} at once.]]", 200), (word, 400)):
                        asked = ask("chat", MODEL, prompt, stream=stream)
                        reply = await gate.ask(key, asked.body, path=asked.path)
                        assert reply.status_code == status, reply.text
            spans = await seen(collector, 8)
    for planted in (mail, word):
        assert not any(planted.encode() in raw for raw in collector.raw)
    answers = [values(span.attributes).get("gen_ai.output.messages", "") for span in spans]
    assert sum("Write to" in answer for answer in answers) == 4


async def test_tool_calls_and_instructions_are_told_as_such(tmp_path: Path, sandbox: Running) -> None:
    weather = {"name": "weather", "description": "of a place", "parameters": {"type": "object", "properties": {}}}
    with collecting() as collector:
        async with told(tmp_path, collector, otlp_content=True) as gate:
            key = await staged(gate, sandbox)
            for stream in (False, True):
                asked = ask("chat", MODEL, '[[tools: weather {"place": "Oslo"}]]', stream=stream)
                asked.body["messages"].insert(0, {"role": "system", "content": "Be brief."})
                body = asked.body | {"tools": [{"type": "function", "function": weather}]}
                assert (await gate.ask(key, body, path=asked.path)).status_code == 200
            spans = await seen(collector, 2)
    for span in spans:
        told_of = values(span.attributes)
        assert told_of["gen_ai.response.finish_reasons"] == ["tool_calls"]
        assert msgspec.json.decode(told_of["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
        (tool,) = msgspec.json.decode(told_of["gen_ai.tool.definitions"])
        assert tool["name"] == "weather"
        (answer,) = msgspec.json.decode(told_of["gen_ai.output.messages"])
        assert answer["parts"][0]["type"] == "tool_call"
        assert answer["parts"][0]["name"] == "weather"
        assert isinstance(answer["parts"][0]["arguments"], dict)


async def test_a_call_that_cannot_be_told_takes_no_other_along(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_telemetry, "FLUSH_EVERY_S", 0.5)  # All of them are one batch.

    def without_the_first(call: CallFacts, answer: Any) -> dict[str, str]:
        if b"unspeakable" in (call.body or b""):
            raise RuntimeError("unspeakable")
        return content_attributes(call, answer)

    monkeypatch.setattr(otlp, "content_attributes", without_the_first)
    depth = "[" * 5000
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": depth}}
    with collecting() as collector:
        async with told(tmp_path, collector, otlp_content=True) as gate:
            key = await staged(gate, sandbox)
            asked = [ask("chat", MODEL, prompt) for prompt in ("unspeakable", "deep")]
            asked[1].body["messages"] += [
                {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ]
            for reply in await asyncio.gather(*(gate.ask(key, one.body, path=one.path) for one in asked)):
                assert reply.status_code == 200, reply.text
            (span,) = await seen(collector, 1)
    messages = msgspec.json.decode(values(span.attributes)["gen_ai.input.messages"])
    assert messages[1]["parts"] == [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": depth}]


async def test_a_callers_trace_is_continued_and_passed_on_only_where_the_channel_lets_it(
    tmp_path: Path, sandbox: Running
) -> None:
    parent = f"00-{TRACE}-{PARENT}-01"
    with collecting() as collector:
        async with told(tmp_path, collector) as gate:
            key = await staged(gate, sandbox)
            await gate.channel(
                sandbox.base_url, (OTHER,), model_map={OTHER: "gpt-4o"}, forward_headers=("traceparent",)
            )
            await gate.price(OTHER, per_1m_usd="1")
            for model in (MODEL, OTHER):
                asked = ask("chat", model, "hello")
                await gate.ask(key, asked.body, path=asked.path, headers={"traceparent": parent})
            spans = await seen(collector, 2)
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in spans} == {(TRACE, PARENT)}
    kept, passed = [dict(shown.headers) for shown in sandbox.sandbox.recorder.shown()]
    assert "traceparent" not in kept
    (other,) = [span for span in spans if span.name == f"chat {OTHER}"]
    assert passed["traceparent"] == f"00-{TRACE}-{other.span_id.hex()}-01"


async def test_calls_that_are_not_sampled_are_counted_all_the_same(tmp_path: Path, sandbox: Running) -> None:
    with collecting() as collector:
        async with told(tmp_path, collector, otlp_sample_ratio=0.0, otlp_content=True) as gate:
            key = await staged(gate, sandbox)
            asked = ask("chat", MODEL, PLANTED)
            await gate.ask(key, asked.body, path=asked.path)
            await until(lambda: "gen_ai.client.operation.duration" in collector.metrics)
    assert collector.spans == []
    assert not any(PLANTED.encode() in raw for raw in collector.raw)


async def test_langfuses_endpoint_gets_basic_auth_and_traces_alone(tmp_path: Path, sandbox: Running) -> None:
    with collecting() as collector:
        settings = {
            "otlp_endpoint": f"{collector.url}/api/public/otel/",
            "otlp_headers": "Authorization=Basic%20cGs6c2s=,x-langfuse-ingestion-version=4",
            "otlp_metrics_s": 0.0,
        }
        async with told(tmp_path, collector, **settings) as gate:
            key = await staged(gate, sandbox)
            asked = ask("chat", MODEL, "hello")
            await gate.ask(key, asked.body, path=asked.path)
            await seen(collector, 1)
    assert collector.paths == {"/api/public/otel/v1/traces"}
    (headers,) = collector.headers
    assert headers["authorization"] == "Basic cGs6c2s="
    assert headers["x-langfuse-ingestion-version"] == "4"
    assert headers["content-type"] == "application/x-protobuf"


async def test_a_collector_that_hangs_slows_no_call_and_holds_no_more_than_the_bounds(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_telemetry, "QUEUE_CALLS_MAX", 4)
    monkeypatch.setattr(worker_telemetry, "BATCH_CALLS_MAX", 2)
    monkeypatch.setattr(worker_telemetry, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(control_telemetry, "CLOSE_S", 0.1)
    with collecting() as collector:
        collector.answers.clear()
        async with told(tmp_path, collector, otlp_content=True, otlp_timeout_s=60.0, otlp_metrics_s=0.0) as gate:
            key = await staged(gate, sandbox)
            telemetry = gate.plane.telemetry
            assert telemetry is not None
            asked = ask("chat", MODEL, "x" * 100_000)
            calls = 0
            while telemetry.dropped < 5:
                reply = await gate.ask(key, asked.body, path=asked.path)
                assert reply.status_code == 200
                calls += 1
                assert len(telemetry._queue) <= 4
                # Beside the queue: a frame here, the socket's buffer, and the control process's own few batches.
                assert calls < 100
            # At the end nobody waits for it either: the way out of these blocks is bounded.
        assert collector.asked == 1
        assert collector.spans == []


@pytest.mark.parametrize("status", [401, 503])
async def test_what_a_collector_refuses_is_lost_and_counted(
    tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    lost: list[int] = []

    class Counter:
        def inc(self, spans: int) -> None:
            lost.append(spans)

    monkeypatch.setattr("elkapi.observe.metrics.telemetry_lost", Counter)
    with collecting() as collector:
        collector.status = status
        async with told(tmp_path, collector, otlp_timeout_s=0.5, otlp_metrics_s=0.0) as gate:
            key = await staged(gate, sandbox)
            asked = ask("chat", MODEL, "hello")
            assert (await gate.ask(key, asked.body, path=asked.path)).status_code == 200
            await until(lambda: lost == [1])
            collector.status = 200

            async def is_told() -> bool:
                assert (await gate.ask(key, asked.body, path=asked.path)).status_code == 200
                return bool(collector.spans)

            await until(is_told)  # Of several calls, since half a second may pass over any of them.


async def test_calls_go_on_while_the_control_process_is_away_and_are_told_when_it_is_back(
    tmp_path: Path, sandbox: Running
) -> None:
    with collecting() as collector:
        async with gateway(tmp_path, otlp_endpoint=collector.url) as gate:
            key = await staged(gate, sandbox)
            asked = ask("chat", MODEL, "hello")
            for _ in range(3):
                assert (await gate.ask(key, asked.body, path=asked.path)).status_code == 200
            path = Path(gate.plane.settings.socket_path("telemetry"))
            for expected in (3, 4):
                with listening_socket(path) as listening, telemetry_running(gate.plane.settings, listening):
                    await seen(collector, expected)
                    if expected == 4:
                        break
                    garbage = await asyncio.open_unix_connection(str(path))
                    garbage[1].write(b"\xff\xff\xff\xffnothing")
                    assert await garbage[0].read() == b""
                    garbage[1].close()
                assert (await gate.ask(key, asked.body, path=asked.path)).status_code == 200
    assert gate.plane.telemetry is not None
    assert gate.plane.telemetry.dropped == 0


async def test_without_an_endpoint_there_is_no_telemetry_at_all(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate:
        assert gate.plane.telemetry is None


def test_no_process_imports_the_sdk_before_telemetry_is_on() -> None:
    code = (
        "import elkapi.app, elkapi.worker, elkapi.control.server, sys;"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'google.protobuf', 'requests'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def test_a_trace_is_taken_from_a_wellformed_header_alone() -> None:
    call_id = bytes(range(16))
    good = trace_of(call_id, f"00-{TRACE}-{PARENT}-00".encode())
    assert (good.trace_id.hex(), good.parent_id.hex(), len(good.span_id)) == (TRACE, PARENT, 8)
    assert trace_of(call_id, f"01-{TRACE}-{PARENT}-01-more".encode()) == good
    for bad in (
        b"",
        b"00-" + TRACE.upper().encode() + b"-" + PARENT.encode() + b"-01",
        f"ff-{TRACE}-{PARENT}-01".encode(),
        f"00-{'0' * 32}-{PARENT}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE}-{PARENT}-01\r\nx: y".encode(),
    ):
        assert trace_of(call_id, bad).trace_id == call_id
    assert onward(good, True).decode() == f"00-{TRACE}-{good.span_id.hex()}-01"


def test_the_share_that_is_sampled_is_the_share_that_was_asked_for() -> None:
    ids = [number.to_bytes(16, "big") for number in range(4_000)]
    kept = [trace_id for trace_id in ids if is_sampled(trace_id, 0.25)]
    assert 900 < len(kept) < 1_100
    assert all(is_sampled(trace_id, 0.5) for trace_id in kept)
    assert not any(is_sampled(trace_id, 0.0) for trace_id in ids)
    assert all(is_sampled(trace_id, 1.0) for trace_id in ids)
