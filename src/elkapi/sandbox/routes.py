"""What a provider declares: its routes and mounts, how it reads a key and words an error; and the matching of paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec

from elkapi.sandbox.messages import Answer, Headers, Problem, Request


class Route(msgspec.Struct, frozen=True):
    """One operation. `path` holds `{name}` for a segment that becomes a parameter; the handler may raise Problem.

    A segment may end with a verb, `{model}:countTokens`; the parameter is then what stands before it.
    """

    method: str
    path: str
    handler: Callable[[Request], Answer]


class Provider(msgspec.Struct, frozen=True):
    """One upstream API. `mounts` are path prefixes ("" is the root); `headers` are what it adds to every answer.

    `key` reads the caller's key from wherever this provider wants it, None when there is none. `refusal` words a
    problem the way this provider does. `dress` adds its headers, given the request, the answer and the seconds it took.
    A key that does not begin with `key_prefix` is wrong. `claim` is a header (lower case) that only this provider's
    clients send: with it, a path that several providers know belongs to this one. `check` judges the caller where a key
    alone does not say it (a signature, a token); given the accepted keys, it raises Problem. `codes` are words for the
    numbers by which a provider refuses inside an answer of status 200, None for one that does not.
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
    """Whether a key is good: one of `keys`, any of the right shape when that is None, and not one to be refused."""
    refused = request.faults.refuse_key is not None and key.endswith(request.faults.refuse_key)
    return not refused and (key.startswith(prefix) if keys is None else key in keys)


class Match(msgspec.Struct, frozen=True):
    """Where a request belongs. No route means that the provider does not know the path, or not with this method."""

    provider: Provider
    route: Route | None
    params: dict[str, str] = {}
    allowed: tuple[str, ...] = ()


def match(providers: tuple[Provider, ...], method: str, raw_path: str, headers: Headers = ()) -> Match:
    """The route of a percent-encoded path. An unknown path belongs to the provider with the longest fitting mount.

    Between providers of the same mount, one whose `claim` is among the headers goes first; a path that one of them
    spells out is no id of another (`/v1/files/retrieve`).
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
