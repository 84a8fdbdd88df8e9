"""Owns one call in each protocol that is not OpenAI's: the same question, streamed or not, and what came of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import httpx
import msgspec
from botocore.eventstream import EventStreamBuffer

CLAUDE = "claude-sonnet-5-5"
GEMINI = "gemini-2.5-flash"
BEDROCK = "us.anthropic.claude-sonnet-5-5-20260901-v1:0"
ANTHROPIC_KEY = "sk-ant-sandbox-0123456789"
GEMINI_KEY = "AIza-sandbox-0123456789"
TOKEN = "ya29.sandboxed"
ACCESS_KEY, SECRET = "AKIDSANDBOX", "sandbox-secret"
ANTHROPIC_HEADERS = {"x-api-key": ANTHROPIC_KEY, "anthropic-version": "2023-06-01"}
PROJECT = "/v1/projects/p/locations/us-east5/publishers"


class Way(msgspec.Struct, frozen=True):
    """One protocol: `path` and `body` by whether it streams; `kind` names how its stream is framed."""

    name: str
    paths: tuple[str, str]
    body: Callable[[str, bool], dict[str, Any]]
    headers: dict[str, str]
    kind: str
    signs: bool = False

    def send(self, base_url: str, text: str, streams: bool = False) -> httpx.Response:
        url = base_url + self.paths[streams]
        content = json.dumps(self.body(text, streams)).encode()
        given = {"content-type": "application/json", **self.headers}
        if self.signs:
            given |= signature("POST", url, content)
        return httpx.post(url, content=content, headers=given)


def signature(method: str, url: str, content: bytes, secret: str = SECRET, key: str = ACCESS_KEY) -> dict[str, str]:
    """The headers botocore signs a request with."""
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=content)
    credentials = botocore.credentials.Credentials(key, secret)
    botocore.auth.SigV4Auth(credentials, "bedrock", "us-east-1").add_auth(request)
    return {name: str(request.headers[name]) for name in ("Authorization", "X-Amz-Date")}


def _claude(version: str, *, model: bool = False, flag: bool = False) -> Callable[[str, bool], dict[str, Any]]:
    def body(text: str, streams: bool) -> dict[str, Any]:
        made: dict[str, Any] = {"max_tokens": 1000, "messages": [{"role": "user", "content": text}]}
        made |= {"model": CLAUDE} if model else {"anthropic_version": version}
        return {**made, "stream": True} if flag and streams else made

    return body


def _gemini(text: str, streams: bool) -> dict[str, Any]:
    config = {"thinkingConfig": {"thinkingBudget": 0}}
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}


def _converse(text: str, streams: bool) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"text": text}]}]}


def _verbs(prefix: str, plain: str, streamed: str) -> tuple[str, str]:
    return prefix + plain, prefix + streamed


_GENERATE = ("generateContent", "streamGenerateContent?alt=sse")
_BEARER = {"authorization": f"Bearer {TOKEN}"}
WAYS = {
    way.name: way
    for way in (
        Way("anthropic", ("/v1/messages",) * 2, _claude("", model=True, flag=True), ANTHROPIC_HEADERS, "sse"),
        Way("gemini", _verbs(f"/v1beta/models/{GEMINI}:", *_GENERATE), _gemini, {"x-goog-api-key": GEMINI_KEY}, "sse"),
        Way("vertex gemini", _verbs(f"{PROJECT}/google/models/{GEMINI}:", *_GENERATE), _gemini, _BEARER, "sse"),
        Way(
            "vertex claude",
            _verbs(f"{PROJECT}/anthropic/models/{CLAUDE}:", "rawPredict", "streamRawPredict"),
            _claude("vertex-2023-10-16", flag=True),
            _BEARER,
            "sse",
        ),
        Way(
            "bedrock invoke",
            _verbs(f"/model/{BEDROCK}/", "invoke", "invoke-with-response-stream"),
            _claude("bedrock-2023-05-31"),
            {},
            "aws",
            signs=True,
        ),
        Way(
            "bedrock converse",
            _verbs(f"/model/{BEDROCK}/", "converse", "converse-stream"),
            _converse,
            {},
            "aws",
            signs=True,
        ),
    )
}


def text_of(answer: dict[str, Any]) -> str:
    """The text of a whole answer, whatever its protocol."""
    if "candidates" in answer:
        return "".join(part.get("text", "") for part in answer["candidates"][0]["content"]["parts"])
    content = answer["output"]["message"]["content"] if "output" in answer else answer["content"]
    return "".join(part.get("text", "") for part in content)


def sse(data: bytes) -> list[tuple[str | None, dict[str, Any]]]:
    """The events of a stream: name, or None where the protocol has none, and data."""
    found = []
    for block in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = dict(line.split(b": ", 1) for line in block.splitlines() if b": " in line)
        if b"data" in lines:
            name = lines.get(b"event")
            found.append((name.decode() if name else None, json.loads(lines[b"data"])))
    return found


def aws(data: bytes) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """The messages of an event stream as botocore reads them: headers and payload. It checks both checksums."""
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, json.loads(message.payload)) for message in buffer]


def bodies(way: Way, data: bytes) -> list[dict[str, Any]]:
    """The JSON bodies of a stream; Bedrock's chunks are unpacked, other messages get their name as `type`."""
    if way.kind == "sse":
        return [body for _, body in sse(data)]
    found = []
    for headers, payload in aws(data):
        name = headers.get(":event-type") or headers[":exception-type"]
        inner = json.loads(base64.b64decode(payload["bytes"])) if "bytes" in payload else {"type": name, **payload}
        found.append(inner)
    return found


def streamed_text(found: list[dict[str, Any]]) -> str:
    """The text that the bodies of a stream add up to."""
    texts = []
    for body in found:
        if "candidates" in body:
            texts.append(text_of(body))
        elif isinstance(body.get("delta"), dict):
            texts.append(body["delta"].get("text", ""))
    return "".join(texts)
