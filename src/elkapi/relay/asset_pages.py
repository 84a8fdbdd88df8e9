"""Serves files of tasks to their owner's key, or for a signed address that has not expired.

Every failure (another's file, no file, expired, invalid signature) is the same 404. A file is read as fast as it is
taken; when its reader leaves, the read stops. Only single ranges are supported: several are answered with the whole
file, as RFC 9110 allows.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from email.utils import formatdate, parsedate_to_datetime
from typing import cast

from elkapi.access import admit, digest_of
from elkapi.assets.store import StoreFailed
from elkapi.assets.urls import carries_signature, file_name
from elkapi.catalog import Match
from elkapi.errors import NotFound, Unavailable
from elkapi.relay.call import Call, Headers
from elkapi.relay.credential import presented_key
from elkapi.relay.plane import DataPlane, OpenPage
from elkapi.snapshot import Snapshot
from elkapi.storage.repos import assets as rows
from elkapi.storage.repos.assets import AssetRow

CACHED_S_MAX = 3600
GONE = "The file does not exist, or its address has expired."
_ID = re.compile(r"[0-9a-f]{32}")
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE | re.ASCII)


async def asset(plane: DataPlane, snapshot: Snapshot, match: Match, call: Call) -> None:
    """`GET` and `HEAD /v1/assets/{id}/{name}`; the name only serves for saving. Raises NotFound, Unauthenticated."""
    await answer_with(plane, await _found(plane, snapshot, match.params["id"], call), call)


async def answer_with(plane: DataPlane, row: AssetRow, call: Call) -> None:
    """Answer with the file, or the requested range. Raises NotFound, Unavailable."""
    etag = b'"%b"' % row.sha256.hex().encode()
    changed_s = row.created_ns // 1_000_000_000
    left_s = max(0, (row.expires_ns - plane.clock.now_ns()) // 1_000_000_000)
    headers = [
        (b"etag", etag),
        (b"last-modified", formatdate(changed_s, usegmt=True).encode()),
        (b"cache-control", b"private, max-age=%d" % min(CACHED_S_MAX, left_s)),
    ]
    if _is_unchanged(call, etag, changed_s):
        call.reply.send(304, headers, b"")
        return
    name = file_name(row.kind, row.content_type, row.id).encode()
    headers += [
        (b"content-type", row.content_type.encode()),
        (b"content-disposition", b'inline; filename="%b"' % name),
        (b"x-content-type-options", b"nosniff"),
        (b"accept-ranges", b"bytes"),
    ]
    try:
        wanted = call.header(b"range") if _range_counts(call, etag, changed_s) else None
        span = None if wanted is None else span_of(wanted.decode("latin-1"), row.size_bytes)
    except Outside:
        call.reply.send(416, [(b"content-range", b"bytes */%d" % row.size_bytes)], b"")
        return
    status, (start, end) = (200, (0, row.size_bytes)) if span is None else (206, span)
    if span is not None:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, row.size_bytes)))
    await _send(plane, row, call, status, headers, start, end)


async def _found(plane: DataPlane, snapshot: Snapshot, text: str, call: Call) -> AssetRow:
    now_ns = plane.clock.now_ns()
    asset_id = bytes.fromhex(text) if _ID.fullmatch(text) else b""
    row = None
    if asset_id and plane.addresses.assets.is_signed(asset_id, call.query):
        row = await plane.reader.run(lambda connection: rows.signed(connection, asset_id, now_ns))
    elif (key := presented_key(call)) is not None or not carries_signature(call.query):
        grant = await admit(snapshot, plane.key_cache, plane.key_reader, digest_of(key), plane.clock)
        row = await plane.reader.run(lambda connection: rows.find(connection, grant, asset_id, now_ns))
    if row is None:
        raise NotFound(GONE)
    return row


async def _send(
    plane: DataPlane, row: AssetRow, call: Call, status: int, headers: Headers, start: int, end: int
) -> None:
    reply = call.reply
    if call.head_only:
        reply.start(status, headers, end - start)
        reply.finish()
        return
    pieces = cast("AsyncGenerator[bytes]", plane.assets.read(row.location, start, end))
    try:
        async with contextlib.aclosing(pieces):
            # No head is sent before the store has answered.
            piece = await anext(pieces, b"")
            reply.start(status, headers, end - start)
            left = end - start
            while piece:
                left -= len(piece)
                await reply.write(piece)
                # A client that has everything may leave, and waits for nothing.
                piece = await anext(pieces, b"") if left > 0 else b""
    except FileNotFoundError:
        plane.log.write("asset_missing", "warning", asset=row.id.hex(), location=row.location)
        if not reply.started:
            raise NotFound(GONE) from None
        reply.abort()
    except StoreFailed as failure:
        plane.log.write("asset_unreadable", "warning", location=row.location, error=str(failure))
        if not reply.started:
            raise Unavailable("The file cannot be read right now; please try again.") from None
        reply.abort()
    else:
        reply.finish() if left == 0 else reply.abort()


def _is_unchanged(call: Call, etag: bytes, changed_s: int) -> bool:
    """Whether the caller's copy is current; If-None-Match takes precedence over the time."""
    if (known := call.header(b"if-none-match")) is not None:
        tags = [tag.strip().removeprefix(b"W/") for tag in known.split(b",")]
        return b"*" in tags or etag in tags
    since_s = _seconds(call.header(b"if-modified-since"))
    return since_s is not None and changed_s <= since_s


def _range_counts(call: Call, etag: bytes, changed_s: int) -> bool:
    """Whether If-Range, where there is one, names this very file."""
    if (known := call.header(b"if-range")) is None:
        return True
    return known.strip() == etag or _seconds(known) == changed_s


def _seconds(date: bytes | None) -> int | None:
    if date is None:
        return None
    try:
        return int(parsedate_to_datetime(date.decode("latin-1")).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


class Outside(ValueError):
    """A range outside the file."""


def span_of(text: str, size: int) -> tuple[int, int] | None:
    """(start, end) of a `Range`, or None for the whole file. Raises Outside."""
    found = _RANGE.fullmatch(text)
    first, last = found.groups() if found else ("", "")
    if (not first and not last) or (first and last and int(last) < int(first)):
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size:
        raise Outside
    return start, end


ASSET_PAGES: dict[str, OpenPage] = {"platform.asset": asset}
