"""The control plane's functions, one module per noun; the command calls them.

They validate input, open the transaction and answer with structs that hold no secret.
"""
