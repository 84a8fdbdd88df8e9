"""The structs a family is declared with; they hold no behaviour beyond naming the pure functions that read a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec

from elkapi.catalog.task import InBand, Listing, Meter, TaskSpec
from elkapi.translate.ir import DialectName
from elkapi.types import Usage

# How errors are worded for a caller, and the wire an operation or an upstream's endpoint speaks.
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
# The longest names of models are addresses of AWS. A name is looked up, compared with others and told in errors.
MODEL_CHARS_MAX = 2048
ModelName = Annotated[str, msgspec.Meta(max_length=MODEL_CHARS_MAX)]


class Role(Enum):
    """Who answers: an upstream, the gateway itself from memory or its tables, or the control process without a key.

    OPEN is the gateway too, but its page decides itself who is let in.

    SUBMIT begins a task at an upstream; FETCH, CANCEL and LIST are about tasks begun, answered from our own tables.
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
    """What a caller may send; FORM is multipart/form-data, or JSON with the same members."""

    JSON = "json"
    FORM = "form"
    NONE = "none"


class ModelSource(msgspec.Struct, frozen=True):
    """Where the model's name stands: in the JSON body under `name` (a path), in the path, or in either (the body wins).

    "source": it is that of the task which the call goes on from. "any": the call is about an account, not a model; any
    model says whose channel it may use.

    `default` is taken when the caller names none, of "any" where it is served. With a `prefix` the body holds a
    version, a text or a number, which is the model's name behind it.
    """

    where: Literal["body", "body_or_path", "path", "source", "any", "none"] = "body"
    name: str = "model"
    default: str | None = None
    prefix: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What reading a body told us: the model as the caller named it and the most units the call can use.

    `texts` is what a local count would count (strings, or lists of token ids), kept as decoded. `output_limit` is the
    caller's own limit of output tokens, None when it set none; `upper` has the model's maximum then. `choices` is how
    many answers were asked for, `pictures` at least how many pictures were sent; `open_ended`: constants bound a part
    of the input (pictures, files, tools), which may come to more. `wide`: the call may be metered in images, audio or
    an hour's cache. `store`, `background`, `previous` and `conversation` are the caller's words about what the gateway
    keeps; `stateful`: one of them matters, or the input refers to something kept. `base64`: vectors are wanted so.
    `other_models`: it names models beside its own that some providers would ask too, at those models' prices.
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


class Operation(msgspec.Struct, frozen=True):
    """One served route. `wire` is the format of its body; `read` raises errors.BadRequest.

    `dialect` is set when other dialects' upstreams can serve it through `translate`. `priced_by` are the members,
    beside the model, that decide what a call costs. `also` are further rows of the contract that this route serves (the
    streamed twin), as (id, kind). Of a task's operations, `task` says how its provider tells of it, `upstream` is the
    submit's method and path below the channel's base, `meter` what it may cost, `form` how a task is shown to the
    caller: "native" is the provider's own last answer. `listing` is how a list looks, `names` how a path spells a
    provider's id where it is not `{id}` alone, `asked_by` the member that carries it where it is not in the path.
    `neutral`: the body is a request for a video in no provider's words, which any of them may serve; `flat_form`: it is
    one, and is answered in that form, where it names its model as ours do or carries a member that only ours have.
    `stream` True: always streamed; None: as the body says. `free_unless_priced`: a model without a price record is free
    here and not refused.
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
    """An operation and the path parameters it was asked with (percent-decoded)."""

    operation: Operation
    params: dict[str, str]


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """What a family's data cannot say: pure functions beside it.

    `prepare(operation, body, model)` is the submit's body as the provider wants it, from a decoded one it may change;
    it raises BadRequest. `accept(body)` is the provider's answer as the declared paths expect it.
    `usage(asked, reply)` is what a finished task used where its provider says so, else None. `show(body)` is a native
    answer as this family's callers expect it.
    """

    prepare: Callable[[str, dict[str, Any], str], dict[str, Any]] | None = None
    accept: Callable[[Any], Any] | None = None
    usage: Callable[[Mapping[str, Any], Any], Usage | None] | None = None
    show: Callable[[Any], Any] | None = None


class Family(msgspec.Struct, frozen=True):
    """Operations of one wire format; `dialect` is how their errors are worded.

    `in_band` and `hooks` are those of a family of tasks.
    """

    name: str
    dialect: Dialect
    operations: tuple[Operation, ...]
    in_band: InBand | None = None
    hooks: Hooks = Hooks()
