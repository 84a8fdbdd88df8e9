"""Conversions between embedding formats and between rerank formats; `embeddings` and `rerank` read and write them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from elkapi.translate import embeddings, rerank
from elkapi.translate.embeddings import EmbeddingRequest
from elkapi.translate.estimate import quarter
from elkapi.types import Usage


class Carrier(msgspec.Struct, frozen=True):
    """A conversion between two formats.

    `request(body, upstream_model) -> body` raises BadRequest.
    `reply(request_body, body, client_model) -> (body, usage, flags)` raises Unreadable.
    """

    request: Callable[[bytes, str], bytes]
    reply: Callable[[bytes, bytes, str], tuple[bytes, Usage | None, tuple[str, ...]]]


def _openai_to_gemini(body: bytes, upstream_model: str) -> bytes:
    return embeddings.write_gemini_request(embeddings.read_openai_request(body), upstream_model)


def _gemini_to_openai(asked: bytes, body: bytes, client_model: str) -> tuple[bytes, Usage | None, tuple[str, ...]]:
    """Tokens that Gemini does not report are estimated from bytes, since the model's vocabulary is unknown."""
    request = embeddings.read_openai_request(asked)
    reply = embeddings.read_gemini_reply(body, len(request.texts))
    sizes = [len(text.encode()) for text in request.texts]
    if reply.prompt_tokens is not None and reply.prompt_tokens <= sum(sizes):
        written = embeddings.write_openai_reply(reply, request, client_model, reply.prompt_tokens)
        return written, Usage(input_tokens=reply.prompt_tokens, calls=1), ()
    tokens = sum(map(quarter, sizes))
    written = embeddings.write_openai_reply(reply, request, client_model, tokens)
    return written, Usage(input_tokens=tokens, calls=1), ("usage_missing", "estimated_locally")


def _gemini_caller(batch: bool) -> Carrier:
    def request(body: bytes, upstream_model: str) -> bytes:
        asked = embeddings.read_gemini_request(body, batch=batch)
        return embeddings.write_openai_request(msgspec.structs.replace(asked, model=upstream_model))

    def reply(asked: bytes, body: bytes, _model: str) -> tuple[bytes, Usage | None, tuple[str, ...]]:
        request: EmbeddingRequest = embeddings.read_gemini_request(asked, batch=batch)
        found = embeddings.read_openai_reply(body, len(request.texts))
        usage = None if found.prompt_tokens is None else Usage(input_tokens=found.prompt_tokens, calls=1)
        return embeddings.write_gemini_reply(found, request), usage, ()

    return Carrier(request, reply)


def _jina_to_cohere(body: bytes, upstream_model: str) -> bytes:
    return rerank.write_cohere_request(rerank.read_request(body), upstream_model)


def _cohere_to_jina(asked: bytes, body: bytes, client_model: str) -> tuple[bytes, Usage | None, tuple[str, ...]]:
    request = rerank.read_request(asked)
    found = rerank.read_reply(body, request)
    flags: tuple[str, ...] = ()
    usage, searches = found.usage, found.search_units
    if usage is None and searches is None:
        tokens = sum(quarter(len(request.query.encode()) + len(text.encode())) for text in request.documents)
        usage, flags = Usage(input_tokens=tokens, calls=1), ("usage_missing", "estimated_locally")
    if searches is None:
        searches = rerank.searches_of(len(request.documents))
    usage = msgspec.structs.replace(usage or Usage(calls=1), searches=searches)
    return rerank.write_jina_reply(found, request, client_model), usage, flags


CARRIED: dict[tuple[str, str], Carrier] = {
    ("embeddings", "gemini-batch-embed"): Carrier(_openai_to_gemini, _gemini_to_openai),
    ("gemini-embed", "embeddings"): _gemini_caller(batch=False),
    ("gemini-batch-embed", "embeddings"): _gemini_caller(batch=True),
    ("rerank", "cohere-rerank"): Carrier(_jina_to_cohere, _cohere_to_jina),
}
