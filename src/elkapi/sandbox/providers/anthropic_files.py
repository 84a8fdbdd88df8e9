"""Anthropic's files: stored for their uploader; messages may refer to them, and they can be downloaded."""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Problem, Request, json_answer
from elkapi.sandbox.multipart import parts_of
from elkapi.sandbox.providers.anthropic_batches import key_of
from elkapi.sandbox.providers.anthropic_models import page
from elkapi.sandbox.providers.anthropic_read import Asked
from elkapi.sandbox.providers.dressing import stamp

SHELF = "anthropic.files"
ID_PREFIX = "file_01"


class Kept(msgspec.Struct, frozen=True):
    """One file and who uploaded it."""

    key: str
    shown: dict[str, Any]
    content: bytes


def upload(request: Request) -> Answer:
    """`POST /v1/files`: multipart with a part `file`."""
    parts = parts_of(request.header("content-type") or "", request.body)
    part = next((part for part in parts if part.name == "file" and part.filename is not None), None)
    if part is None:
        raise Problem(400, "file: Field required", param="file")
    file_id = ID_PREFIX + request.upstream_request_id[4:26]
    shown = {
        "type": "file",
        "id": file_id,
        "filename": part.filename or "unnamed",
        "mime_type": part.media_type,
        "size_bytes": len(part.content),
        "created_at": stamp(request.now_s),
        "downloadable": True,
        "expires_at": None,
    }
    kept = Kept(key_of(request), shown, part.content)
    request.store.shelf(SHELF).put(file_id, kept, len(part.content))
    return json_answer(shown)


def retrieve(request: Request) -> Answer:
    """`GET /v1/files/{id}`."""
    return json_answer(_found(request, request.params["id"]).shown)


def content(request: Request) -> Answer:
    """`GET /v1/files/{id}/content`."""
    kept = _found(request, request.params["id"])
    return Answer(200, (kept.content,), kept.shown["mime_type"])


def delete(request: Request) -> Answer:
    """`DELETE /v1/files/{id}`."""
    kept = _found(request, request.params["id"])
    request.store.shelf(SHELF).pop(kept.shown["id"])
    return json_answer({"id": kept.shown["id"], "type": "file_deleted"})


def list_all(request: Request) -> Answer:
    """`GET /v1/files`, newest first; `ids` selects some."""
    kept = [kept.shown for kept in request.store.shelf(SHELF).all() if kept.key == key_of(request)]
    return json_answer(page(request, kept[::-1]))


def check_files(request: Request, asked: Asked) -> None:
    """Raise Problem 404 if a message refers to a file that its caller has not uploaded."""
    for turn in asked.ask.turns:
        for source in (*turn.images, *turn.files):
            if source.startswith("file_"):
                _found(request, source)


def _found(request: Request, file_id: str) -> Kept:
    kept: Kept | None = request.store.shelf(SHELF).get(file_id)
    if kept is None or kept.key != key_of(request):
        raise Problem(404, f"File not found: {file_id}")
    return kept


ROUTES = (
    ("POST", "/v1/files", upload),
    ("GET", "/v1/files", list_all),
    ("GET", "/v1/files/{id}", retrieve),
    ("DELETE", "/v1/files/{id}", delete),
    ("GET", "/v1/files/{id}/content", content),
)
