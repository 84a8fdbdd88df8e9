"""The content of stored answers, and how it is returned: objects, lists and conversation turns.

There is no I/O: `ledger.keeping` writes the rows, `relay.stored_pages` answers from them. Contract: openai.md
("Response ID to obtain results", "Stored completions").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.responses_state import items_of, with_ids

RESPONSE_PREFIX, CHAT_PREFIX = "resp_", "chatcmpl-"
METADATA_PAIRS_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 16, 64, 512
LOST = "The gateway was stopped while it made this response."
NULL = msgspec.Raw(b"null")

# Types of items that any upstream accepts without an id. Their ids are the gateway's or another upstream's, so they are
# omitted.
_NAMELESS = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "compaction",
    }
)

# Types of items whose `status` is optional in an input, but present in a listing.
_STATED = frozenset(
    {
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "computer_call_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
    }
)


class Kept(msgspec.Struct, frozen=True):
    """The sealed part of a row: `input` is the call's own input, without history, and `answer` the object.

    `error` says why there is no answer and none will come.
    """

    input: msgspec.Raw
    answer: msgspec.Raw
    error: str | None = None


class ResponseInput(msgspec.Struct):
    """The stored part of a `POST /v1/responses` body."""

    input: msgspec.Raw = NULL


class ChatInput(msgspec.Struct):
    """The stored part of a `POST /v1/chat/completions` body."""

    messages: msgspec.Raw
    metadata: dict[str, str] | None = None


kept_decoder = msgspec.json.Decoder(Kept)
response_input = msgspec.json.Decoder(ResponseInput)
chat_input = msgspec.json.Decoder(ChatInput)
_members = msgspec.json.Decoder(dict[str, Any])
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.encode


# --- responses -------------------------------------------------------------------------------------------------------


def turn_of(kept: Kept) -> list[dict[str, Any]]:
    """The items of one turn, input then output, as the next turn's input begins with them.

    Item ids that an upstream would not know are omitted, as is reasoning without readable content.
    """
    turn = items_of(b'{"input":' + bytes(kept.input) + b"}", bytes(kept.answer))
    return [without_id(item) for item in turn if isinstance(item, dict) and not _is_unreadable(item)]


def _is_unreadable(item: dict[str, Any]) -> bool:
    return item.get("type") == "reasoning" and not (item.get("encrypted_content") or item.get("content"))


def without_id(item: dict[str, Any]) -> dict[str, Any]:
    """An item for a later input: without its id if upstreams accept it without one."""
    nameless = str(item.get("type", "message")) in _NAMELESS or str(item.get("id", "")).startswith("item_")
    return {name: value for name, value in item.items() if name != "id"} if nameless else item


def is_readable(answer: bytes) -> bool:
    """Whether an answer can be decoded, which happens whenever a stored one is requested or listed."""
    try:
        _members.decode(answer)
    except NOT_JSON:
        return False
    return True


def output_ids(answer: bytes, object_id: str) -> tuple[str, ...]:
    """The ids of output items that do not contain the response's id, such as those assigned by an upstream.

    Ids that some database cannot store (unprintable, or longer than 128 characters) are omitted.
    """
    base = object_id.removeprefix(RESPONSE_PREFIX)
    rows = _members.decode(answer).get("output")
    ids = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    named = [id_ for id_ in ids if isinstance(id_, str) and 0 < len(id_) <= 128 and id_.isprintable()]
    return tuple(dict.fromkeys(id_ for id_ in named if base not in id_))


def items_with(kept: Kept, object_id: str, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """The input and output items with one of the `wanted` ids, by id."""
    rows = [*own_items(kept, object_id), *output_items(kept)]
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if isinstance(row, dict) and isinstance(id_ := row.get("id"), str) and id_ in wanted:
            found.setdefault(id_, row)
    return found


def input_items(turns: Sequence[tuple[str, Kept]]) -> list[dict[str, Any]]:
    """The items that the last of these turns, each with its id, answered: the earlier ones' inputs and outputs, and its
    own input."""
    (last_id, last), earlier = turns[-1], turns[:-1]
    rows = [row for object_id, kept in earlier for row in (*own_items(kept, object_id), *output_items(kept))]
    return [*rows, *own_items(last, last_id)]


def output_items(kept: Kept) -> list[dict[str, Any]]:
    """The items of the answer that have an id."""
    rows = _members.decode(kept.answer).get("output")
    return [row for row in rows if isinstance(row, dict) and row.get("id")] if isinstance(rows, list) else []


def own_items(kept: Kept, object_id: str) -> list[dict[str, Any]]:
    """The call's own input in full form: the content of every message is a list of parts.

    Every item has a type, an id and, if it is a message or the SDK's types require one, a status.
    """
    return with_ids([_in_full(item) for item in items_of(b'{"input":' + bytes(kept.input) + b"}", b"{}")], object_id)


def _in_full(item: dict[str, Any]) -> dict[str, Any]:
    kind = str(item.get("type", "message"))
    if kind != "message":
        return {**item, "status": item.get("status") or "completed"} if kind in _STATED else item
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text" if item.get("role") == "assistant" else "input_text", "text": content}]
    if isinstance(content, list):
        content = [_part_in_full(part) for part in content]
    return {**item, "type": "message", "status": item.get("status") or "completed", "content": content}


def _part_in_full(part: Any) -> Any:
    match part.get("type") if isinstance(part, dict) else None:
        case "output_text":
            return {**part, "annotations": part.get("annotations") or []}
        case "input_image":
            return {**part, "detail": part.get("detail") or "auto"}
    return part


def shown(kept: Kept, status: str) -> bytes:
    """The response object with the row's `status`, since it may have ended after the object was written."""
    members = _raw_members.decode(kept.answer)
    if bytes(members.get("status", NULL)) == _encode(status):
        return bytes(kept.answer)
    members["status"] = msgspec.Raw(_encode(status))
    if status == "failed":
        members["error"] = msgspec.Raw(_encode({"code": "server_error", "message": kept.error or LOST}))
    return _encode(members)


def deleted_response(object_id: str) -> dict[str, Any]:
    return {"id": object_id, "object": "response", "deleted": True}


# --- chat completions ------------------------------------------------------------------------------------------------


def completion(kept: Kept, metadata: str | None) -> msgspec.Raw:
    """The chat completion with its current metadata."""
    members = _raw_members.decode(kept.answer)
    members["metadata"] = msgspec.Raw((metadata or "{}").encode())
    return msgspec.Raw(_encode(members))


def messages(kept: Kept, object_id: str) -> list[dict[str, Any]]:
    """The request's messages, each with an id; content made of parts is also in `content_parts`."""
    rows = msgspec.json.decode(kept.input)
    found = []
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        parts = row.get("content") if isinstance(row.get("content"), list) else None
        text = "".join(part.get("text") or "" for part in parts if isinstance(part, dict)) if parts else None
        content = row.get("content") if parts is None else text
        found.append({"name": None, **row, "id": f"{object_id}-{number}", "content": content, "content_parts": parts})
    return found


def deleted_completion(object_id: str) -> dict[str, Any]:
    return {"id": object_id, "object": "chat.completion.deleted", "deleted": True}


def metadata_problem(metadata: Mapping[str, str]) -> str | None:
    """Why metadata cannot be stored, or None."""
    if len(metadata) > METADATA_PAIRS_MAX:
        return f"`metadata` must have at most {METADATA_PAIRS_MAX} pairs, but has {len(metadata)}."
    for name, value in metadata.items():
        if not 0 < len(name) <= METADATA_KEY_CHARS_MAX or len(value) > METADATA_VALUE_CHARS_MAX:
            return (
                f"Keys in `metadata` must have 1 to {METADATA_KEY_CHARS_MAX} characters, "
                f"values at most {METADATA_VALUE_CHARS_MAX}."
            )
        if "\0" in name + value:
            return "`metadata` must not contain the character U+0000."
    return None


# --- lists -----------------------------------------------------------------------------------------------------------


def listing(rows: Sequence[Any], ids: Sequence[str], has_more: bool) -> dict[str, Any]:
    """A list page in OpenAI's format."""
    return {
        "object": "list",
        "data": list(rows),
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": has_more,
    }


def page_of(rows: Sequence[dict[str, Any]], limit: int, ascending: bool, after: str | None) -> dict[str, Any] | None:
    """A page of `rows`; None if there is no row with the id `after`."""
    ordered = list(rows) if ascending else list(reversed(rows))
    if after is not None:
        at = next((number for number, row in enumerate(ordered) if row["id"] == after), None)
        if at is None:
            return None
        ordered = ordered[at + 1 :]
    shown_rows = ordered[:limit]
    return listing(shown_rows, [row["id"] for row in shown_rows], len(ordered) > limit)
