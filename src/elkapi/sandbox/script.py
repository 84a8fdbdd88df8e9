"""The answers of the sandbox's models: one neutral `Ask` in, one neutral `Reply` out; formats belong to the providers.

A provider reads its body into an `Ask` (`talk`), calls `reply_to`, and writes the `Reply` in its own format, whole or
as frames (`stream`). The answer depends on the ask alone. Without a script it is plausible: a tool that the choice
requires or the question names is called with arguments made from its schema; after tool results it quotes them; a JSON
schema gets a valid instance; any other question is repeated.

A test controls the answer with words in the question (the last user turn that is not only tool results):

    [[say: text]]                     says this text; [[say]] words and the others below come out in the order written
    [[tokens: 500]]                   says so many tokens
    [[json: {"a": [1]}]]              says this JSON
    [[think: text]]                   thinks this first, where the caller lets it think
    [[redact: text]]                  the same, in an opaque block where the provider has such
    [[tools: f {"a":1}; g {"b":2}]]   calls these tools, side by side; a custom tool takes a JSON string;
                                      the second [[tools]] word is called after the results of the first, and so on
    [[then: text]]                    says this after the last tool results (default: quotes them)
    {{result}}                        in [[tools]] and [[then]]: the text of the newest tool results, so that an agent's
                                      next step can depend on what its tool answered
    [[refuse: text]]                  refuses with this text
    [[finish: length]]                finishes so: stop, stop_sequence, length, tools, refusal or filter
    [[input: 250000]]                 counts at least so many input tokens
    [[cached: 100]]                   so many of the input tokens were read from the cache; the input grows to hold them
    [[cache-write: 100]]              so many were written to it
    [[takes: 2s]]                     a background answer takes so long

A text ends at the first `]]`; JSON may contain it. An unknown word is an error (400 `sandbox_script_invalid`), so that
a typo does not pass a test. With `tool_choice: none`, [[tools]] calls nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.schema import instance
from elkapi.sandbox.talk import (
    AUDIO_TOKENS,
    IMAGE_TOKENS,
    TAKES_S,
    Ask,
    Call,
    Finish,
    Part,
    Refusal,
    Reply,
    Result,
    Text,
    Thinking,
    Tool,
    Turn,
    Usage,
    input_tokens,
    part_tokens,
    pieces,
)

SAID_TOKENS_MAX = 200_000
COUNT_MAX = 10_000_000

FINISHES: tuple[Finish, ...] = ("stop", "stop_sequence", "length", "tools", "refusal", "filter")
_WORD = re.compile(r"\[\[([a-z][a-z-]*):[ \t]*")
_CALL = re.compile(r"\s*;?\s*([A-Za-z0-9_.:-]+)\s*")
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s)?")
_FAULT = re.compile(r"\[sandbox:[^\[\]]*\]")
_DECODER = json.JSONDecoder()
_SCHEMA_TOLD = re.compile(r"(?i)\bjson schema:?\s*(?=\{)")
_RESULT = "{{result}}"


class _Script(msgspec.Struct):
    """The script words of one question; each [[tools]] word is a tuple of calls in `said`."""

    said: list[Part | tuple[Call, ...]] = []
    then: list[Text] = []
    finish: Finish | None = None
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    takes_s: float = TAKES_S
    rest: str = ""


def reply_to(ask: Ask) -> Reply:
    """The answer to one ask. Raises Problem (400 `sandbox_script_invalid`) for an invalid script."""
    question, results, rounds = _question(ask.turns)
    script = _read_script(question.text if question else "", ask.tools)
    parts = _parts(ask, script, question, results, rounds)
    if not ask.thinks:
        parts = [part for part in parts if not isinstance(part, Thinking)]
    elif ask.thinks_tokens and not any(isinstance(part, Thinking) for part in parts):
        parts = [Thinking(" ".join(f"think{n}" for n in range(1, ask.thinks_tokens + 1))), *parts]
    stopped_at, parts = _stopped(parts, ask.stops)
    cut, parts = _limited(parts, ask.output_tokens_max)
    return Reply(
        parts=tuple(parts),
        finish=script.finish or _finish(parts, cut=cut, stopped=stopped_at is not None),
        usage=_usage(ask, script, parts),
        stopped_at=None if cut else stopped_at,
        takes_s=script.takes_s,
    )


def _read_script(text: str, tools: tuple[Tool, ...]) -> _Script:
    """The script words of a text, and in `rest` the text without them and without fault directives."""
    script, rest, at = _Script(), "", 0
    while found := _WORD.search(text, at):
        rest += text[at : found.start()]
        at = _read_word(script, found[1], text, found.end(), {tool.name for tool in tools if tool.custom})
    script.rest = _FAULT.sub("", rest + text[at:]).strip()
    return script


def _read_word(script: _Script, word: str, text: str, at: int, custom: set[str]) -> int:
    """Read one word's value from `at`; returns the position after it."""
    if word == "tools":
        calls, at = _calls(text, at, custom)
        script.said.append(calls)
        return _closed(word, text, at)
    if word == "json":
        value, at = _json(word, text, at)
        script.said.append(Text(json.dumps(value, ensure_ascii=False)))
        return _closed(word, text, at)
    end = text.find("]]", at)
    if end < 0:
        raise _wrong(word, "is not closed by ]]")
    value = text[at:end]
    if word == "say":
        script.said.append(Text(value))
    elif word == "then":
        script.then.append(Text(value))
    elif word in ("think", "redact"):
        script.said.append(Thinking(value, redacted=word == "redact"))
    elif word == "refuse":
        script.said.append(Refusal(value or "I cannot help with that."))
    elif word == "tokens":
        count = _count(word, value, SAID_TOKENS_MAX)
        script.said.append(Text(" ".join(f"w{n % 1000:03}" for n in range(count))))
    elif word == "finish":
        finish = next((known for known in FINISHES if known == value), None)
        if finish is None:
            raise _wrong(word, f"must be one of {', '.join(FINISHES)}")
        script.finish = finish
    elif word in ("input", "cached", "cache-write"):
        setattr(script, word.replace("-", "_"), _count(word, value, COUNT_MAX))
    elif word == "takes":
        duration = _DURATION.fullmatch(value.strip())
        if duration is None:
            raise _wrong(word, "needs a duration such as 150ms or 2s")
        script.takes_s = float(duration[1]) / (1000 if duration[2] == "ms" else 1)
    else:
        raise _wrong(word, "is not a word of the script")
    return end + 2


def _calls(text: str, at: int, custom: set[str]) -> tuple[tuple[Call, ...], int]:
    calls: list[Call] = []
    while found := _CALL.match(text, at):
        value: Any = {}
        at = found.end()
        if text[at : at + 1] in ("{", '"'):
            value, at = _json("tools", text, at)
        name = found[1]
        if isinstance(value, str):
            calls.append(Call(name, value, custom=True))
        else:
            written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            calls.append(Call(name, written, custom=name in custom))
    if not calls:
        raise _wrong("tools", "names no tool")
    return tuple(calls), at


def _json(word: str, text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        raise _wrong(word, "holds no valid JSON") from None


def _closed(word: str, text: str, at: int) -> int:
    while text[at : at + 1].isspace() or text[at : at + 1] == ";":
        at += 1
    if not text.startswith("]]", at):
        raise _wrong(word, "is not closed by ]]")
    return at + 2


def _count(word: str, value: str, high: int) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", value) or int(value) > high:
        raise _wrong(word, f"needs a whole number up to {high}")
    return int(value)


def _wrong(word: str, why: str) -> Problem:
    return Problem(400, f"The sandbox script word {word!r} {why}.", code="sandbox_script_invalid")


def _question(turns: tuple[Turn, ...]) -> tuple[Turn | None, tuple[Result, ...], int]:
    """The last user turn with a question, the newest tool results after it, and the number of rounds of results.

    Text beside tool results (reminders that clients add) is a question only if it has script words.
    """
    start = -1
    for index, turn in enumerate(turns):
        if turn.role == "user" and (not turn.results or _WORD.search(turn.text)):
            start = index
    results: tuple[Result, ...] = ()
    rounds, before = 0, False
    for turn in turns[start + 1 :]:
        if turn.results:
            # OpenAI's clients send one message per result; consecutive ones are one round.
            results = (*results, *turn.results) if before else turn.results
            rounds += not before
        before = bool(turn.results)
    return (turns[start] if start >= 0 else None), results, rounds


def _parts(ask: Ask, script: _Script, question: Turn | None, results: tuple[Result, ...], rounds: int) -> list[Part]:
    callings = [said for said in script.said if isinstance(said, tuple)]
    if ask.choice == "none":
        callings = []
    if rounds < len(callings):
        calls = callings[rounds] if ask.parallel else callings[rounds][:1]
        before = [part for part in script.said if not isinstance(part, tuple)] if rounds == 0 else []
        return [*before, *(_filled(call, results) for call in calls)]
    if rounds:
        quoted = "; ".join(f"{result.name} answered {result.text}" for result in results)
        return [_filled(text, results) for text in script.then] or [Text(quoted)]
    said = [part for part in script.said if not isinstance(part, tuple)]
    if any(not isinstance(part, Thinking) for part in said):
        return said
    calls = _unscripted_calls(ask, script.rest)
    return [*said, *calls] if calls else [*said, Text(_plain(ask, script.rest, question))]


def _filled(part: Text | Call, results: tuple[Result, ...]) -> Part:
    """The part with `{{result}}` replaced by the newest results, one per line."""
    told = "\n".join(result.text for result in results)
    if isinstance(part, Text):
        return Text(part.text.replace(_RESULT, told))
    within = told if part.custom else json.dumps(told, ensure_ascii=False)[1:-1]
    return msgspec.structs.replace(part, arguments=part.arguments.replace(_RESULT, within))


def _unscripted_calls(ask: Ask, text: str) -> tuple[Call, ...]:
    """Calls of the tools that the question names or the choice requires."""
    if ask.choice == "none" or not ask.tools:
        return ()
    wanted = [tool for tool in ask.tools if re.search(rf"(?<![\w-]){re.escape(tool.name)}(?![\w-])", text)]
    if ask.choice.startswith("tool:"):
        wanted = [tool for tool in ask.tools if tool.name == ask.choice[5:]]
    elif ask.choice == "required":
        wanted = wanted or [ask.tools[0]]
    return tuple(_call(tool, text) for tool in (wanted if ask.parallel else wanted[:1]))


def _call(tool: Tool, text: str) -> Call:
    if tool.custom:
        return Call(tool.name, text or tool.name, custom=True)
    arguments = instance(tool.schema or {})
    return Call(tool.name, json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))


def _plain(ask: Ask, text: str, question: Turn | None) -> str:
    """The unscripted text: an instance of the schema, or a description of what the user sent."""
    schema = _schema_told(ask.system) if ask.schema is None and ask.wants_json else ask.schema
    if schema is not None:
        return json.dumps(instance(schema), ensure_ascii=False, separators=(",", ":"))
    told = f"You said: {text}" if text else "You said nothing."
    if question is not None:
        shown = [f"image {source}" for source in question.images] + [f"file {name}" for name in question.files]
        shown += ["a sound"] * question.sounds
        told += f" You showed: {', '.join(shown)}." if shown else ""
    return json.dumps({"answer": told}, ensure_ascii=False) if ask.wants_json else told


def _schema_told(system: str) -> dict[str, Any] | None:
    """The JSON schema in the instructions, behind that word: in JSON mode a model follows it."""
    told = _SCHEMA_TOLD.search(system)
    if told is None:
        return None
    try:
        schema, _ = _DECODER.raw_decode(system, told.end())
    except ValueError:
        return None
    return schema if isinstance(schema, dict) else None


def _stopped(parts: list[Part], stops: tuple[str, ...]) -> tuple[str | None, list[Part]]:
    """The first stop sequence in a text, or None, and the parts before it."""
    for index, part in enumerate(parts):
        if isinstance(part, Text):
            hits = [(at, stop) for stop in stops if stop and (at := part.text.find(stop)) >= 0]
            if hits:
                at, stop = min(hits)
                return stop, [*parts[:index], Text(part.text[:at])]
    return None, parts


def _limited(parts: list[Part], tokens_max: int | None) -> tuple[bool, list[Part]]:
    """Whether the limit cut anything, and the parts within it; a call that does not fit completely is omitted."""
    if tokens_max is None:
        return False, parts
    kept: list[Part] = []
    for part in parts:
        if (tokens := part_tokens(part)) > tokens_max:
            if tokens_max and not isinstance(part, Call):
                kept.append(msgspec.structs.replace(part, text="".join(pieces(part.text)[:tokens_max])))
            return True, kept
        kept.append(part)
        tokens_max -= tokens
    return False, kept


def _finish(parts: list[Part], *, cut: bool, stopped: bool) -> Finish:
    if cut:
        return "length"
    if stopped:
        return "stop_sequence"
    if any(isinstance(part, Refusal) for part in parts):
        return "refusal"
    return "tools" if any(isinstance(part, Call) for part in parts) else "stop"


def _usage(ask: Ask, script: _Script, parts: list[Part]) -> Usage:
    return Usage(
        input=max(input_tokens(ask), script.input, script.cached + script.cache_write),
        cached=script.cached,
        cache_write=script.cache_write,
        image=IMAGE_TOKENS * sum(len(turn.images) for turn in ask.turns),
        audio=AUDIO_TOKENS * sum(turn.sounds for turn in ask.turns),
        output=sum(map(part_tokens, parts)),
        reasoning=sum(part_tokens(part) for part in parts if isinstance(part, Thinking)),
    )
