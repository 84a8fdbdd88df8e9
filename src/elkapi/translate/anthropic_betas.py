"""Remove the fields of betas that a caller asks for in a header and the upstream is not sent.

Anthropic's SDKs and Claude Code send a beta's header and its fields together. An upstream that gets only the fields
refuses the call ("Extra inputs are not permitted"); without both, it answers as if the beta did not exist. Only fields
that tune the call are removed, as they are left out for other providers too. The upstream decides about the others.
"""

from __future__ import annotations

import msgspec

# The field that a beta permits, by the beginnings of the names that permit it (they end in a date).
_AT_TOP: tuple[tuple[str, tuple[str, ...]], ...] = (("context_management", ("context-management-", "compact-")),)
_OF_TOOLS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("defer_loading", ("tool-search-tool-", "advanced-tool-use-")),
    ("input_examples", ("tool-examples-", "advanced-tool-use-")),
)
_MARKS = tuple(b'"%b"' % name.encode() for name, _ in (*_AT_TOP, *_OF_TOOLS))
_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members)
_list = msgspec.json.Decoder(list[msgspec.Raw])
_names = msgspec.json.Decoder(list[str])
_encode = msgspec.json.encode


def without_beta_fields(body: bytes, asked: str, sent: str = "") -> bytes:
    """The body, a JSON object, without the fields of betas that were `asked` for and are neither `sent` nor in it.

    Both are values of the header `anthropic-beta`.
    """
    if not any(mark in body for mark in _MARKS):
        return body
    members = _members.decode(body)
    kept = [*_split(sent), *_named(members.get("anthropic_beta"))]
    dropped = [name for name in _split(asked) if name not in kept]
    removed = _gated(_AT_TOP, dropped, kept) & members.keys()
    changed = {name: raw for name, raw in members.items() if name not in removed}
    of_tools, tools = _gated(_OF_TOOLS, dropped, kept), bytes(members.get("tools", b""))
    if of_tools and tools.startswith(b"["):
        changed["tools"] = msgspec.Raw(_encode([_plain(tool, of_tools) for tool in _list.decode(tools)]))
    return body if changed == members else _encode(changed)


def _gated(rows: tuple[tuple[str, tuple[str, ...]], ...], dropped: list[str], kept: list[str]) -> set[str]:
    """The fields that a dropped beta permits and no kept one."""
    return {
        field
        for field, starts in rows
        if any(name.startswith(starts) for name in dropped) and not any(name.startswith(starts) for name in kept)
    }


def _plain(tool: msgspec.Raw, fields: set[str]) -> msgspec.Raw:
    if not bytes(tool).startswith(b"{"):
        return tool
    members = _members.decode(tool)
    if not fields & members.keys():
        return tool
    return msgspec.Raw(_encode({name: raw for name, raw in members.items() if name not in fields}))


def _split(header: str) -> list[str]:
    return [name.strip() for name in header.split(",") if name.strip()]


def _named(value: msgspec.Raw | None) -> list[str]:
    """The betas that a body names; none if it names something else, which the upstream refuses."""
    try:
        return _names.decode(value or b"[]")
    except msgspec.ValidationError:
        return []
