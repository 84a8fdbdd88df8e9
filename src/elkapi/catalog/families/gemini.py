"""Gemini's native wire format. Contract: anthropic.md section 6; rows: anthropic.yaml (gemini.*)."""

from __future__ import annotations

import msgspec

from elkapi.catalog import text
from elkapi.catalog.operation import Body, Family, ModelSource, Operation, Role

_GENERATE = Operation(
    id="gemini.generate",
    method="POST",
    path="/v1beta/models/{model}:generateContent",
    aliases=("/v1/models/{model}:generateContent",),
    family="gemini",
    role=Role.RELAY,
    body=Body.JSON,
    model=ModelSource("path"),
    priced_by=("contents", "generationConfig", "generation_config"),
    wire="gemini",
    dialect="gemini",
    stream=False,
    unit="token",
    read=text.read_generate,
)


def _verb(verb: str) -> dict[str, object]:
    return {"path": f"/v1beta/models/{{model}}:{verb}", "aliases": (f"/v1/models/{{model}}:{verb}",)}


FAMILY = Family(
    name="gemini",
    dialect="gemini",
    operations=(
        _GENERATE,
        msgspec.structs.replace(
            _GENERATE, id="gemini.stream", kind="stream", stream=True, **_verb("streamGenerateContent")
        ),
        msgspec.structs.replace(
            _GENERATE,
            id="gemini.embed",
            priced_by=("content",),
            wire="gemini-embed",
            dialect=None,
            read=text.read_gemini_embed,
            **_verb("embedContent"),
        ),
        msgspec.structs.replace(
            _GENERATE,
            id="gemini.batch-embed",
            priced_by=("requests",),
            wire="gemini-batch-embed",
            dialect=None,
            read=text.read_gemini_batch_embed,
            **_verb("batchEmbedContents"),
        ),
        msgspec.structs.replace(
            _GENERATE,
            id="gemini.count-tokens",
            priced_by=(),
            role=Role.GATEWAY,
            wire="gemini-count",
            dialect=None,
            unit="free",
            read=text.read_any,
            **_verb("countTokens"),
        ),
    ),
)
