"""AWS Bedrock Converse: requests the official SDK finds valid, answers and streams read to the same events."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate.claude import OUTPUT_TOOL
from elkapi.translate.converse import DIALECT, LOSSES
from elkapi.translate.dialect import Unreadable
from elkapi.translate.ir import (
    NO_ANSWER,
    Audio,
    Citation,
    End,
    Event,
    Failure,
    File,
    Finish,
    Image,
    ImageOut,
    Message,
    OutputFormat,
    Reasoning,
    RedactedThinking,
    ServerTool,
    ServerToolPart,
    Start,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingSignature,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    ToolChoice,
    ToolResult,
    UsageSeen,
)
from elkapi.translate.profiles import Profile, profile_for
from elkapi.translate.sse import Frame
from elkapi.types import Usage
from tests.translate_anthropic import asked, user_says

CLAUDE = profile_for("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
OLD = profile_for("bedrock", "anthropic.claude-3-haiku-20240307-v1:0")
NOVA = profile_for("bedrock", "amazon.nova-pro-v1:0")
LLAMA = profile_for("bedrock", "us.meta.llama3-3-70b-instruct-v1:0")
MISTRAL = profile_for("bedrock", "mistral.mistral-large-2407-v1:0")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def _service() -> botocore.model.ServiceModel:
    data = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    return botocore.model.ServiceModel(data, "bedrock-runtime")


SHAPE = _service().operation_model("Converse").input_shape


def _written(profile: Profile = CLAUDE, **members: Any) -> dict[str, Any]:
    """The body; what the SDK's own description of the service says about it is checked on the way."""
    body: dict[str, Any] = json.loads(DIALECT.write_request(asked(**members), profile))
    report = botocore.validate.ParamValidator().validate(body | {"modelId": "m"}, SHAPE)
    assert not report.has_errors(), report.generate_report()
    assert body.keys() <= SHAPE.members.keys()
    return body


def test_a_rich_request() -> None:
    call = ToolCall("call:1", "now", '{"zone":"utc"}')
    thought = Thinking("hm", "sig", "anthropic")
    body = _written(
        system=(Text("Be brief.", "1h"),),
        messages=[
            Message("user", (Text("time?", "5m"), Image(data="aWs=", media_type="image/png"))),
            Message("assistant", (thought, Thinking(redacted="b3Bh", signed_by="anthropic"), call)),
            Message("user", (Text("and?"), ToolResult("call:1", (Text("12:00"),), is_error=True))),
        ],
        tools=(Tool("now", "The time.", SCHEMA, True, cache_ttl="5m"),),
        tool_choice=ToolChoice("auto"),
        max_output_tokens=9000,
        stop=("END",),
        reasoning=Reasoning(effort="low"),
        top_k=5,
    )
    id = body["messages"][1]["content"][2]["toolUse"]["toolUseId"]
    assert body == {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "time?"},
                    {"cachePoint": {"type": "default"}},
                    {"image": {"format": "png", "source": {"bytes": "aWs="}}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
                    {"reasoningContent": {"redactedContent": "b3Bh"}},
                    {"toolUse": {"toolUseId": id, "name": "now", "input": {"zone": "utc"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": id, "content": [{"text": "12:00"}], "status": "error"}},
                    {"text": "and?"},
                ],
            },
        ],
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "now",
                        "inputSchema": {"json": SCHEMA | {"additionalProperties": False}},
                        "description": "The time.",
                        "strict": True,
                    }
                },
                {"cachePoint": {"type": "default"}},
            ]
        },
        "inferenceConfig": {"maxTokens": 9000, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 4096}},
    }


def test_a_cache_mark_inside_of_a_tools_result_is_a_point_after_it() -> None:
    """There chat's callers set one, whose tool messages hold text."""
    loop = [
        Message("user", (Text("a"),)),
        Message("assistant", (ToolCall("t", "now", "{}"),)),
        Message("user", (ToolResult("t", (Text("12:00"), Text("sharp", "1h"))),)),
    ]
    shown = _written(messages=loop, tools=(Tool("now"),))["messages"][2]["content"]
    assert [next(iter(block)) for block in shown] == ["toolResult", "cachePoint"]
    assert shown[1]["cachePoint"] == {"type": "default", "ttl": "1h"}


def test_sampling_by_model() -> None:
    asked_for: dict[str, Any] = {"temperature": 1.5, "top_p": 0.5, "top_k": 5, "reasoning": Reasoning(effort="high")}
    old = _written(OLD, **asked_for)
    assert old["inferenceConfig"] == {"temperature": 1.0, "topP": 0.5}
    assert old["additionalModelRequestFields"] == {"top_k": 5}
    assert "additionalModelRequestFields" not in _written(NOVA, **asked_for)
    newest = _written(profile_for("bedrock", "anthropic.claude-opus-4-8-v1:0"), **asked_for)
    assert newest["additionalModelRequestFields"]["output_config"] == {"effort": "high"}


def test_a_schema_is_an_output_format_or_a_forced_tool() -> None:
    output = OutputFormat("schema", "answer", SCHEMA, description="d")
    definition = _written(output=output)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert json.loads(definition["schema"]) == SCHEMA | {"additionalProperties": False}
    assert (definition["name"], definition["description"]) == ("answer", "d")
    config = _written(NOVA, output=output)["toolConfig"]
    assert config["toolChoice"] == {"tool": {"name": OUTPUT_TOOL}}
    assert _written(NOVA, output=output, tools=(Tool("now"),))["toolConfig"]["toolChoice"] == {"any": {}}


def test_a_schema_is_told_in_words_only_where_nothing_else_holds_the_answer_to_it() -> None:
    output = OutputFormat("schema", "answer", SCHEMA)
    assert ["system" in _written(profile, output=output) for profile in (CLAUDE, NOVA, LLAMA)] == [False, False, True]


def test_an_answer_with_thoughts_has_a_limit_and_another_one_only_when_asked() -> None:
    thinking = _written(reasoning=Reasoning(budget_tokens=2000))
    assert thinking["inferenceConfig"]["maxTokens"] == CLAUDE.max_output_tokens
    assert "inferenceConfig" not in _written()


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        *(("application/pdf", "pdf"), ("text/csv", "csv"), ("text/html", "html"), ("text/markdown", "md")),
        *(("text/plain", "txt"), ("application/msword", "doc"), ("application/vnd.ms-excel", "xls")),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"),
    ],
)
def test_a_document_of_every_kind_is_named_by_it(media_type: str, name: str) -> None:
    turn = Message("user", (Text("read"), File(media_type, data="YQ==", name="a.b")))
    (document,) = (block for block in _written(messages=[turn])["messages"][0]["content"] if "document" in block)
    assert document["document"] == {"format": name, "name": "a-b", "source": {"bytes": "YQ=="}}


@pytest.mark.parametrize("media_type", ["image/bmp", None])
def test_an_image_of_a_kind_that_bedrock_does_not_take_is_refused_with_those_it_takes(media_type: str | None) -> None:
    with pytest.raises(BadRequest, match="Images must be image/gif, image/jpeg, image/png, image/webp; "):
        _written(**user_says(Image(data="aWs=", media_type=media_type)))


def test_a_tool_is_strict_only_where_the_model_has_structured_outputs() -> None:
    for profile, strict in ((CLAUDE, True), (NOVA, False)):
        (row,) = _written(profile, tools=(Tool("now", schema=SCHEMA, strict=True),))["toolConfig"]["tools"]
        assert row["toolSpec"].get("strict", False) is strict


def test_every_document_has_a_name_of_its_own() -> None:
    names = ["a.pdf", "a.pdf", "a/pdf", "  ", None, "é" * 300]
    parts = tuple(File("application/pdf", data="JVBE", name=name) for name in names)
    blocks = _written(messages=[Message("user", (Text("read"), *parts))])["messages"][0]["content"][1:]
    assert [block["document"]["name"] for block in blocks] == [
        *("a-pdf", "a-pdf-2", "a-pdf-3", "document", "document-2", "-" * 190)
    ]


def test_a_document_that_is_text_and_of_no_kind_is_text() -> None:
    turn = Message("user", (Text("read"), File("application/json", data="e30="), File("text/x-log", text="it")))
    documents = [block["document"] for block in _written(messages=[turn])["messages"][0]["content"][1:]]
    assert documents == [
        {"format": "txt", "name": "document", "source": {"text": "{}"}},
        {"format": "txt", "name": "document-2", "source": {"text": "it"}},
    ]


def test_a_schema_with_members_of_any_name_is_a_forced_tool() -> None:
    schema = {"type": "object", "properties": {"counts": {"type": "object", "additionalProperties": True}}}
    body = _written(output=OutputFormat("schema", "answer", schema))
    assert "outputConfig" not in body
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": OUTPUT_TOOL}}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": schema}


def test_tool_choices() -> None:
    tools = (Tool("now"),)
    assert _written(tools=tools, tool_choice=ToolChoice("required"))["toolConfig"]["toolChoice"] == {"any": {}}
    named = _written(tools=tools, tool_choice=ToolChoice("named", ("now",)))
    assert named["toolConfig"]["toolChoice"] == {"tool": {"name": "now"}}
    assert "toolConfig" not in _written(tools=tools, tool_choice=ToolChoice("none"))
    history = [Message("user", (Text("a"),)), Message("assistant", (ToolCall("a", "now", "{}"),))]
    assert "toolConfig" in _written(messages=history)


def test_a_model_is_asked_only_for_what_it_knows() -> None:
    tools = (Tool("now", cache_ttl="5m"),)
    forced: dict[str, Any] = {"tools": tools, "tool_choice": ToolChoice("named", ("now",))}
    assert _written(NOVA, **forced)["toolConfig"]["toolChoice"] == {"tool": {"name": "now"}}
    required: dict[str, Any] = {"tools": tools, "tool_choice": ToolChoice("required")}
    assert _written(MISTRAL, **required)["toolConfig"]["toolChoice"] == {"any": {}}
    with pytest.raises(BadRequest) as caught:
        _written(MISTRAL, **forced)
    assert caught.value.param == "tool_choice"
    loop = [
        Message("user", (Text("a", "5m"),)),
        Message("assistant", (Thinking("hm", "sig", "anthropic"), ToolCall("t", "now", "{}"))),
        Message("user", (ToolResult("t", (Text("12:00"),), is_error=True),)),
    ]
    body = _written(LLAMA, messages=loop, tools=tools, system=(Text("Be brief.", "1h"),))
    text = json.dumps(body)
    assert [word for word in ("status", "cachePoint", "reasoningContent") if word in text] == []
    assert "reasoningContent" not in json.dumps(_written(NOVA, messages=loop, tools=tools))
    assert body["messages"][1]["content"][0]["toolUse"]["name"] == "now"


def test_cache_points_are_only_where_the_model_takes_them() -> None:
    """Nova refuses them among the tools, and Bedrock refuses an hour for Nova and for Claude before 4.5."""
    asks: dict[str, Any] = {"tools": (Tool("now", cache_ttl="1h"),), "system": (Text("Be brief.", "1h"),)}
    hour, minutes = {"cachePoint": {"type": "default", "ttl": "1h"}}, {"cachePoint": {"type": "default"}}
    cases: dict[Profile, tuple[Any, Any]] = {CLAUDE: (hour, hour), OLD: (minutes, minutes), NOVA: (None, minutes)}
    for profile, (of_tools, of_system) in cases.items():
        body = _written(profile, **asks)
        assert body["toolConfig"]["tools"][1:] == ([of_tools] if of_tools else [])
        assert body["system"] == [{"text": "Be brief."}, of_system]


def test_a_schema_is_a_forced_tool_where_that_can_be_forced_and_an_instruction_elsewhere() -> None:
    asks = {"output": OutputFormat("schema", "answer", SCHEMA)}
    chosen = [_written(profile, **asks)["toolConfig"]["toolChoice"] for profile in (NOVA, MISTRAL)]
    assert chosen == [{"tool": {"name": OUTPUT_TOOL}}, {"any": {}}]
    body = _written(LLAMA, **asks)
    assert "toolConfig" not in body
    assert json.dumps(SCHEMA, separators=(",", ":")) in body["system"][0]["text"]


def test_documents_have_names_of_their_own_and_a_text_beside_them() -> None:
    file = File("application/pdf", data="JVBERg==", name="a_b.pdf")
    content = _written(messages=[Message("user", (file, file))])["messages"][0]["content"]
    assert [block["document"]["name"] for block in content[:2]] == ["a-b-pdf", "a-b-pdf-2"]
    assert content[2] == {"text": "..."}


REFUSED: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "modalities: image": {"extra": {"modalities": ["text", "image"]}},
    "input audio": user_says(Audio("x", "wav")),
    "images and files by URL": user_says(Image(url="https://example.org/a.png")),
    "files by id": user_says(File("application/pdf", url="file-id:f1")),
    "files of unknown types": user_says(File("application/zip", data="aWs=")),
    "server tools and their blocks in the history": {"server_tools": (ServerTool("web_search", "chat", {}),)},
    "custom tools of chat completions": {"tools": (Tool("patch", custom=True),)},
    "stop sequences of white space only, on Claude": {"stop": ("END", "\n\n")},
    "a forced tool on models other than Claude, Nova and Mistral Large": {
        "tools": (Tool("now"),),
        "tool_choice": ToolChoice("required"),
        "profile": LLAMA,
    },
    "a forced tool on Claude from Opus and Sonnet 5.5, Fable and Mythos 5.1 on": {
        "tools": (Tool("now"),),
        "tool_choice": ToolChoice("required"),
        "profile": profile_for("bedrock", "us.anthropic.claude-opus-5-5"),
    },
}


def test_every_refused_row_is_tested() -> None:
    assert {loss.field for loss in LOSSES if loss.refused} == REFUSED.keys()


@pytest.mark.parametrize("row", REFUSED)
def test_what_would_change_the_meaning_is_refused(row: str) -> None:
    with pytest.raises(BadRequest):
        _written(**REFUSED[row])


@pytest.mark.parametrize(
    "part",
    [
        Image(url="s3://bucket/a.png", media_type="image/png"),
        Image(url="https://a.example/a.png"),
        File("application/pdf", url="s3://bucket/a.pdf"),
        File("image/png", url="s3://bucket/a.png"),
    ],
)
def test_no_caller_names_what_the_operators_account_reads(part: Image | File) -> None:
    """Bedrock fetches an object of S3 with the rights of whoever signs the call, which is the operator."""
    with pytest.raises(BadRequest, match="does not support images and files by URL"):
        _written(**user_says(part))


@pytest.mark.parametrize("parts", [(), (Text(""),), (Text(" \n"),)])
def test_an_empty_result_is_no_blank_text(parts: tuple[Text, ...]) -> None:
    called = Message("assistant", (ToolCall("t", "now", "{}"),))
    body = _written(messages=[Message("user", (Text("a"),)), called, Message("user", (ToolResult("t", parts),))])
    assert body["messages"][2]["content"][0]["toolResult"]["content"] == [{"text": "(empty)"}]


def test_models_other_than_claude_take_any_stop_sequence() -> None:
    assert _written(NOVA, stop=("\n\n",))["inferenceConfig"] == {"stopSequences": ["\n\n"]}


def test_what_a_model_drew_or_wrote_as_a_file_is_only_a_users_to_show() -> None:
    picture, file = Image(data="aWs=", media_type="image/png"), File("application/pdf", data="JVBERg==")
    drawn = Message("assistant", (Text("Here."), picture, file))
    body = _written(messages=[Message("user", (Text("draw"),)), drawn, Message("user", (picture, Text("and?")))])
    assert body["messages"][1]["content"] == [{"text": "Here."}]
    assert [block.keys() for block in body["messages"][2]["content"]] == [{"image"}, {"text"}]


def test_the_blocks_of_another_providers_tools_are_refused() -> None:
    with pytest.raises(BadRequest):
        _written(**user_says(ServerToolPart("anthropic", {"type": "server_tool_use"})))


def test_what_does_not_change_the_meaning_is_dropped() -> None:
    dropped: dict[str, Any] = {
        "logprobs": True,
        "seed": 1,
        "presence_penalty": 1.0,
        "verbosity": "low",
        "metadata": {"a": "b"},
        "user": "u",
        "cache_key": "k",
        "service_tier": "flex",
        "parallel_tools": False,
        "extra": {"context_management": {}},
        "dialect": "anthropic",
    }
    assert _written(**dropped) == {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}


# --- answers ---------------------------------------------------------------------------------------------------------

USAGE = {"inputTokens": 3, "outputTokens": 7, "totalTokens": 2010, "cacheReadInputTokens": 2000}
SEEN = UsageSeen(Usage(input_tokens=3, cached_tokens=2000, output_tokens=7, calls=1))
FRAMES: list[tuple[str, dict[str, Any]]] = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "s"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"reasoningContent": {"redactedContent": "b3Bh"}}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"text": "I look."}}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    ("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t1", "name": "now"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 3, "delta": {"toolUse": {"input": '{"a":1}'}}}),
    ("contentBlockStop", {"contentBlockIndex": 3}),
    ("contentBlockStart", {"contentBlockIndex": 4, "start": {"toolUse": {"toolUseId": "t2", "name": "then"}}}),
    ("contentBlockStop", {"contentBlockIndex": 4}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": USAGE, "metrics": {"latencyMs": 5}}),
]
CONTENT: list[Event] = [
    Start("", ""),
    ThinkingDelta("hm"),
    ThinkingSignature("s", "anthropic"),
    RedactedThinking("b3Bh"),
    TextDelta("I look."),
    ToolCallStart(0, "t1", "now"),
    ToolCallDelta(0, '{"a":1}'),
    ToolCallStart(1, "t2", "then"),
    ToolCallDelta(1, "{}"),
]


def _read(frames: list[tuple[str, dict[str, Any]]]) -> list[Event]:
    reader = DIALECT.reader()
    return [
        event
        for name, payload in frames
        for event in reader.feed(Frame(b"", name.encode(), msgspec.json.encode(payload)))
    ]


def test_a_stream() -> None:
    assert _read(FRAMES) == [*CONTENT, Finish("tool_calls"), SEEN, End()]


def test_a_whole_answer_gives_the_same_events() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "b3Bh"}},
        {"text": "I look."},
        {"toolUse": {"toolUseId": "t1", "name": "now", "input": {"a": 1}}},
        {"toolUse": {"toolUseId": "t2", "name": "then", "input": {}}},
    ]
    message = {"role": "assistant", "content": content}
    body = {"output": {"message": message}, "stopReason": "tool_use", "usage": USAGE, "metrics": {"latencyMs": 5}}
    assert DIALECT.read_reply(msgspec.json.encode(body)) == [*CONTENT, SEEN, Finish("tool_calls"), End()]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop_sequence"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("a_new_word", "other"),
    ],
)
def test_stop_reasons(word: str, reason: Any) -> None:
    assert _read([("messageStop", {"stopReason": word})]) == [Finish(reason)]


@pytest.mark.parametrize("word", ["malformed_model_output", "malformed_tool_use"])
def test_a_model_that_gave_up_is_a_failure_unless_it_said_something(word: str) -> None:
    stop = ("messageStop", {"stopReason": word})
    failure = Failure(502, NO_ANSWER, f"The model came to no answer ({word}).")
    assert _read([stop]) == [failure]
    said: tuple[str, dict[str, Any]] = ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "So"}})
    assert _read([said, stop]) == [TextDelta("So"), Finish("other")]
    for content, end in (([], failure), ([{"text": "So"}], Finish("other"))):
        body = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": word, "usage": USAGE}
        assert end in DIALECT.read_reply(msgspec.json.encode(body))


def test_images_and_citations() -> None:
    location = {"web": {"url": "https://example.org"}}
    citation = {"title": "T", "sourceContent": [{"text": "q"}], "location": location}
    frames: list[tuple[str, dict[str, Any]]] = [
        ("contentBlockStart", {"contentBlockIndex": 0, "start": {"image": {"format": "jpeg"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"image": {"source": {"bytes": "aWs="}}}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "So "}}),
        ("contentBlockStop", {"contentBlockIndex": 1}),
        # As Claude tells them, before the words that they are of.
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"citation": citation}}),
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"text": "x"}}),
        ("contentBlockStop", {"contentBlockIndex": 2}),
    ]
    source = Citation("https://example.org", "T", "q", span=(3, 4))
    assert _read(frames) == [ImageOut("image/jpeg", "aWs="), TextDelta("So "), TextDelta("x"), source]
    cited = {"citationsContent": {"content": [{"text": "x"}], "citations": [citation]}}
    body = {"output": {"message": {"content": [{"text": "So "}, cited]}}, "stopReason": "end_turn"}
    assert DIALECT.read_reply(msgspec.json.encode(body))[1:4] == [TextDelta("So "), TextDelta("x"), source]


def test_the_arguments_of_the_stand_in_for_a_schema_are_the_text() -> None:
    start: dict[str, Any] = {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": OUTPUT_TOOL}}}
    delta: dict[str, Any] = {"contentBlockIndex": 0, "delta": {"toolUse": {"input": '{"a":1}'}}}
    frames = [("contentBlockStart", start), ("contentBlockDelta", delta), ("messageStop", {"stopReason": "tool_use"})]
    assert _read(frames) == [TextDelta('{"a":1}'), Finish("stop")]
    block = {"toolUse": {"toolUseId": "t", "name": OUTPUT_TOOL, "input": {"a": 1}}}
    body = {"output": {"message": {"content": [block]}}, "stopReason": "tool_use"}
    assert DIALECT.read_reply(msgspec.json.encode(body))[1:] == [TextDelta('{"a":1}'), Finish("stop"), End()]


def test_a_call_beside_the_stand_in_for_a_schema_is_a_call() -> None:
    names: tuple[tuple[str, Any], ...] = ((OUTPUT_TOOL, {"a": 1}), ("now", {}))
    blocks = [{"toolUse": {"toolUseId": "t", "name": name, "input": given}} for name, given in names]
    body = {"output": {"message": {"content": blocks}}, "stopReason": "tool_use"}
    read = [TextDelta('{"a":1}'), ToolCallStart(0, "t", "now"), ToolCallDelta(0, "{}"), Finish("tool_calls")]
    assert DIALECT.read_reply(msgspec.json.encode(body))[1:-1] == read


def test_an_image_in_a_whole_answer_is_one() -> None:
    blocks = [{"image": {"format": "webp", "source": {"bytes": "UklG"}}}, {"image": {"source": {"s3Location": {}}}}]
    body = {"output": {"message": {"content": blocks}}, "stopReason": "end_turn"}
    assert DIALECT.read_reply(msgspec.json.encode(body))[1:-2] == [ImageOut("image/webp", "UklG")]


@pytest.mark.parametrize(
    "usage", [None, {}, {"inputTokens": -1, "outputTokens": 1}, {"inputTokens": "1", "outputTokens": 1}]
)
def test_g21_usage_that_is_impossible_is_not_seen(usage: Any) -> None:
    assert _read([("metadata", {"usage": usage})]) == [End()]


def test_g26_cache_writes_are_split_by_their_lifetimes_or_marked() -> None:
    usage = {"inputTokens": 1, "outputTokens": 1, "cacheWriteInputTokens": 10}
    seen = _read([("metadata", {"usage": usage})])[0]
    assert isinstance(seen, UsageSeen)
    assert seen.unsplit
    details = [{"ttl": "1h", "inputTokens": 4}, {"ttl": "5m", "inputTokens": 6}]
    seen = _read([("metadata", {"usage": usage | {"cacheDetails": details}})])[0]
    assert isinstance(seen, UsageSeen)
    assert (seen.unsplit, seen.usage.cache_write_5m_tokens, seen.usage.cache_write_1h_tokens) == (False, 6, 4)


def test_an_exception_in_the_stream_is_a_failure() -> None:
    assert _read([("throttlingException", {"message": "slow"})]) == [Failure(429, "throttlingException", "slow")]
    assert _read([("someNewEvent", {"a": 1})]) == []


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'{"contentBlockIndex":0}', b"\xff"])
def test_a_broken_frame_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.reader().feed(Frame(b"", b"contentBlockDelta", data))
    with pytest.raises(Unreadable):
        DIALECT.read_reply(data)


MEMBERS = ["text", "toolUse", "reasoningContent", "image", "content", "citations"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(MEMBERS), inner),
    max_leaves=6,
)


@given(st.sampled_from([name for name, _ in FRAMES]), JSON, JSON)
def test_nothing_raises_anything_but_unreadable(name: str, one: Any, other: Any) -> None:
    for payload in (one, {"delta": one, "start": other, "usage": one}):
        with suppress(Unreadable):
            DIALECT.reader().feed(Frame(b"", name.encode(), msgspec.json.encode(payload)))
    output = {"message": {"content": [one, {"citationsContent": other}]}}
    body = {"output": output, "stopReason": "end_turn", "usage": one}
    with suppress(Unreadable):
        DIALECT.read_reply(msgspec.json.encode(body))
