"""Named statements over the tables, one module per noun. Callers own the transaction, and changes write an audit row.

Every change that another process must see raises `meta.config_version` in the same transaction.
"""
