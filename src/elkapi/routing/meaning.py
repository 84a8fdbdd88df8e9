"""What an upstream's refusal means, where its status blames the wrong one: the caller, or the operator's key.

| who says so | status | in which words                                                     | means |
|-------------|--------|--------------------------------------------------------------------|-------|
| Google      | 400    | a detail's reason, API_KEY_INVALID                                 | 401   |
| xAI         | 400    | Incorrect API key provided ...                                     | 401   |
| Anthropic   | 400    | This organization has been disabled.                               | 401   |
| Anthropic   | 400    | Your credit balance is too low ...                                 | 402   |
| Anthropic   | 400    | You have reached your specified API usage limits ...               | 402   |
| Google      | 400    | User location is not supported for the API use ...                 | 403   |
| Google      | 403    | CachedContent not found (or permission denied)                     | 404   |
| Google      | 403    | You do not have permission to access the File ...                  | 404   |
| AWS         | 424    | a message that is in no error: the model failed, at Bedrock        | 500   |

Only what the provider itself wrote is looked at: how its message begins, and its own members. A message may repeat the
caller's words further on, and whoever could write these could take an operator's key out of service.
"""

from __future__ import annotations

import re

import msgspec

from elkapi.errors import NOT_JSON


class _Detail(msgspec.Struct):
    reason: str | None = None


class _Error(msgspec.Struct):
    message: str | None = None
    details: list[_Detail] = []


class _Body(msgspec.Struct):
    error: _Error | str | None = None
    message: str | None = None


_decoder = msgspec.json.Decoder(_Body)
_BEGINNINGS = {
    400: (
        ("Incorrect API key provided", 401),
        ("This organization has been disabled", 401),
        ("Your credit balance is too low", 402),
        ("You have reached your specified API usage limits", 402),
        ("User location is not supported", 403),
    ),
    403: (("CachedContent not found", 404), ("You do not have permission to access the File", 404)),
}


# Google sends no Retry-After. Quotes within a message, which may repeat the caller's text, are escaped, so they do not
# match.
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"([0-9]{1,9}(?:\.[0-9]{1,9})?)s"')


def wait_told(retry_after: bytes | None, told: bytes) -> bytes | None:
    """When a refusal says to retry: its Retry-After, or Google's delay in its body (`told`)."""
    if retry_after is None and (found := _RETRY_DELAY.search(told)) is not None:
        return found[1]
    return retry_after


def meant(status: int, told: bytes) -> int:
    """The status that a refusal really means; `told` is its body."""
    if status not in (*_BEGINNINGS, 424):
        return status
    try:
        body = _decoder.decode(told)
    except NOT_JSON:
        return status
    if status == 424:
        return 500 if body.message and body.error is None else status
    error = body.error if isinstance(body.error, _Error) else _Error(body.error)
    if status == 400 and any(detail.reason == "API_KEY_INVALID" for detail in error.details):
        return 401
    message = error.message or ""
    return next((meaning for words, meaning in _BEGINNINGS[status] if message.startswith(words)), status)
