"""Hop 3: a call's bounded body -> `Request`: the model behind the caller's name, and the bytes as they came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from elkapi.catalog import Body, Facts, Match, Operation
from elkapi.catalog.bounds import NOTHING_ADDED, Added, bounded_by_model, lives_long
from elkapi.catalog.jsonedit import with_raw, with_string
from elkapi.catalog.spelling import spelled_out
from elkapi.errors import BadRequest, UnsupportedMediaType
from elkapi.guards.rules import Rule
from elkapi.relay.call import Call
from elkapi.relay.large import INLINE_BYTES, aside
from elkapi.types import BatchLine, Grant


class Keep(msgspec.Struct, frozen=True):
    """How a call's answer is stored: with a history, the last `own` items of the input are the call's; `previous` is
    the response it continues from. Nothing above `bytes_max` is stored."""

    kind: Literal["response", "chat"]
    previous: bytes | None = None
    own: int | None = None
    background: bool = False
    bytes_max: int = 0


class Request(msgspec.Struct, frozen=True):
    """A request. `body` names `model` at its top level, unless the operation takes it from the path alone.

    `array`: the stream is one JSON array. `output_cap` is the most output that the balance covers, if the caller set no
    limit and the balance does not cover the model's maximum; `hold` sets it. `asked` is the caller's name of the model
    if `model` is another. `given` are the facts without what the model's name adds. `session` identifies calls that are
    likely to share a prompt cache, if it matters. `line` is set for a line of a batch, `keep` if the answer is stored.
    `output_rules` are the guardrails that the answer must pass. `added` is the part of its bound that its channels may
    add. `features` are those that its price depends on, as its answer reports.
    """

    operation: Operation
    model: str
    body: bytes
    facts: Facts
    call_id: str = ""
    stream: bool = False
    array: bool = False
    output_cap: int | None = None
    asked: str = ""
    given: Facts | None = None
    session: bytes = b""
    line: BatchLine | None = None
    keep: Keep | None = None
    output_rules: tuple[Rule, ...] = ()
    added: Added = NOTHING_ADDED
    features: frozenset[str] = frozenset()

    @property
    def may_write_long(self) -> bool:
        """Whether the call may write long-lived cache entries."""
        return self.added.lives_long or lives_long(spelled_out(self.body))

    @property
    def output_tokens_max(self) -> int:
        """The most output tokens of this call: its own limit, the model's, or what the balance covers."""
        if self.output_cap is not None:
            return self.output_cap * self.facts.choices
        return self.facts.upper.output_tokens


class Admitted(msgspec.Struct, frozen=True):
    """The grant and the operation of a line of a batch."""

    match: Match
    grant: Grant
    line: BatchLine


async def read(call: Call, match: Match, aliases: Mapping[str, str] | None = None) -> Request:
    """Read and check a body; an alias is replaced by its model.

    Raises BadRequest, UnsupportedMediaType, BodyTooLarge, RequestTimeout, ClientGone.
    """
    kind = call.header(b"content-type")
    if kind != b"application/json" and match.operation.body is Body.JSON:
        check_media_type(kind)
    body = call.whole
    if body is None:
        body = await call.body()
    if len(body) > INLINE_BYTES:
        return await aside(_understood, call, match, aliases, body)
    return _understood(call, match, aliases, body)


def _understood(call: Call, match: Match, aliases: Mapping[str, str] | None, body: bytes) -> Request:
    operation = match.operation
    if operation.read is None:
        raise TypeError(f"{operation.id} is relayed but has no reader")
    facts = operation.read(body)
    model = facts.model
    if model is None or match.params:
        model, body = _model_elsewhere(match, body, model)
    if operation.dialect is None:
        request = Request(operation, model, body, facts, stream=facts.stream, given=facts)
    else:
        stream = facts.stream if operation.stream is None else operation.stream
        array = operation.stream is True and "alt=sse" not in call.query
        bounded, call_id = bounded_by_model(facts, model), call.text_id[4:].decode()
        request = Request(operation, model, body, bounded, call_id, stream, array and stream, given=facts)
    return asked_of(request, aliases[model]) if aliases and model in aliases else request


def asked_of(request: Request, model: str) -> Request:
    """The same call as if the caller had named this model."""
    source, facts = request.operation.model, request.given or request.facts
    return msgspec.structs.replace(
        request,
        model=model,
        body=request.body if source.where == "path" else with_string(request.body, source.name, model),
        facts=facts if request.operation.dialect is None else bounded_by_model(facts, model),
        asked=request.asked or request.model,
        session=b"",
    )


def with_added(request: Request, added: Added) -> Request:
    """The same call with room in its bound for what its channels add, or its model reads or searches unasked."""
    upper = request.facts.upper
    wider = msgspec.structs.replace(
        upper, input_tokens=upper.input_tokens + added.tokens, searches=max(upper.searches, added.searches)
    )
    return msgspec.structs.replace(request, facts=msgspec.structs.replace(request.facts, upper=wider), added=added)


def with_research(request: Request, thought_tokens: int) -> Request:
    """The same call with room in its bound for what a model reasons besides its answer."""
    upper = msgspec.structs.replace(request.facts.upper, reasoning_tokens=thought_tokens)
    return msgspec.structs.replace(request, facts=msgspec.structs.replace(request.facts, upper=upper))


def with_body(request: Request, body: bytes) -> Request:
    """The same call with another body, which is bounded again. Raises BadRequest."""
    if request.operation.read is None:
        raise TypeError(f"{request.operation.id} is relayed but has no reader")
    given = request.operation.read(body)
    facts = given if request.operation.dialect is None else bounded_by_model(given, request.model)
    return msgspec.structs.replace(request, body=body, facts=facts, given=given, session=b"")


def _model_elsewhere(match: Match, body: bytes, named: str | None) -> tuple[str, bytes]:
    """(model, body) if the path may name the model, or the body names none: taken from the path or the operation's
    default, then written into the body.

    The body's model wins, except for a deployment: Azure reads that from the path alone.
    """
    source = match.operation.model
    model = match.params.get(source.name, source.default)
    if named is not None and (source.where != "body" or named == model):
        return named, body
    if model is None:
        raise BadRequest("`model` is missing.", param=source.name)
    if source.where == "path":
        return model.removeprefix("models/"), body
    if named is not None:
        return model, with_string(body, source.name, model)
    # The member may be null.
    return model, with_raw(body, source.name, msgspec.json.encode(model))


def check_media_type(value: bytes | None) -> None:
    """Raises UnsupportedMediaType unless the body is declared as JSON."""
    # A missing type counts as JSON, as OpenAI does: `curl -d` without a header would send a form's type.
    if value is None:
        return
    kind = value.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise UnsupportedMediaType(
            f"Content-Type {kind.decode('latin-1')[:60]!r} is not accepted here; send application/json."
        )


def check_coding(call: Call) -> None:
    """Raises UnsupportedMediaType for a compressed body, whose size when unpacked has no known bound."""
    coding = call.header(b"content-encoding")
    if coding is not None and coding.lower() != b"identity" and call.whole != b"":
        raise UnsupportedMediaType(
            f"Content-Encoding {coding.decode('latin-1')[:60]!r} is not accepted here; send the body uncompressed."
        )
