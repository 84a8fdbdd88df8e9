"""`elkapi doctor`: what is in force and what is wrong, without a secret."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elkapi.admin.doctor import DISK_FREE_BYTES_MIN
from tests.unit.cli.conftest import Elkapi, add_channel


def test_doctor_prints_the_address_of_a_sqlite_file_as_it_is(elkapi: Elkapi, tmp_path: Path) -> None:
    shown = json.loads(elkapi("doctor", "--json").out)["settings"]["effective_database_url"]
    assert shown == f"sqlite:///{tmp_path / 'data' / 'elkapi.sqlite3'}"


@pytest.mark.parametrize("password", ["hun/ter2", "hun?ter2", "hun#ter2", "hun@ter2", "12/hunter2", "hun:ter2"])
# With Redis' address alone nothing but its fault is said; a doctor that gets further reads the models' weights.
@pytest.mark.parametrize("variables", [("REDIS_URL",), ("DATABASE_URL", "STORAGE_URL", "OTLP_ENDPOINT")])
def test_a_password_with_special_characters_is_masked_as_well(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, variables: tuple[str, ...], password: str
) -> None:
    for variable in variables:
        monkeypatch.setenv(f"ELKAPI_{variable}", f"postgresql://user:{password}@127.0.0.1:1/name")
    for outcome in (elkapi("doctor"), elkapi("doctor", "--json"), elkapi("key", "list")):
        assert "ter2" not in outcome.out + outcome.err


def test_doctor_masks_secrets_and_is_content_with_a_fresh_installation(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ELKAPI_REDIS_URL", "redis://user:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("ELKAPI_STORAGE_URL", "s3://bucket/x?endpoint=http://user:hunter2@s3.test")
    before = elkapi("doctor", "--json")
    assert not (tmp_path / "data").exists()
    elkapi("key", "create", "--name", "k")
    after = elkapi("doctor", "--json")
    for outcome in (before, after):
        assert "hunter2" not in outcome.out
        report = json.loads(outcome.out)
        wrong = [finding for finding in report["findings"] if not finding["ok"]]
        # Weights and kernel limits are the machine's; everything of ours is in order.
        assert [f for f in wrong if not f["name"].startswith(("model", "local models", "open files", "accept"))] == []
        assert report["ok"] == (not wrong)
        assert outcome.status == (1 if wrong else 0)
    assert json.loads(after.out)["settings"]["redis_url"] == "redis://user:***@127.0.0.1:1/0"


def test_doctor_finds_what_is_wrong(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_channel(elkapi)
    data = tmp_path / "data"

    def wrong() -> set[str]:
        outcome = elkapi("doctor", "--json")
        return {finding["name"] for finding in json.loads(outcome.out)["findings"] if not finding["ok"]}

    fine = wrong()
    monkeypatch.setenv("ELKAPI_WORKER", "4")
    assert wrong() - fine == {"variable"}
    monkeypatch.delenv("ELKAPI_WORKER")
    data.chmod(0o755)
    (data / "secret.key").chmod(0o644)
    assert wrong() - fine == {"data directory", "secret key"}
    data.chmod(0o700)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=DISK_FREE_BYTES_MIN - 1, path=path))
        assert wrong() - fine == {"disk space", "secret key"}
    monkeypatch.setenv("ELKAPI_SECRET_KEY", "ab" * 32)
    assert wrong() - fine == {"sealed secrets"}
    monkeypatch.setenv("ELKAPI_SECRET_KEY", "short")
    assert wrong() - fine == {"secret key"}
    monkeypatch.delenv("ELKAPI_SECRET_KEY")
    (data / "secret.key").chmod(0o600)
    (data / "secret.key").rename(data / "elsewhere")
    assert wrong() - fine == {"sealed secrets"}
    assert not (data / "secret.key").exists()
    (data / "elsewhere").rename(data / "secret.key")
    monkeypatch.setenv("ELKAPI_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/d")
    assert wrong() - fine == {"database"}
    assert elkapi("doctor").status == 1


def test_doctor_goes_on_where_a_file_cannot_be_looked_at(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def not_ours(_: Any) -> Path:
        raise PermissionError(13, "Permission denied", "theirs")

    sha256 = "0" * 64
    row = {"id": "m", "kind": "bert-mean", "dimensions": 1, "window": 1, "heads": 1, "licence": "x", "owned_by": "y"}
    row |= {"sources": [{"weights": "w", "tokenizer": "t"}], "weights_sha256": sha256, "tokenizer_sha256": sha256}
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(row))
    for name in ("w", "t"):
        (folder / name).touch()
    monkeypatch.setenv("ELKAPI_MODELS_DIR", str(folder.parent))
    monkeypatch.setenv("ELKAPI_LOG_FILE", str(tmp_path / ("x" * 300)))
    monkeypatch.setattr("elkapi.admin.doctor.secret_key_path", not_ours)
    outcome = elkapi("doctor", "--json")
    assert outcome.status == 1
    said = {finding["name"]: finding["detail"] for finding in json.loads(outcome.out)["findings"]}
    assert said["log file"].startswith("File name too long: /")
    assert said["secret key"] == "Permission denied: theirs; run this as the user that runs the gateway"
    assert said["model m"].startswith(f"cannot read {folder / 'w'}: ")
    assert "accept backlog" in said


@pytest.mark.parametrize("given", ["u:hunter2@127.0.0.1:1/d", "127.0.0.1:1/d?user=u&password=hunter2"])
def test_doctor_shows_no_password_of_a_database_that_does_not_answer(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("ELKAPI_DATABASE_URL", f"postgresql://{given}")
    shown = elkapi("doctor").out
    assert "127.0.0.1:1/d" in shown
    assert "hunter2" not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runtime brings its libraries")
def test_doctor_names_the_library_that_the_chat_model_lacks_and_no_other_cure(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elkapi.local.chat.rows.LIBRARY", "liba-library-nobody-has.so.1")
    findings = json.loads(elkapi("doctor", "--json").out)["findings"]
    (said,) = [one["detail"] for one in findings if one["name"] == "model smollm2-135m-instruct" and not one["ok"]]
    assert "apt-get install libgomp1" in said
    assert "models install" not in said


def test_doctor_finds_a_folder_in_which_the_gateway_could_not_write(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Root may write anywhere, so the answer of the system is replaced."""

    def told() -> str:
        findings = json.loads(elkapi("doctor", "--json").out)["findings"]
        (found,) = [finding for finding in findings if finding["name"] == "data directory" and not finding["ok"]]
        return str(found["detail"])

    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK))
    assert told().endswith(f"does not exist yet; this user cannot create it in {tmp_path}")
    monkeypatch.setenv("ELKAPI_DATA_DIR", str(tmp_path))
    assert told() == f"this user cannot write in {tmp_path}"
    (tmp_path / "file").touch()
    monkeypatch.setenv("ELKAPI_DATA_DIR", str(tmp_path / "file" / "data"))
    assert told().endswith(f"this user cannot create it in {tmp_path / 'file'}")
