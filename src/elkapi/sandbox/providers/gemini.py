"""Google's Gemini API: content, embeddings, token counts and models, its error bodies and prices.

The body and the response are `gemini_read` and `gemini_write`, which Vertex uses too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Charge, Frame, Problem, Request, json_answer
from elkapi.sandbox.providers import veo
from elkapi.sandbox.providers.dressing import with_headers
from elkapi.sandbox.providers.gemini_models import EMBEDDERS, LISTED, embedder_of, listed, model_of
from elkapi.sandbox.providers.gemini_read import fields_of, json_object, read
from elkapi.sandbox.providers.gemini_schema import invalid
from elkapi.sandbox.providers.gemini_write import Said, chunks, count, counted, response, say
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.stream import stream_answer
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import words
from elkapi.sandbox.vectors import as_floats, seed, unit_vector

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
TASK_TYPES = {
    "TASK_TYPE_UNSPECIFIED", "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION",
    "CLUSTERING", "QUESTION_ANSWERING", "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY",
}  # fmt: skip
EMBEDDINGS_MAX = 100
PAGE_MAX = 1_000
KEY_PREFIX = "AIza"


def generate(request: Request) -> Answer:
    """`POST models/{model}:generateContent`."""
    said = _said(request)
    return json_answer(response(said), charge=said.charge())


def stream(request: Request) -> Answer:
    """`POST models/{model}:streamGenerateContent`, as events with `alt=sse`, else as one JSON array."""
    said = _said(request)
    error = msgspec.json.encode(_error(request.faults.code or "UNAVAILABLE"))
    found = chunks(said)
    encoded = [msgspec.json.encode(chunk.body) for chunk in found]
    if request.query("alt") == "sse":
        frames = [
            Frame(b"data: %s\r\n\r\n" % data, chunk.mark, chunk.output_tokens)
            for data, chunk in zip(encoded, found, strict=True)
        ]
        return stream_answer(frames, error=b"data: %s\r\n\r\n" % error, charge_at=said.charge)
    # The comma is sent with the element before it, so that an error may follow any of them.
    frames = [Frame(b"[", "setup")]
    for data, chunk in zip(encoded, found, strict=True):
        closing = b"]" if chunk is found[-1] else b"\r\n,\r\n"
        frames.append(Frame(data + closing, chunk.mark, chunk.output_tokens))
    return stream_answer(frames, error=error + b"]", charge_at=said.charge, media_type="application/json", headers=())


@strictly
def count_tokens(request: Request) -> Answer:
    """`POST models/{model}:countTokens`."""
    body = fields_of(json_object(request.body), "", {"contents", "generateContentRequest", *_COUNTED})
    inner = body.get("generateContentRequest")
    asked = read(inner if inner is not None else body, model_of(request.params["model"]))
    return json_answer(count(counted(asked)))


def embed(request: Request) -> Answer:
    """`POST models/{model}:embedContent`."""
    name = request.params["model"]
    values, tokens = embedding(name, json_object(request.body))
    charge = Charge(name, tokens, tokens * embedder_of(name).nano_usd_per_token)
    return json_answer({"embedding": {"values": values}}, charge=charge)


@strictly
def batch_embed(request: Request) -> Answer:
    """`POST models/{model}:batchEmbedContents`."""
    name = request.params["model"]
    wanted = fields_of(json_object(request.body), "", {"requests"}).get("requests")
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= EMBEDDINGS_MAX:
        raise invalid(f"* BatchEmbedContentsRequest.requests: at least one and at most {EMBEDDINGS_MAX} requests")
    made = []
    for entry in wanted:
        if str(fields_of(entry, "requests").get("model", "")).removeprefix("models/") != name:
            raise invalid("* BatchEmbedContentsRequest.requests[0].model: must be the model of the batch")
        made.append(embedding(name, entry))
    tokens = sum(count for _, count in made)
    charge = Charge(name, tokens, tokens * embedder_of(name).nano_usd_per_token)
    return json_answer({"embeddings": [{"values": values} for values, _ in made]}, charge=charge)


@strictly
def embedding(name: str, body: Any) -> tuple[list[float], int]:
    """The vector of one content and its tokens. Raises Problem."""
    fields = fields_of(body, "", _EMBED_FIELDS)
    config = fields_of(fields.get("embedContentConfig"), "embed_content_config")
    content = fields_of(fields.get("content"), "content")
    texts = [str(fields_of(part, "content.parts").get("text") or "") for part in content.get("parts") or []]
    task = fields.get("taskType", config.get("taskType"))
    if task is not None and str(task).upper() not in TASK_TYPES:
        raise invalid(f"Invalid value at 'task_type' (type.googleapis.com/google.ai.TaskType), \"{task}\"")
    return vector(name, "\n".join(texts), fields.get("outputDimensionality", config.get("outputDimensionality")))


def vector(name: str, text: str, dimensions: object) -> tuple[list[float], int]:
    """The vector of a text in so many dimensions (all when None) and its tokens. Raises Problem."""
    embedder = embedder_of(name)
    if not text:
        raise invalid("* EmbedContentRequest.content: contents is not specified")
    size = embedder.dimensions if dimensions is None else dimensions
    if type(size) is not int or not 1 <= size <= embedder.dimensions:
        raise invalid(f"outputDimensionality must be from 1 to {embedder.dimensions}.")
    # Longer texts are cut, as there.
    tokens = min(max(1, words(text)), embedder.input_tokens_max)
    grown = seed(name, b"text:" + text.encode("utf-8", "surrogatepass"))
    return as_floats(unit_vector(grown, size)), tokens


def list_models(request: Request) -> Answer:
    """`GET models`, by `pageSize` and `pageToken`."""
    names = [*LISTED, *EMBEDDERS]
    size = request.query("pageSize") or "50"
    token = request.query("pageToken") or "0"
    if not size.isdecimal() or not token.isdecimal() or not 1 <= int(size) <= PAGE_MAX:
        raise invalid("* ListModelsRequest.page_size: must be from 1 to 1000")
    end = int(token) + int(size)
    body: dict[str, Any] = {"models": [listed(name) for name in names[int(token) : end]]}
    if end < len(names):
        body["nextPageToken"] = str(end)
    return json_answer(body)


def retrieve_model(request: Request) -> Answer:
    """`GET models/{model}`."""
    return json_answer(listed(request.params["model"]))


_COUNTED = {"systemInstruction", "tools", "toolConfig", "generationConfig", "model"}
_EMBED_FIELDS = {"model", "content", "taskType", "title", "outputDimensionality", "embedContentConfig"}

# The methods of a model, by verb: the same here and at Vertex.
VERBS: tuple[tuple[str, Callable[[Request], Answer]], ...] = (
    ("generateContent", generate),
    ("streamGenerateContent", stream),
    ("countTokens", count_tokens),
    ("embedContent", embed),
    ("batchEmbedContents", batch_embed),
)


def api_key(request: Request) -> str | None:
    """The key of `x-goog-api-key` or `?key=`, or None."""
    return request.header("x-goog-api-key") or request.query("key") or None


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem for a missing key (403) or a wrong one (400), like Google."""
    key = api_key(request)
    if key is None:
        message = (
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API."
        )
        raise Problem(403, message)
    if not takes_key(request, key, KEY_PREFIX, keys):
        raise Problem(400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID")


def refusal(problem: Problem) -> Answer:
    """A problem in Google's error body."""
    status = problem.kind or STATUSES.get(problem.status, "UNKNOWN" if problem.status >= 500 else "FAILED_PRECONDITION")
    error: dict[str, Any] = {"code": problem.status, "message": problem.message, "status": status}
    if problem.code is not None:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        error["details"] = [{"@type": kind, "reason": problem.code, "domain": "googleapis.com"}]
    return json_answer({"error": error}, status=problem.status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add Google's headers, which have no request id; the body's `responseId` is one."""
    headers = {
        "server": "scaffolding on HTTPServer2",
        "server-timing": f"gfet4t7; dur={max(1, round(took_s * 1000))}",
        "x-frame-options": "SAMEORIGIN",
    }
    return with_headers(answer, headers)


def _said(request: Request) -> Said:
    name = request.params["model"]
    model = model_of(name)
    asked = read(json_object(request.body), model)
    return say(asked, model, name, request.upstream_request_id, request.faults)


def _error(status: str) -> dict[str, Any]:
    """An error inside a stream."""
    code = next((code for code, word in STATUSES.items() if word == status), 503)
    return {"error": {"code": code, "message": "The sandbox was asked to fail inside the stream.", "status": status}}


PROVIDER = Provider(
    name="gemini",
    mounts=("", "/gemini"),
    request_id_prefix="",
    key_prefix=KEY_PREFIX,
    key=api_key,
    check=check,
    refusal=refusal,
    dress=dress,
    claim=b"x-goog-api-key",
    routes=(
        *(
            Route("POST", f"/{version}/models/{{model}}:{verb}", handler)
            for version in ("v1beta", "v1")
            for verb, handler in VERBS
        ),
        *(
            Route(method, f"/{version}/{path}", handler)
            for version in ("v1beta", "v1")
            for method, path, handler in veo.ROUTES
        ),
        *(Route("GET", f"/{version}/models", list_models) for version in ("v1beta", "v1")),
        *(Route("GET", f"/{version}/models/{{model}}", retrieve_model) for version in ("v1beta", "v1")),
    ),
)
