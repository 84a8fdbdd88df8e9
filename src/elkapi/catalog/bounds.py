"""What a text call can come to at most, by the bytes of its body, its tools and files, its model, and its channels.

Bytes bound the tokens of text from above; what stands behind an address, or what a provider does beside the answer, is
bounded by the constants here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from elkapi.catalog.jsonedit import BACKSLASH
from elkapi.catalog.operation import Facts
from elkapi.catalog.spelling import folded, spelled_out
from elkapi.errors import NOT_JSON
from elkapi.translate import server_tools
from elkapi.translate.profiles import Profile, profile_for
from elkapi.types import Channel, Usage

IMAGE_TOKENS_MAX = Profile().image_tokens_max
REMOTE_FILE_TOKENS_MAX = 100_000
# What a provider's own framing of messages, tools and schemas adds at most to the bytes of the body.
FRAME_TOKENS_MAX = 64
# An address may stand where bytes do: of OpenRouter's files, and of Qwen's sounds. Qwen has lists of frames, too.
_ADDRESS = rb'\s*+:\s*+"\s*+[a-z][a-z0-9+.-]{0,15}+:\\?+/\\?+/'
_REMOTE_FILE = re.compile(
    rb'"(?:(?:file_id|file_?uri|(?:file|document|video|audio)_url)"\s*+:|video"\s*+:\s*+\[|file_?data"%b)' % _ADDRESS
)
_SOUND, _DATA_BY_ADDRESS = b'"input_audio"', re.compile(rb'"(?:data|input_audio)"' + _ADDRESS)
# A document of Anthropic's, whose address stands in its source, as a picture's does.
_DOCUMENT, _BY_ADDRESS = b'"document"', re.compile(rb'"type"\s*+:\s*+"url"')
_WIDE = re.compile(rb'"(?:image|audio|inline|(?:in|out)put_audio|data:audio|1h|12h|AUDIO|IMAGE)')
# All that makes a body dearer than its bytes, members in small letters; one pattern that begins with one character is
# found four times faster than word after word, and most of what a quote begins is dismissed by its first letter.
_FILES = rb'(?:file|document|video)(?:_id|_?ur[il]|_data)?"'
_DEARER = re.compile(rb'"(?=[1adfioAIv])' + _WIDE.pattern[1:-1] + rb"|" + _FILES + rb")")
# Tools the provider runs itself: what they find, read or compute is input of the same call. Not a client's own function
# of such a name. Types may have a date behind them; Google takes both spellings of a member.
SERVED_TOOLS_TOKENS_MAX = 100_000
# Searches are paid for one by one as well: so many are held, or what the caller allows where that is more.
SEARCHES_MAX, SEARCHES_ALLOWED_MAX = 10, 1000
_ALLOWED = re.compile(rb'"max_uses"\s*+:\s*+(\d++)')
_WORDS = {*server_tools.KINDS, *server_tools.CHAT, *server_tools.RESPONSES, *server_tools.HOSTED, *server_tools.OTHERS}
_TYPES = "|".join(sorted(_WORDS))
_MEMBERS = "|".join(re.sub("[A-Z]", lambda hit: "_?" + hit[0].lower(), name) for name in server_tools.GEMINI)
_SERVED_TOOL = re.compile(rf'"type"\s*+:\s*+"(?:openrouter:)?(?:{_TYPES})|"(?:{_MEMBERS})"\s*+:'.encode())
# A tool of a type that nobody here knows is taken for one that the provider runs: new ones come with its new models.
# These are a caller's own to run, or bounded otherwise: OpenAI's, Anthropic's with a date, what finds tools in a body.
_OWN_TYPES = (
    "function|custom|namespace|(?:local_)?shell|apply_patch|computer(?:_use(?:_preview)?)?|"
    "tool_search(?:_tool_[a-z0-9_]++)?|"
    "(?:bash|text_editor|computer|memory|browser)(?:_toolset)?_20[0-9]{6}|"
    "image_generation|advisor_[a-z0-9_]++|openrouter:(?:advisor|subagent|fusion|image_gen[a-z_]*+)"
)
_KNOWN_TYPE = re.compile(_OWN_TYPES)
# What else has a type among tools, most of all their schemas: where nothing but these is, nobody looks any further.
_SCHEMA_TYPES = "string|object|array|number|boolean|integer|null|ephemeral|grammar|text|approximate|any"
_NOT_OWN = re.compile(rf'"type"\s*+:\s*+"(?!(?:{_SCHEMA_TYPES}|{_OWN_TYPES})")|"(?:{_MEMBERS})"\s*+:'.encode())
_json = msgspec.json.Decoder()
# What a provider tells its model of how to call tools, and of each tool of its own that the client runs (Anthropic's
# computer, bash and text editor, whose types end in a date), which no bytes of the body say.
TOOLS_TOKENS_MAX, OWN_TOOL_TOKENS_MAX = 640, 1024
_OWN_TOOL = re.compile(rb'"type"\s*+:\s*+"[a-z]++(?:_[a-z]++)*_20\d{6}"')
# Tools with another model behind them: OpenAI's that makes pictures, which tells its tokens, and those whose work is
# told nowhere: Anthropic's that has it read the conversation, OpenRouter's. One pattern, for all tools come through.
_MODEL_BEHIND = re.compile(
    rb'"type"\s*+:\s*+"(?:(?P<pictures>image_generation")|advisor_|openrouter:(?:advisor|subagent|fusion|image_gen))'
)
# The tokens of pictures are those of the call too; a large one is some 6,200. A moving one has nine frames unless told.
PICTURES_MADE_TOKENS_MAX, MOVING_FRAME_TOKENS_MAX = 16_384, 6_400
MOVING_FRAMES, MOVING_FRAMES_MAX = 9, 1000
_FRAMES = re.compile(rb'"frame_count"\s*+:\s*+(\d++)')
_NO_TOOLS = (b"null", b"[]")
# What declares tools inside of a conversation: two items of OpenAI's, and a block of Anthropic's. In a text that tells
# of them each quote has a backslash. It begins with the character that is rarest in a body, as that is found fastest.
_DECLARING = re.compile(rb'_(?:(?<="additional_)tools|(?<="tool_)(?:search_output|addition))"')
# A context that is compacted on the way is read once more, and its summary is written beside the answer.
COMPACTION_TOKENS_MAX = 16_384
# A member that a body does not have, and what says as little; most calls are told apart by the first, by identity.
ABSENT = msgspec.Raw()
NONE_NAMED = (b"", b"null", b"[]")
_UNSERVED = (*NONE_NAMED, b"false")
# Members beside the tools that have the provider search, run code, or ask servers of tools.
_SERVING = frozenset(
    {"web_search_options", "plugins", "search_parameters", "enable_search", "enable_code_interpreter", "mcp_servers"}
)


def bounded(
    body: bytes,
    model: str | None,
    *,
    limit: int | None = None,
    choices: int = 1,
    stream: bool = False,
    include_usage: bool = False,
    store: bool = False,
    stateful: bool = False,
    tools: msgspec.Raw = ABSENT,
    turns: Sequence[msgspec.Raw] = (),
    served: tuple[msgspec.Raw, ...] = (),
    tool_calls: int = 0,
    models: msgspec.Raw = ABSENT,
) -> Facts:
    """The facts of a text call, bounded by its bytes, its pictures, files and tools and its own output limit.

    Of `tools`, and of those that `turns` of a conversation declare, those count that the provider runs, and `served`
    are such ones (OpenRouter has them as `plugins`, too), which may be called `tool_calls` times; `models` are others
    that it may ask.
    Members are looked for in any letters, as a server written in Go reads them, words in their own.
    """
    pictures, searches, open_ended, wide = 0, 0, False, False
    given = len(body) + FRAME_TOKENS_MAX
    if BACKSLASH in body:
        body = spelled_out(body)
    small = folded(body)
    if _DEARER.search(small) is not None:
        inline, files, documents = small.count(b'"inline'), len(_REMOTE_FILE.findall(small)), body.count(_DOCUMENT)
        if sounds := len(_DATA_BY_ADDRESS.findall(small)):
            files += min(sounds, small.count(_SOUND))
        # The look above takes a text that begins with "Image" for a picture.
        open_ended = inline > 0 or files > 0 or _DEARER.search(body) is not None
        wide = inline > 0 or _WIDE.search(body) is not None
        pictures = body.count(b'"image') + inline
        given += IMAGE_TOKENS_MAX * pictures
        remote = min(documents, len(_BY_ADDRESS.findall(small))) if documents else 0
        given += REMOTE_FILE_TOKENS_MAX * (files + remote)
    made = (limit or 0) * choices
    # What is absent is told apart by identity: most calls have none of these.
    other_models = models is not ABSENT and bytes(models) not in NONE_NAMED
    declaring = _declared(tools, turns, small) if turns or tools is not ABSENT else []
    declared = b"".join(declaring)
    if declared:
        given += TOOLS_TOKENS_MAX + OWN_TOOL_TOKENS_MAX * len(_OWN_TOOL.findall(declared))
        for hit in _MODEL_BEHIND.finditer(declared):
            if hit["pictures"] is None:
                other_models = True
            else:
                made += max(PICTURES_MADE_TOKENS_MAX, MOVING_FRAME_TOKENS_MAX * _frames(declared))
    if (declared and _has_served(declared, declaring)) or _is_served(served):
        given += SERVED_TOOLS_TOKENS_MAX
        searches = max(_searches(declared), min(tool_calls, SEARCHES_ALLOWED_MAX))
        open_ended = True
    return Facts(
        model=model,
        upper=Usage(input_tokens=given, output_tokens=made, searches=searches, calls=1),
        stream=stream,
        output_limit=limit,
        choices=choices,
        pictures=pictures,
        open_ended=open_ended,
        wide=wide,
        include_usage=include_usage,
        store=store,
        stateful=stateful,
        other_models=other_models,
    )


def _declared(tools: msgspec.Raw, turns: Sequence[msgspec.Raw], body: bytes) -> list[bytes]:
    """What declares tools, as objects in small letters: beside the conversation, or turns of it."""
    given = b"" if tools is ABSENT else folded(spelled_out(bytes(tools)))
    declaring = [b'{"tools":%b}' % given] if given and given not in _NO_TOOLS else []
    if turns and _DECLARING.search(body) is not None:
        told = (folded(spelled_out(bytes(turn))) for turn in turns)
        declaring += [turn for turn in told if _DECLARING.search(turn) is not None]
    return declaring


def _frames(tools: bytes) -> int:
    """The most frames that a picture made by these tools has."""
    return _most_told(_FRAMES, tools, MOVING_FRAMES if b'"gif"' in tools else 1, MOVING_FRAMES_MAX)


def with_compaction(facts: Facts) -> Facts:
    """The bounds of a call whose context is compacted on the way."""
    upper, output = facts.upper, facts.upper.output_tokens + COMPACTION_TOKENS_MAX
    wider = msgspec.structs.replace(upper, input_tokens=2 * upper.input_tokens, output_tokens=output)
    return msgspec.structs.replace(facts, upper=wider)


def _is_served(members: Iterable[msgspec.Raw]) -> bool:
    """Whether one of these has the provider search, or ask servers of tools; a loop, for every chat comes through."""
    for one in members:  # noqa: SIM110
        if one is not ABSENT and bytes(one) not in _UNSERVED:
            return True
    return False


def _has_served(declared: bytes, declaring: Iterable[bytes]) -> bool:
    """Whether the provider runs one of these tools itself, as far as is known; `declared` are all of these objects."""
    if _NOT_OWN.search(declared) is None:
        return False
    return _SERVED_TOOL.search(declared) is not None or any(map(_declares_unknown, declaring))


def _declares_unknown(declaring: bytes) -> bool:
    try:
        return any(_KNOWN_TYPE.fullmatch(kind) is None for kind in _types_in(_json.decode(declaring)))
    except NOT_JSON:
        return True


def _types_in(declaring: Any) -> Iterator[str]:
    """The types of the tools that an object declares: as a list, as one in a change of them, or in what holds those."""
    if isinstance(declaring, list):
        for one in declaring:
            yield from _types_in(one)
    elif isinstance(declaring, dict):
        found = declaring.get("tools"), [declaring.get("definition")]
        for tool in (one for tools in found if isinstance(tools, list) for one in tools if isinstance(one, dict)):
            # One without a type is a function, to Anthropic and to Google.
            yield str(tool.get("type") or "function")
            yield from _types_in(tool)
        for name in ("content", "tool_changes", "tool"):
            yield from _types_in(declaring.get(name))


def _most_told(pattern: re.Pattern[bytes], tools: bytes, least: int, most: int) -> int:
    """The largest number that tools tell in this way, within these bounds."""
    return min(max([least, *(int(digits[:9]) for digits in pattern.findall(tools))]), most)


def _searches(tools: bytes) -> int:
    """The most searches that tools which the provider runs are held for."""
    return _most_told(_ALLOWED, tools, SEARCHES_MAX, SEARCHES_ALLOWED_MAX)


def bounded_by_model(facts: Facts, model: str) -> Facts:
    """The bounds that only the model's name gives: its output, its pictures, and its context for a stored history."""
    if facts.output_limit is not None and facts.previous is None and not facts.pictures:
        return facts
    profile, upper = profile_for("", model), facts.upper
    output = upper.output_tokens if facts.output_limit is not None else profile.max_output_tokens * facts.choices
    given = upper.input_tokens + facts.pictures * (profile.image_tokens_max - IMAGE_TOKENS_MAX)
    if facts.previous is not None:
        given += profile.context_tokens
    most = Usage(input_tokens=given, output_tokens=output, searches=upper.searches, calls=upper.calls)
    return msgspec.structs.replace(facts, upper=most)


class Added(msgspec.Struct, frozen=True):
    """The most that channels put into a text call beside its own: input tokens, and searches of the provider's.

    `wide`: as in `Facts`, by what they put in. `lives_long`: part of it asks for a cache that does.
    """

    tokens: int = 0
    searches: int = 0
    wide: bool = False
    lives_long: bool = False


NOTHING_ADDED = Added()


def most_added(channels: Iterable[Channel]) -> Added:
    """What none of these channels' own instructions and members exceed."""
    most = NOTHING_ADDED
    for one in map(added_by, channels):
        if one != NOTHING_ADDED:
            most = Added(
                max(most.tokens, one.tokens),
                max(most.searches, one.searches),
                most.wide or one.wide,
                most.lives_long or one.lives_long,
            )
    return most


def added_by(channel: Channel) -> Added:
    """What a channel's own instructions and members add."""
    tokens = 0 if channel.system_prompt is None else len(channel.system_prompt.encode()) + FRAME_TOKENS_MAX
    if not (members := channel.param_default | channel.param_set):
        return Added(tokens)
    sent = msgspec.json.encode(members)
    body = spelled_out(sent)
    small = folded(body)
    serves = _has_served(small, [small]) or _is_served(members[name] for name in members if name.casefold() in _SERVING)
    return Added(
        tokens + len(sent) + (SERVED_TOOLS_TOKENS_MAX if serves else 0),
        _searches(small) if serves else 0,
        _WIDE.search(body) is not None,
        lives_long(body),
    )


def lives_long(body: bytes) -> bool:
    """Whether what a body has cached may live long, by Anthropic's word for that or by OpenAI's."""
    return b'"1h"' in body or b'"12h"' in body
