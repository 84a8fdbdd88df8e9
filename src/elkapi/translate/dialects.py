"""The text dialects by wire name, as callers and upstreams speak them, and the id prefixes of their answers."""

from __future__ import annotations

import msgspec

from elkapi.translate import anthropic, chat, completions, converse, gemini, responses, responses_state
from elkapi.translate.dialect import Dialect, UpstreamDialect

# Other upstreams get a legacy completion as a chat; with its own upstreams only its reader and writer are used.
_COMPLETIONS = msgspec.structs.replace(
    chat.DIALECT,
    read_request=completions.read_request,
    read_reply=completions.read_reply,
    write_reply=completions.write_reply,
    reader=completions.CompletionsReader,
    writer=completions.CompletionsWriter,
)
# If the upstream has no compaction endpoint, a compaction is a response whose text is the summary.
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
# The dialects of upstreams.
UPSTREAM_DIALECTS: dict[str, Dialect | UpstreamDialect] = {**DIALECTS, "converse": converse.DIALECT}
PREFIXES = {
    "chat": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
    "responses-compact": "resp_",
    "anthropic": "msg_",
}
