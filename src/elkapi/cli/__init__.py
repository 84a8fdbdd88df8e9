"""The `elkapi` command: one module per noun or verb; all changes are made by functions of `admin`.

Verbs are imported when used. Errors are one line on stderr: exit status 2 for misuse, 1 for failure.
"""

from elkapi.cli.main import main

__all__ = ["main"]
