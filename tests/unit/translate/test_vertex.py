"""What Vertex AI requires of a body that Google's Gemini API would take as it is."""

from __future__ import annotations

import pytest

from elkapi.translate.vertex import for_vertex


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (b'{"contents": [{"parts": [1.0]}]}', b'{"contents":[{"parts":[1.0],"role":"user"}]}'),
        (b'{"contents": {"parts": {}}, "x": 1}', b'{"contents":[{"parts":{},"role":"user"}],"x":1}'),
        (
            b'{"contents":[{"role":"model","parts":[]},{"role":"","parts":[]},{"role":null}]}',
            b'{"contents":[{"role":"model","parts":[]},{"role":"user","parts":[]},{"role":"user"}]}',
        ),
        (
            b'{"generate_content_request":{"model":"models/m","contents":[{"role":"user"}],"tools":[]}}',
            b'{"contents":[{"role":"user"}],"tools":[]}',
        ),
    ],
)
def test_a_turn_gets_a_role_and_a_count_loses_its_wrapper(given: bytes, sent: bytes) -> None:
    assert for_vertex(given) == sent


@pytest.mark.parametrize(
    "body",
    [
        b'{ "contents" : [ {"role": "user", "parts": []} ] }',
        b'{"tools": []}',
        b'{"contents": "hi"}',
        b'{"contents": [1]}',
        b'{"contents": null}',
        b'{"generateContentRequest": 1}',
    ],
)
def test_other_bodies_stay_as_they_are(body: bytes) -> None:
    assert for_vertex(body) is body
