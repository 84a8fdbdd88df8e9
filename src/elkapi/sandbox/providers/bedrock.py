"""AWS Bedrock's runtime: Claude by invoke, every model by Converse, signed requests, event streams, AWS's errors.

A channel's credential here is `ACCESS_KEY_ID:SECRET`. Without a list of accepted keys the sandbox knows one:
`AKIDSANDBOX:sandbox-secret`.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote

import msgspec

from elkapi.sandbox.eventstream import MEDIA_TYPE, event, exception
from elkapi.sandbox.messages import Answer, Frame, Problem, Request, json_answer
from elkapi.sandbox.providers import anthropic, bedrock_converse, bedrock_models, bedrock_others
from elkapi.sandbox.providers.anthropic_models import Model, bedrock_name, model_of
from elkapi.sandbox.providers.anthropic_read import Asked, json_object, read
from elkapi.sandbox.providers.anthropic_write import Event, Said, events, say
from elkapi.sandbox.providers.dressing import with_headers
from elkapi.sandbox.routes import Provider, Route
from elkapi.sandbox.sigv4 import SignatureError, signed, verify
from elkapi.sandbox.stream import stream_answer

SERVICE = "bedrock"
CREDENTIALS = {"AKIDSANDBOX": "sandbox-secret"}
CLAUDE_VERSIONS = ("bedrock-2023-05-31", "2026-10-21")
STREAM_FAILURE = "modelStreamErrorException"
KINDS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


def invoke(request: Request) -> Answer:
    """`POST /model/{id}/invoke`: a messages body without `model` or `stream`."""
    asked, model = _invoked(request)
    answer = anthropic.answered(request, asked, model)
    charge = answer.charge
    if charge is None or request.faults.no_usage:
        return answer
    counts = (
        (b"x-amzn-bedrock-input-token-count", request.faults.shown_tokens(charge.prompt_tokens)),
        (b"x-amzn-bedrock-output-token-count", request.faults.shown_tokens(charge.output_tokens)),
    )
    return msgspec.structs.replace(answer, headers=tuple((name, b"%d" % (count or 0)) for name, count in counts))


def invoke_stream(request: Request) -> Answer:
    """`POST /model/{id}/invoke-with-response-stream`: Anthropic's events inside `chunk` messages."""
    asked, model = _invoked(request)
    said = say(asked, model, request.upstream_request_id, request.faults)
    frames = [Frame(_chunk(one, said), one.mark, one.output_tokens) for one in events(said)]
    return _streamed(request, frames, said)


def converse(request: Request) -> Answer:
    """`POST /model/{id}/converse`."""
    if (found := bedrock_models.find(_model_id(request))) is not None:
        other = bedrock_others.say(request, *found)
        return json_answer(bedrock_others.response(other), charge=other.charge())
    said = _conversed(request)
    return json_answer(bedrock_converse.response(said), charge=said.charge())


def converse_stream(request: Request) -> Answer:
    """`POST /model/{id}/converse-stream`: one named message per event."""
    if (found := bedrock_models.find(_model_id(request))) is not None:
        other = bedrock_others.say(request, *found)
        frames = [Frame(event(e.name, e.body), e.mark, e.output_tokens) for e in bedrock_others.events(other)]
        return _streamed(request, frames, other)
    said = _conversed(request)
    frames = []
    for one in events(said):
        made = bedrock_converse.event_of(one, said)
        if made is not None:
            mark = "usage" if made[0] == "metadata" else one.mark
            frames.append(Frame(event(*made), mark, one.output_tokens))
    return _streamed(request, frames, said)


def access_key(request: Request) -> str | None:
    """The access key id of a signed request, or None."""
    try:
        found = signed(request)
    except SignatureError:
        return None
    return None if found is None else found.access_key_id


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem unless the request is signed with a known secret."""
    known = CREDENTIALS if keys is None else dict(key.split(":", 1) for key in keys if ":" in key)
    refused = request.faults.refuse_key
    secrets = {name: secret for name, secret in known.items() if refused is None or not name.endswith(refused)}
    try:
        verify(request, secrets, SERVICE, request.now_s)
    except SignatureError as error:
        raise Problem(403, error.message, kind=error.kind) from None


def refusal(problem: Problem) -> Answer:
    """A problem in AWS's format: the type in a header, the message in the body."""
    usual = KINDS.get(problem.status, "InternalServerException" if problem.status >= 500 else "ValidationException")
    known = problem.code if problem.code is not None and problem.code.endswith("Exception") else None
    answer = json_answer({"message": problem.message}, status=problem.status)
    kind = (problem.kind or known or usual).encode("latin-1", "replace")
    return msgspec.structs.replace(answer, headers=((b"x-amzn-errortype", kind),))


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add AWS's headers: the request id and, with an answer, the model's latency."""
    headers = {"x-amzn-requestid": request.upstream_request_id}
    if answer.charge is not None:
        headers["x-amzn-bedrock-invocation-latency"] = str(max(1, round(took_s * 1000)))
    return with_headers(answer, headers)


def _model_id(request: Request) -> str:
    # The id is one segment; an ARN contains slashes, which some clients encode twice.
    return unquote(request.params["model"])


def _model(request: Request) -> tuple[str, Model]:
    name = bedrock_name(_model_id(request))
    if name is None:
        raise Problem(400, "The provided model identifier is invalid.")
    return name, model_of(name)


def _invoked(request: Request) -> tuple[Asked, Model]:
    name, model = _model(request)
    body = json_object(request.body)
    if body.pop("anthropic_version", None) not in CLAUDE_VERSIONS:
        raise Problem(400, "anthropic_version: Field required")
    for field in ("model", "stream"):
        if field in body:
            raise Problem(400, f"#: extraneous key [{field}] is not permitted")
    return read({**body, "model": name}), model


def _conversed(request: Request) -> Said:
    name, model = _model(request)
    body = bedrock_converse.messages_body(json_object(request.body))
    try:
        asked = read({**body, "model": name})
    except Problem as problem:
        raise Problem(400, f"The model returned the following errors: {problem.message}") from None
    return say(asked, model, request.upstream_request_id, request.faults)


def _chunk(one: Event, said: Said) -> bytes:
    body: dict[str, Any] = one.body
    if body["type"] == "message_stop":
        shown_input = said.faults.shown_tokens(said.reply.usage.input)
        shown_output = said.faults.shown_tokens(said.reply.usage.output)
        if shown_input is not None:
            metrics = {"inputTokenCount": shown_input, "outputTokenCount": shown_output}
            body = {**body, "amazon-bedrock-invocationMetrics": {**metrics, "invocationLatency": 1}}
    encoded = base64.b64encode(msgspec.json.encode(body)).decode("ascii")
    return event("chunk", {"bytes": encoded, "p": "abcdefgh"})


def _streamed(request: Request, frames: list[Frame], said: Said | bedrock_others.Said) -> Answer:
    failure = exception(request.faults.code or STREAM_FAILURE, "The sandbox was asked to fail inside the stream.")
    headers = ((b"x-amzn-bedrock-content-type", b"application/json"),)
    return stream_answer(frames, error=failure, charge_at=said.charge, media_type=MEDIA_TYPE, headers=headers)


PROVIDER = Provider(
    name="bedrock",
    mounts=("", "/bedrock"),
    request_id_prefix="",
    key=access_key,
    check=check,
    refusal=refusal,
    dress=dress,
    claim=b"x-amz-date",
    routes=(
        Route("POST", "/model/{model}/invoke", invoke),
        Route("POST", "/model/{model}/invoke-with-response-stream", invoke_stream),
        Route("POST", "/model/{model}/converse", converse),
        Route("POST", "/model/{model}/converse-stream", converse_stream),
    ),
)
