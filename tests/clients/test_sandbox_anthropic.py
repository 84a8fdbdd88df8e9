"""The official anthropic package, unmodified, straight at the sandbox: Anthropic itself, Vertex and Bedrock.

The same body runs against each of the three, sync and async: what differs is the client's class.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest

from elkapi.sandbox.server import Running
from tests.clients.client_stage import done

pytestmark = pytest.mark.slow

MODELS = {
    "anthropic": "claude-sonnet-5-5",
    "vertex": "claude-sonnet-5-5@20260901",
    "bedrock": "us.anthropic.claude-sonnet-5-5-20260901-v1:0",
}
TOOLS: list[Any] = [
    {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
    {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
]
THINKS: Any = {"type": "enabled", "budget_tokens": 1024}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def made(platform: str, base_url: str, *, is_async: bool) -> Any:
    prefix = "Async" if is_async else ""
    if platform == "vertex":
        given: dict[str, Any] = {"project_id": "p", "region": "us-east5", "access_token": "ya29.given"}
        return getattr(anthropic, prefix + "AnthropicVertex")(base_url=f"{base_url}/v1", max_retries=0, **given)
    if platform == "bedrock":
        given = {"aws_access_key": "AKIDSANDBOX", "aws_secret_key": "sandbox-secret", "aws_region": "us-east-1"}
        return getattr(anthropic, prefix + "AnthropicBedrock")(base_url=base_url, max_retries=0, **given)
    return getattr(anthropic, prefix + "Anthropic")(base_url=base_url, api_key="sk-ant-given", max_retries=0)


class Talker:
    """One client with one model; `say` is messages.create, `stream` the accumulated answer of messages.stream."""

    def __init__(self, platform: str, client: Any) -> None:
        self.platform, self.client, self.model = platform, client, MODELS[platform]

    def _fields(self, text: Any, fields: dict[str, Any]) -> dict[str, Any]:
        messages = text if isinstance(text, list) and "role" in text[0] else [{"role": "user", "content": text}]
        return {"model": self.model, "max_tokens": 2000, "messages": messages, **fields}

    async def say(self, text: Any, **fields: Any) -> Any:
        return await done(self.client.messages.create(**self._fields(text, fields)))

    async def stream(self, text: Any, **fields: Any) -> Any:
        manager = self.client.messages.stream(**self._fields(text, fields))
        if hasattr(manager, "__aenter__"):
            async with manager as stream:
                return await stream.get_final_message()
        with manager as stream:
            return stream.get_final_message()


@pytest.fixture(params=[f"{platform} {way}" for platform in MODELS for way in ("sync", "async")])
async def talker(request: pytest.FixtureRequest, sandbox: Running) -> AsyncIterator[Talker]:
    platform, way = request.param.split()
    client = made(platform, sandbox.base_url, is_async=way == "async")
    yield Talker(platform, client)
    await done(client.close())


def comparable(answer: Any) -> dict[str, Any]:
    """An answer without what differs from call to call."""
    shown: dict[str, Any] = json.loads(answer.to_json())
    shown["id"] = ""
    for block in shown["content"]:
        block.pop("id", None)
        for name in [name for name, value in block.items() if value is None]:
            del block[name]
    return {name: shown[name] for name in ("content", "stop_reason", "stop_sequence", "role")} | {
        "output": shown["usage"]["output_tokens"],
        "input": shown["usage"]["input_tokens"],
    }


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "text": lambda: {"text": "hello there", "system": "be brief"},
    "turns": lambda: {
        "text": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
    },
    "image": lambda: {"text": [{"type": "text", "text": "look"}, {"type": "image", "source": PIXEL}]},
    "tool": lambda: {"text": "use weather", "tools": TOOLS},
    "parallel tools": lambda: {"text": "use weather and clock", "tools": TOOLS},
    "one tool at a time": lambda: {
        "text": "use weather and clock",
        "tools": TOOLS,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
    "thinking": lambda: {"text": "[[think: hm]] [[redact: so]] [[say: yes]]", "thinking": THINKS},
    "omitted thinking": lambda: {"text": "hi", "thinking": {**THINKS, "display": "omitted"}},
    "stop": lambda: {"text": "[[say: a END b]]", "stop_sequences": ["END"]},
    "max tokens": lambda: {"text": "[[say: a b c d]]", "max_tokens": 2},
    "refusal": lambda: {"text": "[[refuse: no]]"},
}
REASONS = {
    "tool": "tool_use",
    "parallel tools": "tool_use",
    "one tool at a time": "tool_use",
    "stop": "stop_sequence",
    "max tokens": "max_tokens",
    "refusal": "refusal",
}


@pytest.mark.parametrize("case", list(CASES))
async def test_a_streamed_answer_equals_the_whole_one(talker: Talker, case: str) -> None:
    whole, streamed = await talker.say(**CASES[case]()), await talker.stream(**CASES[case]())
    assert comparable(whole) == comparable(streamed)
    assert whole.stop_reason == REASONS.get(case, "end_turn")
    assert len([block for block in whole.content if block.type == "tool_use"]) == {
        "tool": 1,
        "one tool at a time": 1,
        "parallel tools": 2,
    }.get(case, 0)


async def test_a_tool_loop_with_thinking_runs_to_its_end(talker: Talker) -> None:
    turns: list[Any] = [{"role": "user", "content": "[[tools: weather]] [[tools: clock]] [[then: all done]]"}]
    seen = []
    while True:
        answer = await talker.stream(turns, tools=TOOLS, thinking=THINKS)
        uses = [block for block in answer.content if block.type == "tool_use"]
        if not uses:
            break
        seen += [use.name for use in uses]
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": "5"} for use in uses]
        turns += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    assert (seen, answer.content[-1].text) == (["weather", "clock"], "all done")


def test_the_sdks_own_tool_runner_runs_to_its_end(sandbox: Running) -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    with anthropic.Anthropic(base_url=sandbox.base_url, api_key="sk-ant-given", max_retries=0) as client:
        asked: list[Any] = [{"role": "user", "content": "use weather"}]
        runner = client.beta.messages.tool_runner(
            model=MODELS["anthropic"], max_tokens=99, messages=asked, tools=[weather]
        )
        said = runner.until_done().content[-1]
        assert said.type == "text"
        assert said.text == "weather answered sunny in city"


async def test_a_failure_inside_a_stream_is_raised(talker: Talker) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await talker.stream("[[say: a b c]] [sandbox: error-after=1]")
    assert "inside the stream" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, anthropic.BadRequestError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (413, anthropic.APIStatusError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.APIStatusError),
    ],
)
async def test_each_status_is_raised_as_its_class(talker: Talker, status: int, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught:
        await talker.say(f"[sandbox: status={status}]")
    assert isinstance(caught.value, anthropic.APIStatusError)
    assert caught.value.status_code == status
    assert talker.platform != "anthropic" or str(caught.value.request_id).startswith("req_")


async def test_a_wrong_key_is_refused(sandbox: Running) -> None:
    with anthropic.Anthropic(base_url=sandbox.base_url, api_key="sk-other", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            client.messages.create(model=MODELS["anthropic"], max_tokens=1, messages=[{"role": "user", "content": "a"}])


def test_a_rate_limit_is_retried_and_billed_once(sandbox: Running) -> None:
    with anthropic.Anthropic(base_url=sandbox.base_url, auth_token="sk-ant-token") as client:
        text = "hi [sandbox: status=529, retry-after=1ms, times=2, marker=sdk-retry]"
        client.messages.create(model=MODELS["anthropic"], max_tokens=9, messages=[{"role": "user", "content": text}])
    assert [received.status for received in sandbox.sandbox.recorder.shown()] == [529, 529, 200]
    assert sandbox.sandbox.bill.statement().lines_total == 1


async def test_counts_models_files_and_batches(sandbox: Running) -> None:
    asked: list[Any] = [{"role": "user", "content": "one two"}]
    with anthropic.Anthropic(base_url=sandbox.base_url, api_key="sk-ant-given") as client:
        assert client.messages.count_tokens(model=MODELS["anthropic"], messages=asked).input_tokens == 2
        ids = [model.id for model in client.models.list(limit=2)]
        assert len(ids) == len(set(ids)) > 2
        assert client.models.retrieve(ids[0]).lifecycle == "active"
        kept = client.files.upload(file=("a.txt", b"hello", "text/plain"))
        assert client.files.download(kept.id).read() == b"hello"
        assert [found.id for found in client.files.list(limit=1)] == [kept.id]
        assert client.files.delete(kept.id).type == "file_deleted"
        params: Any = {"model": MODELS["anthropic"], "max_tokens": 9}
        texts = ("[[say: a]] [[takes: 1ms]]", "[[say: b]] [[takes: 1ms]]")
        requests: list[Any] = [
            {"custom_id": f"r{n}", "params": {**params, "messages": [{"role": "user", "content": text}]}}
            for n, text in enumerate(texts)
        ]
        batch = client.messages.batches.create(requests=requests)
        while batch.processing_status != "ended":
            batch = client.messages.batches.retrieve(batch.id)
        results = {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}
        assert [results[f"r{n}"].type for n in range(2)] == ["succeeded", "succeeded"]
        assert [found.id for found in client.messages.batches.list()] == [batch.id]
        assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"


async def test_vertex_counts_tokens(sandbox: Running) -> None:
    client = made("vertex", sandbox.base_url, is_async=False)
    asked: list[Any] = [{"role": "user", "content": "one two"}]
    assert client.messages.count_tokens(model=MODELS["vertex"], messages=asked).input_tokens == 2
    client.close()


def test_a_schema_is_parsed_by_the_sdk(sandbox: Running) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    output: Any = {"format": {"type": "json_schema", "schema": schema}}
    with anthropic.Anthropic(base_url=sandbox.base_url, api_key="sk-ant-given") as client:
        asked: list[Any] = [{"role": "user", "content": "a number"}]
        answer = client.messages.create(model=MODELS["anthropic"], max_tokens=99, messages=asked, output_config=output)
    assert answer.content[0].type == "text"
    assert set(json.loads(answer.content[0].text)) == {"n"}
