"""The structs that declare a family; they contain no behaviour except references to pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec

from elkapi.catalog.task import InBand, Listing, Meter, TaskSpec
from elkapi.translate.ir import DialectName
from elkapi.types import Usage

# The format of errors for a caller, and the wire format of an operation or an upstream's endpoint.
Dialect = Literal["openai", "anthropic", "gemini", "task", "kling", "runway", "luma", "minimax", "ark"]
Wire = Literal[
    "chat",
    "responses",
    "anthropic",
    "gemini",
    "converse",
    "completions",
    "embeddings",
    "gemini-embed",
    "gemini-batch-embed",
    "moderations",
    "rerank",
    "cohere-rerank",
    "anthropic-count",
    "gemini-count",
    "responses-count",
    "responses-compact",
    "kling",
    "veo",
    "ark-video",
    "runway",
    "duomi-runway",
    "luma",
    "minimax-video",
    "pika",
    "duomi-pika",
    "videos",
    "sora-reverse",
    "video",
]
Kind = Literal["sync", "stream", "task", "file", "websocket", "doc"]
# The longest model names are AWS ARNs. Bounded because names are looked up, compared and quoted in errors.
MODEL_CHARS_MAX = 2048
ModelName = Annotated[str, msgspec.Meta(max_length=MODEL_CHARS_MAX)]


class Role(Enum):
    """Who answers: an upstream (RELAY), the gateway from memory or its tables, or the control process without a key.

    OPEN is the gateway too, but the route does its own authorization. SUBMIT starts a task at an upstream; FETCH,
    CANCEL and LIST concern existing tasks and are answered from our own tables.
    """

    RELAY = "relay"
    GATEWAY = "gateway"
    OPEN = "open"
    SUBMIT = "submit"
    FETCH = "fetch"
    CANCEL = "cancel"
    LIST = "list"
    CONTROL = "control"


class Body(Enum):
    """The body a caller may send; FORM is multipart/form-data, or JSON with the same fields."""

    JSON = "json"
    FORM = "form"
    NONE = "none"


class ModelSource(msgspec.Struct, frozen=True):
    """Where the model's name is: in the JSON body at `name` (a path), in the URL path, or in either (the body wins).

    "source": the model of the task that the call continues. "any": the call concerns an account, not a model; any
    model that the key may use selects the channel.

    `default` applies if the caller names none; for "any", if it is served. With a `prefix` the body holds a version, a
    string or number, and the model's name is the prefix followed by it.
    """

    where: Literal["body", "body_or_path", "path", "source", "any", "none"] = "body"
    name: str = "model"
    default: str | None = None
    prefix: str = ""


class Facts(msgspec.Struct, frozen=True):
    """The facts read from a body: the model as the caller named it and an upper bound of the call's usage.

    `texts` is the input of a local count (strings, or lists of token ids), as decoded. `output_limit` is the caller's
    limit of output tokens, None if unset; `upper` then has the model's maximum. `choices` is the number of answers
    requested, `pictures` an upper bound of the images sent; `open_ended`: part of the input (images, files, tools) is
    bounded by constants and may exceed them. `wide`: the call may be metered in images, audio or a one-hour cache.
    `store`, `background`, `previous` and `conversation` are the caller's values about stored objects; `stateful`: one
    of them matters, or the input refers to a stored object. `base64`: embeddings are requested in base64.
    `other_models`: it names further models that some providers would use too, at those models' prices.
    """

    model: str | None
    upper: Usage
    items: int = 1
    stream: bool = False
    texts: object = None
    output_limit: int | None = None
    choices: int = 1
    pictures: int = 0
    open_ended: bool = False
    wide: bool = False
    include_usage: bool = False
    store: bool = False
    background: bool = False
    previous: str | None = None
    conversation: str | None = None
    stateful: bool = False
    base64: bool = False
    other_models: bool = False

    @property
    def limited(self) -> bool:
        """Whether the caller limited the output, so that no answer can be longer."""
        return self.output_limit is not None


class Operation(msgspec.Struct, frozen=True):
    """One served route. `wire` is the format of its body; `read` raises errors.BadRequest.

    `dialect` is set if upstreams of other dialects can serve it through `translate`. `priced_by` are the fields that
    determine the cost besides the model. `also` are further rows of the contract that this route serves (the streaming
    variant), as (id, kind). For tasks: `task` declares the provider's replies, `upstream` is the submit's method and
    path below the channel's base URL, `meter` bounds the cost, `form` is the format in which a task is shown to the
    caller ("native": the provider's last answer). `listing` is the format of a list, `names` how a path contains a
    provider's id if it is not `{id}` alone, `asked_by` the field that carries it if it is not in the path. `neutral`:
    the body is a provider-independent video request, which any provider may serve; `flat_form`: the body is neutral and
    answered in that form if its model field or another field is one that only the neutral form has. `stream` True:
    always streamed; None: as the body says. `free_unless_priced`: a model without a price is free, not refused.
    """

    id: str
    method: str
    path: str
    family: str
    role: Role
    kind: Kind = "sync"
    aliases: tuple[str, ...] = ()
    also: tuple[tuple[str, Kind], ...] = ()
    body: Body = Body.NONE
    model: ModelSource = ModelSource("none")
    priced_by: tuple[str, ...] = ()
    wire: Wire | None = None
    dialect: DialectName | Literal["completions"] | None = None
    stream: bool | None = None
    unit: str = "free"
    free_unless_priced: bool = False
    read: Callable[[bytes], Facts] | None = None
    task: TaskSpec | None = None
    upstream: str = ""
    meter: Meter | None = None
    form: str = "native"
    listing: Listing | None = None
    names: str = ""
    asked_by: str = "task_id"
    neutral: bool = False
    flat_form: str = ""


class Match(msgspec.Struct, frozen=True):
    """An operation and the call's path parameters (percent-decoded)."""

    operation: Operation
    params: dict[str, str]


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """Pure functions for what a family's data cannot express.

    `prepare(operation, body, model)` returns the submit's body in the provider's format and may modify the decoded
    body; it raises BadRequest. `accept(body)` returns the provider's answer as the declared paths expect it.
    `usage(asked, reply)` returns a finished task's usage if its provider reports it, else None. `show(body)` returns a
    native answer as this family's callers expect it.
    """

    prepare: Callable[[str, dict[str, Any], str], dict[str, Any]] | None = None
    accept: Callable[[Any], Any] | None = None
    usage: Callable[[Mapping[str, Any], Any], Usage | None] | None = None
    show: Callable[[Any], Any] | None = None


class Family(msgspec.Struct, frozen=True):
    """Operations of one wire format; `dialect` is the format of their errors.

    `in_band` and `hooks` apply to families of tasks.
    """

    name: str
    dialect: Dialect
    operations: tuple[Operation, ...]
    in_band: InBand | None = None
    hooks: Hooks = Hooks()
