"""Which bodies may be metered in images, audio or an hour's cache, so that a hold covers those classes too."""

from __future__ import annotations

import pytest

from elkapi.catalog.bounds import (
    FRAME_TOKENS_MAX,
    IMAGE_TOKENS_MAX,
    REMOTE_FILE_TOKENS_MAX,
    SERVED_TOOLS_TOKENS_MAX,
    TOOLS_TOKENS_MAX,
    bounded_by_model,
)
from elkapi.catalog.text import read_chat, read_responses

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


@pytest.mark.parametrize(
    "by_number", [b"\\u0069mage", b"\\u0049MAGE", b"im\\u0061ge", b"\\u0069\\u006d\\u0061\\u0067\\u0065", b"\\u0031h"]
)
def test_a_word_that_is_spelled_by_its_letters_numbers_widens_the_bound_too(by_number: bytes) -> None:
    assert read_chat(PLAIN % (b"m", b'{"type":"%b"}' % by_number)).wide


def test_pictures_files_and_tools_behind_escapes_are_bounded_as_without() -> None:
    plain = read_chat(PLAIN % (b"m", b'{"image_url":1},{"file_id":"f"}')).upper.input_tokens
    hidden = PLAIN % (b"m", b'{"im\\u0061ge_url":1},{"file\\u005Fid":"f"}')
    assert read_chat(hidden).upper.input_tokens == plain + 10
    tools = b',"tools":[{"type":"\\u0077eb_search"}]}'
    more = len(tools) - 1 + TOOLS_TOKENS_MAX + SERVED_TOOLS_TOKENS_MAX
    assert read_chat(hidden[:-1] + tools).upper.input_tokens == plain + 10 + more


def test_what_encoders_escape_of_a_text_changes_no_bound() -> None:
    body = PLAIN % (b"m", b'"\\u003cimg\\u003e caf\\u00e9 \\n \\\\u0022"')
    facts = read_chat(body)
    assert (facts.upper.input_tokens, facts.wide) == (len(body) + FRAME_TOKENS_MAX, False)


def test_plain_text_is_not_wide_whatever_it_speaks_of() -> None:
    facts = read_chat(PLAIN % (b"m", b'"an image, audio, inline, 1h"'))
    assert not facts.wide
    assert facts.upper.input_tokens < IMAGE_TOKENS_MAX


@pytest.mark.parametrize(
    "part",
    [
        b'{"type":"file","file":{"file_id":"f"}}',
        b'{"type":"input_file","file_url":"x"}',
        b'{"fileData":{"fileUri":"x"}}',
        b'{"file_data":{"file_uri" : "x"}}',
        b'{"type":"document_url","document_url":"x"}',
        b'{"type":"video_url","video_url":{"url":"x"}}',
        b'{"type":"audio_url","audio_url":{"url":"x"}}',
        b'{"type":"document","source":{"type":"url","url":"x"}}',
        b'{"source": {"url": "x", "type": "url"}, "type": "document"}',
        b'{"type":"document","source":{"type":"file","file_id":"f"}}',
        b'{"type":"file","file":{"filename":"a.pdf","file_data":"https://a.example/a.pdf"}}',
        b'{"type":"input_file","file_data":"https:\\/\\/a.example\\/a.pdf"}',
        b'{"type":"input_audio","input_audio":{"format":"mp3","data":"https://a.example/a.mp3"}}',
        b'{"type":"input_audio","input_audio":"https://a.example/a.mp3"}',
        b'{"type":"video","video":["https://a.example/1.jpg","https://a.example/2.jpg"]}',
    ],
)
def test_a_file_behind_an_address_is_bounded_by_the_most_it_can_be(part: bytes) -> None:
    for count in (1, 3):
        body = PLAIN % (b"m", b",".join([part] * count))
        assert read_chat(body).upper.input_tokens == len(body) + FRAME_TOKENS_MAX + count * REMOTE_FILE_TOKENS_MAX


def test_a_document_in_the_body_and_a_picture_behind_an_address_are_no_file_behind_one() -> None:
    document = b'{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":""}}'
    picture = b'{"type":"image","source":{"type":"url","url":"x"}}'
    text = b'{"type":"document","source":{"type":"text","media_type":"text/plain","data":"https://a.example says"}}'
    sound = b'{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}'
    file = b'{"type":"file","file":{"file_data":"data:application/pdf;base64,AAAA"}}'
    for part in (document, picture, text, sound, file):
        assert read_chat(PLAIN % (b"m", part)).upper.input_tokens < REMOTE_FILE_TOKENS_MAX


def test_a_file_in_the_body_may_come_to_more_than_its_bytes() -> None:
    """A page of a PDF is a picture to the model, and its text is packed."""
    body = b'{"model":"m","input":[{"content":[{"type":"input_file","file_data":"data:application/pdf;base64,AA"}]}]}'
    assert read_responses(body).open_ended


@pytest.mark.parametrize("limit", [b"", b',"max_tokens":9'])
def test_a_picture_is_bounded_by_what_its_model_counts_for_one(limit: bytes) -> None:
    picture = b'{"type":"input_image","image_url":"x"}'
    facts = read_chat(PLAIN[:-1] % (b"m", picture) + limit + b"}")
    mini, other = (bounded_by_model(facts, model).upper.input_tokens for model in ("gpt-4o-mini", "gpt-4o"))
    assert mini - other == 48_169 - IMAGE_TOKENS_MAX
    assert other == facts.upper.input_tokens
