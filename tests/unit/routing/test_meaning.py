"""What a refusal means: whole bodies as providers send them, and bodies that only look like them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.routing.meaning import meant, wait_told


def anthropic(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": "req_1"}


def google(status: int, word: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": word, **more}}


def openai(code: str | None, kind: str = "invalid_request_error", message: str = "No.") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def openrouter(message: str, **metadata: Any) -> dict[str, Any]:
    return {"error": {"code": 402, "message": message, "metadata": metadata}}


def anthropic_429(details: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "rate_limit_error", "message": "No.", "details": details}}


XAI_TEAM = "Your team 16f2151a-40f4-4a80-8ad0-cae00c27e8dd"
FIREWORKS_SUSPENDED = (
    "Account some-one is suspended, possibly due to reaching the monthly spending limit or failure ..."
)
KEY_INVALID = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "metadata": {}}]
REFUSALS: list[tuple[int, Any, int]] = [
    (400, google(400, "INVALID_ARGUMENT", "API key not valid.", details=KEY_INVALID), 401),
    (400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), 403),
    (403, google(403, "PERMISSION_DENIED", "CachedContent not found (or permission denied)"), 404),
    (
        403,
        google(403, "PERMISSION_DENIED", "You do not have permission to access the File a or it may not exist."),
        404,
    ),
    (403, google(403, "PERMISSION_DENIED", "The caller does not have permission"), 403),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: ab***yz."}, 401),
    (400, anthropic("Your credit balance is too low to access the Anthropic API."), 402),
    (400, anthropic("You have reached your specified API usage limits. You will regain access on 2026-12-01."), 402),
    (400, anthropic("You have reached your specified workspace API usage limits. You will regain access."), 402),
    (400, {"error": {"message": "Your credit balance is too low to access it.", "details": None}}, 402),
    (400, {"error": {"message": "Your credit balance is too low to access it.", "details": {"a": 1}}}, 402),
    (400, anthropic("This organization has been disabled."), 401),
    (400, google(400, "FAILED_PRECONDITION", "Gemini API free tier is not available in your country. Please ..."), 403),
    (400, google(400, "INVALID_ARGUMENT", "Imagen API is only accessible to billed users at this time."), 403),
    (400, google(400, "INVALID_ARGUMENT", "Veo API is only accessible to billed users at this time."), 403),
    (400, google(400, "INVALID_ARGUMENT", "No, Veo API is only accessible to billed users at this time."), 400),
    (400, openai("Arrearage", "Arrearage", "Access denied, please make sure your account is in good standing."), 402),
    (400, openai("blocked_api_access"), 402),
    (400, openai("billing_hard_limit_reached", message="Billing hard limit has been reached"), 402),
    (429, openai("billing_not_active", "billing_not_active", "Your account is not active."), 402),
    (
        400,
        {"error": "You do not have enough credits to run this task.", "docUrl": "https://docs.dev.runwayml.com"},
        403,
    ),
    (400, {"error": "Validation of body failed: You do not have enough credits to run this task."}, 400),
    (403, openai("AccountOverdueError", "Forbidden"), 402),
    *(
        (
            status,
            {"code": "permission-denied", "error": f"{XAI_TEAM} has either used all available credits or ..."},
            402,
        )
        for status in (403, 429)
    ),
    (429, {"code": "c", "error": f"Too many requests for team: {XAI_TEAM} has either used all available credits"}, 429),
    (403, {"code": "c", "error": "Your newly created team doesn't have any credits or licenses yet."}, 402),
    (403, {"code": "c", "error": "You have run out of credits or need a Grok subscription."}, 402),
    (403, {"code": "c", "error": "Your team is not allowed to do this."}, 403),
    # The caller's content, for which no key may cool down.
    (403, {"code": "c", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"}, 400),
    (403, openrouter("Your input was flagged", reasons=["violence"], flagged_input="x", model_slug="m"), 400),
    (403, openrouter("No access", provider_name="x"), 403),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, 402),
    (412, openai("PRECONDITION_FAILED", "error", FIREWORKS_SUSPENDED), 402),
    (412, openai("PRECONDITION_FAILED", "error", f"No. {FIREWORKS_SUSPENDED}"), 412),
    (412, {"error": "x"}, 412),
    (429, openai("credit_balance_exhausted", "insufficient_quota"), 402),
    (429, openai("organization_spend_limit_exceeded", "insufficient_quota"), 402),
    (429, openai("project_spend_limit_exceeded", "insufficient_quota"), 402),
    (429, openai("organization_usage_limit_exceeded", "insufficient_quota"), 402),
    (429, anthropic_429({"error_code": "enforced_spend_limit_reached"}), 402),
    (429, {"error": {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}}, 402),
    (429, {"error": {"code": "1113", "message": "..."}}, 402),
    (429, openai("insufficient_quota", "insufficient_quota"), 429),
    (429, openai("rate_limit_exceeded", "tokens", "credit_balance_exhausted"), 429),
    (429, anthropic_429(None), 429),
    (429, anthropic_429([None, 1, {"error_code": ["enforced_spend_limit_reached"]}]), 429),
    (429, {"error": {"code": "1302", "message": "..."}}, 429),
    (400, {"error": {"code": {"Arrearage": 1}, "type": ["Arrearage"], "message": "Arrearage"}}, 400),
    (402, openai("Arrearage"), 402),
    (402, openrouter("This request would exceed ...", reason="in_flight_budget_exhausted", limit_source="x"), 429),
    (402, openrouter("It costs more than ...", reason="weight_exceeds_budget"), 403),
    (
        402,
        openrouter("This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens."),
        403,
    ),
    (402, openrouter("Insufficient credits.", limit_source="openrouter_credits"), 402),
    (402, {"error": {"message": "Insufficient Balance", "code": 402, "metadata": None}}, 402),
    (429, openrouter("Rate limit exceeded", reason=["1113"]), 429),
    (400, anthropic("messages.0.content: 'Your credit balance is too low' is no content."), 400),
    (400, anthropic("messages: at least one message is required"), 400),
    (400, google(400, "INVALID_ARGUMENT", "API_KEY_INVALID", details=[{"reason": "OTHER"}]), 400),
    (424, {"message": "The request failed.", "originalStatusCode": 500, "resourceName": "r"}, 500),
    (424, {"error": {"message": "The MCP server of the request refused.", "type": "x"}}, 424),
    (422, anthropic("This organization has been disabled."), 422),
    (500, {"error": "Incorrect API key provided"}, 500),
]


@pytest.mark.parametrize(("status", "body", "meaning"), REFUSALS)
def test_a_refusal_means_what_its_provider_says(status: int, body: Any, meaning: int) -> None:
    assert meant(status, json.dumps(body).encode()) == meaning


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"<html>", b"\xff", b'{"error":null}', b'{"error":{"message":1}}']
)
@pytest.mark.parametrize("status", [400, 402, 403, 412, 424, 429])
def test_a_body_that_says_nothing_changes_nothing(status: int, body: bytes) -> None:
    assert meant(status, body) == status


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "45.837906927s"}


def test_when_to_ask_again_stands_in_the_body_of_googles_refusals() -> None:
    body = google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", details=[KEY_INVALID[0], RETRY_INFO])
    told = json.dumps(body, indent=2).encode()
    assert wait_told(None, told) == b"45.837906927"
    # As Google's endpoint of OpenAI's form sends it.
    assert wait_told(None, json.dumps([body]).encode()) == b"45.837906927"
    assert wait_told(b"3", told) == b"3"
    repeated = google(400, "INVALID_ARGUMENT", json.dumps(RETRY_INFO))
    for other in (json.dumps(repeated).encode(), b"", b'{"retryDelay": "-1s"}', b'{"retryDelay": 7}'):
        assert wait_told(None, other) is None
