"""Adapt an Anthropic caller's conversation that other upstreams answered in, so that Claude accepts it.

Callers send back whatever they got: thinking that Claude did not sign, tool calls without Claude's thinking before them
(Claude refuses both while it thinks by budget), and images that another model generated, which this dialect carries as
text, far longer than Claude can read.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from elkapi.translate.decode import decode
from elkapi.translate.seal import PREFIX

# The marks of another upstream's thinking. Claude's own is always signed, and never with an envelope of the gateway.
_UNSIGNED = (b'"signature":""', b'"signature": ""', PREFIX.encode())
_FOREIGN_CALL = re.compile(rb'"tool_use_id"\s*:\s*"(?!toolu_)')
_THOUGHTS = ("thinking", "redacted_thinking")
# Generated images are shown as Markdown, since an answer in this dialect has no block for them.
_DRAWN = b"![image](data:image/"
DRAWN = re.compile(r"!\[image\]\(data:(image/[a-z0-9.+-]+);base64,([A-Za-z0-9+/=]+)\)")
_members = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def has_foreign_turns(body: bytes) -> bool:
    """Whether `with_own_thoughts` may change the body; checks only bytes, since it rarely has to."""
    if _DRAWN in body:
        return True
    if b'"thinking"' not in body:
        return False
    if any(mark in body for mark in _UNSIGNED):
        return True
    return b'"budget_tokens"' in body and b'"tool_use_id"' in body and _FOREIGN_CALL.search(body) is not None


def with_own_thoughts(body: bytes) -> bytes:
    """The body without foreign thinking and generated images; thinking by budget is off in another model's tool loop.

    Raises BadRequest if it is not a JSON object.
    """
    members = decode(_members, body)
    messages = members.get("messages")
    if not isinstance(messages, list):
        return body
    kept = [row for message in messages if (row := _fit(message)) is not None]
    made: dict[str, Any] = {**members, "messages": kept}
    thinking = made.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and _lost_thoughts(kept):
        del made["thinking"]
    return _encode(made) if made != members else body


def _fit(message: Any) -> Any:
    """The message, or None if it has only foreign thinking and generated images."""
    if not isinstance(message, dict) or message.get("role") != "assistant" or not message.get("content"):
        return message
    content = message["content"]
    if isinstance(content, str):
        kept: Any = DRAWN.sub("", content).strip() if DRAWN.search(content) else content
    else:
        kept = [left for block in _blocks(message) if (left := _fit_block(block)) is not None]
    if kept == content or not isinstance(content, str | list):
        return message
    return {**message, "content": kept} if kept else None


def _fit_block(block: Any) -> Any:
    kind = _kind(block)
    if kind == "thinking":
        signature = block.get("signature")
        if not signature or (isinstance(signature, str) and signature.startswith(PREFIX)):
            return None
    text = block.get("text") if kind == "text" else None
    if not isinstance(text, str) or not DRAWN.search(text):
        return block
    return {**block, "text": left} if (left := DRAWN.sub("", text)).strip() else None


def _lost_thoughts(messages: list[Any]) -> bool:
    """Whether the last message has results for an assistant message that does not begin with thinking."""
    if not messages or not any(_kind(block) == "tool_result" for block in _blocks(messages[-1])):
        return False
    said = next((m for m in reversed(messages) if isinstance(m, dict) and m.get("role") == "assistant"), None)
    blocks = _blocks(said)
    return bool(blocks) and _kind(blocks[0]) not in _THOUGHTS


def _blocks(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None
