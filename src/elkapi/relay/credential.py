"""Reads the caller's key from every place that the official SDKs use. Contract: platform.md section 0."""

from __future__ import annotations

from urllib.parse import parse_qs

from elkapi.relay.call import Call

_X_API_KEY_PATHS = ("/v1/messages", "/anthropic/", "/v1/models", "/v1/files")
_GOOGLE_PATHS = ("/v1beta/", "/v1/models")


def presented_key(call: Call) -> str | None:
    """The caller's key as sent, or None. x-goog-api-key wins over `?key=`; x-api-key over Authorization on its routes.

    Azure's clients send `api-key` instead of Authorization.
    """
    # Headers are checked before the path, since most calls have neither.
    path, query, header = call.path, call.query, call.header
    if (value := header(b"x-goog-api-key")) is not None and path.startswith(_GOOGLE_PATHS):
        return value.decode("latin-1")
    if query and "key=" in query and path.startswith(_GOOGLE_PATHS) and (found := parse_qs(query).get("key")):
        return found[0]
    if (value := header(b"x-api-key")) is not None and path.startswith(_X_API_KEY_PATHS):
        return value.decode("latin-1")
    value = header(b"authorization")
    if value is None:
        value = header(b"api-key")
    return value.decode("latin-1") if value is not None else None
