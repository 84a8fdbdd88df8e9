"""Which bodies may be metered in images, audio or an hour's cache, so that a hold covers those classes too."""

from __future__ import annotations

import pytest

from elkapi.catalog.text import IMAGE_TOKENS_MAX, REMOTE_FILE_TOKENS_MAX, read_chat

PLAIN = b'{"model":"%b","messages":[%b]}'


@pytest.mark.parametrize(
    "part",
    [
        b'{"type":"input_audio","input_audio":{"data":"","format":"wav"}}',
        b'{"type": "audio_url", "audio_url": {"url": "x"}}',
        b'{"type":"output_audio"}',
        b'{"url":"data:audio/wav;base64,"}',
        b'{"modalities":["AUDIO"]}',
        b'{"type":"image","source":{}}',
        b'{"type":"image_url","image_url":{"url":"x"}}',
        b'{"inlineData":{"mimeType":"image/png"}}',
        b'{"inline_data":{"mime_type":"audio/mp3"}}',
        b'{"cache_control":{"type":"ephemeral","ttl":"1h"}}',
        b'{"cache_control":{"ttl" : "1h"}}',
    ],
)
def test_every_spelling_of_what_is_dearer_widens_the_bound(part: bytes) -> None:
    assert read_chat(PLAIN % (b"m", part)).wide


def test_a_model_named_for_its_sound_is_bounded_by_it() -> None:
    assert read_chat(PLAIN % (b"gpt-4o-audio-preview", b'"hello"')).wide


def test_plain_text_is_not_wide_whatever_it_speaks_of() -> None:
    facts = read_chat(PLAIN % (b"m", b'"an image, audio, inline, 1h"'))
    assert not facts.wide
    assert facts.upper.input_tokens < IMAGE_TOKENS_MAX


@pytest.mark.parametrize("name", [b"file_id", b"file_url", b"fileUri", b"file_uri"])
def test_a_file_behind_an_address_is_bounded_by_the_most_it_can_be(name: bytes) -> None:
    facts = read_chat(PLAIN % (b"m", b'{"%b":"x"}' % name))
    assert facts.upper.input_tokens > REMOTE_FILE_TOKENS_MAX
