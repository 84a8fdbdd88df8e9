"""What is read of each text call before it is relayed: above all the most that it can use, which is what is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from elkapi.catalog import text
from elkapi.catalog.bounds import (
    COMPACTION_TOKENS_MAX,
    FRAME_TOKENS_MAX,
    NOTHING_ADDED,
    SEARCHES_MAX,
    SERVED_TOOLS_TOKENS_MAX,
    Added,
    added_by,
    bounded_by_model,
    most_added,
)
from elkapi.catalog.operation import Facts
from elkapi.errors import BadRequest
from elkapi.types import Channel, Usage

Read = Callable[[bytes], Facts]
USER = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "m", "messages": USER}
MESSAGES: dict[str, Any] = CHAT | {"max_tokens": 7}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}
RESPONSE: dict[str, Any] = {"model": "m", "input": "hi"}
GENERATE: dict[str, Any] = {"contents": [{"parts": [{"text": "hi"}]}]}
RERANK: dict[str, Any] = {"model": "m", "query": "hé", "documents": ["a"]}


def read(reader: Read, body: dict[str, Any]) -> Facts:
    return reader(msgspec.json.encode(body))


# A call -> (the caller's limit of one answer, answers, the most output held for).
OUTPUTS: list[tuple[Read, dict[str, Any], int | None, int, int]] = [
    (text.read_chat, CHAT, None, 1, 0),
    (text.read_chat, CHAT | {"max_tokens": 7}, 7, 1, 7),
    (text.read_chat, CHAT | {"max_completion_tokens": 9, "max_tokens": 7}, 9, 1, 9),
    (text.read_chat, CHAT | {"max_completion_tokens": 5, "max_tokens": 7, "n": 3}, 7, 3, 21),
    (text.read_completion, COMPLETION, 16, 1, 16),
    (text.read_completion, COMPLETION | {"max_tokens": 0}, 0, 1, 0),
    (text.read_completion, COMPLETION | {"max_tokens": 5, "n": 2, "best_of": 4}, 5, 4, 20),
    (text.read_completion, COMPLETION | {"max_tokens": 5, "n": 3, "best_of": 2, "prompt": ["a", "b"]}, 5, 6, 30),
    (text.read_completion, COMPLETION | {"max_tokens": 5, "prompt": ["a"]}, 5, 1, 5),
    (text.read_completion, COMPLETION | {"max_tokens": 5, "prompt": [[1, 2], [3]]}, 5, 2, 10),
    (text.read_completion, COMPLETION | {"max_tokens": 5, "prompt": [1, 2, 3]}, 5, 1, 5),
    (text.read_responses, RESPONSE | {"max_output_tokens": 9}, 9, 1, 9),
    (text.read_responses, RESPONSE, None, 1, 0),
    (text.read_messages, MESSAGES, 7, 1, 7),
    (text.read_messages, MESSAGES | {"context_management": {"edits": []}}, 7, 1, 7),
    (text.read_generate, GENERATE | {"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}}, 9, 2, 18),
    (text.read_generate, GENERATE | {"generation_config": {"max_output_tokens": 9, "candidate_count": 2}}, 9, 2, 18),
    (text.read_generate, GENERATE, None, 1, 0),
]


@pytest.mark.parametrize(("reader", "body", "limit", "choices", "output"), OUTPUTS)
def test_the_most_a_call_can_use_is_bounded_by_its_bytes_and_its_limits(
    reader: Read, body: dict[str, Any], limit: int | None, choices: int, output: int
) -> None:
    facts = read(reader, body)
    given = len(msgspec.json.encode(body)) + FRAME_TOKENS_MAX
    assert (facts.output_limit, facts.choices) == (limit, choices)
    assert facts.upper == Usage(input_tokens=given, output_tokens=output, calls=1)


def test_a_context_that_is_compacted_on_the_way_is_held_for_twice() -> None:
    body = MESSAGES | {"context_management": {"edits": [{"type": "compact_20260112"}]}}
    plain = len(msgspec.json.encode(body)) + FRAME_TOKENS_MAX
    assert read(text.read_messages, body).upper == Usage(
        input_tokens=2 * plain, output_tokens=7 + COMPACTION_TOKENS_MAX, calls=1
    )


# A call -> (streamed, its usage is for the caller too, kept by the provider, something kept matters).
FLAGS: list[tuple[Read, dict[str, Any], tuple[bool, bool, bool, bool]]] = [
    (text.read_chat, CHAT, (False, False, False, False)),
    (text.read_chat, CHAT | {"stream": True}, (True, False, False, False)),
    (text.read_chat, CHAT | {"stream": True, "stream_options": {}}, (True, False, False, False)),
    (text.read_chat, CHAT | {"stream_options": {"include_usage": True}}, (False, True, False, False)),
    (text.read_chat, CHAT | {"store": True}, (False, False, True, True)),
    (text.read_completion, COMPLETION | {"stream": True}, (True, False, False, False)),
    (text.read_completion, COMPLETION | {"stream_options": {"include_usage": True}}, (False, True, False, False)),
    (text.read_responses, RESPONSE, (False, True, True, True)),
    (text.read_responses, RESPONSE | {"store": None, "stream": True}, (True, True, True, True)),
    (text.read_responses, RESPONSE | {"store": False}, (False, True, False, False)),
    (text.read_responses, RESPONSE | {"store": False, "background": True}, (False, True, False, True)),
    (text.read_responses, RESPONSE | {"store": False, "previous_response_id": "resp_1"}, (False, True, False, True)),
    (text.read_responses, RESPONSE | {"store": False, "previous_response_id": ""}, (False, True, False, False)),
    (text.read_responses, RESPONSE | {"store": False, "conversation": "conv_1"}, (False, True, False, True)),
    (text.read_messages, MESSAGES | {"stream": True}, (True, True, False, False)),
    (text.read_generate, GENERATE, (False, True, False, False)),
    (text.read_compact, RESPONSE, (False, False, False, False)),
    (text.read_response_count, RESPONSE | {"previous_response_id": "resp_1"}, (False, False, False, True)),
]


@pytest.mark.parametrize(("reader", "body", "flags"), FLAGS)
def test_what_a_call_says_of_its_answer(
    reader: Read, body: dict[str, Any], flags: tuple[bool, bool, bool, bool]
) -> None:
    facts = read(reader, body)
    assert (facts.stream, facts.include_usage, facts.store, facts.stateful) == flags


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_what_a_response_goes_on_from_is_read(conversation: Any) -> None:
    facts = read(text.read_responses, RESPONSE | {"previous_response_id": "resp_1", "conversation": conversation})
    assert (facts.previous, facts.conversation, facts.background) == ("resp_1", "conv_1", False)


@pytest.mark.parametrize("options", [{"multi_agent": {"enabled": False}}, {"multi_agent": None}])
def test_a_response_without_agents_of_the_providers_is_read(options: dict[str, Any]) -> None:
    assert read(text.read_responses, {"model": "m", "input": "x", **options}).model == "m"


@pytest.mark.parametrize(
    ("documents", "searches"), [(["a"], 1), (["a"] * 98, 1), (["a"] * 100, 2), (["a"] * 300, 4), (["a" * 60_000], 2)]
)
def test_a_rerank_reads_its_query_with_every_document(documents: list[str], searches: int) -> None:
    """A search is one of a hundred documents; of a long one each part of 500 tokens is a document."""
    body = RERANK | {"documents": documents}
    given = len(msgspec.json.encode(body)) + len(documents) * len("hé".encode())
    assert read(text.read_rerank, body).upper == Usage(input_tokens=given, searches=searches, calls=1)


@pytest.mark.parametrize(
    ("reader", "body"),
    [
        *((reader, body | {"model": ""}) for reader, body in ((text.read_chat, CHAT), (text.read_count, MESSAGES))),
        (text.read_chat, {"model": "m", "messages": []}),
        (text.read_chat, CHAT | {"max_tokens": 0}),
        (text.read_chat, CHAT | {"max_tokens": 2_000_001}),
        (text.read_chat, CHAT | {"n": 0}),
        (text.read_chat, CHAT | {"n": 129}),
        (text.read_completion, COMPLETION | {"prompt": ""}),
        (text.read_completion, COMPLETION | {"prompt": []}),
        (text.read_completion, COMPLETION | {"max_tokens": -1}),
        (text.read_responses, {"model": "m", "input": "x", "multi_agent": {"enabled": True}}),
        (text.read_responses, {"model": "m", "input": "x", "background_options": {"completion_window": "2h"}}),
        (text.read_messages, CHAT),
        (text.read_messages, MESSAGES | {"messages": []}),
        (text.read_generate, {"contents": []}),
        (text.read_gemini_batch_embed, {"requests": []}),
        (text.read_moderation, {"model": "m", "input": ""}),
        (text.read_moderation, {"model": "m", "input": []}),
        (text.read_rerank, RERANK | {"query": ""}),
        (text.read_rerank, RERANK | {"documents": []}),
        (text.read_rerank, RERANK | {"documents": ["a"] * 1001}),
        (text.read_rerank, RERANK | {"top_n": 0}),
    ],
)
def test_a_call_that_asks_for_nothing_or_too_much_is_refused(reader: Read, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        read(reader, body)


@pytest.mark.parametrize(
    ("reader", "body"),
    [
        *((text.read_chat, CHAT), (text.read_completion, COMPLETION), (text.read_responses, RESPONSE)),
        *((text.read_messages, MESSAGES), (text.read_count, MESSAGES), (text.read_any, {"model": "m"})),
        *((text.read_moderation, RESPONSE), (text.read_rerank, RERANK)),
    ],
)
def test_a_model_in_other_letters_is_refused(reader: Read, body: dict[str, Any]) -> None:
    """A server written in Go would go by it, and the call would be charged as another model's."""
    with pytest.raises(BadRequest) as refused:
        read(reader, body | {"Model": "dearer"})
    assert refused.value.param == "Model"
    assert refused.value.message == "`Model` must be spelled `model`."


@pytest.mark.parametrize(
    ("reader", "body", "texts", "items"),
    [
        (text.read_gemini_embed, {"content": {"parts": [{"text": "a"}, {"text": "b"}]}}, ["a\nb"], 1),
        (text.read_gemini_embed, {"content": {"parts": [{"inlineData": {}}]}}, None, 1),
        (
            text.read_gemini_batch_embed,
            {"requests": [{"content": {"parts": [{"text": word}]}} for word in "ab"]},
            ["a", "b"],
            2,
        ),
        (text.read_moderation, {"model": "m", "input": ["a", "b"]}, ["a", "b"], 1),
    ],
)
def test_what_a_count_of_our_own_would_count_is_the_text(
    reader: Read, body: dict[str, Any], texts: Any, items: int
) -> None:
    facts = read(reader, body)
    assert (facts.texts, facts.items) == (texts, items)
    beyond = 0 if texts is not None else text.EMBED_MEDIA_TOKENS_MAX * items
    assert facts.upper == Usage(input_tokens=len(msgspec.json.encode(body)) + beyond, calls=1)


def test_counts_and_free_calls_hold_nothing() -> None:
    assert read(text.read_count, MESSAGES) == Facts(model="m", upper=Usage())
    assert read(text.read_any, {"model": "m", "whatever": 1}) == Facts(model="m", upper=Usage())
    assert read(text.read_any, {}).model is None
    assert read(text.read_response_count, RESPONSE | {"store": False}).upper == Usage()


def test_what_only_the_model_bounds_is_its_output_and_its_context_for_what_is_kept() -> None:
    plain = read(text.read_chat, CHAT)
    assert bounded_by_model(plain, "gpt-4o").upper == msgspec.structs.replace(plain.upper, output_tokens=32_768)
    several = read(text.read_chat, CHAT | {"n": 3})
    assert bounded_by_model(several, "gpt-4o").upper.output_tokens == 3 * 32_768
    for model in ("gpt-6-sol", "openai/gpt-5.6-sol", "openai/o3"):
        assert bounded_by_model(plain, model).upper.output_tokens == 128_000
    for model in ("moonshotai/kimi-k3", "z-ai/glm-4", "x-ai/grok-5", "minimax/minimax-m3", "openai/gpt-oss-120b"):
        assert bounded_by_model(plain, model).upper.output_tokens == 32_768
    current = {
        "qwen3-coder-plus": 65_536,
        "glm-4.5": 32_768,
        "glm-5.3": 131_072,
        "deepseek-v3.2": 32_768,
        "deepseek/deepseek-v4-pro": 393_216,
    }
    assert {model: bounded_by_model(plain, model).upper.output_tokens for model in current} == current
    limited = read(text.read_chat, CHAT | {"max_tokens": 7})
    assert bounded_by_model(limited, "gpt-4o") is limited
    later = read(text.read_responses, RESPONSE | {"max_output_tokens": 9, "previous_response_id": "resp_1"})
    given = later.upper.input_tokens + 400_000
    assert bounded_by_model(later, "gpt-5.2").upper == Usage(input_tokens=given, output_tokens=9, calls=1)


def test_a_text_alone_is_bounded_by_its_bytes_and_nothing_else() -> None:
    facts = read(text.read_chat, CHAT | {"tools": [{"type": "function", "function": {"name": "f"}}]})
    assert (facts.pictures, facts.open_ended, facts.wide) == (0, False, False)


@pytest.mark.parametrize(
    ("reader", "body", "name", "nothing"),
    [
        (text.read_messages, MESSAGES, "mcp_servers", []),
        (text.read_messages, MESSAGES, "mcp_servers", None),
        (text.read_chat, CHAT, "web_search_options", None),
        (text.read_chat, CHAT, "plugins", None),
        (text.read_chat, CHAT, "plugins", []),
        (text.read_completion, COMPLETION, "plugins", None),
        (text.read_responses, RESPONSE, "plugins", None),
        (text.read_responses, RESPONSE, "prompt", None),
        (text.read_generate, GENERATE, "cachedContent", None),
        (text.read_generate, GENERATE, "cached_content", None),
    ],
)
def test_what_the_provider_finds_by_itself_is_input_too(
    reader: Read, body: dict[str, Any], name: str, nothing: Any
) -> None:
    without = read(reader, body | {name: nothing})
    assert (without.upper.input_tokens, without.open_ended) == (
        len(msgspec.json.encode(body | {name: nothing})) + FRAME_TOKENS_MAX,
        False,
    )
    asked = body | {name: [{"url": "https://x"}]}
    found = read(reader, asked)
    given = len(msgspec.json.encode(asked)) + FRAME_TOKENS_MAX + SERVED_TOOLS_TOKENS_MAX
    assert (found.upper.input_tokens, found.open_ended) == (given, True)


def test_a_channel_adds_what_it_says_itself() -> None:
    channel = Channel(1, "c", "openai", "http://x", (), ())
    assert most_added([channel]) is NOTHING_ADDED
    said = msgspec.structs.replace(channel, system_prompt="é")
    assert most_added([said, channel]) == Added(2 + FRAME_TOKENS_MAX)
    asked = msgspec.structs.replace(said, param_set={"top_k": msgspec.Raw(b"1")})
    assert added_by(asked) == Added(2 + FRAME_TOKENS_MAX + len(b'{"top_k":1}'))
    quiet = msgspec.structs.replace(channel, param_set={"enable_search": msgspec.Raw(b"false")})
    assert added_by(quiet).searches == 0
    words = {"web_search_options": b"{}", "mcp_servers": b"{}", "plugins": b'[{"id":"web"}]', "enable_search": b"true"}
    words["enable_code_interpreter"] = b"true"
    for member, value in words.items():
        body = msgspec.json.encode({member: msgspec.Raw(value)})
        searching = msgspec.structs.replace(channel, param_default={member: msgspec.Raw(value)})
        assert added_by(searching) == Added(len(body) + SERVED_TOOLS_TOKENS_MAX, SEARCHES_MAX)
    keeping = msgspec.structs.replace(channel, param_set={"cache_control": msgspec.Raw(b'{"ttl":"1h"}')})
    assert most_added([searching, keeping]) == Added(added_by(searching).tokens, SEARCHES_MAX, True, True)


@pytest.mark.parametrize("name", ["model", "messages", "tools", "service_tier", "temperature"])
@pytest.mark.parametrize("read", [text.read_chat, text.read_messages, text.read_count])
def test_a_member_that_stands_twice_is_refused_whichever_it_is(read: Callable[[bytes], Facts], name: str) -> None:
    value = {"model": b'"m"', "messages": b'[{"role":"user","content":"hi"}]'}.get(name, b"null")
    body = b'{"model":"m","max_tokens":9,"messages":[{}],"tools":[],"service_tier":"auto","temperature":1,"%b":%b}'
    with pytest.raises(BadRequest) as refused:
        read(body % (name.encode(), value))
    assert (refused.value.code, refused.value.param) == ("duplicate_field", name)
