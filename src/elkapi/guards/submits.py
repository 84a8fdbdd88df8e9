"""Finds the text in a submit of a task: every string that no rule here excludes; pure.

Providers name prompts differently and add fields every month, so the rules list what is not text: values that determine
the price, references to earlier results, URLs and files (docs/adr/0017-guardrails.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.guards.shapes import Visit, leaves

# Always text, whatever the value looks like: a URL in a prompt is part of it. In lower case, like all names here.
TEXTS = frozenset(
    {
        *("prompt", "prompts", "prompttext", "prompt_text", "text", "texts", "script", "lyrics", "description"),
        *("negative_prompt", "negativeprompt", "negative_prompt_text", "negativeprompttext"),
    }
)
# Fields whose values are enumerated words, besides those that determine the operation's price.
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
    """The body with every text replaced by the result of `visit`, in the order of the body.

    `words` are the names of fields that determine price and model, in lower case. A string that contains JSON is
    serialized again, so that no duplicate member escapes the check.
    """
    return {name: _member(name, value, visit, words) for name, value in body.items()}


def _member(name: str, value: Any, visit: Visit, words: Collection[str]) -> Any:
    if isinstance(value, dict):
        return looked_through(value, visit, words)
    if isinstance(value, list):
        return [_member(name, one, visit, words) for one in value]
    small = name.lower()
    if small in TEXTS:
        # Numbers are visited too: a card number may be one.
        return leaves(value, visit)
    if not isinstance(value, str) or not value or _is_none(name, small, value, words):
        return value
    inner = _json(value)
    if inner is None:
        return visit(value)
    return msgspec.json.encode(_member(name, inner, visit, words)).decode()


def _is_none(name: str, small: str, value: str, words: Collection[str]) -> bool:
    """Whether a value is not text, by its name and format."""
    if (small in WORDS or small in words) and _WORD.fullmatch(value):
        return True
    if _IS_ID.fullmatch(name) and _ID.fullmatch(value):
        return True
    return _ADDRESS.fullmatch(value) is not None or _is_file(value)


def _is_file(value: str) -> bool:
    """Whether a value is base64, a data URL or bare: long and of its alphabet only. Nothing is decoded."""
    head = _DATA_URL.match(value[:256])
    bare = (value[head.end() :] if head else value).replace("\n", "").replace("\r", "")
    return (head is not None or len(bare) >= FILE_CHARS_MIN) and _BASE64.fullmatch(bare) is not None


def _json(text: str) -> Any:
    """The object or array in a string of JSON, else None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return _any.decode(text)
    except NOT_JSON:
        return None
