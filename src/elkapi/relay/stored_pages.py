"""Endpoints of stored responses and chat completions: read, stream again, list, change metadata, cancel, delete; all
free.

They are answered from the gateway's own tables, whatever upstream answered. Contract: openai.md ("Response ID to obtain
results", "Stored completions").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.catalog import Match
from elkapi.errors import BadRequest
from elkapi.relay.call import JSON, Call
from elkapi.relay.follow import follow
from elkapi.relay.large import anywhere
from elkapi.relay.plane import DataPlane, Page
from elkapi.relay.query import number_in, query_of
from elkapi.relay.read import check_media_type
from elkapi.relay.stored_objects import Found, parse_stored_id, stored_id_text
from elkapi.snapshot import Snapshot
from elkapi.storage.repos.stored import IN_PROGRESS
from elkapi.translate import kept as stored
from elkapi.translate.decode import decode
from elkapi.types import Grant

LIMIT_DEFAULT, LIMIT_MAX = 20, 100
SEQUENCE_MAX = 1 << 53


class _Labels(msgspec.Struct):
    metadata: dict[str, str] | None


_labels = msgspec.json.Decoder(_Labels)
Query = dict[str, str]
Rows = list[dict[str, Any]]


def _ascending(query: Query, otherwise: str) -> bool:
    order = query.get("order") or otherwise
    if order not in ("asc", "desc"):
        raise BadRequest("`order` must be asc or desc.", param="order")
    return order == "asc"


def _flag(query: Query, name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise BadRequest(f"`{name}` must be true or false.", param=name)
    return value == "true"


def _send(call: Call, body: bytes) -> None:
    call.reply.send(200, JSON, body)


async def _listed(call: Call, rows_of: Callable[[], Rows], size_bytes: int, default_order: str) -> None:
    """A page of the parts of stored objects of this size, all of which `rows_of` writes. Raises BadRequest."""
    query = query_of(call.query)
    limit, ascending = number_in(query, "limit", 1, LIMIT_MAX) or LIMIT_DEFAULT, _ascending(query, default_order)

    def listed() -> bytes | None:
        page = stored.page_of(rows_of(), limit, ascending, query.get("after"))
        return None if page is None else msgspec.json.encode(page)

    page = await anywhere(size_bytes, listed)
    if page is None:
        raise BadRequest("`after` must be the id of an object in this list.", param="after")
    _send(call, page)


# --- responses -------------------------------------------------------------------------------------------------------


async def get_response(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1/responses/{id}`: the current object, or with `stream=true` its events after `starting_after`."""
    query = query_of(call.query)
    streams = _flag(query, "stream")
    after = number_in(query, "starting_after", 0, SEQUENCE_MAX)
    if after is not None and not streams:
        raise BadRequest("`starting_after` requires `stream=true`.", param="starting_after")
    found = await plane.stored.find(grant, "response", match.params["id"])
    if streams:
        await follow(plane, grant, found.row.id, -1 if after is None else after, call)
    else:
        _send(call, stored.shown(found.kept, found.row.status))


async def cancel_response(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`POST /v1/responses/{id}/cancel`: background responses only; an ended one is unchanged."""
    found = await plane.stored.find(grant, "response", match.params["id"])
    if found.row.worker is None:
        raise BadRequest("Only responses created with `background` true can be cancelled.", param="id")
    if found.row.status == IN_PROGRESS and await plane.stored.cancel(grant, found.row.id):
        plane.background.cancel(found.row.id)
    found = await plane.stored.find(grant, "response", match.params["id"])
    _send(call, stored.shown(found.kept, found.row.status))


async def delete_response(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`DELETE /v1/responses/{id}`; one in progress is cancelled as well."""
    text = match.params["id"]
    await plane.stored.remove(grant, "response", text)
    object_id = parse_stored_id("response", text)
    if object_id is not None:
        plane.background.cancel(object_id)
    _send(call, msgspec.json.encode(stored.deleted_response(text)))


async def list_input_items(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1/responses/{id}/input_items`: what the answer was made from, last item first by default."""
    turns = await plane.stored.turns(grant, match.params["id"])
    named = [(stored_id_text("response", turn.row.id), turn.kept) for turn in turns]
    size_bytes = sum(len(turn.row.sealed) for turn in turns)
    await _listed(call, lambda: stored.input_items(named), size_bytes, "desc")


# --- chat completions ------------------------------------------------------------------------------------------------


def _completion(found: Found) -> msgspec.Raw:
    return stored.completion(found.kept, found.row.metadata)


async def list_completions(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1/chat/completions`: the stored ones, oldest first by default."""
    query = query_of(call.query)
    limit, ascending = number_in(query, "limit", 1, LIMIT_MAX) or LIMIT_DEFAULT, _ascending(query, "asc")
    after = None
    if (text := query.get("after")) is not None:
        # Ids are in the order of creation, so a page can continue after one that was deleted meanwhile.
        after = parse_stored_id("chat", text)
        if after is None:
            raise BadRequest("`after` must be the id of a chat completion.", param="after")
    labels = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[") and name[-1] == "]"}
    if any(character in name for name in labels for character in '"\\\0'):
        raise BadRequest(
            "Keys in `metadata` must not contain quotation marks, backslashes or U+0000 in a filter.", param="metadata"
        )
    model = query.get("model")
    if "\0" in (model or "") + "".join(labels.values()):
        raise BadRequest("The query string must not contain the character U+0000.")
    found, has_more = await plane.stored.page(
        grant, limit=limit, ascending=ascending, after=after, model=model, metadata=labels
    )
    ids = [stored_id_text("chat", one.row.id) for one in found]
    _send(call, msgspec.json.encode(stored.listing([_completion(one) for one in found], ids, has_more)))


async def get_completion(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1/chat/completions/{id}`."""
    _send(call, bytes(_completion(await plane.stored.find(grant, "chat", match.params["id"]))))


async def update_completion(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`POST /v1/chat/completions/{id}`: replace the metadata; null removes it."""
    check_media_type(call.header(b"content-type"))
    labels: _Labels = decode(_labels, await call.body())
    if labels.metadata is not None and (problem := stored.metadata_problem(labels.metadata)):
        raise BadRequest(problem, param="metadata")
    text = match.params["id"]
    written = msgspec.json.encode(labels.metadata).decode() if labels.metadata else None
    await plane.stored.set_metadata(grant, text, written)
    _send(call, bytes(_completion(await plane.stored.find(grant, "chat", text))))


async def delete_completion(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`DELETE /v1/chat/completions/{id}`."""
    text = match.params["id"]
    await plane.stored.remove(grant, "chat", text)
    _send(call, msgspec.json.encode(stored.deleted_completion(text)))


async def list_messages(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1/chat/completions/{id}/messages`: the messages sent, oldest first by default."""
    text = match.params["id"]
    found = await plane.stored.find(grant, "chat", text)
    await _listed(call, lambda: stored.messages(found.kept, text), len(found.row.sealed), "asc")


STORED_PAGES: dict[str, Page] = {
    "openai.responses-get": get_response,
    "openai.responses-cancel": cancel_response,
    "openai.responses-delete": delete_response,
    "openai.responses-input-items": list_input_items,
    "openai.chat-list": list_completions,
    "openai.chat-get": get_completion,
    "openai.chat-update": update_completion,
    "openai.chat-delete": delete_completion,
    "openai.chat-messages": list_messages,
}
