"""What a start prints: a call to paste with a model that can answer it, and what else the same key does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from elkapi.app import _welcome, prepare
from elkapi.local.chat import rows
from elkapi.roles import BundledModel, Preparation
from elkapi.settings import Settings, SettingsError, load_settings

EMBEDDING, CHAT = BundledModel("an-encoder"), BundledModel("a-talker", {}, "chat")


def welcome(*bundled: BundledModel) -> str:
    return _welcome(Settings(), 8000, Preparation(bundled, (), "sk-first"))


@pytest.mark.parametrize("bundled", [(EMBEDDING, CHAT), (CHAT, EMBEDDING)])
def test_the_printed_curl_asks_the_embedding_model_whatever_stands_first(bundled: tuple[BundledModel, ...]) -> None:
    said = welcome(*bundled)
    assert '"model":"an-encoder"' in said
    assert "Bearer sk-first" in said
    assert "/v1/chat/completions with the model a-talker." in said


def test_without_an_embedding_model_no_curl_is_printed_and_the_key_still_is() -> None:
    said = welcome(CHAT)
    assert "curl" not in said
    assert "elkapi models install" in said
    assert "sk-first" in said
    assert "chats" not in welcome(EMBEDDING)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runtime brings its libraries")
def test_a_chat_model_whose_runtime_lacks_a_library_is_not_served_and_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LIBRARY", "liba-library-nobody-has.so.1")
    settings = Settings(data_dir=str(tmp_path))
    found = prepare(settings)
    assert [model.role for model in found.bundled] == ["models"]
    said = _welcome(settings, 8000, found)
    assert "No local chat: the model smollm2-135m-instruct needs" in said
    assert "apt-get install libgomp1" in said
    assert "chats at" not in said


@pytest.mark.parametrize(("name", "value"), [("ELKAPI_CHAT_SLOTS", "0"), ("ELKAPI_CHAT_CONTEXT_TOKENS", "255")])
def test_a_chat_process_that_could_answer_nobody_is_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="chat_slots is to be at least 1, chat_context_tokens 256"):
        load_settings(environ={name: value})
