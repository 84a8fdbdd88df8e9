"""A submit's body -> the request to a provider: model, price units and features, references, callback.

The caller's body stays bytes unless something in it must change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog import Body, Catalog, Match, Operation
from elkapi.catalog.jsonedit import check_all_named_once
from elkapi.catalog.jsonpath import compiled, first, put
from elkapi.catalog.jsontexts import texts_in, with_texts
from elkapi.catalog.operation import MODEL_CHARS_MAX, Family
from elkapi.catalog.spelling import check_spelling, misspelled
from elkapi.catalog.task import TaskSpec
from elkapi.errors import BadRequest, GatewayError
from elkapi.pricing.media import bound
from elkapi.relay import forms
from elkapi.relay.call import Call
from elkapi.relay.large import anywhere
from elkapi.relay.read import check_media_type
from elkapi.translate import media, media_write
from elkapi.translate.decode import decode
from elkapi.translate.media import MediaAsk
from elkapi.types import Usage

_object = msgspec.json.Decoder(dict[str, Any])
# Each reference to an earlier task costs a database lookup; a submit has a handful of them.
REFS_MAX = 16
DEPTH_MAX = 64
_OPERATION_WORDS = re.compile(r"/(text|image|video)-to-video$")
# Members by which a follow-up refers to the result of an earlier task; the same account must serve it.
REFS = (
    *("video_id", "task_id", "input.video_id", "input.task_id", "session_id", "video.id"),
    *("keyframes.frame0.id", "keyframes.frame1.id", "content[*].draft_task.id", "characters[*].id"),
)
# Members with the address of a video to continue from; an address of ours refers to the result of a task.
FILES = ("instances[*].video.uri",)
_REF_STEPS = tuple(tuple(path.replace("[*]", "").split(".")) for path in (*REFS, *FILES))
# How addresses begin of files that were uploaded to a provider's account, wherever in a body they stand.
UPLOADED = "runway://"
JSON_TYPE = b"application/json"


class Asked(msgspec.Struct, frozen=True):
    """One submit as read. `sent` are its bytes, `body` the same decoded; `refs` its references to earlier tasks.

    `said` is the caller's name of the model if `model` is another. `media` is set for a neutral request, which
    `crossed` translates for a provider; `shown` is the part of it that the caller may see again. `refusal` is a
    guardrail's: the submit is still priced, for its record, and goes no further. `files` are the addresses it continues
    from, ours or not.
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
    form: str = "native"
    content_type: bytes = JSON_TYPE
    media: MediaAsk | None = None
    shown: Mapping[str, Any] = {}
    refusal: GatewayError | None = None
    files: tuple[str, ...] = ()

    @property
    def task(self) -> TaskSpec:
        assert self.operation.task is not None
        return self.operation.task


async def read_submit(call: Call, match: Match, family: Family, aliases: Mapping[str, str] | None) -> Asked:
    """Read and check a submit. Raises BadRequest, UnsupportedMediaType, BodyTooLarge, RequestTimeout, ClientGone."""
    kind = call.header(b"content-type")
    sent = await call.body()
    body, sent, content_type = await anywhere(len(sent), _read, match.operation, kind, sent)
    return await anywhere(len(sent), asked_for, match, family, aliases, sent, body, content_type)


def _read(operation: Operation, kind: bytes | None, sent: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """(the members of a body, the bytes to send on, their content type). Raises BadRequest, UnsupportedMediaType."""
    content_type = JSON_TYPE
    if operation.body is Body.FORM and kind is not None and kind.lower().startswith(b"multipart/"):
        body, sent, content_type = forms.read(sent, kind)
        _check_depth(body)
    else:
        check_media_type(kind)
        body = decode(_object, sent)
        _check_depth(body)
        # With a duplicate member, another value could be served than is priced or looked up.
        check_all_named_once(sent)
    check_spelling(body, deciding_names(operation))
    for path in _deciding_paths(operation):
        holder, _, name = path.rpartition(".")
        if holder and isinstance(inner := first(holder, body), dict):
            check_spelling(inner, (name,))
    return body, sent, content_type


def asked_for(
    match: Match,
    family: Family,
    aliases: Mapping[str, str] | None,
    sent: bytes,
    body: Mapping[str, Any],
    content_type: bytes = JSON_TYPE,
) -> Asked:
    """Interpret a decoded body. Raises BadRequest."""
    operation = match.operation
    assert operation.meter is not None
    assert operation.task is not None
    model = "" if operation.model.where in ("source", "any") else _model(match, body)
    if operation.form in ("neutral", "task-submit"):
        # `kling-v3/text-to-video` is a model followed by what the input says anyway.
        model = _OPERATION_WORDS.sub("", model)
    said = ""
    if aliases and model in aliases:
        said, model = model, aliases[model]
    ask, form = None, operation.form
    if operation.flat_form and _is_flat(body, operation.model.name):
        form = operation.flat_form
    if operation.neutral or form != operation.form:
        ask = media.read(form, body, model)
    upper, features = bound(operation.meter, body)
    callback = ask.callback_url if ask is not None else body.get(operation.task.callback or "")
    if callback is not None and not isinstance(callback, str):
        raise BadRequest(f"`{operation.task.callback}` must be a URL.", param=operation.task.callback)
    refs, files = _goes_on_from(match, body)
    return Asked(
        operation=operation,
        family=family,
        model=model,
        said=said,
        sent=sent,
        body=body,
        upper=upper,
        features=features,
        refs=refs,
        callback_url=callback or "",
        form=form,
        content_type=content_type,
        media=ask,
        shown=body,
        files=files,
    )


def _goes_on_from(match: Match, body: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(references to earlier tasks, addresses of videos to continue). Raises BadRequest."""
    named = [match.params.get(name) for name in ("id", "task_id")] if "{ref}" in match.operation.upstream else []
    uploads = (text for text in texts_in(body) if text.startswith(UPLOADED))
    found = [*named, *(value for path in REFS for value in compiled(path)(body)), *uploads]
    refs = tuple(dict.fromkeys(str(one) for one in found if isinstance(one, str | int) and one != ""))
    files = tuple(dict.fromkeys(one for path in FILES for one in compiled(path)(body) if isinstance(one, str)))
    for path in _REF_STEPS:
        _check_named_plainly(body, path)
    if len(refs) + len(files) > REFS_MAX:
        raise BadRequest(
            f"A task must refer to at most {REFS_MAX} other tasks or files, but refers to {len(refs) + len(files)}."
        )
    return refs, files


def _is_flat(body: Mapping[str, Any], own: str) -> bool:
    """Whether it is a neutral request on a provider's route: kling.md, "Disagreement"."""
    return ("model" in body and own not in body) or bool({"metadata", "response_format"} & body.keys())


def crossed(asked: Asked, catalog: Catalog, wire: str) -> Asked:
    """Translate a neutral request for a provider of `wire`. Raises BadRequest for what it cannot carry."""
    assert asked.media is not None
    name, body = media_write.write(asked.media, wire)
    return put_as(asked, catalog, name, body)


def put_as(asked: Asked, catalog: Catalog, name: str, body: Mapping[str, Any]) -> Asked:
    """The submit as another operation with this JSON body, metered again. Raises BadRequest."""
    operation = catalog.by_id[name]
    assert operation.meter is not None
    upper, features = bound(operation.meter, body)
    return msgspec.structs.replace(
        asked,
        operation=operation,
        family=catalog.family_of[name],
        sent=msgspec.json.encode(body),
        body=body,
        upper=upper,
        features=features,
        content_type=JSON_TYPE,
    )


def deciding_names(operation: Operation) -> tuple[str, ...]:
    """The top-level members that determine the cost and the model of a submit."""
    names = (path.partition(".")[0].partition("[")[0] for path in _deciding_paths(operation))
    return tuple(dict.fromkeys(("model", *names)))


def _deciding_paths(operation: Operation) -> list[str]:
    meter = operation.meter
    assert meter is not None
    paths = [*meter.seconds, meter.count, *(path for paths in meter.features.values() for path in paths)]
    if operation.model.where == "body":
        paths.append(operation.model.name)
    return [path for path in paths if path and not path.startswith("=")]


def _check_named_plainly(value: Any, steps: tuple[str, ...], said: str = "", right: str = "") -> None:
    """Raises BadRequest if a reference is under a misspelled member, such as `Video_ID`: it would not be looked up
    here, and some providers would accept it.

    `steps` are the members from `value` to the name; `said` is the first misspelled one so far, "" for none, and
    `right` its spelling.
    """
    if isinstance(value, list):
        for inner in value:
            _check_named_plainly(inner, steps, said, right)
    elif not steps:
        if said and isinstance(value, str | int):
            raise misspelled(said, right)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == steps[0]:
                _check_named_plainly(inner, steps[1:], said, right)
            elif name.casefold() == steps[0].casefold():
                _check_named_plainly(inner, steps[1:], said or name, right or steps[0])


def _check_depth(body: Any) -> None:
    """Raises BadRequest for nesting deeper than any reader here accepts."""
    level, depth = [body], 0
    while level:
        if depth > DEPTH_MAX:
            raise BadRequest("The body is nested too deeply.", code="bad_request_body")
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [value for one in inner for value in (one.values() if isinstance(one, dict) else one)]
        depth += 1


def _model(match: Match, body: Mapping[str, Any]) -> str:
    source = match.operation.model
    found = None
    if source.where in ("body", "body_or_path"):
        found = first(source.name, body)
        if found is None and source.name != "model":
            found = body.get("model")
    if source.prefix and found is not None:
        found = _versioned(source.prefix, found)
    if found is None and source.where in ("path", "body_or_path"):
        found = match.params.get(source.name)
    if found is None:
        found = source.default
    if found is None:
        raise BadRequest("`model` is missing.", code="missing_model", param=source.name)
    if not isinstance(found, str) or not 0 < len(found) <= MODEL_CHARS_MAX:
        raise BadRequest(f"`{source.name}` must be the name of a model.", param=source.name)
    return found


def _versioned(prefix: str, value: Any) -> Any:
    """The model's name for a version: 1.5, "1.5" and 2 become `prefix` followed by 1.5, 1.5 and 2.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(float(value))
    return value if not isinstance(value, str) or value.startswith(prefix) else prefix + value


def provider_body(
    asked: Asked, upstream_model: str, mark: str, callback: str, names: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """(the body for this provider, its content type). Raises BadRequest.

    `mark` replaces the caller's own; `callback` is ours or "", and replaces the caller's. `names` are the provider's
    ids of tasks that the caller refers to by ours.
    """
    source, task, hooks = asked.operation.model, asked.task, asked.family.hooks
    body = with_texts(asked.body, lambda text: names.get(text, text))
    if source.prefix:
        if upstream_model != asked.model:
            body[source.name] = upstream_model.removeprefix(source.prefix)
    elif source.where == "body" and upstream_model != first(source.name, body):
        # Without a model in the body the provider chooses, which is safe only if it chooses the model that was priced.
        put(source.name, body, upstream_model)
        if source.name != "model":
            body.pop("model", None)
    if task.callback and (asked.callback_url or callback):
        if callback:
            body[task.callback] = callback
        else:
            body.pop(task.callback, None)
    if task.mark:
        # Never the caller's: accounts are shared, and the same name may be another caller's task.
        body[task.mark] = mark
    if hooks.prepare is not None:
        body = hooks.prepare(asked.operation.id, body, upstream_model)
    if body == asked.body:
        return asked.sent, asked.content_type
    if asked.content_type != JSON_TYPE:
        return forms.changed(asked.sent, asked.content_type, asked.body, body), asked.content_type
    return msgspec.json.encode(body), JSON_TYPE
