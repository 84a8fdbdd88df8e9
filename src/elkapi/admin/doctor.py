"""Examines an installation without changing it: settings, database, secret key, weights, kernel limits."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from elkapi.assets.store import FOLDER, StorageUrlError, open_store
from elkapi.errors import Unavailable, to_operator
from elkapi.local.chat.rows import BUNDLED_CHAT, LibraryMissing, locate_chat
from elkapi.local.models import INSTALL_HINT, ModelUnusable, check_file, locate, read_rows
from elkapi.settings import SECRET_FIELDS, SOCKET_PATH_BYTES_MAX, Settings, misspelt_variables
from elkapi.storage import dialect as sql
from elkapi.storage.db import Database
from elkapi.storage.files import is_there
from elkapi.storage.migrations import MIGRATIONS, MigrationError, pending, schema_version
from elkapi.storage.repos import channels
from elkapi.storage.secrets import (
    Sealer,
    SecretKeyError,
    is_bound_to,
    load_secret_key,
    lost_key,
    secret_key_path,
)

MASK = "***"
SOMAXCONN_MIN = 1_024
SPARE_FILES = 256
# About 200,000 calls; a full disk refuses every paid call.
DISK_FREE_BYTES_MIN = 256 * 1024 * 1024
_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


class Finding(msgspec.Struct, frozen=True):
    """One check; `detail` says what was found and, if it is wrong, what to do."""

    name: str
    ok: bool
    detail: str


def effective_settings(settings: Settings) -> dict[str, Any]:
    """The effective settings, secrets masked."""
    shown: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        value = getattr(settings, name)
        shown[name] = _masked(value) if name in SECRET_FIELDS else value
    shown["effective_database_url"] = _masked(settings.effective_database_url)
    return shown


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which to fix them; nothing is created or changed."""
    looks: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
        ("variable", _variables),
        ("data directory", _data_dir),
        ("disk space", _disk_space),
        ("log file", _log_file),
        ("secret key", _secret_key_file),
        ("database", _database),
        ("local models", _weights),
        ("telemetry", _telemetry),
        ("files of tasks", _storage),
        ("limits", _limits),
    )
    return [finding for name, look in looks for finding in _looked(name, look(settings))]


def _looked(name: str, look: Iterator[Finding]) -> Iterator[Finding]:
    """The findings of a check; an OSError becomes a finding itself."""
    try:
        yield from look
    except OSError as error:
        hint = "; run this as the user that runs the gateway" if isinstance(error, PermissionError) else ""
        yield Finding(name, False, f"{error.strerror}: {error.filename}{hint}")


def _variables(_: Settings) -> Iterator[Finding]:
    for name, meant in misspelt_variables().items():
        yield Finding("variable", False, f"{name} is not a setting and has no effect; did you mean {meant}?")


def _data_dir(settings: Settings) -> Iterator[Finding]:
    path = settings.data_path
    if not is_there(path):
        above = _nearest(path)
        usable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
        hint = "the first start creates it" if usable else f"this user cannot create it in {above}"
        yield Finding("data directory", usable, f"{path} does not exist yet; {hint}")
    elif not path.is_dir():
        yield Finding("data directory", False, f"{path} is not a directory; choose another ELKAPI_DATA_DIR")
    elif not os.access(path, os.W_OK | os.X_OK):
        yield Finding("data directory", False, f"this user cannot write in {path}")
    else:
        mode = stat.S_IMODE(path.stat().st_mode)
        closed = not mode & 0o077
        yield Finding(
            "data directory", closed, f"{path} has mode {mode:04o}" + ("" if closed else f"; run `chmod 700 {path}`")
        )
    socket_bytes = settings.socket_path_bytes
    fits = socket_bytes <= SOCKET_PATH_BYTES_MAX
    hint = "" if fits else f"; at most {SOCKET_PATH_BYTES_MAX} are possible: choose a shorter ELKAPI_DATA_DIR"
    yield Finding("socket paths", fits, f"{socket_bytes} bytes{hint}")


def _disk_space(settings: Settings) -> Iterator[Finding]:
    path = _nearest(settings.data_path)
    free = shutil.disk_usage(path).free
    enough = free >= DISK_FREE_BYTES_MIN
    hint = "" if enough else "; make room: on a full disk, every call that costs something is refused"
    yield Finding("disk space", enough, f"{free >> 20} MiB are free in {path}{hint}")


def _nearest(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if is_there(place))


def _log_file(settings: Settings) -> Iterator[Finding]:
    if not settings.log_file:
        return
    path = Path(settings.log_file)
    usable = os.access(path if is_there(path) else path.parent, os.W_OK) and not path.is_dir()
    yield Finding("log file", usable, f"{path}" + ("" if usable else " is not writable; see ELKAPI_LOG_FILE"))


def _secret_key_file(settings: Settings) -> Iterator[Finding]:
    good = "ELKAPI_SECRET_KEY is set"
    if not settings.secret_key:
        path = secret_key_path(settings)
        if not is_there(path):
            yield Finding("secret key", True, f"{path} does not exist yet; the first start creates it")
            return
        mode = stat.S_IMODE(path.stat().st_mode)
        good = f"{path} has mode {mode:04o}"
        if mode & 0o077:
            yield Finding("secret key", False, f"{good}; run `chmod 600 {path}`")
            return
    try:
        load_secret_key(settings)
    except SecretKeyError as error:
        yield Finding("secret key", False, str(error))
    else:
        yield Finding("secret key", True, good)


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        url = sql.parse_url(settings.effective_database_url)
    except sql.DatabaseUrlError as error:
        yield Finding("database", False, str(error))
        return
    if sql.name_of(url) == sql.SQLITE and not is_there(Path(str(url.database))):
        yield Finding("database", True, f"{url.database} does not exist yet; the first start creates it")
        return
    database = Database.open(settings.effective_database_url, synchronous=settings.sqlite_synchronous)
    try:
        yield from _schema(database)
        yield from _seals(database, settings)
    except Unavailable as error:
        yield Finding("database", False, f"{database.address}: {to_operator(error)}")
    except (sql.DatabaseUrlError, MigrationError) as error:
        yield Finding("database", False, f"{database.address}: {error}")
    finally:
        database.close()


def _schema(database: Database) -> Iterator[Finding]:
    with database.read() as connection:
        version, missing = schema_version(connection), pending(connection)
    yield Finding("database", True, f"{database.address} is reachable")
    newest = int(MIGRATIONS[-1].name[:4])
    hint = f"; {', '.join(missing)} not applied: run `elkapi migrate`" if missing else ""
    # A `post` half may be pending: it is applied when the last process of the previous version is gone.
    usable = not any(name.endswith(".pre") for name in missing)
    yield Finding("schema", usable, f"version {version} of {newest}{hint}")


def _seals(database: Database, settings: Settings) -> Iterator[Finding]:
    with database.read() as connection:
        if schema_version(connection) == 0:
            return
        if (lost := lost_key(connection, settings)) is not None:
            yield Finding("sealed secrets", False, lost)
            return
        if not (settings.secret_key or is_there(secret_key_path(settings))):
            return
        try:
            sealer = Sealer(load_secret_key(settings))
        except SecretKeyError:
            return  # Reported already.
        if is_bound_to(connection, sealer) is False:
            yield Finding(
                "sealed secrets", False, "the secrets in this database were encrypted with another secret key"
            )
            return
        loaded = channels.load_channels(connection, sealer)
    shut = [f"channel {entry.channel.id}: {part}" for entry in loaded for part in entry.sealed_shut]
    yield Finding(
        "sealed secrets", not shut, "; ".join(shut) or f"the secrets of {len(loaded)} channels can be decrypted"
    )


def _weights(settings: Settings) -> Iterator[Finding]:
    try:
        rows = read_rows(settings.models_dir)
    except ModelUnusable as error:
        yield Finding("local models", False, str(error))
        return
    for row, folder in rows:
        try:
            files = locate(row, folder)
            check_file(files.weights, row.weights_sha256)
            check_file(files.tokenizer, row.tokenizer_sha256)
        except ModelUnusable as error:
            yield Finding(f"model {row.id}", False, f"{error}; {INSTALL_HINT}")
        else:
            yield Finding(f"model {row.id}", True, "weights and tokenizer have their pinned sha256")
    chat = BUNDLED_CHAT
    try:
        check_file(locate_chat(chat), chat.weights_sha256)
    except LibraryMissing as error:
        yield Finding(f"model {chat.id}", False, str(error))
    except ModelUnusable as error:
        yield Finding(f"model {chat.id}", False, f"{error}; {INSTALL_HINT}")
    else:
        yield Finding(f"model {chat.id}", True, "weights have their pinned sha256, and the runtime is installed")


def _storage(settings: Settings) -> Iterator[Finding]:
    """Check only that the URL is valid: the bucket may not be reachable from the operator's machine."""
    try:
        open_store(settings)
    except StorageUrlError as error:
        yield Finding("files of tasks", False, str(error))
    else:
        yield Finding("files of tasks", True, _masked(settings.storage_url) or f"{settings.data_path / FOLDER}")


def _telemetry(settings: Settings) -> Iterator[Finding]:
    if not settings.otlp_endpoint:
        return
    parts = urlsplit(settings.otlp_endpoint)
    usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    hint = "" if usable else "; it must start with http:// or https://"
    content = "with" if settings.otlp_content else "without"
    yield Finding(
        "telemetry", usable, f"calls are exported to {_masked(settings.otlp_endpoint)}, {content} content{hint}"
    )


def _limits(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.connections_max + settings.upstream_connections_max + SPARE_FILES
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    hint = "" if enough else f"; up to {needed} are needed: raise the limit or lower ELKAPI_CONNECTIONS_MAX"
    yield Finding("open files", enough, f"limit {soft}, at most {hard}{hint}")
    if _SOMAXCONN.exists():
        backlog = int(_SOMAXCONN.read_text("ascii"))
        hint = (
            ""
            if backlog >= SOMAXCONN_MIN
            else f"; bursts need {SOMAXCONN_MIN}: run `sysctl -w net.core.somaxconn={SOMAXCONN_MIN}`"
        )
        yield Finding("accept backlog", backlog >= SOMAXCONN_MIN, f"net.core.somaxconn is {backlog}{hint}")


def _masked(value: str) -> str:
    """A URL with everything that may contain a secret masked; any other text is masked completely."""
    if not value:
        return ""
    try:
        parts = urlsplit(value)
    except ValueError:
        return MASK
    if not parts.scheme or "://" not in value:
        return MASK
    if "@" in parts.path or (":" in parts.netloc and "@" in parts.query + parts.fragment):
        # A password with an unescaped `/`, `?` or `#`, which some URL parsers accept.
        return f"{parts.scheme}://{MASK}"
    user, at, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:{MASK}@{host}" if at else host
    # `urlunsplit` mishandles a path with two slashes and no host, as in SQLite's URLs.
    return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{MASK}" if parts.query else "")
