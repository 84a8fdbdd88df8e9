"""What a model takes: flags merged from rows, so that no dialect file asks for a model by name. It owns the rows.

A row is `(upstream families, pattern of the upstream model's name, flags)`; later rows win. None in the first place
means every family.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

import msgspec

from elkapi.translate.ir import Effort, Reasoning


class Profile(msgspec.Struct, frozen=True):
    """`max_output_tokens` is the model's own maximum (also what is asked for where a dialect demands a limit).

    `image_tokens_max` is the most input that one picture comes to.
    `reasoning` is the shape in which the model takes its thinking: none, an effort word, a token budget, a level word
    (Gemini 3), or adaptive (Claude's newer models). `sampling` False: temperature, top_p and top_k are refused.
    `efforts` are the effort words it knows, weakest first, `budget_min` the least budget that it takes.
    `reasoning_content`: it wants its earlier thinking back.
    `json_schema` False: a forced tool stands in for a schema. `anthropic_members`: it takes Anthropic's own members
    (thinking, top_k) where another dialect passes members on.
    `schema_subset`: Gemini's own Schema instead of JSON schema. `call_signatures`: it refuses its calls unsigned.
    `strict_chat`: it refuses members that it does not know (user, seed, verbosity, tiers, log probabilities), call ids
    of other than nine letters and digits, and turns in an order that others take.
    `custom_tools`: it takes tools of free text, not only functions. `begun_answers` False: a conversation must end with
    the user's turn. `converse_takes` are members of Converse that only some models know: the tool choices "any" and
    "tool", a tool result's "status", and "cache" points.
    """

    max_output_tokens: int = 8192
    context_tokens: int = 131_072
    image_tokens_max: int = 4096
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning: Literal["none", "effort", "budget", "level", "adaptive"] = "none"
    sampling: bool = True
    temperature_and_top_p: bool = True
    system_role: Literal["system", "developer"] = "system"
    json_schema: bool = True
    parallel_tools_field: bool = True
    efforts: tuple[Effort, ...] = ("low", "medium", "high")
    budget_min: int = 0
    reasoning_content: bool = False
    anthropic_members: bool = False
    schema_subset: bool = False
    call_signatures: bool = False
    strict_chat: bool = False
    custom_tools: bool = False
    begun_answers: bool = True
    converse_takes: frozenset[Literal["any", "tool", "status", "cache"]] = frozenset()


_Row = tuple[frozenset[str] | None, str, dict[str, Any]]

ROWS: tuple[_Row, ...] = (
    (None, r"^(gpt-4o|gpt-4\.1|chatgpt)", {"max_output_tokens": 32_768}),
    # It counts 2,833 tokens for a picture and 5,667 for each of its tiles, of which there are eight at most.
    (None, r"^gpt-4o-mini", {"image_tokens_max": 48_169}),
    (
        None,
        r"^(o\d|gpt-5|codex)",
        {
            "max_output_tokens": 128_000,
            "context_tokens": 400_000,
            "max_tokens_field": "max_completion_tokens",
            "reasoning": "effort",
            "sampling": False,
            "system_role": "developer",
        },
    ),
    (None, r"^(gpt-[5-9]|codex)", {"custom_tools": True}),
    (None, r"^gpt-5($|-)", {"efforts": ("minimal", "low", "medium", "high")}),
    (None, r"^(gpt-5\.[1-9]|gpt-[6-9])", {"efforts": ("none", "low", "medium", "high", "xhigh")}),
    # Models that think between tool calls and ask for those thoughts back (DeepSeek, Kimi, GLM, MiniMax).
    (None, r"(^|/)(deepseek|kimi|glm|minimax)", {"reasoning_content": True}),
    (None, r"^(deepseek|qwen|glm|kimi|grok|mistral|magistral)", {"max_output_tokens": 32_768}),
    (frozenset({"mistral"}), r"", {"strict_chat": True}),
    (None, r"^smollm2", {"max_output_tokens": 8192, "context_tokens": 8192}),
    # Converse offers structured answers for newer Claude models only.
    (frozenset({"bedrock", "converse"}), r"", {"json_schema": False}),
    (frozenset({"bedrock"}), r"mistral\.mistral-large", {"converse_takes": frozenset({"any"})}),
    (
        frozenset({"bedrock"}),
        r"amazon\.nova|anthropic\.claude",
        {"converse_takes": frozenset({"any", "tool", "status", "cache"})},
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
        r"claude-(opus-4-1($|\D)|(opus|sonnet|haiku)-4-[5-9]|(opus|sonnet|haiku|fable)-[5-9])",
        {"json_schema": True},
    ),
    (
        None,
        r"claude-(opus|sonnet|haiku|fable)-(4-[6-9]|[5-9])",
        {
            "max_output_tokens": 64_000,
            "reasoning": "adaptive",
            "efforts": ("low", "medium", "high", "max"),
            "temperature_and_top_p": False,
            "begun_answers": False,
        },
    ),
    # From Opus 4.7 on there is neither a token budget nor sampling.
    (
        None,
        r"claude-(opus|sonnet|haiku|fable)-(4-[7-9]|[5-9])",
        {"sampling": False, "efforts": ("low", "medium", "high", "xhigh", "max")},
    ),
    (None, r"(^|/)gemini", {"max_output_tokens": 65_536, "context_tokens": 1_048_576, "reasoning": "budget"}),
    (None, r"(^|/)gemini-2\.5-\S*image", {"reasoning": "none"}),
    # It always thinks.
    (None, r"(^|/)gemini-2\.5-pro", {"budget_min": 128}),
    (None, r"(^|/)gemini-(1|2\.0)", {"max_output_tokens": 8192, "reasoning": "none", "schema_subset": True}),
    (
        None,
        r"(^|/)gemini-[3-9]",
        {"reasoning": "level", "efforts": ("low", "medium", "high"), "call_signatures": True},
    ),
    (None, r"(^|/)gemini-3-pro", {"efforts": ("low", "high")}),
    # From 3.7 on only the small ones can think minimally.
    (
        None,
        r"(^|/)gemini-(3(\.[1-6])?-flash|[3-9](\.\d+)?-flash-lite)",
        {"efforts": ("minimal", "low", "medium", "high")},
    ),
)


Kind = Literal["text", "embedding", "rerank", "moderation", "video", "task"]
_KINDS: tuple[tuple[Kind, str], ...] = (
    # What accounts for videos offer beside them: speech, pictures, work on a film that is there.
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
    """What a model is for, as far as its name tells; for lists only, never for routing.

    "task": it is asked on its provider's own route alone.
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


_EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The largest token budget that still reads as an effort word; anything above is "high".
_BUDGETS: tuple[tuple[int, Effort], ...] = ((0, "none"), (4096, "low"), (16_384, "medium"))


def effort_for(reasoning: Reasoning, profile: Profile) -> Effort | None:
    """The effort word nearest to what was asked that the model knows; None when the model is to decide."""
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort is None and budget is not None and not reasoning.adaptive:
        effort = next((word for limit, word in _BUDGETS if budget <= limit), "high")
    if effort is None:
        return None
    rank = _EFFORTS.index(effort)
    return min(profile.efforts, key=lambda known: abs(_EFFORTS.index(known) - rank))
