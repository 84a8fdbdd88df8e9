"""Stored answers: the history that a call continues from, the body without storing upstream, and the row.

The gateway's own tables are the truth (docs/adr/0013-stored-answers.md): no upstream is asked to store anything, so any
model of any dialect can continue any conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from elkapi.catalog.jsonedit import with_raw, without
from elkapi.catalog.text import may_refer
from elkapi.errors import NOT_JSON, BadRequest, BodyTooLarge, NotFound
from elkapi.relay.background_log import FrameLog
from elkapi.relay.large import anywhere
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Keep, Request, with_body
from elkapi.relay.stored_objects import Found
from elkapi.translate import kept as stored
from elkapi.translate.crossing import Crossing
from elkapi.translate.decode import decode
from elkapi.translate.dialect import Dialect, Unreadable, UpstreamDialect, Writer
from elkapi.translate.ir import ChatRequest
from elkapi.translate.kept import Kept
from elkapi.translate.kept_stream import (
    KeptChat,
    KeptResponses,
    KeptTranslated,
    Ours,
    final_completion,
    final_response,
    with_ours,
)
from elkapi.translate.profiles import profile_for
from elkapi.translate.responses_request import ENCRYPTED
from elkapi.translate.responses_state import with_history, without_repeated_calls
from elkapi.types import Attempt, Grant, StoredObject, Usage

if TYPE_CHECKING:
    from elkapi.relay.hold import Hold

# Families whose reasoning models return encrypted reasoning, which a later turn can send along.
_SEALING = frozenset({"openai", "azure"})
TOO_LARGE = "The answer is too large to keep."
UNREADABLE = "The answer cannot be read."
NO_ROOM = "This API key has reached the daily limit for keeping calls that cost nothing."
_NOT_IN_CHAT = ("store", "metadata")
_encode = msgspec.json.encode
_members = msgspec.json.Decoder(dict[str, Any])
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])


class _Include(msgspec.Struct):
    include: list[str] | None = None


_include = msgspec.json.Decoder(_Include)


# --- before the call -------------------------------------------------------------------------------------------------


async def prepared(plane: DataPlane, grant: Grant, request: Request) -> Request:
    """The call with its history before its own input, and how its answer is stored.

    Raises BadRequest (`previous_response_not_found`, invalid metadata), NotFound (`item_not_found`,
    `conversation_not_found`), BodyTooLarge, Unavailable.
    """
    facts, wire = request.facts, request.operation.wire
    if facts.conversation is not None:
        raise NotFound(
            f"Conversation with id '{facts.conversation[:100]}' not found.",
            code="conversation_not_found",
            param="conversation",
        )
    kind = {"responses": "response", "chat": "chat"}.get(wire or "")
    keeps = facts.store and kind is not None and plane.settings.stored_keep_s > 0
    if facts.background and plane.settings.stored_keep_s == 0:
        raise BadRequest("`background` is not supported: this gateway does not store answers.", param="background")
    if facts.background and not keeps:
        raise BadRequest("Background mode requires `store` to be true.", param="background")
    keep = None
    if keeps:
        bytes_max = plane.settings.stored_bytes_max
        keep = Keep("chat" if kind == "chat" else "response", background=facts.background, bytes_max=bytes_max)
        if kind == "chat":
            _check_labels(decode(stored.chat_input, request.body).metadata)
    if facts.previous is not None or may_refer(request.body):
        request, keep = await _with_past(plane, grant, request, keep)
    return request if keep is None else msgspec.structs.replace(request, keep=keep)


async def _with_past(
    plane: DataPlane, grant: Grant, request: Request, keep: Keep | None
) -> tuple[Request, Keep | None]:
    facts = request.facts
    size_bytes = len(request.body)
    members = await anywhere(size_bytes, decode, _members, request.body)
    own = await _resolved(plane, grant, members.get("input"), size_bytes)
    turns: list[Found] = []
    if facts.previous is not None:
        turns = await plane.stored.conversation(grant, facts.previous)
        size_bytes += sum(len(turn.row.sealed) for turn in turns)
    if own is None and not turns:
        return request, keep
    members = members if own is None else members | {"input": own}
    request, own_items = await anywhere(size_bytes, _joined, request, members, turns)
    if keep is not None and turns:
        keep = msgspec.structs.replace(keep, previous=turns[-1].row.id, own=own_items)
    return request, keep


def _joined(request: Request, members: dict[str, Any], turns: Sequence[Found]) -> tuple[Request, int]:
    """The call with the requests and answers of these turns before its own input, and the number of items of that
    input."""
    history = [item for turn in turns for item in stored.turn_of(turn.kept)]
    own = members.get("input")
    if isinstance(own, list):
        own = without_repeated_calls(own, history)
        members = members | {"input": own}
    return with_body(request, with_history(_encode(members), history)), _items(own)


async def _resolved(plane: DataPlane, grant: Grant, given: Any, size_bytes: int) -> Any:
    """The input with the referenced items in place, in the form that inputs use. Raises BodyTooLarge."""
    if not isinstance(given, list):
        return given
    wanted = await anywhere(size_bytes, lambda: [_referred(item) for item in given])
    ids = [id_ for id_ in wanted if id_ is not None]
    if not ids:
        return given
    found = await plane.stored.items(grant, set(ids))
    size = {id_: len(_encode(item)) for id_, item in found.items()}
    bytes_max, items_bytes = plane.settings.body_bytes_max, sum(size.get(id_, 0) for id_ in ids)
    if items_bytes > bytes_max:
        raise BodyTooLarge(f"The items that `input` refers to must have at most {bytes_max} bytes together.")
    return await anywhere(size_bytes + items_bytes, _in_place, given, wanted, found)


def _in_place(given: list[Any], wanted: list[str | None], found: dict[str, dict[str, Any]]) -> list[Any]:
    rows = []
    for item, id_ in zip(given, wanted, strict=True):
        if id_ is not None and id_ not in found:
            raise NotFound(f"Item with id '{id_[:100]}' not found.", code="item_not_found", param="input")
        rows.append(item if id_ is None else stored.without_id(found[id_]))
    return rows


def _referred(item: Any) -> str | None:
    """The id that an item refers to; an item with only an id is a reference too."""
    if not isinstance(item, dict) or "role" in item:
        return None
    if item.get("type") is None and not isinstance(item.get("id"), str):
        return None
    return str(item.get("id")) if item.get("type") in (None, "item_reference") else None


def _items(given: Any) -> int:
    """The number of items of an input."""
    return len(given) if isinstance(given, list) else int(given is not None)


def _check_labels(metadata: dict[str, str] | None) -> None:
    problem = stored.metadata_problem(metadata or {})
    if problem is not None:
        raise BadRequest(problem, param="metadata")


# --- on the way ------------------------------------------------------------------------------------------------------


def object_id(request: Request) -> str:
    """The public id of the stored answer."""
    prefix = stored.CHAT_PREFIX if request.operation.wire == "chat" else stored.RESPONSE_PREFIX
    return prefix + request.call_id


def ours_of(request: Request) -> Ours:
    """The members of a stored response about itself."""
    keep = request.keep
    if keep is None:
        raise TypeError("this call's answer is not kept")
    previous = None if keep.previous is None else stored.RESPONSE_PREFIX + keep.previous.hex()
    return Ours(object_id(request), previous, keep.background)


def unstored(request: Request, wire: str, body: bytes, attempt: Attempt) -> bytes:
    """The body for an upstream of the caller's own dialect, with storing turned off.

    Metadata is only accepted with storing, and there the call runs in the foreground. Encrypted reasoning is requested,
    because stored upstream the next turn would have had it. Raises BadRequest.
    """
    if wire == "chat":
        return without(body, _NOT_IN_CHAT)
    if wire != "responses":
        return body
    if request.facts.background:
        body = without(body, ("background", "background_options"))
    body = with_raw(body, "store", b"false")
    family, model = attempt.channel.family, attempt.upstream_model
    if request.keep is None or family not in _SEALING or profile_for(family, model).reasoning != "effort":
        return body
    asked = decode(_include, body).include or [] if b'"include"' in body else []
    return body if ENCRYPTED in asked else with_raw(body, "include", _encode([*asked, ENCRYPTED]))


def with_state(request: Request, asked: ChatRequest) -> ChatRequest:
    """The request as our answer repeats it: whether it is stored, and what it continues from."""
    if request.operation.wire != "responses":
        return asked
    kept = request.keep is not None
    previous = ours_of(request).previous if kept else None
    extra = asked.extra | {"store": kept, "previous_response_id": previous}
    return msgspec.structs.replace(asked, extra=extra)


def named_ours(request: Request, body: bytes) -> bytes:
    """A whole answer of the caller's own dialect with our id. Raises Unreadable."""
    if not stored.is_readable(body):
        raise Unreadable
    if request.operation.wire == "chat":
        return with_raw(body, "id", _encode(object_id(request)))
    return with_ours(body, ours_of(request))


def kept_relayed(
    request: Request, dialect: Dialect, writer: Writer, strip: bool, rename: tuple[str, str] | None
) -> Crossing:
    """The conversion of a stream between equal wires whose answer is stored."""
    kind = KeptChat if request.operation.wire == "chat" else KeptResponses
    crossing = kind(dialect.reader(), writer, dialect.ends_by_close, strip, rename)
    crossing.ours = ours_of(request)
    _record(request, crossing)
    return crossing


def kept_translated(request: Request, theirs: Dialect | UpstreamDialect, writer: Writer) -> Crossing:
    """The conversion of a translated chat stream whose answer is stored."""
    crossing = KeptTranslated(theirs.reader(), writer, theirs.ends_by_close)
    _record(request, crossing)
    return crossing


def _record(request: Request, crossing: Crossing) -> None:
    if isinstance(crossing, KeptChat | KeptTranslated) and request.keep is not None:
        crossing.recorded, crossing.recorded_bytes_max = [], request.keep.bytes_max


# --- after the call --------------------------------------------------------------------------------------------------


class NotKept(Exception):
    """Why an answer has no row, for whoever polls it."""


def answer_kept(hold: Hold, outcome: Outcome, usage: Usage) -> StoredObject:
    """The row of a whole answer. Raises NotKept if it is unreadable or too large."""
    request, log = hold.request, hold.call.reply
    keep = request.keep
    assert keep is not None
    frames, last = None, b"" if outcome.body[:1] == b"{" else outcome.body
    if isinstance(log, FrameLog):
        frames = log.unkept(last)
    try:
        answer = _whole(keep, outcome, usage)
        if answer is None:
            raise NotKept(TOO_LARGE)
        row = stored_row(hold.plane, hold.grant, request, hold.call.id, answer, frames)
    except NOT_JSON:
        raise NotKept(UNREADABLE) from None
    if len(row.body) > keep.bytes_max:
        raise NotKept(TOO_LARGE)
    # A background response was counted at its start.
    size_bytes = len(answer) + log.size_bytes + len(last) if isinstance(log, FrameLog) else len(row.body)
    if not hold.may_keep(size_bytes):
        raise NotKept(NO_ROOM)
    return row


def _whole(keep: Keep, outcome: Outcome, usage: Usage) -> bytes | None:
    if keep.kind == "response":
        return final_response(outcome.body)
    if outcome.body[:1] == b"{":
        return outcome.body
    pieces = outcome.crossing.recorded if outcome.crossing is not None else None
    return None if pieces is None else final_completion([*pieces, outcome.body], usage)


def stored_row(
    plane: DataPlane,
    grant: Grant,
    request: Request,
    call_id: bytes,
    answer: bytes,
    frames: tuple[int, bytes] | None = None,
    *,
    status: str | None = None,
    error: str | None = None,
    worker: bytes | None = None,
) -> StoredObject:
    """The row of an answer, or of one in progress (made by `worker`). `status` None: the answer's own."""
    keep = request.keep
    assert keep is not None
    now_ns = plane.clock.now_ns()
    metadata: str | None = None
    if keep.kind == "chat":
        chat = stored.chat_input.decode(request.body)
        own, state = bytes(chat.messages), "completed"
        metadata = _encode(chat.metadata).decode() if chat.metadata else None
    else:
        own = bytes(stored.response_input.decode(request.body).input)
        if keep.own is not None:
            items = _raw_items.decode(own)
            own = _encode(items[len(items) - keep.own :])
        state = _status(answer)
    item_ids = stored.output_ids(answer, object_id(request)) if keep.kind == "response" else ()
    return StoredObject(
        id=call_id,
        kind=keep.kind,
        owner_id=grant.owner_id,
        key_id=grant.key_id,
        model=request.model,
        status=status or state,
        created_ns=now_ns,
        expires_ns=now_ns + round(plane.settings.stored_keep_s * 1e9),
        body=_encode(Kept(msgspec.Raw(own), msgspec.Raw(answer), error)),
        previous=keep.previous,
        worker=worker,
        metadata=metadata,
        item_ids=item_ids,
        finishes=keep.background and worker is None,
        frames=frames,
    )


def without_input(row: StoredObject) -> StoredObject:
    """The row of an answer without its input."""
    kept = stored.kept_decoder.decode(row.body)
    return msgspec.structs.replace(row, body=_encode(msgspec.structs.replace(kept, input=msgspec.Raw(b"[]"))))


class _State(msgspec.Struct):
    status: str | None = None


_state = msgspec.json.Decoder(_State)


def _status(answer: bytes) -> str:
    return _state.decode(answer).status or "completed"
