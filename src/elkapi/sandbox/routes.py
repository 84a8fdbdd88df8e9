"""What a provider declares: its routes and mounts, how it reads a key and words an error; and the matching of paths."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import msgspec

from elkapi.sandbox.messages import Answer, Problem, Request


class Route(msgspec.Struct, frozen=True):
    """One operation. `path` holds `{name}` for a segment that becomes a parameter; the handler may raise Problem."""

    method: str
    path: str
    handler: Callable[[Request], Answer]


class Provider(msgspec.Struct, frozen=True):
    """One upstream API. `mounts` are path prefixes ("" is the root); `headers` are what it adds to every answer.

    `key` reads the caller's key from wherever this provider wants it, None when there is none. `refusal` words a
    problem the way this provider does. `dress` adds its headers, given the request, the answer and the seconds it took.
    A key that does not begin with `key_prefix` is wrong.
    """

    name: str
    mounts: tuple[str, ...]
    routes: tuple[Route, ...]
    key: Callable[[Request], str | None]
    refusal: Callable[[Problem], Answer]
    dress: Callable[[Request, Answer, float], Answer]
    request_id_prefix: str = "req_"
    key_prefix: str = ""


class Match(msgspec.Struct, frozen=True):
    """Where a request belongs. No route means that the provider does not know the path, or not with this method."""

    provider: Provider
    route: Route | None
    params: dict[str, str] = {}
    allowed: tuple[str, ...] = ()


def match(providers: tuple[Provider, ...], method: str, raw_path: str) -> Match:
    """The route of a percent-encoded path. An unknown path belongs to the provider with the longest fitting mount."""
    mounted = [
        (mount, provider)
        for provider in providers
        for mount in provider.mounts
        if not mount or raw_path == mount or raw_path.startswith(mount + "/")
    ]
    mounted.sort(key=lambda pair: len(pair[0]), reverse=True)
    best: Match | None = None
    for mount, provider in mounted:
        found = _match_in(provider, method, raw_path[len(mount) :])
        if found.route is not None:
            return found
        if best is None or (found.allowed and not best.allowed):
            best = found
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
            if not got:
                return None
            params[want[1:-1]] = unquote(got)
        elif want != got:
            return None
    return params
