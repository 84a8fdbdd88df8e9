"""The applications of docs/apps.md: their own client libraries where they are small, else the calls that they make.

The base URL comes from the page's table, so what it tells is what is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.clients.client_stage import LOCAL, Stage, from_npm
from tests.text_calls import ask, events, is_whole, streamed_text, text_of

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/apps.md"
MODEL = "gpt-4o"


class App(msgspec.Struct, frozen=True):
    """What an application adds to its base URL, its headers beside the key's, and its members beside the messages."""

    models: str | None
    chat: str
    headers: dict[str, str]
    body: dict[str, Any]


KNOBS = {"temperature": 0.5, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
USAGE = {"stream_options": {"include_usage": True}}
STAINLESS = {"x-stainless-lang": "js", "x-stainless-retry-count": "0", "x-stainless-runtime": "browser:chrome"}
APPS = {
    "Open WebUI": App("/models", "/chat/completions", {"x-openwebui-user-name": "Ann"}, USAGE),
    "LobeChat": App("/models", "/chat/completions", STAINLESS, KNOBS | USAGE | {"user": "1"}),
    "NextChat": App(None, "/v1/chat/completions", {"x-requested-with": "XMLHttpRequest"}, KNOBS),
    "Cherry Studio": App(
        "/v1/models",
        "/v1/chat/completions",
        STAINLESS | {"http-referer": "https://cherry-ai.com", "x-title": "Cherry Studio"},
        USAGE | {"temperature": 1},
    ),
    "Dify": App(None, "/chat/completions", {"accept-charset": "utf-8"}, {"max_tokens": 512, "user": "abc-123"}),
}


def documented() -> dict[str, str]:
    """The base URL of each application in the page's first table."""
    return dict(
        re.findall(r"^\| ([\w ]+) \| `(http://127\.0\.0\.1:8000[^`]*)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    )


def base_of(stage: Stage, app: str) -> str:
    return documented()[app].replace("http://127.0.0.1:8000", stage.origin)


@pytest.fixture
def key(stage: Stage) -> str:
    return stage.lanes["test key"].key


def test_every_application_of_the_page_is_tried_or_is_a_program_with_a_suite() -> None:
    assert documented().keys() == APPS.keys() | {"n8n", "Cline", "Codex CLI", "Claude Code"}
    tested = PAGE.read_text("utf-8").partition("## What was tested")[2]
    assert [app for app in documented() if app not in tested] == []


@pytest.mark.parametrize("app", APPS)
def test_an_application_finds_the_models_and_streams_a_chat(stage: Stage, key: str, app: str) -> None:
    does = APPS[app]
    with httpx.Client(headers={"authorization": f"Bearer {key}", **does.headers}, timeout=20) as client:
        if does.models is not None:
            listed = client.get(base_of(stage, app) + does.models)
            assert listed.status_code == 200
            assert MODEL in [row["id"] for row in listed.json()["data"]]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "[[say: one two three]]"}], **does.body}
        with client.stream("POST", base_of(stage, app) + does.chat, json={**body, "stream": True}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            text = "".join(answer.iter_text())
    assert streamed_text("chat", text) == "one two three"
    assert is_whole("chat", text)
    usages = [frame for frame in events(text) if frame.get("usage")]
    assert bool(usages) is ("stream_options" in does.body)


def test_dify_checks_a_model_with_one_short_call(stage: Stage, key: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 5, "stream": False}
    answer = httpx.post(
        f"{base_of(stage, 'Dify')}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 200
    assert answer.json()["object"] == "chat.completion"


@pytest.mark.parametrize("app", ["LobeChat", "NextChat"])
def test_an_application_in_a_browser_may_send_its_headers(stage: Stage, app: str) -> None:
    does = APPS[app]
    wanted = ", ".join(["authorization", "content-type", *does.headers])
    answer = httpx.request(
        "OPTIONS",
        base_of(stage, app) + does.chat,
        headers={
            "origin": "https://chat.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": wanted,
        },
    )
    assert answer.status_code == 204
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert "*" in allowed or set(wanted.split(", ")) <= set(allowed)


@pytest.fixture(scope="module")
def seen(stage: Stage, node_says: Callable[..., Any]) -> Any:
    """What node/apps.mjs saw."""
    from_npm("@langchain/openai", "@langchain/openai for Node")
    lane = stage.lanes["test key"]
    plan = {"base_url": base_of(stage, "n8n"), "key": lane.key, "model": MODEL, "embedding": lane.model}
    return node_says("apps.mjs", plan=plan)


@pytest.mark.parametrize("wire", ["chat", "responses"])
def test_n8ns_client_streams_and_calls_tools(seen: Any, wire: str) -> None:
    found = seen[wire]
    assert "".join(found["pieces"]) == "one two three four"
    assert len(found["pieces"]) > 1
    assert found["calls"] == [{"name": "get_weather", "args": {"city": "Oslo"}}]
    assert found["told"] == "It is sunny in Oslo."
    assert found["usage"]["total_tokens"] == found["usage"]["input_tokens"] + found["usage"]["output_tokens"] > 0


def test_n8ns_client_embeds(seen: Any) -> None:
    assert seen["embeddings"] == [1536, 1536]


def test_n8n_checks_its_credentials(stage: Stage, key: str) -> None:
    url = f"{base_of(stage, 'n8n')}/models"
    assert httpx.get(url, headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert httpx.get(url, headers={"authorization": "Bearer sk-wrong"}).status_code == 401


def test_clines_client_streams_with_usage(seen: Any) -> None:
    assert "".join(seen["cline"]["pieces"]) == "five six"
    assert seen["cline"]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("client", ["chat", "responses", "anthropic", "gemini"])
@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-5-5", "gemini-2.5-flash"])
def test_a_test_key_reaches_every_providers_models_in_every_dialect(
    stage: Stage, key: str, client: str, model: str
) -> None:
    call = ask(client, model, "[[say: hello there]]")
    headers = {"authorization": f"Bearer {key}", **call.headers}
    answer = httpx.post(f"{stage.origin}{call.path}", json=call.body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    assert text_of(client, answer.json()) == "hello there"


def test_the_list_of_a_live_key_is_its_own(stage: Stage) -> None:
    url = f"{base_of(stage, 'Open WebUI')}/models"
    listed = httpx.get(url, headers={"authorization": f"Bearer {stage.narrow_key}"}).json()["data"]
    assert [row["id"] for row in listed] == [LOCAL]
