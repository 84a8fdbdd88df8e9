"""The structs a family is declared with; they hold no behaviour beyond naming the pure functions that read a body."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal

import msgspec

from elkapi.types import Usage

Dialect = Literal["openai", "anthropic", "gemini"]
Kind = Literal["sync", "stream", "task", "file", "websocket", "doc"]


class Role(Enum):
    """Who answers: an upstream, the gateway itself from memory or its tables, or the control process without a key."""

    RELAY = "relay"
    GATEWAY = "gateway"
    CONTROL = "control"


class Body(Enum):
    """What a caller may send."""

    JSON = "json"
    NONE = "none"


class ModelSource(msgspec.Struct, frozen=True):
    """Where the model's name stands: in the JSON body under `name`, or there and (as a fallback) in the path."""

    where: Literal["body", "body_or_path", "none"] = "body"
    name: str = "model"


class Facts(msgspec.Struct, frozen=True):
    """What reading a body told us: the model as the caller named it and the most units the call can use.

    `texts` is what a local count would count (strings, or lists of token ids), kept as decoded.
    """

    model: str | None
    upper: Usage
    items: int = 1
    stream: bool = False
    texts: object = None


class Operation(msgspec.Struct, frozen=True):
    """One served route. `upstream` is the path below an OpenAI-type base URL; `read` raises errors.BadRequest.

    `named_once` are the members, beside the model, that a body has and that decide what it costs.
    """

    id: str
    method: str
    path: str
    family: str
    role: Role
    kind: Kind = "sync"
    aliases: tuple[str, ...] = ()
    body: Body = Body.NONE
    model: ModelSource = ModelSource("none")
    named_once: tuple[str, ...] = ()
    upstream: str = ""
    unit: str = "free"
    read: Callable[[bytes], Facts] | None = None


class Match(msgspec.Struct, frozen=True):
    """An operation and the path parameters it was asked with (percent-decoded)."""

    operation: Operation
    params: dict[str, str]


class Family(msgspec.Struct, frozen=True):
    """Operations of one wire format; `upstream_families` are the channel families that serve its RELAY operations."""

    name: str
    dialect: Dialect
    operations: tuple[Operation, ...]
    upstream_families: frozenset[str] = frozenset()
