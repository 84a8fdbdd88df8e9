"""The simulated providers: each is one file that declares its routes; everything else is shared."""

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
from elkapi.sandbox.providers.sora import PROVIDER as SORA
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
    SORA,
    FILES,
)

VIDEO_MODELS: tuple[str, ...] = (
    *("sora-2", "sora-2-pro", "sora"),
    *("veo-3.0-generate-001", "veo-3.0-fast-generate-001", "veo-3.1-generate-preview", "veo-3.1-fast-generate-preview"),
    *("doubao-seedance-1-0-pro-250528", "doubao-seedance-1-0-lite-i2v-250428", "doubao-seedance-1-5-pro-251215"),
    *("doubao-seedance-2-0-260128", "doubao-seedance-2-0-fast-260128"),
    *("kling-v1", "kling-v1-5", "kling-v1-6", "kling-v2", "kling-v2-master", "kling-v2-1", "kling-v2-1-master"),
    *("kling-v2-5-turbo", "kling-v2-6", "kling-v3", "kling-video-extend", "kling-lip-sync"),
    *("kling-image-expand", "kling-identify-face", "kolors-virtual-try-on-v1", "kolors-virtual-try-on-v1-5"),
    *("gen4_turbo", "gen4.5", "gen4_image", "gen4_image_turbo", "aleph2", "act_two", "veo3", "veo3.1", "veo3.1_fast"),
    *("seedance2", "seedance2_fast", "magnific_video_upscaler_creative", "magnific_precision_upscaler_v2"),
    *("eleven_multilingual_v2", "eleven_text_to_sound_v2", "eleven_multilingual_sts_v2", "eleven_voice_isolation"),
    *("eleven_voice_dubbing", "gen3", "gen4", "runway-video2video", "runway-act-one"),
    *("ray-1-6", "ray-2", "ray-flash-2", "photon-1", "photon-flash-1", "luma-upscale", "luma-audio"),
    *("MiniMax-Hailuo-2.3", "MiniMax-Hailuo-2.3-Fast", "MiniMax-Hailuo-02", "T2V-01-Director", "T2V-01"),
    *("I2V-01-Director", "I2V-01-live", "I2V-01", "S2V-01", "pika-1.5", "pika-2.0"),
)

# The models a gateway may list for test keys: those that each provider lists, and one for reranking.
SERVED_MODELS: tuple[str, ...] = (
    *EMBEDDING_MODELS,
    *TEXT_MODELS,
    MODERATION_MODEL,
    "rerank-v1",
    *CLAUDE_MODELS,
    *GEMINI_MODELS,
    *GEMINI_EMBEDDERS,
    *VIDEO_MODELS,
)
