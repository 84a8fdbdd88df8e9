"""Named statements over the tables, one module per noun; callers own the transaction, and changes leave an audit row.

Every change another process must see raises `meta.config_version` in the same transaction.
"""
