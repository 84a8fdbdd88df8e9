"""Adapts a caller's Gemini body to Vertex AI, which is stricter than Google's Gemini API."""

from __future__ import annotations

import msgspec

from elkapi.catalog.jsonedit import with_raw

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.encode
_USER = msgspec.Raw(b'"user"')
_NO_ROLE = (b"", b"null", b'""')
_WHOLE = ("generateContentRequest", "generate_content_request")
# What countTokens accepts there, in both spellings.
_COUNTED = frozenset(
    {"contents", "systemInstruction", "system_instruction", "tools", "generationConfig", "generation_config"}
)


def for_vertex(body: bytes) -> bytes:
    """The body with a role in each turn, and without the wrapper in which countTokens may get a whole request.

    Vertex AI requires both. A body that has other mistakes stays as it is.
    """
    try:
        members = _object.decode(body)
        for name in _WHOLE:
            if name in members:
                members = {one: value for one, value in _object.decode(members[name]).items() if one in _COUNTED}
                body = _encode(members)
        contents = members.get("contents", msgspec.Raw(b"[]"))
        turns = [contents] if bytes(contents).startswith(b"{") else _list.decode(contents)
        told = [_with_role(turn) for turn in turns]
    except msgspec.DecodeError:
        return body
    changed = any(new is not old for new, old in zip(told, turns, strict=True))
    return with_raw(body, "contents", _encode(told)) if changed else body


def _with_role(turn: msgspec.Raw) -> msgspec.Raw:
    members = _object.decode(turn)
    if bytes(members.get("role", b"")) not in _NO_ROLE:
        return turn
    return msgspec.Raw(_encode({**members, "role": _USER}))
