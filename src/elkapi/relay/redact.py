"""An upstream's message about a caller's mistake, without its identity: no host, key or account of the operator's."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from elkapi.errors import NOT_JSON, OVERFLOW, GatewayError, UpstreamRejected
from elkapi.routing.fallback import reason_in
from elkapi.types import Attempt

MESSAGE_CHARS_MAX = 1000
LOOKED_AT_CHARS_MAX = 4000
RECORDED_CHARS_MAX = 300
_SECRETS = re.compile(
    r"""(?ix)
    (?: https?://[^\s)\]>"']+ )                           # addresses
  | (?: \b(?:bearer\s+)?(?:sk|pk|rk)[-_][\w*.\-]{4,} )  # keys
    # Account ids; words such as `user_location` or `key-value` are a field's name or prose, and stay.
  | (?: \b(?:key|org|proj|user|acct)[-_](?: (?=[\w\-]*[\d*])[\w*.\-]{4,} | [a-z]{20,} ) )
  | (?: \bAIza[\w\-]{10,} )
  | (?: \barn:aws[\w-]*:[\w:/.*-]+ | \bprojects/[\w:.-]+(?:/[\w.-]+)* )  # what an account owns
  | (?: \b[\w.+-]+@[\w-]+\.[\w.]+ )                       # mail addresses
  | (?: \b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b )            # IPv4 addresses
  | (?: \b(?:req|request)[-_][\w\-]{8,} )                 # the upstream's own request ids
  | (?: \b(?:team|api\ key\ id):?\s+[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b )  # xAI's of an account and its key
  | (?: \b(?:[a-z0-9-]+\.)+(?:com|net|org|io|ai|cn|dev|cloud|app|internal|local)\b(?::\d+)? )
    """
)
# What a key is exchanged for if it is not sent itself, valid for its lifetime.
_TOKENS = re.compile(
    r"""(?ix)
    (?: \b(?:bearer\s+)?eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+ )
  | (?: \bbearer\s+(?=\S*\d)[\w.~+/=-]{8,} )
  | (?: \bAWS4-HMAC-SHA256\s[^"\n)]* )
    """
)
# A key may be two words, and a header of the channel a third; a shorter value is not a secret.
_BETWEEN = re.compile(r"[:|]")
_SECRET_CHARS_MIN = 8
_ACCOUNT = re.compile(r"(?i)quota|billing|balance|credit|account|organi[sz]ation|subscription|payment|\bplan\b")


class _Error(msgspec.Struct):
    """`metadata` is OpenRouter's: its `raw` is what the provider behind it answered, perhaps as text."""

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    metadata: Any = None


class _Body(msgspec.Struct):
    """`detail` is FastAPI's (Luma's): a list of errors if a body did not validate. Mistral has it in its `message`."""

    error: _Error | str | None = None
    message: Any = None
    detail: Any = None


_decoder = msgspec.json.Decoder(_Body, strict=False)
# OpenRouter's message if it has nothing to say itself.
_PASSED_ON = "Provider returned error"
_WORD = re.compile(r"[\w.\-]{1,64}")


def rejected(status: int, body: bytes, attempt: Attempt, client_model: str) -> GatewayError:
    """The caller's error for a 4xx that they caused; the OpenAI `param` and `code` are kept."""
    try:
        view = _decoder.decode(body)
    except NOT_JSON:
        view = _Body()
    error = _error_of(view)
    message = redact(error.message or f"The provider refused the request (status {status}).", attempt, client_model)
    code = _word(None if error.code is None else str(error.code), attempt, client_model)
    if reason_in(status, body) == "context":
        # One code for the many phrases of providers: agents shorten the conversation when they see it.
        code = OVERFLOW
    kind = _word(error.type, attempt, client_model) or "invalid_request_error"
    param = _word(error.param, attempt, client_model)
    return UpstreamRejected(message, status=status, code=code, type_=kind, param=param)


def _error_of(view: _Body) -> _Error:
    error = _plain(view)
    raw = error.metadata.get("raw") if isinstance(error.metadata, dict) else None
    if raw and error.message == _PASSED_ON:
        error.message = _behind(raw) or _PASSED_ON
    return error


def _plain(view: _Body) -> _Error:
    error = view.error
    if isinstance(error, _Error):
        return error
    inner = view.message.get("detail") if isinstance(view.message, dict) else view.detail
    said, param = _detailed(inner)
    told = view.message if isinstance(view.message, str) else None
    return _Error(message=error or told or said, param=param)


def _behind(raw: Any) -> str | None:
    """The message in an answer that was passed on, as JSON or as its text."""
    try:
        view = _decoder.decode(raw) if isinstance(raw, str) else msgspec.convert(raw, _Body, strict=False)
    except NOT_JSON:
        return raw if isinstance(raw, str) and raw[:1] not in ("<", "{", "[") else None
    return _plain(view).message


def _detailed(detail: Any) -> tuple[str | None, str | None]:
    """(message, field) of FastAPI's `detail`, whose `loc` begins with the part of the request."""
    if isinstance(detail, str):
        return detail, None
    first = detail[0] if isinstance(detail, list) and detail else None
    if not isinstance(first, dict):
        return None, None
    place = first.get("loc")
    field = ".".join(str(step) for step in place[1:]) if isinstance(place, list) else ""
    return str(first.get("msg") or "") or None, field or None


def redact(message: str, attempt: Attempt, client_model: str) -> str:
    """The message without the upstream's identity, secrets and account texts."""
    if _ACCOUNT.search(message):
        return "The provider of this model refused the request."
    return _without_identity(message, attempt, client_model)[:MESSAGE_CHARS_MAX]


def recorded(said: str | bytes, attempt: Attempt) -> str:
    """An upstream's message as recorded for operators: everything but the keys, which nobody sees."""
    text = said if isinstance(said, str) else said[:LOOKED_AT_CHARS_MAX].decode("utf-8", "replace")
    return _without_key(text, attempt)[:RECORDED_CHARS_MAX]


def _word(text: str | None, attempt: Attempt, client_model: str) -> str | None:
    """A machine-readable member unchanged; None if it is not a word, or contains what a message must not."""
    if not text or not _WORD.fullmatch(text) or _without_identity(text, attempt, client_model) != text:
        return None
    return text


def _without_key(text: str, attempt: Attempt) -> str:
    # Before truncating, since the first half of a secret would not be recognised.
    text = _TOKENS.sub("***", text)
    key = attempt.key.secret
    parts = [*attempt.channel.header_set.values(), *(_BETWEEN.split(key) if key[:1] != "{" else ())]
    for secret in (key, *(part for part in parts if len(part) >= _SECRET_CHARS_MIN)):
        if secret:
            text = text.replace(secret, "***")
    return text


def _without_identity(text: str, attempt: Attempt, client_model: str) -> str:
    text = _without_key(text, attempt)[:LOOKED_AT_CHARS_MAX]
    if host := urlsplit(attempt.channel.base_url).hostname:
        # An internal host name needs no dot, so the patterns would not recognise it.
        text = re.sub(rf"(?i)(?<![\w.-]){re.escape(host)}(?![\w-])(?::\d+)?", "***", text)
    if attempt.upstream_model != client_model:
        text = text.replace(attempt.upstream_model, client_model)
    return _SECRETS.sub("***", text)
