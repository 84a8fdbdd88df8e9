"""Reads a text call's body before it is relayed: the model, the stream flag and the caller's limits.

Only small views are decoded; `translate` decodes a body in full, and only if it must be translated or counted. Upper
bounds of usage are in `bounds`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec

from elkapi.catalog.bounds import ABSENT, NONE_NAMED, bounded, with_compaction
from elkapi.catalog.jsonedit import check_once
from elkapi.catalog.operation import Facts, ModelName
from elkapi.catalog.spelling import check_spelling, decode_strict, spelled_out, strict
from elkapi.errors import BadRequest
from elkapi.pricing.served import FEATURES
from elkapi.translate.completions import MAX_TOKENS_DEFAULT
from elkapi.types import Usage

RERANK_DOCUMENTS_MAX = 1000
EMBED_REQUESTS_MAX = 2048
# The input limit of gemini-embedding-2, for one content: its pictures, sound, films and files may cost more than their
# bytes, or be behind an address.
EMBED_MEDIA_TOKENS_MAX = 8192
OUTPUT_TOKENS_MAX = 2_000_000
# What Vertex AI reads or writes with the permissions of the call's signer: Cloud Storage objects and document stores.
_OWN_TO_SIGNER = re.compile(
    rb'"(?:fileUri|file_uri|outputUriPrefix|output_uri_prefix|gcsUri|gcs_uri)"\s*+:\s*+"\s*+[gG][sS]:'
    rb'|"(?:vertexAiSearch|vertex_ai_search|vertexRagStore|vertex_rag_store)"\s*+:'
)
# The fields of a Gemini body that bound its answer.
_GENERATION = ("generationConfig", "generation_config")
# A reference needs no type: `{"id": "msg_..."}`.
_BARE_ID = re.compile(rb'"id"\s*:\s*"[^"]*"\s*(?:,\s*"type"\s*:\s*null\s*)?\}')
_Limit = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)] | None
_Items = Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=128)] | None
_T = TypeVar("_T")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatView(msgspec.Struct):
    """`POST /v1/chat/completions`."""

    messages: _Items
    model: ModelName | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    n: _Count = None
    store: bool | None = None
    tools: msgspec.Raw = ABSENT
    web_search_options: msgspec.Raw = ABSENT
    plugins: msgspec.Raw = ABSENT
    search_parameters: msgspec.Raw = ABSENT
    enable_search: msgspec.Raw = ABSENT
    enable_code_interpreter: msgspec.Raw = ABSENT
    models: msgspec.Raw = ABSENT


class CompletionView(msgspec.Struct):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    model: ModelName | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=OUTPUT_TOKENS_MAX)] | None = None
    n: _Count = None
    best_of: _Count = None
    plugins: msgspec.Raw = ABSENT
    models: msgspec.Raw = ABSENT


class _BackgroundOptions(msgspec.Struct):
    completion_window: str | None = None


class _MultiAgent(msgspec.Struct):
    enabled: bool | None = None


class ResponsesView(msgspec.Struct):
    """`POST /v1/responses` and its count and compact forms."""

    input: str | list[msgspec.Raw] | None = None
    model: ModelName | None = None
    stream: bool | None = None
    max_output_tokens: _Limit = None
    store: bool | None = None
    tools: msgspec.Raw = ABSENT
    background: bool | None = None
    background_options: _BackgroundOptions | None = None
    multi_agent: _MultiAgent | None = None
    max_tool_calls: int | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    plugins: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    models: msgspec.Raw = ABSENT


class MessagesView(msgspec.Struct):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=OUTPUT_TOKENS_MAX)]
    messages: _Items
    model: ModelName | None = None
    stream: bool | None = None
    thread: dict[str, msgspec.Raw] | None = None
    tools: msgspec.Raw = ABSENT
    mcp_servers: msgspec.Raw = ABSENT
    fallbacks: msgspec.Raw = ABSENT
    context_management: msgspec.Raw = ABSENT
    compaction: msgspec.Raw = ABSENT


class CountView(msgspec.Struct):
    """`POST /v1/messages/count_tokens`."""

    messages: _Items
    model: ModelName | None = None


class _GenerationConfig(msgspec.Struct):
    maxOutputTokens: _Limit = None
    max_output_tokens: _Limit = None
    candidateCount: _Count = None
    candidate_count: _Count = None
    routingConfig: msgspec.Raw = ABSENT
    routing_config: msgspec.Raw = ABSENT


class GenerateView(msgspec.Struct):
    """`POST /v1beta/models/{model}:generateContent`; Google accepts camelCase and snake_case for every field.

    It also accepts a single content without its list.
    """

    contents: _Items | dict[str, msgspec.Raw]
    generationConfig: _GenerationConfig | None = None
    generation_config: _GenerationConfig | None = None
    tools: msgspec.Raw = ABSENT
    cachedContent: msgspec.Raw = ABSENT
    cached_content: msgspec.Raw = ABSENT
    serviceTier: object = None
    service_tier: object = None


class _EmbedPart(msgspec.Struct):
    text: str


class _EmbedContent(msgspec.Struct):
    parts: list[_EmbedPart]


class EmbedView(msgspec.Struct):
    """`POST /v1beta/models/{model}:embedContent`."""

    content: msgspec.Raw


class BatchEmbedView(msgspec.Struct):
    """`POST /v1beta/models/{model}:batchEmbedContents`."""

    requests: Annotated[list[EmbedView], msgspec.Meta(min_length=1, max_length=EMBED_REQUESTS_MAX)]


class AnyView(msgspec.Struct):
    """Any JSON object."""

    model: ModelName | None = None


class ModerationView(msgspec.Struct):
    """`POST /v1/moderations`."""

    input: str | list[Any]
    model: ModelName | None = None


class RerankView(msgspec.Struct):
    """`POST /v1/rerank`."""

    query: Annotated[str, msgspec.Meta(min_length=1)]
    documents: Annotated[list[Any], msgspec.Meta(min_length=1, max_length=RERANK_DOCUMENTS_MAX)]
    model: ModelName | None = None
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None


# FEATURES, which select price variants, are only guarded here; they are read once the price is known to have variants.
_chat = strict(ChatView, *FEATURES)
_completion = strict(CompletionView, *FEATURES)
_responses = strict(ResponsesView, *FEATURES)
_messages = strict(MessagesView, *FEATURES)
_count = strict(CountView)
_generate = strict(GenerateView, *FEATURES)
_embed = strict(EmbedView)
_batch_embed = strict(BatchEmbedView)
_embed_content = msgspec.json.Decoder(_EmbedContent)
_any = strict(AnyView)
_moderation = strict(ModerationView)
_rerank = strict(RerankView)


def read_chat(body: bytes) -> Facts:
    """Facts of a chat completion. Raises BadRequest naming the field."""
    view: ChatView = decode_strict(_chat, body)
    # Upstreams differ in which of the two they use, so the hold covers both.
    limit = max(view.max_completion_tokens or 0, view.max_tokens or 0) or None
    options = view.stream_options
    return bounded(
        body,
        _model(view.model),
        limit=limit,
        choices=view.n or 1,
        stream=bool(view.stream),
        include_usage=bool(options and options.include_usage),
        store=bool(view.store),
        stateful=bool(view.store),
        tools=view.tools,
        served=(
            view.web_search_options,
            view.plugins,
            view.search_parameters,
            view.enable_search,
            view.enable_code_interpreter,
        ),
        models=view.models,
    )


def read_completion(body: bytes) -> Facts:
    """Facts of a legacy completion. Raises BadRequest naming the field."""
    view: CompletionView = decode_strict(_completion, body)
    if not view.prompt:
        raise BadRequest("`prompt` must not be empty.", param="prompt")
    prompts = len(view.prompt) if isinstance(view.prompt, list) and not isinstance(view.prompt[0], int) else 1
    limit = MAX_TOKENS_DEFAULT if view.max_tokens is None else view.max_tokens
    return bounded(
        body,
        _model(view.model),
        limit=limit,
        choices=prompts * max(view.n or 1, view.best_of or 1),
        stream=bool(view.stream),
        include_usage=bool(view.stream_options and view.stream_options.include_usage),
        served=(view.plugins,),
        models=view.models,
    )


def read_responses(body: bytes) -> Facts:
    """Facts of a response. Raises BadRequest naming the field."""
    view: ResponsesView = decode_strict(_responses, body)
    if view.multi_agent is not None and view.multi_agent.enabled:
        # Neither the number nor the depth of agents is limited, so no hold would cover them.
        raise BadRequest(
            "`multi_agent` is not supported by this gateway; run the agents in your application.", param="multi_agent"
        )
    options = view.background_options
    if options is not None and options.completion_window not in (None, "soonest"):
        # The gateway runs it in the foreground at the provider, at the full price.
        raise BadRequest("`background_options.completion_window` must be `soonest`.", param="background_options")
    facts = bounded(
        body,
        _model(view.model),
        limit=view.max_output_tokens,
        stream=bool(view.stream),
        include_usage=True,
        # The provider stores responses by default.
        store=view.store is not False,
        tools=view.tools,
        turns=view.input if isinstance(view.input, list) else (),
        # A prompt stored in the account has its own text, files and tools.
        served=(view.plugins, view.prompt),
        tool_calls=view.max_tool_calls or 0,
        models=view.models,
    )
    return _with_state(facts, view, body)


def read_messages(body: bytes) -> Facts:
    """Facts of an Anthropic message. Raises BadRequest naming the field."""
    view: MessagesView = decode_strict(_messages, body)
    if view.thread is not None:
        # What a thread holds stands with one upstream account, whose callers share it, so none may be continued. The
        # SDKs' tool runners ask for one unasked, and go on without it after exactly this code.
        raise BadRequest(
            "`thread` is not supported by this gateway; send the whole conversation.",
            param="thread",
            code="thread_unsupported_request",
        )
    facts = bounded(
        body,
        _model(view.model),
        # 0 only fills the cache and generates nothing; hold for one token, as for a call that may generate.
        limit=view.max_tokens or 1,
        stream=bool(view.stream),
        include_usage=True,
        tools=view.tools,
        turns=view.messages,
        served=(view.mcp_servers,),
        models=view.fallbacks,
    )
    compacts = bytes(view.compaction) not in NONE_NAMED or b"compact" in spelled_out(bytes(view.context_management))
    return with_compaction(facts) if compacts else facts


def read_generate(body: bytes) -> Facts:
    """Facts of a Gemini call; the model is in the path. Raises BadRequest naming the field."""
    view: GenerateView = decode_strict(_generate, body)
    _either("serviceTier", view.serviceTier, view.service_tier, within="serviceTier")
    config = _either("generationConfig", view.generationConfig, view.generation_config)
    if config is None:
        config = _GenerationConfig()
    else:
        _check_generation(body)
    limit = _either("maxOutputTokens", config.maxOutputTokens, config.max_output_tokens)
    choices = _either("candidateCount", config.candidateCount, config.candidate_count) or 1
    # Vertex AI uses the model named here, or chooses one.
    routed = config.routing_config if bytes(config.routingConfig) in NONE_NAMED else config.routingConfig
    return bounded(
        body,
        None,
        limit=limit,
        choices=choices,
        include_usage=True,
        tools=view.tools,
        # Content cached in the account has its own text, files and tools.
        served=(view.cachedContent, view.cached_content),
        models=routed,
    )


def _check_generation(body: bytes) -> None:
    """Raise BadRequest for a duplicate setting, or a misspelled one that is read here."""
    members = _members.decode(body)
    for name in _GENERATION:
        config = bytes(members.get(name, b""))
        if config.startswith(b"{"):
            settings = _members.decode(config)
            check_spelling(settings, _GenerationConfig.__struct_encode_fields__)
            check_once(config, settings)


def _either(name: str, camel: _T | None, snake: _T | None, within: str = "generationConfig") -> _T | None:
    """A field in either spelling. Raises BadRequest if both are set, since it is unknown which one Google uses."""
    if camel is not None and snake is not None:
        text = f"`{name}` is set in both of its spellings; send it once."
        raise BadRequest(text, param=within, code="duplicate_field")
    return snake if camel is None else camel


def read_gemini_embed(body: bytes) -> Facts:
    """Facts of one Gemini embedding. Raises BadRequest naming the field."""
    view: EmbedView = decode_strict(_embed, body)
    return _embedded(body, [view])


def read_gemini_batch_embed(body: bytes) -> Facts:
    """Facts of many Gemini embeddings. Raises BadRequest naming the field."""
    view: BatchEmbedView = decode_strict(_batch_embed, body)
    return _embedded(body, view.requests)


def _embedded(body: bytes, views: list[EmbedView]) -> Facts:
    """The facts of these contents. If one is more than text, each may cost tokens beyond its bytes."""
    texts, upper = _embed_texts(views), len(body)
    if texts is None:
        upper += EMBED_MEDIA_TOKENS_MAX * len(views)
    most = Usage(input_tokens=upper, calls=1)
    return Facts(model=None, upper=most, items=len(views), texts=texts, wide=texts is None)


def _embed_texts(views: list[EmbedView]) -> list[str] | None:
    """The text of each content, None if one contains anything else."""
    try:
        contents = [_embed_content.decode(view.content) for view in views]
    except msgspec.ValidationError:
        return None
    return ["\n".join(part.text for part in content.parts) for content in contents]


def read_count(body: bytes) -> Facts:
    """Facts of an Anthropic token count. Raises BadRequest naming the field."""
    view: CountView = decode_strict(_count, body)
    return Facts(model=_model(view.model), upper=Usage())


def read_any(body: bytes) -> Facts:
    """Facts of a free call whose body only its handler reads. Raises BadRequest unless it is a JSON object."""
    return Facts(model=_model(decode_strict(_any, body).model), upper=Usage())


def read_response_count(body: bytes) -> Facts:
    """Facts of a count of a response's input, which may continue a stored one. Raises BadRequest."""
    view: ResponsesView = decode_strict(_responses, body)
    return _with_state(Facts(model=_model(view.model), upper=Usage()), view, body)


def read_compact(body: bytes) -> Facts:
    """Facts of a compaction, which is priced like a response. Raises BadRequest naming the field."""
    view: ResponsesView = decode_strict(_responses, body)
    return _with_state(bounded(body, _model(view.model)), view, body)


def read_moderation(body: bytes) -> Facts:
    """Facts of a moderation. Raises BadRequest naming the field."""
    view: ModerationView = decode_strict(_moderation, body)
    if not view.input:
        raise BadRequest("`input` must not be empty.", param="input")
    return Facts(model=_model(view.model), upper=Usage(input_tokens=len(body), calls=1), texts=view.input)


def read_rerank(body: bytes) -> Facts:
    """Facts of a rerank. Raises BadRequest naming the field."""
    view: RerankView = decode_strict(_rerank, body)
    # The query is processed with every document.
    upper = len(body) + len(view.documents) * len(view.query.encode())
    # Cohere bills one search per hundred documents; each 500 tokens of a long one count as a document.
    searches = -(-(len(view.documents) + upper // 500) // 100)
    return Facts(model=_model(view.model), upper=Usage(input_tokens=upper, searches=searches, calls=1))


def may_refer(body: bytes) -> bool:
    """Whether an input may refer to items of stored responses, by type or by an object with nothing after its id."""
    place = body.find(b'"id"')
    if place < 0:
        return False
    while place >= 0:
        if _BARE_ID.match(body, place):
            return True
        place = body.find(b'"id"', place + 4)
    return b'"item_reference"' in body


def _with_state(facts: Facts, view: ResponsesView, body: bytes) -> Facts:
    named = view.conversation
    conversation = str(named.get("id")) if isinstance(named, dict) else named
    background, previous = bool(view.background), view.previous_response_id or None
    if not (facts.store or background or previous or conversation or may_refer(body)):
        return facts
    return msgspec.structs.replace(
        facts, background=background, previous=previous, conversation=conversation or None, stateful=True
    )


def _model(named: str | None) -> str | None:
    if named == "":
        raise BadRequest("`model` must be the name of a model.", param="model")
    return named


def names_objects(body: bytes) -> bool:
    """Whether a Gemini body names objects that Vertex AI would read with the permissions of the call's signer."""
    return _OWN_TO_SIGNER.search(spelled_out(body)) is not None
