"""CORS for browser clients: preflights are answered before authentication, and every reply says who may read it."""

from __future__ import annotations

from elkapi.relay.call import Call, Headers

EXPOSED = (
    b"x-request-id, request-id, x-elkapi-cost-usd, x-elkapi-model, x-elkapi-cache, x-elkapi-cache-age, retry-after, "
    b"x-should-retry, accept-ranges, content-length, content-range, content-disposition, etag"
)
METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
PREFLIGHT_MAX_AGE_S = b"86400"


class Cors:
    """`origins` is the operator's list; `*` answers any origin. Credentials are never allowed: keys are not cookies."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._open = ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED))

    def headers(self, call: Call) -> Headers:
        """The CORS headers of a reply; none for calls that do not come from a web page."""
        origin = call.header(b"origin")
        if origin is None:
            return []
        if self._any:
            return self._open
        if origin not in self._origins:
            return [(b"vary", b"origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        ]

    def preflight(self, call: Call) -> Headers:
        """The answer to OPTIONS: the requested headers are allowed, since SDKs add their own.

        The allowed origin is among the headers common to all replies.
        """
        asked = call.header(b"access-control-request-headers") or b"authorization, content-type"
        return [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", PREFLIGHT_MAX_AGE_S),
        ]
