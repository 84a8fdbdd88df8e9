"""Structs and decoders for answers of the responses dialect; `responses_reply` interprets them.

Contract: openai.md (response). Unknown fields are ignored; only what `ir` can express is decoded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.translate.usage import ImageGenUsage, ResponsesUsage

# The types of items whose fields are read; the fields of other items are passed on, so their types do not matter.
READ_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call", "image_generation_call"})

# A field that is absent or null; msgspec has no optional Raw.
NULL = msgspec.Raw(b"null")


class TopLogprobView(msgspec.Struct):
    token: str | None = None
    logprob: float | None = None


class LogprobView(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    top_logprobs: list[TopLogprobView] | None = None


class Delta(msgspec.Struct, gc=False):
    delta: str


class TextDeltaEvent(msgspec.Struct):
    delta: str
    logprobs: list[LogprobView] | None = None


class IndexedDelta(msgspec.Struct, gc=False):
    output_index: int
    delta: str


class SummaryPart(msgspec.Struct, gc=False):
    output_index: int
    summary_index: int = 0


class ContentView(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[AnnotationView] | None = None
    logprobs: list[LogprobView] | None = None


class AnnotationView(msgspec.Struct):
    type: str = ""
    url: str | None = None
    title: str | None = None
    start_index: Any = None
    end_index: Any = None


class ItemView(msgspec.Struct):
    """The fields of output items that `ir` can express."""

    type: str = ""
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    content: list[ContentView] | None = None
    summary: list[ContentView] | None = None
    encrypted_content: str | None = None
    result: str | None = None
    output_format: str | None = None
    action: object = None


class _Kind(msgspec.Struct):
    type: str


class ItemEvent(msgspec.Struct):
    output_index: int
    item: msgspec.Raw


class AnnotationEvent(msgspec.Struct):
    annotation: AnnotationView | None = None


class PartKind(msgspec.Struct, frozen=True):
    type: str = ""


class PartAdded(msgspec.Struct):
    """The start of a part; its other fields are ignored."""

    output_index: int = 0
    content_index: int = 0
    part: PartKind = PartKind()


class ErrorView(msgspec.Struct):
    """An error; its fields may have any type, so that an unusual error is still recognized."""

    code: Any = None
    type: Any = None
    message: Any = None
    status: Any = None


class Incomplete(msgspec.Struct):
    reason: str | None = None


class WebSearch(msgspec.Struct):
    num_requests: int = 0


class ToolUsage(msgspec.Struct):
    """The usage of the provider's tools, beside the model's `usage`."""

    web_search: WebSearch | None = None
    image_gen: ImageGenUsage | None = None


class ResponseView(msgspec.Struct):
    id: str = ""
    model: str = ""
    status: str | None = None
    error: ErrorView | None = None
    incomplete_details: Incomplete | None = None
    output: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = NULL
    tool_usage: msgspec.Raw = NULL
    service_tier: Any = None


class LifecycleEvent(msgspec.Struct):
    response: ResponseView


class AnyFrame(msgspec.Struct):
    """A frame of an unknown type: its name, and an error or usage at any of the usual positions."""

    type: str | None = None
    error: Any = None
    response: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL


_item = msgspec.json.Decoder(ItemView)
_kind = msgspec.json.Decoder(_Kind)


def decode_item(raw: msgspec.Raw) -> ItemView:
    """The view of an output item; only its type if it is not in READ_ITEMS and does not fit the view."""
    try:
        return _item.decode(raw)
    except msgspec.ValidationError:
        kind = _kind.decode(raw).type
        if kind in READ_ITEMS:
            raise
        return ItemView(type=kind)


decode_delta = msgspec.json.Decoder(Delta).decode
decode_text = msgspec.json.Decoder(TextDeltaEvent).decode
decode_indexed = msgspec.json.Decoder(IndexedDelta).decode
decode_summary_part = msgspec.json.Decoder(SummaryPart).decode
decode_item_event = msgspec.json.Decoder(ItemEvent).decode
decode_raw_item = msgspec.json.Decoder(dict[str, Any]).decode
decode_part_added = msgspec.json.Decoder(PartAdded).decode
decode_annotation = msgspec.json.Decoder(AnnotationEvent).decode
decode_lifecycle = msgspec.json.Decoder(LifecycleEvent).decode
decode_response = msgspec.json.Decoder(ResponseView).decode
decode_error = msgspec.json.Decoder(ErrorView).decode
decode_any = msgspec.json.Decoder(AnyFrame).decode
decode_usage = msgspec.json.Decoder(ResponsesUsage).decode
decode_tool_usage = msgspec.json.Decoder(ToolUsage | None).decode
