"""Method and path to operation; a known path with another method says what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from elkapi.catalog import CATALOG, Catalog, Role
from elkapi.edge.front import CONTROL_PREFIXES
from elkapi.errors import MethodNotAllowed, NotFound


@pytest.mark.parametrize(
    ("method", "path", "operation", "params"),
    [
        ("POST", "/v1/embeddings", "openai.embeddings", {}),
        ("POST", "/v1/v1/embeddings", "openai.embeddings", {}),
        (
            "POST",
            "/v1/engines/text-embedding-3-small/embeddings",
            "openai.embeddings-engine",
            {"model": "text-embedding-3-small"},
        ),
        ("POST", "/v1/engines/BAAI%2Fbge/embeddings", "openai.embeddings-engine", {"model": "BAAI/bge"}),
        ("POST", "/openai/v1/embeddings", "openai.embeddings", {}),
        ("POST", "/openai/responses", "openai.responses", {}),
        ("GET", "/openai/models/m", "platform.model", {"model": "m"}),
        ("POST", "/openai/deployments/BAAI/bge/embeddings", "openai.embeddings", {"model": "BAAI/bge"}),
        ("POST", "/openai/deployments/m/chat/completions", "openai.chat", {"model": "m"}),
        ("POST", "/openai/deployments/m/completions", "openai.completions", {"model": "m"}),
        ("GET", "/v1/models", "platform.models", {}),
        ("GET", "/v1beta/openai/models", "platform.models", {}),
        ("GET", "/v1beta/openai/models/m", "platform.model", {"model": "m"}),
        ("POST", "/v1beta/openai/chat/completions", "openai.chat", {}),
        ("POST", "/v1beta/openai/embeddings", "openai.embeddings", {}),
        ("GET", "/v1/models/BAAI/bge-m3", "platform.model", {"model": "BAAI/bge-m3"}),
        ("GET", "/v1beta/models", "platform.models-gemini", {}),
        ("GET", "/v1/requests/req_1", "platform.request", {"id": "req_1"}),
    ],
)
def test_paths_find_their_operation(method: str, path: str, operation: str, params: dict[str, str]) -> None:
    match = CATALOG.match(method, path)
    assert (match.operation.id, match.params) == (operation, params)


def test_another_method_says_what_is_allowed() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        CATALOG.match("GET", "/v1/embeddings")
    assert (b"allow", b"POST, OPTIONS") in caught.value.headers


UNKNOWN = ("/v1/nothing", "/v1/embeddings/", "/", "//v1/embeddings", "/v1/engines//embeddings")
NO_DEPLOYMENT = ("/openai/deployments//embeddings", "/openai/deployments/m/responses", "/openai/", "/openai/v1/")


@pytest.mark.parametrize("path", [*UNKNOWN, *NO_DEPLOYMENT])
def test_an_unknown_path_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        CATALOG.match("POST", path)


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/chat/completions", "; call /v1/chat/completions instead"),
        ("POST", "/embeddings", "; call /v1/embeddings instead"),
        ("POST", "/api/v1/messages", "; call /v1/messages instead"),
        ("POST", "/v1/anthropic/v1/messages", "; call /v1/messages instead"),
        ("GET", "/models", "; call /v1/models instead"),
        ("DELETE", "/embeddings", ""),
        ("POST", "/v1/nothing", ""),
        ("POST", "/", ""),
    ],
)
def test_a_wrong_base_url_is_told_what_to_call_instead(method: str, path: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught:
        CATALOG.match(method, path)
    assert str(caught.value) == f"Invalid URL ({method} {path}){hint}"


def test_two_operations_cannot_claim_one_route() -> None:
    family = CATALOG.families["openai"]
    with pytest.raises(ValueError, match="declared twice"):
        Catalog([family, type(family)(name="other", dialect="openai", operations=family.operations)])


def test_g17_every_relayed_operation_declares_a_unit_and_a_reader_so_none_is_unmetered() -> None:
    for operation in CATALOG.operations:
        if operation.role.value == "relay":
            assert operation.unit != "free" or operation.free_unless_priced, operation.id
            assert operation.read is not None, operation.id
        if operation.role.value == "submit":
            assert operation.meter is not None, operation.id
            assert operation.task is not None, operation.id


def test_control_rows_lie_where_the_front_relays_to_the_control_process() -> None:
    rows = [operation for operation in CATALOG.operations if operation.role is Role.CONTROL]
    assert rows
    assert all(operation.path.startswith(CONTROL_PREFIXES) for operation in rows)


CONTRACTS = next(
    (found for above in Path(__file__).parents if (found := above / "shared" / "contracts").is_dir()), Path("nowhere")
)


@pytest.mark.skipif(not CONTRACTS.is_dir(), reason="the contracts stand beside the repository only in the workplace")
def test_served_rows_agree_with_the_contract() -> None:
    rows: dict[str, Any] = {}
    for file in CONTRACTS.glob("*.yaml"):
        rows |= {row["id"]: row for row in yaml.safe_load(file.read_text())}
    served = {id_: one for one in CATALOG.operations for id_ in (one.id, *(other for other, _ in one.also))}
    for id_, operation in served.items():
        if (row := rows.get(id_)) is not None:
            assert operation.method == row["method"], id_
            # Names of parameters are ours; an alias may be served by a pattern of the same row.
            for path in (row["path"], *row["aliases"]):
                found = CATALOG.match(operation.method, re.sub(r"\{\w+\}", "some-id", path)).operation
                assert found is operation or id_ in SERVED_BY_ANOTHER, (id_, path, found.id)


# Rows with an alias that is a form of its own: the neutral one.
SERVED_BY_ANOTHER = {"platform.task-submit", "platform.task-fetch"}
