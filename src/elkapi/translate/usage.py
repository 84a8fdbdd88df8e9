"""Convert each dialect's usage object to and from the canonical `Usage`.

Every reader returns disjoint classes whose sum is the dialect's own total. It returns None, trusting nothing in the
object, if a count is negative, not an integer or contradictory (guarantees 21, 23, 25). Contracts: openai.md,
anthropic.md sections 1, 3, 6.2.
"""

from __future__ import annotations

import msgspec

from elkapi.types import Usage


class _WriteDetails(msgspec.Struct):
    ttl_30m_tokens: int | None = None
    ttl_12h_tokens: int | None = None


class _Lifetimes(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class _PromptDetails(msgspec.Struct):
    """Cache writes are OpenAI's, OpenRouter's and Moonshot's `cache_write_tokens`, Alibaba's
    `cache_creation_input_tokens` and LiteLLM's `cache_creation_tokens`."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_tokens_details: _WriteDetails | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_token_details: _Lifetimes | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class XaiTools(msgspec.Struct):
    """Tool calls that xAI bills one by one."""

    web_search_calls: int | None = None
    x_search_calls: int | None = None

    @property
    def searches(self) -> int:
        """Searches of the web and of X, which have the same price."""
        return (self.web_search_calls or 0) + (self.x_search_calls or 0)


class ChatUsage(msgspec.Struct):
    """OpenAI's chat and completions; `prompt_cache_hit_tokens` is DeepSeek's, a top-level `cached_tokens` Moonshot's,
    `num_cached_tokens` and `prompt_token_details` Mistral's.

    OpenRouter reports searches as Anthropic does, or in `server_tool_use_details`; Perplexity in `num_search_queries`,
    xAI in `server_side_tool_usage_details`.
    Perplexity's deep research adds `citation_tokens` and `reasoning_tokens`, which are in none of the totals.
    `prompt_audio_seconds` is Mistral's; its total includes tokens of sound that neither side counts.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None
    num_cached_tokens: int | None = None
    prompt_token_details: _PromptDetails | None = None
    server_tool_use: _ServerTools | None = None
    server_tool_use_details: _ServerTools | None = None
    server_side_tool_usage_details: XaiTools | None = None
    num_search_queries: int | None = None
    citation_tokens: int | None = None
    reasoning_tokens: int | None = None
    prompt_audio_seconds: object = None


class ResponsesUsage(msgspec.Struct):
    """OpenAI's responses; `server_side_tool_usage_details` is xAI's."""

    input_tokens: int
    output_tokens: int
    total_tokens: int | None = None
    input_tokens_details: _PromptDetails | None = None
    output_tokens_details: _CompletionDetails | None = None
    server_side_tool_usage_details: XaiTools | None = None


class ImageGenUsage(msgspec.Struct):
    """The usage of a response's image generation tool: tokens of another model, in none of the response's totals."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _ThinkingDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Iteration(msgspec.Struct):
    type: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


class AnthropicUsage(msgspec.Struct):
    """Anthropic's messages; `input_tokens` excludes both cache counts. In message_delta any field may be absent.

    Of the `iterations`, only compactions are not in the totals.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _ThinkingDetails | None = None
    server_tool_use: _ServerTools | None = None
    iterations: list[_Iteration] | None = None


class _Modality(msgspec.Struct):
    modality: str = ""
    tokenCount: int = 0


class GeminiUsage(msgspec.Struct):
    """Gemini's usageMetadata; candidatesTokenCount excludes thoughts, promptTokenCount includes cached content.

    `promptTokenDetails` is the name of the input's modalities in the answers of its embeddings.
    """

    promptTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    totalTokenCount: int | None = None
    cachedContentTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    toolUsePromptTokenCount: int | None = None
    promptTokensDetails: list[_Modality] | None = None
    promptTokenDetails: list[_Modality] | None = None
    cacheTokensDetails: list[_Modality] | None = None
    candidatesTokensDetails: list[_Modality] | None = None


def read_input_usage(view: ChatUsage) -> Usage | None:
    """The usage of embeddings and reranks, which have only input. Some (vLLM's reranks) report only the total."""
    if view.prompt_tokens is not None or view.total_tokens is None:
        return read_chat_usage(view)
    return Usage(input_tokens=view.total_tokens, calls=1) if view.total_tokens >= 0 else None


def read_chat_usage(view: ChatUsage) -> Usage | None:
    """The canonical usage; None if a count is missing or impossible.

    Some providers do not count reasoning in completion_tokens, which shows in their total_tokens.
    """
    if view.prompt_tokens is None:
        return None
    details, out = view.prompt_tokens_details or view.prompt_token_details, view.completion_tokens_details
    completion = view.completion_tokens or 0
    cached = view.prompt_cache_hit_tokens or view.cached_tokens or view.num_cached_tokens or 0
    if details is None and out is None and not cached:
        # Embeddings and many compatible servers report no details: there is nothing to split.
        total_in = view.prompt_tokens
        return (
            None if total_in < 0 or completion < 0 else Usage(input_tokens=total_in, output_tokens=completion, calls=1)
        )
    details = details or _PromptDetails()
    cached = details.cached_tokens or cached
    reasoning = (out.reasoning_tokens if out else 0) or 0
    if reasoning and view.total_tokens == view.prompt_tokens + completion + reasoning:
        completion += reasoning
    return _split(view.prompt_tokens, cached, details, completion, reasoning, out)


def read_written_usage(view: ChatUsage) -> tuple[Usage, bool] | None:
    """(usage, unsplit) of generated text; None without `completion_tokens`, which only embeddings may omit.

    `unsplit`: there are cache writes, and their lifetimes, which only OpenAI and LiteLLM report, are missing.
    """
    usage = None if view.completion_tokens is None else read_chat_usage(view)
    tools, theirs = view.server_tool_use or view.server_tool_use_details, view.server_side_tool_usage_details
    told = tools.web_search_requests if tools else view.num_search_queries
    searches = told or (theirs.searches if theirs else 0)
    if usage is None or searches < 0:
        return None
    if searches:
        usage = msgspec.structs.replace(usage, searches=searches)
    if (view.total_tokens or 0) > (view.prompt_tokens or 0) + (view.completion_tokens or 0):
        usage = _with_unsaid(usage, view)
    if view.citation_tokens is not None:
        read, thought = view.citation_tokens, view.reasoning_tokens or 0
        if min(read, thought) < 0:
            return None
        given, reasoning = usage.input_tokens + read, usage.reasoning_tokens or thought
        usage = msgspec.structs.replace(usage, input_tokens=given, reasoning_tokens=reasoning)
    return usage, usage.cache_write_5m_tokens > 0 and not _tells_lifetimes(view.prompt_tokens_details)


def _tells_lifetimes(details: _PromptDetails | None) -> bool:
    if details is None:
        return False
    lives, theirs = details.cache_write_tokens_details, details.cache_creation_token_details
    if lives is not None and (lives.ttl_30m_tokens is not None or lives.ttl_12h_tokens is not None):
        return True
    return theirs is not None and theirs.ephemeral_1h_input_tokens is not None


def _with_unsaid(usage: Usage, view: ChatUsage) -> Usage:
    """Add tokens that only the total contains, if they can only be thinking.

    Google's compatible endpoint counts thinking in `total_tokens` alone, without any details. If reasoning is reported,
    or the tokens may be the input's (cached ones beside `prompt_tokens`, sound), the two sides are believed.
    """
    unsaid = (view.total_tokens or 0) - usage.input_total - usage.output_total
    at_the_cache = unsaid == usage.cache_read_tokens + usage.cache_write_tokens
    if unsaid <= 0 or usage.reasoning_tokens or at_the_cache or view.prompt_audio_seconds is not None:
        return usage
    return msgspec.structs.replace(usage, reasoning_tokens=unsaid)


def read_responses_usage(view: ResponsesUsage) -> Usage | None:
    """The canonical usage of a response; None if a count is impossible."""
    details, out = view.input_tokens_details or _PromptDetails(), view.output_tokens_details
    reasoning = (out.reasoning_tokens if out else 0) or 0
    return _split(view.input_tokens, details.cached_tokens or 0, details, view.output_tokens, reasoning, out)


def with_pictures_made(usage: Usage, told: ImageGenUsage) -> Usage | None:
    """Add the usage of generated images in the image classes; None if a count is impossible."""
    cached = told.cached_tokens or 0
    if min(cached, told.input_tokens - cached, told.output_tokens) < 0:
        return None
    return msgspec.structs.replace(
        usage,
        cached_tokens=usage.cached_tokens + cached,
        image_input_tokens=usage.image_input_tokens + told.input_tokens - cached,
        image_output_tokens=usage.image_output_tokens + told.output_tokens,
    )


def _split(
    total_in: int,
    cached: int,
    details: _PromptDetails,
    total_out: int,
    reasoning: int,
    out: _CompletionDetails | None,
) -> Usage | None:
    """Totals and their parts -> disjoint classes. Cached tokens are not counted again by modality.

    Cache writes of 12 hours count in the class of Anthropic's one-hour writes, which has its own price.
    """
    lives, long = details.cache_write_tokens_details, 0
    if lives is not None:
        long = lives.ttl_12h_tokens or 0
    elif details.cache_creation_token_details is not None:
        long = details.cache_creation_token_details.ephemeral_1h_input_tokens or 0
    write = details.cache_write_tokens or details.cache_creation_input_tokens or details.cache_creation_tokens or 0
    audio, image = details.audio_tokens or 0, details.image_tokens or 0
    audio_out = (out.audio_tokens if out else 0) or 0
    image_out = (out.image_tokens if out else 0) or 0
    if min(total_in, cached, write, long, write - long, audio, image, total_out, reasoning, audio_out, image_out) < 0:
        return None
    uncached = total_in - cached - write
    text_out = total_out - reasoning - audio_out - image_out
    if uncached < 0 or text_out < 0:
        return None
    audio = min(audio, uncached)
    image = min(image, uncached - audio)
    return Usage(
        input_tokens=uncached - audio - image,
        cached_tokens=cached,
        cache_write_5m_tokens=write - long,
        cache_write_1h_tokens=long,
        audio_input_tokens=audio,
        image_input_tokens=image,
        output_tokens=text_out,
        reasoning_tokens=reasoning,
        audio_output_tokens=audio_out,
        image_output_tokens=image_out,
        calls=1,
    )


def read_anthropic_usage(view: AnthropicUsage) -> tuple[Usage, bool] | None:
    """(usage, unsplit); `unsplit`: cache writes have no lifetimes and are in the 5m class.

    None if a count is impossible, or if input or output is missing: an empty object does not mean a usage of zero.
    """
    if view.input_tokens is None or view.output_tokens is None:
        return None
    found = _anthropic_classes(view)
    for row in view.iterations or ():
        if row.type == "compaction" and found is not None:
            more = _anthropic_classes(row)
            found = None if more is None else (_added(found[0], more[0]), found[1] or more[1])
    return found


def _anthropic_classes(view: AnthropicUsage | _Iteration) -> tuple[Usage, bool] | None:
    read, write = view.cache_read_input_tokens or 0, view.cache_creation_input_tokens or 0
    split = view.cache_creation
    told_5m, write_1h = (
        (split.ephemeral_5m_input_tokens or 0, split.ephemeral_1h_input_tokens or 0) if split else (0, 0)
    )
    unsplit = told_5m + write_1h < write
    write_5m = write - write_1h if unsplit else told_5m
    thinking = searches = 0
    if isinstance(view, AnthropicUsage):
        thinking = (view.output_tokens_details.thinking_tokens if view.output_tokens_details else 0) or 0
        searches = (view.server_tool_use.web_search_requests if view.server_tool_use else 0) or 0
    total_in, total_out = view.input_tokens or 0, view.output_tokens or 0
    if min(total_in, read, write, told_5m, write_5m, write_1h, thinking, searches, total_out - thinking) < 0:
        return None
    usage = Usage(
        input_tokens=total_in,
        cached_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=total_out - thinking,
        reasoning_tokens=thinking,
        searches=searches,
        calls=1,
    )
    return usage, unsplit


def _added(usage: Usage, more: Usage) -> Usage:
    """Add the tokens of a part of a call that its totals leave out."""
    return msgspec.structs.replace(
        usage,
        input_tokens=usage.input_tokens + more.input_tokens,
        cached_tokens=usage.cached_tokens + more.cached_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens + more.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens + more.cache_write_1h_tokens,
        output_tokens=usage.output_tokens + more.output_tokens,
    )


def read_gemini_usage(view: GeminiUsage) -> Usage | None:
    """The canonical usage of a usageMetadata, which always has the prompt and omits zeros; None if it is impossible.

    Cached tokens of any modality count as cached; cached audio has its own class, since it has its own price.
    """
    if view.promptTokenCount is None:
        return None
    thoughts, cached = view.thoughtsTokenCount or 0, view.cachedContentTokenCount or 0
    details_in = view.promptTokensDetails or view.promptTokenDetails or ()
    inputs = {row.modality: row.tokenCount for row in details_in}
    outputs = {row.modality: row.tokenCount for row in view.candidatesTokensDetails or ()}
    for row in view.cacheTokensDetails or ():
        inputs[row.modality] = max(inputs.get(row.modality, 0) - max(row.tokenCount, 0), 0)
    details = _PromptDetails(audio_tokens=inputs.get("AUDIO"), image_tokens=inputs.get("IMAGE"))
    out = _CompletionDetails(audio_tokens=outputs.get("AUDIO"), image_tokens=outputs.get("IMAGE"))
    total_in = view.promptTokenCount + (view.toolUsePromptTokenCount or 0)
    total_out = (view.candidatesTokenCount or 0) + thoughts
    if view.candidatesTokenCount is None and view.totalTokenCount is not None:
        # Some answers omit the output count; the total includes it.
        total_out = max(total_out, view.totalTokenCount - total_in)
    usage = _split(total_in, cached, details, total_out, thoughts, out)
    heard = sum(row.tokenCount for row in view.cacheTokensDetails or () if row.modality == "AUDIO")
    if usage is None or heard <= 0:
        return usage
    heard = min(heard, cached)
    return msgspec.structs.replace(usage, cached_tokens=cached - heard, cached_audio_tokens=heard)


def chat_usage_object(usage: Usage) -> dict[str, object]:
    """OpenAI's chat usage; zero classes are left out of the details where SDKs allow it."""
    prompt: dict[str, int] = {"cached_tokens": usage.cache_read_tokens, "audio_tokens": usage.audio_input_tokens}
    if usage.cache_write_tokens:
        prompt["cache_write_tokens"] = usage.cache_write_tokens
    if usage.image_input_tokens:
        prompt["image_tokens"] = usage.image_input_tokens
    completion = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.audio_output_tokens}
    if usage.image_output_tokens:
        completion["image_tokens"] = usage.image_output_tokens
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.input_total + usage.output_total,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }


def responses_usage_object(usage: Usage) -> dict[str, object]:
    """OpenAI's responses usage."""
    return {
        "input_tokens": usage.input_total,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_total,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_total + usage.output_total,
    }


def anthropic_usage_object(usage: Usage) -> dict[str, object]:
    """Anthropic's usage; `input_tokens` excludes both cache counts."""
    result: dict[str, object] = {
        "input_tokens": usage.input_tokens + usage.audio_input_tokens + usage.image_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_total,
    }
    if usage.cache_write_tokens:
        result["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    if usage.reasoning_tokens:
        result["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.searches:
        result["server_tool_use"] = {"web_search_requests": usage.searches, "web_fetch_requests": 0}
    return result


def gemini_usage_object(usage: Usage) -> dict[str, object]:
    """Gemini's usageMetadata."""
    result: dict[str, object] = {
        "promptTokenCount": usage.input_total,
        "candidatesTokenCount": usage.output_total - usage.reasoning_tokens,
        "totalTokenCount": usage.input_total + usage.output_total,
    }
    if usage.cache_read_tokens:
        result["cachedContentTokenCount"] = usage.cache_read_tokens
    if usage.reasoning_tokens:
        result["thoughtsTokenCount"] = usage.reasoning_tokens
    return result
