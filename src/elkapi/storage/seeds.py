"""What a fresh installation starts with: one group, one owner, the system accounts, public prices. No user, no key.

There is deliberately no password and no default key here: the first key is made by a person or by `make run`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, Table

from elkapi.money import RATIO_ONE_MICRO, parse_usd

DEFAULT_GROUP = "default"
OPERATOR = "operator"

# code -> kind; the house's accounts as ledger.accounts names them (a test compares). Customers' come with their keys.
SYSTEM_ACCOUNTS = {
    "revenue": "revenue",
    "operator-loss": "loss",
    "funding": "funding",
    "upstream": "upstream",
    "quota-funding": "funding",
    "quota-spent": "spent",
}

# Public list prices of embedding models, US dollars per million input tokens; the operator's own records replace them.
PUBLIC_PRICES_USD_PER_1M = {
    "text-embedding-3-small": "0.02",
    "text-embedding-3-large": "0.13",
    "text-embedding-ada-002": "0.10",
    "gemini-embedding-001": "0.15",
    "mistral-embed": "0.10",
}
SEED_SOURCE = "seed"


def seed(connection: Connection, tables: Mapping[str, Table], now_ns: int) -> None:
    """Fill the freshly created tables; runs once, in the migration that makes them, with that migration's tables."""
    connection.execute(
        tables["meta"].insert(), [{"name": "config_version", "value": "1"}, {"name": "routing_version", "value": "1"}]
    )
    connection.execute(
        tables["groups"].insert(), {"name": DEFAULT_GROUP, "ratio_micro": RATIO_ONE_MICRO, "description": ""}
    )
    connection.execute(tables["owners"].insert(), {"name": OPERATOR, "created_ns": now_ns})
    connection.execute(
        tables["accounts"].insert(), [{"code": code, "kind": kind} for code, kind in SYSTEM_ACCOUNTS.items()]
    )
    connection.execute(
        tables["prices"].insert(),
        [
            {
                "model": model,
                "version": 1,
                "record": msgspec.json.encode({"input_nano_per_1m": int(parse_usd(usd))}).decode(),
                "source": SEED_SOURCE,
                "created_ns": now_ns,
            }
            for model, usd in PUBLIC_PRICES_USD_PER_1M.items()
        ],
    )
