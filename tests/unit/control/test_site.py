"""The control process over HTTP, in memory: pages, errors, HEAD, headers. Nothing here opens a socket."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from elkapi.admin.keys import FIRST_KEY_NAME
from elkapi.clock import ManualClock
from elkapi.control.library import Library
from elkapi.control.site import build_site
from elkapi.control.status import KEEP_S, LocalModels, StatusBook
from elkapi.local.listed import LocalModel


class FakeParts:
    """What the status book asks, countable."""

    def __init__(self) -> None:
        self.models = LocalModels(ready=True, models=(LocalModel("all-MiniLM-L6-v2", 384),))
        self.database = True
        self.asked = 0
        self.fails = False

    async def ask_models(self) -> LocalModels:
        self.asked += 1
        if self.fails:
            raise RuntimeError("planted-secret in a trace")
        return self.models

    async def ask_database(self) -> bool:
        return self.database


class Site:
    def __init__(self, folder: Path) -> None:
        self.parts = FakeParts()
        self.clock = ManualClock()
        status = StatusBook(self.clock, self.parts.ask_models, self.parts.ask_database)
        self.app = cast(Any, build_site(Library(folder), status, "127.0.0.1:8000"))
        transport = httpx.ASGITransport(app=self.app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://gateway.example:8000")

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._client as client:
            return await client.request(method, path, headers=named)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "index.md").write_text("# Home\n\nSee [second](second.md#the-end) and [first](first.md).\n")
    (tmp_path / "first.md").write_text(
        "# First `page`\n\n<script>alert(1)</script>\n\n```sh\n# sample: x\necho a < b\n```\n"
    )
    (tmp_path / "second.md").write_text("# Second\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## The end\n\n## The end\n")
    (tmp_path / "other.md").write_text("# Other\n\n![plot](plot.svg)\n\n```json\n{}\n```\n")
    (tmp_path / "z.md").write_text("# Indented\n\n    elkapi <x>\n")
    (tmp_path / "plot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path.parent / "outside.md").write_text("# Outside\n")
    return Site(tmp_path)


async def test_front_page_uses_the_host_the_browser_asked_for(site: Site) -> None:
    answer = await site.ask("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "curl http://gateway.example:8000/v1/embeddings" in answer.text
    assert "all-MiniLM-L6-v2" in answer.text
    assert "384 dimensions" in answer.text
    assert 'href="/docs"' in answer.text
    assert 'href="/console"' in answer.text


async def test_front_page_makes_a_key_of_another_name_than_the_first_starts(site: Site) -> None:
    """Two of one name can be asked for by their ids alone."""
    (name,) = re.findall(r"elkapi key create --name (\S+)</code>", (await site.ask("/")).text)
    assert name != FIRST_KEY_NAME


async def test_front_page_speaks_https_when_the_worker_says_so(site: Site) -> None:
    answer = await site.ask("/", host="localhost", x_forwarded_host="api.example", x_forwarded_proto="https")
    assert "curl https://api.example/v1/embeddings" in answer.text


async def test_last_forwarded_host_counts_since_the_worker_adds_it(site: Site) -> None:
    async with site._client as client:
        sent = [("x-forwarded-host", "callers.example"), ("x-forwarded-host", "asked.example")]
        answer = await client.get("/", headers=sent)
    assert "curl http://asked.example/v1/embeddings" in answer.text


@pytest.mark.parametrize("host", ['x"><script>', "a b", "host;rm -rf ~", "$(reboot)", "user@host", "a/b", "é", ""])
async def test_cve_2026_48710_an_odd_host_never_reaches_the_page(site: Site, host: str) -> None:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}
    scope |= {"headers": [(b"host", host.encode("latin-1", "replace"))], "scheme": "http", "http_version": "1.1"}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}, "server": None, "client": None, "root_path": ""}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await site.app(scope, receive, send)
    await site._client.aclose()
    page = b"".join(message.get("body", b"") for message in sent).decode()
    assert sent[0]["status"] in (200, 400)  # The framework refuses some of them by itself.
    assert f"http://{host}/" not in page
    if sent[0]["status"] == 200:
        assert "curl http://127.0.0.1:8000/v1/embeddings" in page


async def test_policy_allows_the_style_and_script_on_the_page_and_nothing_else(site: Site) -> None:
    answer = await site.ask("/")
    policy = answer.headers["content-security-policy"]
    for kind in ("style", "script"):
        found = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        assert len(found) == 1
        digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'\son\w+=|style=|(?:src|href)="(?:https?:)?//', answer.text)


async def test_front_page_says_when_local_models_are_away(site: Site) -> None:
    site.parts.models = LocalModels()
    answer = await site.ask("/")
    assert "not running on this machine" in answer.text
    assert "all-MiniLM-L6-v2" in answer.text  # The example still names a model.


async def test_the_chat_model_is_shown_where_there_is_one(site: Site) -> None:
    site.parts.models = LocalModels(ready=True, chat_model="a-<chat>-model")
    transport = site._client._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.example:8000") as client:
        page = (await client.get("/")).text
        assert "<code>a-&lt;chat&gt;-model</code>" in page
        assert "comes with an embedding model and a small chat model" in page
        assert (await client.get("/api/status")).json()["data"]["local_chat_model"] == "a-<chat>-model"


async def test_docs_show_pages_in_the_order_of_the_index(site: Site) -> None:
    answer = await site.ask("/docs")
    assert answer.status_code == 200
    assert "<title>Home · elkapi</title>" in answer.text
    nav = re.findall(r'<li><a href="(/docs[^"]*)"', answer.text)
    assert nav == ["/docs", "/docs/second", "/docs/first", "/docs/other", "/docs/z"]
    assert 'href="/docs/second#the-end"' in answer.text


async def test_what_is_asked_for_stands_before_the_list_of_pages(site: Site) -> None:
    """On a phone the list is longer than the screen, and whoever skips to the content would be in the list."""
    answer = await site.ask("/docs/first")
    assert re.search(r'<main id="content"><div class="doc"><article><h1 id="first-page">', answer.text)
    assert answer.text.index("</article>") < answer.text.index('<nav aria-label="Docs">')


async def test_cve_2025_3801_raw_html_in_docs_is_shown_as_text(site: Site) -> None:
    answer = await site.ask("/docs/first")
    assert "<title>First page · elkapi</title>" in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "<script>alert" not in answer.text
    assert "echo a &lt; b" in answer.text


async def test_only_what_a_reader_may_run_gets_a_copy_button(site: Site) -> None:
    async with site._client as client:
        runnable, shown = await client.get("/docs/first"), await client.get("/docs/other")
    assert '<div class="sample"><pre tabindex="0"><code class="language-sh">' in runnable.text
    assert '<div class="block"><pre tabindex="0"><code class="language-json">' in shown.text


async def test_an_indented_block_can_be_scrolled_with_the_keyboard_as_a_fenced_one(site: Site) -> None:
    """Most commands of the guides stand in one, and a phone is narrower than they are."""
    answer = await site.ask("/docs/z")
    assert (
        '<div class="block"><pre tabindex="0"><code class="language-text">elkapi &lt;x&gt;\n</code></pre></div>'
        in answer.text
    )


async def test_docs_headings_have_anchors_of_their_own(site: Site) -> None:
    answer = await site.ask("/docs/second")
    assert 'id="the-end"' in answer.text
    assert 'id="the-end-2"' in answer.text
    assert "<table>" in answer.text


async def test_docs_serve_their_markdown_and_pictures(site: Site) -> None:
    async with site._client as client:
        text = await client.get("/docs/first.md")
        page = await client.get("/docs/other")
        plot = await client.get("/docs/plot.svg")
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert text.text.startswith("# First")
    assert 'src="/docs/plot.svg"' in page.text
    assert plot.headers["content-type"] == "image/svg+xml"
    assert "default-src 'none'" in plot.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/docs/nowhere", "/docs/..%2Foutside", "/docs/../outside", "/docs/%2e%2e/outside.md", "/docs/first/"],
)
async def test_unknown_page_is_404_in_html(site: Site, path: str) -> None:
    answer = await site.ask(path)
    if path == "/docs/first/":
        assert answer.status_code == 200  # A trailing slash is the same page.
        return
    assert answer.status_code == 404
    assert "There is no page at this address." in answer.text
    assert "Outside" not in answer.text


async def test_icon_is_served_where_browsers_look(site: Site) -> None:
    async with site._client as client:
        for path in ("/favicon.svg", "/favicon.ico"):
            answer = await client.get(path)
            assert answer.headers["content-type"] == "image/svg+xml"
            assert answer.content.startswith(b"<svg")
        assert 'href="/favicon.svg"' in (await client.get("/")).text


async def test_console_is_honest_about_what_exists(site: Site) -> None:
    async with site._client as client:
        for path in ("/console", "/console/channels/7"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "not in this release" in answer.text
            assert "elkapi channel add" in answer.text


async def test_status_is_json_and_names_no_upstream(site: Site) -> None:
    answer = await site.ask("/api/status")
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["success"] is True
    assert body["data"]["local_models"] == [{"id": "all-MiniLM-L6-v2", "dimensions": 384}]
    assert body["data"]["local_models_ready"] is True
    assert body["data"]["database"] == "ok"
    assert body["data"]["quota_per_unit"] == 500_000
    assert body["data"]["start_time"] == ManualClock().now_ns() // 1_000_000_000


async def test_status_asks_the_parts_once_in_a_while(site: Site) -> None:
    async with site._client as client:
        await client.get("/api/status")
        await client.get("/")
        assert site.parts.asked == 1
        site.clock.advance(KEEP_S + 0.1)
        site.parts.database = False
        assert (await client.get("/api/status")).json()["data"]["database"] == "unavailable"
        assert site.parts.asked == 2


async def test_unknown_api_path_is_json(site: Site) -> None:
    answer = await site.ask("/api/nowhere")
    assert answer.status_code == 404
    assert answer.json() == {"success": False, "message": "There is no page at this address."}


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/first", "/console", "/api/status", "/healthz"])
async def test_head_answers_like_get_without_a_body(site: Site, path: str) -> None:
    async with site._client as client:
        head, get = await client.head(path), await client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers == get.headers


async def test_wrong_method_is_405_with_allow(site: Site) -> None:
    answer = await site.ask("/docs", "POST")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/api/status"])
async def test_failed_page_shows_no_trace_and_logs_one(site: Site, path: str, caplog: pytest.LogCaptureFixture) -> None:
    site.parts.fails = True
    with caplog.at_level(logging.ERROR, "elkapi.control"):
        answer = await site.ask(path)
    assert answer.status_code == 500
    for word in ("Traceback", "RuntimeError", "planted-secret", ".py"):
        assert word not in answer.text
    assert "planted-secret" in caplog.text
    if path.startswith("/api"):
        assert json.loads(answer.content)["success"] is False
    assert answer.headers["x-content-type-options"] == "nosniff"
