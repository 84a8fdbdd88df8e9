"""Reads the blocks of Anthropic's Messages body into turns and checks the rules of its tool loop."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.bodies import decoded_base64
from elkapi.sandbox.sealing import is_sealed
from elkapi.sandbox.talk import IMAGE_TOKENS, Call, Result, Tool, Turn, words

CACHE_MARKS_MAX = 4
# The purposes of the seals on thinking blocks.
THINKING, REDACTED = "anthropic thinking", "anthropic redacted thinking"
# Anthropic's tools that run at the provider: a script never calls them.
SERVER_TOOLS = ("web_search", "web_fetch", "code_execution", "tool_search_tool", "mcp_toolset", "advisor")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_OTHER_BLOCKS = {
    "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
    "container_upload", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result",
    "tool_search_tool_result", "mcp_tool_use", "mcp_tool_result", "advisor_tool_result", "compaction", "fallback",
}  # fmt: skip


class Segment(msgspec.Struct, frozen=True):
    """A run of input tokens in prompt order. `ttl` is "5m" or "1h" if it ends at a cache breakpoint.

    `answered`: an assistant message follows, so an earlier call has sent it already.
    """

    tokens: int
    ttl: str | None = None
    answered: bool = False


def fail(path: str, message: str) -> Problem:
    """A 400 that names the field, like Anthropic's validation."""
    return Problem(400, f"{path}: {message}", param=path)


class Reader:
    """Reads a body in prompt order (tools, system, messages) and collects its segments."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._answered_before = 0
        self.changes: list[tuple[str, dict[str, Any]]] = []

    def done(self, control: object) -> tuple[Segment, ...]:
        """The segments; `control` is the body's own cache_control, which marks the last block."""
        segments = self._segments
        if control is not None and segments:
            segments[-1] = msgspec.structs.replace(segments[-1], ttl=_ttl(control, "cache_control"))
        if sum(segment.ttl is not None for segment in segments) > CACHE_MARKS_MAX:
            message = f"A maximum of {CACHE_MARKS_MAX} blocks with cache_control may be provided."
            raise Problem(400, message)
        return tuple(
            msgspec.structs.replace(segment, answered=index < self._answered_before)
            for index, segment in enumerate(segments)
        )

    def _note(self, tokens: int, block: dict[str, Any], path: str) -> None:
        control = block.get("cache_control")
        self._segments.append(Segment(tokens, None if control is None else _ttl(control, f"{path}.cache_control")))

    def tools(self, value: object) -> tuple[Tool, ...]:
        """The tools a script may call: the caller's own, and Anthropic's that the caller runs."""
        tools: list[Tool] = []
        names: set[str] = set()
        for index, tool in enumerate(list_of(value or [], "tools")):
            path = f"tools.{index}"
            kind = object_of(tool, path).get("type") or "custom"
            if kind.startswith(SERVER_TOOLS):
                self._note(1, tool, path)
                continue
            name = tool.get("name")
            if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
                raise fail(f"{path}.{kind}.name", "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
            if name in names:
                raise Problem(400, "tools: Tool names must be unique.")
            names.add(name)
            schema = tool.get("input_schema")
            if kind == "custom" and (not isinstance(schema, dict) or schema.get("type") != "object"):
                problem = "Field required" if schema is None else "Input should have type 'object'"
                raise fail(f"{path}.custom.input_schema", problem)
            description = tool.get("description") or ""
            tools.append(Tool(name, schema, description))
            self._note(1 + words(description), tool, path)
        return tuple(tools)

    def system(self, value: object) -> str:
        """The system prompt, blocks joined."""
        if value is None or isinstance(value, str):
            self._note(words(value or ""), {}, "system")
            return value or ""
        texts = []
        for index, block in enumerate(list_of(value, "system")):
            path = f"system.{index}"
            texts.append(_text(object_of(block, path), path))
            self._note(words(texts[-1]), block, path)
        return "\n".join(texts)

    def messages(self, value: object, *, must_think: bool) -> tuple[tuple[Turn, ...], list[str]]:
        """The turns, adjacent ones of one role merged, and the texts of system messages at the end.

        Those for one turn are dropped after the next user message; `changes` collects their changes of the tools.
        """
        turns: list[Turn] = []
        later: list[tuple[int, list[str]]] = []
        spoken = 0
        merged: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = []
        for index, message in enumerate(list_of(value, "messages")):
            path = f"messages.{index}"
            role = object_of(message, path).get("role")
            if role not in ("user", "assistant", "system"):
                raise fail(f"{path}.role", "Input should be 'user' or 'assistant'")
            if role == "system":
                clears, texts = self._instruction(message, path)
                later.append((spoken if clears else -1, texts))
                continue
            spoken += role == "user"
            blocks = _blocks(message.get("content"), f"{path}.content")
            if merged and merged[-1][0] == role:
                merged[-1][1].extend(blocks)
            else:
                merged.append((role, blocks))
        if not merged:
            raise fail("messages", "at least one message is required")
        if merged[0][0] != "user":
            raise fail("messages", 'first message must use the "user" role')
        names: dict[str, str] = {}
        for position, (role, blocks) in enumerate(merged):
            following = merged[position + 1][1] if position + 1 < len(merged) else None
            if role == "assistant":
                self._answered_before = len(self._segments)
                names |= _check_uses(blocks, following)
            else:
                _check_results(blocks, merged[position - 1][1] if position else [])
            turns.append(self._turn("user" if role == "user" else "assistant", blocks, names))
        if must_think:
            _check_thinks(merged)
        return tuple(turns), [text for place, texts in later if place in (-1, spoken) for text in texts]

    def _instruction(self, message: dict[str, Any], path: str) -> tuple[bool, list[str]]:
        """(whether it is for one turn, its texts) of a later system message, which may contain only settings."""
        clear_at, config = message.get("clear_at"), message.get("output_config")
        if clear_at not in (None, "never", "next_user_message"):
            raise fail(f"{path}.clear_at", "Input should be 'next_user_message' or 'never'")
        if config is not None and object_of(config, f"{path}.output_config").keys() - {"effort"}:
            raise fail(f"{path}.output_config", "Extra inputs are not permitted")
        if message.get("content") is None and config:
            return False, []
        texts = []
        for where, block in _blocks(message.get("content"), f"{path}.content"):
            if block.get("type") in ("tool_addition", "tool_removal"):
                self.changes.append((where, block))
            else:
                texts.append(_text(block, where))
        return clear_at == "next_user_message", texts

    def changed(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """The tools after the changes made by messages. Raises Problem for an unknown one."""
        known = {tool.name: tool for tool in tools}
        offered = dict(known)
        for where, block in self.changes:
            tool = object_of(block.get("tool"), f"{where}.tool")
            if tool.get("type") == "tool_definition":
                for added in self.tools([tool.get("definition")]):
                    known[added.name] = offered[added.name] = added
            elif (name := str(tool.get("name"))) not in known:
                raise fail(f"{where}.tool.name", f"Tool '{name}' not found")
            elif block["type"] == "tool_removal":
                offered.pop(name, None)
            else:
                offered[name] = known[name]
        return tuple(offered.values())

    def _turn(self, role: Any, blocks: list[tuple[str, dict[str, Any]]], names: dict[str, str]) -> Turn:
        texts, images, files, calls, results = [], [], [], [], []
        for path, block in blocks:
            kind, tokens = block.get("type"), 0
            if kind == "text":
                texts.append(_text(block, path))
                tokens = words(texts[-1])
            elif kind == "image":
                images.append(_source(block.get("source"), f"{path}.image.source", IMAGE_TYPES))
                tokens = IMAGE_TOKENS
            elif kind == "document":
                files.append(_document(block, path))
            elif kind == "search_result":
                texts.append(_joined(block.get("content"), f"{path}.content"))
                tokens = words(texts[-1])
            elif kind == "tool_use":
                call = Call(block["name"], json.dumps(block["input"], ensure_ascii=False, separators=(",", ":")))
                calls.append(call)
                tokens = 1 + words(call.arguments)
            elif kind == "tool_result":
                text = _joined(block.get("content"), f"{path}.content")
                results.append(Result(names.get(block["tool_use_id"], ""), text))
                tokens = words(text)
            elif kind in ("thinking", "redacted_thinking"):
                _check_seal(block, path)
            elif kind not in _OTHER_BLOCKS:
                raise fail(path, f"Input tag {kind!r} found using 'type' does not match any of the expected tags")
            self._note(tokens, block, path)
        return Turn(
            role,
            "\n".join(texts),
            images=tuple(images),
            files=tuple(files),
            calls=tuple(calls),
            results=tuple(results),
        )


def _blocks(content: object, path: str) -> list[tuple[str, dict[str, Any]]]:
    """A message's blocks, each with its path; a plain string is one text block."""
    if isinstance(content, str):
        if not content:
            raise Problem(400, f"{path}: text content blocks must be non-empty")
        return [(path, {"type": "text", "text": content})]
    blocks = [
        (f"{path}.{index}", object_of(block, f"{path}.{index}")) for index, block in enumerate(list_of(content, path))
    ]
    if not blocks:
        raise fail(path, "all messages must have non-empty content")
    return blocks


def _check_uses(blocks: list[tuple[str, dict[str, Any]]], following: list[Any] | None) -> dict[str, str]:
    """The tool names by id of an assistant message; each requires a result in the next message."""
    names: dict[str, str] = {}
    for path, block in blocks:
        if block.get("type") == "tool_use":
            for name, kind in (("id", str), ("name", str), ("input", dict)):
                if not isinstance(block.get(name), kind):
                    raise fail(f"{path}.tool_use.{name}", "Field required" if name not in block else "Invalid input")
            if block["id"] in names:
                raise fail(path, "`tool_use` ids must be unique")
            names[block["id"]] = block["name"]
    answered = {block.get("tool_use_id") for _, block in following or [] if block.get("type") == "tool_result"}
    missing = [call_id for call_id in names if call_id not in answered]
    if following is not None and missing:
        message = (
            f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(missing)}. Each "
            "`tool_use` block must have a corresponding `tool_result` block in the next message."
        )
        raise fail(blocks[0][0].rsplit(".content", 1)[0], message)
    return names


def _check_results(blocks: list[tuple[str, dict[str, Any]]], before: list[tuple[str, dict[str, Any]]]) -> None:
    called = {block.get("id") for _, block in before if block.get("type") == "tool_use"}
    others = False
    for path, block in blocks:
        if block.get("type") != "tool_result":
            others = True
            continue
        if block.get("tool_use_id") not in called:
            message = (
                f"unexpected `tool_use_id` found in `tool_result` blocks: {block.get('tool_use_id')}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
            raise fail(path, message)
        if others:
            raise fail(path, "`tool_result` blocks must come before other content in the message that answers tools")


def _check_thinks(merged: list[tuple[str, list[tuple[str, dict[str, Any]]]]]) -> None:
    """With `thinking` enabled, the assistant message whose tools are being answered must start with thinking."""
    if len(merged) < 2 or not any(block.get("type") == "tool_result" for _, block in merged[-1][1]):
        return
    path, first = merged[-2][1][0]
    if first.get("type") not in ("thinking", "redacted_thinking"):
        message = (
            f"Expected `thinking` or `redacted_thinking`, but found `{first.get('type')}`. When `thinking` is enabled, "
            "a final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` "
            "and `tool_result` blocks)."
        )
        raise fail(f"{path}.type", message)


def _source(value: object, path: str, types: tuple[str, ...]) -> str:
    """The name of an image or file for scripts: its media type, URL or id."""
    source = object_of(value, path)
    kind = source.get("type")
    if kind == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    if kind == "file" and isinstance(source.get("file_id"), str):
        return str(source["file_id"])
    if kind != "base64":
        raise fail(path, "Input tag found using 'type' does not match: 'base64', 'url', 'file'")
    if source.get("media_type") not in types:
        raise fail(f"{path}.base64.media_type", f"Input should be {', '.join(map(repr, types))}")
    if not decoded_base64(source.get("data")):
        raise fail(f"{path}.base64", "invalid base64 data")
    return str(source["media_type"])


def _check_seal(block: dict[str, Any], path: str) -> None:
    """A returned thinking block must be one that was issued here."""
    if block["type"] == "redacted_thinking":
        if not is_sealed(REDACTED, "", block.get("data")):
            raise Problem(400, f"{path}: Invalid `data` in `redacted_thinking` block")
        return
    for name in ("thinking", "signature"):
        if not isinstance(block.get(name), str):
            raise fail(f"{path}.thinking.{name}", "Field required")
    if not is_sealed(THINKING, block["thinking"], block["signature"]):
        raise Problem(400, f"{path}: Invalid `signature` in `thinking` block")


def _document(block: dict[str, Any], path: str) -> str:
    source = object_of(block.get("source"), f"{path}.document.source")
    if source.get("type") in ("text", "content"):
        return str(block.get("title") or "text/plain")
    return _source(source, f"{path}.document.source", ("application/pdf",))


def _joined(content: object, path: str) -> str:
    """The text of a tool result or search result, with the names of images."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for index, block in enumerate(list_of(content, path)):
        kind = object_of(block, f"{path}.{index}").get("type")
        texts.append(_text(block, f"{path}.{index}") if kind == "text" else f"({kind})")
    return " ".join(texts)


def _text(block: dict[str, Any], path: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise fail(f"{path}.text", "Field required" if text is None else "Input should be a valid string")
    if not text:
        raise Problem(400, "messages: text content blocks must be non-empty")
    return text


def _ttl(control: object, path: str) -> str:
    given = object_of(control, path)
    if given.get("type") != "ephemeral":
        raise fail(f"{path}.type", "Input should be 'ephemeral'")
    ttl = given.get("ttl", "5m")
    if ttl not in ("5m", "1h"):
        raise fail(f"{path}.ephemeral.ttl", "Input should be '5m' or '1h'")
    return str(ttl)


def whole_of(fields: dict[str, Any], name: str, low: int, prefix: str = "") -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise fail(prefix + name, "Field required" if value is None else "Input should be a valid integer")
    if value < low:
        raise fail(prefix + name, f"Input should be greater than or equal to {low}")
    return value


def list_of(value: object, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise fail(path, "Field required" if value is None else "Input should be a valid list")
    return value


def object_of(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise fail(path, "Field required" if value is None else "Input should be an object")
    return value
