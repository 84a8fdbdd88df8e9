"""Which of several keys a caller presents counts, and that an empty one is none."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.relay.call import Call
from elkapi.relay.credential import presented_key


def presented(path: str, query: str = "", **headers: str) -> str | None:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    reply: Any = None
    return presented_key(Call(b"", "POST", path, query, pairs, "127.0.0.1", b"", reply, 0.0))


@pytest.mark.parametrize(
    ("path", "headers", "key"),
    [
        ("/v1/messages", {"x_api_key": "", "authorization": "Bearer good"}, "Bearer good"),
        ("/v1/models", {"authorization": "Bearer good", "x_api_key": ""}, "Bearer good"),
        ("/v1/messages", {"x_api_key": "good", "authorization": ""}, "good"),
        ("/v1beta/models", {"x_goog_api_key": "", "authorization": "Bearer good"}, "Bearer good"),
        ("/v1/embeddings", {"authorization": "", "api_key": "good"}, "good"),
        ("/v1/messages", {"x_api_key": "good", "authorization": "Bearer other"}, "good"),
        ("/v1/embeddings", {"x_api_key": "other", "authorization": "Bearer good"}, "Bearer good"),
        ("/v1/messages", {"x_api_key": "", "authorization": ""}, None),
        ("/v1/messages", {}, None),
    ],
)
def test_an_empty_key_does_not_hide_another(path: str, headers: dict[str, str], key: str | None) -> None:
    assert presented(path, **headers) == key


def test_an_empty_google_key_leaves_that_of_the_query() -> None:
    assert presented("/v1beta/models", "key=good", x_goog_api_key="") == "good"
    assert presented("/v1beta/models", "key=", authorization="Bearer good") == "Bearer good"
