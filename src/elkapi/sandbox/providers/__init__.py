"""The providers the sandbox speaks for: each is one file that declares its routes; everything else is shared."""

from __future__ import annotations

from elkapi.sandbox.providers.anthropic import PROVIDER as ANTHROPIC
from elkapi.sandbox.providers.anthropic_models import LISTED as CLAUDE_MODELS
from elkapi.sandbox.providers.ark import PROVIDER as ARK
from elkapi.sandbox.providers.azure import PROVIDER as AZURE
from elkapi.sandbox.providers.bedrock import PROVIDER as BEDROCK
from elkapi.sandbox.providers.duomi import PROVIDER as DUOMI
from elkapi.sandbox.providers.files import PROVIDER as FILES
from elkapi.sandbox.providers.gemini import PROVIDER as GEMINI
from elkapi.sandbox.providers.gemini_models import EMBEDDERS as GEMINI_EMBEDDERS
from elkapi.sandbox.providers.gemini_models import LISTED as GEMINI_MODELS
from elkapi.sandbox.providers.kling import PROVIDER as KLING
from elkapi.sandbox.providers.luma import PROVIDER as LUMA
from elkapi.sandbox.providers.minimax import PROVIDER as MINIMAX
from elkapi.sandbox.providers.openai import MODELS as EMBEDDING_MODELS
from elkapi.sandbox.providers.openai import PROVIDER as OPENAI
from elkapi.sandbox.providers.openai_judging import MODERATION_MODEL
from elkapi.sandbox.providers.openai_models import TEXT_MODELS
from elkapi.sandbox.providers.pika import PROVIDER as PIKA
from elkapi.sandbox.providers.runway import PROVIDER as RUNWAY
from elkapi.sandbox.providers.vertex import PROVIDER as VERTEX
from elkapi.sandbox.routes import Provider

PROVIDERS: tuple[Provider, ...] = (
    OPENAI,
    AZURE,
    ANTHROPIC,
    GEMINI,
    VERTEX,
    BEDROCK,
    ARK,
    DUOMI,
    KLING,
    LUMA,
    MINIMAX,
    PIKA,
    RUNWAY,
    FILES,
)

# What a gateway may list for its test keys: the names each provider lists itself, and one for reranking.
SERVED_MODELS: tuple[str, ...] = (
    *EMBEDDING_MODELS,
    *TEXT_MODELS,
    MODERATION_MODEL,
    "rerank-v1",
    *CLAUDE_MODELS,
    *GEMINI_MODELS,
    *GEMINI_EMBEDDERS,
)
