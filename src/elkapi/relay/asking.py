"""A submit's body -> what is asked of a provider: model, price units and features, what it refers to, who is told.

The caller's body stays bytes as long as nothing in it must change (decisions.md, "codecs").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog import Match, Operation
from elkapi.catalog.jsonedit import check_named_once
from elkapi.catalog.jsonpath import compiled
from elkapi.catalog.operation import Family, Hooks
from elkapi.catalog.task import TaskSpec
from elkapi.errors import BadRequest
from elkapi.pricing.media import bound
from elkapi.relay.call import Call
from elkapi.relay.read import check_media_type
from elkapi.translate.decode import decode
from elkapi.types import Usage

_object = msgspec.json.Decoder(dict[str, Any])
# Members by which a follow-up names what an earlier task made; the same account must serve it.
REFS = (
    *("video_id", "task_id", "input.video_id", "input.task_id", "session_id", "video.id"),
    *("keyframes.frame0.id", "keyframes.frame1.id", "content[*].draft_task.id"),
)


class Asked(msgspec.Struct, frozen=True):
    """One submit as it was read. `sent` are its bytes, `body` the same decoded; `refs` what it says of earlier tasks.

    `said` is the caller's own word for the model where `model` is another.
    """

    operation: Operation
    family: Family
    model: str
    said: str
    sent: bytes
    body: Mapping[str, Any]
    upper: Usage
    features: Mapping[str, str]
    refs: tuple[str, ...]
    callback_url: str

    @property
    def task(self) -> TaskSpec:
        assert self.operation.task is not None
        return self.operation.task


async def read_submit(call: Call, match: Match, family: Family, aliases: Mapping[str, str] | None) -> Asked:
    """Read and check a submit. Raises BadRequest, UnsupportedMediaType, BodyTooLarge, RequestTimeout, ClientGone."""
    operation = match.operation
    assert operation.meter is not None
    assert operation.task is not None
    check_media_type(call.header(b"content-type"))
    sent = await call.body()
    body = decode(_object, sent)
    _check_spelling(body, operation.model.name)
    source = operation.model
    if source.where == "body":
        check_named_once(sent, source.name, "model")
    model = _model(match, body)
    said = ""
    if aliases and model in aliases:
        said, model = model, aliases[model]
    upper, features = bound(operation.meter, body)
    callback = body.get(operation.task.callback) if operation.task.callback else None
    if callback is not None and not isinstance(callback, str):
        raise BadRequest(f"`{operation.task.callback}` must be a URL.", param=operation.task.callback)
    named = [match.params.get(name) for name in ("id", "task_id")] if "{ref}" in operation.upstream else []
    found = [*named, *(value for path in REFS for value in compiled(path)(body))]
    refs = tuple(dict.fromkeys(str(one) for one in found if isinstance(one, str | int) and one != ""))
    return Asked(operation, family, model, said, sent, body, upper, features, refs, callback or "")


def _check_spelling(body: Mapping[str, Any], *names: str) -> None:
    """Providers written in Go take `Model` for `model`, so they could serve another model than the one priced."""
    for name in body:
        if name.lower() in names and name not in names:
            raise BadRequest(f"Invalid body: write `{name.lower()}` in small letters.", param=name)


def _model(match: Match, body: Mapping[str, Any]) -> str:
    source = match.operation.model
    found = None
    if source.where in ("body", "body_or_path"):
        found = body.get(source.name)
        if found is None and source.name != "model":
            found = body.get("model")
    if source.prefix and found is not None:
        found = _versioned(source.prefix, found)
    if found is None and source.where in ("path", "body_or_path"):
        found = match.params.get(source.name)
    if found is None:
        found = source.default
    if found is None:
        raise BadRequest("`model` is missing.", param=source.name)
    if not isinstance(found, str) or not found:
        raise BadRequest(f"`{source.name}` must be the name of a model.", param=source.name)
    return found


def _versioned(prefix: str, value: Any) -> Any:
    """The model's name behind a version: 1.5, "1.5" and 2 are `prefix` and 1.5, 1.5 and 2.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(float(value))
    return value if not isinstance(value, str) or value.startswith(prefix) else prefix + value


def provider_body(
    asked: Asked, upstream_model: str, mark: str, callback: str, names: Mapping[str, str]
) -> tuple[bytes, str]:
    """(the body as this provider wants it, our mark in it, "" where it takes none). Raises BadRequest.

    `mark` is put where the caller gave none of its own; `callback` is ours or "", and takes the caller's place. `names`
    are the provider's own for tasks that the caller calls by ours.
    """
    source, task, hooks = asked.operation.model, asked.task, asked.family.hooks
    body = _copied(asked.body, names)
    if source.prefix:
        if upstream_model != asked.model:
            body[source.name] = upstream_model.removeprefix(source.prefix)
    elif source.where == "body" and upstream_model != body.get(source.name):
        # A body that names none leaves the choice to the provider only where that is the model we priced.
        body[source.name] = upstream_model
        if source.name != "model":
            body.pop("model", None)
    if task.callback and (asked.callback_url or callback):
        if callback:
            body[task.callback] = callback
        else:
            body.pop(task.callback, None)
    if task.mark:
        mark = str(body.setdefault(task.mark, mark))
    body = _prepared(hooks, asked.operation.id, body, upstream_model)
    sent = asked.sent if body == asked.body else msgspec.json.encode(body)
    return sent, mark if task.mark else ""


def _prepared(hooks: Hooks, operation: str, body: dict[str, Any], model: str) -> dict[str, Any]:
    return body if hooks.prepare is None else hooks.prepare(operation, body, model)


def _copied(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _copied(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
