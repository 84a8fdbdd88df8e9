"""Validates a channel's overrides: those that would break framing, metering or authentication are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from elkapi.admin.errors import InvalidInput
from elkapi.catalog import CATALOG
from elkapi.upstream.wire import OWN_HEADERS

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}", re.ASCII)
HEADER_VALUE_CHARACTERS_MAX = 4_096
JSON_SECRET_CHARACTERS_MAX = 16 * 1024

# A caller's credential for the gateway must never be forwarded to an upstream.
CREDENTIAL_HEADERS = frozenset(
    {"authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key", "mj-api-secret", "proxy-authorization"}
)
# The gateway routes, meters and charges by these, so a channel may not rewrite them.
OWN_PARAMETERS = {"model": "map a model with --map client=upstream", "stream": "the caller chooses it"}
# The hold is computed from the caller's body, before the channel is known.
PRICED_PARAMETERS = frozenset(name for operation in CATALOG.operations for name in operation.priced_by)


def check_headers_set(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with lower-case names. Raises InvalidInput naming the header, never its value."""
    result: dict[str, str] = {}
    for name, value in headers.items():
        lower = _header_name(name, "header_set")
        if len(value) > HEADER_VALUE_CHARACTERS_MAX or any(not " " <= sign <= "~" and sign != "\t" for sign in value):
            raise InvalidInput(
                f"the value of {lower} contains a character that headers must not contain", field="header_set"
            )
        if lower in result:
            raise InvalidInput(f"{lower} is given twice", field="header_set")
        result[lower] = value.strip()
    return result


def check_headers_removed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_header_name(name, "header_remove") for name in names))


def check_headers_forwarded(names: Iterable[str]) -> tuple[str, ...]:
    """The client headers to forward. Raises InvalidInput for those with a credential for this gateway."""
    result = dict.fromkeys(_header_name(name, "forward_headers") for name in names)
    for name in result:
        if name in CREDENTIAL_HEADERS or name.startswith("sec-"):
            raise InvalidInput(f"{name} carries the caller's key for this gateway", field="forward_headers")
    return tuple(result)


def _header_name(name: str, field: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise InvalidInput(f"{name[:80]!r} is not a valid header name", field=field)
    lower = name.lower()
    if lower.encode() in OWN_HEADERS:
        raise InvalidInput(f"the gateway itself sets {lower}", field=field)
    return lower


def check_parameters(
    set_: Mapping[str, msgspec.Raw], default: Mapping[str, msgspec.Raw], remove: Iterable[str]
) -> tuple[str, ...]:
    """The removed names without duplicates. Raises InvalidInput for reserved or contradictory names."""
    removed = tuple(dict.fromkeys(remove))
    for field, names in (("param_set", tuple(set_)), ("param_default", tuple(default)), ("param_remove", removed)):
        for name in names:
            if not name or len(name) > 128 or not name.isprintable():
                raise InvalidInput(f"{name[:80]!r} is not a valid field name", field=field)
            if name in OWN_PARAMETERS:
                raise InvalidInput(f"{name!r} cannot be overridden: {OWN_PARAMETERS[name]}", field=field)
            if name in PRICED_PARAMETERS:
                raise InvalidInput(f"{name!r} cannot be overridden: it determines what the caller pays", field=field)
    for name in removed:
        if name in set_ or name in default:
            raise InvalidInput(f"{name!r} is both removed and set", field="param_remove")
    for field, values in (("param_set", set_), ("param_default", default)):
        for name, raw in values.items():
            try:
                msgspec.json.decode(raw)
            except msgspec.DecodeError:
                raise InvalidInput(
                    f"the value of {name!r} is not JSON; a string needs quotes of its own", field=field
                ) from None
    return removed


def check_statuses(statuses: Mapping[int, int]) -> dict[int, int]:
    for theirs, ours in statuses.items():
        if not (400 <= theirs <= 599 and 400 <= ours <= 599):
            raise InvalidInput(f"{theirs}={ours}: both must be error statuses, 400 to 599", field="status_map")
    return dict(statuses)


def check_secret(secret: str) -> str:
    """A provider's credential: one line of printable ASCII, or a JSON object. The error never contains it."""
    stripped = secret.strip()
    if stripped.startswith("{"):
        return _check_json_secret(stripped)
    if not stripped or len(stripped) > HEADER_VALUE_CHARACTERS_MAX or any(not "!" <= sign <= "~" for sign in stripped):
        raise InvalidInput("a key must be one line of printable ASCII characters without spaces", field="keys")
    return stripped


def _check_json_secret(text: str) -> str:
    """A credential in a JSON file, such as a Google service account's, as compact JSON."""
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        raise InvalidInput("a key that starts with { must be a JSON object", field="keys") from None
    compact = msgspec.json.encode(members).decode()
    if len(compact) > JSON_SECRET_CHARACTERS_MAX:
        raise InvalidInput(f"a key must have at most {JSON_SECRET_CHARACTERS_MAX} characters", field="keys")
    return compact
