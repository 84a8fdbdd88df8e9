"""Embeddings between the dialects, as the official SDKs read them; counting requests."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate import embeddings as e
from elkapi.translate import ir
from elkapi.translate.dialect import Unreadable

VECTORS = ((0.5, -0.25), (1.0, 0.125))


def _body(value: object) -> bytes:
    return json.dumps(value).encode()


def _openai_upstream(body: bytes) -> bytes:
    """An OpenAI-type server with two dimensions a text."""
    texts = json.loads(body)["input"]
    data = [{"object": "embedding", "index": n, "embedding": VECTORS[n]} for n in reversed(range(len(texts)))]
    return _body({"object": "list", "data": data, "model": "up", "usage": {"prompt_tokens": 4, "total_tokens": 4}})


def test_google_genai_embeds_with_an_openai_upstream() -> None:
    seen: list[e.EmbeddingRequest] = []

    def gateway(call: httpx.Request) -> httpx.Response:
        assert call.url.path.endswith(":batchEmbedContents")
        request = e.read_gemini_request(call.content, batch=True)
        seen.append(request)
        answer = _openai_upstream(e.write_openai_request(request))
        reply = e.read_openai_reply(answer, len(request.texts))
        return httpx.Response(200, content=e.write_gemini_reply(reply, request))

    http = httpx.Client(transport=httpx.MockTransport(gateway))
    options = types.HttpOptions(base_url="http://127.0.0.1:9", httpx_client=http)
    with genai.Client(api_key="k", http_options=options) as client:
        config = types.EmbedContentConfig(output_dimensionality=2, task_type="RETRIEVAL_QUERY")
        texts: Any = ["red", "blue"]
        found = client.models.embed_content(model="m", contents=texts, config=config)
    assert found.embeddings is not None
    assert [tuple(row.values or ()) for row in found.embeddings] == list(VECTORS)
    assert found.usage_metadata is not None
    assert (found.usage_metadata.prompt_token_count, found.usage_metadata.total_token_count) == (4, 4)
    assert seen == [e.EmbeddingRequest(("red", "blue"), "m", 2, batch=True, task_type="RETRIEVAL_QUERY")]


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"])
def test_openai_embeds_with_a_gemini_upstream(encoding: Any) -> None:
    sent: list[dict[str, Any]] = []

    def gateway(call: httpx2.Request) -> httpx2.Response:
        request = e.read_openai_request(call.content)
        assert request.base64 is (encoding != "float")
        sent.append(json.loads(e.write_gemini_request(request, "gemini-embedding-001")))
        answer = _body({"embeddings": [{"values": vector} for vector in VECTORS]})
        reply = e.read_gemini_reply(answer, len(request.texts))
        return httpx2.Response(200, content=e.write_openai_reply(reply, request, request.model, 7))

    http = httpx2.Client(transport=httpx2.MockTransport(gateway))
    with openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", http_client=http) as client:
        found = client.embeddings.create(model="m", input=["red", "blue"], dimensions=2, encoding_format=encoding)
    vectors: list[Any] = [row.embedding for row in found.data]
    if encoding == "base64":
        vectors = [struct.unpack("<2f", base64.b64decode(row)) for row in vectors]
    assert [tuple(row) for row in vectors] == list(VECTORS)
    assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("m", 7, 7)
    assert sent == [
        {
            "requests": [
                {
                    "model": "models/gemini-embedding-001",
                    "outputDimensionality": 2,
                    "content": {"parts": [{"text": text}]},
                }
                for text in ("red", "blue")
            ]
        }
    ]


def test_one_content_is_one_text_and_is_answered_alone() -> None:
    body = {"content": {"parts": [{"text": "a"}, {"text": "b"}]}, "output_dimensionality": 3, "task_type": "X"}
    request = e.read_gemini_request(_body(body), batch=False)
    assert request == e.EmbeddingRequest(("a\nb",), "", 3, task_type="X")
    assert json.loads(e.write_gemini_reply(e.EmbeddingReply(((0.5,),)), request)) == {"embedding": {"values": [0.5]}}
    assert e.read_gemini_reply(b'{"embedding":{"values":[0.5]}}', 1).vectors == ((0.5,),)


@pytest.mark.parametrize("ids", [[1, 2], [[1], [2]]])
def test_token_arrays_are_refused_where_the_vocabulary_is_another(ids: object) -> None:
    with pytest.raises(BadRequest) as caught:
        e.read_openai_request(_body({"model": "m", "input": ids}))
    assert caught.value.param == "input"


def _one(**members: Any) -> dict[str, Any]:
    return {"content": {"parts": [{"text": "x"}]}, **members}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [{}]}, "requests[0].content"),
        ({"requests": [{"content": {"parts": []}}]}, "requests[0].content.parts"),
        ({"requests": [{"content": {"parts": [{"inlineData": {}}]}}]}, "requests[0].content.parts"),
        ({"requests": [_one(), _one(outputDimensionality=3)]}, "requests[1].outputDimensionality"),
        ({"requests": [_one(taskType="A"), _one(taskType="B")]}, "requests[1].taskType"),
        ({"requests": [_one(outputDimensionality=0)]}, "requests[0].outputDimensionality"),
    ],
)
def test_a_refused_batch_names_its_field(body: object, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        e.read_gemini_request(_body(body), batch=True)
    assert caught.value.param == param


@pytest.mark.parametrize("body", [{"input": "x"}, {"model": "m", "input": []}, {"model": "m", "input": ["a", ""]}])
def test_a_refused_openai_request_names_its_field(body: object) -> None:
    with pytest.raises(BadRequest) as caught:
        e.read_openai_request(_body(body))
    assert caught.value.param in ("model", "input")


def test_voyages_and_mistrals_words_for_other_vectors_are_read_or_refused() -> None:
    asked = {"model": "m", "input": "x", "output_dtype": "float", "output_dimension": 256}
    assert e.read_openai_request(_body(asked)).dimensions == 256
    assert e.read_openai_request(_body(asked | {"dimensions": 8})).dimensions == 8
    with pytest.raises(BadRequest) as caught:
        e.read_openai_request(_body(asked | {"output_dtype": "int8"}))
    assert caught.value.param == "output_dtype"


@pytest.mark.parametrize(
    ("purpose", "task"),
    [
        ({}, None),
        ({"input_type": None}, None),
        ({"input_type": "search_query"}, "RETRIEVAL_QUERY"),
        ({"input_type": "passage"}, "RETRIEVAL_DOCUMENT"),
        ({"task": "text-matching"}, "SEMANTIC_SIMILARITY"),
        ({"task": "separation"}, "CLUSTERING"),
        ({"task_type": "CODE_RETRIEVAL_QUERY"}, "CODE_RETRIEVAL_QUERY"),
        ({"task_type": "CLASSIFICATION", "input_type": "query"}, "CLASSIFICATION"),
    ],
)
def test_what_the_vectors_are_for_reaches_gemini_by_its_own_name(purpose: dict[str, Any], task: str | None) -> None:
    request = e.read_openai_request(_body({"model": "m", "input": ["a", "b"], **purpose}))
    rows = json.loads(e.write_gemini_request(request, "up"))["requests"]
    assert [row.get("taskType") for row in rows] == [task, task]
    rows = json.loads(e.write_gemini_request(request, "gemini-embedding-2-preview"))["requests"]
    assert [row.get("taskType") for row in rows] == [None, None]


@pytest.mark.parametrize("name", ["input_type", "task", "task_type"])
def test_a_purpose_that_gemini_does_not_know_is_refused_by_name(name: str) -> None:
    request = e.read_openai_request(_body({"model": "m", "input": "x", name: "image"}))
    with pytest.raises(BadRequest) as caught:
        e.write_gemini_request(request, "up")
    assert caught.value.param == name
    assert e.write_gemini_request(request, "gemini-embedding-2")


def test_an_empty_vector_is_no_answer() -> None:
    nothing: tuple[object, ...] = ([], "")
    for values in nothing:
        answer = {"data": [{"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": values}]}
        with pytest.raises(Unreadable):
            e.read_openai_reply(_body(answer), 2)
    with pytest.raises(Unreadable):
        e.read_gemini_reply(_body({"embeddings": [{"values": [0.5]}, {"values": []}]}), 2)


def test_more_texts_than_gemini_takes_are_refused() -> None:
    request = e.EmbeddingRequest(("x",) * (e.GEMINI_BATCH_MAX + 1))
    with pytest.raises(BadRequest):
        e.write_gemini_request(request, "m")


def _row(index: int, embedding: object = (0.5,)) -> dict[str, object]:
    return {"index": index, "embedding": embedding}


@pytest.mark.parametrize(
    "data",
    [[], [_row(0)], [_row(0), _row(0)], [_row(0), _row(2)], [_row(0), _row(1, "###")], [_row(0), _row(1, "QQ==")]],
)
def test_an_answer_that_lacks_a_vector_is_unreadable(data: object) -> None:
    with pytest.raises(Unreadable):
        e.read_openai_reply(_body({"data": data}), 2)


def test_numbers_that_32_bits_cannot_hold_are_unreadable() -> None:
    nan = base64.b64encode(struct.pack("<f", float("nan"))).decode()
    with pytest.raises(Unreadable):
        e.read_openai_reply(_body({"data": [_row(0, nan)]}), 1)
    with pytest.raises(Unreadable):
        e.write_openai_reply(e.EmbeddingReply(((1e300,),)), e.EmbeddingRequest(("x",), base64=True), "m", 1)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "4"}, {"prompt_tokens": True}])
def test_g21_an_impossible_count_is_left_to_the_local_one(usage: object) -> None:
    reply = e.read_openai_reply(_body({"data": [_row(0)], "usage": usage}), 1)
    assert reply.prompt_tokens is None


@pytest.mark.parametrize(
    ("usage", "tokens"), [({"total_tokens": 4}, 4), ({"prompt_tokens": -1, "total_tokens": 4}, None)]
)
def test_vectors_of_a_server_that_tells_its_total_alone_are_counted_by_it(
    usage: dict[str, int], tokens: int | None
) -> None:
    assert e.read_openai_reply(_body({"data": [_row(0)], "usage": usage}), 1).prompt_tokens == tokens


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"embeddings":[]}', b'{"embeddings":[{"values":"x"}]}'])
def test_what_is_no_gemini_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        e.read_gemini_reply(body, 1)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), min_size=1))
def test_base64_vectors_survive(vectors: list[list[float]]) -> None:
    reply = e.EmbeddingReply(tuple(map(tuple, vectors)), 3)
    request = e.EmbeddingRequest(("x",) * len(vectors), "m", base64=True)
    assert e.read_openai_reply(e.write_openai_reply(reply, request, "m", 3), len(vectors)) == reply


CONTENTS = [{"role": "user", "parts": [{"text": "hi"}]}]


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"contents": CONTENTS}, ""),
        ({"generateContentRequest": {"model": "models/m", "contents": CONTENTS}}, "m"),
        ({"generate_content_request": {"contents": CONTENTS}}, ""),
    ],
)
def test_a_count_request_is_read_in_both_forms(body: object, model: str) -> None:
    request = e.read_count_request(_body(body))
    assert request.messages == [ir.Message("user", (ir.Text("hi"),))]
    assert request.model == model


@pytest.mark.parametrize(
    "body", [{}, {"generateContentRequest": 1}, {"contents": CONTENTS, "generateContentRequest": {}}]
)
def test_a_count_request_without_contents_is_refused(body: object) -> None:
    with pytest.raises(BadRequest):
        e.read_count_request(_body(body))


def test_a_count_is_written_as_google_does() -> None:
    assert json.loads(e.write_count_reply(17)) == {"totalTokens": 17}


def test_an_answer_to_an_openai_caller_is_a_list_of_embeddings() -> None:
    asked = e.EmbeddingRequest(model="m", texts=("a", "b"))
    found = e.EmbeddingReply(((0.5, 1.0), (0.25, 0.0)), 3)
    assert json.loads(e.write_openai_reply(found, asked, "named", 3)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 0.0]},
        ],
        "model": "named",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    sent = e.write_openai_request(e.EmbeddingRequest(model="up", texts=("a",), dimensions=2))
    assert json.loads(sent) == {"model": "up", "input": ["a"], "encoding_format": "float", "dimensions": 2}


_NUMBERS = (
    b'{"object":"list", "data" : [{"object":"embedding","embedding" : [0.5, -1,\n2e-3],"index":0},'
    b'{"index":1,"note":"\\"embedding\\":[1]","embedding":[],"object":"embedding"}],"model":"m","usage":{"prompt_tokens":7}}'
)
_PACKED = _NUMBERS.replace(b"[0.5, -1,\n2e-3]", b'"%b"' % base64.b64encode(struct.pack("<3f", 0.5, -1, 2e-3)))
_PACKED = _PACKED.replace(b'"embedding":[]', b'"embedding":""')


def test_vectors_that_come_as_numbers_are_packed_wherever_the_answer_is_cut() -> None:
    assert e.packed(_NUMBERS) == _PACKED
    assert e.packed(_PACKED) == _PACKED
    for cut in range(len(_NUMBERS)):
        packer = e.Packer()
        assert packer.feed(_NUMBERS[:cut]) + packer.feed(_NUMBERS[cut:]) + packer.finish() == _PACKED
    packer = e.Packer()
    assert b"".join(packer.feed(_NUMBERS[at : at + 1]) for at in range(len(_NUMBERS))) + packer.finish() == _PACKED


@pytest.mark.parametrize("vector", [b'[1,"a"]', b"[1,[2]]", b"[1e300]", b"[NaN]", b"[" + b"1," * e.VECTOR_BYTES_MAX])
def test_an_array_that_is_no_vector_is_unreadable(vector: bytes) -> None:
    with pytest.raises(Unreadable):
        e.packed(b'{"data":[{"embedding":' + vector)
