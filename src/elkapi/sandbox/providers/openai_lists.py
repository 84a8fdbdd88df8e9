"""OpenAI's list pages: one page of items after a cursor, in the requested order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elkapi.sandbox.messages import Problem, Request

LIMIT_DEFAULT = 20
LIMIT_MAX = 100


def page(request: Request, oldest_first: Sequence[dict[str, Any]], order: str) -> dict[str, Any]:
    """The page for the query's `after`, `limit` and `order`; the argument `order` is the route's default."""
    limit = request.query("limit") or str(LIMIT_DEFAULT)
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit) <= LIMIT_MAX:
        raise Problem(400, f"limit must be an integer from 1 to {LIMIT_MAX}.", param="limit")
    order = request.query("order") or order
    if order not in ("asc", "desc"):
        raise Problem(400, "order must be asc or desc.", param="order")
    items = list(oldest_first) if order == "asc" else list(reversed(oldest_first))
    after = request.query("after")
    if after is not None:
        start = next((index for index, item in enumerate(items) if item["id"] == after), None)
        if start is None:
            raise Problem(400, f"No item with id {after!r}.", param="after")
        items = items[start + 1 :]
    shown = items[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }
