"""Channel families: how each kind of upstream is addressed and authenticated, and which wires it supports.

A provider without behaviour of its own is a row of _COMPATIBLE_ROWS; it differs from OpenAI only in its endpoints.
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

# "raw" is the key alone, without a scheme; "jwt" is a token signed with the key. "jwt", "aws" and "gcp" credentials are
# made elsewhere.
Auth = Literal["bearer", "raw", "x-api-key", "x-goog-api-key", "api-key", "jwt", "aws", "gcp", "none"]


# Whether callers may name objects that the provider then reads with the permissions of the channel's key.
OWN_OBJECTS = "own-objects"
# Whether callers may name further models, which the provider then uses too.
OTHER_MODELS = "other-models"
_CHOICE = ("refuse", "allow")


class Endpoint(msgspec.Struct, frozen=True):
    """An upstream's endpoint for one wire, below its base URL. `{model}` and the channel's options are filled in.

    `stream_path` is set if streams use another path. `framing` is the framing of its streams. `models` is a regular
    expression that limits the endpoint to matching upstream models, `crossed` one that limits it further for calls
    that are translated. `body` are fields added to the caller's, `left_out` those that are in the path instead,
    such as the model's name, `names` those that it knows by another name, or refuses (None). `tells_usage`: its
    streams always report usage, and requesting it is an error. `betas_in_body`: it reads Anthropic's betas from the
    body, not from the header.
    """

    path: str
    stream_path: str | None = None
    framing: Literal["sse", "aws"] = "sse"
    models: str = ""
    crossed: str = ""
    auth: Auth | None = None
    body: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    names: tuple[tuple[str, str | None], ...] = ()
    tells_usage: bool = False
    betas_in_body: bool = False


class UpstreamFamily(msgspec.Struct, frozen=True):
    """One kind of upstream. `auth` is how the key is sent; `probe` is a free request that checks a key, "" if none.

    `base_url` is the provider's own; a channel may set another. `options` are the settings of a channel with their
    defaults; one without a default is required, and one in `choices` must have one of those values. `key_help`
    describes a key's format if it is not a single token.
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
# All models but those that OpenAI's SDKs list as served by responses only, and similar ones. Calls to those in another
# dialect are translated to responses.
_IN_CHAT = (
    r"^(?!codex-|computer-use-|gpt-(daybreak|rosalind)-"
    r"|(gpt-|o)\d\S*?-(pro|codex|deep-research|cyber|rosalind|astra)(-|$))"
)
# From GPT-5.4 on, chat completions refuse tools beside reasoning, which responses accept: translated calls go there.
_CROSSED_IN_CHAT = r"^(?!gpt-(5\.([4-9]|\d\d)|[6-9]|\d\d))" + _IN_CHAT.removeprefix("^")
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
# For tasks: the operation's own path is appended.
_AT_ROOT = Endpoint("")
_RUNWAY_VERSION = (("x-runway-version", "2024-11-06"),)
# Prefixes of each provider's tasks at another gateway of this kind.
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
# The sandbox's endpoints for tasks. A task's own route selects the provider, whatever the model's name.
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


# OpenAI-compatible providers: (name, base URL, wires besides chat).
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
# Endpoints specific to a family of those rows.
_WIRES_OF: dict[str, dict[Wire, Endpoint]] = {
    "deepseek": {"completions": Endpoint("/beta/completions")},
    "mistral": {
        "chat": msgspec.structs.replace(_CHAT["chat"], tells_usage=True),
        # A field that it does not know is an error there.
        "embeddings": Endpoint("/v1/embeddings", names=(("dimensions", "output_dimension"), ("user", None))),
    },
    "ark": {"ark-video": _AT_ROOT},
    # In its chat completions the thinking is part of the text.
    "minimax": {
        "minimax-video": _AT_ROOT,
        "anthropic": Endpoint("/anthropic/v1/messages", auth="x-api-key"),
    },
}
_WIDE: dict[Wire, Endpoint] = {**_OPENAI, **_ANTHROPIC, **_GEMINI}

_ROWS = (
    UpstreamFamily(
        "openai",
        auth="bearer",
        wires=_OPENAI
        | {
            "chat": msgspec.structs.replace(_CHAT["chat"], models=_IN_CHAT, crossed=_CROSSED_IN_CHAT),
            "videos": _AT_ROOT,
        },
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
            "chat": msgspec.structs.replace(
                _deployment("/chat/completions"), models=_IN_CHAT, crossed=_CROSSED_IN_CHAT
            ),
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
                models=r"(^|[./])anthropic\.|^claude-",
                body=(("anthropic_version", "bedrock-2023-05-31"),),
                left_out=("model", "stream"),
                betas_in_body=True,
            ),
            "converse": Endpoint(
                "/model/{model}/converse", "/model/{model}/converse-stream", framing="aws", left_out=("model", "stream")
            ),
        },
        probe="",
        options={"region": None, OTHER_MODELS: "refuse"},
        choices={OTHER_MODELS: _CHOICE},
        key_help="ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN] or an API key of Bedrock",
    ),
    UpstreamFamily(
        "cohere", auth="bearer", wires={"cohere-rerank": Endpoint("/v2/rerank")}, base_url="https://api.cohere.com"
    ),
    # Another gateway of this kind supports every dialect, so nothing is translated.
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
    # The bundled models: one process each, with one wire each.
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

# A call whose wire a family does not support is translated into the first of these that it supports.
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
    """The wire and endpoint that serve a call of `wire` for this upstream model, or None if the family cannot."""
    wires = UPSTREAM_FAMILIES[family].wires
    if translatable and wire in VIDEO_MAPS:
        return _video_endpoint(wires, model)
    if translatable and _makes_videos(wires, model):
        # Not a text model; a chat with it becomes a task (relay.video_chat).
        return None
    others = _DIALECTS if translatable else _CROSSINGS.get(wire, ())
    for candidate in (wire, *others):
        endpoint = wires.get(candidate)
        if endpoint is None:
            continue
        models = endpoint.models if candidate == wire else endpoint.crossed or endpoint.models
        if not models or re.search(models, model):
            return candidate, endpoint
    return None


def _video_endpoint(wires: dict[Wire, Endpoint], model: str) -> tuple[Wire, Endpoint] | None:
    """The endpoint for a neutral video request; if an account has several video wires, the model's name decides."""
    found = [one for one in VIDEO_MAPS if one in wires]
    for candidate in found:
        if len(found) == 1 or re.search(VIDEO_MAPS[candidate].models, model):
            return candidate, wires[candidate]
    return None


def _makes_videos(wires: dict[Wire, Endpoint], model: str) -> bool:
    """Whether the name is that of one of the account's video models. Ark's `ep-...` may be any model, so it is not."""
    named = (one for one in VIDEO_MAPS if one in wires)
    return not model.startswith("ep-") and any(re.search(VIDEO_MAPS[one].models, model) for one in named)


def serves(operation: Operation, channel: Channel, model: str) -> bool:
    """Whether a channel can answer an operation, natively or translated."""
    if operation.wire is None or channel.family not in UPSTREAM_FAMILIES:
        return False
    crosses = operation.dialect is not None or operation.neutral
    return endpoint_for(channel.family, operation.wire, crosses, known_model(channel, model)) is not None


# What AWS calls by a number: a profile of the account's own, bought capacity, models of one's own.
_NUMBERED = re.compile(
    r"arn:.*:(application-inference-profile|provisioned-model|custom-model-deployment|imported-model)/"
)


def known_model(channel: Channel, model: str) -> str:
    """The name by which an upstream model is known: its own, or its callers' if its own is only a number of AWS's."""
    if not model.startswith("arn:") or _NUMBERED.match(model) is None:
        return model
    return next((name for name, theirs in channel.model_map.items() if theirs == model), model)


def auth_headers(channel: Channel, key: ChannelKey, auth: Auth | None = None) -> list[tuple[bytes, bytes]]:
    """The headers with a channel's credential; signed and exchanged credentials are added by `upstream`."""
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
    """The headers that a channel's provider requires in every request, such as its API version."""
    return {name.encode(): text.encode() for name, text in UPSTREAM_FAMILIES[channel.family].headers}


def option(channel: Channel, name: str) -> str:
    """A channel's option, or its family's default. Raises KeyError if there is neither."""
    value = channel.options.get(name, UPSTREAM_FAMILIES[channel.family].options.get(name))
    if value is None:
        raise KeyError(name)
    return value


def guards_objects(channel: Channel) -> bool:
    """Whether bodies must be checked for objects that callers may not read with the channel's permissions."""
    return _refuses(channel, OWN_OBJECTS)


def refuses_other_models(channel: Channel) -> bool:
    """Whether the provider would use further models that a body names, and callers may not request that."""
    return _refuses(channel, OTHER_MODELS)


def guarding_family(family: str, base_url: str) -> str | None:
    """The family that a base URL belongs to if that family has the OTHER_MODELS guard and `family` does not."""
    host = urlsplit(base_url).hostname
    for name, row in UPSTREAM_FAMILIES.items():
        if OTHER_MODELS in row.options and row.base_url and urlsplit(row.base_url).hostname == host:
            return None if OTHER_MODELS in UPSTREAM_FAMILIES[family].options else name
    return None


def _refuses(channel: Channel, name: str) -> bool:
    return name in UPSTREAM_FAMILIES[channel.family].options and option(channel, name) != "allow"


def endpoint_path(channel: Channel, endpoint: Endpoint, model: str, stream: bool) -> str:
    """The endpoint's path with the model and the channel's options filled in, percent-encoded."""
    path = endpoint.stream_path if stream and endpoint.stream_path is not None else endpoint.path
    return _filled(path, channel, {"model": model})


def probe_path(channel: Channel) -> str:
    """The path of the free request that checks a key, with the channel's options filled in; "" for none."""
    return _filled(UPSTREAM_FAMILIES[channel.family].probe, channel, {})


def _filled(path: str, channel: Channel, values: Mapping[str, str]) -> str:
    if "{" not in path:
        return path
    known = {**values, **{name: option(channel, name) for name in UPSTREAM_FAMILIES[channel.family].options}}
    return re.sub(r"\{([a-z-]+)\}", lambda hit: quote(known[hit.group(1)], safe=""), path)


# The end of a base URL with a version: some providers serve the OpenAI-compatible API below their own API's version.
# DeepSeek's is "beta" alone, which its completions need.
VERSION = r"(?:/v\d+(?:beta\d*)?(?:/openai)?|/beta)"
_VERSIONED = re.compile(VERSION + "$")
# DeepSeek's and MiniMax's endpoints beside the version.
_BESIDE = ("/beta/", "/anthropic/")


def target_path(base_path: str, upstream: str) -> str:
    """Join a base URL's path and an operation's path, without repeating a version that the base already ends in."""
    base = base_path.rstrip("/")
    if upstream.startswith(_BESIDE):
        return _VERSIONED.sub("", base) + upstream
    if upstream.startswith("/v1/") and _VERSIONED.search(base):
        return base + upstream[3:]
    if upstream.startswith("/v1beta/") and _VERSIONED.search(base):
        return base + upstream[7:]
    return base + upstream
