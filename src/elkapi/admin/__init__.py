"""The control plane's functions, one module per noun, called by the CLI.

They validate input, open the transaction and return structs without secrets.
"""
