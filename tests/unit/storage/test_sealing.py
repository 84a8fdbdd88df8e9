"""Sealing and the secret key's file."""

from __future__ import annotations

import base64
import errno
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.settings import Settings
from elkapi.storage import secrets
from elkapi.storage.secrets import (
    Sealer,
    SealError,
    SecretKeyError,
    install_secret_key,
    load_secret_key,
    parse_secret_key,
    secret_key_path,
)

KEY = bytes(range(32))


@given(plain=st.binary(max_size=200), context=st.binary(max_size=40))
def test_what_is_sealed_opens_in_its_place(plain: bytes, context: bytes) -> None:
    sealer = Sealer(KEY)
    assert sealer.open(sealer.seal(plain, context), context) == plain


def test_nothing_opens_in_another_place_with_another_key_or_changed() -> None:
    sealed = Sealer(KEY).seal(b"plain", b"row 1")
    with pytest.raises(SealError):
        Sealer(KEY).open(sealed, b"row 2")
    with pytest.raises(SealError):
        Sealer(bytes(32)).open(sealed, b"row 1")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SealError):
            Sealer(KEY).open(bytes(changed), b"row 1")
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            Sealer(KEY).open(sealed[:length], b"row 1")


def test_the_same_value_never_seals_the_same_way_and_hides_itself() -> None:
    sealer = Sealer(KEY)
    first, second = sealer.seal(b"provider secret", b""), sealer.seal(b"provider secret", b"")
    assert first != second
    assert b"provider" not in first


def test_fingerprints_are_stable_and_keyed() -> None:
    assert Sealer(KEY).fingerprint(b"a") == Sealer(KEY).fingerprint(b"a")
    assert Sealer(KEY).fingerprint(b"a") != Sealer(KEY).fingerprint(b"b")
    assert Sealer(KEY).fingerprint(b"a") != Sealer(bytes(32)).fingerprint(b"a")


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path / "data"))
    key = load_secret_key(settings)
    assert load_secret_key(settings) == key
    path = secret_key_path(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["secret.key"]


def test_a_key_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    assert install_secret_key(path, KEY)
    assert not install_secret_key(path, bytes(32))
    assert parse_secret_key(path.read_text(), "file") == KEY
    assert [file.name for file in tmp_path.iterdir()] == ["secret.key"]


def test_processes_agree_on_one_key_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, replace = Settings(data_dir=str(tmp_path)), Path.replace
    found: list[bytes] = []
    other = threading.Thread(target=lambda: found.append(load_secret_key(settings)))

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def while_another_looks(made: Path, path: Path) -> Path:
        assert path.read_bytes() == b""
        other.start()
        other.join(0.1)
        return replace(made, path)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Path, "replace", while_another_looks)
    monkeypatch.setattr(secrets, "KEY_EMPTY_S", 60.0)
    found.append(load_secret_key(settings))
    other.join()
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_key_file_that_was_left_empty_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a process that is killed while it makes one where there are no hard links."""

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    settings = Settings(data_dir=str(tmp_path))
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(secrets, "KEY_EMPTY_S", 0.0)
    with monkeypatch.context() as dying:
        dying.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            load_secret_key(settings)
    with pytest.raises(SecretKeyError, match=r"secret\.key is empty: .* Remove it and start again"):
        load_secret_key(settings)
    secret_key_path(settings).unlink()
    assert load_secret_key(settings) == load_secret_key(settings)


@pytest.mark.parametrize(
    "text",
    [KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode().rstrip("=")],
)
def test_the_variable_takes_hex_and_base64(tmp_path: Path, text: str) -> None:
    assert load_secret_key(Settings(data_dir=str(tmp_path), secret_key=f" {text}\n")) == KEY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["hunter2", "00" * 31, "00" * 33, "zz" * 32, "é", "="])
def test_a_bad_key_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(SecretKeyError) as refused:
        load_secret_key(Settings(data_dir=str(tmp_path), secret_key=text))
    assert "ELKAPI_SECRET_KEY" in str(refused.value)
    if len(text) > 1:
        assert text not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"hunter2"])
def test_a_damaged_key_file_is_refused_not_replaced(tmp_path: Path, content: bytes) -> None:
    settings = Settings(data_dir=str(tmp_path))
    secret_key_path(settings).write_bytes(content)
    with pytest.raises(SecretKeyError):
        load_secret_key(settings)
    assert secret_key_path(settings).read_bytes() == content
