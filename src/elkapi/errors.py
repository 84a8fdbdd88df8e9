"""The one error tree of the gateway; it owns statuses and stable codes and leaves dialect bodies to `edge.render`.

    GatewayError                     500  internal_error
    ├── BadRequest                   400  invalid_request            (param names the field)
    │   └── ContentBlocked           400  content_blocked            (a guardrail of the operator's)
    ├── Unauthenticated              401  invalid_api_key
    ├── Forbidden                    403  access_denied
    │   ├── ModelForbidden           403  model_not_allowed
    │   └── InsufficientQuota        403  insufficient_user_quota
    ├── NotFound                     404  not_found
    ├── MethodNotAllowed             405  method_not_allowed         (Allow header)
    ├── RequestTimeout               408  request_timeout
    ├── Conflict                     409  idempotency_conflict, idempotent_replay_unavailable, outcome_unknown
    ├── BodyTooLarge                 413  read_request_body_failed
    ├── UnsupportedMediaType         415  unsupported_media_type
    ├── RateLimited                  429  rate_limit_exceeded        (Retry-After)
    │   └── CallAboveLimit           429  call_above_rate_limit      (x-should-retry: false)
    ├── UpstreamError                502  upstream_error             (the outcome of the last attempt)
    │   ├── UpstreamRejected         4xx  the upstream's own code    (its parameter errors survive)
    │   ├── UpstreamOverloaded       503  upstream_overloaded        (529 in Anthropic's shape)
    │   ├── UpstreamTimeout          504  upstream_timeout
    │   ├── TaskFailed               502  task_failed                (or the code of the provider's own)
    │   └── OutcomeUnknown           502  outcome_unknown            (a submit that is not to be repeated)
    └── Unavailable                  503  service_unavailable        (Retry-After)
        ├── NoChannel                503  model_not_found            (x-should-retry: false)
        └── NoPrice                  503  model_price_error          (x-should-retry: false)

Contract: platform.md section 1. Every class is documented in docs/errors.md; a test compares the two.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

# What decoding invalid JSON raises: another shape, invalid UTF-8, or nesting too deep.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# The code of a refusal of input longer than the model's window.
OVERFLOW = "context_length_exceeded"


class GatewayError(Exception):
    """An answer to the caller: HTTP `status`, stable `code`, OpenAI `type`, the field in `param`, extra `headers`.

    The message is shown to the caller as it is, so it never contains an upstream's identity, a secret or a stack trace.
    If the error is not `retryable`, `edge.render` tells the SDKs so (x-should-retry: false).
    """

    status: int = 500
    code: str = "internal_error"
    type: str = "api_error"
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.headers = headers
        if retry_after_s is not None:
            self.headers += ((b"retry-after", str(retry_after_s).encode()),)


class BadRequest(GatewayError):
    status, code, type = 400, "invalid_request", "invalid_request_error"
    retryable = False


class ContentBlocked(BadRequest):
    """`guard` is the name of the guardrail; the blocked text is stored nowhere."""

    code = "content_blocked"

    def __init__(self, message: str, guard: str) -> None:
        super().__init__(message)
        self.guard = guard


class Unauthenticated(GatewayError):
    status, code, type = 401, "invalid_api_key", "authentication_error"
    retryable = False


class Forbidden(GatewayError):
    status, code, type = 403, "access_denied", "permission_error"
    retryable = False


class ModelForbidden(Forbidden):
    code = "model_not_allowed"


class InsufficientQuota(Forbidden):
    """`wanted_nano`: the amount that could not be held, in nano-USD."""

    code, type = "insufficient_user_quota", "insufficient_quota"

    def __init__(self, message: str, wanted_nano: int) -> None:
        super().__init__(message)
        self.wanted_nano = wanted_nano


class NotFound(GatewayError):
    status, code, type = 404, "not_found", "invalid_request_error"
    retryable = False


class MethodNotAllowed(GatewayError):
    status, code, type = 405, "method_not_allowed", "invalid_request_error"
    retryable = False

    def __init__(self, message: str, allow: tuple[str, ...]) -> None:
        super().__init__(message, headers=((b"allow", ", ".join(allow).encode()),))


class RequestTimeout(GatewayError):
    status, code, type = 408, "request_timeout", "invalid_request_error"


class Conflict(GatewayError):
    """Conflicts of idempotency keys, and tasks that can no longer be cancelled; the official SDKs would retry a 409."""

    status, code, type = 409, "idempotency_conflict", "invalid_request_error"
    retryable = False


class BodyTooLarge(GatewayError):
    status, code, type = 413, "read_request_body_failed", "invalid_request_error"
    retryable = False


class UnsupportedMediaType(GatewayError):
    status, code, type = 415, "unsupported_media_type", "invalid_request_error"
    retryable = False


class RateLimited(GatewayError):
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"


class CallAboveLimit(RateLimited):
    """One call is expected to use more tokens than its key may use in a minute: no wait helps."""

    code = "call_above_rate_limit"
    retryable = False


class UpstreamError(GatewayError):
    status, code, type = 502, "upstream_error", "upstream_error"


class UpstreamRejected(UpstreamError):
    """The upstream refused the caller's parameters: its status and code are kept, its identity is not."""

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        type_: str = "invalid_request_error",
        param: str | None = None,
    ) -> None:
        super().__init__(message, code=code or "upstream_rejected", param=param)
        self.status = status
        self.type = type_


class UpstreamOverloaded(UpstreamError):
    """Every channel's provider is overloaded; in Anthropic's format with its own status, 529."""

    status, code = 503, "upstream_overloaded"


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


class TaskFailed(UpstreamError):
    """A task whose caller waited for it ended without a result: a chat that makes a video.

    A retry is another task, and may end the same way, so no client should retry by itself.
    """

    code = "task_failed"
    retryable = False


class OutcomeUnknown(UpstreamError):
    """A submit was sent to a provider, and it is unknown whether its task has started (guarantee 75)."""

    code = "outcome_unknown"
    retryable = False


class Unavailable(GatewayError):
    status, code, type = 503, "service_unavailable", "api_error"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: int | None = 1) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)


class NoChannel(Unavailable):
    """Nothing serves this model here, and waiting will not help."""

    code, type = "model_not_found", "upstream_error"
    retryable = False

    def __init__(self, message: str) -> None:
        GatewayError.__init__(self, message, param="model")


class NoPrice(Unavailable):
    """The model has no price, or none in the units of this call."""

    code, type = "model_price_error", "upstream_error"
    retryable = False

    def __init__(self, message: str) -> None:
        GatewayError.__init__(self, message, param="model")


def to_operator(error: Exception) -> str:
    """The message for the operator: the notes of the error, otherwise what callers see.

    Errors that are not the gateway's are shown as they are, system errors with their file.
    """
    if notes := getattr(error, "__notes__", ()):
        return "; ".join(notes)
    if not isinstance(error, GatewayError):
        return str(error) if isinstance(error, OSError) and error.strerror else repr(error)
    cause = error.__cause__
    return error.message if cause is None else f"{error.message} ({type(cause).__name__})"
