"""OpenAI's stored chat completions: stored with `store: true`, then listed, read, updated and deleted, all free."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from elkapi.sandbox.messages import Answer, Problem, Request, json_answer
from elkapi.sandbox.providers.openai_lists import page
from elkapi.sandbox.providers.openai_read import invalid, json_object
from elkapi.sandbox.store import Store

SHELF = "openai.chats"
METADATA_PAIRS_MAX = 16


class Kept(msgspec.Struct):
    """One stored completion with the messages of its request."""

    completion: dict[str, Any]
    messages: list[dict[str, Any]]


def keep_chat(
    store: Store, completion: dict[str, Any], messages: list[dict[str, Any]], metadata: dict[str, str] | None
) -> None:
    """Store a completion; every caller can read it, like all keys of an OpenAI account."""
    kept = Kept({**completion, "metadata": metadata or {}}, messages)
    store.shelf(SHELF).put(completion["id"], kept, len(msgspec.json.encode(kept)))


def list_chats(request: Request) -> Answer:
    """`GET /v1/chat/completions`, filtered by model and metadata."""
    wanted = dict(parse_qsl(request.raw_target.partition("?")[2], keep_blank_values=True))
    metadata = {name[9:-1]: value for name, value in wanted.items() if name.startswith("metadata[")}
    kept = [
        entry.completion
        for entry in request.store.shelf(SHELF).all()
        if wanted.get("model") in (None, entry.completion["model"])
        and metadata.items() <= entry.completion["metadata"].items()
    ]
    return json_answer(page(request, kept, "asc"))


def get_chat(request: Request) -> Answer:
    """`GET /v1/chat/completions/{id}`."""
    return json_answer(_kept(request).completion)


def update_chat(request: Request) -> Answer:
    """`POST /v1/chat/completions/{id}`: replace its metadata."""
    kept = _kept(request)
    kept.completion["metadata"] = metadata_of(json_object(request.body))
    return json_answer(kept.completion)


def delete_chat(request: Request) -> Answer:
    """`DELETE /v1/chat/completions/{id}`."""
    kept = _kept(request)
    request.store.shelf(SHELF).pop(kept.completion["id"])
    return json_answer({"id": kept.completion["id"], "object": "chat.completion.deleted", "deleted": True})


def chat_messages(request: Request) -> Answer:
    """`GET /v1/chat/completions/{id}/messages`: the request's messages with ids; arrays become `content_parts`."""
    kept = _kept(request)
    shown = [_message(kept.completion["id"], at, message) for at, message in enumerate(kept.messages)]
    return json_answer(page(request, shown, "asc"))


def metadata_of(body: dict[str, Any]) -> dict[str, str]:
    """The metadata of a body: at most 16 pairs of strings. Raises Problem."""
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise invalid("metadata must be an object of strings.", "metadata")
    if len(metadata) > METADATA_PAIRS_MAX:
        raise invalid(f"metadata holds more than {METADATA_PAIRS_MAX} pairs.", "metadata")
    return metadata


def _message(chat_id: str, at: int, message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = None if parts is not None else content
    return {**message, "id": f"{chat_id}-{at}", "content": text, "content_parts": parts}


def _kept(request: Request) -> Kept:
    kept = request.store.shelf(SHELF).get(request.params["id"])
    if not isinstance(kept, Kept):
        raise Problem(404, f"No chat completion found with id {request.params['id']}.", code="not_found", param="id")
    return kept
