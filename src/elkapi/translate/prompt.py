"""Insert a channel's own instructions before a caller's conversation in a body that is otherwise relayed unchanged."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from elkapi.translate.anthropic import ATTRIBUTION

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_any = msgspec.json.Decoder()
_encode = msgspec.json.encode
_Members = dict[str, msgspec.Raw]
_NULL = msgspec.Raw(b"null")


def with_instructions(body: bytes, wire: str, instructions: str) -> bytes:
    """The body with `instructions` before the caller's own; unchanged for a wire format without instructions."""
    put = _PUT.get(wire)
    if put is None:
        return body
    members = _object.decode(body)
    put(members, instructions)
    return _encode(members)


def _chat(members: _Members, instructions: str) -> None:
    first = msgspec.Raw(_encode({"role": "system", "content": instructions}))
    members["messages"] = msgspec.Raw(_encode([first, *_list.decode(members["messages"])]))


def _responses(members: _Members, instructions: str) -> None:
    members["instructions"] = _before(members.get("instructions", _NULL), instructions)


def _anthropic(members: _Members, instructions: str) -> None:
    given = members.get("system", _NULL)
    if bytes(given).lstrip().startswith(b"["):
        first, blocks = msgspec.Raw(_encode({"type": "text", "text": instructions})), _list.decode(given)
        # Anthropic removes the billing line from the prompt only if it is the first block.
        place = 1 if blocks and _is_billing(blocks[0]) else 0
        members["system"] = msgspec.Raw(_encode([*blocks[:place], first, *blocks[place:]]))
    else:
        members["system"] = _before(given, instructions)


def _is_billing(block: msgspec.Raw) -> bool:
    read = _any.decode(block)
    return isinstance(read, dict) and str(read.get("text")).startswith(ATTRIBUTION)


def _gemini(members: _Members, instructions: str) -> None:
    name = "system_instruction" if "system_instruction" in members else "systemInstruction"
    given = members.get(name, _NULL)
    first = msgspec.Raw(_encode({"text": instructions}))
    if bytes(given).lstrip().startswith(b"{"):
        content = _object.decode(given)
        parts = content.get("parts", msgspec.Raw(b"[]"))
        listed = _list.decode(parts) if bytes(parts).lstrip().startswith(b"[") else [parts]
        content["parts"] = msgspec.Raw(_encode([first, *listed]))
        members[name] = msgspec.Raw(_encode(content))
    else:
        members[name] = msgspec.Raw(_encode({"parts": [first]}))


def _converse(members: _Members, instructions: str) -> None:
    first = msgspec.Raw(_encode({"text": instructions}))
    members["system"] = msgspec.Raw(_encode([first, *_list.decode(members.get("system", b"[]"))]))


def _before(given: msgspec.Raw, instructions: str) -> msgspec.Raw:
    """A text field with the instructions before it; any other value is replaced."""
    own = _text.decode(given) if bytes(given).lstrip().startswith(b'"') else ""
    return msgspec.Raw(_encode(f"{instructions}\n\n{own}" if own else instructions))


_PUT: dict[str, Callable[[_Members, str], None]] = {
    "chat": _chat,
    "responses": _responses,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "converse": _converse,
}
