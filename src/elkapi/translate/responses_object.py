"""The response object of a written answer, and its open parts and calls; `responses_writer` fills and orders them.

Contract: openai.md (response, Response object).
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import ChatRequest, Citation, Failure, TokenLogprob
from elkapi.translate.responses_write import settings

# Fields of the request that a response repeats unchanged.
_REPEATED = (
    "background",
    "max_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
    "top_logprobs",
    "truncation",
)
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


def blank_response(facts: ReplyFacts) -> dict[str, Any]:
    """The object of `response.created`: in progress, without output and usage."""
    request = facts.request
    asked = settings(request)
    reasoning = request.reasoning
    conversation = request.extra.get("conversation")
    return {
        "id": facts.id,
        "object": "response",
        "created_at": facts.created_s,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "conversation": {"id": conversation} if isinstance(conversation, str) else conversation,
        "error": None,
        "incomplete_details": None,
        "instructions": _instructions(request),
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "model": facts.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tools is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "safety_identifier": None,
        "service_tier": request.service_tier or "auto",
        "store": True,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": {"type": "text"}} | asked.get("text", {}),
        "tool_choice": asked.get("tool_choice") or request.extra.get("tool_choice") or "auto",
        "tools": asked.get("tools", []),
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    } | {name: request.extra[name] for name in _REPEATED if name in request.extra}


def _instructions(request: ChatRequest) -> str | None:
    """The caller's `instructions`, since the request's `system` may also hold developer messages."""
    given = request.extra.get("instructions")
    return given if isinstance(given, str) else None


def error_object(failure: Failure) -> dict[str, Any]:
    """`response.error` with one of this dialect's codes, never the upstream's own."""
    return {"code": _ERROR_CODES.get(failure.status, "server_error"), "message": failure.message}


def logprob_rows(logprobs: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    """The tokens of a text with their bytes, log probabilities and likeliest alternatives."""
    return [
        {
            "token": row.token,
            "bytes": list(row.token.encode()),
            "logprob": row.logprob,
            "top_logprobs": [
                {"token": token, "bytes": list(token.encode()), "logprob": logprob} for token, logprob in row.top
            ],
        }
        for row in logprobs
    ]


def annotation(citation: Citation, text: str, before: int) -> dict[str, Any]:
    """A source at the span that it supports, or at the end of the part's text so far.

    `before` is the length of the answer's text in earlier parts, in characters.
    """
    place = (len(text), len(text))
    if citation.span is not None and citation.span[0] >= before:
        place = (citation.span[0] - before, citation.span[1] - before)
    elif citation.passage and (start := text.rfind(citation.passage)) >= 0:
        place = (start, start + len(citation.passage))
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title,
        "start_index": place[0],
        "end_index": place[1],
    }


class OpenPart:
    """The open content part of the open message. `head` is a delta's frame up to its text."""

    def __init__(self, kind: str, item_id: str, content_index: int) -> None:
        self.kind = kind
        self.item_id = item_id
        self.content_index = content_index
        self.pieces: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.head = b""

    def written(self) -> dict[str, Any]:
        text = "".join(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": self.annotations, "logprobs": self.logprobs}


class OpenCall:
    """An open call. `wrapped`: the upstream knows the tool as a function, so its free text is written at the end."""

    def __init__(self, output_index: int, item: dict[str, Any], wrapped: bool) -> None:
        self.output_index = output_index
        self.item = item
        self.wrapped = wrapped
        self.custom = item["type"] == "custom_tool_call"
        self.pieces: list[str] = []

    @property
    def whole(self) -> bool:
        """Whether the arguments are complete, which the free text of a custom tool never shows."""
        if self.custom and not self.wrapped:
            return False
        return as_object("".join(self.pieces)) is not None


def as_object(text: str) -> dict[str, Any] | None:
    """The arguments of a call as a JSON object; None if they are incomplete or not an object."""
    try:
        found = msgspec.json.decode(text)
    except NOT_JSON:
        return None
    return found if isinstance(found, dict) else None


def unwrapped(text: str) -> str:
    """The free text of a custom tool in the arguments `{"input": text}`; anything else is returned unchanged."""
    found = as_object(text) or {}
    only = found.get("input", next(iter(found.values())) if len(found) == 1 else None)
    return only if isinstance(only, str) else text
