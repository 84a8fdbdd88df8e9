"""The package's public names, and the error tree as it is drawn."""

from __future__ import annotations

import inspect
import re

import elkapi.upstream as upstream
from elkapi.upstream import errors


def test_every_exported_name_exists_and_every_error_is_exported() -> None:
    assert sorted(upstream.__all__) == upstream.__all__
    assert all(hasattr(upstream, name) for name in upstream.__all__)
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert set(errors.__all__) == defined
    assert defined <= set(upstream.__all__)


def test_the_drawn_error_tree_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^ *([│├└─ ]*)\b(\w+) +(upstream_\w+|code, phase)", errors.__doc__, re.MULTILINE)
    parents: list[str] = []
    seen = set()
    for branches, name, code in drawn:
        depth = len(branches) // 4
        kind = getattr(errors, name)
        if depth:
            assert kind.__mro__[1].__name__ == parents[depth - 1]
            assert kind.code == code
        parents[depth:] = [name]
        seen.add(name)
    assert seen == set(errors.__all__)


def test_codes_are_unique() -> None:
    codes = [getattr(errors, name).code for name in errors.__all__]
    assert len(set(codes)) == len(codes)
