"""Azure OpenAI: OpenAI's bodies below deployments or `/openai/v1`, with Azure's key, versions, errors and extras.

A deployment is named like the model behind it. Paths below `/openai/deployments`, `/openai/responses` and
`/openai/models` want an `api-version`; those below `/openai/v1` do not. OpenAI's own provider is mounted at `/openai`
too: a request with an `api-key` header is Azure's, and everything below `/azure/openai` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Frame, Problem, Request, json_answer
from elkapi.sandbox.providers import openai, openai_chat, openai_completions, openai_read, openai_responses
from elkapi.sandbox.providers.dressing import with_headers
from elkapi.sandbox.providers.openai_models import UNKNOWN_PREFIX
from elkapi.sandbox.routes import Provider, Route

Handler = Callable[[Request], Answer]

NO_ACCESS = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
NO_DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
    "please wait a moment and try again."
)
SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
PROMPT_FILTER = [{"prompt_index": 0, "content_filter_results": SAFE}]


def key(request: Request) -> str | None:
    """The key in `api-key`, or an Entra bearer token."""
    return request.header("api-key") or openai.bearer_key(request)


def refusal(problem: Problem) -> Answer:
    """A problem as an error: Azure's own have only a code and a message; those of the model's service are OpenAI's."""
    if problem.status == 401:
        return _own_error(401, "401", NO_ACCESS)
    if problem.code == "unknown_url":
        return _own_error(404, "404", "Resource not found")
    if problem.code == "DeploymentNotFound":
        return _own_error(404, problem.code, problem.message)
    if problem.status == 429 and problem.code is None:
        return _own_error(429, "429", problem.message)
    return openai.refusal(problem)


def _own_error(status: int, code: str, message: str) -> Answer:
    return json_answer({"error": {"code": code, "message": message}}, status=status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add Azure's headers."""
    pairs = {
        "apim-request-id": request.upstream_request_id,
        "x-request-id": request.upstream_request_id,
        "x-ms-region": "Sandbox Region",
        "x-ms-client-request-id": request.header("x-ms-client-request-id") or request.upstream_request_id,
        "azureml-model-session": "d000-sandbox",
    }
    if answer.charge is not None:
        pairs["x-ratelimit-remaining-requests"] = str(openai.RATE_LIMIT_REQUESTS - 1)
        pairs["x-ratelimit-remaining-tokens"] = str(openai.RATE_LIMIT_TOKENS - answer.charge.prompt_tokens)
    return with_headers(answer, pairs)


def versioned(handler: Handler) -> Handler:
    """The handler with a check for `api-version`: without it, Azure answers that the resource does not exist."""

    def handle(request: Request) -> Answer:
        if not request.query("api-version"):
            raise Problem(404, "Resource not found", code="unknown_url")
        return handler(request)

    return handle


def deployed(handler: Handler) -> Handler:
    """The handler for a deployment: its name replaces the body's model."""

    def handle(request: Request) -> Answer:
        name = request.params["deployment"]
        if name.startswith(UNKNOWN_PREFIX):
            raise Problem(404, NO_DEPLOYMENT, code="DeploymentNotFound")
        body = {**openai_read.json_object(request.body), "model": name}
        return handler(msgspec.structs.replace(request, body=msgspec.json.encode(body)))

    return versioned(handle)


def filtered(handler: Handler) -> Handler:
    """The handler with Azure's content filter results: in the body, or as a first chunk without choices."""

    def handle(request: Request) -> Answer:
        answer = handler(request)
        if answer.stream is None:
            body: dict[str, Any] = {**msgspec.json.decode(answer.pieces[0]), "prompt_filter_results": PROMPT_FILTER}
            for choice in body["choices"]:
                choice["content_filter_results"] = SAFE
            return msgspec.structs.replace(answer, pieces=(msgspec.json.encode(body),))
        first = {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": PROMPT_FILTER,
        }
        frames = (Frame(openai_chat.data_line(first), "setup"), *answer.stream.frames)
        stream = msgspec.structs.replace(answer.stream, frames=frames)
        return msgspec.structs.replace(answer, pieces=tuple(frame.data for frame in frames), stream=stream)

    return handle


def _routes() -> tuple[Route, ...]:
    chat, completions = filtered(openai_chat.create), filtered(openai_completions.create)
    deployment = "/deployments/{deployment}"
    return (
        Route("POST", f"{deployment}/chat/completions", deployed(chat)),
        Route("POST", f"{deployment}/completions", deployed(completions)),
        Route("POST", f"{deployment}/embeddings", deployed(openai.embeddings)),
        Route("POST", "/v1/chat/completions", chat),
        Route("POST", "/v1/completions", completions),
        Route("POST", "/v1/embeddings", openai.embeddings),
        Route("GET", "/models", versioned(openai.list_models)),
        Route("GET", "/models/{id}", versioned(openai.retrieve_model)),
        Route("GET", "/v1/models", openai.list_models),
        Route("GET", "/v1/models/{id}", openai.retrieve_model),
        *(Route(method, "/v1" + path, handler) for method, path, handler in openai_responses.ROUTES),
        *(Route(method, path, versioned(handler)) for method, path, handler in openai_responses.ROUTES),
    )


PROVIDER = Provider(
    name="azure",
    mounts=("/openai", "/azure/openai"),
    key=key,
    refusal=refusal,
    dress=dress,
    request_id_prefix="azr_",
    claim=b"api-key",
    routes=_routes(),
)
