"""Readers of JSON bodies shared by providers; the provider's `refuse` words the errors."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.messages import Problem

Refuse = Callable[[str, str], Problem]
"""Words the refusal of a field: its name and what is wrong with it."""


def object_of(body: bytes, refuse: Refuse) -> dict[str, Any]:
    """The body as an object, without null fields. Raises Problem."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON:
        value = None
    if not isinstance(value, dict):
        raise refuse("body", "must be a JSON object")
    return {name: entry for name, entry in value.items() if entry is not None}


def word(given: Mapping[str, Any], name: str, words: tuple[str, ...], default: str | None, refuse: Refuse) -> str:
    """A field with one of the values `words`; it is required if `default` is None. Raises Problem."""
    value = given.get(name, default)
    if value is None:
        raise refuse(name, "is required")
    if not isinstance(value, str) or value not in words:
        raise refuse(name, f"must be one of {', '.join(words)}")
    return value


def text(given: Mapping[str, Any], name: str, chars_max: int, refuse: Refuse, *, required: bool) -> str:
    """A string field, "" if absent and not required. Raises Problem."""
    value = given.get(name, "")
    if not isinstance(value, str) or len(value) > chars_max:
        raise refuse(name, f"must be a text of at most {chars_max} characters")
    if required and not value.strip():
        raise refuse(name, "is required")
    return value


def whole(given: Mapping[str, Any], name: str, low: int, high: int, refuse: Refuse) -> int | None:
    """An integer field, None if absent. Raises Problem."""
    value = given.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise refuse(name, f"must be an integer from {low} to {high}")
    return value


def is_address(value: object, schemes: tuple[str, ...] = ("https://", "http://")) -> TypeGuard[str]:
    """Whether a value is a URL with one of the schemes."""
    return isinstance(value, str) and value.startswith(schemes)


def decoded_base64(value: object) -> bytes | None:
    """The bytes of a base64 value; None if it is not base64."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None


def address(value: object, name: str, refuse: Refuse, schemes: tuple[str, ...] = ("https://", "http://")) -> str:
    """A URL with one of the schemes. Raises Problem."""
    if not is_address(value, schemes):
        raise refuse(name, f"must be an address that begins with {' or '.join(schemes)}")
    return value
