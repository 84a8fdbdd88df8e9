"""What a shape looks at, in whatever way the body spells it."""

from __future__ import annotations

import pytest

from elkapi.catalog.operation import Wire
from elkapi.guards.shapes import Unseen, walked
from elkapi.guards.wires import ANSWERED, ASKED

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
        b'"type":"text","TYPE":"base64"',
    ],
)
def test_a_document_of_text_is_looked_at_however_its_type_is_spelled(kind: bytes) -> None:
    assert b"xyzzy" not in walked(BODY % kind, ASKED["anthropic"], lambda text: text.replace("xyzzy", "***"))


@pytest.mark.parametrize("kind", [b'"type":"base64"', b'"type":null', b'"type":["text"]', b'"media_type":"text"'])
def test_a_document_of_bytes_is_not(kind: bytes) -> None:
    assert b"xyzzy" in walked(BODY % kind, ASKED["anthropic"], lambda text: text.replace("xyzzy", "***"))


def looked(wire: Wire, body: bytes) -> bytes:
    return walked(body, ASKED[wire], lambda text: text.replace("xyzzy", "***").replace("4111111111111111", "[CARD]"))


@pytest.mark.parametrize(
    ("wire", "body", "expected"),
    [
        ("chat", b' \n{"Mes\xc5\xbfages":[{"CONTENT":"xyzzy"}]}', b'{"Mes\xc5\xbfages":[{"CONTENT":"***"}]}'),
        ("rerank", b'{"documents":[4111111111111111,true,"xyzzy"]}', b'{"documents":["[CARD]",true,"***"]}'),
        ("embeddings", b'{"input":[null,"xyzzy"]}', b'{"input":[null,"***"]}'),
        (
            "chat",
            b'{"messages":[{"function_call":{"arguments":"{\\"xyzzy\\":[true,\\"\\\\u0078yzzy\\",4111111111111111]}"}}]}',
            b'{"messages":[{"function_call":{"arguments":"{\\"***\\":[true,\\"***\\",\\"[CARD]\\"]}"}}]}',
        ),
        (
            "chat",
            b'{"messages":[{"function_call":{"arguments":"{xyzzy"}}]}',
            b'{"messages":[{"function_call":{"arguments":"{***"}}]}',
        ),
    ],
)
def test_a_text_is_looked_at_whatever_is_around_it(wire: Wire, body: bytes, expected: bytes) -> None:
    assert looked(wire, body) == expected


def test_only_texts_and_numbers_are_visited() -> None:
    seen: list[str] = []

    def visit(text: str) -> str:
        seen.append(text)
        return text

    body = b'{"messages":[{"tool_calls":[{"function":{"arguments":"{\\"a\\":[true,null,2,2.5]}"}}]}]}'
    assert walked(body, ASKED["chat"], visit) == body
    assert seen == ["a", "2"]


@pytest.mark.parametrize("tokens", [b"[1,2]", b"[[1],[2]]", b'["xyzzy",[1]]', b'["xyzzy",{"a":1}]'])
def test_token_ids_are_nothing_that_a_guard_lets_through(tokens: bytes) -> None:
    with pytest.raises(Unseen):
        looked("embeddings", b'{"input":%b}' % tokens)


def test_likelihoods_which_hold_the_text_in_pieces_are_left_out() -> None:
    body = b'{"choices":[{"text":"xyzzy","logprobs":{"tokens":["xy","zzy"]}}]}'
    assert walked(body, ANSWERED["completions"], str.upper) == b'{"choices":[{"text":"XYZZY","logprobs":null}]}'
