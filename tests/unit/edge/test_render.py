"""Errors in each dialect: the words by which agents tell what to do about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi import errors
from elkapi.catalog.operation import Dialect
from elkapi.edge.render import render_error

ID = bytes(16)


def rendered(error: errors.GatewayError) -> tuple[dict[str, str], dict[str, Any]]:
    """The headers, and the `error` object as Anthropic's callers read it."""
    _, headers, body = render_error(error, ID, "anthropic")
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
        (errors.InsufficientQuota("m"), "permission_error", False),
        (errors.BadRequest("m"), "invalid_request_error", False),
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


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("This model's maximum context length is 8 tokens.", "prompt is too long: This model's"),
        ("prompt is too long: 9 tokens > 8 maximum", "prompt is too long: 9 tokens"),
    ],
)
def test_an_overlong_prompt_is_said_in_anthropics_words_once(told: str, shown: str) -> None:
    error = errors.UpstreamRejected(told, status=400, code=errors.OVERFLOW, type_="invalid_request_error", param=None)
    message = rendered(error)[1]["message"]
    assert message.startswith(shown)
    assert message.count("prompt is too long") == 1


@pytest.mark.parametrize(
    ("status", "word"), [(404, "NOT_FOUND"), (405, "INVALID_ARGUMENT"), (422, "INVALID_ARGUMENT"), (502, "INTERNAL")]
)
def test_google_is_internal_only_where_the_fault_is_not_the_callers(status: int, word: str) -> None:
    error = errors.UpstreamRejected("m", status=status, code="c", type_="invalid_request_error", param=None)
    assert json.loads(render_error(error, ID, "gemini")[2])["error"]["status"] == word
