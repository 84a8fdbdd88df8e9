"""Convert embeddings and token counts between the formats of Gemini and OpenAI.

`Packer` converts vectors to base64 for callers of OpenAI-type upstreams that ignore `encoding_format`.

Contract: openai.md "embed", anthropic.md section 6.4. google-genai always calls batchEmbedContents. If Gemini reports
no usage, the caller of these functions counts. What one side cannot express is refused if it changes the vectors.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import convert, decode
from elkapi.translate.dialect import Unreadable, given, view_of
from elkapi.translate.gemini_request import read_object
from elkapi.translate.gemini_wire import decode_names
from elkapi.translate.ir import ChatRequest

# More texts are refused rather than split into several calls: each would be billed separately, so if a later one failed
# or went to another channel, one call of the caller would be billed in part.
GEMINI_BATCH_MAX = 100
# The size of one vector as JSON numbers, enough for 40,000 of them.
VECTOR_BYTES_MAX = 1024 * 1024
# The bytes to hold back, since a piece of an answer may end inside `"embedding": [`.
_KEY_BYTES_MAX = 64
# Gemini's tasks by the names that Cohere, Voyage, NVIDIA (`input_type`), Jina (`task`) and Google itself have for them.
_TASKS = {
    **dict.fromkeys(("query", "search_query", "retrieval.query", "retrieval_query"), "RETRIEVAL_QUERY"),
    **dict.fromkeys(
        ("document", "passage", "search_document", "retrieval.passage", "retrieval_document"), "RETRIEVAL_DOCUMENT"
    ),
    **dict.fromkeys(("text-matching", "semantic_similarity"), "SEMANTIC_SIMILARITY"),
    "classification": "CLASSIFICATION",
    **dict.fromkeys(("clustering", "separation"), "CLUSTERING"),
    **dict.fromkeys(("code.query", "nl2code.query", "code_retrieval_query"), "CODE_RETRIEVAL_QUERY"),
    "question_answering": "QUESTION_ANSWERING",
    "fact_verification": "FACT_VERIFICATION",
}
# This model takes no `taskType`: Google's documentation puts the task into the text.
_TAKES_NO_TASK = "gemini-embedding-2"
_FIRST_VECTOR = re.compile(rb'"embedding"\s*:\s*(["\[])')
_NUMBERS = re.compile(rb'"embedding"\s*:\s*\[')


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """Texts to embed, independent of a format. `model` is "" if the path has it. None means not given.

    `batch`: the Gemini caller used batchEmbedContents, so its answer is a list. `task_type` is what the vectors are for
    in the caller's words, `task_field` where they stand. `title` is Gemini's.
    """

    texts: tuple[str, ...]
    model: str = ""
    dimensions: int | None = None
    base64: bool = False
    batch: bool = False
    user: str | None = None
    task_type: str | None = None
    task_field: str = "taskType"
    title: str | None = None


class EmbeddingReply(msgspec.Struct, frozen=True):
    """One vector per text, in order. `prompt_tokens` is None if not reported (Gemini's older models)."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int | None = None


# --- OpenAI ----------------------------------------------------------------------------------------------------------


class _OpenAIRequest(msgspec.Struct):
    """`output_dimension` and `output_dtype` are fields of Voyage and Mistral that change the vectors, as are the names
    of their purpose: `input_type`, Jina's `task` and Google's `task_type`."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    output_dimension: Annotated[int, msgspec.Meta(ge=1)] | None = None
    output_dtype: Literal["float"] | None = None
    input_type: str | None = None
    task: str | None = None
    task_type: str | None = None


class _OpenAIVector(msgspec.Struct):
    embedding: list[float] | str
    index: int


class _OpenAIReply(msgspec.Struct):
    data: list[_OpenAIVector]
    usage: Any = None


_openai_request = msgspec.json.Decoder(_OpenAIRequest)
_openai_reply = msgspec.json.Decoder(_OpenAIReply)
_vector = msgspec.json.Decoder(list[float])
_json = msgspec.json.Encoder()


def read_openai_request(body: bytes) -> EmbeddingRequest:
    """The request of an OpenAI caller for a Gemini upstream. Raises BadRequest, for example for token arrays."""
    view = decode(_openai_request, body)
    listed = [view.input] if isinstance(view.input, str) else view.input
    texts = tuple(item for item in listed if isinstance(item, str))
    if len(texts) < len(listed):
        raise BadRequest(
            "`input` must be a string or an array of strings: this model does not support token ids.", param="input"
        )
    if not texts or not all(texts):
        raise BadRequest("`input` must not be empty or contain an empty string.", param="input")
    dimensions = view.output_dimension if view.dimensions is None else view.dimensions
    fields = ("task_type", "input_type", "task")
    purpose = next((name for name in fields if getattr(view, name) is not None), fields[0])
    return EmbeddingRequest(
        texts,
        view.model,
        dimensions,
        view.encoding_format == "base64",
        batch=True,
        user=view.user,
        task_type=getattr(view, purpose),
        task_field=purpose,
    )


def write_openai_request(request: EmbeddingRequest) -> bytes:
    """The body for an OpenAI-type upstream, which asks for floats; `task_type` has no equivalent and is omitted."""
    body: dict[str, Any] = {"model": request.model, "input": list(request.texts), "encoding_format": "float"}
    return _json.encode(body | given(dimensions=request.dimensions, user=request.user))


def read_openai_reply(body: bytes, items: int) -> EmbeddingReply:
    """The vectors of `items` texts, by index. Raises Unreadable if one is missing, duplicated or not a vector."""
    view = view_of(_openai_reply, body)
    by_index = {row.index: _floats(row.embedding) for row in view.data}
    if len(view.data) != items or by_index.keys() != set(range(items)):
        raise Unreadable(f"{len(view.data)} vectors for {items} texts")
    tokens = _count(view.usage, "prompt_tokens")
    if tokens is None and isinstance(view.usage, dict) and view.usage.get("prompt_tokens") is None:
        tokens = _count(view.usage, "total_tokens")
    return EmbeddingReply(tuple(by_index[index] for index in range(items)), tokens)


def _count(usage: Any, name: str) -> int | None:
    """A count of a usage object; None if it is missing or invalid."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _floats(value: list[float] | str) -> tuple[float, ...]:
    if not value:
        raise Unreadable("an empty vector")
    if isinstance(value, list):
        return tuple(value)
    try:
        packed = base64.b64decode(value, validate=True)
        vector = struct.unpack(f"<{len(packed) // 4}f", packed)
    except (ValueError, struct.error):
        raise Unreadable("a vector that is no base64 of 32-bit floats") from None
    if not all(map(math.isfinite, vector)):
        raise Unreadable("a vector with a member that is no number")
    return vector


def write_openai_reply(reply: EmbeddingReply, request: EmbeddingRequest, model: str, prompt_tokens: int) -> bytes:
    """The answer to an OpenAI caller, in base64 (little-endian 32-bit floats) if requested.

    `model` is the caller's name for it, `prompt_tokens` the charged count. Raises Unreadable for a number that does not
    fit in 32 bits.
    """
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if request.base64 else list(vector)}
        for index, vector in enumerate(reply.vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return _json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def has_numbers(body: bytes) -> bool:
    """Whether the first vector of an answer in OpenAI's format is an array of numbers."""
    return (hit := _FIRST_VECTOR.search(body)) is not None and hit[1] == b"["


class Packer:
    """Converts arrays of numbers to base64 in a passing answer in OpenAI's format; all other bytes are unchanged.

    LM Studio, some releases of Ollama and others ignore `encoding_format`. OpenAI's Node SDK asks for base64 by default
    and decodes whatever comes, so it would turn numbers into a shorter, wrong vector.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes to pass on after the next piece. Raises Unreadable for an array that is not a vector."""
        out: list[bytes] = []
        data, done = self._held + data, 0
        while (hit := _NUMBERS.search(data, done)) is not None and (end := data.find(b"]", hit.end())) >= 0:
            start = hit.end() - 1
            vector = view_of(_vector, data[start : end + 1])
            out += (data[done:start], b'"%b"' % _base64(vector).encode())
            done = end + 1
        keep = max(done, len(data) - _KEY_BYTES_MAX) if hit is None else hit.start()
        self._held = data[keep:]
        if len(self._held) > VECTOR_BYTES_MAX:
            raise Unreadable("a vector without an end")
        return b"".join((*out, data[done:keep]))

    def finish(self) -> bytes:
        """The remaining bytes."""
        return self._held


def packed(body: bytes) -> bytes:
    """A whole answer in OpenAI's format with its vectors as base64. Raises Unreadable."""
    if not has_numbers(body):
        return body
    packer = Packer()
    return packer.feed(body) + packer.finish()


def _base64(vector: Sequence[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except OverflowError:
        raise Unreadable("a vector with a number beyond 32 bits") from None


# --- Gemini ----------------------------------------------------------------------------------------------------------


class _Part(msgspec.Struct):
    text: str | None = None


class _Content(msgspec.Struct):
    parts: list[_Part]


class _GeminiRequest(msgspec.Struct):
    content: _Content
    model: str = ""
    taskType: str | None = None
    title: str | None = None
    outputDimensionality: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _GeminiBatch(msgspec.Struct):
    requests: list[_GeminiRequest]


class _GeminiVector(msgspec.Struct):
    values: list[float]


class _GeminiReply(msgspec.Struct):
    embedding: _GeminiVector | None = None
    embeddings: list[_GeminiVector] | None = None
    usageMetadata: Any = None


_gemini_reply = msgspec.json.Decoder(_GeminiReply)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])


def read_gemini_request(body: bytes, *, batch: bool) -> EmbeddingRequest:
    """The request of an embedContent (`batch` False) or batchEmbedContents body. Raises BadRequest.

    The texts of one content are joined. All requests of a batch must have the same dimensions and task, since the other
    format has them once per call.
    """
    wire = decode_names(body)
    if not batch:
        return _gemini_texts([convert(wire, _GeminiRequest)], batch=False)
    view = convert(wire, _GeminiBatch)
    if not view.requests:
        raise BadRequest("`requests` is empty; give at least one request.", param="requests")
    return _gemini_texts(view.requests, batch=True)


def _gemini_texts(requests: list[_GeminiRequest], *, batch: bool) -> EmbeddingRequest:
    first = requests[0]
    texts: list[str] = []
    for place, request in enumerate(requests):
        where = f"requests[{place}]." if batch else ""
        for name in ("outputDimensionality", "taskType", "title", "model"):
            if getattr(request, name) != getattr(first, name):
                raise BadRequest(f"`{name}` must be the same in all `requests`.", param=where + name)
        pieces = [part.text for part in request.content.parts]
        if any(piece is None for piece in pieces):
            raise BadRequest("This model can embed only text.", param=f"{where}content.parts")
        text = "\n".join(piece for piece in pieces if piece)
        if not text:
            raise BadRequest("The content must contain text.", param=f"{where}content.parts")
        texts.append(text)
    return EmbeddingRequest(
        tuple(texts),
        first.model.removeprefix("models/"),
        first.outputDimensionality,
        batch=batch,
        task_type=first.taskType,
        title=first.title,
    )


def write_gemini_request(request: EmbeddingRequest, upstream_model: str) -> bytes:
    """A batchEmbedContents body, even for one text.

    Raises BadRequest for more than GEMINI_BATCH_MAX texts, and for a purpose that Gemini has no name for.
    """
    if len(request.texts) > GEMINI_BATCH_MAX:
        raise BadRequest(
            f"`input` has {len(request.texts)} items; this model takes at most {GEMINI_BATCH_MAX} in one call.",
            param="input",
        )
    common = given(
        model=f"models/{upstream_model}",
        outputDimensionality=request.dimensions,
        taskType=None if upstream_model.startswith(_TAKES_NO_TASK) else _task_of(request),
        title=request.title,
    )
    rows = [{**common, "content": {"parts": [{"text": text}]}} for text in request.texts]
    return _json.encode({"requests": rows})


def _task_of(request: EmbeddingRequest) -> str | None:
    """Gemini's name of what the vectors are for. Raises BadRequest."""
    if request.task_type is None:
        return None
    if (task := _TASKS.get(request.task_type.lower())) is None:
        raise BadRequest(
            f"This value of `{request.task_field}` is not supported by this model.", param=request.task_field
        )
    return task


def read_gemini_reply(body: bytes, items: int) -> EmbeddingReply:
    """The vectors of an embedContent or batchEmbedContents answer. Raises Unreadable unless there are `items`."""
    view = view_of(_gemini_reply, body)
    found = view.embeddings if view.embeddings is not None else [view.embedding] if view.embedding else []
    if len(found) != items:
        raise Unreadable(f"{len(found)} vectors for {items} texts")
    if not all(vector.values for vector in found):
        raise Unreadable("an empty vector")
    counted = _count(view.usageMetadata, "promptTokenCount")
    return EmbeddingReply(tuple(tuple(vector.values) for vector in found), counted)


def write_gemini_reply(reply: EmbeddingReply, request: EmbeddingRequest) -> bytes:
    """The answer to a Gemini caller, in the format of the method it called, with usage if the upstream reported it."""
    vectors = [{"values": list(vector)} for vector in reply.vectors]
    answer: dict[str, Any] = {"embeddings": vectors} if request.batch else {"embedding": vectors[0]}
    if (tokens := reply.prompt_tokens) is not None:
        answer["usageMetadata"] = {"promptTokenCount": tokens, "totalTokenCount": tokens}
    return _json.encode(answer)


def with_model(body: bytes, model: str) -> bytes:
    """A Gemini caller's body with the upstream's model name wherever it names the model; other values are unchanged.

    google-genai names the model in each request of a batch, and Google refuses names other than the path's.
    """
    members = _members.decode(body)
    if "model" in members:
        members["model"] = msgspec.Raw(_json.encode(f"models/{model}"))
    for name in ("generateContentRequest", "generate_content_request"):
        if name in members:
            members[name] = _renamed(members[name], model)
    if "requests" in members and bytes(members["requests"]).startswith(b"["):
        renamed = [_renamed(raw, model) for raw in _list.decode(members["requests"])]
        members["requests"] = msgspec.Raw(_json.encode(renamed))
    return _json.encode(members)


def _renamed(raw: msgspec.Raw, model: str) -> msgspec.Raw:
    return msgspec.Raw(with_model(bytes(raw), model)) if bytes(raw).startswith(b"{") else raw


# --- counting --------------------------------------------------------------------------------------------------------


def read_count_request(body: bytes) -> ChatRequest:
    """The request to count: the `contents` or `generateContentRequest` of a countTokens body. Raises BadRequest."""
    wire = decode_names(body)
    inner = wire.get("generateContentRequest")
    if inner is None:
        return read_object(wire)
    if "contents" in wire:
        raise BadRequest("Send either `contents` or `generateContentRequest`, not both.", param="contents")
    if not isinstance(inner, dict):
        raise BadRequest("`generateContentRequest` must be an object.", param="generateContentRequest")
    request = read_object(inner)
    if isinstance(model := inner.get("model"), str):
        request.model = model.removeprefix("models/")
    return request


def write_count_reply(total_tokens: int) -> bytes:
    """The answer to countTokens."""
    return _json.encode({"totalTokens": total_tokens})
