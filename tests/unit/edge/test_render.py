"""Errors in each dialect: the words by which agents tell what to do about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi import errors
from elkapi.catalog.operation import Dialect
from elkapi.edge.render import render_error

ID = bytes(16)


def rendered(error: errors.GatewayError, dialect: Dialect = "anthropic") -> tuple[dict[str, str], dict[str, Any]]:
    """The headers, and the `error` object as the dialect's callers read it."""
    _, headers, body = render_error(error, ID, dialect)
    return {name.decode(): value.decode() for name, value in headers}, json.loads(body)["error"]


def test_only_a_code_that_its_sdks_know_stands_in_anthropics_details() -> None:
    _, body = rendered(errors.BadRequest("m", code="thread_unsupported_request"))
    assert body["details"] == {"error_code": "thread_unsupported_request"}
    assert "details" not in rendered(errors.BadRequest("m"))[1]


@pytest.mark.parametrize(
    ("error", "kind", "repeated"),
    [
        (errors.NoChannel("m"), "not_found_error", False),
        (errors.NoPrice("m"), "api_error", False),
        (errors.Unavailable("m"), "overloaded_error", True),
        (errors.Unauthenticated("m"), "authentication_error", False),
        (errors.InsufficientQuota("m", 1), "permission_error", False),
        (errors.BadRequest("m"), "invalid_request_error", False),
        (errors.RequestTimeout("m"), "timeout_error", True),
        (errors.RateLimited("m"), "rate_limit_error", True),
        (errors.UpstreamError("m"), "api_error", True),
        (errors.UpstreamOverloaded("m"), "overloaded_error", True),
        (errors.UpstreamTimeout("m"), "timeout_error", True),
    ],
)
def test_only_what_may_pass_is_called_overloaded_and_only_that_is_repeated(
    error: errors.GatewayError, kind: str, repeated: bool
) -> None:
    headers, body = rendered(error)
    assert body["type"] == kind
    assert (headers.get("x-should-retry") != "false") is repeated


@pytest.mark.parametrize(("dialect", "status"), [("anthropic", 529), ("openai", 503), ("gemini", 503)])
def test_an_overloaded_provider_is_529_in_anthropics_shape_alone(dialect: Dialect, status: int) -> None:
    assert render_error(errors.UpstreamOverloaded("m"), ID, dialect)[0] == status


OPENAI_LONG = "Input tokens exceed the configured limit"
GOOGLE_LONG = "The input token count exceeds the maximum number of tokens allowed"


@pytest.mark.parametrize(
    ("dialect", "told", "begins"),
    [
        ("anthropic", "This model's maximum context length is 8 tokens.", "prompt is too long: This model's"),
        ("anthropic", "prompt is too long: 9 tokens > 8 maximum", "prompt is too long: 9 tokens"),
        ("openai", "Input is too long for requested model.", f"{OPENAI_LONG}: Input is too long"),
        ("openai", f"{OPENAI_LONG} of 8 tokens.", f"{OPENAI_LONG} of 8"),
        ("openai", "This model's maximum context length is 8 tokens.", "This model's maximum"),
        ("openai", "Your input exceeds the context window of this model.", "Your input"),
        ("openai", "prompt is too long: 9 tokens > 8 maximum", "prompt is too long: 9 tokens"),
        ("gemini", "prompt is too long: 9 tokens > 8 maximum", f"{GOOGLE_LONG}: prompt is too long"),
        (
            "gemini",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            "The input token count (9)",
        ),
    ],
)
def test_an_overlong_prompt_is_said_in_the_callers_dialects_words_once(
    dialect: Dialect, told: str, begins: str
) -> None:
    """Claude Code, LangChain and LiteLLM know by these words that a conversation must be shortened."""
    error = errors.UpstreamRejected(told, status=400, code=errors.OVERFLOW, type_="invalid_request_error", param=None)
    message = str(rendered(error, dialect)[1]["message"])
    assert message.startswith(begins)
    assert message.count(told) == 1


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_another_refusal_is_told_as_it_was(dialect: Dialect) -> None:
    error = errors.UpstreamRejected("m", status=400, code="c", type_="invalid_request_error", param=None)
    assert str(rendered(error, dialect)[1]["message"]).startswith("m (request id")


@pytest.mark.parametrize(
    ("status", "word"), [(404, "NOT_FOUND"), (405, "INVALID_ARGUMENT"), (422, "INVALID_ARGUMENT"), (502, "INTERNAL")]
)
def test_google_is_internal_only_where_the_fault_is_not_the_callers(status: int, word: str) -> None:
    error = errors.UpstreamRejected("m", status=status, code="c", type_="invalid_request_error", param=None)
    assert json.loads(render_error(error, ID, "gemini")[2])["error"]["status"] == word


def test_google_is_told_that_a_model_nobody_serves_is_not_found() -> None:
    """Gemini CLI repeats a 503 for minutes, whatever `x-should-retry` says, and gives up where the body says 404."""
    assert render_error(errors.NoChannel("m"), ID, "gemini")[0] == 503
    body = rendered(errors.NoChannel("m"), "gemini")[1]
    assert (body["code"], body["status"]) == (404, "NOT_FOUND")
    unavailable = rendered(errors.Unavailable("m"), "gemini")[1]
    assert (unavailable["code"], unavailable["status"]) == (503, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("error", "kling", "minimax", "ark", "google"),
    [
        (errors.BadRequest("m"), 1201, 2013, ("InvalidParameter", "BadRequest"), "INVALID_ARGUMENT"),
        (errors.Unauthenticated("m"), 1002, 1004, ("AuthenticationError", "Unauthorized"), "UNAUTHENTICATED"),
        (errors.ModelForbidden("m"), 1103, 1004, ("AccessDenied", "Forbidden"), "PERMISSION_DENIED"),
        (errors.InsufficientQuota("m", 1), 1103, 1008, ("AccessDenied", "Forbidden"), "PERMISSION_DENIED"),
        (errors.NotFound("m"), 1203, 2013, ("ResourceNotFound", "NotFound"), "NOT_FOUND"),
        (errors.MethodNotAllowed("m", ()), 1202, 2013, ("method_not_allowed", "BadRequest"), "INVALID_ARGUMENT"),
        (errors.RequestTimeout("m"), 1201, 2013, ("request_timeout", "BadRequest"), "INVALID_ARGUMENT"),
        (errors.Conflict("m"), 1201, 2013, ("idempotency_conflict", "Conflict"), "ABORTED"),
        (errors.BodyTooLarge("m"), 1201, 2013, ("read_request_body_failed", "BadRequest"), "INVALID_ARGUMENT"),
        (errors.RateLimited("m"), 1302, 1002, ("RateLimitExceeded", "TooManyRequests"), "RESOURCE_EXHAUSTED"),
        (errors.GatewayError("m"), 5000, 1000, ("internal_error", "InternalServerError"), "INTERNAL"),
        (errors.UpstreamError("m"), 5000, 1000, ("upstream_error", "InternalServerError"), "INTERNAL"),
        (errors.Unavailable("m"), 5001, 1000, ("service_unavailable", "InternalServerError"), "UNAVAILABLE"),
        (errors.UpstreamTimeout("m"), 5002, 1001, ("upstream_timeout", "InternalServerError"), "DEADLINE_EXCEEDED"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_provider_says_an_error_by_a_code_of_its_own(
    error: errors.GatewayError, kling: int, minimax: int, ark: tuple[str, str], google: str
) -> None:
    told: dict[Dialect, Any] = {
        dialect: json.loads(render_error(error, ID, dialect)[2]) for dialect in ("kling", "minimax", "ark", "gemini")
    }
    message = told["kling"]["message"]
    assert message.startswith("m (request id: req_")
    assert (told["kling"]["code"], told["kling"]["data"]) == (kling, None)
    assert told["minimax"]["base_resp"] == {"status_code": minimax, "status_msg": message}
    for dialect in ("kling", "minimax"):
        assert (told[dialect]["error"]["code"], told[dialect]["error"]["message"]) == (error.code, message)
    code, kind = ark
    assert told["ark"]["error"] == {"code": code, "message": message, "param": error.param, "type": kind}
    googles = {name: told["gemini"]["error"][name] for name in ("code", "message", "status")}
    assert googles == {"code": error.status, "message": message, "status": google}


def test_google_is_told_how_long_to_wait_as_googles_own_clients_read_it() -> None:
    """Gemini CLI reads no `Retry-After`, and repeats sooner unless the body says how long."""
    headers, body = rendered(errors.RateLimited("m", retry_after_s=7), "gemini")
    assert headers["retry-after"] == "7"
    assert body["details"] == [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
    assert "details" not in rendered(errors.BadRequest("m"), "gemini")[1]
