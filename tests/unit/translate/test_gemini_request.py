"""Gemini's requests: both spellings, tools by name and order, settings, what may cross and what may not."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate import ir
from elkapi.translate.claude import JSON_INSTRUCTION
from elkapi.translate.dialects import UPSTREAM_DIALECTS
from elkapi.translate.gemini import DIALECT
from elkapi.translate.gemini_write import BUDGET_MAX, UNSIGNED, UNSIGNED_BYTES
from elkapi.translate.profiles import Profile, profile_for

GEMINI_25 = profile_for("gemini", "gemini-2.5-flash")
GEMINI_25_PRO = profile_for("gemini", "gemini-2.5-pro")
GEMINI_3 = profile_for("gemini", "gemini-3-pro-preview")
GEMINI_2 = profile_for("gemini", "gemini-2.0-flash")

RICH: dict[str, Any] = {
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "Look."},
                {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
                {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg==", "displayName": "a.pdf"}},
                {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.test/a.jpg"}},
                {"fileData": {"fileUri": "https://example.test/film"}},
                {
                    "fileData": {"mimeType": "video/mp4", "fileUri": "https://example.test/f.mp4"},
                    "videoMetadata": {"startOffset": "3s"},
                },
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "Two calls.", "thought": True},
                {"text": "Calling.", "thoughtSignature": "c2ln"},
                {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
                {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
                {"functionCall": {"name": "weather", "args": {"city": "Ulm"}}, "thoughtSignature": "YWJj"},
                {"functionCall": {"name": "weather", "args": {"city": "Bern"}}},
                {"functionCall": {"name": "clock", "args": {}, "id": "theirs"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"result": "rain"}}},
                {"functionResponse": {"name": "weather", "response": {"degrees": 4}}},
                {
                    "functionResponse": {
                        "name": "clock",
                        "id": "theirs",
                        "response": {"error": "broken"},
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}],
                    }
                },
                {"text": "Go on."},
            ],
        },
    ],
    "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "Of a city",
                    "parametersJsonSchema": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "additionalProperties": False,
                    },
                    "behavior": "BLOCKING",
                },
                {"name": "clock"},
            ]
        },
        {"googleSearch": {}},
        {"fileSearch": {"fileSearchStoreNames": ["a_b"]}},
    ],
    "toolConfig": {
        "functionCallingConfig": {"mode": "VALIDATED", "allowedFunctionNames": ["weather", "clock"]},
        "retrievalConfig": {"languageCode": "de"},
    },
    "generationConfig": {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "candidateCount": 2,
        "maxOutputTokens": 100,
        "stopSequences": ["END"],
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseLogprobs": True,
        "logprobs": 3,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}},
        "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True},
        "responseModalities": ["TEXT"],
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
        "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
        "imageConfig": {"aspectRatio": "16:9"},
    },
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
    "cachedContent": "cachedContents/abc",
    "labels": {"team_name": "x"},
}


def _read(body: object) -> ir.ChatRequest:
    return DIALECT.read_request(json.dumps(body).encode())


def _write(request: ir.ChatRequest, profile: Profile = GEMINI_25) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(DIALECT.write_request(request, profile))
    return written


def _chat(*messages: ir.Message, **members: Any) -> ir.ChatRequest:
    return ir.ChatRequest(model="m", messages=list(messages) or [_user("hi")], **members)


def _user(*parts: Any) -> ir.Message:
    return ir.Message("user", tuple(ir.Text(part) if isinstance(part, str) else part for part in parts))


def _model(*parts: Any) -> ir.Message:
    return ir.Message("assistant", tuple(ir.Text(part) if isinstance(part, str) else part for part in parts))


def test_what_is_read_is_written_back_as_it_was() -> None:
    assert _write(_read(RICH)) == RICH


def _snake(value: Any, inside: str = "") -> Any:
    if isinstance(value, list):
        return [_snake(item, inside) for item in value]
    if not isinstance(value, dict) or inside in ("args", "response", "labels") or inside.endswith("Schema"):
        return value
    return {"".join("_" + c.lower() if c.isupper() else c for c in k): _snake(v, k) for k, v in value.items()}


def test_snake_case_means_the_same() -> None:
    snake = _snake(RICH)
    assert snake["generation_config"]["max_output_tokens"] == 100
    assert _read(snake) == _read(RICH)


def test_a_member_that_is_null_is_not_there() -> None:
    nothing: dict[str, Any] = {"cachedContent": None, "system_instruction": None, "toolConfig": None}
    part = {"text": "hi", "videoMetadata": None, "inlineData": None}
    tools: list[dict[str, Any]] = [
        {"functionDeclarations": None, "googleSearch": {}},
        {"google_search": None, "codeExecution": {}},
    ]
    request = _read({**nothing, "contents": [{"role": None, "parts": [part]}], "tools": tools})
    assert request == _read({"contents": [{"parts": [{"text": "hi"}]}], "tools": [{"googleSearch": {}}, tools[1]]})
    DIALECT.check_crossing(request)


def test_one_of_a_list_may_stand_without_it() -> None:
    """As some of Google's own examples have it; its parser takes both."""
    declared = {"name": "f", "parameters": {"type": "OBJECT", "properties": {"parts": {"type": "OBJECT"}}}}
    alone = {
        "system_instruction": {"parts": {"text": "Be brief."}},
        "contents": {"role": "user", "parts": {"text": "hi"}},
        "tools": {"function_declarations": declared},
    }
    assert _read(alone) == _read(
        {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
            "tools": [{"functionDeclarations": [declared]}],
        }
    )


def test_a_member_in_both_spellings_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        _read({**RICH, "cached_content": "x"})
    assert caught.value.param == "cachedContent"


def test_calls_get_ids_by_order_and_responses_find_them_by_name_then_order() -> None:
    request = _read(RICH)
    calls = [part for message in request.messages for part in message.parts if isinstance(part, ir.ToolCall)]
    results = [part for message in request.messages for part in message.parts if isinstance(part, ir.ToolResult)]
    assert [call.id for call in calls] == ["call_0", "call_1", "theirs"]
    assert [(result.call_id, result.name, result.is_error) for result in results] == [
        ("call_0", "weather", False),
        ("call_1", "weather", False),
        ("theirs", "clock", True),
    ]
    assert results[0].parts == (ir.Text("rain"),)
    assert results[1].parts == (ir.Text('{"degrees":4}'),)


def test_the_stand_in_for_a_signature_signs_nothing_when_it_comes_back() -> None:
    call = {"functionCall": {"name": "f", "args": {}}}
    for word in (UNSIGNED, UNSIGNED_BYTES):
        contents = [{"role": "model", "parts": [{**call, "thoughtSignature": word}]}]
        (said,) = DIALECT.read_request(json.dumps({"contents": contents}).encode()).messages
        assert said.parts == (ir.ToolCall("call_0", "f", "{}"),)


def test_the_chunks_of_a_streamed_answer_are_one_text_again() -> None:
    parts = [
        {"text": "h", "thought": True},
        {"text": "m", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "You sai"},
        {"text": "d: hi", "thoughtSignature": "c2ln"},
        {"text": "!"},
    ]
    contents = [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}, {"role": "model", "parts": parts}]
    asked, said = DIALECT.read_request(json.dumps({"contents": contents}).encode()).messages
    signed: dict[str, Any] = {"signature": "c2ln", "signed_by": "gemini"}
    assert said.parts == (ir.Thinking("hm", **signed), ir.Text("You said: hi"), ir.Thinking(**signed), ir.Text("!"))
    assert asked.parts == (ir.Text("a"), ir.Text("b"))


def test_the_result_of_a_call_without_an_id_belongs_to_it_though_the_client_gave_it_one() -> None:
    """Gemini CLI does so; its conversation would end where another model goes on with it."""
    calls = [
        {"functionCall": {"name": "f"}},
        {"functionCall": {"name": "f", "id": "b"}},
        {"functionCall": {"name": "f"}},
    ]
    ids = ["f-1755-3c1d", "b", "f-1755-77aa"]
    results = [{"functionResponse": {"name": "f", "id": id_, "response": {"result": id_}}} for id_ in ids]
    request = _read({"contents": [{"role": "model", "parts": calls}, {"role": "user", "parts": results}]})
    DIALECT.check_crossing(request)
    made = [part.id for part in request.messages[0].parts if isinstance(part, ir.ToolCall)]
    answered = {part.call_id: part.parts for part in request.messages[1].parts if isinstance(part, ir.ToolResult)}
    assert answered == {call: (ir.Text(id_),) for call, id_ in zip(made, ids, strict=True)}
    # An id that no call has, where no call waits for a result, is refused as before.
    stray = _read({"contents": [{"role": "user", "parts": results[:1]}]})
    with pytest.raises(BadRequest, match="must follow its function call"):
        DIALECT.check_crossing(stray)


def test_sound_that_a_function_answers_with_is_part_of_its_result() -> None:
    sound = {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}
    answer = {"name": "f", "response": {"result": "ok"}, "parts": [sound]}
    called = {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}
    request = _read({"contents": [called, {"parts": [{"functionResponse": answer}]}]})
    result = request.messages[1].parts[0]
    assert isinstance(result, ir.ToolResult)
    assert result.parts == (ir.Text("ok"), ir.Audio("AAAA", "wav"))
    assert _write(request)["contents"][1]["parts"] == [{"functionResponse": answer}]


@pytest.mark.parametrize(
    ("response", "text", "failed"),
    [
        ({"output": "rain"}, "rain", False),
        ({"result": "rain"}, "rain", False),
        ({"error": "no such city"}, "no such city", True),
        ({"output": {"degrees": 4}}, '{"output":{"degrees":4}}', False),
        ({"output": "rain", "degrees": 4}, '{"output":"rain","degrees":4}', False),
        ({"city": "Ulm"}, '{"city":"Ulm"}', False),
        ({}, "{}", False),
    ],
)
def test_the_text_of_a_functions_answer_is_what_other_models_are_shown(
    response: dict[str, Any], text: str, failed: bool
) -> None:
    """LangChain writes `output`, as Google describes the field; its own SDKs `result`."""
    called = {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}
    request = _read({"contents": [called, {"parts": [{"functionResponse": {"name": "f", "response": response}}]}]})
    result = request.messages[1].parts[0]
    assert isinstance(result, ir.ToolResult)
    assert (result.parts, result.is_error) == ((ir.Text(text),), failed)


@pytest.mark.parametrize(
    ("asked", "written"),
    [(["text", "image"], ["TEXT", "IMAGE"]), (["image"], ["IMAGE"]), (["text"], None), (None, None)],
)
def test_a_chat_that_wishes_for_pictures_asks_for_them(asked: list[str] | None, written: list[str] | None) -> None:
    body = _write(_chat(_user("draw"), extra={"modalities": asked}))
    assert body.get("generationConfig", {}).get("responseModalities") == written


def test_a_text_document_keeps_its_name() -> None:
    written = _write(_chat(_user(ir.File("text/plain", text="one", name="Notes"), ir.File("text/plain", text="two"))))
    assert written["contents"][0]["parts"] == [{"text": "Notes:\none"}, {"text": "two"}]


def test_url_safe_base64_of_the_sdk_becomes_the_standard_alphabet() -> None:
    data = bytes(range(248, 256))
    safe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    request = _read({"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": safe}}]}]})
    part = request.messages[0].parts[0]
    assert isinstance(part, ir.Image)
    assert part.data == base64.b64encode(data).decode()


def test_an_openapi_schema_becomes_json_schema() -> None:
    request = _read(
        {
            "contents": [{"parts": [{"text": "x"}]}],
            "tools": [
                {
                    "functionDeclarations": [
                        {
                            "name": "f",
                            "parameters": {
                                "type": "OBJECT",
                                "properties": {
                                    "max_items": {"type": "STRING", "nullable": True},
                                    "kind": {"type": "STRING", "format": "enum", "enum": ["a"]},
                                    "list": {"type": "ARRAY", "items": {"type": "INTEGER"}, "max_items": "3"},
                                },
                            },
                        }
                    ]
                }
            ],
        }
    )
    assert request.tools[0].schema == {
        "type": "object",
        "properties": {
            "max_items": {"type": ["string", "null"]},
            "kind": {"type": "string", "enum": ["a"]},
            "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": "hi"}, "contents"),
        ({"contents": [{"role": "system", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"text": 1}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"functionCall": {}}]}]}, "contents[0].parts[0].functionCall.name"),
        ({"contents": [{"parts": []}], "generationConfig": {"topK": 1.5}}, "generationConfig.topK"),
        ({"contents": [{"parts": []}], "generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"contents": [{"parts": []}], "generation_config": {"top_p": "x"}}, "generationConfig.topP"),
        (
            {"contents": [{"parts": []}], "toolConfig": {"functionCallingConfig": {"mode": "SOME"}}},
            "toolConfig.functionCallingConfig.mode",
        ),
        (
            {"contents": [{"parts": []}], "generationConfig": {"thinkingConfig": {"thinkingLevel": "HUGE"}}},
            "generationConfig.thinkingConfig.thinkingLevel",
        ),
        ({"contents": [{"parts": []}], "tools": [{"googleSearch": 1}]}, "tools[0].googleSearch"),
        (
            {"contents": [{"parts": []}], "systemInstruction": {"parts": [{"inlineData": {"data": "aGk="}}]}},
            "systemInstruction",
        ),
    ],
)
def test_a_refused_request_names_its_field(body: object, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _read(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("wire", "reasoning"),
    [
        ({"thinkingBudget": 0}, ir.Reasoning(budget_tokens=0)),
        ({"thinkingBudget": -1}, ir.Reasoning(adaptive=True)),
        ({"thinkingLevel": "LOW", "includeThoughts": True}, ir.Reasoning("low", visible=True)),
    ],
)
def test_thinking_is_read_as_it_was_asked_for_and_written_back(wire: dict[str, Any], reasoning: ir.Reasoning) -> None:
    request = _read({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": {"thinkingConfig": wire}})
    assert request.reasoning == reasoning
    assert _write(request)["generationConfig"]["thinkingConfig"] == wire


@pytest.mark.parametrize(
    ("reasoning", "profile", "wire"),
    [
        (ir.Reasoning("none"), GEMINI_25, {"thinkingBudget": 0, "includeThoughts": False}),
        (ir.Reasoning("minimal"), GEMINI_25, {"thinkingBudget": 512, "includeThoughts": True}),
        (ir.Reasoning("low"), GEMINI_25, {"thinkingBudget": 1024, "includeThoughts": True}),
        (ir.Reasoning("medium"), GEMINI_25, {"thinkingBudget": 8192, "includeThoughts": True}),
        (ir.Reasoning("high", visible=False), GEMINI_25, {"thinkingBudget": 24576, "includeThoughts": False}),
        (ir.Reasoning("max"), GEMINI_25, {"thinkingBudget": BUDGET_MAX, "includeThoughts": True}),
        (ir.Reasoning(budget_tokens=99_999), GEMINI_25, {"thinkingBudget": BUDGET_MAX, "includeThoughts": True}),
        (ir.Reasoning(adaptive=True), GEMINI_25, {"thinkingBudget": -1, "includeThoughts": True}),
        (ir.Reasoning("none"), GEMINI_25_PRO, {"thinkingBudget": 128, "includeThoughts": False}),
        (ir.Reasoning(adaptive=True), GEMINI_25_PRO, {"thinkingBudget": -1, "includeThoughts": True}),
        (ir.Reasoning("none"), GEMINI_3, {"thinkingLevel": "LOW", "includeThoughts": False}),
        (ir.Reasoning("xhigh"), GEMINI_3, {"thinkingLevel": "HIGH", "includeThoughts": True}),
        (ir.Reasoning(budget_tokens=2000), GEMINI_3, {"thinkingLevel": "LOW", "includeThoughts": True}),
        (ir.Reasoning(adaptive=True), GEMINI_3, {"includeThoughts": True}),
    ],
)
def test_an_effort_becomes_the_budget_or_the_level_that_the_model_takes(
    reasoning: ir.Reasoning, profile: Profile, wire: dict[str, Any]
) -> None:
    assert _write(_chat(reasoning=reasoning), profile)["generationConfig"]["thinkingConfig"] == wire


@pytest.mark.parametrize(
    ("model", "levels"),
    [
        ("gemini-3-pro-preview", ["LOW", "LOW", "LOW", "HIGH"]),
        ("gemini-3.1-pro-preview", ["LOW", "LOW", "MEDIUM", "HIGH"]),
        ("gemini-3-flash-preview", ["MINIMAL", "LOW", "MEDIUM", "HIGH"]),
        ("models/gemini-3.6-flash", ["MINIMAL", "LOW", "MEDIUM", "HIGH"]),
        ("gemini-3.7-flash", ["LOW", "LOW", "MEDIUM", "HIGH"]),
        ("gemini-3.5-flash-lite", ["MINIMAL", "LOW", "MEDIUM", "HIGH"]),
    ],
)
def test_a_level_is_one_that_the_model_knows(model: str, levels: list[str]) -> None:
    efforts: tuple[ir.Effort, ...] = ("minimal", "low", "medium", "high")
    asked = [_write(_chat(reasoning=ir.Reasoning(effort)), profile_for("gemini", model)) for effort in efforts]
    assert [one["generationConfig"]["thinkingConfig"]["thinkingLevel"] for one in asked] == levels


@pytest.mark.parametrize("profile", [GEMINI_2, profile_for("gemini", "gemini-2.5-flash-image")])
def test_a_model_that_does_not_think_is_not_asked_to(profile: Profile) -> None:
    assert "generationConfig" not in _write(_chat(reasoning=ir.Reasoning("high")), profile)


def test_results_of_parallel_calls_go_back_in_the_order_of_the_calls_with_the_tools_name() -> None:
    request = _chat(
        _user("?"),
        _model(ir.ToolCall("a", "f", '{"n":1}'), ir.ToolCall("b", "f", "")),
        _user(ir.ToolResult("b", (ir.Text("second"),)), ir.ToolResult("a", (ir.Text('{"first":1}'),)), "and?"),
    )
    contents = _write(request)["contents"]
    assert contents[1]["parts"] == [
        {"functionCall": {"name": "f", "args": {"n": 1}}},
        {"functionCall": {"name": "f", "args": {}}},
    ]
    assert contents[2]["parts"] == [
        {"functionResponse": {"name": "f", "response": {"first": 1}}},
        {"functionResponse": {"name": "f", "response": {"result": "second"}}},
        {"text": "and?"},
    ]


def test_a_newer_model_finds_the_call_of_a_result_by_its_id_and_its_pictures_inside() -> None:
    """Without ids such a model answers with nothing, and it refuses pictures between the results of parallel calls."""
    picture = ir.Image(data="iVBORw0KGgo=", media_type="image/png")
    page = ir.File("application/pdf", data="JVBE", name="a.pdf")
    found = (ir.Text("second"), picture, ir.File("text/plain", text="notes", name="n.txt"), page)
    request = _chat(
        _user("?"),
        _model(ir.ToolCall("toolu_1", "f", "{}"), ir.ToolCall("call_2", "f", "{}")),
        _user(ir.ToolResult("call_2", found), ir.ToolResult("toolu_1", (picture,)), "and?"),
    )
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    file = {"inlineData": {"mimeType": "application/pdf", "data": "JVBE", "displayName": "a.pdf"}}
    for model in ("gemini-3.5-flash", "models/gemini-flash-latest", "gemini-4-pro"):
        contents = _write(request, profile_for("vertex", model))["contents"]
        assert [part["functionCall"]["id"] for part in contents[1]["parts"]] == ["toolu_1", "call_2"]
        assert [part.get("thoughtSignature") for part in contents[1]["parts"]] == [UNSIGNED, None]
        second = {"result": "second\nn.txt:\nnotes"}
        assert contents[2]["parts"] == [
            {"functionResponse": {"name": "f", "response": {"result": ""}, "id": "toolu_1", "parts": [image]}},
            {"functionResponse": {"name": "f", "response": second, "id": "call_2", "parts": [image, file]}},
            {"text": "and?"},
        ]
    # An older one knows neither.
    older = _write(request)["contents"]
    assert [part["functionCall"].keys() for part in older[1]["parts"]] == [{"name", "args"}] * 2
    assert older[2]["parts"] == [
        {"functionResponse": {"name": "f", "response": {"result": ""}}},
        image,
        {"functionResponse": {"name": "f", "response": {"result": "second"}}},
        image,
        {"text": "n.txt:\nnotes"},
        file,
        {"text": "and?"},
    ]


@pytest.mark.parametrize("model", ["gemini-flash-latest", "gemini-pro-latest", "models/gemini-flash-lite-latest"])
def test_a_name_without_a_version_is_that_of_the_latest_model(model: str) -> None:
    assert profile_for("gemini", model) == profile_for("gemini", "gemini-3.7-pro")


def test_a_schema_that_a_tool_found_refers_to_no_part_of_its_response() -> None:
    """Google reads a `$ref` in a function's response as one of the response's own parts, and refuses an unknown one."""
    found = '{"$defs":{"a":{}},"x":{"$ref":"#/$defs/a"}}'
    request = _chat(_user("?"), _model(ir.ToolCall("a", "f", "{}")), _user(ir.ToolResult("a", (ir.Text(found),))))
    assert _write(request)["contents"][2]["parts"] == [
        {"functionResponse": {"name": "f", "response": {"result": found}}}
    ]


def test_calls_from_elsewhere_are_marked_for_models_that_refuse_unsigned_ones() -> None:
    calls = (ir.ToolCall("a", "f", "{}", signature="c2ln", signed_by="anthropic"), ir.ToolCall("b", "f", "{}"))
    parts = _write(_chat(_user("?"), _model(*calls)), GEMINI_3)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [UNSIGNED, None]
    assert base64.urlsafe_b64decode(UNSIGNED)
    signed = ir.ToolCall("a", "f", "{}", signature="c2ln", signed_by="gemini")
    parts = _write(_chat(_user("?"), _model(signed)), GEMINI_3)["contents"][1]["parts"]
    assert parts[0]["thoughtSignature"] == "c2ln"


def test_an_image_that_a_model_made_goes_on_with_its_signature_or_marked_as_unsigned() -> None:
    made = {"type": "image_generation_call", "id": "ig_1", "result": "iVBO", "output_format": "webp"}
    drawn = ir.ServerToolPart("responses", made)
    signed = ir.Thinking(signature="c2ln", signed_by="gemini")
    request = _chat(_user("?"), _model("Here.", drawn, signed, ir.Image(data="aWs=", media_type="image/png")))
    image = {"inlineData": {"mimeType": "image/webp", "data": "iVBO"}, "thoughtSignature": "c2ln"}
    other = {"inlineData": {"mimeType": "image/png", "data": "aWs="}}
    assert _write(request)["contents"][1]["parts"] == [{"text": "Here."}, image, other]
    marked = {**other, "thoughtSignature": UNSIGNED}
    assert _write(request, GEMINI_3)["contents"][1]["parts"] == [{"text": "Here."}, image, marked]


def test_a_signature_before_its_text_signs_that_text() -> None:
    request = _chat(_user("?"), _model(ir.Thinking(signature="c2ln", signed_by="gemini"), "Here."))
    assert _write(request, GEMINI_3)["contents"][1]["parts"] == [{"text": "Here.", "thoughtSignature": "c2ln"}]


def test_thoughts_and_signatures_of_other_dialects_are_left_out() -> None:
    request = _chat(_user("?"), _model(ir.Thinking("hm", "sig", "anthropic"), "answer"))
    assert _write(request)["contents"][1]["parts"] == [{"text": "answer"}]


@pytest.mark.parametrize(
    ("model", "goes_on"),
    [
        ("gemini-2.5-flash", False),
        ("gemini-3-flash-preview", False),
        ("gemini-3.1-pro-preview", False),
        ("gemini-3.5-flash", False),
        ("gemini-3.5-flash-lite", True),
        ("gemini-3.6-flash", True),
        ("gemini-3.10-flash", True),
        ("gemini-4-argon", True),
        ("gemini-flash-latest", True),
    ],
)
def test_an_answer_that_was_begun_is_followed_by_a_turn_where_google_refuses_it(model: str, goes_on: bool) -> None:
    said = [_user("hi"), ir.Message("assistant", (ir.Text("I"),))]
    begun, more = {"role": "model", "parts": [{"text": "I"}]}, {"role": "user", "parts": [{"text": "Continue."}]}
    profile = profile_for("vertex", model)
    assert _write(_chat(*said), profile)["contents"][1:] == ([begun, more] if goes_on else [begun])
    called = [_user("hi"), ir.Message("assistant", (ir.ToolCall("t", "now", "{}"),))]
    assert _write(_chat(*called), profile)["contents"][-1]["role"] == "model"
    own = _chat(*said)
    own.dialect = "gemini"
    assert _write(own, profile)["contents"][-1] == begun


def test_neighbours_of_one_role_are_merged_and_a_user_speaks_first() -> None:
    request = _chat(_model("a"), _user("b"), ir.Message("system", (ir.Text("c"),)), _user("d"))
    assert _write(request)["contents"] == [
        {"role": "user", "parts": [{"text": "..."}]},
        {"role": "model", "parts": [{"text": "a"}]},
        {"role": "user", "parts": [{"text": "b"}, {"text": "c"}, {"text": "d"}]},
    ]


@pytest.mark.parametrize(
    ("part", "wire"),
    [
        (ir.Image(url="https://x.test/a.PNG?w=1"), {"fileUri": "https://x.test/a.PNG?w=1", "mimeType": "image/png"}),
        (ir.Image(url="https://x.test/a"), {"fileUri": "https://x.test/a"}),
        (ir.File("application/octet-stream", url="https://x.test/a"), {"fileUri": "https://x.test/a"}),
        (
            ir.File("application/pdf", url="https://x.test/a.pdf"),
            {"fileUri": "https://x.test/a.pdf", "mimeType": "application/pdf"},
        ),
    ],
)
def test_urls_become_file_data(part: Any, wire: dict[str, Any]) -> None:
    assert _write(_chat(_user(part)))["contents"][0]["parts"] == [{"fileData": wire}]


def test_vertex_is_told_a_type_for_every_image_by_url() -> None:
    """It refuses one without, and an address often does not show it."""
    vertex = profile_for("vertex", "gemini-2.5-flash")
    for part, kind in (
        (ir.Image(url="https://x.test/a?id=1"), "image/jpeg"),
        (ir.Image(url="https://x.test/a.webp"), "image/webp"),
        (ir.Image(url="https://x.test/a", media_type="image/png"), "image/png"),
    ):
        (wire,) = _write(_chat(_user(part)), vertex)["contents"][0]["parts"]
        assert wire == {"fileData": {"fileUri": part.url, "mimeType": kind}}


@pytest.mark.parametrize(
    ("config", "written"),
    [
        ({"aspect_ratio": "16:9", "image_size": "2K"}, {"aspectRatio": "16:9", "imageSize": "2K"}),
        ({"aspect_ratio": "1:1", "font_inputs": []}, {"aspectRatio": "1:1"}),
        ({}, None),
        ("16:9", None),
    ],
)
def test_the_shape_of_an_image_that_a_chat_asks_for_is_told(config: Any, written: dict[str, Any] | None) -> None:
    for extra in ({"image_config": config}, {"extra_body": {"google": {"image_config": config}}}):
        request = _chat(extra={"modalities": ["image", "text"], **extra})
        assert _write(request)["generationConfig"].get("imageConfig") == written


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (ir.ToolChoice("auto"), {"mode": "AUTO"}),
        (ir.ToolChoice("auto", ("f",)), {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}),
        (ir.ToolChoice("none"), {"mode": "NONE"}),
        (ir.ToolChoice("required"), {"mode": "ANY"}),
        (ir.ToolChoice("named", ("f",)), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_every_tool_choice_has_its_mode_and_is_read_back(choice: ir.ToolChoice, wire: dict[str, Any]) -> None:
    written = _write(_chat(tool_choice=choice, tools=(ir.Tool("f"),)))
    assert written["toolConfig"] == {"functionCallingConfig": wire}
    assert _read(written).tool_choice == choice


SEARCH = ir.ServerTool("web_search", "anthropic", {"type": "web_search_20250305", "name": "web_search"})


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_a_choice_among_no_functions_is_left_out(mode: Any) -> None:
    """Gemini refuses it, and SDKs of other dialects send one beside an empty list of tools."""
    assert "toolConfig" not in _write(_chat(tool_choice=ir.ToolChoice(mode)))
    searching = _write(_chat(tool_choice=ir.ToolChoice(mode), server_tools=(SEARCH,)))
    assert "toolConfig" not in searching
    assert searching.get("tools", []) == ([] if mode == "none" else [{"googleSearch": {}}])


@pytest.mark.parametrize("tools", [(), (ir.Tool("f"),)])
def test_a_choice_of_a_search_leaves_gemini_to_search(tools: tuple[ir.Tool, ...]) -> None:
    """So Claude Code searches: its functions never have the search's name."""
    chosen = _chat(tool_choice=ir.ToolChoice("named", ("web_search",)), server_tools=(SEARCH,), tools=tools)
    written = _write(chosen)
    assert "toolConfig" not in written
    assert {"googleSearch": {}} in written["tools"]


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (None, None),
        (ir.ToolChoice("auto"), {"mode": "VALIDATED"}),
        (ir.ToolChoice("required"), {"mode": "ANY"}),
        (ir.ToolChoice("named", ("f",)), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (ir.ToolChoice("named", ("web_search",)), None),
    ],
)
def test_a_search_beside_functions_may_be_shown_which_google_wants_of_newer_models(
    choice: ir.ToolChoice | None, calling: dict[str, Any] | None
) -> None:
    """Without it the call is refused; Vertex AI does not know the field."""
    request = _chat(tool_choice=choice, server_tools=(SEARCH,), tools=(ir.Tool("f"),))
    written = _write(request, GEMINI_3)
    assert [*map(list, written["tools"])] == [["functionDeclarations"], ["googleSearch"]]
    shown = {"includeServerSideToolInvocations": True}
    assert written["toolConfig"] == shown | ({"functionCallingConfig": calling} if calling else {})
    for profile in (profile_for("vertex", "gemini-3.5-flash"), GEMINI_25):
        assert "includeServerSideToolInvocations" not in _write(request, profile).get("toolConfig", {})
    for alone in ({"server_tools": (SEARCH,)}, {"tools": (ir.Tool("f"),)}):
        assert "toolConfig" not in _write(_chat(**alone), GEMINI_3)


@pytest.mark.parametrize("profile", [GEMINI_25, GEMINI_2])
def test_a_schema_is_asked_for_in_the_form_the_model_knows(profile: Profile) -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"a": {"const": "b"}}, "additionalProperties": False}
    tools = (ir.Tool("f", schema=schema), ir.Tool("g", schema={"type": "object", "properties": {}}))
    settings = _write(_chat(output=ir.OutputFormat("schema", schema=schema)), profile)["generationConfig"]
    declared = _write(_chat(tools=tools), profile)["tools"][0]["functionDeclarations"]
    assert settings["responseMimeType"] == "application/json"
    if profile.schema_subset:
        subset = {"type": "object", "properties": {"a": {"type": "string", "enum": ["b"]}}}
        assert settings["responseSchema"] == declared[0]["parameters"] == subset
    else:
        plain = {name: value for name, value in schema.items() if name != "$schema"}
        assert settings["responseJsonSchema"] == declared[0]["parametersJsonSchema"] == plain
    assert declared[1] == {"name": "g"}


@pytest.mark.parametrize(
    "said",
    [
        {"additionalProperties": {"type": "string"}},
        {"additionalProperties": True},
        {"anyOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {}}}]},
        {"oneOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]},
        {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"a": {"type": "string"}}}}},
        {"patternProperties": {"^x": {"type": "string"}}},
    ],
)
def test_a_tool_whose_members_are_said_otherwise_than_by_properties_keeps_its_schema(said: dict[str, Any]) -> None:
    schema = {"type": "object", **said}
    declared = _write(_chat(tools=(ir.Tool("f", schema=schema),)), GEMINI_25)["tools"][0]["functionDeclarations"]
    assert declared == [{"name": "f", "parametersJsonSchema": schema}]


def test_a_tool_without_arguments_says_what_it_is_for() -> None:
    for schema in (None, {}, {"type": "object", "properties": {}}):
        tools = _write(_chat(tools=(ir.Tool("f", "d", schema=schema),)), GEMINI_25)["tools"]
        assert tools == [{"functionDeclarations": [{"name": "f", "description": "d"}]}]


def test_an_image_of_no_known_kind_is_sent_as_a_png() -> None:
    turn = ir.Message("user", (ir.Image(data="iVBO"), ir.Image(data="UklG", media_type="image/webp")))
    parts = _write(_chat(turn), GEMINI_25)["contents"][0]["parts"]
    assert [part["inlineData"]["mimeType"] for part in parts] == ["image/png", "image/webp"]


def _search(**raw: Any) -> ir.ServerTool:
    return ir.ServerTool("web_search", "anthropic", {"type": "web_search_20250305", **raw})


REFUSED: dict[str, tuple[ir.ChatRequest, str]] = {
    "n": (_chat(n=2), "n"),
    "logit_bias": (_chat(logit_bias={"1": 1.0}), "logit_bias"),
    "stop": (_chat(stop=tuple("abcdef")), "stop"),
    "files by id": (_chat(_user(ir.File("application/octet-stream", url="file-id:file_1"))), "messages"),
    "custom tools": (_chat(tools=(ir.Tool("f", custom=True),)), "tools"),
    "server tools": (_chat(server_tools=(_search(allowed_domains=["a"]),)), "tools"),
}
BESIDE_TOOLS = "JSON mode and schemas beside tools, before Gemini 3"
DROPPED: dict[str, ir.ChatRequest] = {
    "parallel_tools": _chat(parallel_tools=False),
    "tool_choice of a server tool": _chat(tool_choice=ir.ToolChoice("named", ("web_search",)), server_tools=(SEARCH,)),
    "place of a web search": _chat(server_tools=(_search(user_location={"type": "approximate", "city": "Oslo"}),)),
    "tool strict": _chat(tools=(ir.Tool("f", strict=True),)),
    "thinking": _chat(_user("hi"), _model(ir.Thinking("x"))),
    "system later": _chat(_user("hi"), ir.Message("system", (ir.Text("y"),))),
    "cache_ttl": _chat(_user(ir.Text("hi", "5m"))),
    "image detail": _chat(_user(ir.Image(data="QQ==", media_type="image/png", detail="low"))),
    "server tool parts": _chat(_user("hi"), _model(ir.ServerToolPart("anthropic", {"type": "x"}))),
    "name of a chat participant": _chat(extra={"messages": [{"at": [0, 0], "message": {"name": "Ann"}}]}),
    "user": _chat(user="u"),
    "metadata": _chat(metadata={"a": "b"}),
    "cache_key": _chat(cache_key="k"),
    "service_tier": _chat(service_tier="flex"),
    "verbosity": _chat(verbosity="low"),
    "temperature, top_p, top_k": _chat(temperature=1.0, top_p=0.5, top_k=3),
    BESIDE_TOOLS: _chat(tools=(ir.Tool("f"),), output=ir.OutputFormat("json")),
}
PLAIN = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
KEPT_OTHERWISE: dict[str, dict[str, Any]] = {
    "place of a web search": {**PLAIN, "tools": [{"googleSearch": {}}]},
    "tool_choice of a server tool": {**PLAIN, "tools": [{"googleSearch": {}}]},
    "tool strict": {**PLAIN, "tools": [{"functionDeclarations": [{"name": "f"}]}]},
    "system later": {"contents": [{"role": "user", "parts": [{"text": "hi"}, {"text": "y"}]}]},
    BESIDE_TOOLS: {
        **PLAIN,
        "systemInstruction": {"parts": [{"text": JSON_INSTRUCTION}]},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    },
    "image detail": {
        "contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "QQ=="}}]}]
    },
}


@pytest.mark.parametrize("loss", DIALECT.losses, ids=lambda loss: loss.field)
def test_the_table_of_losses_is_true(loss: ir.Loss) -> None:
    if loss.refused:
        request, param = REFUSED[loss.field]
        with pytest.raises(BadRequest) as caught:
            _write(request)
        assert caught.value.param == param
    else:
        profile = msgspec.structs.replace(GEMINI_25, sampling=False)
        assert _write(DROPPED[loss.field], profile) == KEPT_OTHERWISE.get(loss.field, PLAIN)


def test_a_schema_beside_tools_is_an_instruction_where_google_refuses_both_and_itself_elsewhere() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = _chat(system=(ir.Text("x"),), tools=(ir.Tool("f"),), output=ir.OutputFormat("schema", schema=schema))
    told = _write(asked, GEMINI_25)
    assert "generationConfig" not in told
    [given, instruction] = told["systemInstruction"]["parts"]
    assert given == {"text": "x"}
    assert json.dumps(schema, separators=(",", ":")) in instruction["text"]
    alone = msgspec.structs.replace(asked, tools=())
    own = msgspec.structs.replace(asked, dialect="gemini")
    for request, profile in ((asked, GEMINI_3), (alone, GEMINI_25), (own, GEMINI_25)):
        written = _write(request, profile)
        assert written["generationConfig"]["responseJsonSchema"] == schema
        assert written["systemInstruction"] == {"parts": [{"text": "x"}]}


def test_a_search_without_filters_becomes_googles() -> None:
    assert _write(_chat(server_tools=(_search(max_uses=3),)))["tools"] == [{"googleSearch": {}}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (_user(ir.ToolResult("nobody", (ir.Text("x"),))), "messages"),
        (_user(""), "messages"),
    ],
)
def test_what_cannot_be_sent_is_refused_not_dropped(message: ir.Message, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _write(_chat(message))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("mode", "choice"),
    [(0, None), (1, ir.ToolChoice("auto")), (2, ir.ToolChoice("required")), (3, ir.ToolChoice("none"))],
)
def test_words_by_their_numbers_are_understood(mode: int, choice: ir.ToolChoice | None) -> None:
    """Google's older clients, and LangChain on them, ask with `enum-encoding=int`."""
    wish = {"toolConfig": {"functionCallingConfig": {"mode": mode}}, "generationConfig": {"responseModalities": [1]}}
    request = _read({**PLAIN, **wish})
    assert request.tool_choice == choice
    DIALECT.check_crossing(request)
    with pytest.raises(BadRequest, match="VALIDATED"):
        _read({**PLAIN, "toolConfig": {"functionCallingConfig": {"mode": 9}}})


PDF = {"mimeType": "application/pdf", "data": "JVBE"}


@pytest.mark.parametrize("target", ["chat", "responses", "anthropic", "converse"])
def test_a_server_of_tools_is_refused_by_its_name(target: str) -> None:
    """Its value is a list, unlike that of every other tool."""
    request = _read({**PLAIN, "tools": [{"mcpServers": [{"name": "a"}]}]})
    DIALECT.check_crossing(request)
    with pytest.raises(BadRequest, match="mcpServers") as caught:
        UPSTREAM_DIALECTS[target].write_request(request, Profile())
    assert caught.value.param == "tools"
    assert _write(request)["tools"] == [{"mcpServers": [{"name": "a"}]}]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"cachedContent": "cachedContents/a"}, "cachedContent"),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"speechConfig": {}}}, "generationConfig.speechConfig"),
        ({"generationConfig": {"candidateCount": 2}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "gs://a/b"}}]}]}, "contents"),
        ({"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]}, "contents"),
        ({"contents": [{"parts": [{"text": "x", "videoMetadata": {}}]}]}, "contents"),
        ({"contents": [{"parts": [{"text": "x"}, {"newerPart": {}}]}]}, "contents"),
        ({"tools": [{"googleSearch": {"excludeDomains": ["a.test"]}}]}, "tools"),
        ({"tools": [{"google_search": {"time_range_filter": {"start_time": "2020"}}}]}, "tools"),
        ({"tools": [{"enterpriseWebSearch": {"blockingConfidence": "BLOCK_ONLY_EXTREMELY_HIGH"}}]}, "tools"),
        ({"tools": [{"google_search": {"search_types": {"web_search": {}, "image_search": {}}}}]}, "tools"),
        ({"contents": [{"parts": [{"inlineData": PDF, "documentMetadata": {"startPage": 2}}]}]}, "contents"),
        ({"contents": [{"parts": [{"inlineData": PDF, "spreadsheet_metadata": {"sheet_index": 2}}]}]}, "contents"),
        ({"contents": [{"parts": [{"inlineData": PDF, "audioMetadata": {"startOffset": "9s"}}]}]}, "contents"),
        ({"generationConfig": {"responseFormat": [{"text": {}}]}}, "generationConfig.responseFormat"),
        ({"generationConfig": {"translationConfig": {}}}, "generationConfig.translationConfig"),
        ({"generationConfig": {"audio_transcription_config": {}}}, "generationConfig.audioTranscriptionConfig"),
        ({"generationConfig": {"routing_config": {"autoMode": {}}}}, "generationConfig.routingConfig"),
        ({"modelArmorConfig": {"promptTemplateName": "t"}}, "modelArmorConfig"),
    ],
)
def test_what_only_gemini_can_do_does_not_cross_in_silence(members: dict[str, Any], param: str) -> None:
    request = _read({**PLAIN, **members})
    with pytest.raises(BadRequest) as caught:
        DIALECT.check_crossing(request)
    assert caught.value.param == param


def test_what_changes_nothing_elsewhere_may_cross() -> None:
    DIALECT.check_crossing(
        _read(
            {
                **PLAIN,
                "safetySettings": [],
                "labels": {},
                "tools": [{"googleSearch": {"excludeDomains": [], "searchTypes": {"webSearch": {}}}}],
                "generationConfig": {"responseModalities": ["TEXT"], "responseMimeType": "text/plain"},
            }
        )
    )


def _deep(levels: int) -> bytes:
    schema = '{"type":"object","properties":{"a":' * levels + '{"type":"string"}' + "}}" * levels
    declared = f'[{{"name":"f","parameters":{schema}}},{{"name":"g","parametersJsonSchema":{schema}}}]'
    body = f'{{"contents":[{{"parts":[{{"text":"x"}}]}}],"tools":[{{"functionDeclarations":{declared}}}]}}'
    return body.encode()


@pytest.mark.parametrize("profile", [GEMINI_25, GEMINI_2])
def test_a_deep_schema_is_carried_and_a_deeper_one_refused(profile: Profile) -> None:
    assert DIALECT.write_request(DIALECT.read_request(_deep(60)), profile).count(b'"properties"') == 120
    for levels in (150, 200, 250, 300, 350, 400, 450, 5000):
        try:
            DIALECT.write_request(DIALECT.read_request(_deep(levels)), profile)
        except BadRequest:
            continue
    with pytest.raises(BadRequest):
        DIALECT.read_request(_deep(5000))


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_members = st.sampled_from(
    [*RICH, *RICH["generationConfig"], *RICH["contents"][0], "text", "functionCall", "functionResponse", "name"]
)
_wild = st.recursive(
    _json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_members, inner, max_size=5),
    max_leaves=12,
)


@given(st.binary() | st.dictionaries(_members, _wild).map(lambda value: json.dumps(value).encode()))
def test_reading_raises_nothing_but_bad_request(body: bytes) -> None:
    try:
        request = DIALECT.read_request(body)
    except BadRequest:
        return
    assert request.messages


_texts = st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"]))
_names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
_user_parts = st.one_of(
    _texts.map(ir.Text),
    st.binary(min_size=1).map(lambda data: ir.Image(data=base64.b64encode(data).decode(), media_type="image/png")),
    st.binary(min_size=1).map(lambda data: ir.Audio(base64.b64encode(data).decode(), "mp3")),
    st.binary(min_size=1).map(lambda data: ir.File("application/pdf", data=base64.b64encode(data).decode())),
)


@st.composite
def _requests(draw: st.DrawFn) -> ir.ChatRequest:
    messages = [ir.Message("user", tuple(draw(st.lists(_user_parts, min_size=1, max_size=3))))]
    count = 0
    for _ in range(draw(st.integers(0, 2))):
        names = draw(st.lists(_names, min_size=1, max_size=3))
        calls = [
            ir.ToolCall(f"call_{count + place}", name, json.dumps({"a": draw(st.integers())}, separators=(",", ":")))
            for place, name in enumerate(names)
        ]
        count += len(calls)
        text = [ir.Text(draw(_texts))] if draw(st.booleans()) else []
        messages.append(ir.Message("assistant", (*text, *calls)))
        results = tuple(
            ir.ToolResult(call.id, (ir.Text("r" + draw(_texts)),), call.name, draw(st.booleans())) for call in calls
        )
        messages.append(ir.Message("user", results))
    return ir.ChatRequest(
        model="",
        messages=messages,
        system=tuple(draw(st.lists(_texts.map(ir.Text), max_size=2))),
        tools=tuple(ir.Tool(name) for name in draw(st.lists(_names, max_size=3))),
        tool_choice=draw(st.sampled_from([None, ir.ToolChoice("auto"), ir.ToolChoice("required", ("a", "b"))])),
        max_output_tokens=draw(st.none() | st.integers(1, 2**31)),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_k=draw(st.none() | st.integers(1, 100)),
        stop=tuple(draw(st.lists(_texts, max_size=5))),
        seed=draw(st.none() | st.integers(0, 2**31)),
        reasoning=draw(st.sampled_from([None, ir.Reasoning("low"), ir.Reasoning(budget_tokens=5, visible=False)])),
        dialect="gemini",
    )


@given(_requests())
def test_random_requests_survive_writing_and_reading(request: ir.ChatRequest) -> None:
    assert DIALECT.read_request(DIALECT.write_request(request, GEMINI_25)) == request
