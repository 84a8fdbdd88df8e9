"""The Gemini dialect (generateContent and streamGenerateContent), its losses and the checks for other dialects.

`gemini_request` reads requests and `gemini_write` writes them; `gemini_reply` reads answers and `gemini_writer` writes
them. Contract: anthropic.md sections 6 and 7.
"""

from __future__ import annotations

from elkapi.errors import BadRequest
from elkapi.translate.dialect import Dialect
from elkapi.translate.gemini_reply import Reader, read_reply
from elkapi.translate.gemini_request import STRETCHES, read_request
from elkapi.translate.gemini_write import STOP_MAX, write_request
from elkapi.translate.gemini_writer import Writer, write_reply
from elkapi.translate.ir import ChatRequest, File, Image, Loss, Message, ServerToolPart, ToolCall, ToolResult

LOSSES = (
    Loss("n", True, "a translated answer has one candidate"),
    Loss("logit_bias", True, "token ids of another vocabulary mean nothing to Gemini"),
    Loss("stop", True, f"more than {STOP_MAX} stop sequences are not accepted"),
    Loss("files by id", True, "the id is only known where the file was uploaded"),
    Loss("custom tools", True, "Gemini's functions take JSON objects, not free text"),
    Loss("server tools", True, "only web search, code execution and web fetch exist here, without domain filters"),
    Loss("parallel_tools", False, "Gemini has no switch for parallel calls"),
    Loss("tool_choice of a server tool", False, "Gemini decides itself whether to run one"),
    Loss("place of a web search", False, "Google does not accept place names"),
    Loss("tool strict", False, "calls follow the schema as well as the model can"),
    Loss("thinking", False, "thoughts are only accepted by the upstream that signed them"),
    Loss("system later", False, "an instruction after the first turn is sent as the user's text"),
    Loss("cache_ttl", False, "Gemini caches by itself"),
    Loss("image detail", False, "there is no such setting for a single image"),
    Loss("server tool parts", False, "only the provider that ran the tool can read them"),
    Loss("name of a chat participant", False, "not supported"),
    Loss("user", False, "not supported"),
    Loss("metadata", False, "not supported"),
    Loss("cache_key", False, "not supported"),
    Loss("service_tier", False, "the providers' tiers are not comparable"),
    Loss("verbosity", False, "not supported"),
    Loss("temperature, top_p, top_k", False, "for models that refuse sampling settings"),
    Loss("JSON mode and schemas beside tools, before Gemini 3", False, "becomes an instruction"),
)

# Fields that narrow a search and have no equivalent in other dialects.
_NARROWING = ("excludeDomains", "timeRangeFilter", "blockingConfidence")
_PAGES = "webSearch"
# The text modality, by name and by enum number.
_TEXTS = ("TEXT", "1")
# Parts about the work of Gemini's own tools, which other dialects leave out.
_RUN = frozenset({"executableCode", "codeExecutionResult", "toolCall", "toolResponse"})
# Settings that change the answer and have no equivalent in other dialects.
_MEANINGFUL = (
    "speechConfig",
    "imageConfig",
    "continuationToken",
    "responseMimeType",
    "responseFormat",
    "translationConfig",
    "audioTranscriptionConfig",
    "routingConfig",
)
# Such fields beside the settings: content stored at Google, a filter of the caller's own account.
_HELD = ("cachedContent", "modelArmorConfig")


def check_crossing(request: ChatRequest) -> None:
    """Raise BadRequest, naming the caller's field, for what only a Gemini upstream can do."""
    settings = request.extra.get("generationConfig", {})
    refused = [name for name in _MEANINGFUL if name in settings and settings[name] != "text/plain"]
    modalities = settings.get("responseModalities")
    if isinstance(modalities, list) and any(str(word).upper() not in _TEXTS for word in modalities):
        refused.append("responseModalities")
    if refused:
        raise BadRequest(f"`{refused[0]}` is not supported by this model.", param=f"generationConfig.{refused[0]}")
    for name in _HELD:
        if name in request.extra:
            raise BadRequest(
                f"`{name}` is not supported by this model: it refers to an object stored at Google.", param=name
            )
    if request.n > 1:
        raise BadRequest("`candidateCount` must be 1 for this model.", param="generationConfig.candidateCount")
    for tool in request.server_tools:
        declared = next(iter(tool.raw.values()), None)
        if not isinstance(declared, dict):
            continue
        for name in _NARROWING:
            if declared.get(name):
                raise BadRequest(f"`{name}` of a web search is not supported by this model.", param="tools")
        if isinstance(kinds := declared.get("searchTypes"), dict) and kinds.keys() - {_PAGES}:
            raise BadRequest("`searchTypes` must contain only `webSearch` for this model.", param="tools")
    _check_parts(request.messages)


def _check_parts(messages: list[Message]) -> None:
    calls: set[str] = set()
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCall):
                calls.add(part.id)
            elif isinstance(part, ToolResult) and part.call_id not in calls:
                raise BadRequest(f"The response of `{part.name}` must follow its function call.", param="contents")
            elif isinstance(part, ServerToolPart) and (named := next((n for n in STRETCHES if n in part.raw), None)):
                raise BadRequest(f"`{named}` is not supported by this model.", param="contents")
            elif isinstance(part, ServerToolPart) and message.role == "user" and not _RUN & part.raw.keys():
                # Otherwise content from the user would be dropped silently.
                raise BadRequest(f"`{next(iter(part.raw))[:60]}` is not supported by this model.", param="contents")
            elif isinstance(part, Image | File) and part.url and _only_google_opens(part.url):
                raise BadRequest(
                    "This model does not support files stored at Google; send the data as `inlineData`.",
                    param="contents",
                )


def _only_google_opens(url: str) -> bool:
    return not url.startswith(("http://", "https://")) or "://generativelanguage.googleapis.com/" in url


DIALECT = Dialect(
    name="gemini",
    read_request=read_request,
    write_request=write_request,
    read_reply=read_reply,
    write_reply=write_reply,
    reader=Reader,
    writer=Writer,
    losses=LOSSES,
    ends_by_close=True,
    check_crossing=check_crossing,
)
