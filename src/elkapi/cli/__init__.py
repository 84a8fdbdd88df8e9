"""The `elkapi` command: one module per noun or verb, each calling the same function as its admin route.

Verbs are imported when they are used. Errors are one line on stderr: exit status 2 for misuse, 1 for failure.
"""

from elkapi.cli.main import main

__all__ = ["main"]
