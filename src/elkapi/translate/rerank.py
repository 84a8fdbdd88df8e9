"""Convert reranks between the formats of Jina and Cohere.

Contract: openai.md "Rerank". A caller may send either format (they differ in how documents are limited) and gets
Jina's, with an `id` and Cohere's units. Results are sorted, best first. `catalog.text` limits the number of documents.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import decode
from elkapi.translate.dialect import Unreadable, view_of
from elkapi.types import Usage

SEARCH_DOCUMENTS = 100
# More than a thousand documents of a few hundred pages each; a larger count is not credible.
SEARCH_UNITS_MAX = 1000


class RerankRequest(msgspec.Struct, frozen=True):
    """Texts to rank by a query. `top_n` None means all."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    return_documents: bool = False
    max_tokens_per_doc: int | None = None


class Ranked(msgspec.Struct, frozen=True):
    """The relevance of one document; `index` is its position in the request."""

    index: int
    score: float


class RerankReply(msgspec.Struct, frozen=True):
    """Results, best first. `usage` is None if the upstream reported none. `search_units` are Cohere's billed units."""

    id: str
    results: tuple[Ranked, ...]
    usage: Usage | None = None
    search_units: int | None = None


class _Document(msgspec.Struct):
    text: str


_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Request(msgspec.Struct):
    model: str
    query: str
    documents: list[str | _Document]
    top_n: _Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: _Count | None = None
    max_chunks_per_doc: _Count | None = None
    max_chunk_per_doc: _Count | None = None
    overlap_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    rank_fields: list[str] | None = None


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Tokens(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens: int | None = None


class _Billed(msgspec.Struct):
    search_units: float | None = None
    input_tokens: float | None = None


class Meta(msgspec.Struct):
    """What Cohere bills, and in the same place what SiliconFlow counts."""

    billed_units: _Billed | None = None
    tokens: _Billed | None = None


class _Reply(msgspec.Struct):
    results: list[_Result]
    id: str = ""
    usage: _Tokens | None = None
    meta: Meta | None = None


_request = msgspec.json.Decoder(_Request)
_reply = msgspec.json.Decoder(_Reply)
_json = msgspec.json.Encoder()


def read_request(body: bytes) -> RerankRequest:
    """A request in either format. Raises BadRequest."""
    view = decode(_request, body)
    documents = tuple(item if isinstance(item, str) else item.text for item in view.documents)
    if not documents:
        raise BadRequest("`documents` must contain at least one document.", param="documents")
    for name in ("model", "query"):
        if not getattr(view, name):
            raise BadRequest(f"`{name}` must not be empty.", param=name)
    if view.rank_fields not in (None, [], ["text"]):
        raise BadRequest('`rank_fields` must be omitted or be ["text"].', param="rank_fields")
    return RerankRequest(view.query, documents, view.top_n, bool(view.return_documents), view.max_tokens_per_doc)


def write_cohere_request(request: RerankRequest, upstream_model: str) -> bytes:
    """The body for Cohere v2. Jina's chunking options have no equivalent and are omitted; `return_documents` is not
    needed, since the answer takes documents from the request."""
    body: dict[str, Any] = {"model": upstream_model, "query": request.query, "documents": request.documents}
    if request.top_n is not None:
        body["top_n"] = min(request.top_n, len(request.documents))
    if request.max_tokens_per_doc is not None:
        body["max_tokens_per_doc"] = request.max_tokens_per_doc
    return _json.encode(body)


def read_reply(body: bytes, request: RerankRequest) -> RerankReply:
    """An answer in either format. Raises Unreadable for an index outside the request or a duplicate one."""
    view = view_of(_reply, body)
    indexes = {row.index for row in view.results}
    if len(indexes) < len(view.results) or not indexes <= set(range(len(request.documents))):
        raise Unreadable("an index twice or outside the documents")
    ranked = sorted((Ranked(row.index, row.relevance_score) for row in view.results), key=_best_first)
    return RerankReply(view.id, tuple(ranked[: request.top_n]), _usage(view), _units(view.meta))


def read_meta(meta: Meta) -> Usage | None:
    """The tokens and search units that a `meta` tells; None if it tells neither, or nothing possible."""
    usage, units = _counted(_tokens(meta)), _units(meta)
    if usage is None and units is None:
        return None
    return msgspec.structs.replace(usage or Usage(calls=1), searches=units or 0)


def _units(meta: Meta | None) -> int | None:
    billed = meta.billed_units if meta else None
    units = billed.search_units if billed else None
    return int(units) if units is not None and 0 <= units <= SEARCH_UNITS_MAX and units == units // 1 else None


def _best_first(row: Ranked) -> tuple[float, int]:
    return -row.score, row.index


def _usage(view: _Reply) -> Usage | None:
    """The usage, from Jina's `usage` or Cohere's optional `meta`; None if it is missing or impossible."""
    count: float | None = None
    if view.usage is not None:
        count = view.usage.prompt_tokens if view.usage.prompt_tokens is not None else view.usage.total_tokens
    elif view.meta is not None:
        count = _tokens(view.meta)
    return _counted(count)


def _tokens(meta: Meta) -> float | None:
    found = (part.input_tokens for part in (meta.billed_units, meta.tokens) if part is not None)
    return next((tokens for tokens in found if tokens is not None), None)


def _counted(count: float | None) -> Usage | None:
    if count is None or count < 0 or count != count // 1:
        return None
    return Usage(input_tokens=int(count), calls=1)


def searches_of(documents: int) -> int:
    """Cohere's search units for a number of documents."""
    return -(-documents // SEARCH_DOCUMENTS)


def write_jina_reply(reply: RerankReply, request: RerankRequest, model: str) -> bytes:
    """The answer in Jina's format with the upstream's `id`; without `reply.usage` it reports zero tokens.

    Cohere's units follow in its own `meta`: they are what is billed there, and some of its clients require the field.
    """
    tokens = reply.usage.input_total if reply.usage is not None else 0
    answer: dict[str, Any] = {
        "id": reply.id,
        "model": model,
        "results": _results(reply, request),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    if reply.search_units is not None:
        answer["meta"] = {"billed_units": {"search_units": reply.search_units}}
    return _json.encode(answer)


def _results(reply: RerankReply, request: RerankRequest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"index": row.index, "relevance_score": row.score} for row in reply.results]
    if request.return_documents:
        for row in rows:
            row["document"] = {"text": request.documents[row["index"]]}
    return rows
