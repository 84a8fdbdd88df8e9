"""The bundled chat model through the whole gateway: every dialect, honest counts, clear refusals, leaving and dying.

The chat process is the real one with the real model; it is started once for the module.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from elkapi.local.chat.rows import BUNDLED_CHAT
from elkapi.roles import BundledModel
from tests.gateway import Gateway, gateway
from tests.relay.test_text_rows import OPERATIONS, ROUTES
from tests.text_calls import CLIENTS, ask, is_whole, streamed_text, text_of
from tests.text_rows import CASES, JSON
from tests.waiting import cpu_s, until

# The model works behind everything else (its process is nice), so a busy machine lets it wait for long.
pytestmark = pytest.mark.timeout(300)

MODEL = BUNDLED_CHAT.id
# The runtime has the next whole block.
ASKED_WINDOW, WINDOW = 1000, 1024
START_S = 60
FACTS = {"owned_by": BUNDLED_CHAT.owned_by, "context_length": WINDOW, "bundled": True}
HELLO = "Say hello."
LONG = "word " * (WINDOW - 200)


class ChatProcess:
    """The model's process on a socket; `restart` is what the supervisor would do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "chat.sock"
        self._reading_s = 0.0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "elkapi.local.chat", "--socket", str(self.path), "--window", str(ASKED_WINDOW)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + START_S
        while not self._accepts():
            assert self.process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except OSError:
                return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def ask(self, path: str, body: Any = None) -> Any:
        transport = httpx.AsyncHTTPTransport(uds=str(self.path))
        async with httpx.AsyncClient(transport=transport, base_url="http://local", timeout=100) as client:
            return (await (client.post(path, json=body) if body else client.get(path))).json()

    async def idle(self) -> None:
        """Wait until it works on nothing."""

        async def is_idle() -> bool:
            return not (await self.ask("/healthz"))["running"]

        await until(is_idle)

    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)

    async def reading_s(self) -> float:
        """The processor time of a long prompt that is read to its end: what work costs here that nobody gives up."""
        if not self._reading_s:
            before_s = self.cpu_s()
            answer = await self.ask("/v1/chat/completions", call("chat", LONG, max_tokens=1).body)
            assert answer["usage"]["prompt_tokens"] > WINDOW // 2
            self._reading_s = self.cpu_s() - before_s
        return self._reading_s


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatProcess]:
    # The kernel takes socket paths of at most 107 bytes, so not pytest's long temporary folders.
    folder = Path(tempfile.mkdtemp(prefix="elk-"))
    started = ChatProcess(folder)
    yield started
    started.process.send_signal(signal.SIGTERM)
    status = started.process.wait(40)
    left = list(folder.glob("*.sock"))
    shutil.rmtree(folder)
    assert status == 0
    assert left == []


@pytest.fixture
async def gate(chat: ChatProcess) -> AsyncIterator[Gateway]:
    for name in chat.folder.glob("elkapi.sqlite3*"):
        name.unlink()
    bundled = (BundledModel(MODEL, FACTS, role="chat"),)
    async with gateway(chat.folder, chat=bundled, cooldown_s=0) as served:
        yield served


def call(client: str, prompt: str, *, stream: bool = False, max_tokens: int = 6, **more: Any) -> Any:
    """A call whose answer is the same each time: the likeliest token at every place."""
    asked = ask(client, MODEL, prompt, stream=stream, max_tokens=max_tokens, **more)
    if client == "gemini":
        asked.body["generationConfig"]["temperature"] = 0
    else:
        asked.body["temperature"] = 0
    return asked


def counts_of(client: str, usage: dict[str, Any]) -> tuple[int, int]:
    names = {
        "chat": ("prompt_tokens", "completion_tokens"),
        "gemini": ("promptTokenCount", "candidatesTokenCount"),
    }.get(client, ("input_tokens", "output_tokens"))
    return usage[names[0]], usage[names[1]]


async def test_every_dialect_streamed_and_not_gives_one_answer_with_the_models_own_counts(
    gate: Gateway, chat: ChatProcess
) -> None:
    key = await gate.key()
    counted = await chat.ask("/v1/chat/count", {"model": MODEL, "messages": [{"role": "user", "content": HELLO}]})
    said: set[str] = set()
    for client in CLIENTS:
        for stream in (False, True):
            asked = call(client, HELLO, stream=stream)
            reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
            assert reply.status_code == 200, reply.text
            account = await gate.account(reply.headers["x-request-id"], key)
            assert account["cost_usd"] == "0.00"
            assert account["flags"] == []
            usage = account["usage"]
            assert usage["input_tokens"] == counted["input_tokens"]
            assert 1 <= usage["output_tokens"] <= 6
            if stream:
                assert is_whole(client, reply.text), reply.text
                said.add(streamed_text(client, reply.text))
            else:
                said.add(text_of(client, reply.json()))
                shown = reply.json()["usageMetadata" if client == "gemini" else "usage"]
                assert counts_of(client, shown) == (usage["input_tokens"], usage["output_tokens"])
    assert len(said) == 1
    assert said != {""}


# The text rows (tests/text_rows.py) that a chat model can serve, and the member that bounds an answer there.
SERVED_ROWS = {
    "openai.chat": "max_tokens",
    "openai.chat-stream": "max_tokens",
    "openai.completions": "max_tokens",
    "openai.completions-stream": "max_tokens",
    "openai.responses": "max_output_tokens",
    "openai.responses-stream": "max_output_tokens",
    "openai.responses-input-tokens": "",
    "anthropic.messages": "max_tokens",
    "anthropic.messages-stream": "max_tokens",
    "anthropic.count-tokens": "",
    "gemini.generate": "generationConfig",
    "gemini.stream": "generationConfig",
    "gemini.count-tokens": "",
    "openai.model": "",
    "anthropic.model": "",
}


async def test_every_text_row_a_chat_model_can_serve_is_answered_on_each_path(gate: Gateway) -> None:
    key = await gate.key()
    called = set()
    for row, path in ROUTES:
        # A doubled /v1 is taken off before anything looks at the path; test_text_rows.py calls those too.
        if row not in SERVED_ROWS or path.startswith("/v1/v1/"):
            continue
        case, limit = CASES[row], SERVED_ROWS[row]
        body = case.body and {name: MODEL if name == "model" else value for name, value in case.body.items()}
        if body and limit:
            # Its likeliest token: one that was drawn may be a part of a character, or the end.
            if limit == "generationConfig":
                body[limit] = {"maxOutputTokens": 1, "temperature": 0}
            else:
                body |= {limit: 1, "temperature": 0}
        headers = {"authorization": f"Bearer {key}", **case.headers}
        target = path.format(model=MODEL) + (f"?{case.query}" if case.query else "")
        method = OPERATIONS[row].method
        reply = await gate.http.request(method, target, headers=headers, json=body)
        assert reply.status_code == 200, (row, path, reply.text)
        assert reply.headers["content-type"].startswith(case.media)
        told = case.shows(reply.json() if case.media == JSON else reply.text)
        # A stream that is not whole shows itself.
        assert told not in ("", reply.text, 0), (row, path, reply.text)
        called.add(row)
    assert called == set(SERVED_ROWS)


async def test_counts_are_the_runtimes_in_every_dialect(gate: Gateway) -> None:
    key = await gate.key()
    messages = [{"role": "user", "content": "Zwölf Boxkämpfer 日本語 <|im_end|> 😀"}]
    reply = await gate.ask(key, {"model": MODEL, "messages": messages, "max_tokens": 1}, path="/v1/chat/completions")
    counted = reply.json()["usage"]["prompt_tokens"]
    text = messages[0]["content"]
    bodies = {
        "/v1/messages/count_tokens": ({"model": MODEL, "messages": messages}, "input_tokens"),
        "/v1/responses/input_tokens": ({"model": MODEL, "input": text}, "input_tokens"),
        f"/v1beta/models/{MODEL}:countTokens": ({"contents": [{"parts": [{"text": text}]}]}, "totalTokens"),
    }
    for path, (body, member) in bodies.items():
        assert (await gate.ask(key, body, path=path)).json()[member] == counted, path


async def test_the_official_sdk_streams_with_usage_and_gets_json_by_a_schema(gate: Gateway) -> None:
    key = await gate.key()
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    async with AsyncOpenAI(base_url=f"{gate.origin}/v1", api_key=key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Describe a person."}],
            response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
            max_tokens=80,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, usage = "", None
        async for chunk in stream:
            usage = chunk.usage or usage
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 20
        person = json.loads(text)
        assert set(person) == {"name", "age"}
        assert isinstance(person["age"], int)
        told = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=2, logprobs=True, top_logprobs=2
        )
        logprobs = told.choices[0].logprobs
        assert logprobs is not None
        assert [len(token.top_logprobs) for token in logprobs.content or []] == [2, 2]
        listed = {model.id: model for model in (await client.models.list()).data}
        assert listed[MODEL].model_extra == {
            "supported_endpoint_types": ["openai", "openai-response", "anthropic", "gemini"],
            "context_length": WINDOW,
            "bundled": True,
        }


async def test_a_stop_text_ends_the_answer_and_the_old_completions_work(gate: Gateway) -> None:
    key = await gate.key()
    body = {"model": MODEL, "prompt": "Count: 1, 2, 3, 4,", "max_tokens": 30, "temperature": 0}
    long = (await gate.ask(key, body, path="/v1/completions")).json()["choices"][0]["text"]
    assert len(long) > 12
    stop = long[5:10]
    short = (await gate.ask(key, {**body, "stop": [stop]}, path="/v1/completions")).json()["choices"][0]
    assert short["finish_reason"] == "stop"
    assert stop not in short["text"]


async def test_a_prompt_beyond_the_window_is_a_clear_400_in_each_dialect(gate: Gateway) -> None:
    key = await gate.key()
    for client in CLIENTS:
        asked = call(client, "word " * WINDOW, stream=True)
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        if client == "anthropic":
            assert error["message"].startswith("prompt is too long")
        elif client != "gemini":
            assert error["code"] == "context_length_exceeded"
        assert f"at most {WINDOW}" in error["message"]


PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
UNABLE: dict[str, dict[str, Any]] = {
    "chat": {"n": 2},
    "responses": {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]},
    "anthropic": {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
    "gemini": {
        "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": PICTURE}}], "role": "user"}],
    },
}


async def test_what_the_model_cannot_do_is_a_400_in_each_dialect(gate: Gateway) -> None:
    key = await gate.key()
    for client in CLIENTS:
        for stream in (False, True):
            asked = call(client, HELLO, stream=stream)
            body = asked.body | UNABLE[client]
            reply = await gate.ask(key, body, path=asked.path, headers=asked.headers)
            assert reply.status_code == 400, reply.text
            assert reply.json()["error"]["message"]


async def test_it_answers_only_when_it_is_named(gate: Gateway) -> None:
    key = await gate.key()
    asked = call("chat", HELLO)
    reply = await gate.ask(key, asked.body | {"model": "gpt-4o"}, path=asked.path)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "model_not_found"
    assert f'with {{"model": "{MODEL}"' in reply.json()["error"]["message"]
    embedding = await gate.ask(key, {"model": MODEL, "input": "x"})
    assert embedding.status_code == 503


async def test_a_caller_who_leaves_frees_the_slot(gate: Gateway, chat: ChatProcess) -> None:
    key = await gate.key()
    asked = call("anthropic", "Tell me a very long story.", stream=True, max_tokens=WINDOW - 100)
    headers = {"authorization": f"Bearer {key}", **asked.headers}
    reading_s = await chat.reading_s()

    async def costs_little() -> bool:
        before_s = chat.cpu_s()
        async with gate.http.stream("POST", asked.path, json=asked.body, headers=headers) as reply:
            async for line in reply.aiter_lines():
                if "text_delta" in line:
                    break
            was_running = (await chat.ask("/healthz"))["running"] == 1
        await chat.idle()
        account = await gate.account(reply.headers["x-request-id"], key)
        assert account["cost_usd"] == "0.00"
        return was_running and chat.cpu_s() - before_s < reading_s / 2 and account["usage"]["output_tokens"] < 500

    # Again where this process, which is also its gateway, stood still while the model went on.
    await until(costs_little, 100)


async def test_a_long_prompt_is_given_up_while_it_is_read(gate: Gateway, chat: ChatProcess) -> None:
    key = await gate.key()
    asked = call("chat", LONG, stream=True)
    reading_s = await chat.reading_s()

    async def costs_little() -> bool:
        before_s = chat.cpu_s()
        leaving = asyncio.create_task(gate.ask(key, asked.body, path=asked.path))

        async def is_read() -> bool:
            return leaving.done() or bool((await chat.ask("/healthz"))["running"])

        await until(is_read)
        if leaving.done():
            return False
        leaving.cancel()
        await chat.idle()
        return chat.cpu_s() - before_s < reading_s / 2

    await until(costs_little, 100)


async def test_killed_under_a_stream_it_ends_in_an_explicit_error_and_the_next_call_is_answered(
    gate: Gateway, chat: ChatProcess
) -> None:
    key = await gate.key()
    asked = call("chat", "Tell me a very long story.", stream=True, max_tokens=WINDOW - 100)
    headers = {"authorization": f"Bearer {key}"}
    told = ""
    async with gate.http.stream("POST", asked.path, json=asked.body, headers=headers) as reply:
        async for line in reply.aiter_lines():
            told += line
            if told.count("content") == 3:
                chat.kill()
    assert "[DONE]" not in told
    assert json.loads(told.rpartition("data: ")[2])["error"]["code"] == "upstream_error"
    account = await gate.account(reply.headers["x-request-id"], key)
    assert (account["outcome"], account["cost_usd"]) == ("broken_stream", "0.00")
    await asyncio.to_thread(chat.start)
    again = call("chat", HELLO)
    assert (await gate.ask(key, again.body, path=again.path)).status_code == 200
