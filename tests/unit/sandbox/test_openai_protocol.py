"""OpenAI's protocol as the sandbox speaks it: answers, errors and headers, seen without any SDK."""

from __future__ import annotations

import base64
import struct
import warnings
from typing import Any

import httpx
import pytest

from elkapi.sandbox.providers.openai import ITEM_TOKENS_MAX, ITEMS_MAX, MODELS, TOKEN_ID_MAX, item_tokens
from elkapi.sandbox.providers.openai_models import TEXT_MODELS

SMALL = "text-embedding-3-small"


def embed(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": SMALL, "dimensions": 8, **fields})


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("given", "items", "tokens"),
    [
        ("The food was delicious and the waiter...", 1, 7),
        (["red", "light blue"], 2, 3),
        ([1, 2, 3, 4], 1, 4),
        ([[1, 2], [3]], 2, 3),
        (" ", 1, 1),
    ],
)
def test_every_kind_of_input_is_embedded_in_order_and_counted(
    http: httpx.Client, given: Any, items: int, tokens: int
) -> None:
    body = embed(http, input=given).json()
    assert body["object"] == "list"
    assert body["model"] == SMALL
    assert [entry["index"] for entry in body["data"]] == list(range(items))
    assert all(entry["object"] == "embedding" and len(entry["embedding"]) == 8 for entry in body["data"])
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_an_item_has_the_same_vector_alone_and_in_company(http: httpx.Client) -> None:
    alone = embed(http, input="blue").json()["data"][0]["embedding"]
    assert embed(http, input=["red", "blue"]).json()["data"][1]["embedding"] == alone


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_answers_its_dimensions_the_same_bits_in_both_encodings(http: httpx.Client, model: str) -> None:
    def answered(encoding: str) -> Any:
        body = {"model": model, "input": "red", "encoding_format": encoding}
        return http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]

    floats = answered("float")
    assert len(floats) == MODELS[model].dimensions
    assert base64.b64decode(answered("base64")) == struct.pack(f"<{len(floats)}f", *floats)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], "a"]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [TOKEN_ID_MAX + 1]}, "input"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * (ITEMS_MAX + 1)}, "input"),
        ({"input": "a " * (ITEM_TOKENS_MAX + 1)}, "input"),
        ({"input": [1] * (ITEM_TOKENS_MAX + 1)}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 1537}, "dimensions"),
        ({"input": "a", "dimensions": "8"}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "dimensions": 8, "model": "text-embedding-ada-002"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "user": 5}, "user"),
        ({"input": "a", "model": None}, "model"),
        ({"input": "a", "model": 5}, "model"),
    ],
)
def test_a_bad_request_is_a_400_that_names_its_field(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = embed(http, **fields)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param
    assert error_of(answer)["type"] == "invalid_request_error"


def test_exactly_the_most_items_and_tokens_are_answered(http: httpx.Client) -> None:
    body = embed(http, input=["a"] * ITEMS_MAX, dimensions=1).json()
    assert len(body["data"]) == body["usage"]["prompt_tokens"] == ITEMS_MAX
    assert embed(http, input=[1] * ITEM_TOKENS_MAX).json()["usage"]["prompt_tokens"] == ITEM_TOKENS_MAX


def test_too_many_tokens_over_all_items_are_refused(http: httpx.Client) -> None:
    answer = embed(http, input=[[1] * 8000] * 38)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "max_tokens_per_request"


def test_an_unpaired_surrogate_is_a_400(http: httpx.Client) -> None:
    body = b'{"model":"text-embedding-3-small","input":"\\ud800 red","dimensions":8}'
    assert http.post("/v1/embeddings", content=body).status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"red"', b"\xff\xfe", b"[" * 100_000, b'{"model":"\xff"}'])
def test_a_body_that_is_no_json_object_is_a_400(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/embeddings", content=body)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


def test_an_unknown_model_is_a_404(http: httpx.Client) -> None:
    for answer in (embed(http, input="a", model="none"), http.get("/v1/models/none")):
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "model_not_found"


def test_models_are_listed_and_retrieved(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [*MODELS, *TEXT_MODELS]
    for model in listed["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert http.get(f"/v1/models/{model['id']}").json() == model
        assert http.get(f"/openai/v1/models/{model['id']}").json() == model


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic c2s=", "Bearer pk-other", "sk-bare"])
def test_a_missing_or_wrong_key_is_a_401_on_every_route(http: httpx.Client, authorization: str | None) -> None:
    for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/v1/nothing")):
        http.headers.pop("authorization", None)
        headers = {} if authorization is None else {"authorization": authorization}
        answer = http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "invalid_api_key"


def test_a_refused_key_is_not_quoted_in_full(http: httpx.Client) -> None:
    answer = embed(http, input="a [sandbox: refuse-key=abcd]")
    assert answer.status_code == 401
    assert http.headers["authorization"].removeprefix("Bearer ") not in answer.text


def test_a_percent_encoded_model_is_the_same_model(http: httpx.Client) -> None:
    assert http.get("/v1/models/text%2Dembedding-3-small").json()["id"] == SMALL
    assert http.get("/v1/models/a%2Fb").status_code == 404
    assert http.get("/v1/models/").status_code == 404


def test_unknown_paths_and_methods_are_refused(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").status_code == 404
    wrong = http.get("/v1/embeddings")
    assert wrong.status_code == 405
    assert error_of(wrong)["code"] == "method_not_supported"


def test_answers_carry_the_headers_openai_sends(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/embeddings", json={"model": SMALL, "input": "a b"}, headers={"openai-organization": "org-mine"}
    )
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-organization"] == "org-mine"
    assert int(answer.headers["openai-processing-ms"]) >= 1
    assert answer.headers["openai-model"] == SMALL
    assert answer.headers["x-ratelimit-remaining-tokens"] == "9999998"
    refused = http.get("/v1/models/none")
    assert refused.headers["x-request-id"] != answer.headers["x-request-id"]
    assert "server" not in refused.headers


@pytest.mark.parametrize(
    "text",
    [
        "The food was delicious and the waiter...",
        "a",
        "  a  b\t\n c ",
        "日本語 テキスト",
        "don't  stop!!",
        "\n\n",
        " ",
        "x\x1cy !\x1c!",
    ],
)
def test_the_token_rule_never_exceeds_the_true_count(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The package opens its data in an outdated way on import.
        import bpe_openai
    assert 1 <= item_tokens(text) <= len(bpe_openai.get_encoding("cl100k_base").encode(text))
