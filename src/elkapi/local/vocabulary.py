"""The byte-pair vocabularies of OpenAI's models: decodes token ids and counts the tokens of text exactly.

Decoding uses our own table, built from the vocabulary's file, because the package's decoder reads out of bounds for an
unknown id. Counting uses the package's compiled encoder, loaded on first use (32 MB for cl100k, 67 MB for o200k).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import threading
from array import array
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

from elkapi.local.models import distribution_path

PACKAGE = "bpe-openai"
NAMES = ("cl100k_base", "o200k_base")


class VocabularyUnusable(Exception):
    """The vocabulary's package is missing or its file is not the published one."""


class UnknownToken(ValueError):
    """An id outside the vocabulary; `place` is its index in the sequence."""

    def __init__(self, token: int, place: int) -> None:
        super().__init__(f"{token} is not a token id")
        self.token = token
        self.place = place


class _Published(NamedTuple):
    sha256: str
    special: dict[int, bytes]


_PUBLISHED = {
    "cl100k_base": _Published(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        {
            100257: b"<|endoftext|>",
            100258: b"<|fim_prefix|>",
            100259: b"<|fim_middle|>",
            100260: b"<|fim_suffix|>",
            100276: b"<|endofprompt|>",
        },
    ),
    "o200k_base": _Published(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        {199999: b"<|endoftext|>", 200018: b"<|endofprompt|>"},
    ),
}

_loading = threading.Lock()


class Decoder:
    """Token ids to text, from one flat table of about 1 MB."""

    def __init__(self, name: str) -> None:
        published = _PUBLISHED[name]
        content = _read(f"bpe_openai/data/{name}.tiktoken.gz")
        found = hashlib.sha256(content).hexdigest()
        if found != published.sha256:
            raise VocabularyUnusable(
                f"the {name} vocabulary has sha256 {found}; {published.sha256} is the published one"
            )
        self._special = published.special
        self._ends = array("I", [0])
        table = bytearray()
        # Each line of the published file has a base64 token and its rank, in the order of ranks, without gaps.
        for line in content.splitlines():
            table += base64.b64decode(line[: line.index(b" ")])
            self._ends.append(len(table))
        self._table = bytes(table)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, invalid UTF-8 replaced as in tiktoken; raises UnknownToken."""
        ends, table, size = self._ends, self._table, len(self._ends) - 1
        parts = []
        for place, token in enumerate(ids):
            if 0 <= token < size:
                parts.append(table[ends[token] : ends[token + 1]])
            elif special := self._special.get(token):
                parts.append(special)
            else:
                raise UnknownToken(token, place)
        return b"".join(parts).decode("utf-8", "replace")


def _read(path_in_package: str) -> bytes:
    base = distribution_path(PACKAGE)
    if base is None:
        raise VocabularyUnusable(f"the package {PACKAGE} is not installed")
    try:
        return gzip.decompress((base / path_in_package).read_bytes())
    except (OSError, EOFError) as error:
        raise VocabularyUnusable(f"cannot read {path_in_package}: {error}") from None


@cache
def _decoder(name: str) -> Decoder:
    return Decoder(name)


def decode(ids: Sequence[int], name: str = "cl100k_base") -> str:
    """The text of token ids; raises UnknownToken, VocabularyUnusable, and KeyError for an unknown vocabulary."""
    with _loading:
        decoder = _decoder(name)
    return decoder.decode(ids)


@cache
def _bindings() -> ModuleType:
    """The package's compiled module only: importing the package costs another 60 MB and is not needed."""
    files = metadata.distribution(PACKAGE).files or []
    for file in files:
        if file.name.startswith("_bindings.") and file.suffix in {".so", ".pyd", ".dylib"}:
            spec = importlib.util.spec_from_file_location("bpe_openai._bindings", str(file.locate()))
            if spec and spec.loader:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise VocabularyUnusable(f"the package {PACKAGE} has no compiled encoder here")


@cache
def _encoder(name: str) -> Any:
    return _bindings().tokenizer_for_encoding(name)


def count(text: str, name: str) -> int:
    """The exact number of tokens; special tokens count as plain text. Raises VocabularyUnusable, KeyError."""
    if name not in NAMES:
        raise KeyError(name)
    with _loading:
        try:
            encoder = _encoder(name)
        except metadata.PackageNotFoundError:
            raise VocabularyUnusable(f"the package {PACKAGE} is not installed") from None
    return int(encoder.count(text))
