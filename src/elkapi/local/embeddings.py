"""Embeddings requests: fields, limits, tokens, and the bytes of the answer.

Pure except for the tokenizers; `lanes` queues and `server` does HTTP. Errors are those of `elkapi.errors`.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

from elkapi.errors import NOT_JSON, BadRequest, NotFound
from elkapi.local import vocabulary
from elkapi.local.engine import Engine, Vectors
from elkapi.local.models import ModelRow
from elkapi.local.serving import unfit

ITEMS_MAX = 2048
INT_VOCABULARY = "cl100k_base"

Input = str | list[str | int | list[int]]


class EmbeddingsRequest(msgspec.Struct):
    """The fields we use; unknown ones are ignored, as the dialect's servers do.

    `truncate` also accepts NVIDIA's and Cohere's values, which select the end that is cut. `output_dimension` and
    `output_dtype` are Voyage's and Mistral's; their clients decode the vector's bytes as what they requested.
    """

    model: str
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate: bool | Literal["NONE", "START", "END"] | None = None
    output_dimension: int | None = None
    output_dtype: Literal["float"] | None = None


class CountRequest(msgspec.Struct):
    """A count by a model's own tokenizer or by a named byte-pair vocabulary; exactly one of the two is given."""

    input: Input
    model: str | None = None
    vocabulary: str | None = None
    truncate: bool | None = None


_embeddings_decoder = msgspec.json.Decoder(EmbeddingsRequest)
_count_decoder = msgspec.json.Decoder(CountRequest)
T = TypeVar("T")
_json = msgspec.json.Encoder()


def read_embeddings(body: bytes) -> EmbeddingsRequest:
    """The request in a JSON body; raises BadRequest naming the field."""
    return _decode(_embeddings_decoder, body)


def read_count(body: bytes) -> CountRequest:
    """The request in a JSON body; raises BadRequest naming the field."""
    request = _decode(_count_decoder, body)
    if (request.model is None) == (request.vocabulary is None):
        raise BadRequest("Send either `model` or `vocabulary`.", param="model")
    return request


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise unfit(error, decoder.type) from None
    except NOT_JSON as error:
        raise BadRequest(f"The body is not valid JSON: {error}") from None


def pick(engines: dict[str, Engine], model: str) -> Engine:
    """The engine a request names; raises NotFound."""
    try:
        return engines[model]
    except KeyError:
        raise NotFound(
            f"The local model {model!r} does not exist; use {', '.join(engines)}.",
            code="model_not_found",
            param="model",
        ) from None


def read_texts(value: Input) -> list[str]:
    """The texts of an `input`, token ids decoded. Raises BadRequest for an empty or mixed one."""
    if isinstance(value, str):
        return _not_empty([value], [None])
    if not value:
        raise BadRequest("`input` must not be an empty array.", param="input")
    kinds = set(map(type, value))
    if len(kinds) > 1:
        raise BadRequest(
            "`input` must be a string, or an array of strings, token ids or arrays of token ids.", param="input"
        )
    kind = kinds.pop()
    if kind is int:
        return [_decode_ids(value, None)]  # type: ignore[arg-type]
    if len(value) > ITEMS_MAX:
        raise BadRequest(f"`input` must have at most {ITEMS_MAX} items, but has {len(value)}.", param="input")
    if kind is str:
        return _not_empty(value, range(len(value)))  # type: ignore[arg-type]
    return [_decode_ids(ids, index) for index, ids in enumerate(value)]  # type: ignore[arg-type]


def _not_empty(texts: list[str], indexes: Sequence[int | None]) -> list[str]:
    for text, index in zip(texts, indexes, strict=True):
        if not text:
            raise BadRequest(f"{_name(index)} must not be an empty string.", param="input")
    return texts


def _decode_ids(ids: list[int], index: int | None) -> str:
    if not ids:
        raise BadRequest(f"{_name(index)} must not be an empty array of token ids.", param="input")
    try:
        return vocabulary.decode(ids, INT_VOCABULARY)
    except vocabulary.UnknownToken as error:
        raise BadRequest(
            f"{_name(index)} has {error.token} at position {error.place}, which is not a token id of {INT_VOCABULARY}.",
            param="input",
        ) from None


def _name(index: int | None) -> str:
    return "`input`" if index is None else f"`input[{index}]`"


def read_tokens(engine: Engine, request: EmbeddingsRequest) -> list[list[int]]:
    """Token ids of each text, within the model's window; slow for large inputs. Raises BadRequest."""
    row = engine.row
    for name in ("dimensions", "output_dimension"):
        if (asked := getattr(request, name)) is not None and asked != row.dimensions:
            raise BadRequest(f"`{name}` must be {row.dimensions} for {row.id}, not {asked}.", param=name)
    texts = read_texts(request.input)
    if request.truncate and request.truncate != "NONE":
        start = request.truncate == "START"
        within = slice(-engine.characters_max, None) if start else slice(engine.characters_max)
        return [engine.truncate(ids, start=start) for ids in engine.tokens([text[within] for text in texts])]
    several = isinstance(request.input, list) and not isinstance(request.input[0], int)
    for index, text in enumerate(texts):
        if len(text) > engine.characters_max:
            raise _too_long(row, index if several else None, f"{len(text)} characters")
    tokens = []
    for index, ids in enumerate(engine.tokens(texts)):
        if len(ids) > row.window:
            raise _too_long(row, index if several else None, f"{len(ids)} tokens")
        tokens.append(ids)
    return tokens


def _too_long(row: ModelRow, index: int | None, size: str) -> BadRequest:
    return BadRequest(
        f"{_name(index)} has {size}; {row.id} reads at most {row.window} tokens. "
        'Shorten it, or send "truncate": true to have it cut.',
        code="context_length_exceeded",
        param="input",
    )


def count_tokens(engines: dict[str, Engine], request: CountRequest) -> list[int]:
    """Tokens of each text; with `truncate` at most the model's window. Slow for large inputs. Raises BadRequest."""
    if request.vocabulary is not None:
        return _count_by_vocabulary(request.input, request.vocabulary)
    engine, texts = pick(engines, request.model or ""), read_texts(request.input)
    if not request.truncate:
        return [len(ids) for ids in engine.tokens(texts)]
    cut = [text[: engine.characters_max] for text in texts]
    return [min(len(ids), engine.row.window) for ids in engine.tokens(cut)]


def _count_by_vocabulary(value: Input, name: str) -> list[int]:
    if name not in vocabulary.NAMES:
        raise BadRequest(
            f"The vocabulary {name!r} does not exist; use {', '.join(vocabulary.NAMES)}.", param="vocabulary"
        )
    if isinstance(value, list) and value and not isinstance(value[0], str):
        # Token ids are counted without decoding: the upstream bills their number, whatever the vocabulary.
        if all(type(one) is int for one in value):
            return [len(value)]
        if all(type(one) is list for one in value):
            return [len(one) for one in value if isinstance(one, list)]
    return [vocabulary.count(text, name) for text in read_texts(value)]


def write_embeddings(model: str, vectors: Vectors, tokens: int, encoding_format: str | None) -> bytes:
    """The answer's JSON. Floats round-trip to the same float32, bit for bit."""
    # base64 is little-endian in the dialect, on any machine.
    rows = vectors.astype("<f4", copy=False)
    out = bytearray(b'{"object":"list","data":[')
    for index, row in enumerate(rows):
        out += b'%s{"object":"embedding","index":%d,"embedding":' % (b"," if index else b"", index)
        if encoding_format == "base64":
            out += b'"%s"}' % binascii.b2a_base64(row.tobytes(), newline=False)
        else:
            out += _json.encode(row.tolist())
            out += b"}"
    out += b'],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (_json.encode(model), tokens, tokens)
    return bytes(out)


def write_count(tokens: list[int]) -> bytes:
    """The count's answer: `{"tokens": [...]}`, one number per text."""
    return _json.encode({"tokens": tokens})


def write_models(engines: dict[str, Engine]) -> bytes:
    """The list of models in OpenAI's format, with `dimensions`, `context_length` and `license` added."""
    data = [
        {
            "id": engine.row.id,
            "object": "model",
            "created": engine.row.created,
            "owned_by": engine.row.owned_by,
            "dimensions": engine.row.dimensions,
            "context_length": engine.row.window,
            "license": engine.row.licence,
        }
        for engine in engines.values()
    ]
    return _json.encode({"object": "list", "data": data})


def write_health(queued_texts: int, queued_tokens: int) -> bytes:
    """The health answer."""
    return _json.encode({"status": "ok", "queued_texts": queued_texts, "queued_tokens": queued_tokens})
