"""Where text stands in a submit of a task: everywhere but in what is told apart by name and look."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from elkapi.guards.submits import looked_through

WORDS = frozenset({"model", "mode", "duration"})
FILE = base64.b64encode(b"\xff\xd8" * 400).decode()
SPOKEN: list[tuple[dict[str, Any], list[str]]] = [
    ({"prompt": "a dog", "negative_prompt": "a cat"}, ["a dog", "a cat"]),
    ({"Prompt": "a dog", "PROMPTTEXT": "b"}, ["a dog", "b"]),
    ({"instances": [{"prompt": "a dog"}]}, ["a dog"]),
    ({"content": [{"type": "text", "text": "a dog"}, {"type": "image_url", "url": "http://x"}]}, ["a dog"]),
    ({"multi_prompt": [{"index": 1, "prompt": "one", "duration": "2"}, {"prompt": "two"}]}, ["one", "two"]),
    ({"input": {"mode": "text2video", "text": "hello", "voice_id": "voice_en_1"}}, ["hello"]),
    ({"something_new": {"deep": ["a", {"er": "b"}]}}, ["a", "b"]),
    # In a prompt nothing is an address, a file, an id or a number.
    ({"prompt": "https://example.com/secret"}, ["https://example.com/secret"]),
    ({"prompt": FILE}, [FILE]),
    ({"prompt": 4111111111111111}, ["4111111111111111"]),
    ({"prompts": ["one", ["two"]]}, ["one", "two"]),
    # A look alone is not enough, nor is a name.
    ({"mode": "pro"}, []),
    ({"mode": "a dog that says hello"}, ["a dog that says hello"]),
    ({"mode": "x" * 65}, ["x" * 65]),
    ({"task_id": "900000000000000001", "voiceId": "a-b", "id": "x", "ids": ["y"]}, []),
    ({"user_id": "jane@example.com"}, ["jane@example.com"]),
    ({"grid": "a", "squid": "b", "Id": "c"}, ["a", "b", "c"]),
    ({"image": "https://x.test/a.png?a=jane@example.com", "video": "runway://abc"}, []),
    ({"image": "https://x.test/a.png and a dog"}, ["https://x.test/a.png and a dog"]),
    ({"image": FILE, "image_tail": f"data:image/png;base64,{FILE}", "mask": f"{FILE[:76]}\n{FILE[76:]}"}, []),
    ({"image": f"data:text/plain,{FILE}!"}, [f"data:text/plain,{FILE}!"]),
    ({"style": FILE[:100]}, [FILE[:100]]),
    ({"seed": 4111111111111111, "n": True, "x": None}, []),
    # A text that holds JSON, as forms have it.
    ({"multi": '[{"prompt": "\\u0061 dog", "mode": "pro"}]'}, ["a dog"]),
    ({"multi": "[a dog"}, ["[a dog"]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "texts"), SPOKEN)
def test_every_text_is_visited_and_nothing_else(body: dict[str, Any], texts: list[str]) -> None:
    seen: list[str] = []

    def visit(text: str) -> str:
        seen.append(text)
        return text

    looked_through(body, visit, WORDS)
    assert seen == texts


def test_words_of_the_forms_are_no_texts_whatever_decides_the_price() -> None:
    body = {"input": {"mode": "pro", "aspectRatio": "16:9", "seconds": "5"}, "content": [{"type": "text"}]}
    assert looked_through(body, str.upper, frozenset()) == body
    assert looked_through({"mode": "a dog"}, str.upper, frozenset()) == {"mode": "A DOG"}


def test_what_is_visited_is_replaced_where_it_stands() -> None:
    body = {"prompt": "a", "mode": "pro", "deep": [{"x": "b"}], "form": '{"prompt":"c","prompt":"d"}', "n": 2}
    assert looked_through(body, str.upper, WORDS) == {
        "prompt": "A",
        "mode": "pro",
        "deep": [{"x": "B"}],
        "form": '{"prompt":"D"}',
        "n": 2,
    }


def visited(body: dict[str, Any]) -> list[str]:
    seen: list[str] = []
    looked_through(body, lambda text: seen.append(text) or text, WORDS)  # type: ignore[func-returns-value]
    return seen


def test_a_prompt_by_any_of_its_names_is_text_whatever_it_looks_like() -> None:
    plain = "prompt prompts promptText prompt_text text texts script lyrics description"
    negative = "negative_prompt negativePrompt negative_prompt_text negativePromptText"
    for name in (*plain.split(), *negative.split()):
        for value in ("https://example.com/secret", FILE, "pro"):
            assert visited({name: value, name.upper(): [value]}) == [value] * 2


def test_a_word_is_none_where_words_stand_and_more_than_a_word_is_text() -> None:
    own = "type generation_type role position mode quality format response_format"
    sizes = "ratio aspect_ratio aspectRatio size resolution seconds duration sound audio"
    for name in (*own.split(), *sizes.split(), "model"):
        assert visited({name: "16:9", name.upper(): "x" * 64, "in": {name: ["on"]}}) == []
        assert visited({name: "a dog", name.upper(): "x" * 65}) == ["a dog", "x" * 65]
    assert visited({"style": "16:9", "extra": ["on"]}) == ["16:9", "on"]


def test_from_so_many_letters_on_an_unnamed_value_is_a_file() -> None:
    assert visited({"image": FILE[:255], "mask": FILE[:256], "tail": f"{FILE[:255]}\r\n"}) == [
        FILE[:255],
        f"{FILE[:255]}\r\n",
    ]
    head = "data:image/png;base64,"
    assert visited({"image": f"{head}AA==", "mask": f"{head}not base64", "id": "a" * 256}) == [f"{head}not base64"]
