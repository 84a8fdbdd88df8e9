"""Sample bodies for the operations' pages, by operation id: the minimum that each provider accepts. Data only.

`...` stands for the id of an earlier result. `tests/tasks/test_page_samples.py` sends every sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PROMPT = "paper boats on a canal"
_PICTURE = "https://example.com/boat.png"
_FILM = "https://example.com/boat.mp4"
_SOUND = "https://example.com/voice.mp3"
_EARLIER = "..."
_VOICE = {"type": "runway-preset", "presetId": "Maya"}
_VEO = "veo-3.0-generate-001"
_VEO_VIDEO = {"model": _VEO, "prompt": _PROMPT}

BODIES: Mapping[str, Mapping[str, Any]] = {
    "tasks.create": {"model": "sora-2", "input": {"prompt": _PROMPT, "seconds": 4}},
    "seedance.unified-submit": {"model": "sora-2", "prompt": _PROMPT, "seconds": 4},
    "veo.task-submit": {"model": "sora-2", "input": {"prompt": _PROMPT}},
    "veo.submit": _VEO_VIDEO,
    "veo.submit-api": _VEO_VIDEO,
    "veo.v2-submit": _VEO_VIDEO,
    "veo.predict": {"instances": [{"prompt": _PROMPT}], "parameters": {"durationSeconds": 4}},
    "sora.create": {"model": "sora-2", "prompt": _PROMPT, "seconds": "4"},
    "sora.edit": {"prompt": "the boats are red", "video": {"id": _EARLIER}},
    "sora.extend": {"prompt": "the boats drift on", "seconds": "4", "video": {"id": _EARLIER}},
    "sora.remix": {"prompt": "the boats are red"},
    "sora.character-create": {"name": "Rex", "video": "@rex.mp4"},
    "sora.reverse-create": {"model": "sora", "prompt": _PROMPT, "duration": 5},
    "kling.text-to-video": {"model_name": "kling-v1-6", "prompt": _PROMPT},
    "kling.image-to-video": {"model_name": "kling-v1-6", "prompt": _PROMPT, "image": _PICTURE},
    "kling.extend": {"prompt": "the boats drift on", "video_id": _EARLIER},
    "kling.lip-sync": {
        "input": {"video_id": _EARLIER, "mode": "text2video", "text": "hello", "voice_id": "voice_en_1"}
    },
    "kling.identify-face": {"video_id": _EARLIER},
    "kling.advanced-lip-sync": {
        "session_id": _EARLIER,
        "face_choose": [{"face_id": "0", "sound_file": _SOUND, "sound_start_time": 0, "sound_end_time": 3000}],
    },
    "kling.effects": {
        "effect_scene": "squish",
        "input": {"model_name": "kling-v1-6", "image": _PICTURE, "duration": "5"},
    },
    "kling.image": {"model_name": "kling-v2", "prompt": _PROMPT},
    "kling.image-expand": {"image": _PICTURE, "up_expansion_ratio": 0.1, "bottom_expansion_ratio": 0.1},
    "kling.try-on": {"human_image": _PICTURE, "cloth_image": _PICTURE},
    "runway.image-to-video": {"model": "gen4_turbo", "promptImage": _PICTURE, "ratio": "1280:720", "duration": 5},
    "runway.text-to-video": {"model": "veo3.1", "promptText": _PROMPT, "ratio": "1280:720", "duration": 4},
    "runway.video-to-video": {"model": "aleph2", "videoUri": _FILM, "promptText": "snow falls"},
    "runway.character-performance": {
        "model": "act_two",
        "character": {"type": "image", "uri": _PICTURE},
        "reference": {"type": "video", "uri": _FILM},
    },
    "runway.video-upscale": {"model": "magnific_video_upscaler_creative", "videoUri": _FILM},
    "runway.text-to-image": {"model": "gen4_image", "promptText": _PROMPT, "ratio": "1280:720"},
    "runway.image-upscale": {"model": "magnific_precision_upscaler_v2", "imageUri": _PICTURE},
    "runway.text-to-speech": {"model": "eleven_multilingual_v2", "promptText": "hello", "voice": _VOICE},
    "runway.sound-effect": {"model": "eleven_text_to_sound_v2", "promptText": "rain"},
    "runway.speech-to-speech": {
        "model": "eleven_multilingual_sts_v2",
        "media": {"type": "audio", "uri": _SOUND},
        "voice": _VOICE,
    },
    "runway.voice-isolation": {"model": "eleven_voice_isolation", "audioUri": _SOUND},
    "runway.voice-dubbing": {"model": "eleven_voice_dubbing", "audioUri": _SOUND, "targetLang": "en"},
    "runway.upload": {"filename": "boat.png", "type": "ephemeral"},
    "runway.generate-text": {
        "model": "gen3",
        "prompt": _PROMPT,
        "ratio": "16:9",
        "style": "cinematic",
        "options": {"seconds": 5, "motion_vector": {"x": 0, "y": 0.4, "z": 0, "r": -6, "bg_x_pan": 0, "bg_y_pan": 0}},
    },
    "runway.video2video": {"model": "gen3", "prompt": "snow falls", "video": _FILM},
    "runway.act-one": {"model": "gen3", "video": _FILM, "image": _PICTURE},
    "pika.generate": {"model": "1.5", "promptText": _PROMPT, "options": {"parameters": {}, "extend": False}},
    "pika.pro-text": {
        "model": 1.5,
        "prompt": _PROMPT,
        "style": "Levitate",
        "ratio": "16:9",
        "options": {"frameRate": 24},
    },
    "luma.generate": {"model": "ray-2", "prompt": _PROMPT, "duration": "5s"},
    "luma.image": {"model": "photon-1", "prompt": _PROMPT},
    "luma.image-reframe": {
        "model": "photon-1",
        "generation_type": "reframe_image",
        "media": {"url": _PICTURE},
        "aspect_ratio": "16:9",
    },
    "luma.video-modify": {
        "model": "ray-2",
        "generation_type": "modify_video",
        "media": {"url": _FILM},
        "mode": "flex_1",
    },
    "luma.video-reframe": {
        "model": "ray-2",
        "generation_type": "reframe_video",
        "media": {"url": _FILM},
        "aspect_ratio": "1:1",
    },
    "luma.upscale": {"resolution": "1080p"},
    "luma.audio": {"prompt": "rain"},
    "minimax.generate": {"model": "MiniMax-Hailuo-02", "prompt": _PROMPT},
    "seedance.submit": {
        "model": "doubao-seedance-1-0-pro-250528",
        "content": [{"type": "text", "text": _PROMPT}],
        "resolution": "480p",
        "duration": 5,
    },
}
# Values of path parameters that are not the caller's own ids.
IN_PATHS: Mapping[str, Mapping[str, str]] = {
    "veo.predict": {"model": _VEO},
    "veo.operation": {"model": _VEO},
    "kling.list": {"action": "videos", "action2": "text2video"},
    "kling.query": {"action": "videos", "action2": "text2video"},
}
