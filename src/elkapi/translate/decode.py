"""Decode callers' bodies into structs, with errors that name the caller's fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from elkapi.errors import BadRequest

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
# The group matches half of a surrogate pair; escaped backslashes and whole pairs match outside the group.
_HALF_PAIR = re.compile(rb"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})")
_MISSING = re.compile(r"missing required field `(\w+)`")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a JSON body. Raises BadRequest for bad UTF-8, bad JSON, depth, a missing or wrongly typed field."""
    try:
        if body.isascii():
            return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        pass  # Decoded again for the error message, so that valid bodies do not pay for it.
    return worded(lambda: decoder.decode(body), body, decoder.type)


def convert(value: Any, type_: type[T]) -> T:
    """Convert a decoded value. Raises BadRequest as `decode` does."""
    return worded(lambda: msgspec.convert(value, type_), type_=type_)


def worded(work: Callable[[], T], body: bytes = b"", type_: Any = Any) -> T:
    """The result of `work`; decoding and validation errors become BadRequest.

    `body` is the decoded text and `type_` the target type; both are used only for error messages.
    """
    try:
        if not body.isascii():
            body.decode()
        return work()
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not valid UTF-8 (byte {error.start}).", code="bad_request_body") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="bad_request_body") from None
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid body: {told(error, type_)}.", param=_param(str(error))) from None
    except msgspec.DecodeError as error:
        if not body.strip():
            raise BadRequest("The body is empty; a JSON object is expected.", code="bad_request_body") from None
        why = _half_pair(body) or f"{error}."
        raise BadRequest(f"The body is not valid JSON: {why}", code="bad_request_body") from None


def _half_pair(body: bytes) -> str | None:
    """The message for text cut inside a character (usually an emoji), where the decoder's own would mislead."""
    for found in _HALF_PAIR.finditer(body):
        if found[1]:
            return f"{found[1].decode()} (byte {found.start()}) is half of a surrogate pair."
    return None


def _param(text: str) -> str | None:
    """The path of the field in a msgspec error, such as `messages[0].content`."""
    at, missing = _PATH.search(text), _MISSING.search(text)
    names = [found.group(1) for found in (at, missing) if found and found.group(1)]
    return ".".join(names) or None


def told(error: msgspec.ValidationError, type_: Any) -> str:
    """The message of an error about a value of `type_`, with the allowed values if they are enumerated."""
    text = str(error)
    at = _PATH.search(text)
    if at is None or not text.startswith("Invalid "):
        return text
    nodes = [_shape(type_)]
    for step in _STEP.findall(at.group(1)):
        nodes = [child for node in nodes for child in _children(node, step)]
    values = {repr(value): None for node in nodes for leaf in _alternatives(node) for value in _values(leaf)}
    # In a tagged union this collects the values of all members, including those that accept the value.
    choices = [value for value in values if f"value {value} - at" not in text]
    return f"{text}; use one of {', '.join(choices)}" if choices else text


@lru_cache(maxsize=256)
def _shape(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


def _alternatives(node: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(node, inspect.UnionType):
        for one in node.types:
            yield from _alternatives(one)
    else:
        yield node


def _children(node: inspect.Type, step: str) -> Iterator[inspect.Type]:
    for one in _alternatives(node):
        if isinstance(one, inspect.StructType):
            if step == one.tag_field:
                yield inspect.LiteralType((one.tag,))
            yield from (field.type for field in one.fields if field.encode_name == step)
        elif step.startswith("[") and isinstance(one, inspect.ListType | inspect.VarTupleType):
            yield one.item_type
        elif step.startswith("[") and isinstance(one, inspect.DictType):
            yield one.value_type


def _values(node: inspect.Type) -> tuple[Any, ...]:
    return node.values if isinstance(node, inspect.LiteralType) else ()
