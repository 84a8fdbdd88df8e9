"""The official openai package, unmodified, straight at the sandbox: every text feature, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai import AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from elkapi.sandbox.server import Running

MODEL = "gpt-4o"
PIXEL = "data:image/png;base64,iVBORw0KGgo="
WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CHAT_TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER_SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
]
FLAT_TOOLS: list[Any] = [{"type": "function", "name": "get_weather", "parameters": WEATHER_SCHEMA, "strict": True}]


class Plan(pydantic.BaseModel):
    """What structured outputs are parsed into."""

    title: str
    steps: list[str]
    done: bool


@pytest.fixture
def client(sandbox: Running) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-anything", base_url=sandbox.base_url + "/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def azure(sandbox: Running) -> Iterator[AzureOpenAI]:
    with AzureOpenAI(
        api_key="0123456789abcdef", azure_endpoint=sandbox.base_url, api_version="2025-03-01-preview", max_retries=0
    ) as client:
        yield client


def user(content: Any) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": content}]


# Chat


def test_chat_answers_text_system_and_turns(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "[[say: first]]"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "second"},
        ],
    )
    assert answer.choices[0].message.content == "You said: second"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2 + 2 + 1 + 1, 3)


def test_chat_streams_what_it_answers_whole(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=user("[[tokens: 30]]"), n=2, logprobs=True)
    with client.chat.completions.stream(
        model=MODEL, messages=user("[[tokens: 30]]"), n=2, logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert [choice.message.content for choice in streamed.choices] == [
        choice.message.content for choice in whole.choices
    ]
    assert streamed.usage == whole.usage
    assert streamed.choices[1].logprobs is not None
    assert whole.choices[1].logprobs is not None
    assert streamed.choices[1].logprobs.content == whole.choices[1].logprobs.content


def test_chat_takes_images_and_counts_them(client: OpenAI) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.jpg", "detail": "low"}},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=user(parts))
    assert answer.choices[0].message.content == (
        "You said: What is this? You showed: image image/png of 8 bytes, image https://pictures.example/a.jpg."
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 2 * 85


@pytest.mark.parametrize("streams", [False, True])
def test_chat_runs_a_loop_of_parallel_tools(client: OpenAI, streams: bool) -> None:
    messages = user('Do it. [[tools: get_weather {"city":"Oslo","days":2}; get_time]] [[tools: get_time]]')
    rounds: list[list[str]] = []
    for _ in range(5):
        if streams:
            with client.chat.completions.stream(model=MODEL, messages=messages, tools=CHAT_TOOLS) as stream:
                message: Any = stream.get_final_completion().choices[0].message
        else:
            message = (
                client.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS).choices[0].message
            )
        if not message.tool_calls:
            break
        rounds.append([call.function.name for call in message.tool_calls])
        messages.append(message.to_dict())
        for call in message.tool_calls:
            told = f"{call.function.name} ran with {json.loads(call.function.arguments)}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
    assert rounds == [["get_weather", "get_time"], ["get_time"]]
    assert message.content == "get_time answered get_time ran with {}"


def test_chat_obeys_the_tool_choice(client: OpenAI) -> None:
    def called(choice: Any, **more: Any) -> list[str]:
        answer = client.chat.completions.create(
            model=MODEL, messages=user("get_time and get_weather"), tools=CHAT_TOOLS, tool_choice=choice, **more
        )
        return [call.function.name for call in answer.choices[0].message.tool_calls or []]

    assert called("auto") == ["get_weather", "get_time"]
    assert called("auto", parallel_tool_calls=False) == ["get_weather"]
    assert called("none") == []
    assert called({"type": "function", "function": {"name": "get_time"}}) == ["get_time"]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    assert called({"type": "allowed_tools", "allowed_tools": allowed}) == ["get_time"]


@pytest.mark.parametrize("streams", [False, True])
def test_chat_calls_a_custom_tool(client: OpenAI, streams: bool) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": user('[[tools: shell "ls -la"]]'),
        "tools": [{"type": "custom", "custom": {"name": "shell"}}],
    }
    if streams:
        # The stream helper knows function calls only: custom ones are put together from the chunks.
        deltas = [
            chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True) if chunk.choices
        ]
        calls: list[Any] = [call.to_dict() for delta in deltas for call in delta.tool_calls or []]
        text = "".join(call["custom"]["input"] for call in calls)
        assert (calls[0]["type"], calls[0]["custom"]["name"], text) == ("custom", "shell", "ls -la")
    else:
        (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
        assert (call.type, call.custom.name, call.custom.input) == ("custom", "shell", "ls -la")


def test_chat_fills_a_schema(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(model=MODEL, messages=user("plan"), response_format=Plan)
    assert parsed.choices[0].message.parsed == Plan(title="title", steps=["steps"], done=True)
    with client.chat.completions.stream(model=MODEL, messages=user("plan"), response_format=Plan) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed.choices[0].message.parsed
    some = client.chat.completions.create(model=MODEL, messages=user("x"), response_format={"type": "json_object"})
    assert json.loads(some.choices[0].message.content or "") == {"answer": "You said: x"}


def test_chat_thinks_refuses_and_stops(client: OpenAI) -> None:
    def asked(text: str, **more: Any) -> Any:
        return client.chat.completions.create(**{"model": MODEL, "messages": user(text), **more})

    thought = asked("x", reasoning_effort="high")
    assert thought.usage.completion_tokens_details.reasoning_tokens == 16
    assert getattr(thought.choices[0].message, "reasoning_content", None) is None
    assert asked("[[think: aha]]", model="deepseek-reasoner").choices[0].message.reasoning_content == "aha"
    assert asked("[[refuse: no]]").choices[0].message.refusal == "no"
    assert asked("one two three", stop=["two"]).choices[0].message.content == "You said: one "
    cut = asked("[[tokens: 50]]", max_completion_tokens=10)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 10)
    cached = asked("[[cached: 100]]").usage
    assert (cached.prompt_tokens, cached.prompt_tokens_details.cached_tokens) == (100, 100)
    assert asked("x", seed=1).choices == asked("x", seed=1).choices


def test_chat_keeps_what_is_stored(client: OpenAI) -> None:
    made = client.chat.completions.create(model=MODEL, messages=user("kept"), store=True, metadata={"case": "sdk"})
    assert [one.id for one in client.chat.completions.list(metadata={"case": "sdk"})] == [made.id]
    assert client.chat.completions.retrieve(made.id).choices == made.choices
    assert client.chat.completions.update(made.id, metadata={"k": "v"}).metadata == {"k": "v"}
    assert [one.content for one in client.chat.completions.messages.list(made.id)] == ["kept"]
    assert client.chat.completions.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(made.id)


# Faults


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ("error-before", openai.APIError),
        ("error-after=2", openai.APIError),
        ("invalid-json", json.JSONDecodeError),
        ("cut-after=2", openai.APIConnectionError),
        ("status=529", openai.InternalServerError),
        ("status=429", openai.RateLimitError),
    ],
)
def test_a_broken_stream_raises(client: OpenAI, fault: str, raised: type[Exception]) -> None:
    with pytest.raises((raised, Exception) if fault == "cut-after=2" else raised):
        list(
            client.chat.completions.create(
                model=MODEL, messages=user("x"), stream=True, extra_headers={"x-sandbox-fault": fault}
            )
        )


@pytest.mark.parametrize("fault", ["split=1", "split=100000", "comments", "slow-drip=1ms", "pace=1ms"])
def test_a_stream_in_another_rhythm_says_the_same(client: OpenAI, fault: str) -> None:
    chunks = client.chat.completions.create(
        model=MODEL, messages=user("日本 🎉"), stream=True, extra_headers={"x-sandbox-fault": fault}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: 日本 🎉"


# Responses


@pytest.mark.parametrize("streams", [False, True])
def test_responses_run_a_loop_of_tools(client: OpenAI, streams: bool) -> None:
    def respond(**asked: Any) -> Any:
        if not streams:
            return client.responses.create(model=MODEL, tools=FLAT_TOOLS, **asked)
        with client.responses.stream(model=MODEL, tools=FLAT_TOOLS, **asked) as stream:
            for _ in stream:
                pass
            return stream.get_final_response()

    first = respond(input='[[think: hm]][[tools: get_weather {"city":"Oslo","days":1}; shell "ls"]]')
    outputs = []
    for item in first.output:
        if item.type == "function_call":
            outputs.append({"type": "function_call_output", "call_id": item.call_id, "output": "rain"})
        elif item.type == "custom_tool_call":
            outputs.append({"type": "custom_tool_call_output", "call_id": item.call_id, "output": "a.txt"})
    second = respond(input=outputs, previous_response_id=first.id)
    assert second.output_text == "get_weather answered rain; shell answered a.txt"


def test_responses_fill_a_schema(client: OpenAI) -> None:
    assert client.responses.parse(model=MODEL, input="plan", text_format=Plan).output_parsed == Plan(
        title="title", steps=["steps"], done=True
    )
    with client.responses.stream(model=MODEL, input="plan", text_format=Plan) as stream:
        assert stream.get_final_response().output_parsed == Plan(title="title", steps=["steps"], done=True)


def test_responses_think_refuse_and_end_early(client: OpenAI) -> None:
    thought = client.responses.create(model=MODEL, input="[[think: a b]]x", reasoning={"summary": "auto"})
    assert thought.output[0].type == "reasoning"
    assert thought.output[0].summary[0].text == "a b"
    assert thought.usage is not None
    assert thought.usage.output_tokens_details.reasoning_tokens == 2
    refused = client.responses.create(model=MODEL, input="[[refuse: no]]").output[0]
    assert refused.type == "message"
    assert refused.content[0].type == "refusal"
    cut = client.responses.create(model=MODEL, input="[[tokens: 9]]", max_output_tokens=4)
    assert cut.incomplete_details is not None
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_responses_work_in_the_background_and_are_kept(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="[[say: late]][[takes: 50ms]]", background=True)
    assert made.status == "queued"
    with client.responses.stream(response_id=made.id, starting_after=-1) as stream:
        assert stream.get_final_response().output_text == "late"
    assert client.responses.retrieve(made.id).status == "completed"
    assert [item.type for item in client.responses.input_items.list(made.id)] == ["message"]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    slow = client.responses.create(model=MODEL, input="[[takes: 60s]]", background=True)
    assert client.responses.cancel(slow.id).status == "cancelled"


def test_responses_are_counted_and_compacted(client: OpenAI) -> None:
    assert client.responses.input_tokens.count(model=MODEL, input="one two").input_tokens == 2
    small = client.responses.compact(model=MODEL, input="one two")
    assert small.output[-1].type == "compaction"


# The rest


@pytest.mark.parametrize("prompt", ["hi", ["hi", "there"], [1, 2, 3], [[1, 2], [3]]])
def test_completions_answer_every_kind_of_prompt_streamed_alike(client: OpenAI, prompt: Any) -> None:
    model = "gpt-3.5-turbo-instruct"
    whole = client.completions.create(model=model, prompt=prompt, n=2, echo=True, logprobs=1)
    texts = dict.fromkeys(range(len(whole.choices)), "")
    for chunk in client.completions.create(
        model=model, prompt=prompt, n=2, echo=True, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
        usage = chunk.usage
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert usage == whole.usage
    assert whole.choices[0].logprobs is not None
    assert "".join(whole.choices[0].logprobs.tokens or []) == whole.choices[0].text


def test_moderations_flag_what_a_text_names(client: OpenAI) -> None:
    results = client.moderations.create(input=["a picnic", "self-harm and violence"]).results
    assert [result.flagged for result in results] == [False, True]
    assert (results[1].categories.self_harm, results[1].categories.violence, results[1].categories.hate) == (
        True,
        True,
        False,
    )
    picture: Any = {"type": "image_url", "image_url": {"url": PIXEL}}
    (shown,) = client.moderations.create(input=[picture]).results
    assert shown.category_applied_input_types.violence == ["image"]


def test_azure_answers_under_deployments_with_its_filters(azure: AzureOpenAI) -> None:
    answer = azure.chat.completions.create(model=MODEL, messages=user("hi"))
    assert answer.choices[0].message.content == "You said: hi"
    choice: Any = answer.choices[0]
    assert choice.content_filter_results["hate"] == {"filtered": False, "severity": "safe"}
    chunks = list(azure.chat.completions.create(model=MODEL, messages=user("hi"), stream=True))
    assert chunks[0].choices == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[1:]) == "You said: hi"
    assert azure.embeddings.create(model="text-embedding-3-small", input="red").usage.prompt_tokens == 1
    assert azure.completions.create(model="gpt-3.5-turbo-instruct", prompt="a").choices[0].text == "You said: a"
    assert azure.responses.create(model=MODEL, input="hi").output_text == "You said: hi"


def test_azure_refuses_in_its_own_words(sandbox: Running, azure: AzureOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="deployment"):
        azure.chat.completions.create(model="no-such-deployment", messages=user("x"))
    with OpenAI(api_key="k", base_url=f"{sandbox.base_url}/openai/deployments/gpt-4o", max_retries=0) as unversioned:
        with pytest.raises(openai.NotFoundError, match="Resource not found"):
            unversioned.chat.completions.create(model=MODEL, messages=user("x"), extra_headers={"api-key": "k"})
    wrong = {"x-sandbox-fault": "refuse-key=abcdef"}
    with pytest.raises(openai.AuthenticationError, match="subscription key"):
        azure.chat.completions.create(model=MODEL, messages=user("x"), extra_headers=wrong)
