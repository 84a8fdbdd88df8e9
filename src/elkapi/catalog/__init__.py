"""The operations the gateway serves: data, one small file per family, matched by method and path."""

from elkapi.catalog.families import (
    anthropic,
    ark,
    duomi,
    gemini,
    kling,
    luma,
    minimax,
    openai,
    pika,
    platform,
    runway,
    sora,
    tasks,
    veo,
    video,
)
from elkapi.catalog.match import Catalog
from elkapi.catalog.operation import Body, Facts, Family, Match, ModelSource, Operation, Role

FAMILIES: tuple[Family, ...] = (
    # Must precede the families whose patterns match any path below /v1beta/models/.
    veo.FAMILY,
    *(openai.FAMILY, anthropic.FAMILY, gemini.FAMILY, platform.FAMILY),
    *(video.FAMILY, sora.FAMILY, tasks.FAMILY),
    *(kling.FAMILY, runway.FAMILY, luma.FAMILY, minimax.FAMILY, pika.FAMILY, duomi.FAMILY, ark.FAMILY),
)
CATALOG = Catalog(FAMILIES)

__all__ = [
    "CATALOG",
    "FAMILIES",
    "Body",
    "Catalog",
    "Facts",
    "Family",
    "Match",
    "ModelSource",
    "Operation",
    "Role",
]
