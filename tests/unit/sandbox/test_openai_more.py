"""The smaller OpenAI routes in the sandbox: completions, moderations, reranking, files, batches, and Azure's extras."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from elkapi.sandbox.server import Running

from .exchanging import Clock, bill_shown

HI = [{"role": "user", "content": "hi"}]


def test_a_completion_counts_all_prompts_and_choices_and_streams_alike(http: httpx.Client) -> None:
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": ["a b", [1, 2, 3]], "n": 2, "max_tokens": 3}
    whole = http.post("/v1/completions", json=body).json()
    assert whole["usage"]["prompt_tokens"] == 5
    assert whole["usage"]["completion_tokens"] == 2 * 3 + 2 * 3
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["length"] * 4
    answer = http.post("/v1/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}})
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    first, second = bill_shown(http)
    assert first["cost_nano_usd"] == second["cost_nano_usd"] == 5 * 1500 + 12 * 2000


@pytest.mark.parametrize("fields", [{"prompt": []}, {"prompt": [1, "a"]}, {"n": 0}, {"logprobs": 9}, {"echo": "yes"}])
def test_a_wrong_completion_is_refused(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": "a", **fields}
    answer = http.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(fields)))


def test_moderations_are_free_and_judge_each_text(http: httpx.Client) -> None:
    answer = http.post("/v1/moderations", json={"input": ["peace", "violence/graphic, hate."]}).json()
    flagged = [[name for name, hit in result["categories"].items() if hit] for result in answer["results"]]
    assert flagged == [[], ["hate", "violence/graphic"]]
    assert [result["flagged"] for result in answer["results"]] == [False, True]
    assert http.post("/v1/moderations", json={"input": []}).status_code == 400
    assert bill_shown(http) == []


RANKED = {
    "model": "jina-reranker",
    "query": "red apple",
    "documents": ["a blue sky", {"text": "red apple pie"}, "a red"],
}


def test_reranking_sorts_by_score_in_two_forms(http: httpx.Client) -> None:
    jina = http.post("/v1/rerank", json={**RANKED, "return_documents": True, "top_n": 2}).json()
    assert [result["index"] for result in jina["results"]] == [1, 2]
    assert jina["results"][0] == {"index": 1, "relevance_score": 0.99, "document": {"text": "red apple pie"}}
    assert jina["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    cohere = http.post("/v2/rerank", json=RANKED).json()
    assert [result["index"] for result in cohere["results"]] == [1, 2, 0]
    assert cohere["meta"]["billed_units"] == {"search_units": 1}
    assert [line["cost_nano_usd"] for line in bill_shown(http)] == [10 * 20, 2_000_000]


@pytest.mark.parametrize(
    "fields", [{"query": ""}, {"documents": []}, {"documents": [1]}, {"top_n": 0}, {"model": None}]
)
def test_a_wrong_reranking_is_refused(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = http.post("/v1/rerank", json={**RANKED, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(fields)))


# Files and batches


def uploaded(http: httpx.Client, content: bytes, purpose: str = "batch") -> dict[str, Any]:
    answer = http.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": purpose})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def batch_line(custom_id: str, **body: Any) -> bytes:
    asked = {"model": "gpt-4o", "messages": HI, **body}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked}
    return json.dumps(line).encode()


def begun(http: httpx.Client, content: bytes, endpoint: str = "/v1/chat/completions") -> dict[str, Any]:
    body = {"input_file_id": uploaded(http, content)["id"], "endpoint": endpoint, "completion_window": "24h"}
    answer = http.post("/v1/batches", json={**body, "metadata": {"a": "b"}})
    assert answer.status_code == 200, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def test_a_file_is_kept_until_it_is_deleted(http: httpx.Client) -> None:
    content = b"\x00\r\n--not a boundary\r\n"
    shown = uploaded(http, content, "user_data")
    assert (shown["bytes"], shown["filename"], shown["purpose"]) == (len(content), "in.jsonl", "user_data")
    path = f"/v1/files/{shown['id']}"
    assert http.get(path).json() == shown
    assert http.get(f"{path}/content").content == content
    assert shown in http.get("/v1/files", params={"purpose": "user_data"}).json()["data"]
    assert shown not in http.get("/v1/files", params={"purpose": "batch"}).json()["data"]
    assert http.delete(path).json() == {"id": shown["id"], "object": "file", "deleted": True}
    assert http.get(path).status_code == 404
    assert http.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "fun"}).status_code == 400
    assert http.post("/v1/files", content=b"x").status_code == 400


@pytest.mark.parametrize(
    ("boundary", "disposition"),
    [
        ("boundary*=utf-8''%E2%82%AC", b'form-data; name="file"'),
        ("boundary=B", b"form-data; name*=iso-2022-jp''%1B"),
    ],
)
def test_a_form_whose_headers_are_none_is_refused(http: httpx.Client, boundary: str, disposition: bytes) -> None:
    body = b"--B\r\nContent-Disposition: %b\r\n\r\nx\r\n--B--\r\n" % disposition
    answer = http.post("/v1/files", content=body, headers={"content-type": f"multipart/form-data; {boundary}"})
    assert answer.status_code == 400, answer.text


def test_a_batch_passes_its_states_and_is_billed_once_at_half_price(timed: httpx.Client, clock: Clock) -> None:
    content = b"\n".join([batch_line("one"), batch_line("two", model="no-such"), batch_line("three", stream=True), b""])
    batch = begun(timed, content)
    path = f"/v1/batches/{batch['id']}"
    states = [batch["status"]]
    for step_s in (0.2, 0.25, 0.1, 1.0):
        clock.now_s += step_s
        states.append(timed.get(path).json()["status"])
    assert states == ["validating", "in_progress", "finalizing", "completed", "completed"]
    done = timed.get(path).json()
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert (done["metadata"], done["usage"]["total_tokens"]) == ({"a": "b"}, 4)
    (output,) = map(json.loads, timed.get(f"/v1/files/{done['output_file_id']}/content").text.splitlines())
    assert (output["custom_id"], output["response"]["status_code"], output["error"]) == ("one", 200, None)
    assert output["response"]["body"]["choices"][0]["message"]["content"] == "You said: hi"
    failed = [json.loads(line) for line in timed.get(f"/v1/files/{done['error_file_id']}/content").text.splitlines()]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in failed] == [("two", 404), ("three", 400)]
    assert [line["cost_nano_usd"] for line in bill_shown(timed)] == [(2500 + 3 * 10_000) // 2]
    assert timed.post(f"{path}/cancel").status_code == 409
    assert [one["id"] for one in timed.get("/v1/batches").json()["data"]] == [batch["id"]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_file"),
        (b"not json", "invalid_line"),
        (b'{"custom_id":"a"}', "invalid_line"),
        (batch_line("a") + b"\n" + batch_line("a"), "duplicate_custom_id"),
        (batch_line("a").replace(b"chat/completions", b"embeddings"), "invalid_line"),
    ],
)
def test_a_batch_with_a_wrong_input_fails_and_is_free(
    timed: httpx.Client, clock: Clock, content: bytes, code: str
) -> None:
    batch = begun(timed, content)
    clock.now_s += 1
    failed = timed.get(f"/v1/batches/{batch['id']}").json()
    assert (failed["status"], failed["errors"]["data"][0]["code"]) == ("failed", code)
    assert bill_shown(timed) == []


def test_a_cancelled_batch_is_free(timed: httpx.Client, clock: Clock) -> None:
    path = f"/v1/batches/{begun(timed, batch_line('a'))['id']}"
    assert timed.post(f"{path}/cancel").json()["status"] == "cancelling"
    clock.now_s += 1
    assert timed.get(path).json()["status"] == "cancelled"
    assert bill_shown(timed) == []


@pytest.mark.parametrize(
    "fields", [{"endpoint": "/v1/none"}, {"completion_window": "1h"}, {"input_file_id": "file-none"}]
)
def test_a_wrong_batch_is_refused(http: httpx.Client, fields: dict[str, Any]) -> None:
    file_id = uploaded(http, batch_line("a"))["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    assert http.post("/v1/batches", json=body).status_code in (400, 404)


# Azure


@pytest.fixture
def azure(sandbox: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.base_url, headers={"api-key": "0123456789abcdef"}) as client:
        yield client


CHAT = "/openai/deployments/gpt-4o/chat/completions"


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        (f"{CHAT}?api-version=2024-10-21", {}, 200, None),
        (f"/azure{CHAT}?api-version=2024-10-21", {}, 200, None),
        ("/openai/v1/chat/completions", {}, 200, None),
        ("/azure/openai/v1/chat/completions", {"api-key": "", "authorization": "Bearer entra"}, 200, None),
        (CHAT, {}, 404, "404"),
        ("/openai/deployments/no-such/chat/completions?api-version=1", {}, 404, "DeploymentNotFound"),
        ("/openai/deployments/gpt-4o/unknown?api-version=1", {}, 404, "404"),
        (f"{CHAT}?api-version=1", {"api-key": ""}, 401, "401"),
        (f"{CHAT}?api-version=1", {"x-sandbox-fault": "status=429"}, 429, "429"),
    ],
)
def test_azure_answers_and_refuses_by_path_version_and_key(
    azure: httpx.Client, path: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    answer = azure.post(path, json={"model": "gpt-4o", "messages": HI}, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["apim-request-id"]
    if code is not None:
        assert set(answer.json()["error"]) == {"code", "message"}
        assert answer.json()["error"]["code"] == code


def test_azure_lists_its_models_by_version_for_who_has_a_key(azure: httpx.Client) -> None:
    for path in ("/azure/openai/models", "/openai/models"):
        assert azure.get(path).status_code == 404
        listed = azure.get(f"{path}?api-version=2024-10-21").json()
        assert "gpt-4o" in {model["id"] for model in listed["data"]}
        assert azure.get(f"{path}/gpt-4o?api-version=2024-10-21").json()["id"] == "gpt-4o"
        assert (
            azure.get(f"{path}?api-version=2024-10-21", headers={"api-key": "", "authorization": ""}).status_code == 401
        )


def test_azure_names_the_field_of_a_wrong_body_as_openai_does(azure: httpx.Client) -> None:
    answer = azure.post(f"{CHAT}?api-version=1", json={"messages": []})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_azure_bills_under_its_own_name_the_deployments_model(azure: httpx.Client, http: httpx.Client) -> None:
    azure.post(f"{CHAT}?api-version=1", json={"model": "other", "messages": HI})
    azure.post(f"{CHAT}?api-version=1", json={"messages": HI, "stream": True})
    assert [(line["provider"], line["model"], line["cost_nano_usd"]) for line in bill_shown(http)] == [
        ("azure", "gpt-4o", 2500 + 3 * 10_000)
    ] * 2


def test_a_bearer_key_below_openai_is_still_openai(http: httpx.Client) -> None:
    http.post("/openai/v1/chat/completions", json={"model": "gpt-4o", "messages": HI})
    assert [line["provider"] for line in bill_shown(http)] == ["openai"]
