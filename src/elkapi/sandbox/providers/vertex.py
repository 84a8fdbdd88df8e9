"""Google's Vertex AI: Gemini and Claude models below a project, with bearer tokens that it issues itself.

`POST /token` is the token endpoint for service accounts: it exchanges a signed assertion for an access token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import anthropic, gemini, veo
from elkapi.sandbox.providers.anthropic_models import model_of
from elkapi.sandbox.providers.anthropic_read import json_object, read
from elkapi.sandbox.providers.gemini_models import embedder_of
from elkapi.sandbox.providers.gemini_read import fields_of
from elkapi.sandbox.providers.gemini_read import json_object as google_object
from elkapi.sandbox.providers.gemini_schema import invalid
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.sealing import is_sealed, seal
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import input_tokens

TOKEN_PREFIX = "ya29."  # noqa: S105 - how Google's access tokens begin
MINTED_PREFIX = "ya29.sandbox-"
TOKEN_LIFE_S = 3_600
ASSERTION_LIFE_MAX_S = 3_600
CLOCK_SKEW_S = 300
SIGNATURE_BYTES_MIN = 256
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
CLAUDE_VERSIONS = ("vertex-2023-10-16", "2026-10-21")
COUNT_MODEL = "count-tokens"


def token(request: Request) -> Answer:
    """`POST /token`: an access token for an assertion (RFC 7523), of whose signature only the length is checked."""
    form = parse_qs(request.body.decode("latin-1"))
    if form.get("grant_type") != [GRANT]:
        return _token_error("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
    try:
        _check_assertion(form.get("assertion", [""])[0], request.now_s)
    except ValueError as error:
        return _token_error("invalid_grant", str(error))
    expires = str(round(request.now_s) + TOKEN_LIFE_S)
    minted = f"{MINTED_PREFIX}{expires}-{seal('vertex token', expires, request.upstream_request_id)}"
    return json_answer({"access_token": minted, "expires_in": TOKEN_LIFE_S - 1, "token_type": "Bearer"})


def raw_predict(request: Request) -> Answer:
    """`POST publishers/anthropic/models/{model}:rawPredict`: a messages body without `model`."""
    return _claude(request, streams=False)


def stream_raw_predict(request: Request) -> Answer:
    """`POST publishers/anthropic/models/{model}:streamRawPredict`."""
    return _claude(request, streams=True)


@strictly
def predict(request: Request) -> Answer:
    """`POST publishers/google/models/{model}:predict`: Vertex's embeddings."""
    name = request.params["model"]
    body = fields_of(google_object(request.body), "")
    instances, parameters = body.get("instances"), body.get("parameters") or {}
    if not isinstance(instances, list) or not instances or not all(isinstance(entry, dict) for entry in instances):
        raise invalid("instances is required")
    size = parameters.get("outputDimensionality")
    made = [gemini.vector(name, str(entry.get("content") or ""), size) for entry in instances]
    tokens = sum(count for _, count in made)
    predictions = [
        {"embeddings": {"values": values, "statistics": {"truncated": False, "token_count": count}}}
        for values, count in made
    ]
    charge = Charge(name, tokens, tokens * embedder_of(name).nano_usd_per_token)
    return json_answer({"predictions": predictions}, charge=charge)


def _claude(request: Request, *, streams: bool) -> Answer:
    try:
        body = json_object(request.body)
        if body.pop("anthropic_version", None) not in CLAUDE_VERSIONS:
            raise Problem(400, "anthropic_version: Field required")
        name = request.params["model"]
        if name == COUNT_MODEL and not streams:
            return json_answer({"input_tokens": input_tokens(read(body, counting=True).ask)})
        if "model" in body:
            raise Problem(400, "model: Extra inputs are not permitted")
        if bool(body.get("stream")) != streams:
            raise Problem(400, "stream: does not fit the method")
        return anthropic.answered(request, read({**body, "model": name}), model_of(name))
    except Problem as problem:
        if problem.status == 404:
            raise
        # Errors of the model itself have Anthropic's format.
        return anthropic.refusal(problem)


def bearer(request: Request) -> str | None:
    """The access token, or the API key of express mode, or None."""
    return bearer_key(request) or request.header("x-goog-api-key")


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem 401 for an invalid token or key. Tokens issued here are checked for their seal and age.

    The token endpoint needs no key.
    """
    if request.path.endswith("/token"):
        return
    given = bearer(request)
    express = request.header("x-goog-api-key") is not None
    good = given is not None and takes_key(request, given, gemini.KEY_PREFIX if express else TOKEN_PREFIX, keys)
    if given is not None and given.startswith(MINTED_PREFIX):
        expires, _, sealed = given.removeprefix(MINTED_PREFIX).partition("-")
        fresh = is_sealed("vertex token", expires, sealed) and request.now_s < int(expires)
        good = fresh and takes_key(request, given, MINTED_PREFIX, None)
    if not good:
        message = (
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential."
        )
        raise Problem(401, message, code="ACCESS_TOKEN_TYPE_UNSUPPORTED")


def _check_assertion(assertion: str, now_s: float) -> None:
    """Raise ValueError unless it is an RS256 token with the claims of a service account, valid at `now_s`."""
    parts = assertion.split(".")
    if len(parts) != 3:
        raise ValueError("Invalid JWT: Token must have three parts")
    header, claims = _decoded(parts[0]), _decoded(parts[1])
    if header.get("alg") != "RS256" or header.get("typ", "JWT") != "JWT":
        raise ValueError("Invalid JWT: Unsupported algorithm")
    if len(_bytes(parts[2])) < SIGNATURE_BYTES_MIN:
        raise ValueError("Invalid JWT Signature.")
    for name in ("iss", "aud", "iat", "exp"):
        if name not in claims:
            raise ValueError(f"Invalid JWT: Missing claim {name}")
    if not claims.get("scope") and not claims.get("target_audience"):
        raise ValueError("Invalid JWT: Missing claim scope")
    issued, expires = claims["iat"], claims["exp"]
    if not all(isinstance(moment, int | float) for moment in (issued, expires)):
        raise ValueError("Invalid JWT: iat and exp must be numbers")
    reasonable = expires - issued <= ASSERTION_LIFE_MAX_S and issued <= now_s + CLOCK_SKEW_S
    if not reasonable or expires < now_s - CLOCK_SKEW_S:
        raise ValueError(
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat "
            "and exp values in the JWT claim."
        )


def _decoded(part: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(_bytes(part))
    except NOT_JSON:
        value = None
    if not isinstance(value, dict):
        raise ValueError("Invalid JWT: not JSON")
    return value


def _bytes(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("Invalid JWT: not base64") from None


def _token_error(name: str, description: str) -> Answer:
    return json_answer({"error": name, "error_description": description}, status=400)


_PLACES = ("/projects/{project}/locations/{location}", "")
_CLAUDE: tuple[tuple[str, Callable[[Request], Answer]], ...] = (
    ("rawPredict", raw_predict),
    ("streamRawPredict", stream_raw_predict),
)

PROVIDER = Provider(
    name="vertex",
    mounts=("", "/vertex"),
    request_id_prefix="",
    key_prefix=TOKEN_PREFIX,
    key=bearer,
    check=check,
    refusal=gemini.refusal,
    dress=gemini.dress,
    routes=(
        Route("POST", "/token", token),
        *(
            Route("POST", f"/{version}{place}/publishers/{publisher}/models/{{model}}:{verb}", handler)
            for version in ("v1", "v1beta1")
            for place in _PLACES
            for publisher, verbs in (
                ("google", (*gemini.VERBS, *veo.VERTEX_VERBS, ("predict", predict))),
                ("anthropic", _CLAUDE),
            )
            for verb, handler in verbs
        ),
    ),
)
