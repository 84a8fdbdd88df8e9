"""Caller's bodies -> view structs, with errors in the caller's words; it owns the wording and no meaning."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from elkapi.errors import BadRequest

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The view of a JSON body. Raises BadRequest: bad UTF-8, bad JSON, depth, a missing or wrongly typed field."""
    try:
        if body.isascii():
            return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        pass  # Read once more for the words, which good bodies need not pay for.
    return worded(lambda: decoder.decode(body), body)


def convert(value: Any, type_: type[T]) -> T:
    """The view of a value that is decoded already. Raises BadRequest as `decode` does."""
    return worded(lambda: msgspec.convert(value, type_))


def worded(work: Callable[[], T], body: bytes = b"") -> T:
    """What `work` gives; what it raises about the shape of a body becomes BadRequest."""
    try:
        if not body.isascii():
            body.decode()
        return work()
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not valid UTF-8 (byte {error.start}).", code="bad_request_body") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="bad_request_body") from None
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid body: {error}.", param=_param(str(error))) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="bad_request_body") from None


def _param(text: str) -> str | None:
    """The field an error of msgspec is about, as a path: `messages[0].content`."""
    at, missing = _PATH.search(text), _MISSING.search(text)
    names = [found.group(1) for found in (at, missing) if found and found.group(1)]
    return ".".join(names) or None
