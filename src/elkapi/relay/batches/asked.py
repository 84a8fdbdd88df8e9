"""The body of `POST /v1/messages/batches`, checked line by line in little memory.

Lines stay the bytes that arrived; a line is decoded for its check and then forgotten. Everything here blocks and runs
on a thread: 100,000 lines take a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated

import msgspec

from elkapi.errors import BadRequest
from elkapi.relay.batches.line import LINE
from elkapi.translate.decode import decode

REQUESTS_MAX = 100_000
CUSTOM_ID_CHARS_MAX = 64


class _View(msgspec.Struct):
    requests: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=REQUESTS_MAX)]


class _Item(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=CUSTOM_ID_CHARS_MAX)]
    params: msgspec.Raw


class Asked(msgspec.Struct, frozen=True):
    """The requests of a batch: its lines as they arrived, and each model with the first line that names it."""

    items: list[msgspec.Raw]
    models: dict[str, int]
    fingerprint: bytes

    def lines(self) -> Iterator[tuple[int, str, bytes]]:
        """(number, custom_id, body of the message) of each line."""
        for number in range(len(self.items)):
            yield number, *self.line(number)

    def line(self, number: int) -> tuple[str, bytes]:
        """(custom_id, body of the message) of one line."""
        item = _items.decode(self.items[number])
        return item.custom_id, bytes(item.params)


_views = msgspec.json.Decoder(_View)
_items = msgspec.json.Decoder(_Item)


def understood(body: bytes) -> Asked:
    """Check every line: a unique custom_id, and a message that is not streamed. Raises BadRequest naming the line."""
    items = decode(_views, body).requests
    seen: set[str] = set()
    models: dict[str, int] = {}
    for number, raw in enumerate(items):
        try:
            item = decode(_items, bytes(raw))
            model = _checked(bytes(item.params))
        except BadRequest as error:
            raise _of_line(error, number) from None
        if "\0" in item.custom_id:
            # PostgreSQL cannot store it.
            field = f"requests.{number}.custom_id"
            raise BadRequest(f"{field}: must not contain the character U+0000.", param=field)
        if item.custom_id in seen:
            raise BadRequest(
                f"requests.{number}.custom_id: {item.custom_id!r} is used twice; each request must have its own.",
                param=f"requests.{number}.custom_id",
            )
        seen.add(item.custom_id)
        models.setdefault(model, number)
    return Asked(items, models, hashlib.sha256(body).digest())


def _checked(params: bytes) -> str:
    """The model of one line's message. Raises BadRequest as the message itself would be refused."""
    assert LINE.read is not None
    try:
        facts = LINE.read(params)
        if facts.model is None:
            raise BadRequest("`model` is missing.", param="model")
        if facts.stream:
            raise BadRequest("`stream` must be false in a batch.", param="stream")
    except BadRequest as error:
        error.param = f"params.{error.param}" if error.param else "params"
        raise
    return facts.model


def _of_line(error: BadRequest, number: int) -> BadRequest:
    at = f"requests.{number}.{error.param}" if error.param else f"requests.{number}"
    return BadRequest(f"{at}: {error.message}", param=at, code=error.code)
