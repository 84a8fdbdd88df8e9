"""Where text stands in a submit of a task: everywhere but where a rule here says that there is none; pure.

Providers name their prompts as they like and add members every month, so what holds text is not listed, but what does
not: words that decide the price, names of what was made before, addresses, files (docs/adr/0017-guardrails.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.guards.shapes import Visit, leaves

# Texts whatever they look like: an address in a prompt is a part of it. In small letters, as all names here.
TEXTS = frozenset(
    {
        *("prompt", "prompts", "prompttext", "prompt_text", "text", "texts", "script", "lyrics", "description"),
        *("negative_prompt", "negativeprompt", "negative_prompt_text", "negativeprompttext"),
    }
)
# Words of the forms and providers, beside those that decide the price of the operation.
WORDS = frozenset(
    {
        *("type", "generation_type", "role", "position", "mode", "quality", "format", "response_format"),
        *("ratio", "aspect_ratio", "aspectratio", "size", "resolution", "seconds", "duration", "sound", "audio"),
    }
)
WORD_CHARS_MAX = 64
FILE_CHARS_MIN = 256
_WORD = re.compile(rf"[\w.:/+=*×-]{{1,{WORD_CHARS_MAX}}}")
_ID = re.compile(r"[\w.:/+=-]{1,256}")
_IS_ID = re.compile(r"id|ids|\w+[_-]ids?|[a-z]\w*I[dD]s?")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9.+-]{1,31}://\S+")
_DATA_URL = re.compile(r"data:[\w.+/;=-]*;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]+")
_any = msgspec.json.Decoder(Any)


def looked_through(body: Mapping[str, Any], visit: Visit, words: Collection[str]) -> dict[str, Any]:
    """The body with every text of it replaced by what `visit` makes of it, in the order of the body.

    `words` are the names of members that decide price and model, in small letters. A text that holds JSON is written
    anew, so that no member of it can hide behind its twin.
    """
    return {name: _member(name, value, visit, words) for name, value in body.items()}


def _member(name: str, value: Any, visit: Visit, words: Collection[str]) -> Any:
    if isinstance(value, dict):
        return looked_through(value, visit, words)
    if isinstance(value, list):
        return [_member(name, one, visit, words) for one in value]
    small = name.lower()
    if small in TEXTS:
        # A card's number may be a number.
        return leaves(value, visit)
    if not isinstance(value, str) or not value or _is_none(name, small, value, words):
        return value
    inner = _json(value)
    if inner is None:
        return visit(value)
    return msgspec.json.encode(_member(name, inner, visit, words)).decode()


def _is_none(name: str, small: str, value: str, words: Collection[str]) -> bool:
    """Whether a value is no text, by its name and what it looks like."""
    if (small in WORDS or small in words) and _WORD.fullmatch(value):
        return True
    if _IS_ID.fullmatch(name) and _ID.fullmatch(value):
        return True
    return _ADDRESS.fullmatch(value) is not None or _is_file(value)


def _is_file(value: str) -> bool:
    """Base64, with its media type before it or alone: long, and of its own signs. Nothing is decoded."""
    head = _DATA_URL.match(value[:256])
    bare = (value[head.end() :] if head else value).replace("\n", "").replace("\r", "")
    return (head is not None or len(bare) >= FILE_CHARS_MIN) and _BASE64.fullmatch(bare) is not None


def _json(text: str) -> Any:
    """What a text of JSON holds, where that is an object or an array."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return _any.decode(text)
    except NOT_JSON:
        return None
