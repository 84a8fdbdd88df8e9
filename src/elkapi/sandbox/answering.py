"""Chooses a request's answer: unknown route, key, fault or the provider's handler; pure. `deliver` sends it."""

from __future__ import annotations

import time

import msgspec

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import OWN_ACCOUNT, Answer, Problem, Request
from elkapi.sandbox.routes import Match, takes_key

HTML_BODY = (
    b"<!DOCTYPE html><html><head><title>Sandbox gateway page</title></head>"
    b"<body><h1>A page from a proxy, where JSON was expected</h1></body></html>\n"
)


def answer_to(found: Match, request: Request, keys: frozenset[str] | None, started_s: float) -> Answer:
    """The answer with the provider's headers. With `keys` None any key of the right format is accepted."""
    try:
        answer = _handled(found, request, keys)
    except Problem as problem:
        answer = found.provider.refusal(problem)
    faults = request.faults
    if faults.html:
        media_type = "text/html; charset=utf-8"
        answer = msgspec.structs.replace(answer, pieces=(HTML_BODY,), media_type=media_type, stream=None)
    if faults.invalid_json and answer.stream is None:
        body = b"".join(answer.pieces)
        answer = msgspec.structs.replace(answer, pieces=(body[: len(body) // 2],))
    return found.provider.dress(request, _with_fault_headers(answer, faults), time.perf_counter() - started_s)


def fault_refused(faults: Faults, *, has_wire: bool) -> None:
    """Raise Problem for faults that cannot be simulated here, so that none is silently ignored."""
    if faults.early_close:
        raise Problem(
            400, "early-close works in the header or as a standing fault only: the body that holds it was read."
        )
    names = faults.wire_names()
    if names and not has_wire:
        raise Problem(501, f"{', '.join(names)}: only the sandbox's own server can do this.", code="sandbox_needs_wire")


def early_answer(found: Match, request: Request, took_s: float, *, has_wire: bool) -> Answer:
    """The answer before the body is read: the requested status, or 413."""
    status = request.faults.status or 413
    problem = Problem(status, "The sandbox was asked to answer before it read the body.", code=request.faults.code)
    if not has_wire:
        problem = Problem(501, "early-close: only the sandbox's own server can do this.", code="sandbox_needs_wire")
    answer = _with_fault_headers(found.provider.refusal(problem), request.faults)
    return found.provider.dress(request, answer, took_s)


def _handled(found: Match, request: Request, keys: frozenset[str] | None) -> Answer:
    faults = request.faults
    _check_key(found, request, keys)
    if faults.echo_secrets:
        raise Problem(faults.status or 401, _secrets(found, request), code=faults.code)
    status = faults.status or (429 if faults.retry_after_ms is not None else None)
    if status is not None and status >= 300:
        raise Problem(status, f"The sandbox was asked to answer with status {status}.", code=faults.code)
    if found.route is None:
        raise _no_route(found, request)
    codes, code = found.provider.codes, faults.code
    if codes is not None and code is not None and code.isdecimal() and status is None:
        raise Problem(200, codes.get(code, f"The sandbox was asked to answer with code {code}."), code=code)
    answer = found.route.handler(request)
    return answer if status is None else msgspec.structs.replace(answer, status=status)


def _check_key(found: Match, request: Request, keys: frozenset[str] | None) -> None:
    if found.provider.check is not None:
        found.provider.check(request, keys)
        return
    key = found.provider.key(request)
    if key is None:
        raise Problem(401, "No API key was provided.")
    if not takes_key(request, key, found.provider.key_prefix, keys):
        raise Problem(401, f"Incorrect API key provided: {key[:3]}***{key[-4:] if len(key) > 12 else ''}.")


def _no_route(found: Match, request: Request) -> Problem:
    if found.allowed:
        message = f"{request.method} is not allowed on {request.path}; allowed: {', '.join(found.allowed)}."
        return Problem(405, message, code="method_not_supported")
    return Problem(404, f"Invalid URL ({request.method} {request.path})", code="unknown_url")


def _secrets(found: Match, request: Request) -> str:
    """An error message as careless providers write it: with the caller's key, host and account."""
    return (
        f"Request to {request.header('host')} with authorization {request.header('authorization')}, key "
        f"{found.provider.key(request)}, was denied for {found.provider.name} organization "
        f"{request.header('openai-organization') or OWN_ACCOUNT}, account {OWN_ACCOUNT}: you exceeded your current "
        "quota, balance 0.42 USD, see https://sandbox-upstream.invalid/billing"
    )


def _with_fault_headers(answer: Answer, faults: Faults) -> Answer:
    headers: list[tuple[bytes, bytes]] = []
    if faults.retry_after_ms is not None:
        # HTTP allows only whole seconds; provider SDKs read the finer header first.
        headers.append((b"retry-after", b"%d" % -(-faults.retry_after_ms // 1000)))
        if faults.retry_after_ms % 1000:
            headers.append((b"retry-after-ms", b"%d" % faults.retry_after_ms))
    if faults.location is not None:
        headers.append((b"location", faults.location.encode("latin-1", "replace")))
    return msgspec.structs.replace(answer, headers=(*answer.headers, *headers))
