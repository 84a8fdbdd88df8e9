"""Write a `ChatRequest` as a chat completions body.

Contract: openai.md (Chat completions); anthropic.md section 4 for callers of other dialects.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.chat_parts import CLAUDES_FORMAT_NOW, FILE_ID, Places, is_stored_file
from elkapi.translate.dialect import given, stop_member
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    File,
    Image,
    Loss,
    Message,
    Part,
    Refusal,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from elkapi.translate.profiles import Profile, effort_asked, effort_for
from elkapi.translate.server_tools import chosen_server_tool, offered_server_tools, place_of
from elkapi.translate.strict_schema import strict_of
from elkapi.translate.typed_schema import typed

STOPS_MAX = 4
USER_CHARS_MAX = 64
_NINE = re.compile(r"[A-Za-z0-9]{9}")
# OpenAI's two dialects share stored files and service tiers; no other provider knows them.
_OF_OPENAI = ("chat", "responses")
# Fields that only tune an answer; they are not sent to upstreams that refuse unknown fields (`Profile.strict_chat`).
_OPENAIS = ("user", "seed", "verbosity", "service_tier", "logprobs", "top_logprobs")

# What this dialect cannot carry of a request in another dialect.
LOSSES = (
    Loss("signatures of thinking", False, "chat has none, but for Claude at OpenRouter; the text goes back if wanted"),
    Loss("redacted thinking", False, "it is opaque to every other dialect; Claude at OpenRouter gets it"),
    Loss("cache_control", False, "OpenAI-like upstreams cache prefixes by themselves; Claude at OpenRouter gets it"),
    Loss("top_k", False, "chat has no top_k; the model samples from all tokens"),
    Loss("temperature, top_p, penalties", False, "for models that refuse sampling parameters"),
    Loss("user, verbosity, log probabilities", False, "for models that refuse them (Mistral's)"),
    Loss("the role of later system messages", False, "for Mistral's models, which get them as the user's text"),
    Loss("more than 4 stop sequences", True, "chat accepts four"),
    Loss("metadata", False, "labels of stored answers; nothing is stored upstream for another dialect"),
    Loss("service_tier of Anthropic", False, "the tiers differ; the upstream's default is used"),
    Loss("images and files in tool results", False, "they follow in a user message that names the call"),
    Loss("images that the model made, in earlier turns", False, "chat's assistant messages hold text"),
    Loss("blocks of server tools in earlier turns", False, "only the provider that ran the tool can read them"),
    Loss("tool_choice of a web search", False, "models that can search there always do"),
    Loss("a web search alone, on providers whose chat cannot search", True, "the answer would not know what it asked"),
    Loss("a web search beside other tools, on such providers", False, "agents offer it on every call"),
    Loss("how much to think, finer than an effort word", False, "a token budget becomes the nearest effort word"),
    Loss("how much to think", False, "for models that only switch it on and off, or that are not known to think"),
    Loss("thinking beside a forced tool", False, "refused by DeepSeek, Moonshot and Alibaba; the tool comes first"),
    Loss("strict, of Anthropic's schemas with optional properties", False, "followed as well as the model can"),
    Loss("JSON schema on DeepSeek's and Zhipu's own services", False, "becomes JSON mode and an instruction"),
    Loss("alternatives beside an object's properties, for Moonshot", False, "their properties become optional ones"),
    Loss("files by URL", True, "chat accepts files only as data"),
    Loss("images by file id", True, "chat accepts images only as data or by URL"),
    Loss("files stored with a provider of another dialect", True, "the upstream does not know their ids"),
    Loss("server tools other than web search", True, "chat upstreams cannot run them"),
    Loss("allowed and blocked domains of a web search", True, "chat's web search has no such limit"),
    Loss("several answers (n) for another dialect", True, "a translated answer has one choice"),
)

# Not empty, since DeepSeek's newer models treat an empty text as missing.
_NO_THOUGHTS = " "


def write_request(request: ChatRequest, profile: Profile) -> bytes:
    """The body for a chat upstream. Raises BadRequest for what `LOSSES` lists as refused."""
    own = request.dialect == "chat"
    penalties = profile.sampling and profile.penalties
    if not own:
        _check_foreign(request)
    # Fields that are None are removed at the end.
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [],
        profile.max_tokens_field: request.max_output_tokens,
        "temperature": request.temperature if profile.sampling else None,
        "top_p": request.top_p if profile.sampling else None,
        "top_k": request.top_k if own else None,
        "n": request.n if request.n != 1 else None,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty if penalties else None,
        "frequency_penalty": request.frequency_penalty if penalties else None,
        "logit_bias": request.logit_bias,
        "logprobs": request.logprobs or None,
        "top_logprobs": request.top_logprobs,
        "verbosity": request.verbosity,
        "user": _user(request),
        "metadata": request.metadata if own else None,
        "service_tier": request.service_tier if request.dialect in _OF_OPENAI else None,
        "prompt_cache_key": request.cache_key,
    }
    if not own and profile.strict_chat:
        body |= dict.fromkeys(_OPENAIS) | {"random_seed": request.seed}
    _write_tools(request, profile, body)
    if own:
        body["reasoning_effort"] = _own_effort(request)
    else:
        _write_thinking(request, profile, body)
    instruction = _write_output(request, profile, body)
    rows = _messages(request, profile, instruction)
    if not rows:
        raise BadRequest("At least one message must have content.", param="messages")
    body["messages"] = _in_order(rows) if not own and profile.strict_chat else rows
    if request.stream:
        # Always requested, since billing depends on it (guarantees 45, 46).
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if own:
        extra = {name: value for name, value in request.extra.items() if name not in ("messages", "functions")}
        options = extra.pop("stream_options", None)
        body |= extra
        if request.stream and isinstance(options, dict):
            body["stream_options"] = options | {"include_usage": True}
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def _check_foreign(request: ChatRequest) -> None:
    """Raise BadRequest for what no chat upstream can do for a caller of another dialect."""
    if request.n != 1:
        raise BadRequest("`candidateCount` must be 1 for this model.", param="generationConfig.candidateCount")
    if len(request.stop) > STOPS_MAX:
        raise BadRequest(f"This model supports at most {STOPS_MAX} stop sequences.", param=stop_member(request))
    stored = any(is_stored_file(part) for message in request.messages for part in message.parts)
    if stored and request.dialect not in _OF_OPENAI:
        raise BadRequest("This model does not support files by id; send the file's data instead.", param="messages")


def _user(request: ChatRequest) -> str | None:
    """The user id; another dialect's id that is too long for OpenAI is replaced by its digest."""
    user = request.user
    if user is None or (request.dialect == "chat" and request.extra.get("safety_identifier") == user):
        return None
    if request.dialect != "chat" and len(user) > USER_CHARS_MAX:
        return hashlib.sha256(user.encode()).hexdigest()
    return user


def _own_effort(request: ChatRequest) -> str | None:
    """An effort from a provider's own field returns there from `extra`. An on/off field can only mean "none"."""
    if request.reasoning is None:
        return None
    effort, extra = request.reasoning.effort, request.extra
    objects = ("reasoning", "thinking", *(("enable_thinking", "chat_template_kwargs") if effort == "none" else ()))
    return effort if all(extra.get(name) is None for name in objects) else None


def _write_thinking(request: ChatRequest, profile: Profile, body: dict[str, Any]) -> None:
    """Set what tells the model to think, and how much; without a word of the caller, only where it must not."""
    asked = request.reasoning
    effort = effort_asked(asked) if asked is not None else None
    wanted = None if asked is None or (effort is None and not asked.adaptive) else effort != "none"
    forced = profile.calls_or_thinks and body.get("tool_choice") not in (None, "auto", "none")
    if forced or (profile.whole_unthinking and not request.stream):
        wanted = False
    if profile.thinking_field is not None and wanted is not None:
        body |= _switch(profile.thinking_field, wanted)
    if asked is None or profile.reasoning == "none" or (effort == "none" and profile.off_unsaid):
        return
    if wanted or profile.thinking_field is None:
        body["reasoning_effort"] = effort_for(asked, profile) or (profile.adaptive_effort if wanted else None)


def _switch(field: str, on: bool) -> dict[str, Any]:
    if field in ("thinking", "adaptive"):
        return {"thinking": {"type": ("enabled" if field == "thinking" else field) if on else "disabled"}}
    return {"enable_thinking": on} if field == "enable_thinking" else {field: {"enable_thinking": on}}


# --- tools and formats -----------------------------------------------------------------------------------------------


def _write_tools(request: ChatRequest, profile: Profile, body: dict[str, Any]) -> None:
    own, choice, tools = request.dialect == "chat", request.tool_choice, request.tools
    allowed = choice.names if choice is not None and choice.mode != "named" else ()
    if allowed and not own:
        # Few chat upstreams know `allowed_tools`; omitting the other tools has the same effect everywhere.
        tools = tuple(tool for tool in tools if tool.name in allowed)
    rows = [_tool(tool, request, profile) | _mark(tool, own or profile.cache_marks) for tool in tools]
    for served in request.server_tools if own else offered_server_tools(request):
        if own and "type" in served.raw:
            rows.append(served.raw)
            continue
        options = _web_search(served)
        if own or profile.web_search:
            body["web_search_options"] = options
        elif not rows or chosen_server_tool(request) is not None:
            raise BadRequest("This model cannot search the web.", param="tools")
    if rows:
        body["tools"] = rows
    # A model that searches on chat completions always does, so a choice of that tool is dropped.
    if choice is not None and "tool_choice" not in body and (own or (rows and chosen_server_tool(request) is None)):
        body["tool_choice"] = _choice(request) if choice.mode == "named" or (allowed and own) else choice.mode
    if request.parallel_tools is not None and (rows or own) and profile.parallel_tools_field:
        body["parallel_tool_calls"] = request.parallel_tools


def _tool(tool: Tool, request: ChatRequest, profile: Profile) -> dict[str, Any]:
    row: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.custom:
        row["format"] = _nested(tool.format)
    else:
        row |= {"parameters": _schema(tool.schema, profile), "strict": strict_of(request, tool.strict, tool.schema)}
    kind = "custom" if tool.custom else "function"
    return {"type": kind, kind: given(**row)}


def _schema(schema: dict[str, Any] | None, profile: Profile) -> dict[str, Any] | None:
    return typed(schema) if schema is not None and profile.typed_schema else schema


def _nested(form: Any) -> Any:
    """The format of a custom tool: chat completions nest a grammar one level deeper than `Tool.format`."""
    if isinstance(form, dict) and form.get("type") == "grammar":
        return {"type": "grammar", "grammar": {name: value for name, value in form.items() if name != "type"}}
    return form


def _choice(request: ChatRequest) -> dict[str, Any]:
    """The object form of a tool choice: one named tool, or a mode limited to some tools."""
    choice = request.tool_choice
    assert choice is not None
    custom = {tool.name for tool in request.tools if tool.custom}
    rows = [
        {"type": kind, kind: {"name": name}}
        for name in choice.names
        for kind in ("custom" if name in custom else "function",)
    ]
    if choice.mode == "named":
        return rows[0]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": rows}}


def _web_search(served: ServerTool) -> dict[str, Any]:
    """`web_search_options` for any dialect's web search. Raises BadRequest for other tools and domain filters."""
    raw = served.raw
    if served.dialect == "chat":
        return raw
    if served.kind != "web_search":
        raise BadRequest(f"This model does not support the `{served.kind}` tool.", param="tools")
    filters = raw.get("filters")
    for name in ("allowed_domains", "blocked_domains"):
        if raw.get(name) or (isinstance(filters, dict) and filters.get(name)):
            raise BadRequest(f"`{name}` of a web search is not supported by this model.", param=f"tools.{name}")
    options: dict[str, Any] = {}
    if raw.get("search_context_size") is not None:
        options["search_context_size"] = raw["search_context_size"]
    if (place := place_of(served)) is not None:
        options["user_location"] = {"type": "approximate", "approximate": place}
    return options


def _write_output(request: ChatRequest, profile: Profile, body: dict[str, Any]) -> str | None:
    """Set `response_format`. Returns an instruction if the model does not accept a schema."""
    output = request.output
    if output is None:
        return None
    if output.kind == "text":
        body["response_format"] = {"type": "text"}
    elif output.kind == "json" or not profile.json_schema:
        body["response_format"] = {"type": "json_object"}
    else:
        strict = strict_of(request, output.strict, output.schema)
        shape = _schema(output.schema, profile)
        schema = given(name=output.name, schema=shape, strict=strict, description=output.description)
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if output.kind != "schema" or profile.json_schema:
        return None
    return f"Answer with one JSON value that fits this JSON schema: {msgspec.json.encode(output.described).decode()}"


# --- messages --------------------------------------------------------------------------------------------------------


class _Beside:
    """The fields of messages and parts, and the starts of messages, that `read_request` kept by position."""

    def __init__(self, request: ChatRequest) -> None:
        places: Places = request.extra.get("messages", []) if request.dialect == "chat" else []
        self.messages = {tuple(place["at"]): place["message"] for place in places if "message" in place}
        self.parts = {tuple(place["at"]): place["part"] for place in places if "part" in place}


def _messages(request: ChatRequest, profile: Profile, instruction: str | None) -> list[dict[str, Any]]:
    beside = _Beside(request)
    rows = _system(request, profile, beside)
    if instruction:
        rows.append({"role": profile.system_role, "content": instruction})
    for index, message in enumerate(request.messages):
        if message.role == "assistant":
            rows += _assistant(request, profile, message, index, beside)
        else:
            role = profile.system_role if message.role == "system" else "user"
            rows += _user_rows(request, role, message, index, beside, profile.cache_marks)
    return rows


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as the strictest chat upstream (Mistral) accepts them.

    Instructions come only first, an assistant message separates a tool result from a user message, a partial answer at
    the end is marked as a prefix, and foreign call ids are replaced by ids of the required form.
    """
    result: list[dict[str, Any]] = []
    for row in rows:
        before = result[-1]["role"] if result else "system"
        if row["role"] == "system" and before != "system":
            row = row | {"role": "user"}
        if row["role"] == "user" and before == "tool":
            result.append({"role": "assistant", "content": "..."})
        if "tool_call_id" in row:
            row = row | {"tool_call_id": _nine(row["tool_call_id"])}
        if "tool_calls" in row:
            row = row | {"tool_calls": [call | {"id": _nine(call["id"])} for call in row["tool_calls"]]}
        result.append(row)
    if result[-1]["role"] == "assistant" and "tool_calls" not in result[-1]:
        result[-1] = result[-1] | {"prefix": True}
    return result


def _nine(call_id: str) -> str:
    """The id if it is nine letters and digits, otherwise a deterministic replacement."""
    if _NINE.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _system(request: ChatRequest, profile: Profile, beside: _Beside) -> list[dict[str, Any]]:
    """Chat's own instructions stay separate; another dialect's are joined, as many upstreams accept only one."""
    if request.dialect == "chat":
        rows = []
        for index, text in enumerate(request.system):
            content = _content([(text, beside.parts.get((-1, index)))])
            rows.append({"role": profile.system_role, "content": content} | beside.messages.get((-1, index), {}))
        return rows
    if profile.cache_marks and any(text.cache_ttl for text in request.system):
        parts = [(text, _mark(text)) for text in request.system if text.text]
        return [{"role": profile.system_role, "content": _content(parts)}]
    joined = "\n\n".join(text.text for text in request.system if text.text)
    return [{"role": profile.system_role, "content": joined}] if joined else []


def _user_rows(
    request: ChatRequest, role: str, message: Message, index: int, beside: _Beside, marks: bool
) -> list[dict[str, Any]]:
    """Tool results first, each as a message; then their images and files, which tool messages cannot hold; then the
    other parts."""
    rows: list[dict[str, Any]] = []
    after: list[tuple[Part, dict[str, Any] | None]] = []
    own = request.dialect == "chat"
    for position, part in enumerate(message.parts):
        if isinstance(part, ToolResult):
            rows.append(_result(part, own, marks) | beside.messages.get((index, position), {}))
            media = [inner for inner in part.parts if not _is_text(inner)]
            if media:
                after.append((Text(f"From the result of tool call {part.call_id}:"), None))
                after += [(inner, None) for inner in media]
    groups: list[tuple[dict[str, Any], list[tuple[Part, dict[str, Any] | None]]]] = [({}, after)] if after else []
    for position, part in enumerate(message.parts):
        if isinstance(part, ToolResult):
            continue
        begins = beside.messages.get((index, position))
        if begins is not None or not groups:
            groups.append((begins or {}, []))
        groups[-1][1].append((part, beside.parts.get((index, position)) if own else _mark(part, marks)))
    for members, parts in groups:
        # An empty text is still a message.
        if (content := _content(parts)) != []:
            rows.append({"role": role, "content": content} | members)
    return rows


def _is_text(part: Part) -> bool:
    return isinstance(part, Text) or (isinstance(part, File) and part.text is not None)


def _result(part: ToolResult, own: bool, carried: bool) -> dict[str, Any]:
    texts = [inner for inner in part.parts if _is_text(inner)]
    words = [row["text"] for inner in texts if (row := _part(inner)) is not None]
    content: Any = "\n".join(words)
    marks = [inner.cache_ttl for inner in texts if isinstance(inner, Text | File)]
    if own and (len(words) > 1 or any(marks)):
        content = [
            {"type": "text", "text": text} | (_cache_control(ttl) if ttl else {})
            for text, ttl in zip(words, marks, strict=True)
        ]
    if part.is_error:
        content = f"Error: {content}"
    ttl = part.cache_ttl or next((mark for mark in marks if mark), None)
    if carried and not own and ttl is not None:
        content = [{"type": "text", "text": content} | _cache_control(ttl)]
    return {"role": "tool", "tool_call_id": part.call_id, "content": content}


def _mark(marked: Part | Tool, carried: bool = True) -> dict[str, Any]:
    """The cache mark of a tool or a text; no other part can hold one."""
    ttl = marked.cache_ttl if carried and isinstance(marked, Text | Tool) else None
    return _cache_control(ttl) if ttl else {}


def _cache_control(ttl: str) -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral"} | ({"ttl": "1h"} if ttl == "1h" else {})}


def _content(parts: Sequence[tuple[Part, dict[str, Any] | None]]) -> str | list[dict[str, Any]]:
    """A string for a single text, which every upstream accepts; otherwise a list of parts."""
    if len(parts) == 1 and isinstance(parts[0][0], Text) and not parts[0][1]:
        return parts[0][0].text
    rows = [(_part(part), members) for part, members in parts]
    return [row | (members or {}) for row, members in rows if row is not None]


def _part(part: Part) -> dict[str, Any] | None:
    """One content part; None for parts that belong elsewhere or to another dialect."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        if (part.url or "").startswith(FILE_ID):
            raise BadRequest(
                "This model does not support images by file id; send a URL or the image's data.", param="input"
            )
        return image_row(part)
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    if isinstance(part, File):
        return _file(part)
    return {"type": "refusal", "refusal": part.text} if isinstance(part, Refusal) else None


def image_row(part: Image) -> dict[str, Any]:
    """An image as a content part, or as an item of an answer's `message.images`."""
    url = part.url if part.url is not None else f"data:{part.media_type or 'image/png'};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": part.detail} if part.detail else {})}


def _file(part: File) -> dict[str, Any]:
    name = {"filename": part.name} if part.name else {}
    if part.text is not None:
        return {"type": "text", "text": f"{part.name}:\n{part.text}" if part.name else part.text}
    if part.data is not None:
        name = name or {"filename": "document.pdf" if part.media_type == "application/pdf" else "document"}
        return {"type": "file", "file": {"file_data": f"data:{part.media_type};base64,{part.data}"} | name}
    url = part.url or ""
    if url.startswith(FILE_ID):
        return {"type": "file", "file": {"file_id": url.removeprefix(FILE_ID)} | name}
    raise BadRequest(
        "This model does not support documents by URL; send the document's data instead.", param="messages.content"
    )


def _assistant(
    request: ChatRequest, profile: Profile, message: Message, index: int, beside: _Beside
) -> list[dict[str, Any]]:
    starts = [position for position in range(1, len(message.parts)) if (index, position) in beside.messages]
    edges = [0, *starts, max(len(message.parts), 1)]
    rows = []
    for first, last in pairwise(edges):
        places = [(part, beside.parts.get((index, first + at))) for at, part in enumerate(message.parts[first:last])]
        row = _assistant_row(request, profile, places) | beside.messages.get((index, first), {})
        if len(row) > 1:
            rows.append(row)
    return rows


def _assistant_row(
    request: ChatRequest, profile: Profile, places: list[tuple[Part, dict[str, Any] | None]]
) -> dict[str, Any]:
    own = request.dialect == "chat"
    row: dict[str, Any] = {"role": "assistant"}
    thoughts = [part for part, _ in places if isinstance(part, Thinking)]
    calls = [_call(part, own) for part, _ in places if isinstance(part, ToolCall)]
    spoken = [(part, members) for part, members in places if isinstance(part, Text) and (part.text or own)]
    refusal = "".join(part.text for part, _ in places if isinstance(part, Refusal))
    if spoken:
        # Chat joins the text blocks of an answer, unless the caller's own dialect is chat and kept them separate.
        marked = not own and profile.cache_marks and any(part.cache_ttl for part, _ in spoken)
        if marked:
            spoken = [(part, _mark(part)) for part, _ in spoken]
        row["content"] = _content(spoken) if own or marked else "".join(part.text for part, _ in spoken)
    elif calls or refusal:
        row["content"] = None
    if refusal:
        row["refusal"] = refusal
    text = "".join(part.text for part in thoughts)
    if not own and calls and profile.reasoning_content:
        # DeepSeek and Kimi refuse a call without its thinking, even a call of another model, whose thinking is unknown.
        text = text or _NO_THOUGHTS
    if text and (own or profile.reasoning_content):
        row["reasoning_content"] = text
    if not own and profile.signed_details:
        signed = [_detail(part) for part in thoughts if part.signed_by == "anthropic"]
        if signed:
            row["reasoning_details"] = [detail | {"index": place} for place, detail in enumerate(signed)]
    if own and any(part.signature or part.redacted for part in thoughts):
        row["thinking_blocks"] = [thinking_block(part) for part in thoughts]
    if own and (images := [image_row(part) for part, _ in places if isinstance(part, Image)]):
        row["images"] = images
    if calls:
        row["tool_calls"] = calls
    return row


def _detail(part: Thinking) -> dict[str, Any]:
    """A passage that Claude signed, as OpenRouter takes it back."""
    if part.redacted is not None:
        return {"type": "reasoning.encrypted", "data": part.redacted, "format": CLAUDES_FORMAT_NOW}
    return {
        "type": "reasoning.text",
        "text": part.text,
        "signature": part.signature,
        "format": CLAUDES_FORMAT_NOW,
    }


def thinking_block(part: Thinking) -> dict[str, Any]:
    """A signed passage as a chat client sends it back: Anthropic's block, with `signed_by` for other signers."""
    signer = {"signed_by": part.signed_by} if part.signed_by not in (None, "anthropic") else {}
    if part.redacted is not None:
        return {"type": "redacted_thinking", "data": part.redacted} | signer
    return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""} | signer


def _call(part: ToolCall, own: bool) -> dict[str, Any]:
    if part.custom:
        return {"id": part.id, "type": "custom", "custom": {"name": part.name, "input": part.arguments}}
    # An empty string is not JSON, and some upstreams check that.
    arguments = part.arguments if own else part.arguments or "{}"
    row: dict[str, Any] = {
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": arguments},
    }
    if own and part.signature and part.signed_by == "gemini":
        row["extra_content"] = {"google": {"thought_signature": part.signature}}
    return row
