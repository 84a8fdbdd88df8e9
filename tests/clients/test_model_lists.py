"""Model lists in the three shapes, read as each provider's documentation says: headers in, pagination fields out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import pytest
from google import genai

from elkapi.local.models import BUNDLED, Source
from tests.clients.client_stage import LOCAL, LOCAL_CHAT, SMALL, UNPRICED, UNSTEADY, Stage
from tests.live import running_gateway

pytestmark = pytest.mark.slow

ANTHROPIC = {"anthropic-version": "2023-06-01"}
LIVE_MODELS = [LOCAL, LOCAL_CHAT, SMALL, UNSTEADY]
TEXT_TYPES = ["openai", "openai-response", "anthropic", "gemini"]
TEXT_METHODS = ["generateContent", "streamGenerateContent", "countTokens"]


@pytest.fixture(scope="module")
def http(stage: Stage) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stage.origin, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def empty_key(stage: Stage) -> str:
    """A key that may use one model only, which nobody serves."""
    return stage.gateway.make_key("clients-empty", "--models", "nobody-serves-this")


def read(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    return answer.json()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/v1/models", "/v1beta/openai/models"])
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", ""])
def test_openai_list(http: httpx.Client, stage: Stage, path: str, scheme: str) -> None:
    page = read(http.get(path, headers={"authorization": f"{scheme}{stage.key}"}))
    assert page["object"] == "list"
    assert page["success"] is True
    assert [model["id"] for model in page["data"]] == LIVE_MODELS
    for model in page["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert isinstance(model["owned_by"], str)
        assert model["supported_endpoint_types"] == (TEXT_TYPES if model["id"] == LOCAL_CHAT else ["embeddings"])
        assert model.get("bundled", False) == (model["id"] in (LOCAL, LOCAL_CHAT))
    assert page["data"][0]["dimensions"] == 384
    assert page["data"][1]["context_length"] == 4096


@pytest.mark.parametrize(
    ("path", "key_header", "more"),
    [
        ("/v1/models", "x-api-key", ANTHROPIC),
        ("/v1/models", "authorization", ANTHROPIC),
        ("/anthropic/v1/models", "x-api-key", ANTHROPIC),
        ("/anthropic/v1/models", "x-api-key", {}),
        ("/anthropic/v1/models", "authorization", {}),
    ],
)
def test_anthropic_list(http: httpx.Client, stage: Stage, path: str, key_header: str, more: dict[str, str]) -> None:
    key = stage.key if key_header == "x-api-key" else f"Bearer {stage.key}"
    answer = http.get(path, headers={key_header: key, **more})
    page = read(answer)
    assert [model["id"] for model in page["data"]] == LIVE_MODELS
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, LIVE_MODELS[0], LIVE_MODELS[-1])
    for model in page["data"]:
        assert model["type"] == "model"
        assert model["display_name"]
        assert datetime.fromisoformat(model["created_at"]).tzinfo is not None
        assert model["id"] != LOCAL_CHAT or model["max_input_tokens"] == 4096
    # Anthropic's SDKs read the request id under this name.
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


def test_the_key_header_alone_does_not_choose_the_anthropic_shape(http: httpx.Client, stage: Stage) -> None:
    assert read(http.get("/v1/models", headers={"x-api-key": stage.key}))["object"] == "list"


def test_openais_own_path_below_googles_answers_in_openais_form_wherever_the_key_stands(
    http: httpx.Client, stage: Stage
) -> None:
    path, key = "/v1beta/openai/models", stage.key
    for query, headers in (
        ("", {"x-goog-api-key": key}),
        (f"?key={key}", {}),
        ("", {**ANTHROPIC, "x-goog-api-key": key}),
    ):
        page = read(http.get(path + query, headers=headers))
        assert (page["object"], [model["id"] for model in page["data"]]) == ("list", LIVE_MODELS)


@pytest.mark.parametrize("path", ["/v1beta/models", "/v1/models"])
@pytest.mark.parametrize("by_query", [False, True])
def test_gemini_list(http: httpx.Client, stage: Stage, path: str, by_query: bool) -> None:
    params = {"key": stage.key, "pageSize": "50"} if by_query else {"pageSize": "50"}
    headers = {} if by_query else {"x-goog-api-key": stage.key}
    page = read(http.get(path, params=params, headers=headers))
    assert [model["name"] for model in page["models"]] == [f"models/{name}" for name in LIVE_MODELS]
    assert page["nextPageToken"] is None
    for model in page["models"]:
        assert model["displayName"]
        is_chat = model["name"] == f"models/{LOCAL_CHAT}"
        methods = TEXT_METHODS if is_chat else ["embedContent", "batchEmbedContents"]
        assert model["supportedGenerationMethods"] == methods
        assert not is_chat or model["inputTokenLimit"] == 4096


@pytest.mark.parametrize("size", [1, 3, len(LIVE_MODELS), 1000])
def test_the_sdks_page_through_their_lists(stage: Stage, size: int) -> None:
    with anthropic.Anthropic(api_key=stage.key, base_url=stage.origin + "/anthropic", max_retries=0) as client:
        first = client.models.list(limit=size)
        assert [model.id for model in first.data] == LIVE_MODELS[:size]
        assert first.has_more == (size < len(LIVE_MODELS))
        assert [model.id for model in first] == LIVE_MODELS
        assert {model.lifecycle for model in first} == {"active"}
        backwards = client.models.list(limit=size, before_id=LIVE_MODELS[-1])
        assert [model.id for model in backwards.data] == LIVE_MODELS[:-1][-size:]
        assert sorted(model.id for model in backwards) == LIVE_MODELS[:-1]
        assert client.models.list(after_id=LIVE_MODELS[-1]).data == []
    google = genai.Client(api_key=stage.key, http_options={"base_url": stage.origin})
    pages = google.models.list(config={"page_size": size})
    assert [model.name for model in pages.page] == [f"models/{name}" for name in LIVE_MODELS[:size]]
    assert [model.name for model in pages] == [f"models/{name}" for name in LIVE_MODELS]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=a&before_id=b"])
def test_a_page_that_nobody_can_mean_is_a_400(http: httpx.Client, stage: Stage, query: str) -> None:
    answer = http.get(f"/v1/models?{query}", headers={"x-api-key": stage.key, **ANTHROPIC})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    answer = http.get("/v1beta/models?pageSize=-1", headers={"x-goog-api-key": stage.key})
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_a_list_without_models_is_a_whole_page_in_every_shape(http: httpx.Client, empty_key: str) -> None:
    openai_page = read(http.get("/v1/models", headers={"authorization": f"Bearer {empty_key}"}))
    assert openai_page == {"object": "list", "success": True, "data": []}
    anthropic_page = read(http.get("/v1/models", headers={"x-api-key": empty_key, **ANTHROPIC}))
    assert anthropic_page == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    gemini_page = read(http.get("/v1beta/models", headers={"x-goog-api-key": empty_key}))
    assert gemini_page == {"models": [], "nextPageToken": None}


def test_a_key_for_one_model_lists_that_one(http: httpx.Client, stage: Stage) -> None:
    page = read(http.get("/v1/models", headers={"authorization": f"Bearer {stage.narrow_key}"}))
    assert [model["id"] for model in page["data"]] == [LOCAL]
    hidden = http.get(f"/v1/models/{SMALL}", headers={"authorization": f"Bearer {stage.narrow_key}"})
    assert hidden.status_code == 404


def test_a_test_key_lists_the_sandboxs_models_only(http: httpx.Client, stage: Stage) -> None:
    page = read(http.get("/v1/models", headers={"authorization": f"Bearer {stage.lanes['test key'].key}"}))
    assert SMALL in [model["id"] for model in page["data"]]
    assert not {LOCAL, UNSTEADY, UNPRICED} & {model["id"] for model in page["data"]}


def test_one_model_in_its_shapes(http: httpx.Client, stage: Stage) -> None:
    as_openai = read(http.get(f"/v1/models/{LOCAL}", headers={"authorization": f"Bearer {stage.key}"}))
    assert (as_openai["id"], as_openai["object"], as_openai["dimensions"]) == (LOCAL, "model", 384)
    for path in (f"/v1/models/{LOCAL}", f"/anthropic/v1/models/{LOCAL}"):
        as_anthropic = read(http.get(path, headers={"x-api-key": stage.key, **ANTHROPIC}))
        assert (as_anthropic["id"], as_anthropic["type"]) == (LOCAL, "model")


@pytest.mark.parametrize(
    ("path", "headers", "status", "shape"),
    [
        ("/v1/models", {}, 401, "openai"),
        ("/v1/models", {"authorization": "Bearer sk-wrong"}, 401, "openai"),
        ("/v1/models/none", {"authorization": "KEY"}, 404, "openai"),
        ("/v1/models", ANTHROPIC, 401, "anthropic"),
        ("/anthropic/v1/models", {"x-api-key": "sk-wrong"}, 401, "anthropic"),
        ("/anthropic/v1/models/none", {"x-api-key": "KEY"}, 404, "anthropic"),
        ("/v1beta/models", {"x-goog-api-key": "sk-wrong"}, 401, "gemini"),
        ("/v1beta/models", {}, 401, "gemini"),
    ],
)
def test_a_refusal_comes_in_the_callers_shape(
    http: httpx.Client, stage: Stage, path: str, headers: dict[str, str], status: int, shape: str
) -> None:
    sent = {name: value.replace("KEY", stage.key) for name, value in headers.items()}
    answer = http.get(path, headers=sent)
    assert answer.status_code == status
    request_id = answer.headers["x-request-id"]
    assert request_id in answer.text
    stage.check_hides_upstream(answer.text + str(answer.headers))
    error = answer.json()["error"]
    assert error["message"]
    if shape == "openai":
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == ("model_not_found" if status == 404 else "invalid_api_key")
    elif shape == "anthropic":
        assert answer.json()["type"] == "error"
        assert error["type"] == ("not_found_error" if status == 404 else "authentication_error")
        assert answer.json()["request_id"] == request_id == answer.headers["request-id"]
    else:
        assert (error["code"], error["status"]) == (401, "UNAUTHENTICATED")


def test_a_list_cannot_be_posted_to(http: httpx.Client, stage: Stage) -> None:
    answer = http.post("/v1/models", headers={"authorization": f"Bearer {stage.key}"}, json={})
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


def test_a_local_model_whose_files_are_damaged_is_not_listed(tmp_path: Path) -> None:
    row = msgspec.structs.replace(
        BUNDLED[0], id="damaged", sources=(Source(weights="model.safetensors", tokenizer="tokenizer.json"),)
    )
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "model.json").write_bytes(msgspec.json.encode(row))
    (folder / "model.safetensors").write_bytes(b"cut off")
    (folder / "tokenizer.json").write_bytes(b"{}")
    with running_gateway(ELKAPI_MODELS_DIR=str(tmp_path)) as gate:
        headers = {"authorization": f"Bearer {gate.key}"}
        listed = httpx.get(f"{gate.base_url}/v1/models", headers=headers).json()
        named = {model["id"] for model in listed["data"]}
        asked = {"model": "damaged", "input": "hello"}
        refused = httpx.post(f"{gate.base_url}/v1/embeddings", headers=headers, json=asked).json()
        assert "'damaged' in group 'default'" in refused["error"]["message"]
        # The reason is the operator's to read.
        assert f"{folder}/" in gate.log_tail()
    assert BUNDLED[0].id in named
    assert "damaged" not in named
