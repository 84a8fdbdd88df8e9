"""The `elkapi` command: one module per noun or verb; what changes anything is a function of `admin`.

Verbs are imported when they are used. Errors are one line on stderr: exit status 2 for misuse, 1 for failure.
"""

from elkapi.cli.main import main

__all__ = ["main"]
