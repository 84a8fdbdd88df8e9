"""Conversation history, compaction and token counting of the Responses API, without I/O; the relay stores them.

`previous_response_id` is replaced by the stored `items_of` the earlier turns with `with_history`; an upstream of
another dialect never sees the id. Contract: openai.md (response, Compact).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import decode
from elkapi.translate.dialect import ReplyFacts, Unreadable
from elkapi.translate.ir import ChatRequest, Event, Message, Text, TextDelta, ToolChoice, UsageSeen
from elkapi.translate.responses_request import read_members
from elkapi.translate.seal import PREFIX, Sealed, seal, unseal
from elkapi.translate.usage import responses_usage_object
from elkapi.types import Usage

COMPACT_INSTRUCTION = (
    "Summarize the conversation above so that another assistant can continue it without having seen it. Keep every "
    "fact, decision, name, number, file path, open question and unfinished step; say what the user wants. Answer with "
    "the summary alone."
)
_SUMMARY_INTRODUCED = "Summary of the conversation so far:\n\n"

_members = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.encode


# --- history ---------------------------------------------------------------------------------------------------------


def items_of(request_body: bytes, response_body: bytes) -> list[dict[str, Any]]:
    """The input items that the next turn begins with: those of the request, then the answer's output items.

    Instructions are not included, since each turn has its own. The request's input must already include its history.
    """
    request, response = decode(_members, request_body), decode(_members, response_body)
    output = response.get("output")
    return _input_items(request) + (output if isinstance(output, list) else [])


def with_history(body: bytes, items: Sequence[dict[str, Any]]) -> bytes:
    """The body with `items` before its own input, and without `previous_response_id`."""
    members = decode(_members, body)
    members.pop("previous_response_id", None)
    members["input"] = [*items, *_input_items(members)]
    return _encode(members)


def without_repeated_calls(items: Sequence[Any], history: Sequence[dict[str, Any]]) -> list[Any]:
    """The caller's items without calls that are in the history: some clients (LiveKit) repeat them with the result."""
    made = {_call_id(item) for item in history} - {None}
    return [item for item in items if _call_id(item) not in made]


def _call_id(item: Any) -> str | None:
    if not isinstance(item, dict) or item.get("type") not in ("function_call", "custom_tool_call"):
        return None
    return item["call_id"] if isinstance(item.get("call_id"), str) else None


def with_ids(items: Sequence[dict[str, Any]], response_id: str) -> list[dict[str, Any]]:
    """The items as `input_items` lists them: items without an id get one derived from their position."""
    base = response_id.removeprefix("resp_")
    return [item if item.get("id") else {**item, "id": f"item_{base}_{n}"} for n, item in enumerate(items)]


def without_envelopes(body: bytes) -> bytes:
    """The body for an upstream of this dialect, without the gateway's envelopes, which it could not read.

    A body without envelopes is returned unchanged.
    """
    if PREFIX.encode() not in body:
        return body
    members = decode(_members, body)
    if not isinstance(members.get("input"), list):
        return body
    kept = [row for item in members["input"] if (row := _without_envelope(item)) is not None]
    return _encode(members | {"input": kept})


def _without_envelope(item: Any) -> Any:
    """The item, a message that replaces the gateway's own compaction, or None for sealed reasoning."""
    if not isinstance(item, dict):
        return item
    sealed = unseal(item.get("encrypted_content")) if isinstance(item.get("encrypted_content"), str) else None
    if sealed is None:
        return item
    if sealed.summary is None:
        return None
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": sealed.summary}]}


def _input_items(members: dict[str, Any]) -> list[dict[str, Any]]:
    value = members.get("input")
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if value is not None and not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        raise BadRequest("`input` must be a string or an array of items.", param="input")
    return value or []


# --- POST /v1/responses/compact --------------------------------------------------------------------------------------


def read_compact(body: bytes) -> ChatRequest:
    """A compaction as a request that any model can answer: the conversation, then the instruction to summarize it.

    `previous_response_id` must be expanded first (`with_history`). Raises BadRequest.
    """
    request = read_members(decode(_members, body))
    wish = Text(COMPACT_INSTRUCTION)
    turns = list(request.messages)
    if turns and turns[-1].role == "user":
        turns[-1] = Message("user", (*turns[-1].parts, wish))
    else:
        turns.append(Message("user", (wish,)))
    # Tools stay declared for the calls in the conversation, but the model must not call one instead of summarizing.
    choice = ToolChoice("none") if request.tools else None
    return msgspec.structs.replace(request, messages=turns, stream=False, server_tools=(), tool_choice=choice)


def write_compact(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    """`response.compaction` with the model's summary; its item replaces the conversation in later inputs.

    Raises Unreadable if there is no summary, since the conversation would be lost.
    """
    summary = "".join(event.text for event in events if isinstance(event, TextDelta))
    if not summary.strip():
        raise Unreadable("no summary")
    usage = next((event.usage for event in reversed(events) if isinstance(event, UsageSeen)), Usage())
    sealed = seal(Sealed(summary=_SUMMARY_INTRODUCED + summary))
    item = {"id": f"cmp_{facts.id.removeprefix('resp_')}_0", "type": "compaction", "encrypted_content": sealed}
    return _encode(
        {
            "id": facts.id,
            "object": "response.compaction",
            "created_at": facts.created_s,
            "output": [item],
            "usage": responses_usage_object(usage),
        }
    )


# --- POST /v1/responses/input_tokens ---------------------------------------------------------------------------------


def read_input_tokens(body: bytes) -> ChatRequest:
    """The request to count; `model` is "" if the caller named none. Raises BadRequest."""
    return read_members(decode(_members, body), model_needed=False)


def write_input_tokens(input_tokens: int) -> bytes:
    return _encode({"object": "response.input_tokens", "input_tokens": input_tokens})
