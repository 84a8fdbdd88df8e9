"""Parses whole multipart forms (RFC 7578): names, file names, media types and bytes of the parts."""

from __future__ import annotations

import email.message
import email.parser
import email.policy

import msgspec

from elkapi.sandbox.messages import Problem


class Part(msgspec.Struct, frozen=True):
    """One part of a form; `filename` is None for a plain field."""

    name: str
    filename: str | None
    media_type: str
    content: bytes


def parts_of(content_type: str, body: bytes) -> list[Part]:
    """The parts in order. Raises Problem if the body is not a multipart form."""
    try:
        return _parts(content_type, body)
    except (LookupError, ValueError):
        # `email` raises these for invalid headers, such as a boundary with invalid characters.
        raise Problem(400, "The multipart body cannot be read.") from None


def _parts(content_type: str, body: bytes) -> list[Part]:
    head = email.message.Message(email.policy.compat32)
    head["content-type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_type() != "multipart/form-data" or not boundary:
        raise Problem(400, "The request body is not multipart/form-data with a boundary.")
    sections = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"))
    if len(sections) < 3 or not sections[-1].startswith(b"--"):
        raise Problem(400, "The multipart body is not complete.")
    return [_part(section) for section in sections[1:-1]]


def _part(section: bytes) -> Part:
    head, separator, content = section.partition(b"\r\n\r\n")
    message = email.parser.BytesHeaderParser(policy=email.policy.HTTP).parsebytes(head.lstrip(b"\r\n") + b"\r\n\r\n")
    name = message.get_param("name", header="content-disposition")
    if not separator or not isinstance(name, str):
        raise Problem(400, "A part of the multipart body has no name.")
    media_type = message.get_content_type() if message["content-type"] else "application/octet-stream"
    return Part(name, message.get_filename(), media_type, content)
