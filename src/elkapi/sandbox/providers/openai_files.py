"""OpenAI's files: upload, list, read and delete; also the input and output of batches."""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Problem, Request, json_answer
from elkapi.sandbox.multipart import parts_of
from elkapi.sandbox.providers.openai_lists import page
from elkapi.sandbox.store import Store

SHELF = "openai.files"
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


class Kept(msgspec.Struct, frozen=True):
    """One file: its public object and its content."""

    shown: dict[str, Any]
    content: bytes


def keep_file(store: Store, file_id: str, name: str, purpose: str, content: bytes, now_s: float) -> dict[str, Any]:
    """Store a file; returns its public object."""
    shown = {
        "id": file_id,
        "object": "file",
        "bytes": len(content),
        "created_at": int(now_s),
        "filename": name,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }
    store.shelf(SHELF).put(file_id, Kept(shown, content), len(content))
    return shown


def upload(request: Request) -> Answer:
    """`POST /v1/files`: multipart with `file` and `purpose`."""
    parts = parts_of(request.header("content-type") or "", request.body)
    held = {part.name: part for part in parts}
    file, purpose = held.get("file"), held.get("purpose")
    if file is None or file.filename is None:
        raise Problem(400, "A file is required.", param="file")
    named = purpose.content.decode("utf-8", "replace") if purpose is not None else None
    if named not in PURPOSES:
        raise Problem(400, f"purpose must be one of {', '.join(PURPOSES)}.", param="purpose")
    file_id = "file-" + request.id_suffix
    name = file.filename or "upload"
    return json_answer(keep_file(request.store, file_id, name, named, file.content, request.now_s))


def list_files(request: Request) -> Answer:
    """`GET /v1/files`, newest first; `purpose` filters."""
    purpose = request.query("purpose")
    kept = [kept.shown for kept in request.store.shelf(SHELF).all() if purpose in (None, kept.shown["purpose"])]
    return json_answer(page(request, kept, "desc"))


def get_file(request: Request) -> Answer:
    """`GET /v1/files/{id}`."""
    return json_answer(found(request.store, request.params["id"]).shown)


def file_content(request: Request) -> Answer:
    """`GET /v1/files/{id}/content`."""
    return Answer(200, (found(request.store, request.params["id"]).content,), "application/octet-stream")


def delete_file(request: Request) -> Answer:
    """`DELETE /v1/files/{id}`."""
    file_id = found(request.store, request.params["id"]).shown["id"]
    request.store.shelf(SHELF).pop(file_id)
    return json_answer({"id": file_id, "object": "file", "deleted": True})


def found(store: Store, file_id: str) -> Kept:
    """The file of this id. Raises Problem 404."""
    kept = store.shelf(SHELF).get(file_id)
    if not isinstance(kept, Kept):
        raise Problem(404, f"No such File object: {file_id}", param="id")
    return kept
