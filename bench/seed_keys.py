"""Fill an installation's key table to N rows, each key with its own account: `seed_keys.py N OUT.json`.

The rows are inserted in bulk, since N is a million, and balances are written without transfers, so `elkapi ledger
check` would fail. Use it only for a bench's database.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sqlalchemy import func, insert, select

from elkapi.ledger.accounts import CUSTOMER
from elkapi.settings import load_settings
from elkapi.storage import apikey, schema
from elkapi.storage.installation import open_installation

BATCH_ROWS = 20_000
# As many as the small table has, so that the two runs differ only in the size of the table.
USED_KEYS_MAX = 100
BALANCE_NANO = 10**15


def main() -> None:
    count, out = int(sys.argv[1]), Path(sys.argv[2])
    installation = open_installation(load_settings())
    every, used = max(count // USED_KEYS_MAX, 1), []
    with installation.database.write() as connection:
        # The copies belong to the owner and group of the key that the bench made by the ordinary command.
        model = connection.execute(select(schema.keys).order_by(schema.keys.c.id.desc()).limit(1)).mappings().one()
        have = connection.execute(select(func.count()).select_from(schema.keys)).scalar_one()
        account_id = connection.execute(select(func.max(schema.accounts.c.id))).scalar_one()
        for start in range(have, count, BATCH_ROWS):
            accounts, rows = [], []
            for number in range(start, min(start + BATCH_ROWS, count)):
                account_id += 1
                key = apikey.new_key("live")
                if number % every == 0:
                    used.append(key)
                accounts.append(
                    {"id": account_id, "code": f"bench:{number}", "kind": CUSTOMER, "posted_nano": BALANCE_NANO}
                )
                row = dict(model) | {"digest": apikey.digest(key), "hint": apikey.hint(key), "account_id": account_id}
                row |= {"name": f"bench {number}", "version": model["version"]}
                del row["id"]
                rows.append(row)
            connection.execute(insert(schema.accounts), accounts)
            connection.execute(insert(schema.keys), rows)
    installation.database.close()
    out.write_text(json.dumps(used), "utf-8")


if __name__ == "__main__":
    main()
