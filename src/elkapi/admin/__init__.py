"""The control plane's functions, one module per noun: the CLI calls them, and so do the admin API's routes.

They validate input, open the transaction and answer with structs that hold no secret.
"""
