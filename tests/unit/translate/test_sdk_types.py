"""What is written for callers and for upstreams, against the types of the official SDKs (`tests/sdk_types.py`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import pytest
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from google.genai import types as google
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import BaseModel

from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import DIALECTS, PREFIXES, UPSTREAM_DIALECTS
from elkapi.translate.ir import ChatRequest, Event, Failure
from elkapi.translate.profiles import profile_for
from elkapi.translate.sse import SseDecoder
from tests.grammar import frames_in
from tests.recordings import RECORDINGS
from tests.sdk_types import mismatches

# (a whole answer, an event of a stream)
ANSWERS: dict[str, tuple[Any, Any]] = {
    "chat": (ChatCompletion, ChatCompletionChunk),
    "completions": (Completion, Completion),
    "responses": (Response, ResponseStreamEvent),
    "anthropic": (BetaMessage, BetaRawMessageStreamEvent),
    "gemini": (google.GenerateContentResponse, google.GenerateContentResponse),
}
# OpenAI itself sends these, but its SDK's types leave them out.
UNTYPED = {"completions": "finish_reason: None", "chat": "tool_calls"}
FREE_TEXT = {"chat-parallel", "responses-custom"}


def read(recording: Path) -> list[Event]:
    """The events of a recorded stream."""
    reader = DIALECTS[recording.stem.partition("-")[0]].reader()
    decoder = SseDecoder()
    frames = [*decoder.feed(recording.read_bytes()), *decoder.close()]
    return [event for frame in frames for event in reader.feed(frame)]


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda value: value.stem)
@pytest.mark.parametrize("client", ANSWERS)
def test_every_recorded_answer_is_of_the_types_of_every_clients_sdk(client: str, recording: Path) -> None:
    events = read(recording)
    if any(isinstance(event, Failure) for event in events):
        return
    caller: Any = "chat" if client == "completions" else client
    asked = ChatRequest(model="m", messages=[], logprobs=True, dialect=caller)
    facts = ReplyFacts(f"{PREFIXES.get(client, '')}1", "m", 1_700_000_000, asked, include_usage=True)
    writer = DIALECTS[client].writer(facts)
    streamed = b"".join(map(writer.feed, events)) + writer.finish()
    rows = [json.loads(data) for _, data in frames_in(streamed) if data != "[DONE]"]
    whole, event = ANSWERS[client]
    found = mismatches(whole, json.loads(DIALECTS[client].write_reply(events, facts)))
    found += [wrong for row in rows for wrong in mismatches(event, row, str(row.get("type", "chunk")))]
    if client != "chat" or recording.stem in FREE_TEXT:
        found = [wrong for wrong in found if UNTYPED.get(client, "\n") not in wrong]
    assert not found


class GoogleBody(BaseModel):
    """The body of `generateContent`, which google-genai has no type of."""

    contents: list[google.Content]
    systemInstruction: google.Content | None = None
    tools: list[google.Tool] | None = None
    toolConfig: google.ToolConfig | None = None
    generationConfig: google.GenerationConfig | None = None


CONVERSE = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape
UPSTREAMS: dict[str, tuple[str, str, Any]] = {
    "chat": ("openai", "gpt-5.2", CompletionCreateParamsNonStreaming),
    "responses": ("openai", "gpt-5.2", ResponseCreateParamsNonStreaming),
    "anthropic": ("anthropic", "claude-sonnet-5", MessageCreateParamsNonStreaming),
    "gemini": ("gemini", "gemini-3-pro", GoogleBody),
    "converse": ("bedrock", "amazon.nova-pro-v1:0", None),
}
# What the API takes as well: earlier answers without the ids and the sources that they had elsewhere.
TAKEN = ("'output_text' is none of", "ResponseOutputMessageParam", "ResponseReasoningItemParam")
PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PLACE = {"city": "Rome", "country": "IT"}
GRAMMAR = {"syntax": "lark", "definition": "start: x"}
# A conversation with everything that crosses, and one that searches.
TALKING: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
                    {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"}},
                ],
            },
            {
                "role": "assistant",
                "content": "Well.",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "reasoning_effort": "low",
        "max_completion_tokens": 100,
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "auto",
    },
    "responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look."},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                    {"type": "input_file", "file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": False}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
    },
    "anthropic": {
        "model": "m",
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "rain"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}}},
        "metadata": {"user_id": "u"},
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "Look."}, {"inlineData": {"mimeType": "image/png", "data": PNG}}],
            },
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"result": "rain"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
        "generationConfig": {
            "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
            "responseMimeType": "application/json",
            "responseSchema": SCHEMA,
            "maxOutputTokens": 100,
        },
    },
}
SEARCHING: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "web_search_options": {
            "search_context_size": "low",
            "user_location": {"type": "approximate", "approximate": PLACE},
        },
    },
    "responses": {
        "model": "m",
        "input": "hi",
        "tools": [
            {"type": "web_search", "search_context_size": "low", "user_location": {"type": "approximate", **PLACE}}
        ],
    },
    "anthropic": {
        "model": "m",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [
            {"type": "web_search_20250305", "name": "web_search", "user_location": {"type": "approximate", **PLACE}}
        ],
    },
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "tools": [{"googleSearch": {}}]},
}
# The same tool of free text in OpenAI's two dialects.
FREE: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": GRAMMAR}}}],
    },
    "responses": {
        "model": "m",
        "input": "hi",
        "tools": [{"type": "custom", "name": "g", "format": {"type": "grammar", **GRAMMAR}}],
    },
}
# Nova searches nothing.
ASKED = [(TALKING, UPSTREAMS.keys()), (SEARCHING, UPSTREAMS.keys() - {"converse"}), (FREE, FREE.keys())]
CROSSINGS = [
    pytest.param(body, client, upstream, id=f"{client}-{upstream}")
    for bodies, upstreams in ASKED
    for client, body in bodies.items()
    for upstream in sorted(upstreams)
]


@pytest.mark.parametrize(("body", "client", "upstream"), CROSSINGS)
def test_what_is_asked_of_an_upstream_is_of_its_sdks_types(body: dict[str, Any], client: str, upstream: str) -> None:
    family, model, asked = UPSTREAMS[upstream]
    request = DIALECTS[client].read_request(json.dumps(body).encode())
    request.model = model
    written = json.loads(UPSTREAM_DIALECTS[upstream].write_request(request, profile_for(family, model)))
    if upstream == "converse":
        report = botocore.validate.ParamValidator().validate({"modelId": model, **written}, CONVERSE)
        assert not report.has_errors(), report.generate_report()
        return
    found = mismatches(asked, written, closed=True)
    assert not [wrong for wrong in found if not any(known in wrong for known in TAKEN)]


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"id": None}, ".id: None is no str"),
        ({"created": 1.5}, ".created: 1.5 is no int"),
        ({"object": "x"}, ".object: 'x' is none of ('chat.completion',)"),
        ({"choices": [{}]}, ".choices[0].finish_reason: missing (Choice)"),
        ({"usage": {"prompt_tokens": True}}, ".usage.prompt_tokens: True is no int"),
    ],
)
def test_what_an_sdk_would_construct_all_the_same_is_a_mismatch(changed: dict[str, Any], wrong: str) -> None:
    answer = {"id": "x", "created": 1, "model": "m", "object": "chat.completion", "choices": [], "more": 1}
    assert mismatches(ChatCompletion, answer) == []
    assert wrong in mismatches(ChatCompletion, answer | changed)
    assert mismatches(ChatCompletion, answer, closed=True) == [".more: unknown (ChatCompletion)"]
    block = {"type": "nothing"}
    assert mismatches(BetaMessage, {"content": [block]})[-1].startswith(".content[0]")
