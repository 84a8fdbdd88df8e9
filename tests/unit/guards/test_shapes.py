"""What a shape looks at, in whatever way the body spells it."""

from __future__ import annotations

import pytest

from elkapi.guards.shapes import walked
from elkapi.guards.wires import ASKED

BODY = b'{"messages":[{"role":"user","content":[{"type":"document","source":{%b,"data":"xyzzy"}}]}]}'


@pytest.mark.parametrize(
    "kind",
    [
        b'"type":"text"',
        b'"type":"t\\u0065xt"',
        b'"type": "\\u0074\\u0065\\u0078\\u0074" ',
        b'"Type":"text"',
        b'"type":"base64","TYPE":"text"',
        b'"TYPE":"text","type":"base64"',
        b'"typ\\u0065":"text"',
    ],
)
def test_a_document_of_text_is_looked_at_however_its_type_is_spelled(kind: bytes) -> None:
    assert b"xyzzy" not in walked(BODY % kind, ASKED["anthropic"], lambda text: text.replace("xyzzy", "***"))


@pytest.mark.parametrize("kind", [b'"type":"base64"', b'"type":null', b'"type":["text"]', b'"media_type":"text"'])
def test_a_document_of_bytes_is_not(kind: bytes) -> None:
    assert b"xyzzy" in walked(BODY % kind, ASKED["anthropic"], lambda text: text.replace("xyzzy", "***"))
