"""The headers of providers that add nothing but the id of a request; the rest of an answer is each provider's."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from elkapi.sandbox.messages import Answer, Request


def with_request_id(name: bytes) -> Callable[[Request, Answer, float], Answer]:
    """A `dress` that names the request in this header."""

    def dress(request: Request, answer: Answer, took_s: float) -> Answer:
        headers = ((name, request.upstream_request_id.encode("ascii")),)
        return msgspec.structs.replace(answer, headers=(*headers, *answer.headers))

    return dress
