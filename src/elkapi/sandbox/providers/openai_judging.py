"""Moderations (OpenAI's form) and rerankings (Jina's and Cohere's forms): deterministic scores from the words alone."""

from __future__ import annotations

from typing import Any

from elkapi.sandbox.messages import Answer, Charge, Request, json_answer
from elkapi.sandbox.providers import openai_read as read
from elkapi.sandbox.providers.openai_models import UNKNOWN_PREFIX
from elkapi.sandbox.talk import words

MODERATION_MODEL = "omni-moderation-latest"
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
FLAGGED_SCORE = 0.98
PLAIN_SCORE = 0.01

DOCUMENTS_MAX = 2048
RERANK_NANO_USD_PER_TOKEN = 20
SEARCH_UNIT_NANO_USD = 2_000_000
SEARCH_UNIT_DOCUMENTS = 100


def moderate(request: Request) -> Answer:
    """`POST /v1/moderations`, free: a text is flagged for every category whose name it contains."""
    body = read.json_object(request.body)
    model = body.get("model") or MODERATION_MODEL
    given = body.get("input")
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not listed:
        raise read.invalid("input must be a string or a non-empty array.", "input")
    if all(isinstance(one, str) for one in listed):
        results = [_judged(one, ["text"]) for one in listed]
    else:
        # Parts of one message are judged together.
        content = read.chat_content(listed, "input")
        kinds = (["text"] if content.text else []) + (["image"] if content.images else [])
        results = [_judged(content.text, kinds)]
    return json_answer({"id": "modr-" + request.id_suffix, "model": model, "results": results})


def _judged(text: str, kinds: list[str]) -> dict[str, Any]:
    held = set(text.lower().replace(",", " ").replace(".", " ").split())
    flags = {name: name in held for name in CATEGORIES}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {name: FLAGGED_SCORE if hit else PLAIN_SCORE for name, hit in flags.items()},
        "category_applied_input_types": dict.fromkeys(CATEGORIES, kinds),
    }


def rerank(request: Request) -> Answer:
    """`POST /v1/rerank` in Jina's format, billed by the tokens of the query and the documents."""
    body = read.json_object(request.body)
    model, results, tokens, _ = _ranked(body)
    answer: dict[str, Any] = {"id": "rerank-" + request.id_suffix, "object": "list", "model": model, "results": results}
    shown = request.faults.shown_tokens(tokens)
    if shown is not None:
        answer["usage"] = {"prompt_tokens": shown, "total_tokens": shown}
    return json_answer(answer, charge=Charge(model, tokens, tokens * RERANK_NANO_USD_PER_TOKEN))


def rerank_by_unit(request: Request) -> Answer:
    """`POST /v2/rerank` in Cohere's format, billed by search units, each for a fixed number of documents."""
    body = read.json_object(request.body)
    model, results, _, documents = _ranked(body)
    units = -(-documents // SEARCH_UNIT_DOCUMENTS)
    answer: dict[str, Any] = {"id": "rerank-" + request.id_suffix, "results": results}
    if request.faults.shown_tokens(units) is not None:
        units_shown = {"search_units": request.faults.shown_tokens(units)}
        answer["meta"] = {"api_version": {"version": "2"}, "billed_units": units_shown}
    return json_answer(answer, charge=Charge(model, 0, units * SEARCH_UNIT_NANO_USD))


def _ranked(body: dict[str, Any]) -> tuple[str, list[dict[str, Any]], int, int]:
    """The model, the results best first, the tokens and the number of documents."""
    model = read.model_name(body)
    if model.startswith(UNKNOWN_PREFIX):
        raise read.no_such_model(model)
    query, given = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query:
        raise read.invalid("query must be a non-empty string.", "query")
    if not isinstance(given, list) or not 1 <= len(given) <= DOCUMENTS_MAX:
        raise read.invalid(f"documents must be an array of 1 to {DOCUMENTS_MAX} documents.", "documents")
    texts = [_document(one) for one in given]
    top = read.whole(body, "top_n", 1, 1_000_000, len(texts))
    shows = read.flag(body, "return_documents")
    scored: list[dict[str, Any]] = [
        {"index": at, "relevance_score": _score(query, text), **({"document": {"text": text}} if shows else {})}
        for at, text in enumerate(texts)
    ]
    scored.sort(key=lambda result: (-result["relevance_score"], result["index"]))
    return model, scored[:top], words(query) + sum(map(words, texts)), len(texts)


def _document(value: object) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise read.invalid("A document must be a string or an object with a text.", "documents")
    return text


def _score(query: str, text: str) -> float:
    """The share of the query's words that the text contains, scaled to 0.01 to 0.99."""
    wanted, held = set(query.lower().split()), set(text.lower().split())
    return round(0.01 + 0.98 * len(wanted & held) / max(1, len(wanted)), 4)
