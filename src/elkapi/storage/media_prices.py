"""Public list prices of common media models, in US dollars, as a fresh installation starts with them.

The makers' own price pages as they were commonly known in 2025; the operator's own records replace them. A maker that
prices a whole clip stands here by the second, which comes to the same. Models that are sold at no public price (Pika,
Kling's extensions, effects and lip-sync, resellers' names) have none, so they are refused until an operator sets one.
"""

from __future__ import annotations

from elkapi.money import parse_usd
from elkapi.types import Amounts, Variant

# (features, US dollars per second) of every variant, after the rate without one.
_Seconds = tuple[str, tuple[tuple[dict[str, str], str], ...]]

_PRO = {"mode": "pro"}
_SECONDS: dict[str, _Seconds] = {
    # OpenAI
    "sora-2": ("0.10", ()),
    "sora-2-pro": ("0.30", (({"resolution": "1080p"}, "0.50"),)),
    # Google, with sound
    "veo-2.0-generate-001": ("0.35", ()),
    "veo-3.0-generate-001": ("0.40", ()),
    "veo-3.0-fast-generate-001": ("0.15", ()),
    "veo-3.1-generate-preview": ("0.40", (({"resolution": "4k"}, "0.60"),)),
    "veo-3.1-fast-generate-preview": ("0.15", (({"resolution": "4k"}, "0.35"),)),
    # Kling; a clip of 5 seconds costs five times this
    "kling-v1": ("0.028", ((_PRO, "0.098"),)),
    "kling-v1-5": ("0.056", ((_PRO, "0.098"),)),
    "kling-v1-6": ("0.056", ((_PRO, "0.098"),)),
    "kling-v2-master": ("0.28", ()),
    "kling-v2-1": ("0.056", ((_PRO, "0.098"),)),
    "kling-v2-1-master": ("0.28", ()),
    "kling-v2-5-turbo": ("0.042", ((_PRO, "0.07"),)),
    # Runway: one credit is one cent
    "gen3a_turbo": ("0.05", ()),
    "gen4_turbo": ("0.05", ()),
    "gen4_aleph": ("0.15", ()),
    "act_two": ("0.05", ()),
    "upscale_v1": ("0.02", ()),
    # Luma: 0.0064 (flash 0.0022) a million pixels, at 24 pictures a second
    "ray-2": (
        "0.14155776",
        (
            ({"resolution": "540p"}, "0.07962624"),
            ({"resolution": "1080p"}, "0.31850496"),
            ({"resolution": "4k"}, "1.27401984"),
        ),
    ),
    "ray-flash-2": (
        "0.04866048",
        (
            ({"resolution": "540p"}, "0.02737152"),
            ({"resolution": "1080p"}, "0.10948608"),
            ({"resolution": "4k"}, "0.43794432"),
        ),
    ),
}
# MiniMax prices clips. 512P is held as 540p, the next resolution that has a name.
_CLIPS: dict[str, _Seconds] = {
    "MiniMax-Hailuo-2.3": ("0.28", (({"resolution": "1080p"}, "0.49"), ({"duration": "10"}, "0.56"))),
    "MiniMax-Hailuo-2.3-Fast": ("0.19", (({"resolution": "1080p"}, "0.33"), ({"duration": "10"}, "0.32"))),
    "MiniMax-Hailuo-02": (
        "0.28",
        (
            ({"resolution": "540p", "duration": "10"}, "0.15"),
            ({"resolution": "540p"}, "0.10"),
            ({"resolution": "1080p"}, "0.49"),
            ({"duration": "10"}, "0.56"),
        ),
    ),
    "T2V-01": ("0.43", ()),
    "T2V-01-Director": ("0.43", ()),
    "I2V-01": ("0.43", ()),
    "I2V-01-Director": ("0.43", ()),
    "I2V-01-live": ("0.43", ()),
    "S2V-01": ("0.65", ()),
}
_PICTURES = {
    "kling-v1": "0.0035",
    "kolors-virtual-try-on-v1": "0.07",
    "kolors-virtual-try-on-v1-5": "0.07",
    "gen4_image_turbo": "0.02",
}
# Seedance, per million tokens of video.
_TOKENS = {
    "doubao-seedance-1-0-pro-250528": "2.50",
    "doubao-seedance-1-0-pro-fast-251015": "1",
    "doubao-seedance-1-0-lite-t2v-250428": "1.80",
    "doubao-seedance-1-0-lite-i2v-250428": "1.80",
}


def media_prices() -> dict[str, Amounts]:
    """Every seeded record of a media model, by model."""
    found = {model: Amounts(output_nano_per_1m=parse_usd(usd)) for model, usd in _TOKENS.items()}
    for rows, rate in ((_SECONDS, "video_second_nano"), (_CLIPS, "call_nano")):
        for model, (usd, variants) in rows.items():
            pictures = {"image_nano": int(parse_usd(_PICTURES.get(model, "0")))}
            found[model] = Amounts(
                **{rate: int(parse_usd(usd)), **pictures},
                tiers=(),
                variants=tuple(_variant(when, {rate: parse_usd(dearer), **pictures}) for when, dearer in variants),
            )
    for model, usd in _PICTURES.items():
        found.setdefault(model, Amounts(image_nano=parse_usd(usd)))
    return found


def _variant(when: dict[str, str], rates: dict[str, int]) -> Variant:
    return Variant(when={name: (word,) for name, word in when.items()}, **rates)
