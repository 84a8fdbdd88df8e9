"""A provider's declaration (routes, mounts, key and error format), and the matching of paths to routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec

from elkapi.sandbox.messages import Answer, Headers, Problem, Request


class Route(msgspec.Struct, frozen=True):
    """One operation. A `{name}` segment of `path` becomes a parameter; the handler may raise Problem.

    A segment may end with a verb, as in `{model}:countTokens`, which is not part of the parameter.
    """

    method: str
    path: str
    handler: Callable[[Request], Answer]


class Provider(msgspec.Struct, frozen=True):
    """One upstream API. `mounts` are path prefixes ("" is the root).

    `key` reads the caller's key from the request, None if it is missing. `refusal` formats a problem as this provider
    does. `dress` adds the provider's headers; it gets the request, the answer and the seconds it took. A key that does
    not begin with `key_prefix` is invalid. `claim` is a header (lower case) that only this provider's clients send: a
    request with it takes this provider's route if several providers share a path. `check` authenticates the caller if a
    key alone is not enough (a signature, a token): it gets the accepted keys and raises Problem. `codes` maps the error
    codes that the provider puts inside a 200 reply to their messages, None if it does not do so.
    """

    name: str
    mounts: tuple[str, ...]
    routes: tuple[Route, ...]
    key: Callable[[Request], str | None]
    refusal: Callable[[Problem], Answer]
    dress: Callable[[Request, Answer, float], Answer]
    request_id_prefix: str = "req_"
    key_prefix: str = ""
    claim: bytes | None = None
    check: Callable[[Request, frozenset[str] | None], None] | None = None
    codes: Mapping[str, str] | None = None


def takes_key(request: Request, key: str, prefix: str, keys: frozenset[str] | None) -> bool:
    """Whether a key is valid: one of `keys`, or any with the prefix if `keys` is None, and not refused by a fault."""
    refused = request.faults.refuse_key is not None and key.endswith(request.faults.refuse_key)
    return not refused and (key.startswith(prefix) if keys is None else key in keys)


class Match(msgspec.Struct, frozen=True):
    """The target of a request. `route` is None for an unknown path or method; `allowed` are the path's methods."""

    provider: Provider
    route: Route | None
    params: dict[str, str] = {}
    allowed: tuple[str, ...] = ()


def match(providers: tuple[Provider, ...], method: str, raw_path: str, headers: Headers = ()) -> Match:
    """The route of a percent-encoded path. An unknown path goes to the provider with the longest matching mount.

    Among providers with the same mount, one whose `claim` was sent comes first; a route without parameters comes
    before one that takes the segment for an id (`/v1/files/retrieve`).
    """
    sent = {name for name, _ in headers}
    mounted = [
        (mount, provider)
        for provider in providers
        for mount in provider.mounts
        if not mount or raw_path == mount or raw_path.startswith(mount + "/")
    ]
    mounted.sort(key=lambda pair: (len(pair[0]), pair[1].claim in sent), reverse=True)
    best: Match | None = None
    good: tuple[str, Match] | None = None
    for mount, provider in mounted:
        if good is not None and mount != good[0]:
            break
        found = _match_in(provider, method, raw_path[len(mount) :])
        if found.route is not None:
            if not found.params:
                return found
            good = good or (mount, found)
        if best is None or (found.allowed and not best.allowed):
            best = found
    if good is not None:
        return good[1]
    if best is None:
        raise LookupError("no provider is mounted at the root")
    return best


def _match_in(provider: Provider, method: str, path: str) -> Match:
    allowed: list[str] = []
    for route in provider.routes:
        params = _params(route.path, path)
        if params is None:
            continue
        if route.method == method:
            return Match(provider, route, params)
        allowed.append(route.method)
    return Match(provider, None, allowed=tuple(allowed))


def _params(pattern: str, path: str) -> dict[str, str] | None:
    wanted, given = pattern.split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    params: dict[str, str] = {}
    for want, got in zip(wanted, given, strict=True):
        if want.startswith("{"):
            name, _, verb = want[1:].partition("}")
            if len(got) <= len(verb) or not got.endswith(verb):
                return None
            params[name] = unquote(got[: len(got) - len(verb)])
        elif want != got:
            return None
    return params
