"""The sandbox's Claude models: names on each platform, limits and prices."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem, Request
from elkapi.sandbox.rates import Rate

MODELS_LISTED_MAX = 1000


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model line. `cache_write_1h` is in nano-USD per token; the rate's own cache write is for five minutes."""

    line: str
    rate: Rate
    cache_write_1h: int
    input_tokens_max: int
    output_tokens_max: int


def _line(name: str, input_nano_usd: int, context: int) -> Model:
    """Output costs 5 times the input, a cache write 1.25 (five minutes) or 2 times (one hour), a cache read 0.1."""
    rate = Rate(
        input=input_nano_usd,
        output=5 * input_nano_usd,
        cached=input_nano_usd // 10,
        cache_write=5 * input_nano_usd // 4,
    )
    return Model(
        line=name,
        rate=rate,
        cache_write_1h=2 * input_nano_usd,
        input_tokens_max=context,
        output_tokens_max=128_000,
    )


LINES = {
    "haiku": _line("haiku", 1_000, 200_000),
    "sonnet": _line("sonnet", 3_000, 1_000_000),
    "opus": _line("opus", 5_000, 1_000_000),
}
LISTED = {
    "claude-opus-5-5": ("Claude Opus 5.5", "2026-10-01T00:00:00Z"),
    "claude-sonnet-5-5": ("Claude Sonnet 5.5", "2026-09-01T00:00:00Z"),
    "claude-haiku-5-5": ("Claude Haiku 5.5", "2026-08-01T00:00:00Z"),
    "claude-opus-4-5-20251101": ("Claude Opus 4.5", "2025-11-24T00:00:00Z"),
    "claude-haiku-4-5-20251001": ("Claude Haiku 4.5", "2025-10-15T00:00:00Z"),
    "claude-sonnet-4-5-20250929": ("Claude Sonnet 4.5", "2025-09-29T00:00:00Z"),
}
_NAME = re.compile(r"claude(?:-[a-z0-9]+)*-(haiku|sonnet|opus)(?:[-@][a-z0-9@-]+)?")
_BEDROCK = re.compile(
    r"(?:arn:[^ ]*/)?(?:(?:us|eu|apac|jp|au|global)\.)?anthropic\.(claude-[a-z0-9-]+?)(?:-v[0-9]+(?::[0-9]+)?)?"
)


def model_of(name: str) -> Model:
    """The line of any Claude name, with or without a date or Vertex's `@date`. Raises Problem 404."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Problem(404, f"model: {name}")
    return LINES[found[1]]


def bedrock_name(model_id: str) -> str | None:
    """The Claude name in a Bedrock model id, inference profile or ARN; None for another vendor's model."""
    found = _BEDROCK.fullmatch(model_id)
    return found[1] if found else None


def listed(name: str) -> dict[str, Any]:
    """One entry of the model list. Raises Problem 404."""
    if name not in LISTED:
        raise Problem(404, f"model: {name}")
    model, (display_name, created) = model_of(name), LISTED[name]
    yes, no = {"supported": True}, {"supported": False}
    thinking = {"enabled": yes, "adaptive": yes, "disabled": yes, "between_tools": no}
    return {
        "type": "model",
        "id": name,
        "display_name": display_name,
        "created_at": created,
        "lifecycle": "active",
        "line": model.line,
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": model.input_tokens_max,
        "max_tokens": model.output_tokens_max,
        "capabilities": {
            "batch": yes,
            "citations": no,
            "code_execution": no,
            "context_management": {"supported": False},
            "effort": {"supported": True, "low": yes, "medium": yes, "high": yes, "xhigh": yes, "max": yes},
            "image_input": yes,
            "pdf_input": yes,
            "server_tools": {"supported": False, "code_execution": no, "web_search": no},
            "structured_outputs": yes,
            "thinking": {"supported": True, "types": thinking},
        },
    }


def page(request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    """One page of a list by `limit`, `after_id` and `before_id`, or by `page`, in the order of `items`."""
    limit_text = request.query("limit") or "20"
    if not limit_text.isdecimal() or not 1 <= int(limit_text) <= MODELS_LISTED_MAX:
        raise Problem(400, f"limit: Input should be between 1 and {MODELS_LISTED_MAX}", param="limit")
    limit = int(limit_text)
    ids = [item["id"] for item in items]
    after, before = request.query("after_id") or (request.query("page") or "")[5:], request.query("before_id")
    if (after and after not in ids) or (before and before not in ids):
        raise Problem(400, "after_id or before_id is not in this list")
    if before:
        end = ids.index(before)
        chosen, more = items[max(0, end - limit) : end], end > limit
    else:
        start = ids.index(after) + 1 if after else 0
        chosen, more = items[start : start + limit], len(items) > start + limit
    first, last = (chosen[0]["id"], chosen[-1]["id"]) if chosen else (None, None)
    next_page = f"page_{last}" if more and not before else None
    return {"data": chosen, "has_more": more, "first_id": first, "last_id": last, "next_page": next_page}
