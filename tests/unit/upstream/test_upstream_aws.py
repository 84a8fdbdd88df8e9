"""What AWS signs, against its own SDK."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from elkapi.upstream.aws import Credentials, sign

NOW_NS = 1_800_000_000_250_000_000
NOVA = "/model/us.amazon.nova-pro-v1%3A0/converse"


@pytest.mark.parametrize("key", ["AKID:se/cr+et=", "AKID:secret:to:ken=="])
@pytest.mark.parametrize(
    ("target", "authority"),
    [
        (NOVA, "bedrock-runtime.us-east-1.amazonaws.com"),
        (f"/proxy/a%20b{NOVA}-stream?b=2&a=%20x&a=~-_.&empty=", "127.0.0.1:8123"),
    ],
)
def test_a_signature_is_the_one_that_botocore_makes(
    monkeypatch: pytest.MonkeyPatch, key: str, target: str, authority: str
) -> None:
    body = '{"messages":["é"]}'.encode()
    credentials = Credentials.parse(key)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: datetime.fromtimestamp(NOW_NS // 10**9, UTC))
    digest = hashlib.sha256(body).hexdigest()
    headers = {"content-type": "application/json", "x-amz-content-sha256": digest}
    theirs = botocore.awsrequest.AWSRequest("POST", f"https://{authority}{target}", data=body, headers=headers)
    keys = botocore.credentials.Credentials(credentials.key_id, credentials.secret, credentials.token or None)
    botocore.auth.SigV4Auth(keys, "bedrock", "eu-west-1").add_auth(theirs)
    ours = sign(
        credentials, method="POST", authority=authority, target=target, body=body, region="eu-west-1", now_ns=NOW_NS
    )
    wanted = {name.lower(): text for name, text in theirs.headers.items() if name.lower() != "content-type"}
    assert {name.decode(): text.decode() for name, text in ours} == wanted


@pytest.mark.parametrize("text", ["", "AKID", "AKID:", ":secret", "AKID:secret:"])
def test_a_key_that_lacks_a_part_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="ACCESS_KEY_ID"):
        Credentials.parse(text)
