"""GatewayError -> status, headers and a body in the caller's own dialect. Contract: platform.md section 1."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from elkapi.catalog.operation import Dialect
from elkapi.errors import OVERFLOW, GatewayError, InsufficientQuota, UpstreamOverloaded
from elkapi.ids import request_id_text
from elkapi.translate.anthropic_writer import error_type

Rendered = tuple[int, list[tuple[bytes, bytes]], bytes]
JSON = (b"content-type", b"application/json")

# A status of Anthropic's own, which its clients repeat with patience (platform.md, "HTTP status table").
ANTHROPIC_OVERLOADED = 529
# Phrases by which clients know that they must shorten the conversation (Claude Code, LangChain, LiteLLM), each with
# equivalents: a message without any of them is prefixed with the first.
_OVERFLOW_WORDS: dict[str, tuple[str, ...]] = {
    "openai": (
        "Input tokens exceed the configured limit",
        "maximum context length",
        "exceeds the context window",
        "prompt is too long",
    ),
    "anthropic": ("prompt is too long",),
    "gemini": (
        "The input token count exceeds the maximum number of tokens allowed",
        "exceeds the maximum number of tokens allowed",
    ),
}
# Anthropic's codes that its SDKs act upon.
_ANTHROPIC_CODES = frozenset({"thread_unsupported_request"})
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def _worded(error: GatewayError, message: str, dialect: str) -> str:
    """The message; if the input is too long, with the phrase that the dialect's clients look for."""
    words = _OVERFLOW_WORDS[dialect]
    if error.code != OVERFLOW or any(known.lower() in message.lower() for known in words):
        return message
    return f"{words[0]}: {message}"


def _openai(error: GatewayError, message: str, request_id: str) -> dict[str, object]:
    told = _worded(error, message, "openai")
    return {"error": {"message": told, "type": error.type, "param": error.param, "code": error.code}}


def _anthropic(error: GatewayError, message: str, request_id: str) -> object:
    kind = error_type(error.status)
    if error.status == 503 and not error.retryable:
        # Claude Code retries "overloaded" whatever x-should-retry says, and tells its user that the API is at capacity.
        kind = "not_found_error" if error.code == "model_not_found" else "api_error"
    body: dict[str, object] = {"type": kind, "message": _worded(error, message, "anthropic")}
    if error.code in _ANTHROPIC_CODES:
        body["details"] = {"error_code": error.code}
    return {"type": "error", "error": body, "request_id": request_id}


def _gemini(error: GatewayError, message: str, request_id: str) -> object:
    # Gemini CLI retries a 503 for minutes whatever x-should-retry says, unless the body says 404 as Google's does.
    code = 404 if error.code == "model_not_found" else error.status
    status = _GOOGLE_STATUSES.get(code, "INVALID_ARGUMENT" if code < 500 else "INTERNAL")
    body: dict[str, object] = {"code": code, "message": _worded(error, message, "gemini"), "status": status}
    if wait_s := dict(error.headers).get(b"retry-after"):
        # Gemini CLI reads no header.
        body["details"] = [{"@type": _RETRY_INFO, "retryDelay": f"{wait_s.decode()}s"}]
    return {"error": body}


def _task(error: GatewayError, message: str, request_id: str) -> object:
    """Both shapes that clients of these routes expect: the task routes' own, and OpenAI's."""
    body: dict[str, object] = {"code": error.code, "message": message, "data": None}
    return {**body, **_openai(error, message, request_id)}


_KLING_CODES = {401: 1002, 403: 1103, 404: 1203, 405: 1202, 429: 1302, 500: 5000, 503: 5001, 504: 5002}
# A 403 has two meanings here: the balance is too low, or the key lacks the permission.
_MINIMAX_BALANCE = 1008
_MINIMAX_CODES = {401: 1004, 403: 1004, 404: 2013, 429: 1002, 500: 1000, 503: 1000, 504: 1001}


def _kling(error: GatewayError, message: str, request_id: str) -> object:
    code = _KLING_CODES.get(error.status, 1201 if error.status < 500 else 5000)
    told = {"code": code, "message": message, "request_id": request_id, "data": None}
    return {**told, **_openai(error, message, request_id)}


def _runway(error: GatewayError, message: str, request_id: str) -> object:
    return {"error": message, "code": error.code}


def _luma(error: GatewayError, message: str, request_id: str) -> object:
    return {"detail": message, "code": error.code}


def _minimax(error: GatewayError, message: str, request_id: str) -> object:
    code = _MINIMAX_CODES.get(error.status, 2013 if error.status < 500 else 1000)
    if isinstance(error, InsufficientQuota):
        code = _MINIMAX_BALANCE
    told = {"base_resp": {"status_code": code, "status_msg": message}}
    return {**told, **_openai(error, message, request_id)}


_ARK_CODES = {
    400: "InvalidParameter",
    401: "AuthenticationError",
    403: "AccessDenied",
    404: "ResourceNotFound",
    429: "RateLimitExceeded",
}
_ARK_TYPES = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 429: "TooManyRequests"}


def _ark(error: GatewayError, message: str, request_id: str) -> object:
    code = _ARK_CODES.get(error.status, error.code)
    kind = _ARK_TYPES.get(error.status, "BadRequest" if error.status < 500 else "InternalServerError")
    return {"error": {"code": code, "message": message, "param": error.param, "type": kind}}


_BODIES: dict[Dialect, Callable[[GatewayError, str, str], object]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "task": _task,
    "kling": _kling,
    "runway": _runway,
    "luma": _luma,
    "minimax": _minimax,
    "ark": _ark,
}


def render_error(error: GatewayError, request_id: bytes, dialect: Dialect = "openai") -> Rendered:
    """The error response; the request id is in the message and where the dialect puts it."""
    text = request_id_text(request_id)
    body = msgspec.json.encode(_BODIES[dialect](error, f"{error.message} (request id: {text})", text))
    headers = [JSON, *error.headers]
    # Not only for 5xx: Claude Code retries a 401 for minutes unless told not to.
    if not error.retryable:
        headers.append((b"x-should-retry", b"false"))
    overloaded = dialect == "anthropic" and isinstance(error, UpstreamOverloaded)
    return (ANTHROPIC_OVERLOADED if overloaded else error.status), headers, body


def request_id_headers(request_id: bytes) -> list[tuple[bytes, bytes]]:
    """`x-request-id`, which the OpenAI SDKs read, and the name that clients of this family expect."""
    text = request_id_text(request_id).encode()
    return [(b"x-request-id", text), (b"x-oneapi-request-id", text)]


def rejected(error: GatewayError, request_id: bytes) -> Rendered:
    """The response to an error that the server found before there was a call."""
    status, headers, body = render_error(error, request_id)
    return status, [*request_id_headers(request_id), *headers], body
