"""What an upstream's refusal means, where its status blames the wrong one: the caller, or the operator's key.

| who says so | status | in which words                                                     | means |
|-------------|--------|--------------------------------------------------------------------|-------|
| Google      | 400    | a detail's reason, API_KEY_INVALID                                 | 401   |
| xAI         | 400    | Incorrect API key provided ...                                     | 401   |
| Anthropic   | 400    | This organization has been disabled.                               | 401   |
| Anthropic   | 400    | Your credit balance is too low ...                                 | 402   |
| Anthropic   | 400    | You have reached your specified (workspace) API usage limits ...   | 402   |
| Anthropic   | 429    | a detail's error_code, enforced_spend_limit_reached                | 402   |
| OpenAI      | 429    | the code of an empty balance or of a limit of spending             | 402   |
| OpenAI      | 400    | the code billing_hard_limit_reached: its limit of spending         | 402   |
| Alibaba     | 400    | the code Arrearage                                                 | 402   |
| Groq        | 400    | the code blocked_api_access: its limit of spending                 | 402   |
| Moonshot    | 429    | the type exceeded_current_quota_error                              | 402   |
| Zhipu       | 429    | the code 1113: in arrears                                          | 402   |
| Volcengine  | 403    | the code AccountOverdueError                                       | 402   |
| xAI         | 403,429| Your team ... has either used all available credits or reached ... | 402   |
| xAI         | 403    | Your newly created team doesn't have any credits ...               | 402   |
| xAI         | 403    | You have run out of credits ...                                    | 402   |
| SiliconFlow | 403    | Sorry, your account balance is insufficient                        | 402   |
| Fireworks   | 412    | Account ... is suspended, possibly due to reaching the monthly ... | 402   |
| OpenRouter  | 402    | the reason in_flight_budget_exhausted: other calls are running     | 429   |
| OpenRouter  | 402    | the reason weight_exceeds_budget: this one call is too large       | 403   |
| OpenRouter  | 402    | This request requires more credits, or fewer max_tokens ...        | 403   |
| Runway      | 400    | You do not have enough credits to run this task.                   | 403   |
| OpenRouter  | 403    | a metadata's flagged_input: its moderation refused the content     | 400   |
| xAI         | 403    | Content violates usage guidelines ...                              | 400   |
| Google      | 400    | User location is not supported for the API use ...                 | 403   |
| Google      | 400    | Gemini API free tier is not available in your country ...          | 403   |
| Google      | 400    | Imagen (Veo) API is only accessible to billed users ...            | 403   |
| Google      | 403    | CachedContent not found (or permission denied)                     | 404   |
| Google      | 403    | You do not have permission to access the File ...                  | 404   |
| AWS         | 424    | a message that is in no error: the model failed, at Bedrock        | 500   |

OpenAI's older code insufficient_quota changes nothing: Alibaba sends it for limits per minute. A refusal that is about
the size of one call must not take the key out: any caller could do so with a large output limit.

Only what the provider itself wrote is looked at: how its message begins, and its own members. A message may repeat the
caller's words further on, and whoever could write these could take an operator's key out of service.
"""

from __future__ import annotations

import re

import msgspec

from elkapi.errors import NOT_JSON


class _Error(msgspec.Struct):
    """`details` are a list of objects at Google, at Anthropic one object or null; `metadata` is OpenRouter's. Codes may
    be numbers."""

    message: str | None = None
    code: object = None
    type: object = None
    details: object = None
    metadata: object = None


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
        ("You have reached your specified workspace API usage limits", 402),
        ("You do not have enough credits to run this task", 403),
        ("User location is not supported", 403),
        ("Gemini API free tier is not available in your country", 403),
    ),
    402: (("This request requires more credits, or fewer max_tokens", 403),),
    403: (
        ("CachedContent not found", 404),
        ("You do not have permission to access the File", 404),
        ("Content violates usage guidelines", 400),
        ("Your newly created team doesn't have any credits", 402),
        ("You have run out of credits", 402),
        ("Sorry, your account balance is insufficient", 402),
    ),
}
# The same where a name comes first: the account's own, or the API's.
_CREDITS_USED = (re.compile(r"Your team [0-9a-f-]{1,40} has either used all available credits"), 402)
_NAMED = {
    400: (re.compile(r"\w{1,20} API is only accessible to billed users"), 403),
    403: _CREDITS_USED,
    412: (re.compile(r"Account [\w.-]{1,64} is suspended, possibly due to reaching the monthly spending limit"), 402),
    429: _CREDITS_USED,
}
# Codes, types and reasons; where one means 402, no time to wait brings the account's funds back.
_WORDS = {
    400: {"Arrearage": 402, "blocked_api_access": 402, "billing_hard_limit_reached": 402},
    402: {"in_flight_budget_exhausted": 429, "weight_exceeds_budget": 403},
    403: {"AccountOverdueError": 402},
    429: dict.fromkeys(
        (
            "credit_balance_exhausted",
            "billing_not_active",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "enforced_spend_limit_reached",
            "exceeded_current_quota_error",
            "1113",
        ),
        402,
    ),
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
    if status not in _WORDS and status not in (412, 424):
        return status
    try:
        body = _decoder.decode(told)
    except NOT_JSON:
        return status
    if status == 424:
        return 500 if body.message and body.error is None else status
    error = body.error if isinstance(body.error, _Error) else _Error(body.error)
    details = [*(error.details if isinstance(error.details, list) else (error.details,)), error.metadata]
    known = [detail for detail in details if isinstance(detail, dict)]
    reasons = [detail.get("reason") for detail in known]
    if status == 400 and "API_KEY_INVALID" in reasons:
        return 401
    if status == 403 and any("flagged_input" in detail for detail in known):
        return 400
    words = (error.code, error.type, *reasons, *(detail.get("error_code") for detail in known))
    for word in words:
        if isinstance(word, str) and word in _WORDS.get(status, ()):
            return _WORDS[status][word]
    message = error.message or body.message or ""
    if status in _NAMED and _NAMED[status][0].match(message) is not None:
        return _NAMED[status][1]
    beginnings = _BEGINNINGS.get(status, ())
    return next((meaning for beginning, meaning in beginnings if message.startswith(beginning)), status)
