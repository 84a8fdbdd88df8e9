"""One case for each text operation that is served: the call and the expected answer. A new row needs an entry here.

`tests/relay/test_text_rows.py` makes each call on every path and with every way to send the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from click.testing import CliRunner

from elkapi.cli.operations import operations
from tests.text_calls import is_whole, streamed_text, text_of

SAID = "one two three"
ASKED = f"[[say: {SAID}]]"
CHAT, CLAUDE, GEMINI, EMBEDDING = "gpt-4o", "claude-sonnet-5-5", "gemini-2.5-flash", "text-embedding-3-small"
INSTRUCT, MODERATION, RERANKER = "gpt-3.5-turbo-instruct", "omni-moderation-latest", "jina-reranker-v2"
GOOGLE_EMBEDDING = "gemini-embedding-001"
# The models of each kind of upstream.
MODELS = {
    "openai": (CHAT, INSTRUCT, EMBEDDING, MODERATION, RERANKER),
    "anthropic": (CLAUDE,),
    "gemini": (GEMINI, GOOGLE_EMBEDDING),
}
VERSION = {"anthropic-version": "2023-06-01"}

FAMILIES = ("openai", "anthropic", "gemini")
# Rows of these families that are tasks; `tests/tasks` tests them.
VIDEOS = ("openai.video", "openai.seedance", "openai.veo3-chat")


def text_rows() -> dict[str, str]:
    """The text rows as printed by `elkapi operations`: id -> kind."""
    rows = json.loads(CliRunner().invoke(operations, ["--json"]).output)
    return {row["id"]: row["kind"] for row in rows if row["family"] in FAMILIES and not row["id"].startswith(VIDEOS)}


JSON, EVENTS = "application/json", "text/event-stream"
Shown = Callable[[Any], object]


class Needs(msgspec.Struct, frozen=True):
    """A row to call first, with `body` added to its body; the `id` of its answer fills the path of the case.

    `poll` is a row that is called with that id until `until` is true of its answer.
    """

    row: str
    body: dict[str, Any] = {}
    poll: str = ""
    until: Shown = bool


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A call and its expected answer. `params` fill the path, `query` is appended to it; `needs` is called first.

    `shows` maps the answer (decoded if `media` is JSON, otherwise its text) to a value that must equal `expected`. A
    row after another: `Case(needs=Needs("openai.responses", {"store": True}), shows=lambda got: got["id"] != "")`.
    """

    shows: Shown
    expected: object = True
    body: dict[str, Any] | None = None
    params: dict[str, str] = {}
    query: str = ""
    headers: dict[str, str] = {}
    needs: Needs | None = None
    media: str = JSON


def _streamed(client: str) -> Shown:
    return lambda text: streamed_text(client, text) if is_whole(client, text) else text


def _both(name: str, client: str, body: dict[str, Any], **more: Any) -> dict[str, Case]:
    """The cases of a row and of its streaming variant."""
    whole = Case(body=body, shows=lambda reply: text_of(client, reply), expected=SAID, **more)
    twin = msgspec.structs.replace(whole, body={**body, "stream": True}, shows=_streamed(client), media=EVENTS)
    return {name: whole, f"{name}-stream": twin}


def _completed(text: str) -> str:
    frames = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    whole = frames[-1] == "[DONE]"
    return (
        "".join(row["text"] for frame in frames[:-1] for row in msgspec.json.decode(frame)["choices"])
        if whole
        else text
    )


def _name(row: dict[str, Any]) -> str:
    """A model's name in OpenAI's, Anthropic's or Google's format: the caller's headers select a list's format."""
    return str(row["id"] if "id" in row else row["name"].removeprefix("models/"))


def _lists(model: str) -> Shown:
    return lambda reply: model in {_name(row) for row in reply.get("data") or reply["models"]}


_USER = [{"role": "user", "content": ASKED}]
_COMPLETION = {"model": INSTRUCT, "prompt": ASKED, "max_tokens": 50}
_EMBEDDING = Case(
    body={"model": EMBEDDING, "input": "red"}, shows=lambda reply: len(reply["data"][0]["embedding"]), expected=1536
)
_CONTENTS = {"contents": [{"role": "user", "parts": [{"text": ASKED}]}]}
_GENERATE = Case(params={"model": GEMINI}, body=_CONTENTS, shows=lambda reply: text_of("gemini", reply), expected=SAID)
_CONTENT = {"content": {"parts": [{"text": "red"}]}}
_B = "message_batch"
_BATCH = {
    "requests": [{"custom_id": "one", "params": {"model": CLAUDE, "max_tokens": 50, "messages": _USER}}],
}
_MADE = Needs("anthropic.batches-create")
_ENDED = Needs(
    "anthropic.batches-create",
    poll="anthropic.batches-get",
    until=lambda reply: reply["processing_status"] == "ended",
)

_RESPONSE = Needs("openai.responses")
_STORED_CHAT = Needs("openai.chat", {"store": True, "metadata": {"a": "1"}})


def _object(name: str) -> dict[str, Any]:
    return {"shows": lambda reply: reply["object"], "expected": name}


# Rows on stored answers: each is created first, and then read, listed, changed or deleted.
STORED: dict[str, Case] = {
    "openai.responses-get": Case(needs=_RESPONSE, shows=lambda reply: text_of("responses", reply), expected=SAID),
    "openai.responses-get-stream": Case(
        needs=_RESPONSE, query="stream=true", shows=_streamed("responses"), expected=SAID, media=EVENTS
    ),
    "openai.responses-cancel": Case(
        needs=Needs(
            "openai.responses",
            {"background": True},
            poll="openai.responses-get",
            until=lambda reply: reply["status"] == "completed",
        ),
        shows=lambda reply: reply["status"],
        expected="completed",
    ),
    "openai.responses-delete": Case(needs=_RESPONSE, shows=lambda reply: reply["deleted"]),
    "openai.responses-input-items": Case(
        needs=_RESPONSE, shows=lambda reply: reply["data"][0]["content"][0]["text"], expected=ASKED
    ),
    "openai.chat-list": Case(needs=_STORED_CHAT, query="metadata[a]=1", **_object("list")),
    "openai.chat-get": Case(needs=_STORED_CHAT, shows=lambda reply: text_of("chat", reply), expected=SAID),
    "openai.chat-update": Case(
        needs=_STORED_CHAT,
        body={"metadata": {"b": "2"}},
        shows=lambda reply: reply["metadata"],
        expected={"b": "2"},
    ),
    "openai.chat-delete": Case(needs=_STORED_CHAT, **_object("chat.completion.deleted")),
    "openai.chat-messages": Case(needs=_STORED_CHAT, shows=lambda reply: reply["data"][0]["content"], expected=ASKED),
}

CASES: dict[str, Case] = {
    "openai.embeddings": _EMBEDDING,
    "openai.embeddings-engine": msgspec.structs.replace(_EMBEDDING, params={"model": EMBEDDING}, body={"input": "red"}),
    **_both("openai.chat", "chat", {"model": CHAT, "messages": _USER}),
    "openai.completions": Case(body=_COMPLETION, shows=lambda reply: reply["choices"][0]["text"], expected=SAID),
    "openai.completions-stream": Case(
        body={**_COMPLETION, "stream": True}, shows=_completed, expected=SAID, media=EVENTS
    ),
    **_both("openai.responses", "responses", {"model": CHAT, "input": ASKED}),
    **STORED,
    "openai.responses-compact": Case(
        body={"model": CHAT, "input": ASKED}, shows=lambda reply: reply["output"][-1]["type"], expected="compaction"
    ),
    "openai.responses-input-tokens": Case(
        body={"model": CHAT, "input": "one two"}, shows=lambda reply: reply["input_tokens"], expected=2
    ),
    "openai.moderations": Case(
        body={"model": MODERATION, "input": "violence"}, shows=lambda reply: reply["results"][0]["flagged"]
    ),
    "openai.rerank": Case(
        body={"model": RERANKER, "query": "a red car", "documents": ["blue", "red car"]},
        shows=lambda reply: reply["results"][0]["index"],
        expected=1,
    ),
    "openai.models": Case(shows=_lists(CHAT)),
    "openai.model": Case(params={"model": CHAT}, shows=_name, expected=CHAT),
    **_both("anthropic.messages", "anthropic", {"model": CLAUDE, "max_tokens": 50, "messages": _USER}, headers=VERSION),
    "anthropic.count-tokens": Case(
        headers=VERSION,
        body={"model": CLAUDE, "messages": [{"role": "user", "content": "one two"}]},
        shows=lambda reply: reply["input_tokens"],
        expected=2,
    ),
    "anthropic.batches-create": Case(
        headers=VERSION, body=_BATCH, shows=lambda reply: reply["processing_status"], expected="in_progress"
    ),
    "anthropic.batches-list": Case(headers=VERSION, needs=_MADE, shows=lambda reply: reply["data"][0]["type"] == _B),
    "anthropic.batches-get": Case(headers=VERSION, needs=_MADE, shows=lambda reply: reply["type"], expected=_B),
    "anthropic.batches-cancel": Case(headers=VERSION, needs=_MADE, shows=lambda reply: reply["type"], expected=_B),
    "anthropic.batches-delete": Case(
        headers=VERSION, needs=_ENDED, shows=lambda reply: reply["type"], expected="message_batch_deleted"
    ),
    "anthropic.batches-results": Case(
        headers=VERSION,
        needs=_ENDED,
        shows=lambda text: text_of("anthropic", json.loads(text)["result"]["message"]),
        expected=SAID,
        media="application/x-jsonl",
    ),
    "anthropic.models": Case(headers=VERSION, shows=_lists(CLAUDE)),
    "anthropic.model": Case(
        headers=VERSION, params={"model": CLAUDE}, shows=lambda reply: reply["type"], expected="model"
    ),
    "gemini.generate": _GENERATE,
    "gemini.stream": msgspec.structs.replace(_GENERATE, query="alt=sse", shows=_streamed("gemini"), media=EVENTS),
    "gemini.embed": Case(
        params={"model": GOOGLE_EMBEDDING},
        body=_CONTENT,
        shows=lambda reply: len(reply["embedding"]["values"]),
        expected=3072,
    ),
    "gemini.batch-embed": Case(
        params={"model": GOOGLE_EMBEDDING},
        body={"requests": [{"model": f"models/{GOOGLE_EMBEDDING}", **_CONTENT}] * 2},
        shows=lambda reply: len(reply["embeddings"]),
        expected=2,
    ),
    "gemini.count-tokens": Case(
        params={"model": GEMINI},
        body={"contents": [{"parts": [{"text": "one two"}]}]},
        shows=lambda reply: reply["totalTokens"],
        expected=2,
    ),
    "gemini.models": Case(shows=_lists(GEMINI)),
}
