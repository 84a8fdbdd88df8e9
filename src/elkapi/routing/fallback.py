"""Which other models a call may be answered by, and what counts as a reason; pure. Doing it is `relay.fallback`'s.

| reason    | when                                                                                          |
|-----------|-----------------------------------------------------------------------------------------------|
| `error`   | every attempt of the model failed for reasons of its channels, or nothing serves it           |
| `context` | an upstream refused the call because its input is too long for the model                      |
| `refusal` | the model, or a filter in front of it, declined to answer and said nothing else by then       |

Any other refusal of an upstream (a wrong parameter) is the caller's to know, whatever model is asked.
"""

from __future__ import annotations

import re

from elkapi.types import FallbackReason, Policy

ANY_MODEL = "*"
# Phrases by which providers refuse overlong input: OpenAI and compatible servers, Anthropic, Gemini, Bedrock, xAI; then
# llama.cpp, Moonshot, Zhipu, Ark and Qwen; then SGLang, Together, vLLM, LM Studio, Copilot, SiliconFlow and Ark again.
_OVERFLOW = re.compile(
    rb"""(?ix)
    context_length_exceeded | model_context_window_exceeded | maximum\ context\ length | exceeds\ the\ context\ window
  | prompt\ is\ too\ long | exceeds?\ context\ limit | context\ window\ exceed
  | input\ token\ count.{0,80}exceeds | input\ is\ too\ long | too\ many\ input\ tokens | maximum\ prompt\ length
  | available\ context\ size | exceeded\ model\ token\ limit | prompt\ exceeds\ max\ length
  | input\ length\ \d+\ exceeds | range\ of\ input\ length
  | longer\ than\ the\ (model's\ context|maximum\ model)\ length | model's\ context\ length\ is\ only
  | when\ context\ the\ overflows | model_max_prompt_tokens_exceeded
  | prompt_tokens\ \(\d+\)\ must\ be\ less\ than\ max_seq_len | exceed\ max\ message\ tokens
    """
)
# The same for content: OpenAI and Azure, Moonshot and Alibaba by a code or type, DeepSeek and xAI by how their message
# begins, OpenRouter's moderation by a member.
_FILTERED = re.compile(
    rb"""(?ix)
    "(code|type)"\s*:\s*"(content_filter|content_policy_violation|data_?inspection_?failed)"
  | ResponsibleAIPolicyViolation | "(message|error)"\s*:\s*"content\ (exists\ risk|violates\ usage\ guidelines)
  | "flagged_input"\s*:
    """
)


def others(policy: Policy, model: str) -> tuple[str, ...]:
    """The models to try after this one, in order: its own row, else the row for any model."""
    rows = policy.fallbacks
    if not rows:
        return ()
    return tuple(other for other in rows.get(model, rows.get(ANY_MODEL, ())) if other != model)


def allows(policy: Policy, reason: FallbackReason | None) -> bool:
    """Whether the policy falls back to another model for this reason."""
    return reason is not None and (policy.fallback_on is None or reason in policy.fallback_on)


def reason_after(told: FallbackReason | None, status: int) -> FallbackReason | None:
    """The reason to try another model after an error of this status: what the upstream said, otherwise that the
    channels failed and not the call."""
    return "error" if told is None and (status >= 500 or status == 429) else told


def reason_in(status: int, told: bytes) -> FallbackReason | None:
    """The fallback reason in an upstream's refusal of a call; `told` is its body or its message."""
    if not 400 <= status < 500:
        return None
    if _OVERFLOW.search(told):
        return "context"
    return "refusal" if _FILTERED.search(told) else None
