"""Readers of JSON bodies that providers share; how a refusal is worded is the provider's."""

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
    """The body as an object, without the members that are null. Raises Problem."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON:
        value = None
    if not isinstance(value, dict):
        raise refuse("body", "must be a JSON object")
    return {name: entry for name, entry in value.items() if entry is not None}


def word(given: Mapping[str, Any], name: str, words: tuple[str, ...], default: str | None, refuse: Refuse) -> str:
    """A member that is one of some words; `default` None means that it is required. Raises Problem."""
    value = given.get(name, default)
    if value is None:
        raise refuse(name, "is required")
    if not isinstance(value, str) or value not in words:
        raise refuse(name, f"must be one of {', '.join(words)}")
    return value


def text(given: Mapping[str, Any], name: str, chars_max: int, refuse: Refuse, *, required: bool) -> str:
    """A member that is a text, "" when it is not there and need not be. Raises Problem."""
    value = given.get(name, "")
    if not isinstance(value, str) or len(value) > chars_max:
        raise refuse(name, f"must be a text of at most {chars_max} characters")
    if required and not value.strip():
        raise refuse(name, "is required")
    return value


def whole(given: Mapping[str, Any], name: str, low: int, high: int, refuse: Refuse) -> int | None:
    """A member that is a whole number, None when it is not there. Raises Problem."""
    value = given.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise refuse(name, f"must be an integer from {low} to {high}")
    return value


def is_address(value: object, schemes: tuple[str, ...] = ("https://", "http://")) -> TypeGuard[str]:
    """Whether a member is an address of one of some schemes."""
    return isinstance(value, str) and value.startswith(schemes)


def decoded_base64(value: object) -> bytes | None:
    """What a member holds in base64; None when it is none."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None


def address(value: object, name: str, refuse: Refuse, schemes: tuple[str, ...] = ("https://", "http://")) -> str:
    """An address of one of some schemes. Raises Problem."""
    if not is_address(value, schemes):
        raise refuse(name, f"must be an address that begins with {' or '.join(schemes)}")
    return value
