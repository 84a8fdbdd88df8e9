"""The OpenAI wire format. Contract: openai.md; rows: openai.yaml."""

from __future__ import annotations

import re
from itertools import product
from typing import Annotated, Literal

import msgspec

from elkapi.catalog.operation import Body, Facts, Family, ModelSource, Operation, Role
from elkapi.errors import BadRequest
from elkapi.types import Usage

EMBEDDING_ITEMS_MAX = 2048
# Tokenizers that frame a text add at most a start and an end token to it; bytes bound the rest from above.
FRAME_TOKENS_PER_ITEM = 2


class EmbeddingsView(msgspec.Struct):
    """The fields of `POST /v1/embeddings` that the gateway looks at; all others pass unread."""

    input: str | list[str | int | list[int]]
    model: str | msgspec.UnsetType = msgspec.UNSET
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


def _other_spellings(*names: str) -> set[str]:
    spelled = {"".join(letters) for name in names for letters in product(*zip(name, name.upper(), strict=True))}
    return spelled - set(names)


# Upstreams written in Go take `Model` for `model`, so they could serve another model than the one that is priced. As
# fields that no value fits, such spellings are found by the one decoding that happens anyway.
_Never = Annotated[str, msgspec.Meta(min_length=1, max_length=0)]
_OTHER_SPELLINGS = _other_spellings("model", "input")
_Strict = msgspec.defstruct(
    "EmbeddingsView", [(name, _Never, "") for name in sorted(_OTHER_SPELLINGS)], bases=(EmbeddingsView,)
)
_view: msgspec.json.Decoder[EmbeddingsView] = msgspec.json.Decoder(_Strict)
_PATH = re.compile(r"at `\$\.?([^`\[]*)")


def read_embeddings(body: bytes) -> Facts:
    """Check a body and bound its tokens. Raises BadRequest naming the field."""
    view = decode_view(_view, body)
    if view.model == "":
        raise BadRequest("`model` must be the name of a model.", param="model")
    items, upper = _count(view.input)
    model = None if isinstance(view.model, msgspec.UnsetType) else view.model
    return Facts(model=model, upper=Usage(input_tokens=upper, calls=1), items=items, texts=view.input)


def decode_view(decoder: msgspec.json.Decoder[EmbeddingsView], body: bytes) -> EmbeddingsView:
    """Decode with errors in the caller's words: bad UTF-8, bad JSON, depth, a missing or wrongly typed field."""
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not valid UTF-8 (byte {error.start}).", code="bad_request_body") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="bad_request_body") from None
    except msgspec.ValidationError as error:
        text = str(error)
        missing = re.search(r"missing required field `(\w+)`", text)
        named = missing or _PATH.search(text)
        param = named.group(1) if named and named.group(1) else None
        if param in _OTHER_SPELLINGS:
            text = f"write `{param.lower()}` in small letters"
        raise BadRequest(f"Invalid body: {text}.", param=param) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="bad_request_body") from None


def _count(value: str | list[str | int | list[int]]) -> tuple[int, int]:
    """(items, most tokens). Raises BadRequest for empty, mixed or too many items."""
    if isinstance(value, str):
        if not value:
            raise BadRequest("`input` is an empty string.", param="input")
        return 1, _bytes(value) + FRAME_TOKENS_PER_ITEM
    if not value:
        raise BadRequest("`input` is an empty array.", param="input")
    first = type(value[0])
    for index, item in enumerate(value):
        if type(item) is not first:
            raise BadRequest(f"`input` mixes kinds: item {index} is not like item 0.", param="input")
        if first is not int and not item:
            raise BadRequest(f"`input` item {index} is empty.", param="input")
    if first is int:
        _check_token_ids(value)  # type: ignore[arg-type]
        return 1, len(value) + FRAME_TOKENS_PER_ITEM
    if len(value) > EMBEDDING_ITEMS_MAX:
        raise BadRequest(
            f"`input` has {len(value)} items; at most {EMBEDDING_ITEMS_MAX} are allowed in one call.", param="input"
        )
    frame = FRAME_TOKENS_PER_ITEM * len(value)
    if first is str:
        return len(value), sum(map(_bytes, value)) + frame  # type: ignore[arg-type]
    for ids in value:
        _check_token_ids(ids)  # type: ignore[arg-type]
    return len(value), sum(map(len, value)) + frame  # type: ignore[arg-type]


def _check_token_ids(ids: list[int]) -> None:
    if min(ids) < 0:
        raise BadRequest("`input` has a negative token id.", param="input")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


_EMBEDDINGS = Operation(
    id="openai.embeddings",
    method="POST",
    path="/v1/embeddings",
    family="openai",
    role=Role.RELAY,
    body=Body.JSON,
    model=ModelSource("body"),
    named_once=("input",),
    upstream="/v1/embeddings",
    unit="token",
    read=read_embeddings,
)

FAMILY = Family(
    name="openai",
    dialect="openai",
    upstream_families=frozenset({"openai", "local", "sandbox"}),
    operations=(
        _EMBEDDINGS,
        msgspec.structs.replace(
            _EMBEDDINGS,
            id="openai.embeddings-engine",
            path="/v1/engines/{model}/embeddings",
            model=ModelSource("body_or_path"),
        ),
    ),
)
