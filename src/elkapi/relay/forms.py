"""A multipart form as a submit sends it: read as the members that JSON would have, and written anew.

What goes on has one name a part, below a boundary of ours: readers differ over a second `boundary`, a second `name`, a
part's own encoding or what stands before and behind the parts, so that one could be served and another be priced.
A file is a data URL in the members; `a[b]` is b inside a, `a[]` and `a[0]` are of a list, `a[][b]` is b of its next
object.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartParser,
    parse_options_header,
)

from elkapi.assets.kinds import HEAD_BYTES, kind_of
from elkapi.errors import NOT_JSON, BadRequest
from elkapi.types import Channel

_LIMITS: dict[str, Any] = {
    "part_limit": 64,
    "header_limit": 16,
    "memory_limit": 64 * 1024 * 1024,
    "memfile_limit": 64 * 1024 * 1024,
    "partsize_limit": 64 * 1024 * 1024,
}
_CHARSETS = frozenset({"utf8", "utf-8", "ascii", "us-ascii"})
# Parts that may be repeated: a first and a last image, or any number.
_LISTS = ("input_reference", "images")
METADATA = "metadata"
NESTED_MAX = 8
ANY = "application/octet-stream"
BOUNDARY_CHARS = 40
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_STEP = re.compile(r"\[([^\[\]]*)\]")
# Also a backslash: some readers treat it as an escape, so that a name would end after its quote.
_QUOTED = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\\": "%5C"})
# Anything else may contain a line break that only some readers see, and thereby another header of the part.
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


class Part(msgspec.Struct, frozen=True):
    """One part of a form: its bytes, and its text unless it is a file."""

    name: str
    filename: str | None
    content_type: str
    content: bytes
    plain: str | None

    @property
    def is_file(self) -> bool:
        return self.plain is None

    @property
    def member(self) -> str:
        """The top-level member that it is or belongs to."""
        return self.name.partition("[")[0]


def read(sent: bytes, content_type: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """(a form's members, the form to send on, its content type). Raises BadRequest.

    Files state their type. Equal members and files give equal bytes, whatever boundary they came with.
    """
    parts = [_named(part) for part in _parts(sent, content_type)[0]]
    boundary = _boundary(parts)
    return _members(parts), _written(parts, boundary), b"multipart/form-data; boundary=" + boundary.encode()


def _members(parts: list[Part]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        _put(found, part)
    return found


def _boundary(parts: list[Part]) -> str:
    """A digest of everything that it separates, so that nobody can have put it into a part."""
    digest = hashlib.sha256()
    for part in parts:
        for piece in (part.name.encode(), (part.filename or "").encode(), part.content_type.encode(), part.content):
            digest.update(b"%d " % len(piece))
            digest.update(piece)
    return digest.hexdigest()[:BOUNDARY_CHARS]


def overridden(sent: bytes, content_type: bytes, channel: Channel) -> bytes:
    """The form with a channel's parameter overrides."""
    before = _members(_parts(sent, content_type)[0])
    kept = {name: value for name, value in before.items() if name not in channel.param_remove}
    default, own = _decoded(channel.param_default), _decoded(channel.param_set)
    return changed(sent, content_type, before, default | kept | own)


def _decoded(members: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    return {name: msgspec.json.decode(raw) for name, raw in members.items()}


def changed(sent: bytes, content_type: bytes, before: Mapping[str, Any], after: Mapping[str, Any]) -> bytes:
    """The form with the members of `after` instead of those of `before`; unchanged parts stay as they came."""
    parts, boundary = _parts(sent, content_type)
    same = {name for name in after if name in before and after[name] == before[name]}
    kept = [part for part in parts if part.member in same]
    added = [Part(name, None, "", text.encode(), text) for name, text in _flat(after, same)]
    return _written([*kept, *added], boundary)


def _parts(sent: bytes, content_type: bytes) -> tuple[list[Part], str]:
    kind, options = parse_options_header(content_type.decode("latin-1"))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise _refused("The body must be multipart/form-data with a boundary.")
    found = []
    try:
        for part in MultipartParser(io.BytesIO(sent), boundary, content_length=len(sent), **_LIMITS):
            kind = (part.content_type or "").lower()
            if kind and not _TYPE.fullmatch(kind):
                raise _refused(f"The Content-Type of `{part.name[:64]}` is not valid.")
            # Some readers strip spaces around a name, or end it at its first U+0000.
            if part.name != part.name.strip() or not part.name.isprintable():
                raise _refused(f"{part.name[:64]!a} is not a valid name of a part.")
            found.append(Part(part.name, part.filename, kind, part.raw, _text(part, kind)))
            part.close()
    except (MultipartError, UnicodeError, LookupError) as error:
        raise _refused(f"The multipart body cannot be read: {error}") from None
    return found, boundary


def _text(part: Any, kind: str) -> str | None:
    """A part's text, None for a file's. Raises UnicodeError, LookupError."""
    if part.filename is not None:
        return None
    # Providers treat every part without a file name as UTF-8 text, whatever it declares.
    if part.charset.lower() not in _CHARSETS:
        raise LookupError(f"`{part.name}` must be in UTF-8")
    try:
        text: str = part.raw.decode()
    except UnicodeDecodeError:
        if kind in ("", "text/plain"):
            raise
        return None
    return text


def _named(part: Part) -> Part:
    """Detect the type of an undeclared file by its first bytes."""
    if not part.is_file or part.content_type not in ("", ANY):
        return part
    kind = kind_of(part.content[:HEAD_BYTES])
    return part if kind is None else msgspec.structs.replace(part, content_type=kind.content_type)


def _put(found: dict[str, Any], part: Part) -> None:
    """Put a part where its name says; of several under one name in `_LISTS` a list."""
    name = _NAME.fullmatch(part.name)
    steps = [part.name] if name is None else [name[1], *_STEP.findall(name[2])]
    if len(steps) > NESTED_MAX:
        raise _refused("The body is nested too deeply.")
    into, value = _holder(found, part.name, steps), _value(part)
    if isinstance(into, list):
        into.append(value)
    elif steps[-1] not in into:
        into[steps[-1]] = value
    elif part.name in _LISTS:
        before = into[part.name]
        into[part.name] = [*(before if isinstance(before, list) else [before]), value]
    else:
        # With a duplicate, another value could be served than is priced.
        raise BadRequest(
            f"The form contains `{part.name}` more than once; send it once.", code="duplicate_field", param=part.name
        )


def _value(part: Part) -> Any:
    if not part.is_file:
        return _metadata(part) if part.name == METADATA else part.plain
    url = f"data:{part.content_type or ANY};base64,{base64.b64encode(part.content).decode()}"
    return {"image_url": url} if part.name == "input_reference" else url


def _metadata(part: Part) -> Any:
    """Its members where it is an object in JSON, as clients of new-api send it; else its text."""
    with contextlib.suppress(*NOT_JSON):
        decoded = msgspec.json.decode(part.content)
        if isinstance(decoded, dict):
            return decoded
    return part.plain


def _holder(found: dict[str, Any], name: str, steps: list[str]) -> Any:
    """The object or list that the last step of a name stands in, made where it is not there. Raises BadRequest."""
    into: Any = found
    for step, following in itertools.pairwise(steps):
        inner: Any = [] if following == "" or following.isdecimal() else {}
        if isinstance(into, dict):
            into = into.setdefault(step, inner)
        elif step.isdecimal() and int(step) < len(into):
            into = into[int(step)]
        else:
            # A member that the last object already has starts the next one.
            if not into or step or following in into[-1]:
                into.append(inner)
            into = into[-1]
        if not isinstance(into, type(inner)):
            raise _refused(f"The form contains `{name}` both as a field and as an object.")
    return into


def _flat(members: Mapping[str, Any], but: set[str]) -> Iterator[tuple[str, str]]:
    for name, value in members.items():
        if name not in but:
            yield from _fields(name, value)


def _fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for inner in value:
            yield from _fields(f"{name}[{inner}]", value[inner])
    elif isinstance(value, list):
        for one in value:
            yield from _fields(f"{name}[]", one)
    elif isinstance(value, str):
        yield name, value
    elif value is not None:
        yield name, msgspec.json.encode(value).decode()


def _written(parts: list[Part], boundary: str) -> bytes:
    """The form with a boundary that occurs in none of its parts."""
    out = []
    for part in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name.translate(_QUOTED)}"'
        if part.filename is not None:
            head += f'; filename="{part.filename.translate(_QUOTED)}"'
        # The default type of a field is left out.
        if part.content_type and (part.is_file or part.content_type != "text/plain"):
            head += f"\r\nContent-Type: {part.content_type}"
        out += [head.encode(), b"\r\n\r\n", part.content if part.plain is None else part.plain.encode(), b"\r\n"]
    return b"".join([*out, f"--{boundary}--\r\n".encode()])


def _refused(why: str) -> BadRequest:
    return BadRequest(why, code="invalid_multipart_form")
