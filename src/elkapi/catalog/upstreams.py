"""Channel families: how each kind of upstream is addressed and authenticated, and which wires it speaks.

A provider that needs no behaviour is one of _COMPATIBLE_ROWS; its differences from the plain form are its endpoints.
Contract: openai.md and anthropic.md ("Upstream" of each row); the providers' own references for their base URLs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec

from elkapi.catalog.media import VIDEO_MAPS
from elkapi.catalog.operation import Operation, Wire
from elkapi.types import Channel, ChannelKey

# "raw" is the key alone, without a word before it; "jwt" a token that the key signs; that one, "aws" and
# "gcp" are made elsewhere.
Auth = Literal["bearer", "raw", "x-api-key", "x-goog-api-key", "api-key", "jwt", "aws", "gcp", "none"]


# Whether callers may name what the provider then reads with the rights of the channel's key.
OWN_OBJECTS = "own-objects"
# Whether callers may name models beside the call's own that the provider then asks too.
OTHER_MODELS = "other-models"
_CHOICE = ("refuse", "allow")


class Endpoint(msgspec.Struct, frozen=True):
    """Where an upstream takes one wire, below its base URL. `{model}` and the channel's options are filled in.

    `stream_path` is set where a stream is asked for by another path. `framing` is that of its streams. `models` limits
    the endpoint to upstream models that the expression finds. `body` are members the upstream wants beside the
    caller's, `left_out` those that it takes from the path instead, the model's name among them. `tells_usage`: its
    streams report their usage unasked, and to ask for it is an error.
    """

    path: str
    stream_path: str | None = None
    framing: Literal["sse", "aws"] = "sse"
    models: str = ""
    auth: Auth | None = None
    body: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    tells_usage: bool = False


class UpstreamFamily(msgspec.Struct, frozen=True):
    """`auth` names how the channel's key travels; `probe` is a free request that tells whether a key works, "" if none.

    `base_url` is the provider's own; a channel may name another. `options` are settings a channel may have, with their
    defaults; one without a default must be given, and one with `choices` is one of these. `key_help` says what a key
    looks like where it is not a plain word.
    """

    name: str
    auth: Auth
    wires: dict[Wire, Endpoint]
    base_url: str | None = None
    probe: str = "/v1/models"
    options: dict[str, str | None] = {}
    choices: dict[str, tuple[str, ...]] = {}
    headers: tuple[tuple[str, str], ...] = ()
    key_help: str = ""
    operator_may_add: bool = True


_CHAT: dict[Wire, Endpoint] = {
    "chat": Endpoint("/v1/chat/completions"),
    "completions": Endpoint("/v1/completions"),
    "embeddings": Endpoint("/v1/embeddings"),
}
# All but those that OpenAI's SDKs name as served by responses alone, and others of their kinds: who asks for one in
# another dialect is answered through responses.
_IN_CHAT = (
    r"^(?!codex-|computer-use-|gpt-(daybreak|rosalind)-"
    r"|(gpt-|o)\d\S*?-(pro|codex|deep-research|cyber|rosalind|astra)(-|$))"
)
_OPENAI: dict[Wire, Endpoint] = {
    **_CHAT,
    "responses": Endpoint("/v1/responses"),
    "responses-count": Endpoint("/v1/responses/input_tokens"),
    "responses-compact": Endpoint("/v1/responses/compact"),
    "moderations": Endpoint("/v1/moderations"),
    "rerank": Endpoint("/v1/rerank"),
}
_ANTHROPIC: dict[Wire, Endpoint] = {
    "anthropic": Endpoint("/v1/messages"),
    "anthropic-count": Endpoint("/v1/messages/count_tokens"),
}
_GEMINI: dict[Wire, Endpoint] = {
    "gemini": Endpoint(
        "/v1beta/models/{model}:generateContent", "/v1beta/models/{model}:streamGenerateContent?alt=sse"
    ),
    "gemini-embed": Endpoint("/v1beta/models/{model}:embedContent"),
    "gemini-batch-embed": Endpoint("/v1beta/models/{model}:batchEmbedContents"),
    "gemini-count": Endpoint("/v1beta/models/{model}:countTokens"),
}
# Tasks: the path below an endpoint is the operation's own.
_AT_ROOT = Endpoint("")
_RUNWAY_VERSION = (("x-runway-version", "2024-11-06"),)
# Where a gateway of this kind takes each provider's tasks.
_TASKS_OF_GATEWAYS: dict[Wire, Endpoint] = {
    "kling": Endpoint("/kling"),
    "runway": Endpoint("/runwayml"),
    "luma": _AT_ROOT,
    "minimax-video": Endpoint("/minimax"),
    "pika": _AT_ROOT,
    "ark-video": Endpoint("/volc/v3"),
    "videos": _AT_ROOT,
    "sora-reverse": _AT_ROOT,
}
# What the sandbox makes of the names that test keys use; a task's own route reaches its provider whatever the name.
_SANDBOX_TASKS: dict[Wire, Endpoint] = {
    "kling": Endpoint("/kling"),
    "veo": Endpoint("", auth="x-goog-api-key"),
    "ark-video": Endpoint("/api/v3"),
    "runway": Endpoint("/runway"),
    "luma": _AT_ROOT,
    "minimax-video": Endpoint("/minimax"),
    "pika": _AT_ROOT,
    "duomi-runway": Endpoint("", auth="raw"),
    "duomi-pika": Endpoint("", auth="raw"),
    "videos": _AT_ROOT,
    "sora-reverse": _AT_ROOT,
}
_ANTHROPIC_VERSION = (("anthropic-version", "2023-06-01"),)


def _deployment(path: str) -> Endpoint:
    return Endpoint(f"/openai/deployments/{{model}}{path}?api-version={{api-version}}")


# Providers that speak OpenAI's form at their own address: (name, base URL, wires beside chat).
_COMPATIBLE_ROWS: tuple[tuple[str, str | None, tuple[Wire, ...]], ...] = (
    ("deepseek", "https://api.deepseek.com", ("completions",)),
    ("qwen", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", ("embeddings",)),
    ("mistral", "https://api.mistral.ai", ("embeddings", "moderations")),
    ("xai", "https://api.x.ai", ("responses",)),
    ("groq", "https://api.groq.com/openai/v1", ("responses",)),
    ("together", "https://api.together.xyz", ("completions", "embeddings", "rerank")),
    ("fireworks", "https://api.fireworks.ai/inference/v1", ("completions", "embeddings")),
    ("openrouter", "https://openrouter.ai/api/v1", ("completions", "responses", "embeddings")),
    ("moonshot", "https://api.moonshot.ai", ()),
    ("zhipu", "https://open.bigmodel.cn/api/paas/v4", ("embeddings", "rerank")),
    ("ark", "https://ark.cn-beijing.volces.com/api/v3", ("embeddings", "responses")),
    ("siliconflow", "https://api.siliconflow.cn", ("embeddings", "rerank")),
    ("minimax", "https://api.minimax.io", ()),
    ("perplexity", "https://api.perplexity.ai/v1", ()),
    ("cerebras", "https://api.cerebras.ai", ("completions",)),
    ("nvidia", "https://integrate.api.nvidia.com", ("embeddings",)),
    ("ollama", "http://127.0.0.1:11434", ("completions", "embeddings", "responses")),
    ("vllm", None, ("completions", "embeddings", "responses", "rerank")),
    ("lmstudio", "http://127.0.0.1:1234", ("completions", "embeddings")),
    ("compatible", None, ("completions", "embeddings")),
    ("jina", "https://api.jina.ai", ("embeddings", "rerank")),
)
_NO_CHAT = frozenset({"jina"})
# What a family of those rows has of its own.
_WIRES_OF: dict[str, dict[Wire, Endpoint]] = {
    "mistral": {"chat": msgspec.structs.replace(_CHAT["chat"], tells_usage=True)},
    "ark": {"ark-video": _AT_ROOT},
    "minimax": {"minimax-video": _AT_ROOT},
}
_WIDE: dict[Wire, Endpoint] = {**_OPENAI, **_ANTHROPIC, **_GEMINI}

_ROWS = (
    UpstreamFamily(
        "openai",
        auth="bearer",
        wires=_OPENAI | {"chat": msgspec.structs.replace(_CHAT["chat"], models=_IN_CHAT), "videos": _AT_ROOT},
        base_url="https://api.openai.com",
    ),
    UpstreamFamily(
        "kling",
        auth="jwt",
        wires={"kling": _AT_ROOT},
        base_url="https://api-singapore.klingai.com",
        probe="",
        key_help="ACCESS_KEY|SECRET_KEY",
    ),
    UpstreamFamily(
        "runway",
        auth="bearer",
        wires={"runway": _AT_ROOT},
        base_url="https://api.dev.runwayml.com",
        probe="/v1/organization",
        headers=_RUNWAY_VERSION,
    ),
    UpstreamFamily(
        "luma",
        auth="bearer",
        wires={"luma": _AT_ROOT},
        base_url="https://api.lumalabs.ai",
        probe="/dream-machine/v1/credits",
    ),
    UpstreamFamily("pika", auth="bearer", wires={"pika": _AT_ROOT}, probe=""),
    UpstreamFamily(
        "duomi",
        auth="raw",
        wires={"duomi-runway": _AT_ROOT, "duomi-pika": _AT_ROOT},
        base_url="https://duomiapi.com",
        probe="",
    ),
    UpstreamFamily(
        "azure",
        auth="api-key",
        wires={
            "chat": msgspec.structs.replace(_deployment("/chat/completions"), models=_IN_CHAT),
            "completions": _deployment("/completions"),
            "embeddings": _deployment("/embeddings"),
            "responses": Endpoint("/openai/v1/responses"),
        },
        options={"api-version": "2024-10-21"},
        probe="/openai/models?api-version={api-version}",
    ),
    UpstreamFamily(
        "anthropic",
        auth="x-api-key",
        wires=_ANTHROPIC,
        base_url="https://api.anthropic.com",
        headers=_ANTHROPIC_VERSION,
        options={OTHER_MODELS: "refuse"},
        choices={OTHER_MODELS: _CHOICE},
    ),
    UpstreamFamily(
        "gemini",
        auth="x-goog-api-key",
        wires=_GEMINI | {"veo": _AT_ROOT},
        base_url="https://generativelanguage.googleapis.com",
        probe="/v1beta/models",
    ),
    UpstreamFamily(
        "vertex",
        auth="gcp",
        wires={
            "gemini": Endpoint(
                "/publishers/google/models/{model}:generateContent",
                "/publishers/google/models/{model}:streamGenerateContent?alt=sse",
                models="^gemini",
            ),
            "gemini-count": Endpoint("/publishers/google/models/{model}:countTokens", models="^gemini"),
            "anthropic": Endpoint(
                "/publishers/anthropic/models/{model}:rawPredict",
                "/publishers/anthropic/models/{model}:streamRawPredict",
                models="^claude",
                body=(("anthropic_version", "vertex-2023-10-16"),),
                left_out=("model",),
            ),
        },
        probe="",
        options={"token-url": "https://oauth2.googleapis.com/token", OWN_OBJECTS: "refuse", OTHER_MODELS: "refuse"},
        choices={OWN_OBJECTS: _CHOICE, OTHER_MODELS: _CHOICE},
        key_help="a service account key: the JSON file's text",
    ),
    UpstreamFamily(
        "bedrock",
        auth="aws",
        wires={
            "anthropic": Endpoint(
                "/model/{model}/invoke",
                "/model/{model}/invoke-with-response-stream",
                framing="aws",
                models=r"(^|\.)anthropic\.",
                body=(("anthropic_version", "bedrock-2023-05-31"),),
                left_out=("model", "stream"),
            ),
            "converse": Endpoint(
                "/model/{model}/converse", "/model/{model}/converse-stream", framing="aws", left_out=("model", "stream")
            ),
        },
        probe="",
        options={"region": None, OTHER_MODELS: "refuse"},
        choices={OTHER_MODELS: _CHOICE},
        key_help="ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]",
    ),
    UpstreamFamily(
        "cohere", auth="bearer", wires={"cohere-rerank": Endpoint("/v2/rerank")}, base_url="https://api.cohere.com"
    ),
    # Another gateway of this kind speaks every dialect itself, so nothing is translated on the way to it.
    UpstreamFamily("elkapi", auth="bearer", wires=_WIDE | _TASKS_OF_GATEWAYS),
    UpstreamFamily("new-api", auth="bearer", wires=_WIDE | _TASKS_OF_GATEWAYS),
    *(
        UpstreamFamily(
            name,
            auth="bearer",
            wires={wire: _OPENAI[wire] for wire in (*(() if name in _NO_CHAT else ("chat",)), *more)}
            | _WIRES_OF.get(name, {}),
            base_url=base_url,
            options={OTHER_MODELS: "refuse"} if name == "openrouter" else {},
            choices={OTHER_MODELS: _CHOICE} if name == "openrouter" else {},
        )
        for name, base_url, more in _COMPATIBLE_ROWS
    ),
    # The bundled models: each process of its own, each with the one wire it speaks.
    UpstreamFamily("local", auth="none", wires={"embeddings": _CHAT["embeddings"]}, operator_may_add=False),
    UpstreamFamily("local-chat", auth="none", wires={"chat": _CHAT["chat"]}, operator_may_add=False),
    UpstreamFamily(
        "sandbox",
        auth="bearer",
        wires={
            **{wire: msgspec.structs.replace(row, models=r"^(?!claude-|gemini-)") for wire, row in _OPENAI.items()},
            **{wire: msgspec.structs.replace(row, models=r"^claude-") for wire, row in _ANTHROPIC.items()},
            **{
                wire: msgspec.structs.replace(row, models=r"^(gemini|text-embedding-00)", auth="x-goog-api-key")
                for wire, row in _GEMINI.items()
            },
            **_SANDBOX_TASKS,
        },
        headers=_ANTHROPIC_VERSION + _RUNWAY_VERSION,
        operator_may_add=False,
    ),
)
UPSTREAM_FAMILIES: dict[str, UpstreamFamily] = {family.name: family for family in _ROWS}

# A call whose own wire a family does not speak is translated into the first of these that it does.
_DIALECTS: tuple[Wire, ...] = ("chat", "anthropic", "gemini", "responses", "converse")
_CROSSINGS: dict[Wire, tuple[Wire, ...]] = {
    "completions": _DIALECTS,
    "embeddings": ("gemini-batch-embed",),
    "gemini-embed": ("embeddings",),
    "gemini-batch-embed": ("embeddings",),
    "rerank": ("cohere-rerank",),
}


@lru_cache(maxsize=4096)
def endpoint_for(family: str, wire: Wire, translatable: bool, model: str) -> tuple[Wire, Endpoint] | None:
    """The wire and endpoint that serve a call of `wire` for this upstream model, or None when the family cannot."""
    wires = UPSTREAM_FAMILIES[family].wires
    if translatable and wire in VIDEO_MAPS:
        return _video_endpoint(wires, model)
    if translatable and _makes_videos(wires, model):
        # Such a model is no text model; a chat with it becomes a task (relay.video_chat).
        return None
    others = _DIALECTS if translatable else _CROSSINGS.get(wire, ())
    for candidate in (wire, *others):
        endpoint = wires.get(candidate)
        if endpoint is not None and (not endpoint.models or re.search(endpoint.models, model)):
            return candidate, endpoint
    return None


def _video_endpoint(wires: dict[Wire, Endpoint], model: str) -> tuple[Wire, Endpoint] | None:
    """Where a neutral request for a video goes: where an account makes several kinds, the model's name tells which."""
    found = [one for one in VIDEO_MAPS if one in wires]
    for candidate in found:
        if len(found) == 1 or re.search(VIDEO_MAPS[candidate].models, model):
            return candidate, wires[candidate]
    return None


def _makes_videos(wires: dict[Wire, Endpoint], model: str) -> bool:
    """Whether the name is that of a video model of an account's. Ark's `ep-...` may be anything, so it says nothing."""
    named = (one for one in VIDEO_MAPS if one in wires)
    return not model.startswith("ep-") and any(re.search(VIDEO_MAPS[one].models, model) for one in named)


def serves(operation: Operation, channel: Channel, model: str) -> bool:
    """Whether a channel can answer an operation at all, natively or translated."""
    if operation.wire is None or channel.family not in UPSTREAM_FAMILIES:
        return False
    crosses = operation.dialect is not None or operation.neutral
    return endpoint_for(channel.family, operation.wire, crosses, model) is not None


def auth_headers(channel: Channel, key: ChannelKey, auth: Auth | None = None) -> list[tuple[bytes, bytes]]:
    """The headers that carry a channel's credential; signed and exchanged credentials are added by `upstream`."""
    secret = key.secret.encode()
    match auth or UPSTREAM_FAMILIES[channel.family].auth:
        case "bearer":
            return [(b"authorization", b"Bearer " + secret)]
        case "raw":
            return [(b"authorization", secret)]
        case "x-api-key" | "x-goog-api-key" | "api-key" as name:
            return [(name.encode(), secret)]
    return []


def family_headers(channel: Channel) -> dict[bytes, bytes]:
    """What a channel's provider wants to be told with every request, such as the version of its API."""
    return {name.encode(): text.encode() for name, text in UPSTREAM_FAMILIES[channel.family].headers}


def option(channel: Channel, name: str) -> str:
    """A channel's option, or its family's default. Raises KeyError for one that has neither."""
    value = channel.options.get(name, UPSTREAM_FAMILIES[channel.family].options.get(name))
    if value is None:
        raise KeyError(name)
    return value


def guards_objects(channel: Channel) -> bool:
    """Whether a body has to be looked through for what its caller may not have read with the channel's rights."""
    return _refuses(channel, OWN_OBJECTS)


def refuses_other_models(channel: Channel) -> bool:
    """Whether its provider would ask further models that a body names, and its callers may not have it do so."""
    return _refuses(channel, OTHER_MODELS)


def guarding_family(family: str, base_url: str) -> str | None:
    """The family that an address is the own one of, where that has a guard against what bodies name and `family` lacks
    it."""
    host = urlsplit(base_url).hostname
    for name, row in UPSTREAM_FAMILIES.items():
        if OTHER_MODELS in row.options and row.base_url and urlsplit(row.base_url).hostname == host:
            return None if OTHER_MODELS in UPSTREAM_FAMILIES[family].options else name
    return None


def _refuses(channel: Channel, name: str) -> bool:
    return name in UPSTREAM_FAMILIES[channel.family].options and option(channel, name) != "allow"


def endpoint_path(channel: Channel, endpoint: Endpoint, model: str, stream: bool) -> str:
    """The endpoint's path with the model and the channel's options in it, percent-encoded."""
    path = endpoint.stream_path if stream and endpoint.stream_path is not None else endpoint.path
    return _filled(path, channel, {"model": model})


def probe_path(channel: Channel) -> str:
    """The path of the free request that tells whether a key works, with the channel's options in it; "" for none."""
    return _filled(UPSTREAM_FAMILIES[channel.family].probe, channel, {})


def _filled(path: str, channel: Channel, values: Mapping[str, str]) -> str:
    if "{" not in path:
        return path
    known = {**values, **{name: option(channel, name) for name in UPSTREAM_FAMILIES[channel.family].options}}
    return re.sub(r"\{([a-z-]+)\}", lambda hit: quote(known[hit.group(1)], safe=""), path)


# How a base ends that has a version: some providers put their form of OpenAI's API below their own API's version.
VERSION = r"/v\d+(?:beta\d*)?(?:/openai)?"
_VERSIONED = re.compile(VERSION + "$")


def target_path(base_path: str, upstream: str) -> str:
    """Join a base URL's path and an operation's path; a base that already ends in a version is not given another."""
    base = base_path.rstrip("/")
    if upstream.startswith("/v1/") and _VERSIONED.search(base):
        return base + upstream[3:]
    if upstream.startswith("/v1beta/") and _VERSIONED.search(base):
        return base + upstream[7:]
    return base + upstream
