"""Any value of a body may be replaced by one of another type: the answer is a refusal or an answer, never a failure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Answer, Problem, Request
from elkapi.sandbox.providers import (
    anthropic,
    anthropic_batches,
    ark,
    bedrock,
    bodies,
    duomi,
    gemini,
    kling_read,
    luma,
    minimax,
    openai_chat,
    openai_completions,
    openai_judging,
    openai_responses,
    openai_videos,
    pika,
    runway,
    sora,
    veo,
    vertex,
)

from .speaking import BEDROCK, CLAUDE

VALUES: tuple[Any, ...] = (None, 5, -1, 1.5, "x", "", True, [], {}, [1], [None], [[]], [{}], {"a": 1})
SKIP = "skip_thought_signature_validator"
MESSAGES: dict[str, Any] = {
    "model": CLAUDE,
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "document", "source": {"type": "text", "data": "x"}, "title": "t"},
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "x"}]}],
        },
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "string"}}},
    "stop_sequences": ["x"],
    "temperature": 1,
    "stream": False,
}
CONTENT: dict[str, Any] = {
    "contents": [
        {
            "role": "user",
            "parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": "aa"}}, {"fileData": {}}],
        },
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": SKIP}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"a": 1}}}]},
    ],
    "systemInstruction": {"parts": [{"text": "s"}]},
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "f",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {"a": {"type": "ARRAY", "items": {"type": "STRING"}, "minItems": "1"}},
                        "required": ["a"],
                    },
                }
            ]
        }
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    "generationConfig": {
        "temperature": 1,
        "maxOutputTokens": 5,
        "stopSequences": ["a"],
        "responseModalities": ["TEXT"],
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT"},
        "thinkingConfig": {"thinkingBudget": 5, "includeThoughts": True},
        "candidateCount": 1,
    },
}
CONVERSE: dict[str, Any] = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "a"},
                {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}},
                {"document": {"format": "pdf", "name": "n", "source": {"bytes": "aaaa"}}},
                {"cachePoint": {"type": "default"}},
            ],
        },
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": {}}], "status": "error"}}]},
    ],
    "system": [{"text": "s"}],
    "inferenceConfig": {"maxTokens": 5, "temperature": 1, "topP": 1, "stopSequences": ["a"]},
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": {"type": "object"}}}}],
        "toolChoice": {"auto": {}},
    },
    "outputConfig": {"textFormat": {"structure": {"jsonSchema": {"schema": "{}"}}}},
    "additionalModelRequestFields": {"top_k": 5},
}
CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
                {"type": "file", "file": {"file_data": "aaaa", "filename": "f"}},
            ],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": "b"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"type": "custom", "custom": {"name": "c"}},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
    },
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"a": {}}, "required": ["a"]}},
    },
    "n": 1,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 1,
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {"include_usage": True},
}
OLD_CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "a"}],
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
}
RESPONSE: dict[str, Any] = {
    "model": "gpt-5",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_file", "file_data": "aaaa"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}]},
        {"role": "user", "content": "b"},
    ],
    "instructions": "i",
    "tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object"}},
        {"type": "custom", "name": "c"},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "stream": True,
}
COMPLETION = {"model": "gpt-3.5-turbo-instruct", "prompt": ["a"], "n": 1, "logprobs": 1, "echo": True, "stop": ["x"]}
JUDGED = {
    "model": "omni-moderation-latest",
    "input": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "https://a.test/"}}],
}
RANKED = {"model": "jina-reranker-v2", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}
EMBED: dict[str, Any] = {
    "requests": [
        {"model": "models/text-embedding-005", "content": {"parts": [{"text": "a"}]}, "outputDimensionality": 5}
    ]
}
PREDICT: dict[str, Any] = {"instances": [{"content": "a"}], "parameters": {"outputDimensionality": 4}}
BATCH = {"requests": [{"custom_id": "a", "params": MESSAGES}]}
PICTURE = {"bytesBase64Encoded": "aaaa", "mimeType": "image/png"}
VEO: dict[str, Any] = {
    "instances": [
        {
            "prompt": "a",
            "image": PICTURE,
            "lastFrame": PICTURE,
            "video": {"uri": "https://files.example/a.mp4"},
            "referenceImages": [{"image": PICTURE, "referenceType": "asset"}],
        }
    ],
    "parameters": {
        "sampleCount": 1,
        "durationSeconds": 8,
        "aspectRatio": "16:9",
        "resolution": "1080p",
        "personGeneration": "allow_all",
        "negativePrompt": "b",
    },
}
SEEDANCE: dict[str, Any] = {
    "model": "doubao-seedance-2-0-260128",
    "content": [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}, "role": "reference_image"},
        {"type": "audio_url", "audio_url": {"url": "https://sounds.example/a.wav"}, "role": "reference_audio"},
        {"type": "video_url", "video_url": {"url": "https://videos.example/a.mp4"}, "role": "reference_video"},
    ],
    "resolution": "720p",
    "ratio": "adaptive",
    "duration": 5,
    "seed": 1,
    "generate_audio": True,
    "watermark": False,
    "service_tier": "default",
    "execution_expires_after": 3600,
    "return_last_frame": True,
    "callback_url": "https://callbacks.example/",
    "tools": [{"type": "web_search"}],
    "safety_identifier": "s",
    "priority": 1,
}
OLD_SEEDANCE: dict[str, Any] = {
    "model": "doubao-seedance-1-0-pro-250528",
    "content": [{"type": "text", "text": "a --rs 480p --dur 5 --ratio 1:1 --seed 3 --cf true --frames 29 --fps x"}],
    "frames": 29,
    "draft": False,
}
HAILUO: dict[str, Any] = {
    "model": "S2V-01",
    "prompt": "a",
    "duration": 6,
    "resolution": "720P",
    "first_frame_image": "data:image/png;base64,aaaa",
    "subject_reference": [{"type": "character", "image": ["https://pictures.example/a.png"]}],
    "prompt_optimizer": True,
    "callback_url": "https://callbacks.example/",
}
PIKA: dict[str, Any] = {
    "promptText": "a",
    "model": "1.5",
    "pikaffect": "Melt",
    "image": "https://pictures.example/a.png",
    "options": {
        "aspectRatio": 1.5,
        "frameRate": 24,
        "camera": {"zoom": "in"},
        "parameters": {"guidanceScale": 12, "motion": 1, "negativePrompt": "", "seed": 3},
        "extend": False,
    },
}
SORA: dict[str, Any] = {
    "model": "sora-2",
    "prompt": "a",
    "seconds": "4",
    "size": "720x1280",
    "input_reference": {"image_url": "https://pictures.example/a.png"},
}


def _kling(reader: Callable[[Any], Any]) -> Callable[[Request], Answer]:
    """A handler that only reads."""

    def handler(request: Request) -> Answer:
        kling_read.read(request.body, reader)
        return Answer(200, ())

    return handler


KLING_VIDEO: dict[str, Any] = {
    "model_name": "kling-v1",
    "prompt": "a",
    "negative_prompt": "b",
    "image": "aaaa",
    "cfg_scale": 0.5,
    "mode": "std",
    "sound": "off",
    "duration": "5",
    "camera_control": {"type": "simple", "config": {"zoom": 1}},
    "callback_url": "https://callbacks.example/",
    "external_task_id": "e",
}
KLING_IMAGE: dict[str, Any] = {"prompt": "a", "n": 2, "image": "aaaa", "image_fidelity": 0.5, "aspect_ratio": "1:1"}
KLING_LIPS: dict[str, Any] = {"input": {"video_url": "u", "mode": "text2video", "text": "a", "voice_id": "v"}}
KLING_EFFECT: dict[str, Any] = {"effect_scene": "hug", "input": {"images": ["aaaa", "aaaa"], "duration": "5"}}
RUNWAY: dict[str, Any] = {
    "model": "seedance2",
    "promptImage": [{"uri": "https://pictures.example/a.png", "position": "first"}],
    "promptText": "a",
    "ratio": "1280:720",
    "duration": 5,
    "seed": 1,
}
LUMA: dict[str, Any] = {
    "model": "ray-2",
    "prompt": "a",
    "aspect_ratio": "16:9",
    "duration": "5s",
    "resolution": "720p",
    "loop": False,
    "keyframes": {"frame0": {"type": "image", "url": "https://pictures.example/a.png"}},
    "callback_url": "https://callbacks.example/",
}
LUMA_IMAGE: dict[str, Any] = {"model": "photon-1", "prompt": "a", "image_ref": [{"url": "https://pictures.example/"}]}
DUOMI: dict[str, Any] = {
    "callback_url": "https://callbacks.example/",
    "prompt": "a",
    "model": "gen4",
    "ratio": "16:9",
    "style": "cinematic",
    "options": {"seconds": 5, "motion_vector": {"x": 0, "y": 0, "z": 0, "r": 0, "bg_x_pan": 0, "bg_y_pan": 0}},
}


def _duomi(request: Request) -> Answer:
    """A handler that only reads."""
    duomi.SUBMITS["runway/pro/generate"](bodies.object_of(request.body, duomi._refuse))
    return Answer(200, ())


CASES: dict[str, tuple[Callable[[Request], Answer], str, dict[str, Any]]] = {
    "chat": (openai_chat.create, "", CHAT),
    "old chat": (openai_chat.create, "", OLD_CHAT),
    "response": (openai_responses.create, "", RESPONSE),
    "compaction": (openai_responses.compact, "", RESPONSE),
    "input count": (openai_responses.count_input, "", RESPONSE),
    "completion": (openai_completions.create, "", COMPLETION),
    "moderation": (openai_judging.moderate, "", JUDGED),
    "rerank": (openai_judging.rerank, "", RANKED),
    "messages": (anthropic.messages, "", MESSAGES),
    "batch": (anthropic_batches.create, "", BATCH),
    "generate": (gemini.generate, "gemini-3-pro-preview", CONTENT),
    "count": (gemini.count_tokens, "gemini-2.5-flash", {"generateContentRequest": CONTENT}),
    "embed": (gemini.batch_embed, "text-embedding-005", EMBED),
    "predict": (vertex.predict, "text-embedding-005", PREDICT),
    "converse": (bedrock.converse, BEDROCK, CONVERSE),
    "veo": (veo.predict_long_running, "veo-3.0-generate-001", VEO),
    "seedance": (ark.create, "", SEEDANCE),
    "old seedance": (ark.create, "", OLD_SEEDANCE),
    "minimax": (minimax.generate, "", HAILUO),
    "pika": (pika.generate, "", PIKA),
    "sora": (sora.create, "", {"model": "sora", "prompt": "a", "resolution": "480p", "images": ["https://a.test/"]}),
    "videos": (openai_videos.create, "", SORA),
    "duomi": (_duomi, "", DUOMI),
    "runway": (runway.submit, "", RUNWAY),
    "luma": (luma.create_video, "", LUMA),
    "luma image": (luma.create_image, "", LUMA_IMAGE),
    "kling": (_kling(kling_read.image_to_video), "", KLING_VIDEO),
    "kling image": (_kling(kling_read.image), "", KLING_IMAGE),
    "kling expansion": (_kling(kling_read.expansion), "", {"image": "aaaa", "up_expansion_ratio": 0.1, "n": 1}),
    "kling lips": (_kling(kling_read.lip_sync), "", KLING_LIPS),
    "kling effect": (_kling(kling_read.effects), "", KLING_EFFECT),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a body."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def changed(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made: Any = copy.deepcopy(body)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return dict(made)


@pytest.mark.parametrize("case", list(CASES))
def test_a_value_of_a_wrong_type_is_refused_or_taken_and_never_fails(case: str) -> None:
    handler, model, body = CASES[case]

    def status(sent: dict[str, Any]) -> int:
        request = Request(
            "POST", "/v1/image_to_video", (), msgspec.json.encode(sent), Faults(), "0" * 32, {"model": model}
        )
        try:
            return handler(request).status
        except Problem as problem:
            return problem.status

    found = {status(changed(body, path, value)) for path in places(body) for value in VALUES}
    assert found <= {200, 201, 400, 403, 404}
