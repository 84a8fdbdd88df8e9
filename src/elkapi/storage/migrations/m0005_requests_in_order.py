"""On SQLite usage rows stand in the order they were written, their ids in an index; nothing changes on PostgreSQL.

As one B-tree by id, the rows of the calls in flight lay on as many pages, and each batch wrote nearly all of them
(docs/adr/0010-ledger.md has the figures). Old workers' statements are good for either shape.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_SHAPE = """
CREATE TABLE requests_in_order (
    id BLOB NOT NULL,
    key_id INTEGER NOT NULL,
    owner_id INTEGER NOT NULL,
    model VARCHAR NOT NULL,
    status INTEGER NOT NULL,
    charge_nano BIGINT NOT NULL,
    loss_nano BIGINT NOT NULL,
    created_ns BIGINT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT requests_not_negative CHECK (charge_nano >= 0 AND loss_nano >= 0)
)
"""


def pre(connection: Connection, now_ns: int) -> None:
    if connection.dialect.name != "sqlite":
        return
    connection.execute(text(_SHAPE))
    connection.execute(text("INSERT INTO requests_in_order SELECT * FROM requests ORDER BY id"))
    connection.execute(text("DROP TABLE requests"))
    connection.execute(text("ALTER TABLE requests_in_order RENAME TO requests"))


def post(connection: Connection, now_ns: int) -> None:
    """The old table is gone already: nobody could use both."""
