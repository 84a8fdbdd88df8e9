"""Method and path -> operation. Exact paths are one dictionary lookup; paths with parameters are tried after that."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from elkapi.catalog.operation import Family, Match, Operation
from elkapi.errors import MethodNotAllowed, NotFound

_PARAMETER = re.compile(r"\{(\w+)\}")


class Catalog:
    """Every operation of the given families; raises ValueError if two have the same method and path."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = {family.name: family for family in families}
        self.operations = tuple(op for family in self.families.values() for op in family.operations)
        self.by_id = {op.id: op for op in self.operations}
        # Not `op.family`, which is the prefix of its id: such a family may be declared in several files.
        self.family_of = {op.id: family for family in self.families.values() for op in family.operations}
        self._exact: dict[str, dict[str, Match]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Operation]]] = []
        patterns: dict[str, dict[str, Operation]] = {}
        for operation in self.operations:
            for path in (operation.path, *operation.aliases):
                methods = patterns.setdefault(path, {})
                if operation.method in methods:
                    raise ValueError(f"{operation.method} {path} is declared twice")
                methods[operation.method] = operation
        for path, methods in patterns.items():
            if _PARAMETER.search(path):
                self._patterns.append((_compiled(path), methods))
            else:
                self._exact[path] = {method: Match(op, {}) for method, op in methods.items()}

    def match(self, method: str, path: str) -> Match:
        """The operation of a call. Raises NotFound for an unknown path, MethodNotAllowed for another method."""
        methods = self._exact.get(path)
        if methods is not None and (found := methods.get(method)) is not None:
            return found
        return self._match_slowly(method, path)

    def _match_slowly(self, method: str, path: str) -> Match:
        plain = _plain(path)
        allowed: list[str] = []
        if (methods := self._exact.get(plain)) is not None:
            if (found := methods.get(method)) is not None:
                return found
            allowed += methods
        for pattern, operations in self._patterns:
            if (hit := pattern.fullmatch(plain)) is None:
                continue
            if (operation := operations.get(method)) is not None:
                return Match(operation, {name: unquote(text) for name, text in hit.groupdict().items()})
            allowed += operations
        if allowed:
            raise MethodNotAllowed(f"{method} is not allowed on {path}.", (*sorted(set(allowed)), "OPTIONS"))
        raise NotFound(f"Invalid URL ({method} {path}){self._hint(method, path)}", code="unknown_url")

    def _hint(self, method: str, path: str) -> str:
        """What a client should call whose base URL lacks its `/v1`, or has more before it; empty if that is unknown."""
        for other in (f"/v1{path}", path[max(path.rfind("/v1/"), 0) :]):
            if method in self._exact.get(other, ()):
                return f"; call {other} instead"
        return ""


def _plain(path: str) -> str:
    """The canonical path for alternative ways to write it."""
    # Clients configured with `<origin>/v1` as the origin call /v1/v1/...; platform.md section 0.
    if path.startswith("/v1/v1/"):
        return path[3:]
    # Azure's clients call /openai/responses or /openai/v1/..., Groq's the second, those of Google's compatible endpoint
    # /v1beta/openai/...; deployments are aliases.
    path = path.removeprefix("/v1beta") if path.startswith("/v1beta/openai/") else path
    if path.startswith("/openai/") and not path.startswith("/openai/deployments/"):
        return "/v1/" + path.removeprefix("/openai/").removeprefix("v1/")
    return path


def _compiled(path: str) -> re.Pattern[str]:
    parts = _PARAMETER.split(path)
    # A model id may contain slashes (org/model), so a parameter named model takes them.
    source = "".join(
        re.escape(part) if index % 2 == 0 else f"(?P<{part}>{'.+' if part == 'model' else '[^/]+'})"
        for index, part in enumerate(parts)
    )
    return re.compile(source)
