"""What a start prints: a call to paste with a model that can answer it, and what else the same key does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from elkapi.app import _welcome, prepare
from elkapi.local.chat import rows
from elkapi.roles import BundledModel, Preparation
from elkapi.settings import Settings, SettingsError, load_settings, misspelt_variables

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
    assert "To chat" not in welcome(EMBEDDING)


def test_a_misspelt_variable_is_named_with_what_it_may_be_meant_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "setting" not in welcome(EMBEDDING)
    monkeypatch.setenv("ELKAPI_WORKER", "4")
    assert "ELKAPI_WORKER is not a setting and has no effect; did you mean ELKAPI_WORKERS?" in welcome(EMBEDDING)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PROT", "PORT"), ("DATABASE", "DATABASE_URL"), ("BODY_BYTE_MAX", "BODY_BYTES_MAX"), ("LOGLEVEL", "LOG_LEVEL")],
)
def test_variables_one_slip_away_from_a_setting_are_found(name: str, meant: str) -> None:
    assert misspelt_variables({f"ELKAPI_{name}": "", "PROT": ""}) == {f"ELKAPI_{name}": f"ELKAPI_{meant}"}


def test_settings_and_the_variables_of_others_are_not_taken_for_slips() -> None:
    others = ("KEY", "CONFIG", "SERVICE_HOST", "SERVICE_PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR", "PARENT_PID")
    ours = [name.upper() for name in Settings.__struct_fields__]
    assert misspelt_variables({f"ELKAPI_{name}": "" for name in (*others, *ours)}) == {}


def test_in_kubernetes_a_service_named_elkapi_does_not_choose_the_port() -> None:
    assert load_settings(environ={"ELKAPI_PORT": "tcp://10.43.0.7:8000"}) == Settings()
    assert load_settings({"port": 9000}, {"ELKAPI_PORT": "tcp://10.43.0.7:8000"}).port == 9000


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
    assert "To chat" not in said


@pytest.mark.parametrize(("name", "value"), [("ELKAPI_CHAT_SLOTS", "0"), ("ELKAPI_CHAT_CONTEXT_TOKENS", "255")])
def test_a_chat_process_that_could_answer_nobody_is_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="chat_slots must be at least 1, and chat_context_tokens at least 256"):
        load_settings(environ={name: value})
