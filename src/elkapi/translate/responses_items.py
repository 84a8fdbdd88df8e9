"""Read input items of the responses dialect into instructions and turns; `responses_request` reads the other fields.

Contract: openai.md (response, `input`). Items that only this dialect has (calls of built-in tools and their outputs,
references, a provider's compactions) are kept in place as `ServerToolPart`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.chat_parts import FILE_ID, at, file_of, image_at, type_by_name
from elkapi.translate.ir import (
    Audio,
    File,
    Image,
    Message,
    Part,
    Refusal,
    ServerToolPart,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Ttl,
)
from elkapi.translate.seal import UNSIGNED, Sealed, unseal

Role = Literal["user", "assistant", "system"]

_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_CONTENT_PARTS = _TEXT_PARTS | {"refusal", "input_image", "input_file", "input_audio"}
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class _Audio(msgspec.Struct):
    data: str
    format: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: _Audio | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class _Head(msgspec.Struct):
    type: str | None = None
    role: str | None = None


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]]


class _Call(msgspec.Struct):
    call_id: str
    name: str
    arguments: str = ""
    namespace: str | None = None


class _CustomCall(msgspec.Struct):
    call_id: str
    name: str
    input: str = ""
    namespace: str | None = None


class _CallOutput(msgspec.Struct):
    call_id: str
    output: str | list[dict[str, Any]]


class _TextPart(msgspec.Struct):
    text: str = ""


class _Reasoning(msgspec.Struct):
    summary: list[_TextPart] = []
    content: list[_TextPart] | None = None
    encrypted_content: str | None = None


class _Compaction(msgspec.Struct):
    encrypted_content: str


def joined_name(name: str, namespace: str | None) -> str:
    """The name of a namespaced tool outside this dialect."""
    return f"{namespace}__{name}" if namespace else name


def read_items(items: str | list[dict[str, Any]] | None) -> tuple[tuple[Text, ...], list[Message]]:
    """(leading instructions, turns with adjacent items of one role merged). Raises BadRequest naming `input[n]...`."""
    if items is None or isinstance(items, str):
        return (), [Message("user", (Text(items),))] if items is not None else []
    history = _History()
    for index, item in enumerate(items):
        history.add(item, f"input[{index}]")
    return tuple(history.system), [Message(role, tuple(parts)) for role, parts in history.turns]


def tools_in_input(items: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The tools declared inside the input: newer clients (Codex) leave `tools` empty."""
    if items is None or isinstance(items, str):
        return []
    lists = [item.get("tools") for item in items if item.get("type") == "additional_tools"]
    return [tool for tools in lists if isinstance(tools, list) for tool in tools if isinstance(tool, dict)]


class _History:
    """Collects the turns. Keeps calls by id, for the names of results, and signatures that precede their call."""

    def __init__(self) -> None:
        self.system: list[Text] = []
        self.turns: list[tuple[Role, list[Part]]] = []
        self._calls: dict[str, ToolCall] = {}
        self._signatures: dict[str, Sealed] = {}

    def add(self, item: dict[str, Any], path: str) -> None:
        head = at(path, item, _Head)
        kind = head.type or ("message" if head.role else "item_reference")
        if kind == "message":
            self._message(item, head.role, path)
        elif kind == "function_call":
            call = at(path, item, _Call)
            self._call(call.call_id, joined_name(call.name, call.namespace), call.arguments, custom=False)
        elif kind == "custom_tool_call":
            custom = at(path, item, _CustomCall)
            self._call(custom.call_id, joined_name(custom.name, custom.namespace), custom.input, custom=True)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._output(at(path, item, _CallOutput), kind == "custom_tool_call_output", path)
        elif kind == "reasoning":
            self._reasoning(at(path, item, _Reasoning))
        elif kind == "additional_tools":
            pass  # Declared with the other tools: `tools_in_input`.
        elif kind == "compaction" and (found := unseal(at(path, item, _Compaction).encrypted_content)):
            self._put("user", Text(found.summary or ""))
        elif head.role is not None or kind in _CONTENT_PARTS:
            # Otherwise content from the caller would be dropped silently.
            raise BadRequest(
                f"`{path}` must not be of type `{kind[:40]}`; put content parts in an item of type `message`.",
                param=path,
            )
        else:
            # The output of a call belongs to the user's side, whoever gave it.
            side: Role = "user" if kind.endswith(("_output", "_response")) else "assistant"
            self._put(side, ServerToolPart("responses", item))

    def _put(self, role: Role, *parts: Part) -> None:
        if parts and (not self.turns or self.turns[-1][0] != role):
            self.turns.append((role, []))
        if parts:
            self.turns[-1][1].extend(parts)

    def _message(self, item: dict[str, Any], role: str | None, path: str) -> None:
        side = _ROLES.get(role or "")
        if side is None:
            raise BadRequest(
                f"`{path}.role` must be user, assistant, system or developer.",
                param=f"{path}.role",
            )
        parts = read_content(at(path, item, _Message).content, f"{path}.content")
        if side != "system":
            self._put(side, *parts)
            return
        texts = [part for part in parts if isinstance(part, Text)]
        if len(texts) != len(parts):
            raise BadRequest(
                f"`{path}.content` of a system or developer message must contain only text.", param=f"{path}.content"
            )
        if self.turns:
            self._put(side, *texts)
        else:
            self.system += texts

    def _call(self, call_id: str, name: str, arguments: str, *, custom: bool) -> None:
        found = self._signatures.pop(call_id, None)
        call = ToolCall(
            call_id,
            name,
            arguments,
            custom=custom,
            signature=found.signature if found else None,
            signed_by=found.dialect if found else None,
        )
        self._calls[call_id] = call
        self._put("assistant", call)

    def _output(self, view: _CallOutput, custom: bool, path: str) -> None:
        parts = read_content(view.output, f"{path}.output") if view.output else []
        kept = tuple(part for part in parts if isinstance(part, Text | Image | File))
        if len(kept) != len(parts):
            raise BadRequest(f"`{path}.output` must contain only text, images and files.", param=f"{path}.output")
        call = self._calls.get(view.call_id)
        self._put("user", ToolResult(view.call_id, kept, name=call.name if call else "", custom=custom))

    def _reasoning(self, view: _Reasoning) -> None:
        """One `Thinking` per passage; the signature belongs to the last one, which may have no text."""
        texts = [row.text for row in view.summary or view.content or ()]
        signature = None if view.encrypted_content == UNSIGNED else view.encrypted_content or None
        found = unseal(signature)
        if found is None:
            parts = [Thinking(text) for text in texts[:-1]]
            last = texts[-1] if texts else ""
            if last or signature:
                parts.append(Thinking(last, signature, "responses" if signature else None))
            self._put("assistant", *parts)
        elif found.call_id is not None:
            self._signatures[found.call_id] = found
        elif found.redacted is not None:
            self._put("assistant", Thinking(redacted=found.redacted, signed_by=found.dialect))
        else:
            self._put("assistant", Thinking(found.text, found.signature, found.dialect))


def read_content(content: str | list[dict[str, Any]], path: str) -> list[Part]:
    """The parts of a message's content or of a tool's output. Raises BadRequest."""
    if isinstance(content, str):
        return [Text(content)]
    return [_part(row, f"{path}[{index}]") for index, row in enumerate(content)]


def _part(row: dict[str, Any], path: str) -> Part:
    view = at(path, row, _Part)
    ttl = _ttl(view.prompt_cache_breakpoint)
    if view.type in _TEXT_PARTS and view.text is not None:
        return Text(view.text, ttl)
    if view.type == "refusal" and view.refusal is not None:
        return Refusal(view.refusal)
    if view.type == "input_image":
        return _image(view, ttl, path)
    if view.type == "input_file":
        return _file(view, ttl, path)
    if view.type == "input_audio" and view.input_audio is not None:
        return Audio(view.input_audio.data, view.input_audio.format)
    raise BadRequest(
        f"`{path}` has type `{view.type[:40]}`, which is not supported or lacks the field that this type requires.",
        param=path,
    )


def _ttl(mark: dict[str, Any] | None) -> Ttl:
    if mark is None:
        return None
    return "1h" if mark.get("ttl") == "12h" else "5m"


def _image(view: _Part, ttl: Ttl, path: str) -> Image:
    if (view.image_url is None) == (view.file_id is None):
        raise BadRequest(f"`{path}` must have exactly one of `image_url` and `file_id`.", param=path)
    if view.image_url is None:
        return Image(url=FILE_ID + str(view.file_id), detail=view.detail, cache_ttl=ttl)
    return image_at(view.image_url, view.detail, ttl, f"{path}.image_url")


def _file(view: _Part, ttl: Ttl, path: str) -> File:
    if [view.file_id, view.file_url, view.file_data].count(None) != 2:
        raise BadRequest(f"`{path}` must have exactly one of `file_data`, `file_url` and `file_id`.", param=path)
    if view.file_id is not None:
        return File("application/octet-stream", url=FILE_ID + view.file_id, name=view.filename, cache_ttl=ttl)
    if view.file_url is not None:
        # The extension is that of the path: a URL may have a signature in its query.
        address = view.file_url.partition("?")[0].partition("#")[0]
        return File(type_by_name(view.filename or address), url=view.file_url, name=view.filename, cache_ttl=ttl)
    return file_of(view.file_data or "", view.filename, ttl)
