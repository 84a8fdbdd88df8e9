"""The OpenAI wire format. Contract: openai.md; rows: openai.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from elkapi.catalog import text
from elkapi.catalog.families.openai_stored import STORED
from elkapi.catalog.operation import Body, Facts, Family, ModelName, ModelSource, Operation, Role
from elkapi.catalog.spelling import decode_strict, strict
from elkapi.errors import BadRequest
from elkapi.types import Usage

EMBEDDING_ITEMS_MAX = 2048
# The bytes of a text bound its tokens, but for a start and an end token, and the words that some providers put before
# it, such as "passage: " or an instruction.
FRAME_TOKENS_PER_ITEM = 32
# The longest token of cl100k is 128 spaces: a model that reads token ids as text counts at most one token per byte.
BYTES_PER_TOKEN_ID_MAX = 128


class EmbeddingsView(msgspec.Struct):
    """The fields of `POST /v1/embeddings` that the gateway reads; all others pass through."""

    input: str | list[str | int | list[int]]
    model: ModelName | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


_view = strict(EmbeddingsView)


def read_embeddings(body: bytes) -> Facts:
    """Validate a body and bound its tokens. Raises BadRequest naming the field."""
    view: EmbeddingsView = decode_strict(_view, body)
    if view.model == "":
        raise BadRequest("`model` must be the name of a model.", param="model")
    items, upper = _count(view.input)
    most, base64 = Usage(input_tokens=upper, calls=1), view.encoding_format == "base64"
    return Facts(model=view.model, upper=most, items=items, texts=view.input, base64=base64)


def _count(value: str | list[str | int | list[int]]) -> tuple[int, int]:
    """(items, upper bound of tokens). Raises BadRequest for empty, mixed or too many items."""
    if isinstance(value, str):
        if not value:
            raise BadRequest("`input` must not be an empty string.", param="input")
        return 1, _bytes(value) + FRAME_TOKENS_PER_ITEM
    if not value:
        raise BadRequest("`input` must not be an empty array.", param="input")
    first = type(value[0])
    for index, item in enumerate(value):
        if type(item) is not first:
            raise BadRequest(
                f"All items of `input` must have the same type; item {index} differs from item 0.", param="input"
            )
        if first is not int and not item:
            raise BadRequest(f"`input[{index}]` must not be empty.", param="input")
    if first is int:
        _check_token_ids(value)  # type: ignore[arg-type]
        return 1, len(value) + FRAME_TOKENS_PER_ITEM
    if len(value) > EMBEDDING_ITEMS_MAX:
        raise BadRequest(f"`input` must have at most {EMBEDDING_ITEMS_MAX} items, but has {len(value)}.", param="input")
    frame = FRAME_TOKENS_PER_ITEM * len(value)
    if first is str:
        return len(value), sum(map(_bytes, value)) + frame  # type: ignore[arg-type]
    for ids in value:
        _check_token_ids(ids)  # type: ignore[arg-type]
    return len(value), sum(map(len, value)) + frame  # type: ignore[arg-type]


def token_ids(facts: Facts) -> int | None:
    """The number of token ids that a caller sent instead of text, None if it sent text."""
    given = facts.texts
    if not isinstance(given, list) or not given:
        return None
    if isinstance(given[0], int):
        return len(given)
    return sum(map(len, given)) if isinstance(given[0], list) else None


def bounded_as_text(facts: Facts, ids: int) -> Facts:
    """The facts for a bundled model, which decodes token ids to text and counts its own tokens."""
    most = BYTES_PER_TOKEN_ID_MAX * ids + FRAME_TOKENS_PER_ITEM * facts.items
    return msgspec.structs.replace(facts, upper=msgspec.structs.replace(facts.upper, input_tokens=most))


def _check_token_ids(ids: list[int]) -> None:
    if min(ids) < 0:
        raise BadRequest("Token ids in `input` must not be negative.", param="input")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


# Azure's clients put the model in the path: a deployment is named like its model.
_DEPLOYMENT = "/openai/deployments/{model}"
_EMBEDDINGS = Operation(
    id="openai.embeddings",
    method="POST",
    path="/v1/embeddings",
    aliases=(f"{_DEPLOYMENT}/embeddings",),
    family="openai",
    role=Role.RELAY,
    body=Body.JSON,
    model=ModelSource("body"),
    priced_by=("input",),
    wire="embeddings",
    unit="token",
    read=read_embeddings,
)
_CHAT = Operation(
    id="openai.chat",
    method="POST",
    path="/v1/chat/completions",
    aliases=(f"{_DEPLOYMENT}/chat/completions",),
    also=(
        ("openai.chat-stream", "stream"),
        # A video model: the chat becomes a task (relay.video_chat).
        ("openai.veo3-chat", "stream"),
        ("openai.veo3-chat-video", "sync"),
        ("veo.chat", "stream"),
        ("seedance.chat", "stream"),
        ("sora.chat", "stream"),
    ),
    family="openai",
    role=Role.RELAY,
    body=Body.JSON,
    model=ModelSource("body"),
    priced_by=("messages", "max_tokens", "max_completion_tokens", "n", "stream"),
    wire="chat",
    dialect="chat",
    unit="token",
    read=text.read_chat,
)

FAMILY = Family(
    name="openai",
    dialect="openai",
    operations=(
        _EMBEDDINGS,
        msgspec.structs.replace(
            _EMBEDDINGS,
            id="openai.embeddings-engine",
            path="/v1/engines/{model}/embeddings",
            aliases=(),
            model=ModelSource("body_or_path"),
        ),
        _CHAT,
        msgspec.structs.replace(
            _CHAT,
            id="openai.completions",
            path="/v1/completions",
            aliases=(f"{_DEPLOYMENT}/completions",),
            also=(("openai.completions-stream", "stream"),),
            priced_by=("prompt", "max_tokens", "n", "best_of", "stream"),
            wire="completions",
            dialect="completions",
            read=text.read_completion,
        ),
        msgspec.structs.replace(
            _CHAT,
            id="openai.responses",
            path="/v1/responses",
            aliases=(),
            also=(("openai.responses-stream", "stream"),),
            priced_by=("input", "max_output_tokens", "previous_response_id", "stream"),
            wire="responses",
            dialect="responses",
            read=text.read_responses,
        ),
        msgspec.structs.replace(
            _CHAT,
            id="openai.responses-compact",
            path="/v1/responses/compact",
            aliases=(),
            also=(),
            priced_by=("input", "previous_response_id"),
            wire="responses-compact",
            dialect="responses",
            stream=False,
            read=text.read_compact,
        ),
        Operation(
            id="openai.responses-input-tokens",
            method="POST",
            path="/v1/responses/input_tokens",
            family="openai",
            role=Role.GATEWAY,
            body=Body.JSON,
            model=ModelSource("body"),
            wire="responses-count",
            read=text.read_response_count,
        ),
        Operation(
            id="openai.moderations",
            method="POST",
            path="/v1/moderations",
            family="openai",
            role=Role.RELAY,
            body=Body.JSON,
            model=ModelSource("body", default="omni-moderation-latest"),
            priced_by=("input",),
            wire="moderations",
            free_unless_priced=True,
            read=text.read_moderation,
        ),
        Operation(
            id="openai.rerank",
            method="POST",
            path="/v1/rerank",
            aliases=("/v2/rerank",),
            family="openai",
            role=Role.RELAY,
            body=Body.JSON,
            model=ModelSource("body"),
            priced_by=("query", "documents"),
            wire="rerank",
            unit="token",
            read=text.read_rerank,
        ),
        *STORED,
    ),
)
