"""Anthropic's own protocol: messages, token counts, models, its error bodies, headers and prices.

Batches and files are `anthropic_batches` and `anthropic_files`; the body and the message are `anthropic_read` and
`anthropic_write`, which Bedrock and Vertex use too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import OWN_ACCOUNT, Answer, Frame, Problem, Request, json_answer
from elkapi.sandbox.providers import anthropic_batches, anthropic_files
from elkapi.sandbox.providers.anthropic_models import LISTED, Model, listed, model_of, page
from elkapi.sandbox.providers.anthropic_read import Asked, json_object, read
from elkapi.sandbox.providers.anthropic_write import Event, events, message, say
from elkapi.sandbox.providers.dressing import stamp, with_headers
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.routes import Provider, Route
from elkapi.sandbox.stream import stream_answer
from elkapi.sandbox.talk import input_tokens

RATE_LIMIT_REQUESTS = 4_000
RATE_LIMIT_TOKENS = 2_000_000
KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def messages(request: Request) -> Answer:
    """`POST /v1/messages`, streamed or not."""
    asked = read(json_object(request.body))
    anthropic_files.check_files(request, asked)
    return answered(request, asked, model_of(asked.model))


def answered(request: Request, asked: Asked, model: Model) -> Answer:
    """The answer to a messages body on any platform."""
    said = say(asked, model, request.upstream_request_id, request.faults)
    if not asked.stream:
        return json_answer(message(said), charge=said.charge())
    frames = [Frame(event.sse, event.mark, event.output_tokens) for event in events(said)]
    return stream_answer(frames, error=stream_error(request.faults), charge_at=said.charge)


def stream_error(faults: Faults) -> bytes:
    """The event that ends a failed stream; its type is the fault's `code`, or `overloaded_error`."""
    error = {"type": faults.code or "overloaded_error", "message": "The sandbox was asked to fail inside the stream."}
    return Event({"type": "error", "error": error}, "error").sse


def count_tokens(request: Request) -> Answer:
    """`POST /v1/messages/count_tokens`."""
    asked = read(json_object(request.body), counting=True)
    model_of(asked.model)
    return json_answer({"input_tokens": input_tokens(asked.ask)})


def list_models(request: Request) -> Answer:
    """`GET /v1/models`."""
    return json_answer(page(request, [listed(name) for name in LISTED]))


def retrieve_model(request: Request) -> Answer:
    """`GET /v1/models/{id}`."""
    return json_answer(listed(request.params["id"]))


def api_key(request: Request) -> str | None:
    """The key of `x-api-key` or `Authorization: Bearer`, or None."""
    return request.header("x-api-key") or bearer_key(request)


def refusal(problem: Problem) -> Answer:
    """A problem in Anthropic's error body."""
    usual = KINDS.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"type": problem.kind or usual, "message": problem.message}
    if problem.code is not None:
        error["details"] = {"error_code": problem.code}
    return json_answer({"type": "error", "error": error}, status=problem.status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add Anthropic's headers: request id, organisation, rate limits; an error's body has the request id too."""
    pairs = {"request-id": request.upstream_request_id, "anthropic-organization-id": OWN_ACCOUNT}
    if answer.charge is not None or answer.status == 429:
        for name, limit in (("requests", RATE_LIMIT_REQUESTS), ("tokens", RATE_LIMIT_TOKENS)):
            left = 0 if answer.status == 429 else limit - 1
            pairs[f"anthropic-ratelimit-{name}-limit"] = str(limit)
            pairs[f"anthropic-ratelimit-{name}-remaining"] = str(left)
            pairs[f"anthropic-ratelimit-{name}-reset"] = stamp(request.now_s + 60)
    answer = with_headers(answer, pairs)
    if answer.status < 400 or answer.media_type != "application/json" or len(answer.pieces) != 1:
        return answer
    closing = b',"request_id":' + msgspec.json.encode(request.upstream_request_id) + b"}"
    whole = answer.pieces[0]
    return msgspec.structs.replace(answer, pieces=(whole[:-1] + closing,)) if whole.endswith(b"}}") else answer


def _versioned(handler: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """A handler that requires the version header, like all of Anthropic's."""

    def checked(request: Request) -> Answer:
        if not request.header("anthropic-version"):
            raise Problem(400, "anthropic-version: header is required", param="anthropic-version")
        return handler(request)

    return checked


PROVIDER = Provider(
    name="anthropic",
    mounts=("", "/anthropic"),
    key_prefix="sk-ant-",
    key=api_key,
    refusal=refusal,
    dress=dress,
    claim=b"anthropic-version",
    routes=tuple(
        Route(method, path, _versioned(handler))
        for method, path, handler in (
            ("POST", "/v1/messages", messages),
            ("POST", "/v1/messages/count_tokens", count_tokens),
            ("GET", "/v1/models", list_models),
            ("GET", "/v1/models/{id}", retrieve_model),
            *anthropic_batches.ROUTES,
            *anthropic_files.ROUTES,
        )
    ),
)
