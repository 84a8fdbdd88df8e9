"""What each model accepts, as flags, so that no dialect module depends on a model's name.

A row is `(upstream families, pattern of the upstream model's name, flags)`; later rows override earlier ones. None as
the families means all of them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

import msgspec

from elkapi.translate.ir import Effort, Reasoning


class Profile(msgspec.Struct, frozen=True):
    """The flags of a model.

    `max_output_tokens`: the model's maximum, also sent if a dialect requires a limit.
    `image_tokens_max`: the most input tokens of one image.
    `reasoning`: how thinking is requested: not at all, as an effort, as a token budget, as a level (Gemini 3), or
    adaptive (newer Claude models). `sampling` False: the model refuses temperature, top_p, top_k and penalties,
    `penalties` False: only these.
    `thinking_off`: the type of Claude's `thinking` that switches it off; None: the model always thinks.
    `forced_tools` False: the model refuses a tool choice that forces a call.
    `later_system`: it accepts instructions between the turns.
    `efforts`: the efforts it accepts, weakest first. `budget_min`: the smallest budget it accepts.
    `reasoning_content`: it requires its earlier thinking to be sent back.
    `json_schema` False: a forced tool replaces a schema, in chat completions JSON mode and an instruction.
    `anthropic_members`: it accepts Anthropic's own fields (thinking, top_k) where another dialect passes fields on.
    `schema_subset`: Gemini's own Schema instead of JSON schema. `call_signatures`: it refuses unsigned calls.
    `shows_tools`: it runs its provider's tools beside functions only if it may show their calls in its answer.
    `whole_results`: it matches tool results to calls by their ids, and takes their pictures and files only within them.
    `typed_links`: it refuses an image by URL without a media type, so an unknown type is taken for JPEG.
    `searches_billed_once`: all searches of a call are billed as one search.
    `json_beside_tools` False: it refuses JSON mode and schemas beside tools.
    `typed_schema`: it refuses a schema without a type, or with one beside alternatives (Moonshot's).
    `thinking_field`: the field with which chat completions switch its thinking, beside an effort; "adaptive" is a
    `thinking` whose word for on is that. `calls_or_thinks`: it refuses a forced tool while it thinks, which that field
    then ends. `whole_unthinking`: it refuses to think in an answer that is not streamed. `off_unsaid`: it may refuse
    the word for no thinking, and many like it do not think without a word.
    `adaptive_effort`: the effort that makes it think as it likes, where it does not think without a word.
    `cache_marks`: it caches only what is marked, with Anthropic's marks. `signed_details`: it takes Claude's signed
    thinking back as `reasoning_details` (OpenRouter).
    `web_search` False: its chat completions cannot search the web, and ignore or refuse `web_search_options`.
    `strict_chat`: it refuses unknown fields (user, seed, verbosity, tiers, log probabilities), call ids other than nine
    letters and digits, and some orders of messages.
    `custom_tools`: it accepts free-text tools. `begun_answers` False: a conversation must end with the user's turn.
    `converse_takes`: the features of Converse that only some models support: the tool choices "any" and "tool", a tool
    result's "status", "cache" points, such points among the tools ("tool_cache"), and their lifetime of an hour ("1h").
    """

    max_output_tokens: int = 8192
    context_tokens: int = 131_072
    image_tokens_max: int = 4096
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning: Literal["none", "effort", "budget", "level", "adaptive"] = "none"
    thinking_off: Literal["disabled", "between_tools"] | None = "disabled"
    forced_tools: bool = True
    later_system: bool = False
    sampling: bool = True
    penalties: bool = True
    temperature_and_top_p: bool = True
    system_role: Literal["system", "developer"] = "system"
    json_schema: bool = True
    parallel_tools_field: bool = True
    efforts: tuple[Effort, ...] = ("low", "medium", "high")
    budget_min: int = 0
    reasoning_content: bool = False
    anthropic_members: bool = False
    schema_subset: bool = False
    typed_schema: bool = False
    thinking_field: Literal["thinking", "adaptive", "enable_thinking", "chat_template_kwargs"] | None = None
    calls_or_thinks: bool = False
    whole_unthinking: bool = False
    off_unsaid: bool = False
    adaptive_effort: Effort | None = None
    cache_marks: bool = False
    signed_details: bool = False
    web_search: bool = True
    call_signatures: bool = False
    shows_tools: bool = False
    whole_results: bool = False
    typed_links: bool = False
    searches_billed_once: bool = False
    json_beside_tools: bool = True
    strict_chat: bool = False
    custom_tools: bool = False
    begun_answers: bool = True
    converse_takes: frozenset[Literal["any", "tool", "status", "cache", "tool_cache", "1h"]] = frozenset()


# The user's turn after a begun answer, for a model that does not accept one.
GO_ON = "Continue."

_ALL_EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_LOW = _ALL_EFFORTS.index("low")

_Row = tuple[frozenset[str] | None, str, dict[str, Any]]

ROWS: tuple[_Row, ...] = (
    (None, r"(^|/)(gpt-4o|gpt-4\.1|chatgpt)", {"max_output_tokens": 32_768}),
    # 2,833 tokens for an image and 5,667 for each of its tiles, of which there are at most eight.
    (None, r"(^|/)gpt-4o-mini", {"image_tokens_max": 48_169}),
    (
        None,
        r"^(o\d|gpt-[5-9]|gpt-\d\d|codex)",
        {
            "max_output_tokens": 128_000,
            "context_tokens": 400_000,
            "max_tokens_field": "max_completion_tokens",
            "reasoning": "effort",
            "sampling": False,
            "system_role": "developer",
        },
    ),
    (None, r"^(gpt-[5-9]|gpt-\d\d|codex)", {"custom_tools": True}),
    (None, r"^gpt-5($|-)", {"efforts": ("minimal", "low", "medium", "high")}),
    (None, r"^(gpt-5\.[1-9]|gpt-[6-9]|gpt-\d\d)", {"efforts": ("none", "low", "medium", "high", "xhigh")}),
    (None, r"^gpt-5\.1($|-\d)", {"efforts": ("none", "low", "medium", "high")}),
    (None, r"^gpt-5-pro", {"efforts": ("high",)}),
    (None, r"^gpt-5\.5-pro", {"efforts": ("medium", "high", "xhigh")}),
    # OpenRouter and similar prefix the names, and convert each field for the model that they ask.
    (None, r"/(o\d|gpt-[5-9]|gpt-\d\d)", {"max_output_tokens": 128_000, "context_tokens": 400_000}),
    (None, r"(^|/)gpt-([6-9]|\d\d)", {"context_tokens": 1_050_000}),
    # The largest models always reason.
    (None, r"^gpt-(6-astra|6\.1-sol|6\.[2-9]|[7-9]|\d\d)", {"efforts": ("low", "medium", "high", "xhigh")}),
    # Models that think between tool calls and require those thoughts back (DeepSeek, Kimi, GLM, MiniMax).
    (None, r"(^|/)(deepseek|kimi|glm|minimax)", {"reasoning_content": True}),
    (
        None,
        r"(^|/)(deepseek|qwen|glm|kimi|grok|mistral|magistral|minimax|gpt-oss)",
        {"max_output_tokens": 32_768},
    ),
    (None, r"(^|/)qwen3(-max|-coder|\.[5-9])", {"max_output_tokens": 65_536}),
    (None, r"(^|/)(qwen3\.[89]|glm-(4\.[6-9]|[5-9]))", {"max_output_tokens": 131_072}),
    (None, r"(^|/)deepseek-(flash|pro|v[4-9])", {"max_output_tokens": 393_216}),
    # They refuse the field, also for models that want their thoughts back elsewhere.
    (frozenset({"groq", "mistral"}), r"", {"reasoning_content": False}),
    (frozenset({"mistral"}), r"", {"strict_chat": True}),
    (frozenset({"moonshot"}), r"", {"typed_schema": True}),
    # Their chat completions have a JSON mode, and refuse or ignore a schema.
    (frozenset({"deepseek", "zhipu"}), r"", {"json_schema": False}),
    # Where they search the web at all, it is by fields of their own.
    (
        frozenset(
            {
                "ark",
                "cerebras",
                "deepseek",
                "fireworks",
                "groq",
                "lmstudio",
                "minimax",
                "mistral",
                "moonshot",
                "nvidia",
                "ollama",
                "qwen",
                "siliconflow",
                "together",
                "vllm",
                "xai",
                "zhipu",
            }
        ),
        r"",
        {"web_search": False},
    ),
    # How each provider's chat completions are told to think, and how much. Words that a provider takes for another of
    # its own are among the efforts. Models that always think have no field, only efforts.
    (
        frozenset({"deepseek"}),
        r"^deepseek-(flash|pro|v[4-9])",
        {"thinking_field": "thinking", "calls_or_thinks": True, "reasoning": "effort", "efforts": _ALL_EFFORTS[1:]},
    ),
    (frozenset({"zhipu"}), r"^glm-(4\.[5-9]|5(\.[12])?($|-))", {"thinking_field": "thinking"}),
    (frozenset({"zhipu"}), r"^glm-(5\.[2-9]|[6-9])", {"reasoning": "effort", "efforts": _ALL_EFFORTS[1:]}),
    (frozenset({"moonshot"}), r"^kimi-k(2\.[5-9]|[3-9])", {"sampling": False}),
    (frozenset({"moonshot"}), r"^kimi-k2\.[56]", {"thinking_field": "thinking", "calls_or_thinks": True}),
    (frozenset({"moonshot"}), r"^kimi-k[3-9]", {"reasoning": "effort", "efforts": ("low", "high", "max")}),
    (frozenset({"minimax"}), r"^MiniMax-M[3-9]", {"thinking_field": "adaptive"}),
    (frozenset({"ark"}), r"^doubao-seed-[12]", {"thinking_field": "thinking"}),
    (
        frozenset({"qwen"}),
        r"^(qwen-(plus|flash|turbo)|qwen3-\d+b|qwen3\.\d-)(?!.*(instruct|thinking|coder|omni))",
        {"thinking_field": "enable_thinking", "calls_or_thinks": True},
    ),
    (frozenset({"qwen"}), r"^qwen3-\d+b(?!.*(instruct|thinking|coder))", {"whole_unthinking": True}),
    (
        frozenset({"vllm"}),
        r"(?i)(^|/)(qwen3[.-]|glm-(4\.[5-9]|[5-9]))(?!.*(instruct|coder))",
        {"thinking_field": "chat_template_kwargs"},
    ),
    (frozenset({"xai"}), r"^grok-(3-mini|[4-9]|build|code)(?!.*non-reasoning)", {"penalties": False}),
    (frozenset({"xai"}), r"^grok-4\.3", {"reasoning": "effort", "efforts": ("none", "low", "medium", "high")}),
    (frozenset({"xai"}), r"^grok-(4\.[5-9]|[5-9])", {"reasoning": "effort"}),
    (frozenset({"groq", "cerebras", "together", "vllm", "ollama"}), r"(^|/)gpt-oss", {"reasoning": "effort"}),
    (
        frozenset({"groq", "cerebras"}),
        r"(^|/)qwen-?3\.[8-9]",
        {"reasoning": "effort", "efforts": ("none", "low", "medium", "high")},
    ),
    (
        frozenset({"mistral"}),
        r"^mistral-(small-(2603|latest)|medium-(2604|3[-.]5|latest))",
        {"reasoning": "effort", "efforts": ("none", "high")},
    ),
    (frozenset({"mistral"}), r"^mistral-large-4", {"reasoning": "effort"}),
    (None, r"^smollm2", {"max_output_tokens": 8192, "context_tokens": 8192}),
    # Converse supports structured output for newer Claude models only.
    (frozenset({"bedrock", "converse"}), r"", {"json_schema": False}),
    (frozenset({"bedrock"}), r"(mistral\.|^)mistral-large", {"converse_takes": frozenset({"any"})}),
    (
        frozenset({"bedrock"}),
        r"(amazon\.|^)nova",
        {"converse_takes": frozenset({"any", "tool", "status", "cache"})},
    ),
    (
        frozenset({"bedrock"}),
        r"(anthropic\.|^)claude",
        {"converse_takes": frozenset({"any", "tool", "status", "cache", "tool_cache"})},
    ),
    (
        frozenset({"bedrock"}),
        r"(anthropic\.|^)claude-(opus|sonnet|haiku|fable)-(4-[5-9]|[5-9])",
        {"converse_takes": frozenset({"any", "tool", "status", "cache", "tool_cache", "1h"})},
    ),
    (
        None,
        r"(^|[./])claude",
        {"max_output_tokens": 8192, "context_tokens": 200_000, "json_schema": False, "anthropic_members": True},
    ),
    (None, r"claude-(3-opus|3-sonnet|3-haiku|2|instant)", {"max_output_tokens": 4096}),
    (
        None,
        r"claude-(3-7|sonnet-4|opus-4|haiku-4)",
        {"max_output_tokens": 64_000, "reasoning": "budget", "temperature_and_top_p": False},
    ),
    (None, r"claude-opus-4($|-0|-1|-2|@)", {"max_output_tokens": 32_000}),
    (
        None,
        r"claude-(opus-4-1($|\D)|(opus|sonnet|haiku)-4-[5-9]|(opus|sonnet|haiku|fable|mythos)-[5-9])",
        {"json_schema": True},
    ),
    (
        None,
        r"claude-(opus|sonnet|haiku|fable|mythos)-(4-[6-9]|[5-9])",
        {
            "max_output_tokens": 64_000,
            "reasoning": "adaptive",
            "efforts": ("low", "medium", "high", "max"),
            "temperature_and_top_p": False,
            "begun_answers": False,
        },
    ),
    # Opus 4.7 and later support neither a token budget nor sampling.
    (
        None,
        r"claude-(opus|sonnet|haiku|fable|mythos)-(4-[7-9]|[5-9])",
        {"sampling": False, "efforts": ("low", "medium", "high", "xhigh", "max")},
    ),
    (None, r"claude-(opus-(4-[89]|[5-9])|sonnet-5-[5-9]|(fable|mythos)-[5-9])", {"later_system": True}),
    # Anthropic's "Troubleshooting thinking" has the table by model.
    (None, r"claude-((fable|mythos)-[5-9]|opus-5-[5-9])", {"thinking_off": None}),
    (None, r"claude-sonnet-5-[5-9]", {"thinking_off": "between_tools"}),
    (None, r"claude-((fable|mythos)-5-[1-9]|(opus|sonnet)-5-[5-9])($|\D)", {"forced_tools": False}),
    (None, r"(^|/)gemini", {"max_output_tokens": 65_536, "context_tokens": 1_048_576, "reasoning": "budget"}),
    (None, r"(^|/)gemini-2\.5-\S*image", {"reasoning": "none"}),
    # They refuse JSON beside tools, and Google bills their searches by the prompt, those of Gemini 3 by the query.
    (None, r"(^|/)gemini-[12]", {"searches_billed_once": True, "json_beside_tools": False}),
    # Its thinking cannot be disabled.
    (None, r"(^|/)gemini-2\.5-pro", {"budget_min": 128}),
    (None, r"(^|/)gemini-(1|2\.0)", {"max_output_tokens": 8192, "reasoning": "none", "schema_subset": True}),
    # Google's names without a version stand for the latest models.
    (
        None,
        r"(^|/)gemini-([3-9]|(pro|flash|flash-lite)-latest)",
        {
            "reasoning": "level",
            "efforts": ("low", "medium", "high"),
            "call_signatures": True,
            "shows_tools": True,
            "whole_results": True,
        },
    ),
    # Since July 2026 new models of Google refuse to go on with an answer that was begun for them.
    (
        None,
        r"(^|/)gemini-(3\.5-flash-lite|3\.([6-9]|\d\d)|[4-9]|(pro|flash|flash-lite)-latest)",
        {"begun_answers": False},
    ),
    # Vertex AI runs them without, and does not know the field.
    (frozenset({"vertex"}), r"", {"shows_tools": False, "typed_links": True}),
    (None, r"(^|/)gemini-3-pro", {"efforts": ("low", "high")}),
    # From 3.7 on only the flash-lite models support minimal thinking.
    (
        None,
        r"(^|/)gemini-(3(\.[1-6])?-flash|[3-9](\.\d+)?-flash-lite)",
        {"efforts": ("minimal", "low", "medium", "high")},
    ),
    (
        frozenset({"openrouter"}),
        r"^~?anthropic/",
        {"cache_marks": True, "signed_details": True, "adaptive_effort": "high"},
    ),
    # It makes of an effort what the model's provider can do, but refuses "none" for models that always think.
    (frozenset({"openrouter"}), r"", {"reasoning": "effort", "efforts": _ALL_EFFORTS, "off_unsaid": True}),
    (
        frozenset({"openrouter"}),
        r"/(deepseek-v(3\.[12]|4)|glm-(4\.[5-9]|5(\.[12])?($|:))|kimi-k2\.[56]|qwen3\.[5-7]-|grok-4\.3"
        r"|gpt-5\.[1-6]($|:|-(mini|nano|sol|terra|luna)($|:))|gemini-2\.5-flash)",
        {"off_unsaid": False},
    ),
)


Kind = Literal["text", "embedding", "rerank", "moderation", "video", "task"]
_KINDS: tuple[tuple[Kind, str], ...] = (
    # What video providers offer beside generating videos: speech, images, editing of an existing video.
    (
        "task",
        r"^(eleven_|magnific_|photon-|kolors-|gen4_image|runway-(video2video|act-one)|luma-(upscale|audio)"
        r"|kling-(video-extend|lip-sync|image-expand|identify-face))",
    ),
    ("embedding", r"embed|bge-|gte-|e5-|minilm"),
    ("rerank", r"rerank"),
    ("moderation", r"moderation"),
)


def kind_of(model: str) -> Kind:
    """The kind of a model, guessed from its name; for listings only, never for routing.

    "task": it is available only on its provider's own route.
    """
    lowered = model.lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, lowered)), "text")


@lru_cache(maxsize=4096)
def profile_for(family: str, upstream_model: str) -> Profile:
    """The flags of a model as an upstream family serves it."""
    flags: dict[str, Any] = {}
    for families, pattern, row in ROWS:
        if (families is None or family in families) and re.search(pattern, upstream_model):
            flags.update(row)
    return msgspec.structs.replace(Profile(), **flags)


# The largest token budget of each effort; anything above is "high".
_BUDGETS: tuple[tuple[int, Effort], ...] = ((0, "none"), (4096, "low"), (16_384, "medium"))


def effort_for(reasoning: Reasoning, profile: Profile) -> Effort | None:
    """The model's effort nearest to the requested one; None if the model decides."""
    effort = effort_asked(reasoning)
    if effort is None:
        return None
    rank = _ALL_EFFORTS.index(effort)
    # Who asks for some thinking gets some.
    known = [word for word in profile.efforts if word != "none" or rank < _LOW] or profile.efforts
    return min(known, key=lambda word: abs(_ALL_EFFORTS.index(word) - rank))


def effort_asked(reasoning: Reasoning) -> Effort | None:
    """The requested effort, or the one that a budget amounts to; None if the model decides."""
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort is None and budget is not None and not reasoning.adaptive:
        return next((word for limit, word in _BUDGETS if budget <= limit), "high")
    return effort
