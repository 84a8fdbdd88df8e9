"""What an upstream's refusal may say to a caller: the mistake in their parameters, and nothing of who was asked."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from elkapi.errors import OVERFLOW
from elkapi.relay.redact import MESSAGE_CHARS_MAX, recorded, redact, rejected
from elkapi.types import Attempt, Channel, ChannelKey

SECRET = "0123-a-secret-of-no-known-shape"


def attempt(base_url: str = "https://gpu-box:8443/v1", upstream_model: str = "their-model") -> Attempt:
    key = ChannelKey(1, SECRET)
    channel = Channel(id=1, name="backstage", family="openai", base_url=base_url, keys=(key,), models=("my-model",))
    return Attempt(channel, key, upstream_model, "the only channel")


@pytest.mark.parametrize(
    "message",
    [
        "Invalid 'dimensions': integer above maximum value. Expected a value <= 1536, but got 2000 instead.",
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens.",
        "Unknown parameter: 'user_location'.",
        "Missing required parameter: 'tools[0].key_name'.",
        "Each item must be a key-value pair; user-facing names are at most 64 characters.",
        "'$.input' is invalid.",
        "Version 1.2.3 of the schema is not supported.",
        "temperature must be between 0.0 and 2.0",
        "Bearer authentication is used by the tool 'projects/'.",
        "There is no document 16f2151a-40f4-4a80-8ad0-cae00c27e8dd in your team's input.",
    ],
)
def test_a_refusal_about_parameters_survives_word_for_word(message: str) -> None:
    assert redact(message, attempt(), "my-model") == message


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        "sk-proj-abcdEFGH1234567890",
        "sk-ab**********************wxyz",
        "Bearer sk-test-abcd",
        "org-AbCdEf0123456789",
        "org-abcdefghijklmnopqrstuvwx",
        "proj_0123456789abcdef",
        "user-7Hs82kLm",
        "AIzaSyA-0123456789_abcdefghijk",
        "Bearer ya29.a0AfH6SMBx_of-no-known-shape",
        "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhYyJ9.c0-VhaxlaobY8OAOLqAh",
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7/20261129/us-east-1/bedrock/aws4_request, Signature=41",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.their",
        "projects/acme-production/locations/us-central1/endpoints/77",
        "req_0123456789abcdef",
        "Team: 16f2151a-40f4-4a80-8ad0-cae00c27e8dd",
        "team 16f2151a-40f4-4a80-8ad0-cae00c27e8dd",
        "API key ID: 16f2151a-40f4-4a80-8ad0-cae00c27e8dd",
        "https://api.provider.example/v1/embeddings?key=1",
        "http://10.1.2.3:8080/x",
        "10.1.2.3:8080",
        "api.openai.com",
        "eastus2.api.cognitive.microsoft.com:443",
        "operator@company.example.org",
        "gpu-box:8443",
        "GPU-BOX",
        "their-model",
    ],
)
def test_what_names_the_upstream_is_taken_out(secret: str) -> None:
    shown = redact(f"Refused ({secret}): the field 'input' is wrong.", attempt(), "my-model")
    assert secret not in shown
    assert shown.startswith("Refused (")
    assert shown.endswith("): the field 'input' is wrong.")


@pytest.mark.parametrize("secret", ["AKIAIOSFODNN7EXAMPLE:wJalrXUt/bPxRfi", "access-of-kling|signing-of-kling", SECRET])
def test_each_part_of_a_key_and_each_header_of_the_channel_is_taken_out_of_what_is_told_and_recorded(
    secret: str,
) -> None:
    one = attempt()
    channel = msgspec.structs.replace(one.channel, header_set={"X-Portal": "portal-4711", "X-Level": "3"})
    one = msgspec.structs.replace(one, key=ChannelKey(1, secret), channel=channel)
    pieces = [secret, *re.split("[:|]", secret), "portal-4711"]
    for piece in pieces:
        said = f"3 is unknown: {piece}; Authorization: Bearer eyJhbGciOiJI.eyJpc3MiOiJh.c0-VhaxlaobY."
        for shown in (redact(said, one, "my-model"), recorded(said.encode(), one)):
            assert shown == "3 is unknown: ***; Authorization: ***."


def test_the_model_is_named_as_the_caller_named_it() -> None:
    message = "The model their-model does not support specifying dimensions."
    assert redact(message, attempt(), "my-model") == "The model my-model does not support specifying dimensions."


@pytest.mark.parametrize(
    "message",
    [
        "You exceeded your current quota, please check your plan and billing details.",
        "Your organization must be verified to use this model.",
        "Insufficient balance.",
        "Your account is not active.",
    ],
)
def test_what_is_said_of_the_upstreams_account_is_not_passed_on(message: str) -> None:
    assert redact(message, attempt(), "my-model") == "The provider of this model refused the request."


def test_the_host_is_not_cut_out_of_longer_words() -> None:
    message = "the field 'gpu-boxes' and big-gpu-box stay"
    assert redact(message, attempt(), "my-model") == message


@pytest.mark.parametrize("padding", range(MESSAGE_CHARS_MAX - len(SECRET), MESSAGE_CHARS_MAX, 7))
def test_a_secret_at_the_cut_is_not_shown_in_half(padding: int) -> None:
    shown = redact("x" * padding + SECRET, attempt(), "my-model")
    assert SECRET[:4] not in shown


@pytest.mark.parametrize("secret", [SECRET, "sk-proj-abcdEFGH1234567890", "org-AbCdEf0123456789", "api.openai.com"])
def test_a_code_type_or_param_that_names_the_upstream_is_dropped(secret: str) -> None:
    body = msgspec.json.encode({"error": {"message": "bad", "type": secret, "param": secret, "code": secret}})
    error = rejected(422, body, attempt(), "my-model")
    assert (error.param, error.code, error.type) == (None, "upstream_rejected", "invalid_request_error")


def test_a_long_message_is_cut() -> None:
    assert len(redact("x" * 5_000, attempt(), "my-model")) == MESSAGE_CHARS_MAX


@pytest.mark.parametrize(
    ("body", "message", "param", "code", "kind"),
    [
        (
            {"error": {"message": "bad", "type": "invalid_request_error", "param": "input", "code": "too_long"}},
            "bad",
            "input",
            "too_long",
            "invalid_request_error",
        ),
        ({"error": {"message": "bad", "code": 42}}, "bad", None, "42", "invalid_request_error"),
        ({"error": "bad"}, "bad", None, "upstream_rejected", "invalid_request_error"),
        ({"message": "bad"}, "bad", None, "upstream_rejected", "invalid_request_error"),
        (
            {"error": {"message": "bad", "type": "see https://x.example/", "param": "a b", "code": "<b>"}},
            "bad",
            None,
            "upstream_rejected",
            "invalid_request_error",
        ),
        (
            "<html>",
            "The provider refused the request (status 422).",
            None,
            "upstream_rejected",
            "invalid_request_error",
        ),
    ],
)
def test_a_refusal_keeps_its_status_param_and_code(
    body: Any, message: str, param: str | None, code: str, kind: str
) -> None:
    content = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    error = rejected(422, content, attempt(), "my-model")
    assert (error.status, error.message, error.param, error.code, error.type) == (422, message, param, code, kind)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"message":"prompt is too long: 9 tokens > 8 maximum","type":"invalid_request_error"}}', OVERFLOW),
        (b'{"error":{"message":"maximum context length is 8 tokens","code":"invalid_request"}}', OVERFLOW),
        (b'{"error":{"message":"temperature must be lower","code":"invalid_value"}}', "invalid_value"),
    ],
)
def test_an_overlong_input_has_one_code_whoever_refused_it(body: bytes, code: str) -> None:
    assert rejected(400, body, attempt(), "my-model").code == code


CLAUDES = '{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: must be at most 64000"}}'
# Where providers put the message of a refusal: (body, message, field).
PLACES: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "OpenRouter's text": (
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": CLAUDES}}},
        "max_tokens: must be at most 64000",
        None,
    ),
    "OpenRouter's object": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": {"detail": "no such tool"}}}},
        "no such tool",
        None,
    ),
    "OpenRouter's words": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": "no such tool"}}},
        "no such tool",
        None,
    ),
    "OpenRouter's page": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": "<html></html>"}}},
        "Provider returned error",
        None,
    ),
    "OpenRouter's own": ({"error": {"message": "No.", "metadata": {"raw": CLAUDES}}}, "No.", None),
    "Mistral": (
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "user"], "msg": "Extra inputs."}]},
        },
        "Extra inputs.",
        "user",
    ),
    "FastAPI": ({"detail": [{"loc": ["body", "tools", 0, "name"], "msg": "Required."}]}, "Required.", "tools.0.name"),
    "FastAPI, without a place": ({"detail": [{"msg": "Required."}]}, "Required.", None),
    "odd": ({"detail": [7], "message": [7]}, "The provider refused the request (status 400).", None),
}


@pytest.mark.parametrize("case", PLACES)
def test_the_message_is_found_wherever_a_provider_puts_it(case: str) -> None:
    body, message, param = PLACES[case]
    error = rejected(400, msgspec.json.encode(body), attempt(), "my-model")
    assert (error.message, error.param) == (message, param)
