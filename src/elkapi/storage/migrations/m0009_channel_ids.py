"""On SQLite a removed channel's id and those of its keys are never given to another one; PostgreSQL never did.

A task names the channel and the key that took it, and is asked about by these ids alone. Old workers' statements are
good for either shape.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_CHANNELS = """
CREATE TABLE channels_numbered (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name VARCHAR NOT NULL,
    family VARCHAR NOT NULL,
    base_url VARCHAR NOT NULL,
    enabled BOOLEAN NOT NULL,
    priority INTEGER NOT NULL,
    weight INTEGER NOT NULL,
    allow_private BOOLEAN NOT NULL,
    config VARCHAR NOT NULL,
    proxy_sealed BLOB,
    headers_sealed BLOB,
    created_ns BIGINT NOT NULL,
    CONSTRAINT channels_weight_not_negative CHECK (weight >= 0),
    UNIQUE (name)
)
"""
_KEYS = """
CREATE TABLE channel_keys (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    channel_id INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    hint VARCHAR NOT NULL,
    enabled BOOLEAN NOT NULL,
    reason VARCHAR NOT NULL,
    disabled_by VARCHAR NOT NULL,
    changed_ns BIGINT NOT NULL,
    CONSTRAINT channel_keys_once UNIQUE (channel_id, fingerprint),
    FOREIGN KEY(channel_id) REFERENCES channels (id) ON DELETE CASCADE
)
"""
# The keys stand aside while their table is away: dropping the channels would delete them.
_STEPS = (
    "CREATE TABLE channel_keys_aside AS SELECT * FROM channel_keys",
    "DROP TABLE channel_keys",
    _CHANNELS,
    "INSERT INTO channels_numbered SELECT * FROM channels",
    "DROP TABLE channels",
    "ALTER TABLE channels_numbered RENAME TO channels",
    _KEYS,
    "INSERT INTO channel_keys SELECT * FROM channel_keys_aside",
    "DROP TABLE channel_keys_aside",
    # Ids of channels that are gone already, as far as tasks name them.
    "DELETE FROM sqlite_sequence WHERE name IN ('channels', 'channel_keys')",
    "INSERT INTO sqlite_sequence SELECT 'channels', max(id) FROM "
    "(SELECT id FROM channels UNION ALL SELECT channel_id FROM tasks UNION ALL SELECT 0)",
    "INSERT INTO sqlite_sequence SELECT 'channel_keys', max(id) FROM "
    "(SELECT id FROM channel_keys UNION ALL SELECT channel_key_id FROM tasks UNION ALL SELECT 0)",
)


def pre(connection: Connection, now_ns: int) -> None:
    if connection.dialect.name == "sqlite":
        for step in _STEPS:
            connection.execute(text(step))


def post(connection: Connection, now_ns: int) -> None:
    """The old tables are gone already: nobody could use both."""
