"""Gemini's wire format: structs of requests, normalization of names and base64.

Contract: anthropic.md section 6.1. Unknown fields are allowed everywhere.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import decode, worded

AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
}


class WireBlob(msgspec.Struct):
    data: str
    mimeType: str = "application/octet-stream"
    displayName: str | None = None


class WireFileData(msgspec.Struct):
    fileUri: str
    mimeType: str = "application/octet-stream"
    displayName: str | None = None


class WireResultPart(msgspec.Struct):
    inlineData: WireBlob | None = None
    fileData: WireFileData | None = None


class WireCall(msgspec.Struct):
    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class WireResponse(msgspec.Struct):
    name: str
    response: dict[str, Any] | None = None
    id: str | None = None
    parts: list[WireResultPart] | None = None


class WirePart(msgspec.Struct):
    text: str | None = None
    thought: bool | None = None
    thoughtSignature: str | None = None
    inlineData: WireBlob | None = None
    fileData: WireFileData | None = None
    functionCall: WireCall | None = None
    functionResponse: WireResponse | None = None


class WireContent(msgspec.Struct):
    parts: list[dict[str, Any]] | None = None
    role: str | None = None


class WireDeclaration(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parametersJsonSchema: dict[str, Any] | None = None


class WireCalling(msgspec.Struct):
    """`mode` may be an enum number, as Google's older clients write it."""

    mode: str | int | None = None
    allowedFunctionNames: list[str] | None = None


class WireToolConfig(msgspec.Struct):
    functionCallingConfig: WireCalling | None = None


class WireThinking(msgspec.Struct):
    includeThoughts: bool | None = None
    thinkingBudget: int | None = None
    thinkingLevel: str | None = None


class WireGeneration(msgspec.Struct):
    temperature: float | None = None
    topP: float | None = None
    topK: float | None = None
    candidateCount: int | None = None
    maxOutputTokens: int | None = None
    stopSequences: list[str] | None = None
    seed: int | None = None
    presencePenalty: float | None = None
    frequencyPenalty: float | None = None
    responseLogprobs: bool | None = None
    logprobs: int | None = None
    responseMimeType: str | None = None
    responseSchema: dict[str, Any] | None = None
    responseJsonSchema: dict[str, Any] | None = None
    thinkingConfig: WireThinking | None = None


class WireRequest(msgspec.Struct):
    contents: list[WireContent]
    systemInstruction: WireContent | None = None
    tools: list[dict[str, Any]] | None = None
    toolConfig: WireToolConfig | None = None
    generationConfig: WireGeneration | None = None
    model: str | None = None


_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
# Below these fields the names are the caller's own.
_OPAQUE = frozenset(
    {
        "args",
        "response",
        "parameters",
        "parametersJsonSchema",
        "responseJsonSchema",
        "responseSchema",
        "labels",
        "partMetadata",
    }
)
# A single item of these may come without its list, as in some of Google's examples.
_LISTS = frozenset({"contents", "parts", "tools", "functionDeclarations"})


def camel(value: Any) -> Any:
    """The value with camelCase names and without nulls, which mean the same as absence.

    Raises BadRequest for a name given in both forms.
    """
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for name, item in value.items():
        first, *rest = name.split("_")
        wire = first + "".join(word[:1].upper() + word[1:] for word in rest)
        if wire in result:
            raise BadRequest(f"`{wire}` is set twice, as `{wire}` and as `{name}`; send it once.", param=wire)
        if item is None:
            continue
        if wire in _LISTS and isinstance(item, dict):
            item = [item]
        result[wire] = item if wire in _OPAQUE else camel(item)
    return result


def decode_names(body: bytes) -> dict[str, Any]:
    """A caller's JSON object with camelCase names. Raises BadRequest."""
    value = worded(lambda: camel(decode(_any, body)))
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def standard_base64(data: str) -> str:
    """Base64 in the standard alphabet, with padding."""
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    return data + "=" * (-len(data) % 4)
