"""Verifies AWS Signature Version 4: recomputes a request's signature and compares it.

Only the header form (`Authorization: AWS4-HMAC-SHA256 ...`) is supported; Bedrock does not use presigned URLs.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote

import msgspec

from elkapi.sandbox.messages import Request

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_MAX_S = 300
UNSIGNED = "UNSIGNED-PAYLOAD"

_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=([^/,\s]+)/(\d{{8}})/([^/,\s]+)/([^/,\s]+)/aws4_request, ?"
    r"SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})"
)


class SignatureError(Exception):
    """A request that AWS would refuse; `kind` is AWS's name of the error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Signed(msgspec.Struct, frozen=True):
    """The parts of an Authorization header."""

    access_key_id: str
    date: str
    region: str
    service: str
    header_names: tuple[str, ...]
    signature: str


def signed(request: Request) -> Signed | None:
    """The parsed Authorization header, None if it has another scheme or is missing. Raises SignatureError."""
    text = request.header("authorization") or ""
    if not text.startswith(ALGORITHM):
        return None
    found = _AUTHORIZATION.fullmatch(text.strip())
    if found is None:
        raise SignatureError("IncompleteSignatureException", "The Authorization header is not complete.")
    key, date, region, service, names, signature = found.groups()
    return Signed(key, date, region, service, tuple(names.split(";")), signature)


def verify(request: Request, secrets: Mapping[str, str], service: str, now_s: float) -> None:
    """Raise SignatureError unless `request` is signed for `service` at `now_s` with the secret of its access key id."""
    found = signed(request)
    if found is None:
        raise SignatureError("MissingAuthenticationTokenException", "Missing Authentication Token")
    secret = secrets.get(found.access_key_id)
    if secret is None:
        raise SignatureError("UnrecognizedClientException", "The security token included in the request is invalid.")
    if found.service != service:
        message = f"Credential should be scoped to correct service: '{service}'."
        raise SignatureError("InvalidSignatureException", message)
    if "host" not in found.header_names or "x-amz-date" not in found.header_names:
        message = "'Host' and 'X-Amz-Date' must be 'SignedHeaders' in the AWS Authorization."
        raise SignatureError("InvalidSignatureException", message)
    _check_time(request.header("x-amz-date") or "", found.date, now_s)
    if not hmac.compare_digest(expected(request, found, secret), found.signature):
        message = (
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details."
        )
        raise SignatureError("InvalidSignatureException", message)


def expected(request: Request, found: Signed, secret: str) -> str:
    """The correct signature of `request`, in lower-case hex."""
    when = request.header("x-amz-date") or ""
    scope = f"{found.date}/{found.region}/{found.service}/aws4_request"
    digest = hashlib.sha256(_canonical(request, found.header_names).encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{when}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in (found.date, found.region, found.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _canonical(request: Request, header_names: tuple[str, ...]) -> str:
    path, _, query = request.raw_target.partition("?")
    # The path is percent-encoded a second time, as for every service except S3.
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in parse_qsl(query, keep_blank_values=True))
    headers = "".join(f"{name}:{_header_value(request, name)}\n" for name in header_names)
    body_hash = hashlib.sha256(request.body).hexdigest()
    claimed = request.header("x-amz-content-sha256")
    lines = [
        request.method,
        quote(path, safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in pairs),
        headers,
        ";".join(header_names),
        UNSIGNED if claimed == UNSIGNED else body_hash,
    ]
    return "\n".join(lines)


def _header_value(request: Request, name: str) -> str:
    encoded = name.encode("latin-1")
    return ",".join(" ".join(value.decode("latin-1").split()) for key, value in request.headers if key == encoded)


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _check_time(stamp: str, date: str, now_s: float) -> None:
    try:
        signed_s = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise SignatureError("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.") from None
    if not stamp.startswith(date):
        message = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP."
        raise SignatureError("InvalidSignatureException", message)
    if abs(now_s - signed_s) > SKEW_MAX_S:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        late = "expired" if signed_s < now_s else "not yet current"
        raise SignatureError("InvalidSignatureException", f"Signature {late}: {stamp} against {now}")
