"""Reads the caller's key from every place that the official SDKs use. Contract: platform.md section 0."""

from __future__ import annotations

from urllib.parse import parse_qs

from elkapi.relay.call import Call

_X_API_KEY_PATHS = ("/v1/messages", "/anthropic/", "/v1/models", "/v1/files")
_GOOGLE_PATHS = ("/v1beta/", "/v1/models")


def presented_key(call: Call) -> str | None:
    """The caller's key as sent, or None. x-goog-api-key wins over `?key=`; x-api-key over Authorization on its routes.

    Azure's clients send `api-key` instead of Authorization. An empty header is none: clients that are told to leave one
    key empty, as `ANTHROPIC_API_KEY=""` beside a token, send it so.
    """
    # Headers are checked before the path, since most calls have neither.
    path, query, header = call.path, call.query, call.header
    if (value := header(b"x-goog-api-key")) and path.startswith(_GOOGLE_PATHS):
        return value.decode("latin-1")
    if query and "key=" in query and path.startswith(_GOOGLE_PATHS) and (found := parse_qs(query).get("key")):
        return found[0]
    if (value := header(b"x-api-key")) and path.startswith(_X_API_KEY_PATHS):
        return value.decode("latin-1")
    value = header(b"authorization") or header(b"api-key")
    return value.decode("latin-1") if value else None
