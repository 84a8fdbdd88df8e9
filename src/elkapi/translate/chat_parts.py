"""Read the content of chat messages into parts of `ir`; `chat_write_request` does the reverse.

Contract: openai.md (Chat completions, Content).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypedDict, TypeVar, get_args

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import convert
from elkapi.translate.ir import (
    Audio,
    DialectName,
    File,
    Image,
    Message,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Ttl,
)

T = TypeVar("T")

# The prefix that marks the id of a stored file as a URL. Only the provider that stored it knows the id: chat upstreams
# get it back, all others refuse it.
FILE_ID = "file-id:"

# How OpenRouter names the thinking of Claude models, and what it begins with.
CLAUDES_FORMAT = "anthropic-claude"
CLAUDES_FORMAT_NOW = "anthropic-claude-v1"

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,", re.IGNORECASE)
_MEDIA_TYPES = {
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class Place(TypedDict, total=False):
    """Fields that `ir` does not have, of a part or of the message that begins at it. `at` is (message, part)."""

    at: list[int]
    message: dict[str, Any]
    part: dict[str, Any]


Places = list[Place]


class _ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class _InputAudio(msgspec.Struct):
    data: str
    format: str


class _InputFile(msgspec.Struct):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | _ImageUrl | None = None
    input_audio: _InputAudio | None = None
    file: _InputFile | None = None
    thinking: Any = None
    cache_control: dict[str, Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None
    extra_content: Any = None


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _CustomCall(msgspec.Struct):
    name: str
    input: str = ""


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function | None = None
    custom: _CustomCall | None = None
    extra_content: dict[str, Any] | None = None


class _ThinkingBlock(msgspec.Struct):
    type: str
    thinking: str = ""
    signature: str | None = None
    data: str | None = None
    signed_by: str | None = None


class _Assistant(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[_ThinkingBlock] | None = None
    images: list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


def at(path: str, value: Any, type_: type[T]) -> T:
    """`convert` with `path` (such as `messages[2].content`) in the BadRequest."""
    try:
        return convert(value, type_)
    except BadRequest as error:
        param = ".".join(step for step in (path, error.param) if step)
        raise BadRequest(f"{error.message.rstrip('.')} (in `{path}`).", param=param) from None


def members_beside(content: Any) -> list[tuple[int, dict[str, Any]]]:
    """(index, fields) of the parts with cache marks, of which `ir` keeps only the lifetime."""
    marks = ("cache_control", "prompt_cache_breakpoint")
    rows = content if isinstance(content, list) else ()
    found = [
        (index, {name: row[name] for name in marks if row.get(name) is not None}) for index, row in enumerate(rows)
    ]
    return [(index, members) for index, members in found if members]


def read_text(content: str | list[dict[str, Any]] | None, path: str) -> list[Text]:
    """The content of instructions. Raises BadRequest if it is not all text."""
    texts: list[Text] = []
    for part in read_content(content if content is not None else "", path):
        if not isinstance(part, Text):
            raise BadRequest(f"`{path}.content` must contain only text.", param=f"{path}.content")
        texts.append(part)
    return texts


def read_content(content: str | list[dict[str, Any]], path: str) -> list[Part]:
    """The parts of a string or a list of parts. Raises BadRequest for an empty list or an unknown type."""
    if isinstance(content, str):
        return [Text(content)]
    if not content:
        raise BadRequest(f"`{path}.content` is an empty array.", param=f"{path}.content")
    return [_part(row, f"{path}.content[{index}]") for index, row in enumerate(content)]


def _part(row: dict[str, Any], path: str) -> Part:
    view = at(path, row, _Part)
    ttl = _ttl(view)
    if view.type in ("text", "input_text", "output_text") and view.text is not None:
        return Text(view.text, ttl)
    if view.type == "image_url" and view.image_url is not None:
        return _image(view.image_url, ttl, path)
    if view.type == "input_audio" and view.input_audio is not None:
        return Audio(view.input_audio.data, view.input_audio.format)
    if view.type == "file" and view.file is not None:
        return _file(view.file, ttl, path)
    if view.type == "refusal" and view.refusal is not None:
        return Refusal(view.refusal)
    if view.type == "thinking" and view.thinking is not None:
        return Thinking(thinking_text(view.thinking))
    raise BadRequest(
        f"`{path}` has type `{view.type[:40]}`, which is not supported or lacks the field that this type requires.",
        param=path,
    )


def thinking_text(value: Any) -> str:
    """The text of a thinking part: a string, or Mistral's list of text parts."""
    if isinstance(value, str):
        return value
    rows = value if isinstance(value, list) else []
    return "".join(row["text"] for row in rows if isinstance(row, dict) and isinstance(row.get("text"), str))


def _ttl(view: _Part) -> Ttl:
    if view.cache_control is not None:
        return lifetime(view.cache_control)
    return "5m" if view.prompt_cache_breakpoint is not None else None


def lifetime(mark: dict[str, Any] | None) -> Ttl:
    """The lifetime that a cache mark requests; None without a mark."""
    if mark is None:
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"


def split_data_url(url: str) -> tuple[str, str] | None:
    """(media type, base64) of a data URL; None for any other URL."""
    found = _DATA_URL.match(url)
    return (found.group(1).lower(), url[found.end() :]) if found else None


def _image(value: str | _ImageUrl, ttl: Ttl, path: str) -> Image:
    view = _ImageUrl(value) if isinstance(value, str) else value
    return image_at(view.url, view.detail, ttl, f"{path}.image_url.url")


def image_at(url: str, detail: str | None, ttl: Ttl, path: str) -> Image:
    """The image of an http(s), gs or data URL. Raises BadRequest with `path` for any other URL."""
    if data := split_data_url(url):
        return Image(data=data[1], media_type=data[0] or "image/png", detail=detail, cache_ttl=ttl)
    if not url.startswith(("http://", "https://", "gs://")):
        raise BadRequest(f"`{path}` must be an http(s) URL or a data URL.", param=path)
    return Image(url=url, detail=detail, cache_ttl=ttl)


def _file(view: _InputFile, ttl: Ttl, path: str) -> File:
    if (view.file_id is None) == (view.file_data is None):
        raise BadRequest(f"`{path}.file` must have exactly one of `file_data` and `file_id`.", param=f"{path}.file")
    if view.file_id is not None:
        return File("application/octet-stream", url=FILE_ID + view.file_id, name=view.filename, cache_ttl=ttl)
    return file_of(view.file_data or "", view.filename, ttl)


def file_of(data: str, name: str | None, ttl: Ttl) -> File:
    """A file sent as base64 or as a data URL; its type is the URL's, or that of the name's extension."""
    said, content = split_data_url(data) or ("", data)
    return File(said or type_by_name(name or ""), data=content, name=name, cache_ttl=ttl)


def type_by_name(name: str) -> str:
    """The media type of a file name's extension; PDF if the extension is unknown."""
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower(), "application/pdf")


def is_stored_file(part: Part) -> bool:
    """Whether a part, or a part of a tool result, refers to a file by a provider's id."""
    inner = part.parts if isinstance(part, ToolResult) else (part,)
    return any(isinstance(one, Image | File) and (one.url or "").startswith(FILE_ID) for one in inner)


def refuse_file_ids(messages: Iterable[Message]) -> None:
    """Raise BadRequest if a message refers to a file by the id of another provider."""
    if any(is_stored_file(part) for message in messages for part in message.parts):
        raise BadRequest("This model does not support files by id; send the file's data instead.", param="messages")


class Calls:
    """The calls of the turns so far: their count, and the latest by id and by name, for looking up results."""

    def __init__(self) -> None:
        self.count = 0
        self.by_id: dict[str, ToolCall] = {}
        self.by_name: dict[str, ToolCall] = {}

    def add(self, call: ToolCall) -> None:
        """Record a call."""
        self.count += 1
        self.by_id[call.id] = self.by_name[call.name] = call


def read_assistant(row: dict[str, Any], path: str, calls: Calls) -> list[Part]:
    """The parts of an assistant message: thinking, text and refusals, then calls, which are added to `calls`."""
    view = at(path, row, _Assistant)
    parts: list[Part] = [_thinking(block, path) for block in view.thinking_blocks or ()]
    unsigned = view.reasoning_content or view.reasoning
    if not parts and unsigned:
        parts.append(Thinking(unsigned))
    if view.content:
        parts += read_content(view.content, path)
    if view.refusal:
        parts.append(Refusal(view.refusal))
    for image in view.images or ():
        if image.image_url is not None:
            parts.append(_image(image.image_url, None, path))
            if signature := thought_signature(image.extra_content):
                parts.append(Thinking(signature=signature, signed_by="gemini"))
    made = [_call(call, path) for call in view.tool_calls or ()]
    if view.function_call is not None:
        name, arguments = view.function_call.name, view.function_call.arguments
        made.append(ToolCall(f"call_{calls.count}", name, arguments_text(arguments)))
    for call in made:
        calls.add(call)
    return parts + made


def _call(call: _Call, path: str) -> ToolCall:
    if not call.id:
        raise BadRequest(f"`id` is missing from a call in `{path}.tool_calls`.", param=f"{path}.tool_calls.id")
    if call.custom is not None:
        return ToolCall(call.id, call.custom.name, call.custom.input, custom=True)
    if call.function is None:
        raise BadRequest(
            f"`function` is missing from a call in `{path}.tool_calls`.", param=f"{path}.tool_calls.function"
        )
    signature = thought_signature(call.extra_content)
    return ToolCall(
        call.id,
        call.function.name,
        arguments_text(call.function.arguments),
        signature=signature,
        signed_by="gemini" if signature else None,
    )


def arguments_text(arguments: str | dict[str, Any] | None) -> str:
    """The arguments as JSON text; some clients and upstreams send an object instead."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def thought_signature(extra_content: Any) -> str | None:
    """Gemini's signature in Google's chat format: `extra_content.google.thought_signature`."""
    google = extra_content.get("google") if isinstance(extra_content, dict) else None
    found = google.get("thought_signature") if isinstance(google, dict) else None
    return found if isinstance(found, str) and found else None


def _thinking(block: _ThinkingBlock, path: str) -> Thinking:
    signed_by = signer(block.signed_by)
    if block.type == "redacted_thinking" and block.data:
        return Thinking(redacted=block.data, signed_by=signed_by)
    if block.type != "thinking":
        raise BadRequest(f"`{path}.thinking_blocks` has an unknown type.", param=f"{path}.thinking_blocks")
    signature = block.signature or None
    return Thinking(block.thinking, signature, signed_by if signature else None)


def signer(value: Any) -> DialectName:
    """The signer of a thinking block; Anthropic by default."""
    return value if value in get_args(DialectName) else "anthropic"


def read_result(content: Any, call_id: str, calls: Calls, path: str) -> ToolResult:
    """The result of a tool; its name and kind are those of the call with that id."""
    call = calls.by_id.get(call_id)
    parts: list[Text | Image | File] = []
    for part in read_content(content, path) if content is not None and content != [] else ():
        if not isinstance(part, Text | Image | File):
            raise BadRequest(
                f"`{path}.content` of a tool message must contain only text and images.", param=f"{path}.content"
            )
        parts.append(part)
    return ToolResult(
        call_id,
        tuple(parts),
        name=call.name if call else "",
        custom=call.custom if call else False,
    )
