"""OpenAI's protocol: routes, error bodies and headers, embeddings and models; text generation is in `openai_*`."""

from __future__ import annotations

import base64

import msgspec

from elkapi.sandbox.messages import OWN_ACCOUNT, Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import (
    openai_batches,
    openai_chat,
    openai_completions,
    openai_files,
    openai_judging,
    openai_responses,
    openai_stored,
    openai_videos,
)
from elkapi.sandbox.providers.dressing import with_headers
from elkapi.sandbox.providers.openai_models import CREATED, TEXT_MODELS
from elkapi.sandbox.providers.openai_read import invalid, json_object, model_name, no_such_model
from elkapi.sandbox.routes import Provider, Route
from elkapi.sandbox.vectors import as_floats, seed, unit_vector

ITEMS_MAX = 2048
ITEM_TOKENS_MAX = 8192
REQUEST_TOKENS_MAX = 300_000
TOKEN_ID_MAX = 100_276
RATE_LIMIT_REQUESTS = 10_000
RATE_LIMIT_TOKENS = 10_000_000


class Embedder(msgspec.Struct, frozen=True):
    """One embedding model. `shortens`: whether it supports `dimensions`. `created` is in Unix seconds."""

    dimensions: int
    nano_usd_per_token: int
    shortens: bool
    created: int
    owned_by: str


MODELS = {
    "text-embedding-3-small": Embedder(1536, 20, True, 1705948997, "system"),
    "text-embedding-3-large": Embedder(3072, 130, True, 1705953180, "system"),
    "text-embedding-ada-002": Embedder(1536, 100, False, 1671217299, "openai-internal"),
}

_KINDS = {429: "requests"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def embeddings(request: Request) -> Answer:
    """`POST /v1/embeddings`: one unit vector per item, and usage by `item_tokens`."""
    body = json_object(request.body)
    name = model_name(body)
    items = _items(body.get("input"))
    model = MODELS.get(name)
    if model is None:
        raise no_such_model(name)
    dimensions = _dimensions(body.get("dimensions"), name, model)
    as_base64 = _is_base64(body.get("encoding_format"))
    if not isinstance(body.get("user", ""), str):
        raise invalid("user must be a string.", "user")
    tokens = _counted(items)
    data = [_embedding(index, name, item, dimensions, as_base64) for index, item in enumerate(items)]
    answer: dict[str, object] = {"object": "list", "data": data, "model": name}
    shown = request.faults.shown_tokens(tokens)
    if shown is not None:
        answer["usage"] = {"prompt_tokens": shown, "total_tokens": shown}
    return json_answer(answer, charge=Charge(name, tokens, tokens * model.nano_usd_per_token))


def list_models(request: Request) -> Answer:
    """`GET /v1/models`."""
    return json_answer({"object": "list", "data": [_model_body(name) for name in (*MODELS, *TEXT_MODELS)]})


def retrieve_model(request: Request) -> Answer:
    """`GET /v1/models/{id}`."""
    name = request.params["id"]
    if name not in MODELS and name not in TEXT_MODELS:
        raise no_such_model(name)
    return json_answer(_model_body(name))


def item_tokens(item: str | list[int]) -> int:
    """The token rule: an array of tokens counts its length, a text its whitespace-separated words, at least 1.

    No byte-pair vocabulary merges across a space, so this never exceeds a true count: a gateway that holds the exact
    count never sees usage above its hold, unless a fault asks for that.
    """
    return len(item) if isinstance(item, list) else max(1, len(item.split()))


def _embedding(index: int, name: str, item: str | list[int], dimensions: int, as_base64: bool) -> dict[str, object]:
    if isinstance(item, str):
        grown_from = b"text:" + item.encode("utf-8", "surrogatepass")
    else:
        grown_from = b"tokens:" + ",".join(map(str, item)).encode("ascii")
    vector = unit_vector(seed(name, grown_from), dimensions)
    shown: object = base64.b64encode(vector).decode("ascii") if as_base64 else as_floats(vector)
    return {"object": "embedding", "index": index, "embedding": shown}


def _items(value: object) -> list[str | list[int]]:
    """The input as a list of items: string, string[], int[] (one tokenised text) or int[][]."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise invalid("input must be a string, an array of strings, or an array of tokens.", "input")
    if not value:
        raise invalid("input must not be an empty array.", "input")
    if all(_is_token(entry) for entry in value):
        return [value]
    if len(value) > ITEMS_MAX:
        raise invalid(f"input holds {len(value)} items, and at most {ITEMS_MAX} are allowed.", "input")
    if all(isinstance(entry, str) for entry in value):
        if "" in value:
            raise invalid("input must not contain an empty string.", "input")
        return value
    if all(isinstance(entry, list) and entry and all(map(_is_token, entry)) for entry in value):
        return value
    raise invalid("input mixes kinds, or holds an empty or invalid item.", "input")


def _is_token(value: object) -> bool:
    return type(value) is int and 0 <= value <= TOKEN_ID_MAX


def _counted(items: list[str | list[int]]) -> int:
    total = 0
    for item in items:
        count = item_tokens(item)
        if count > ITEM_TOKENS_MAX:
            raise invalid(f"The maximum input length is {ITEM_TOKENS_MAX} tokens; an item has {count}.", "input")
        total += count
    if total > REQUEST_TOKENS_MAX:
        message = f"Requested {total} tokens, and at most {REQUEST_TOKENS_MAX} are allowed in one request."
        raise Problem(400, message, kind="max_tokens_per_request", code="max_tokens_per_request")
    return total


def _dimensions(value: object, name: str, model: Embedder) -> int:
    if value is None:
        return model.dimensions
    if not model.shortens:
        raise invalid(f"The model {name} does not support specifying dimensions.", "dimensions")
    if type(value) is not int or not 1 <= value <= model.dimensions:
        raise invalid(f"dimensions must be an integer from 1 to {model.dimensions} for {name}.", "dimensions")
    return value


def _is_base64(value: object) -> bool:
    if value not in (None, "float", "base64"):
        raise invalid("encoding_format must be 'float' or 'base64'.", "encoding_format")
    return value == "base64"


def _model_body(name: str) -> dict[str, object]:
    model = MODELS.get(name)
    created, owner = (model.created, model.owned_by) if model else (CREATED, "system")
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def bearer_key(request: Request) -> str | None:
    """The key of `Authorization: Bearer`, or None."""
    scheme, _, key = (request.header("authorization") or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def refusal(problem: Problem) -> Answer:
    """A problem in OpenAI's error body."""
    usual = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = problem.kind or _KINDS.get(problem.status, usual)
    if problem.code == "insufficient_quota":
        kind = problem.code  # A 429 that no retry can mend: OpenAI tells it apart by this type and code.
    code = problem.code or _CODES.get(problem.status)
    error = {"message": problem.message, "type": kind, "param": problem.param, "code": code}
    return json_answer({"error": error}, status=problem.status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add OpenAI's headers: request id, organisation, processing time, model and rate limits."""
    pairs = {
        "x-request-id": request.upstream_request_id,
        "openai-organization": request.header("openai-organization") or OWN_ACCOUNT,
        "openai-processing-ms": str(max(1, round(took_s * 1000))),
        "openai-version": "2020-10-01",
    }
    if answer.charge is not None:
        pairs |= {
            "openai-model": answer.charge.model,
            "x-ratelimit-limit-requests": str(RATE_LIMIT_REQUESTS),
            "x-ratelimit-limit-tokens": str(RATE_LIMIT_TOKENS),
            "x-ratelimit-remaining-requests": str(RATE_LIMIT_REQUESTS - 1),
            "x-ratelimit-remaining-tokens": str(RATE_LIMIT_TOKENS - answer.charge.prompt_tokens),
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-reset-tokens": "0s",
        }
    return with_headers(answer, pairs)


BATCHED = {
    "/v1/responses": openai_responses.create,
    "/v1/chat/completions": openai_chat.create,
    "/v1/embeddings": embeddings,
    "/v1/completions": openai_completions.create,
    "/v1/moderations": openai_judging.moderate,
}
"""The endpoints that a batch may name."""

PROVIDER = Provider(
    name="openai",
    mounts=("", "/openai"),
    key_prefix="sk-",
    key=bearer_key,
    refusal=refusal,
    dress=dress,
    routes=(
        Route("POST", "/v1/embeddings", embeddings),
        Route("POST", "/v1/chat/completions", openai_chat.create),
        Route("GET", "/v1/chat/completions", openai_stored.list_chats),
        Route("GET", "/v1/chat/completions/{id}", openai_stored.get_chat),
        Route("POST", "/v1/chat/completions/{id}", openai_stored.update_chat),
        Route("DELETE", "/v1/chat/completions/{id}", openai_stored.delete_chat),
        Route("GET", "/v1/chat/completions/{id}/messages", openai_stored.chat_messages),
        Route("POST", "/v1/completions", openai_completions.create),
        Route("POST", "/v1/moderations", openai_judging.moderate),
        Route("POST", "/v1/rerank", openai_judging.rerank),
        Route("POST", "/v2/rerank", openai_judging.rerank_by_unit),
        Route("POST", "/v1/files", openai_files.upload),
        Route("GET", "/v1/files", openai_files.list_files),
        Route("GET", "/v1/files/{id}", openai_files.get_file),
        Route("DELETE", "/v1/files/{id}", openai_files.delete_file),
        Route("GET", "/v1/files/{id}/content", openai_files.file_content),
        *(Route(method, "/v1" + path, handler) for method, path, handler in openai_batches.routes(BATCHED)),
        *(Route(method, "/v1" + path, handler) for method, path, handler in openai_responses.ROUTES),
        *(Route(method, "/v1" + path, handler) for method, path, handler in openai_videos.ROUTES),
        Route("GET", "/v1/models", list_models),
        Route("GET", "/v1/models/{id}", retrieve_model),
    ),
)
