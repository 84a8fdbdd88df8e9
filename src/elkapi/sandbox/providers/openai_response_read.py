"""Reads a Responses body: input items, flat tools and stored history as a neutral `Ask`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers import openai_read as read
from elkapi.sandbox.providers.openai_models import thinks_tokens
from elkapi.sandbox.talk import Ask, Call, Result, Tool, Turn

SEAL = b"sandbox sealed: "
"""Prefix of encrypted content before encoding; content without it is refused as forged."""

BUILT_IN_TOOLS = frozenset(
    (
        "web_search", "web_search_2025_08_26", "web_search_preview", "file_search", "code_interpreter", "mcp",
        "image_generation", "computer", "computer_use_preview", "local_shell", "shell", "apply_patch", "tool_search",
        "programmatic_tool_calling", "namespace",
    )
)  # fmt: skip
# Items that clients return unchanged and that the sandbox's models ignore.
SILENT_ITEMS = frozenset(
    (
        "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call",
        "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "computer_call", "computer_call_output",
        "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call",
        "apply_patch_call_output", "tool_search_call", "tool_search_output", "program", "program_output",
        "additional_tools",
    )
)  # fmt: skip


Finder = Callable[[str], dict[str, Any] | None]


class History(msgspec.Struct):
    """The conversation so far: the turns, and the unanswered tool calls by id."""

    turns: list[Turn] = []
    waiting: dict[str, str] = {}


def sealed(text: str) -> str:
    """Text as opaque content that a caller returns unchanged."""
    return base64.b64encode(SEAL + text.encode()).decode("ascii")


def unsealed(value: object, param: str) -> str:
    """The text of sealed content. Raises Problem 400 if it is not ours."""
    try:
        opened = base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError):
        opened = b""
    if not opened.startswith(SEAL):
        message = "The encrypted content could not be verified."
        raise Problem(400, message, code="invalid_encrypted_content", param=param)
    return opened.removeprefix(SEAL).decode()


def response_ask(body: Mapping[str, Any], model: str, history: History, find: Finder) -> Ask:
    """The body as an `Ask`, after `history`, which grows by the input. `find`: looks up items it refers to."""
    read.sampling_checked(body)
    reasoning = body.get("reasoning") or {}
    if not isinstance(reasoning, dict):
        raise read.invalid("reasoning must be an object.", "reasoning")
    effort = read.effort_checked(reasoning.get("effort"), "reasoning.effort")
    for index, item in enumerate(input_items(body)):
        _add(history, item, f"input[{index}]", find)
    if history.waiting:
        raise read.invalid(f"No tool output found for function call {next(iter(history.waiting))}.", "input")
    text = body.get("text") or {}
    schema, wants_json = read.format_of(text.get("format"), "text.format", nested=False)
    choice, tools = read.chosen(body.get("tool_choice"), _tools(body.get("tools")), "tool_choice")
    instructions = body.get("instructions")
    return Ask(
        turns=tuple(history.turns),
        system=instructions if isinstance(instructions, str) else "",
        tools=tools,
        choice=choice,
        parallel=read.flag(body, "parallel_tool_calls", default=True),
        schema=schema,
        wants_json=wants_json,
        thinks_tokens=thinks_tokens(model, effort),
        output_tokens_max=read.whole(body, "max_output_tokens", 1, 1_000_000),
    )


def input_items(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The input as items; a string is one user message."""
    value = body.get("input")
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if value is None and body.get("previous_response_id"):
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise read.invalid("input must be a string or an array of items.", "input")
    return value


def _add(history: History, item: dict[str, Any], at: str, find: Finder) -> None:
    """Add one item to the history."""
    kind = item.get("type") or ("message" if "id" not in item or "role" in item else "item_reference")
    if kind == "item_reference":
        found = find(str(item.get("id")))
        if found is None:
            raise Problem(404, f"Item with id '{item.get('id')}' not found.", param="input")
        _add(history, found, at, lambda _: None)
    elif kind == "message":
        _add_message(history, item, at)
    elif kind in ("function_call", "custom_tool_call"):
        custom = kind == "custom_tool_call"
        text = item.get("input" if custom else "arguments")
        if (
            not isinstance(item.get("call_id"), str)
            or not isinstance(item.get("name"), str)
            or not isinstance(text, str)
        ):
            raise read.invalid("A call needs a call_id, a name and its arguments as a string.", at)
        history.waiting[item["call_id"]] = item["name"]
        history.turns.append(Turn("assistant", calls=(Call(item["name"], text, custom),)))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        name = history.waiting.pop(str(item.get("call_id")), None)
        if name is None:
            raise read.invalid(f"No tool call found for function call output with call_id {item.get('call_id')}.", at)
        output = item.get("output")
        text = output if isinstance(output, str) else _content(output, f"{at}.output").text
        history.turns.append(Turn("user", results=(Result(name, text),)))
    elif kind == "reasoning":
        if item.get("encrypted_content") is not None:
            unsealed(item["encrypted_content"], f"{at}.encrypted_content")
    elif kind == "compaction":
        text = unsealed(item.get("encrypted_content"), f"{at}.encrypted_content")
        history.turns.append(Turn("assistant", text))
    elif kind not in SILENT_ITEMS:
        raise read.invalid(f"Invalid item type {kind!r}.", f"{at}.type")


def _add_message(history: History, item: dict[str, Any], at: str) -> None:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise read.invalid(f"Invalid role {role!r}.", f"{at}.role")
    content = _content(item.get("content"), f"{at}.content")
    if role in ("system", "developer"):
        # It counts as input but must not become the question, so it is an assistant turn.
        history.turns.append(Turn("assistant", content.text))
    else:
        history.turns.append(content.turn("user" if role == "user" else "assistant"))


def _content(value: object, param: str) -> read.Content:
    """An item's content: a string or parts."""
    if isinstance(value, str):
        return read.Content(value)
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise read.invalid("content must be a string or an array of parts.", param)
    content, texts = read.Content(), []
    for index, part in enumerate(value):
        at, kind = f"{param}[{index}]", part.get("type")
        if kind in ("input_text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        elif kind == "input_image":
            file_id, url = part.get("file_id"), part.get("image_url")
            content.images.append(str(file_id) if file_id else read.image_source(url, f"{at}.image_url"))
        elif kind == "input_file" and any(part.get(key) for key in ("file_id", "file_data", "file_url")):
            content.files.append(str(part.get("filename") or part.get("file_id") or part.get("file_url") or "file"))
        else:
            raise read.invalid(f"Invalid content part of type {kind!r}.", at)
    content.text = "\n".join(texts)
    return content


def _tools(value: object) -> tuple[Tool, ...]:
    if value is not None and (not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value)):
        raise read.invalid("tools must be an array of objects.", "tools")
    tools = []
    for index, tool in enumerate(value or []):
        kind = tool.get("type")
        if kind in ("function", "custom"):
            tools.append(read.tool_of(tool, f"tools[{index}]", custom=kind == "custom"))
        elif kind not in BUILT_IN_TOOLS:
            raise read.invalid(f"Invalid tool type {kind!r}.", f"tools[{index}].type")
    return tuple(tools)
