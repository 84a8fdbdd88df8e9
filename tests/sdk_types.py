"""Strict validation of values against the official SDKs' types; the SDKs themselves accept anything in answers.

A mismatch is a missing field, a wrong type, a value outside an enumeration, an invalid null, or an object that matches
no member of a union. Unknown fields are mismatches only if `closed`, which is for requests: providers refuse unknown
fields there, while every SDK keeps those of answers.
"""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from datetime import date, datetime
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

_WRAPPERS = (typing.Annotated, typing.Required, typing.NotRequired, typing_extensions.Required)
_LISTS = (list, collections.abc.Iterable, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)
_TAGS = ("type", "role", "status")


def mismatches(tp: Any, value: Any, path: str = "", *, closed: bool = False) -> list[str]:
    """The mismatches of a decoded JSON value with an SDK's type (a model, a TypedDict, or the type of a field)."""
    tp = _bare(tp)
    origin = get_origin(tp)
    if tp in (Any, object):
        return []
    if origin in (Union, types.UnionType):
        return _of_union(_members(tp), value, path, closed)
    if origin is Literal:
        words = get_args(tp)
        return [] if value in words else [f"{path}: {value!r} is none of {words}"]
    if origin in _LISTS:
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        inner = get_args(tp)[0]
        return [x for n, one in enumerate(value) for x in mismatches(inner, one, f"{path}[{n}]", closed=closed)]
    if origin in _MAPPINGS or tp is dict:
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no object"]
        inner = (get_args(tp) or (str, Any))[1]
        return [x for name, one in value.items() for x in mismatches(inner, one, f"{path}.{name}", closed=closed)]
    if (fields := _fields(tp)) is not None:
        return _of_object(tp, fields, value, path, closed)
    return [] if _is_plain(tp, value) else [f"{path}: {value!r} is no {getattr(tp, '__name__', tp)}"]


def _of_union(branches: list[Any], value: Any, path: str, closed: bool) -> list[str]:
    """The fewest mismatches with any branch; only branches with the value's tag count, if there are any."""
    if value is None:
        return [] if type(None) in branches else [f"{path}: null"]
    branches = [one for one in branches if one is not type(None)]
    tag = next((name for name in _TAGS if isinstance(value, dict) and name in value), "")
    tagged = [one for one in branches if (words := _words(one, tag)) and value[tag] in words]
    if tag == "type" and not tagged and any(_words(one, tag) for one in branches):
        tagged = [one for one in branches if not _words(one, tag)]
    if isinstance(value, list):
        tagged = [one for one in branches if get_origin(one) in _LISTS]
    found = [mismatches(one, value, path, closed=closed) for one in tagged or branches]
    return min(found, key=len)


def _of_object(tp: Any, fields: dict[str, tuple[Any, bool]], value: Any, path: str, closed: bool) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {tp.__name__}"]
    missing = [name for name, (_, needed) in fields.items() if needed and name not in value]
    found = [f"{path}.{name}: missing ({tp.__name__})" for name in missing]
    for name, one in value.items():
        if name in fields:
            found += mismatches(fields[name][0], one, f"{path}.{name}", closed=closed)
        elif closed:
            found.append(f"{path}.{name}: unknown ({tp.__name__})")
    return found


def _is_plain(tp: Any, value: Any) -> bool:
    if tp is bool or isinstance(value, bool):
        return tp is bool and isinstance(value, bool)
    if tp is float:
        return isinstance(value, int | float)
    if tp in (datetime, date):
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    if tp is bytes:
        return isinstance(value, str)
    if isinstance(tp, type) and issubclass(tp, enum.Enum):
        return value in {one.value for one in tp}
    return isinstance(tp, type) and isinstance(value, tp)


@cache
def _fields(tp: Any) -> dict[str, tuple[Any, bool]] | None:
    """The fields of a model or a TypedDict by their wire names: (type, whether required); None for other types."""
    if isinstance(tp, type) and issubclass(tp, BaseModel):
        return {f.alias or name: (f.annotation, f.is_required()) for name, f in tp.model_fields.items()}
    if not typing_extensions.is_typeddict(tp):
        return None
    inherited: dict[str, tuple[Any, bool]] = {}
    for base in typing_extensions.get_original_bases(tp):
        inherited |= _fields(base) or {}
    own = typing_extensions.get_type_hints(tp, include_extras=True)
    # The SDKs postpone their annotations, so Python's own `__required_keys__` may be wrong.
    required: tuple[Any, ...] = (typing.Required, typing_extensions.Required)
    needed = {name: get_origin(hint) in required for name, hint in own.items()}
    return {name: (hint, needed[name] or inherited.get(name, (0, False))[1]) for name, hint in own.items()}


def _bare(tp: Any) -> Any:
    while True:
        if get_origin(tp) in _WRAPPERS:
            tp = get_args(tp)[0]
        elif isinstance(tp, typing_extensions.TypeAliasType):
            tp = tp.__value__
        else:
            return tp


def _members(tp: Any) -> list[Any]:
    """The branches of a union, with nested unions flattened."""
    found = []
    for one in map(_bare, get_args(tp)):
        found += _members(one) if get_origin(one) in (Union, types.UnionType) else [one]
    return found


def _words(tp: Any, tag: str) -> tuple[Any, ...]:
    field = (_fields(tp) or {}).get(tag) if isinstance(tp, type) else None
    bare = _bare(field[0]) if field else None
    if get_origin(bare) in (Union, types.UnionType):
        return tuple(word for one in _members(bare) for word in get_args(one))
    return get_args(bare) if get_origin(bare) is Literal else ()
