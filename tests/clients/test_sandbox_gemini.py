"""The official google-genai package, unmodified, straight at the sandbox: the Gemini API and Vertex, sync and async."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google import genai
from google.genai import errors, types
from google.oauth2 import credentials, service_account

from elkapi.sandbox.server import Running
from tests.clients.client_stage import done

# The package's own asynchronous session is a subclass that aiohttp advises against.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]

FLASH, PRO3 = "gemini-2.5-flash", "gemini-3-pro-preview"
TOOLS: list[Any] = [
    {
        "function_declarations": [
            {"name": "weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}},
            {"name": "clock", "parameters_json_schema": {"type": "object", "properties": {}}},
        ]
    }
]
CALLING: Any = {"tools": TOOLS, "automatic_function_calling": {"disable": True}}


def made(platform: str, base_url: str) -> genai.Client:
    if platform == "gemini":
        options: Any = {"base_url": base_url, "api_version": "v1beta"}
        return genai.Client(api_key="AIza-given", http_options=options)
    token = credentials.Credentials("ya29.given")
    place: dict[str, Any] = {"project": "p", "location": "us-central1"}
    return genai.Client(vertexai=True, credentials=token, http_options={"base_url": base_url}, **place)


class Talker:
    """One client, sync or async: `say` is generate_content, `stream` all chunks of generate_content_stream."""

    def __init__(self, client: genai.Client, *, is_async: bool) -> None:
        self.client = client
        self.models: Any = client.aio.models if is_async else client.models

    async def say(self, contents: Any, model: str = FLASH, **config: Any) -> types.GenerateContentResponse:
        found: types.GenerateContentResponse = await done(
            self.models.generate_content(model=model, contents=contents, config=config)
        )
        return found

    async def stream(self, contents: Any, model: str = FLASH, **config: Any) -> list[types.GenerateContentResponse]:
        found = await done(self.models.generate_content_stream(model=model, contents=contents, config=config))
        return [chunk async for chunk in found] if hasattr(found, "__aiter__") else list(found)


@pytest.fixture(params=["gemini sync", "gemini async", "vertex sync", "vertex async"])
async def talker(request: pytest.FixtureRequest, sandbox: Running) -> AsyncIterator[Talker]:
    platform, way = request.param.split()
    client = made(platform, sandbox.base_url)
    yield Talker(client, is_async=way == "async")
    await client.aio.aclose()
    client.close()


def parts(answers: list[types.GenerateContentResponse]) -> list[Any]:
    found = []
    for answer in answers:
        for candidate in answer.candidates or []:
            found += (candidate.content and candidate.content.parts) or []
    return found


def summary(answers: list[types.GenerateContentResponse]) -> dict[str, Any]:
    """What a whole answer, or the chunks of a streamed one, add up to."""
    said = parts(answers)
    usage = answers[-1].usage_metadata
    assert usage is not None
    return {
        "text": "".join(part.text or "" for part in said if not part.thought),
        "thought": "".join(part.text or "" for part in said if part.thought),
        "calls": [(part.function_call.name, part.function_call.args) for part in said if part.function_call],
        "finish": (answers[-1].candidates or [types.Candidate()])[0].finish_reason,
        "usage": (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count),
    }


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("hello there", {"system_instruction": "be brief"}),
    "tool": ("use weather", CALLING),
    "parallel tools": ("use weather and clock", CALLING),
    "thinking": ("[[think: hm hm]] [[say: yes]]", {"thinking_config": {"include_thoughts": True}}),
    "stop": ("[[say: a END b]]", {"stop_sequences": ["END"]}),
    "max tokens": ("[[say: a b c d e f g h i]]", {"max_output_tokens": 8}),
    "schema": ("a number", {"response_mime_type": "application/json", "response_schema": {"type": "OBJECT"}}),
}


@pytest.mark.parametrize("case", list(CASES))
async def test_a_streamed_answer_equals_the_whole_one(talker: Talker, case: str) -> None:
    text, config = CASES[case]
    whole, streamed = summary([await talker.say(text, **config)]), summary(await talker.stream(text, **config))
    assert whole == streamed
    assert whole["finish"] == ("MAX_TOKENS" if case == "max tokens" else "STOP")
    assert len(whole["calls"]) == {"tool": 1, "parallel tools": 2}.get(case, 0)
    assert bool(whole["thought"]) == (case == "thinking")


@pytest.mark.parametrize("model", [FLASH, PRO3])
async def test_a_tool_loop_runs_to_its_end(talker: Talker, model: str) -> None:
    text = "[[tools: weather; clock]] [[tools: clock]] [[then: all done]]"
    contents: list[Any] = [types.Content(role="user", parts=[types.Part(text=text)])]
    seen = []
    while True:
        said = parts(await talker.stream(contents, model, **CALLING))
        calls = [part.function_call for part in said if part.function_call]
        if not calls:
            break
        seen.append([call.name for call in calls])
        answers = [types.Part.from_function_response(name=call.name, response={"result": "5"}) for call in calls]
        contents += [types.Content(role="model", parts=said), types.Content(role="user", parts=answers)]
    assert (seen, "".join(part.text or "" for part in said)) == ([["weather", "clock"], ["clock"]], "all done")


async def test_gemini_3_wants_its_signature_back(talker: Talker) -> None:
    said = parts([await talker.say("use weather", PRO3, **CALLING)])
    assert said[0].thought_signature
    said[0].thought_signature = None
    answer = types.Part.from_function_response(name="weather", response={"result": "5"})
    contents: list[Any] = ["use weather", types.Content(role="model", parts=said), types.UserContent(parts=[answer])]
    with pytest.raises(errors.ClientError, match="thought_signature"):
        await talker.say(contents, PRO3, **CALLING)


async def test_the_sdks_own_function_calling_loop_and_chat(sandbox: Running) -> None:
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    client = made("gemini", sandbox.base_url)
    chat = client.chats.create(model=PRO3, config={"tools": [weather]})
    assert chat.send_message("use weather").text == "weather answered sunny in city"
    assert chat.send_message("[[say: bye]]").text == "bye"
    streamed = client.chats.create(model=PRO3, config=CALLING)
    list(streamed.send_message_stream("use weather and clock"))
    answers: list[Any] = [
        types.Part.from_function_response(name=name, response={"result": "5"}) for name in ("weather", "clock")
    ]
    assert streamed.send_message(answers).text == "weather answered 5; clock answered 5"
    client.close()


async def test_pictures_go_in_and_come_out(talker: Talker) -> None:
    picture = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    assert (await talker.say(["look", picture])).text == "You said: look You showed: image image/png."
    drawn = await talker.say("draw", "gemini-2.5-flash-image", response_modalities=["TEXT", "IMAGE"])
    data = [part.inline_data.data for part in parts([drawn]) if part.inline_data]
    assert data[0].startswith(b"\x89PNG\r\n\x1a\n")


async def test_a_blocked_prompt_says_so(talker: Talker) -> None:
    for answer in (await talker.say("[[refuse: no]]"), (await talker.stream("[[refuse: no]]"))[0]):
        assert answer.prompt_feedback is not None
        assert answer.prompt_feedback.block_reason == "SAFETY"
        assert not answer.candidates


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
async def test_each_status_is_raised_as_its_class(talker: Talker, status: int) -> None:
    with pytest.raises(errors.ClientError if status < 500 else errors.ServerError) as caught:
        await talker.say(f"[sandbox: status={status}]")
    assert caught.value.code == status
    assert caught.value.status


async def test_a_failure_inside_a_stream_is_raised(talker: Talker) -> None:
    with pytest.raises(errors.ServerError, match="UNAVAILABLE"):
        await talker.stream("[[say: a b c]] [sandbox: error-after=1]")


async def test_embeddings_counts_and_models(talker: Talker) -> None:
    models = talker.models
    config = {"output_dimensionality": 8}
    made = await done(models.embed_content(model="text-embedding-005", contents=["a b", "c"], config=config))
    assert [len(entry.values) for entry in made.embeddings] == [8, 8]
    again = await done(models.embed_content(model="text-embedding-005", contents="c", config=config))
    assert again.embeddings[0].values == made.embeddings[1].values
    assert (await done(models.count_tokens(model=FLASH, contents="a b c"))).total_tokens == 3


def test_the_gemini_api_lists_its_models(sandbox: Running) -> None:
    client = made("gemini", sandbox.base_url)
    names = [model.name for model in client.models.list(config={"page_size": 3})]
    assert len(names) == len(set(names)) > 3
    assert client.models.get(model=FLASH).name == f"models/{FLASH}"
    client.close()


def test_a_service_account_gets_its_token_from_the_sandbox(sandbox: Running) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    info = {"client_email": "a@b", "private_key": pem, "token_uri": f"{sandbox.base_url}/token"}
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    account = service_account.Credentials.from_service_account_info(info, scopes=scopes)
    options: Any = {"base_url": sandbox.base_url}
    client = genai.Client(vertexai=True, project="p", location="global", credentials=account, http_options=options)
    assert client.models.generate_content(model=FLASH, contents="[[say: so]]").text == "so"
    targets = [received.target.split("?")[0] for received in sandbox.sandbox.recorder.shown()]
    assert targets[0] == "/token"
    assert targets[1].endswith("publishers/google/models/gemini-2.5-flash:generateContent")
    client.close()


def test_a_schema_is_parsed_by_the_sdk(sandbox: Running) -> None:
    client = made("gemini", sandbox.base_url)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    config: Any = {"response_mime_type": "application/json", "response_json_schema": schema}
    answer = client.models.generate_content(model=FLASH, contents="a number", config=config)
    assert set(json.loads(answer.text or "")) == {"n"}
    client.close()
