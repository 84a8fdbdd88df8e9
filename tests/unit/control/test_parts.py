"""What the control process works with: a database that may be away, and a model process that may not answer."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from elkapi.app import installed_models
from elkapi.clock import ManualClock
from elkapi.control.parts import Parts, installed_chat_model
from elkapi.control.status import LocalModels
from elkapi.local import listed
from elkapi.local.chat import rows
from elkapi.local.listed import LocalModel
from elkapi.local.models import ModelUnusable
from elkapi.settings import Settings
from elkapi.upstream import Deadlines

PLANTED = "planted-password"


async def test_g78_process_works_while_the_database_is_away_and_takes_it_up_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "data"
    blocked.write_text("a file where the directory should be")
    settings = Settings(data_dir=str(tmp_path), database_url=f"sqlite:///{blocked}/elkapi.sqlite3")
    async with Parts(settings, ManualClock()) as parts:
        with caplog.at_level(logging.WARNING, "elkapi.control"):
            assert await parts.database_answers() is False
        assert "database_unavailable" in caplog.text
        for job in parts.jobs():
            with pytest.raises(OSError):
                await job.run_once()
        blocked.unlink()
        blocked.mkdir(mode=0o700)
        assert await parts.database_answers() is True
        for job in parts.jobs():
            await job.run_once()


async def test_unreachable_server_is_unavailable_and_its_password_stays_out_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, not listening: connections are refused.
        url = f"postgresql://elkapi:{PLANTED}@127.0.0.1:{taken.getsockname()[1]}/elkapi"
        async with Parts(Settings(data_dir=str(tmp_path), database_url=url), ManualClock()) as parts:
            with caplog.at_level(logging.DEBUG):
                assert await parts.database_answers() is False
    assert PLANTED not in caplog.text


@contextmanager
def _model_process(path: Path, answer: bytes) -> Iterator[None]:
    """Answers each connection with these bytes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


def _http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


LISTING = b'{"object":"list","data":[{"id":"m","object":"model","dimensions":3,"licence":"x"},{"id":"n"}]}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (_http(LISTING), LocalModels(True, (LocalModel("m", 3), LocalModel("n", 0)))),
        (_http(b'{"data":[]}'), LocalModels(True, ())),
        (_http(LISTING, "503 Service Unavailable"), LocalModels()),
        (_http(b"<html>"), LocalModels()),
        (_http(b'{"data":"m"}'), LocalModels()),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{", LocalModels()),
        (b"garbage", LocalModels()),
    ],
)
async def test_models_are_what_the_model_process_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, expected: LocalModels
) -> None:
    monkeypatch.setattr(listed, "DEADLINES", Deadlines())  # A machine that stands still for a second is no answer.
    expected = msgspec.structs.replace(expected, chat_model=installed_chat_model())
    settings = Settings(data_dir=str(tmp_path))
    async with Parts(settings, ManualClock()) as parts:
        with _model_process(Path(settings.socket_path("models")), answer):
            assert await parts.local_models() == expected


async def test_no_model_process_is_not_ready(tmp_path: Path) -> None:
    async with Parts(Settings(data_dir=str(tmp_path)), ManualClock()) as parts:
        assert await parts.local_models() == LocalModels(chat_model=installed_chat_model())


def test_the_chat_model_is_named_where_its_package_and_its_runtime_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert installed_chat_model() == "smollm2-135m-instruct"
    monkeypatch.setattr(rows, "RUNTIME", "a_runtime_nobody_has")
    assert installed_chat_model() == ""
    monkeypatch.undo()
    monkeypatch.setattr(rows, "LIBRARY", "liba-library-nobody-has.so.1")
    assert installed_chat_model() == ("" if sys.platform == "linux" else "smollm2-135m-instruct")
    monkeypatch.undo()
    monkeypatch.setattr(rows, "distribution_path", lambda _: tmp_path)
    weights = tmp_path / rows.BUNDLED_CHAT.weights
    weights.parent.mkdir()
    weights.write_bytes(b"GGUF")
    assert installed_chat_model() == ""
    models, why = installed_models(Settings())
    assert [model.role for model in models] == ["models"]
    assert why == f"{weights} is damaged: it has 4 bytes instead of 98362432"
    monkeypatch.undo()
    missing = msgspec.structs.replace(rows.BUNDLED_CHAT, package="a-package-nobody-has")
    with pytest.raises(ModelUnusable, match="a-package-nobody-has"):
        rows.locate_chat(missing)
