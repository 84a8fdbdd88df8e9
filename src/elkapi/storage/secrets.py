"""Encryption at rest of provider secrets and stored replies, and the installation's secret key; rows are left to
`repos`.

A sealed value is one version byte, 16 bytes of salt, 12 bytes of nonce and an AES-256-GCM ciphertext under a key
derived from the salt, so that no number of values comes near the limit of random nonces under one key. The context
(table, column, row) is authenticated: a sealed value copied to another row cannot be unsealed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import os
import secrets as random
import time
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, select

from elkapi.settings import Settings
from elkapi.storage import dialect as sql
from elkapi.storage import files, schema

KEY_BYTES = 32
# How long a key file may be empty while another process creates it (`files.name_new_file`).
KEY_EMPTY_S = 1.0
# Sealing more than this takes long enough to be worth a thread.
SEAL_INLINE_BYTES = 64 * 1024
SECRET_KEY_FILE = "secret.key"  # noqa: S105 - the name of a file, not a secret.
_VERSION = b"\x01"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_CHECK_NAME = "secret_key_check"


class SecretKeyError(ValueError):
    """The secret key is malformed, unreadable or not the one of this database; the message never contains it."""


class SealError(ValueError):
    """A sealed value cannot be unsealed: another key, another row, or damaged bytes."""


class Sealer:
    """Seals and unseals values with the installation's 32-byte secret key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SecretKeyError(f"the secret key has {len(key)} bytes; it needs {KEY_BYTES}")
        self._key = hmac.digest(key, b"elkapi seal 1", "sha256")
        self._fingerprint_key = hmac.digest(key, b"elkapi fingerprint 1", "sha256")

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """The sealed value, which can be unsealed only with the same context."""
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        return _VERSION + salt + nonce + self._cipher(salt).encrypt(nonce, plain, context)

    async def seal_beside(self, plain: bytes, context: bytes) -> bytes:
        """As `seal`, but a large value is sealed in a thread, to keep the event loop free."""
        if len(plain) <= SEAL_INLINE_BYTES:
            return self.seal(plain, context)
        return await asyncio.to_thread(self.seal, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The plain value; raises SealError."""
        head = 1 + _SALT_BYTES + _NONCE_BYTES
        if len(sealed) < head + _TAG_BYTES or sealed[:1] != _VERSION:
            raise SealError("the encrypted value is damaged or of an unknown version")
        salt, nonce = sealed[1 : 1 + _SALT_BYTES], sealed[1 + _SALT_BYTES : head]
        try:
            return self._cipher(salt).decrypt(nonce, sealed[head:], context)
        except InvalidTag:
            raise SealError("the encrypted value cannot be decrypted with this secret key in this place") from None

    def fingerprint(self, plain: bytes) -> bytes:
        """A keyed 32-byte hash: equal secrets are recognised without being stored or guessable from the database."""
        return hmac.digest(self._fingerprint_key, plain, "sha256")

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._key, salt, "sha256"))


def secret_key_path(settings: Settings) -> Path:
    return settings.data_path / SECRET_KEY_FILE


def load_secret_key(settings: Settings) -> bytes:
    """ELKAPI_SECRET_KEY, else the file `secret.key` of the data directory, created on first use (mode 0600).

    Raises SecretKeyError. Processes that start together agree on one key.
    """
    if settings.secret_key:
        return parse_secret_key(settings.secret_key, "ELKAPI_SECRET_KEY")
    path = secret_key_path(settings)
    if not files.is_there(path):
        files.create_private_directory(path.parent)
        install_secret_key(path, random.token_bytes(KEY_BYTES))
    until_s = time.monotonic() + KEY_EMPTY_S
    try:
        while not (text := path.read_text("ascii")) and time.monotonic() < until_s:
            time.sleep(0.01)
    except (OSError, UnicodeDecodeError) as error:
        raise SecretKeyError(f"cannot read the secret key file {path}: {type(error).__name__}") from None
    if not text:
        raise SecretKeyError(
            f"the secret key file {path} is empty: the start that made it was cut off before it wrote a key. Remove it "
            "and start again; where a key was in use before, restore the file instead or set ELKAPI_SECRET_KEY"
        )
    return parse_secret_key(text, str(path))


def install_secret_key(path: Path, key: bytes) -> bool:
    """Create the key file; False if another process was first. Never replaces one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{random.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.name == SECRET_KEY_FILE:  # A key file beside a backup belongs to whoever made the backup.
                files.give_to_owner(descriptor, path.parent)
            file.write(base64.b64encode(key) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        files.name_new_file(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def parse_secret_key(text: str, source: str) -> bytes:
    """32 bytes from 64 hex digits or base64; raises SecretKeyError naming the source, never the value."""
    stripped = text.strip()
    try:
        key = bytes.fromhex(stripped) if len(stripped) == 2 * KEY_BYTES else _from_base64(stripped)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise SecretKeyError(f"{source} is not {KEY_BYTES} bytes as 64 hex digits or base64 (`openssl rand -hex 32`)")
    return key


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


def bind_secret_key(connection: Connection, sealer: Sealer) -> None:
    """Bind the database to this key, or check it. Raises SecretKeyError for another one.

    Without this check a lost key file would be replaced silently, and every channel would fail one by one.
    """
    check = sealer.fingerprint(b"elkapi secret key check").hex()
    sql.upsert(connection, schema.meta, {"name": _CHECK_NAME, "value": check}, key=["name"])
    if not is_bound_to(connection, sealer):
        raise SecretKeyError(
            "this database was encrypted with another secret key; set ELKAPI_SECRET_KEY or restore the file secret.key"
        )


def is_bound_to(connection: Connection, sealer: Sealer) -> bool | None:
    """Whether the database is bound to this key; None if it is bound to none yet."""
    stored = connection.execute(select(schema.meta.c.value).where(schema.meta.c.name == _CHECK_NAME)).scalar()
    check = sealer.fingerprint(b"elkapi secret key check").hex()
    return None if stored is None else hmac.compare_digest(stored, check)


def lost_key(connection: Connection, settings: Settings) -> str | None:
    """The error message for a database that is bound to a key while neither a key nor its file exists; else None."""
    path = secret_key_path(settings)
    # Any key tells whether one is bound. The file is checked afterwards, because a process that creates a key writes
    # the file before it binds the key.
    if settings.secret_key or is_bound_to(connection, Sealer(bytes(KEY_BYTES))) is None or files.is_there(path):
        return None
    return f"this database was encrypted with a secret key that is missing; restore {path} or set ELKAPI_SECRET_KEY"
