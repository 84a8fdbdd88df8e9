"""CORS as a real browser enforces it: a page from another origin calls the gateway, plainly and with openai for Node,
and shows streams as they come.

The page posts what it saw to the little server it came from; Debian's Chromium runs it without a window.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client_stage import LOCAL, SMALL, UNSTEADY, Stage, required
from tests.gateway import gateway
from tests.text_calls import ask, is_whole, streamed_text

pytestmark = pytest.mark.slow

PAGE_S = 60.0
SPOKEN = "one two three four five six seven eight"
# The switches after --disable-gpu keep it from calling its maker's hosts.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]

PAGE = """<!doctype html><meta charset="utf-8"><title>another origin</title>
<script type="module">
const plan = %s;
async function outcome(call) {
  try { return await call(); } catch (error) { return { thrown: String(error) }; }
}
async function ask(path, options) {
  const answer = await fetch(plan.origin + path, options);
  const body = await answer.json();
  return { status: answer.status, body, headers: Object.fromEntries(answer.headers) };
}
const seen = {};
for (const [name, [path, options]] of Object.entries(plan.calls)) seen[name] = await outcome(() => ask(path, options));
// A stream as a chat page reads it: what stands on the page after each piece.
async function streamed(path, options) {
  const answer = await fetch(plan.origin + path, options);
  const shown = document.body.appendChild(document.createElement("pre"));
  const sizes = [];
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    shown.textContent += piece.value;
    sizes.push(shown.textContent.length);
  }
  const headers = Object.fromEntries(answer.headers);
  return { status: answer.status, headers, sizes, text: shown.textContent };
}
for (const [name, call] of Object.entries(plan.streams ?? {})) seen[name] = await outcome(() => streamed(...call));
if (plan.sdk) {
  const { default: OpenAI } = await import("/openai/index.mjs");
  const options = { baseURL: plan.origin + "/v1", dangerouslyAllowBrowser: true, maxRetries: 1 };
  const client = new OpenAI({ apiKey: plan.sdk.key, ...options });
  seen.sdk = await outcome(async () => {
    const { data, request_id } = await client.embeddings.create(plan.sdk.body).withResponse();
    return { size: data.data[0].embedding.length, request_id };
  });
  seen.sdk_stream = await outcome(async () => {
    const pieces = [];
    const asked = new OpenAI({ apiKey: plan.sdk.test_key, ...options });
    for await (const chunk of await asked.chat.completions.create({ ...plan.sdk.chat, stream: true })) {
      if (chunk.choices[0]?.delta?.content) pieces.push(chunk.choices[0].delta.content);
    }
    return { pieces };
  });
  seen.sdk_refused = await outcome(async () => {
    try { await new OpenAI({ apiKey: "sk-wrong", ...options }).embeddings.create(plan.sdk.body); }
    catch (error) { return { status: error.status, code: error.code, request_id: error.requestID }; }
  });
}
await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
</script>"""


class Pages:
    """Serves one page and the SDK's modules from an origin of its own; what the page saw arrives in `seen`."""

    def __init__(self, packages: Path | None) -> None:
        self.page = b""
        self.seen: queue.Queue[Any] = queue.Queue()
        pages = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/":
                    self._send(200, "text/html", pages.page)
                elif packages is not None and self.path.startswith("/openai/") and ".." not in self.path:
                    self._send(200, "text/javascript", (packages / self.path[1:]).read_bytes())
                else:
                    self._send(404, "text/plain", b"")

            def do_POST(self) -> None:
                pages.seen.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._send(200, "text/plain", b"")

            def log_message(self, *_: Any) -> None:
                pass

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def browse(self, plan: dict[str, Any]) -> Any:
        """What the page saw of the plan's calls, in a browser started for it."""
        browser = shutil.which("chromium")
        if browser is None:
            required("chromium", "Debian: apt-get install chromium")
        # No `<` inside a script element: it could end it.
        self.page = (PAGE % json.dumps(plan).replace("<", "\\u003c")).encode()
        with tempfile.TemporaryDirectory(prefix="elk-browser-", ignore_cleanup_errors=True) as home:
            process = subprocess.Popen(
                [browser, *FLAGS, f"--user-data-dir={home}/profile", f"{self.origin}/"],
                env=os.environ | {"HOME": home},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                return self.seen.get(timeout=PAGE_S)
            except queue.Empty:
                pytest.fail("the page never told what it saw", pytrace=False)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def pages(node_packages: Path) -> Iterator[Pages]:
    served = Pages(node_packages)
    yield served
    served.close()


@pytest.fixture(scope="module")
def seen(stage: Stage, pages: Pages) -> Any:
    """What a page of another origin saw of each call."""

    def post(key: str, body: dict[str, Any], **more: Any) -> list[Any]:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return ["/v1/embeddings", {"method": "POST", "headers": headers, "body": json.dumps(body), **more}]

    def stream(client: str, model: str, headers: dict[str, str]) -> list[Any]:
        call = ask(client, model, f"[sandbox: pace=40ms] [[say: {SPOKEN}]]", stream=True)
        sent = {"content-type": "application/json", **call.headers, **headers}
        return [call.path, {"method": "POST", "headers": sent, "body": json.dumps(call.body)}]

    test_key = stage.lanes["test key"].key
    direct = {"x-api-key": test_key, "anthropic-dangerous-direct-browser-access": "true"}
    good = {"model": SMALL, "input": "one two three four"}
    return pages.browse(
        {
            "origin": stage.origin,
            "calls": {
                "embedded": post(stage.key, good),
                "bundled": post(stage.key, {"model": LOCAL, "input": "a"}),
                "wrong key": post("sk-wrong", good),
                "unknown model": post(stage.key, {"model": "none", "input": "a"}),
                "busy": post(stage.key, {"model": UNSTEADY, "input": "[sandbox: status=429, retry-after=7]"}),
                "with cookies": post(stage.key, good, credentials="include"),
                "unknown path": ["/v2/none", {}],
                "models": ["/v1/models", {"headers": {"x-api-key": stage.key, "anthropic-version": "2023-06-01"}}],
            },
            "streams": {
                "chat": stream("chat", "gpt-4o", {"authorization": f"Bearer {test_key}"}),
                "anthropic": stream("anthropic", "claude-sonnet-5-5", direct),
                "translated": stream("anthropic", "gpt-4o", direct),
            },
            "sdk": {
                "key": stage.key,
                "body": {"model": LOCAL, "input": "a"},
                "test_key": test_key,
                "chat": {"model": "gpt-4o", "messages": [{"role": "user", "content": f"[[say: {SPOKEN}]]"}]},
            },
        }
    )


def test_a_page_of_another_origin_reads_vector_request_id_and_cost(seen: Any) -> None:
    assert seen["embedded"]["status"] == 200
    assert len(seen["embedded"]["body"]["data"][0]["embedding"]) == 1536
    assert seen["embedded"]["headers"]["x-request-id"].startswith("req_")
    assert seen["embedded"]["headers"]["x-elkapi-cost-usd"] == "0.00000008"
    assert len(seen["bundled"]["body"]["data"][0]["embedding"]) == 384


@pytest.mark.parametrize(
    ("name", "status", "code", "header"),
    [
        ("wrong key", 401, "invalid_api_key", None),
        ("unknown model", 503, "model_not_found", ("x-should-retry", "false")),
        ("busy", 429, "upstream_rate_limited", ("retry-after", "7")),
        ("unknown path", 404, "unknown_url", None),
    ],
)
def test_a_page_reads_refusals_too(
    stage: Stage, seen: Any, name: str, status: int, code: str, header: tuple[str, str] | None
) -> None:
    found = seen[name]
    assert found["status"] == status
    assert found["body"]["error"]["code"] == code
    assert found["headers"]["x-request-id"] in found["body"]["error"]["message"]
    if header is not None:
        assert found["headers"][header[0]] == header[1]
    stage.check_hides_upstream(str(found))


def test_a_page_may_use_a_providers_own_headers(seen: Any) -> None:
    assert seen["models"]["body"]["first_id"] == LOCAL
    assert seen["models"]["headers"]["request-id"] == seen["models"]["headers"]["x-request-id"]


def test_a_call_with_the_browsers_cookies_is_not_readable(seen: Any) -> None:
    assert seen["with cookies"] == {"thrown": "TypeError: Failed to fetch"}


def test_the_unmodified_sdk_runs_in_a_page(seen: Any) -> None:
    assert seen["sdk"]["size"] == 384
    assert seen["sdk"]["request_id"].startswith("req_")
    refused = seen["sdk_refused"]
    assert (refused["status"], refused["code"]) == (401, "invalid_api_key")
    assert refused["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("name", "client"), [("chat", "chat"), ("anthropic", "anthropic"), ("translated", "anthropic")]
)
def test_a_page_shows_a_stream_piece_by_piece(seen: Any, name: str, client: str) -> None:
    found = seen[name]
    assert found["status"] == 200
    assert found["headers"]["content-type"].startswith("text/event-stream")
    assert is_whole(client, found["text"])
    # What could be read on the page after each piece: only whole events count.
    read = [streamed_text(client, found["text"][: found["text"].rfind("\n\n", 0, size) + 2]) for size in found["sizes"]]
    assert read[-1] == SPOKEN
    assert len({text for text in read if text}) >= 3
    if name != "chat":
        assert found["headers"]["request-id"] == found["headers"]["x-request-id"]


def test_the_unmodified_sdk_streams_in_a_page(seen: Any) -> None:
    assert "".join(seen["sdk_stream"]["pieces"]) == SPOKEN
    assert len(seen["sdk_stream"]["pieces"]) > 1


@pytest.mark.parametrize("allowed", [True, False])
async def test_only_the_origins_an_operator_names_may_read(tmp_path: Path, pages: Pages, allowed: bool) -> None:
    origins = (pages.origin,) if allowed else ("https://app.example",)
    async with gateway(tmp_path, cors_origins=origins) as gate:
        key = await gate.key()
        calls = {"models": ["/v1/models", {"headers": {"authorization": f"Bearer {key}"}}]}
        found = await asyncio.to_thread(pages.browse, {"origin": gate.origin, "calls": calls})
    if allowed:
        assert found["models"]["body"] == {"object": "list", "success": True, "data": []}
    else:
        assert found["models"] == {"thrown": "TypeError: Failed to fetch"}
