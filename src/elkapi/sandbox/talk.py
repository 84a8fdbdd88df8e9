"""The neutral types of a conversation with a model: request, reply, and how their tokens are counted.

Providers read their bodies into an `Ask` and write a `Reply` in their own format; `script` makes the reply.

Token rule: input counts whitespace-separated words (a lower bound of any real count), `IMAGE_TOKENS` per image and
`AUDIO_TOKENS` per audio part; output counts `pieces`, so that one delta of a stream is one token, streamed or not.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

PIECE_CHARS_MAX = 8
IMAGE_TOKENS = 85
AUDIO_TOKENS = 10
TAKES_S = 0.5

Finish = Literal["stop", "stop_sequence", "length", "tools", "refusal", "filter"]

_PIECE = re.compile(rf"\s*\S{{1,{PIECE_CHARS_MAX}}}|\s+")


class Tool(msgspec.Struct, frozen=True):
    """An available tool. `schema` is the JSON schema of its arguments; a custom tool takes free text instead."""

    name: str
    schema: dict[str, Any] | None = None
    description: str = ""
    custom: bool = False


class Call(msgspec.Struct, frozen=True, tag="call"):
    """One tool call. `arguments` is JSON text, or the free text of a custom tool; providers add ids."""

    name: str
    arguments: str
    custom: bool = False


class Thinking(msgspec.Struct, frozen=True, tag="thinking"):
    """Reasoning text; counted as reasoning tokens whether or not the provider shows it.

    `redacted`: shown as an opaque block by providers that have such blocks.
    """

    text: str
    redacted: bool = False


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Text of the answer."""

    text: str


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """A refusal; providers without a format for it send it as text."""

    text: str


Part = Thinking | Text | Call | Refusal


class Result(msgspec.Struct, frozen=True):
    """A tool's result; `name` is the tool's, or the call's id if the provider's format has only that."""

    name: str
    text: str


class Turn(msgspec.Struct, frozen=True):
    """One message. `images` and `files` name their sources (a URL, a media type); `sounds` counts audio parts."""

    role: Literal["user", "assistant"]
    text: str = ""
    images: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    sounds: int = 0
    calls: tuple[Call, ...] = ()
    results: tuple[Result, ...] = ()


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a model, independent of providers.

    `choice`: "auto", "none", "required", or "tool:NAME". `thinks_tokens`: the length of its reasoning without a script,
    0 for none; `thinks` False: no reasoning, even with a script. `schema`: the answer must be an instance of it;
    `wants_json`: the answer must be a JSON object. `output_tokens_max` includes reasoning.
    """

    turns: tuple[Turn, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    schema: dict[str, Any] | None = None
    wants_json: bool = False
    thinks: bool = True
    thinks_tokens: int = 0
    stops: tuple[str, ...] = ()
    output_tokens_max: int | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts. `input` includes cached, cache_write, image and audio; `output` includes reasoning."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    image: int = 0
    audio: int = 0
    output: int = 0
    reasoning: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The model's answer: parts in order, finish reason and usage.

    `stopped_at` is the stop sequence that ended it. `takes_s` is how long a background answer takes.
    """

    parts: tuple[Part, ...]
    finish: Finish
    usage: Usage
    stopped_at: str | None = None
    takes_s: float = TAKES_S

    @property
    def text(self) -> str:
        """All text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def thinking(self) -> str:
        """All thinking parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Thinking))

    @property
    def refusal(self) -> str | None:
        """The refusal, or None."""
        return next((part.text for part in self.parts if isinstance(part, Refusal)), None)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The tool calls in order."""
        return tuple(part for part in self.parts if isinstance(part, Call))


def pieces(text: str) -> list[str]:
    """The tokens of an output text: words with the space before them, in pieces of `PIECE_CHARS_MAX` characters."""
    return _PIECE.findall(text)


def part_tokens(part: Part) -> int:
    """The output tokens of one part; a call's name counts as one."""
    return 1 + len(pieces(part.arguments)) if isinstance(part, Call) else len(pieces(part.text))


def words(text: str) -> int:
    """The input tokens of a text."""
    return len(text.split())


def input_tokens(ask: Ask) -> int:
    """The input tokens of a request, at least 1, regardless of script words; token counting routes return it."""
    total = words(ask.system) + sum(1 + words(tool.description) for tool in ask.tools)
    for turn in ask.turns:
        total += words(turn.text) + IMAGE_TOKENS * len(turn.images) + AUDIO_TOKENS * turn.sounds
        total += sum(1 + words(call.arguments) for call in turn.calls)
        total += sum(words(result.text) for result in turn.results)
    return max(1, total)
