"""Hop 3: a call's bounded body -> `Request`: the model as the caller named it, and the bytes as they came."""

from __future__ import annotations

import msgspec

from elkapi.catalog import Body, Facts, Match, Operation
from elkapi.catalog.jsonedit import check_named_once, with_string
from elkapi.errors import BadRequest, UnsupportedMediaType
from elkapi.relay.call import Call


class Request(msgspec.Struct, frozen=True):
    """What is asked: `body` names `model` at its top level, whatever path it came by."""

    operation: Operation
    model: str
    body: bytes
    facts: Facts


async def read(call: Call, match: Match) -> Request:
    """Read and check a body. Raises BadRequest, UnsupportedMediaType, BodyTooLarge, RequestTimeout, ClientGone."""
    operation = match.operation
    if operation.body is Body.JSON:
        _check_media_type(call.header(b"content-type"))
    body = await call.body()
    if operation.read is None:
        raise TypeError(f"{operation.id} is relayed but has no reader")
    facts = operation.read(body)
    model = facts.model
    # A second `model` or `input` would let the gateway price one and the upstream serve the other.
    once = operation.named_once
    check_named_once(body, *(once if model is None else (operation.model.name, *once)))
    if model is None and (model := match.params.get(operation.model.name)) is not None:
        body = with_string(body, operation.model.name, model)
    if model is None:
        raise BadRequest("`model` is missing.", param=operation.model.name)
    return Request(operation, model, body, facts)


def _check_media_type(value: bytes | None) -> None:
    # A missing type is taken for JSON, as the original does: `curl -d` without a header would send a form's type.
    if value is None or value == b"application/json":
        return
    kind = value.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise UnsupportedMediaType(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not accepted here; send application/json."
        )
