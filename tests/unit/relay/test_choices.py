"""An answer without choices is none, wherever else in it a choice stands."""

from __future__ import annotations

import pytest

from elkapi.relay.exchange import _lacks_choices


@pytest.mark.parametrize(
    ("body", "lacks"),
    [
        (b'{"choices":[{"index":0}]}', False),
        (b'{ "choices" : [ {"index":0} ] }', False),
        (b'{"choices":[]}', True),
        (b'{"choices" : [ ]}', True),
        (b'{"choices":null}', True),
        (b'{"object":"list"}', False),
        (b'{"choices":[],"raw":{"choices":[{"index":0}]}}', True),
        (b'{"raw":{"choices":[{"index":0}]},"choices":null}', True),
        (b'{"raw":{"choices":[{"index":0}]},"choices":[{"index":0}]}', False),
        (b'{"choices":[{"message":{"content":"\\"choices\\":[]"}}]}', False),
    ],
)
def test_an_answer_lacks_choices_if_any_list_of_them_is_empty(body: bytes, lacks: bool) -> None:
    assert _lacks_choices(body) == lacks
