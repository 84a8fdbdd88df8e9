"""Every text dialect by the name of its wire, as callers and upstreams speak it, and the prefix of its answers' ids."""

from __future__ import annotations

import msgspec

from elkapi.translate import anthropic, chat, completions, converse, gemini, responses, responses_state
from elkapi.translate.dialect import Dialect, UpstreamDialect

# A legacy completion is asked of other upstreams as a chat; on its own wire only its reader and writer are used.
_COMPLETIONS = msgspec.structs.replace(
    chat.DIALECT,
    read_request=completions.read_request,
    read_reply=completions.read_reply,
    write_reply=completions.write_reply,
    reader=completions.CompletionsReader,
    writer=completions.CompletionsWriter,
)
# A compaction that the upstream does not offer is a response whose text is the summary.
_COMPACT = msgspec.structs.replace(
    responses.DIALECT, read_request=responses_state.read_compact, write_reply=responses_state.write_compact
)
DIALECTS: dict[str, Dialect] = {
    "chat": chat.DIALECT,
    "completions": _COMPLETIONS,
    "responses": responses.DIALECT,
    "responses-compact": _COMPACT,
    "anthropic": anthropic.DIALECT,
    "gemini": gemini.DIALECT,
}
# As upstreams speak them.
UPSTREAM_DIALECTS: dict[str, Dialect | UpstreamDialect] = {**DIALECTS, "converse": converse.DIALECT}
PREFIXES = {
    "chat": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
    "responses-compact": "resp_",
    "anthropic": "msg_",
}
