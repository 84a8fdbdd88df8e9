"""Helpers for providers' headers and timestamps."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

import msgspec

from elkapi.sandbox.messages import Answer, Request


def with_headers(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """The answer with these headers before its own."""
    added = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    return msgspec.structs.replace(answer, headers=(*added, *answer.headers))


def with_request_id(name: str) -> Callable[[Request, Answer, float], Answer]:
    """A `dress` that only adds the request id in this header."""

    def dress(request: Request, answer: Answer, took_s: float) -> Answer:
        return with_headers(answer, {name: request.upstream_request_id})

    return dress


def stamp(seconds: float) -> str:
    """A time in milliseconds (RFC 3339, UTC)."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
