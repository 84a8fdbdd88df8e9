"""Upper bounds of a text call's usage, from the bytes of its body, its tools and files, its model and its channels.

The number of bytes bounds the tokens of text; content behind a URL and a provider's additional work are bounded by the
constants here.
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
# The most tokens that a provider's framing of messages, tools and schemas adds to the bytes of the body.
FRAME_TOKENS_MAX = 64
# A URL may replace the bytes of OpenRouter's files and of Qwen's audio. Qwen also accepts lists of frames.
_ADDRESS = rb'\s*+:\s*+"\s*+[a-z][a-z0-9+.-]{0,15}+:\\?+/\\?+/'
_REMOTE_FILE = re.compile(
    rb'"(?:(?:file_id|file_?uri|(?:file|document|video|audio)_url)"\s*+:|video"\s*+:\s*+\[|file_?data"%b)' % _ADDRESS
)
_SOUND, _DATA_BY_ADDRESS = b'"input_audio"', re.compile(rb'"(?:data|input_audio)"' + _ADDRESS)
# Anthropic's document block, whose URL is in its source, like an image's.
_DOCUMENT, _BY_ADDRESS = b'"document"', re.compile(rb'"type"\s*+:\s*+"url"')
_WIDE = re.compile(rb'"(?:image|audio|inline|(?:in|out)put_audio|data:audio|1h|12h|AUDIO|IMAGE)')
# Everything that makes a body cost more than its bytes, in lower case. One pattern that starts with a single character
# matches four times faster than word after word, and the lookahead dismisses most quotes by the first letter.
_FILES = rb'(?:file|document|video)(?:_id|_?ur[il]|_data)?"'
_DEARER = re.compile(rb'"(?=[1adfioAIv])' + _WIDE.pattern[1:-1] + rb"|" + _FILES + rb")")
# Tools that the provider runs itself: their results are input of the same call. A client's function of such a name is
# not one. Types may end in a date; Google accepts both spellings of a field.
SERVED_TOOLS_TOKENS_MAX = 100_000
# Searches are also charged individually: this many are held, or the caller's limit if that is higher.
SEARCHES_MAX, SEARCHES_ALLOWED_MAX = 10, 1000
_ALLOWED = re.compile(rb'"max_uses"\s*+:\s*+(\d++)')
_WORDS = {*server_tools.KINDS, *server_tools.CHAT, *server_tools.RESPONSES, *server_tools.HOSTED, *server_tools.OTHERS}
_TYPES = "|".join(sorted(_WORDS))
_MEMBERS = "|".join(re.sub("[A-Z]", lambda hit: "_?" + hit[0].lower(), name) for name in server_tools.GEMINI)
_SERVED_TOOL = re.compile(rf'"type"\s*+:\s*+"(?:openrouter:)?(?:{_TYPES})|"(?:{_MEMBERS})"\s*+:'.encode())
# A tool of unknown type is assumed to run at the provider, since new ones come with new models. The types below run at
# the caller or are bounded otherwise: OpenAI's, Anthropic's dated ones, and those that search tools in the body.
_OWN_TYPES = (
    "function|custom|namespace|(?:local_)?shell|apply_patch|computer(?:_use(?:_preview)?)?|"
    "tool_search(?:_tool_[a-z0-9_]++)?|"
    "(?:bash|text_editor|computer|memory|browser)(?:_toolset)?_20[0-9]{6}|"
    "image_generation|advisor_[a-z0-9_]++|openrouter:(?:advisor|subagent|fusion|image_gen[a-z_]*+)"
)
_KNOWN_TYPE = re.compile(_OWN_TYPES)
# Other `type` values inside tools, mostly of their schemas: if only these occur, the tools are not decoded.
_SCHEMA_TYPES = "string|object|array|number|boolean|integer|null|ephemeral|grammar|text|approximate|any"
_NOT_OWN = re.compile(rf'"type"\s*+:\s*+"(?!(?:{_SCHEMA_TYPES}|{_OWN_TYPES})")|"(?:{_MEMBERS})"\s*+:'.encode())
_json = msgspec.json.Decoder()
# A provider's instructions to its model for calling tools, and for each tool it defines but the client runs
# (Anthropic's computer, bash and text editor, whose types end in a date). They are not in the body.
TOOLS_TOKENS_MAX, OWN_TOOL_TOKENS_MAX = 640, 1024
_OWN_TOOL = re.compile(rb'"type"\s*+:\s*+"[a-z]++(?:_[a-z]++)*_20\d{6}"')
# Tools that call another model: OpenAI's image generation, which reports its tokens, and those that report nothing:
# Anthropic's advisor, which reads the conversation, and OpenRouter's. One pattern, since every tool is matched.
_MODEL_BEHIND = re.compile(
    rb'"type"\s*+:\s*+"(?:(?P<pictures>image_generation")|advisor_|openrouter:(?:advisor|subagent|fusion|image_gen))'
)
# Generated images count as tokens of the call: about 6,200 for a large one. Animations have nine frames by default.
PICTURES_MADE_TOKENS_MAX, MOVING_FRAME_TOKENS_MAX = 16_384, 6_400
MOVING_FRAMES, MOVING_FRAMES_MAX = 9, 1000
_FRAMES = re.compile(rb'"frame_count"\s*+:\s*+(\d++)')
_NO_TOOLS = (b"null", b"[]")
# Declarations of tools inside a conversation: two items of OpenAI's and a block of Anthropic's. Inside a string, quotes
# are escaped, so it does not match. It starts with the rarest character, which is found fastest.
_DECLARING = re.compile(rb'_(?:(?<="additional_)tools|(?<="tool_)(?:search_output|addition))"')
# A context that is compacted during the call is read once more, and its summary is output besides the answer.
COMPACTION_TOKENS_MAX = 16_384
# An absent field, and values equivalent to it. Most calls are recognised by the identity of the first.
ABSENT = msgspec.Raw()
NONE_NAMED = (b"", b"null", b"[]")
_UNSERVED = (*NONE_NAMED, b"false")
# Fields other than `tools` that make the provider search, run code or call tool servers.
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
    """The facts of a text call, bounded by its bytes, its images, files and tools and its own output limit.

    Of `tools`, and of those declared in `turns` of the conversation, only tools that the provider runs count. `served`
    are fields that enable such tools (OpenRouter's `plugins`, too), `tool_calls` is the limit of their calls, `models`
    are further models that the provider may use. Field names match in any case, as in servers written in Go; values
    match exactly.
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
        # The case-insensitive match above also finds a string that starts with "Image".
        open_ended = inline > 0 or files > 0 or _DEARER.search(body) is not None
        wide = inline > 0 or _WIDE.search(body) is not None
        pictures = body.count(b'"image') + inline
        given += IMAGE_TOKENS_MAX * pictures
        remote = min(documents, len(_BY_ADDRESS.findall(small))) if documents else 0
        given += REMOTE_FILE_TOKENS_MAX * (files + remote)
    made = (limit or 0) * choices
    # Compare by identity first: most calls have none of these.
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
    # Most calls have none of either.
    asks = len(served) > served.count(ABSENT) and _is_served(served)
    if asks or (declaring and _has_served(declaring)):
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
    """The JSON objects that declare tools, in lower case: the `tools` field and turns of the conversation."""
    given = b"" if tools is ABSENT else folded(spelled_out(bytes(tools)))
    declaring = [b'{"tools":%b}' % given] if given and given not in _NO_TOOLS else []
    if turns and _DECLARING.search(body) is not None:
        told = (folded(spelled_out(bytes(turn))) for turn in turns)
        declaring += [turn for turn in told if _DECLARING.search(turn) is not None]
    return declaring


def _frames(tools: bytes) -> int:
    """The most frames of an image generated by these tools."""
    return _most_told(_FRAMES, tools, MOVING_FRAMES if b'"gif"' in tools else 1, MOVING_FRAMES_MAX)


def with_compaction(facts: Facts) -> Facts:
    """The bounds of a call whose context is compacted during the call."""
    upper, output = facts.upper, facts.upper.output_tokens + COMPACTION_TOKENS_MAX
    wider = msgspec.structs.replace(upper, input_tokens=2 * upper.input_tokens, output_tokens=output)
    return msgspec.structs.replace(facts, upper=wider)


def _is_served(members: Iterable[msgspec.Raw]) -> bool:
    """Whether one of these fields enables a provider's tools."""
    return any(one is not ABSENT and bytes(one) not in _UNSERVED for one in members)


def _has_served(declaring: Iterable[bytes]) -> bool:
    """Whether the provider runs one of the tools in these objects itself, as far as is known."""
    return any(
        _NOT_OWN.search(one) is not None and (_SERVED_TOOL.search(one) is not None or _declares_unknown(one))
        for one in declaring
    )


def _declares_unknown(declaring: bytes) -> bool:
    try:
        return any(_KNOWN_TYPE.fullmatch(kind) is None for kind in _types_in(_json.decode(declaring)))
    except NOT_JSON:
        return True


def _types_in(declaring: Any) -> Iterator[str]:
    """The types of the tools that an object declares: in a list, in a change of the tools, or nested in either."""
    if isinstance(declaring, list):
        for one in declaring:
            yield from _types_in(one)
    elif isinstance(declaring, dict):
        found = declaring.get("tools"), [declaring.get("definition")]
        for tool in (one for tools in found if isinstance(tools, list) for one in tools if isinstance(one, dict)):
            # Anthropic and Google treat a tool without a type as a function.
            yield str(tool.get("type") or "function")
            yield from _types_in(tool)
        for name in ("content", "tool_changes", "tool"):
            yield from _types_in(declaring.get(name))


def _most_told(pattern: re.Pattern[bytes], tools: bytes, least: int, most: int) -> int:
    """The largest number in `tools` that the pattern captures, within these bounds."""
    return min(max([least, *(int(digits[:9]) for digits in pattern.findall(tools))]), most)


def _searches(tools: bytes) -> int:
    """The number of searches to hold for tools that the provider runs."""
    return _most_told(_ALLOWED, tools, SEARCHES_MAX, SEARCHES_ALLOWED_MAX)


def bounded_by_model(facts: Facts, model: str) -> Facts:
    """The facts with the bounds that depend on the model: output, images, and the context for a stored history."""
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
    """An upper bound of what channels add to a text call: input tokens and the provider's searches.

    `wide`: as in `Facts`, for the additions. `lives_long`: they request a long-lived cache.
    """

    tokens: int = 0
    searches: int = 0
    wide: bool = False
    lives_long: bool = False


NOTHING_ADDED = Added()


def most_added(channels: Iterable[Channel]) -> Added:
    """An upper bound of what any of these channels adds."""
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
    """What a channel's system prompt and parameters add."""
    tokens = 0 if channel.system_prompt is None else len(channel.system_prompt.encode()) + FRAME_TOKENS_MAX
    if not (members := channel.param_default | channel.param_set):
        return Added(tokens)
    sent = msgspec.json.encode(members)
    body = spelled_out(sent)
    small = folded(body)
    serves = _has_served([small]) or _is_served(members[name] for name in members if name.casefold() in _SERVING)
    return Added(
        tokens + len(sent) + (SERVED_TOOLS_TOKENS_MAX if serves else 0),
        _searches(small) if serves else 0,
        _WIDE.search(body) is not None,
        lives_long(body),
    )


def lives_long(body: bytes) -> bool:
    """Whether a body requests a long-lived cache, in Anthropic's or OpenAI's form."""
    return b'"1h"' in body or b'"12h"' in body
