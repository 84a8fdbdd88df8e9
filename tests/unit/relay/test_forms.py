"""Multipart forms: read as JSON would have them, one way only, and written anew around what changes."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.errors import BadRequest
from elkapi.relay import forms
from elkapi.types import Channel
from tests.assets.media import mp4, png

FILM = mp4(2000, 320, 180)


def form(*fields: tuple[str, Any]) -> tuple[bytes, bytes]:
    """(body, content type); a text is a plain field, anything else as httpx has it."""
    files = [(name, (None, value) if isinstance(value, str) else value) for name, value in fields]
    request = httpx.Request("POST", "http://x.test", files=files)
    return request.read(), request.headers["content-type"].encode()


def read(*fields: tuple[str, Any]) -> dict[str, Any]:
    return forms.read(*form(*fields))[0]


def url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("names", "members"),
    [
        (("a[b]", "a[c]"), {"a": {"b": "0", "c": "1"}}),
        (("a[]", "a[]"), {"a": ["0", "1"]}),
        (("a[][id]", "a[][id]"), {"a": [{"id": "0"}, {"id": "1"}]}),
        (("a[][id]", "a[][x]"), {"a": [{"id": "0", "x": "1"}]}),
        (("a[0][id]", "a[1][id]", "a[0][x]"), {"a": [{"id": "0", "x": "2"}, {"id": "1"}]}),
        (("a[b][c][d]",), {"a": {"b": {"c": {"d": "0"}}}}),
        (("a[b",), {"a[b": "0"}),
    ],
)
def test_brackets_nest_as_the_sdks_write_them(names: tuple[str, ...], members: dict[str, Any]) -> None:
    assert read(*((name, str(number)) for number, name in enumerate(names))) == members


@pytest.mark.parametrize(
    "names",
    [("model", "model"), ("a[b]", "a[b]"), ("a", "a[b]"), ("a[b]", "a"), ("a[]", "a[b]"), ("a" + "[b]" * 9,)],
)
def test_what_could_be_read_two_ways_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest):
        read(*((name, "x") for name in names))


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ('{"ratio": "16:9", "content": []}', {"ratio": "16:9", "content": []}),
        ("[1]", "[1]"),
        ('{"ratio": ', '{"ratio": '),
        ("a dog", "a dog"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_metadata_may_be_an_object_in_json(text: str, member: object) -> None:
    assert read(("metadata", text), ("prompt", text)) == {"metadata": member, "prompt": text}


def test_a_file_is_a_data_url_named_by_its_first_bytes_where_it_says_nothing() -> None:
    body, kind = form(("prompt", "é"), ("video", ("a.mp4", FILM, "application/octet-stream")))
    members, sent, kind = forms.read(body, kind)
    assert members == {"prompt": "é", "video": url("video/mp4", FILM)}
    assert b"application/octet-stream" not in sent
    assert forms.read(sent, kind) == (members, sent, kind)
    picture = ("input_reference", ("a.png", png(), "image/png"))
    assert read(picture) == {"input_reference": {"image_url": url("image/png", png())}}


def test_the_same_form_goes_on_as_the_same_bytes_whatever_its_boundary() -> None:
    fields = ("prompt", "x"), ("video", ("a.mp4", FILM, "video/mp4"))
    first, second = form(*fields), form(*fields)
    assert first != second
    _, sent, kind = forms.read(*first)
    assert FILM in sent
    assert forms.read(*second)[1:] == (sent, kind)
    assert forms.read(*form(("prompt", "y"), fields[1]))[2] != kind


HIDDEN = b'--B\r\nContent-Disposition: form-data; name="seconds"\r\n\r\n12\r\n--B--\r\n'
PART = b'--A\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
END = b"--A--\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "members"),
    [
        (b"; boundary=B; boundary=A", PART % (b"seconds", b"", b"4") + PART % (b"x", b"", HIDDEN) + END, {"seconds"}),
        (b"; boundary=A", HIDDEN + PART % (b"seconds", b"", b"4") + END + HIDDEN, {"seconds"}),
        (b"; boundary=A", PART % (b"seconds", b'; name="other"', b"12") + END, {"other"}),
        (b"; boundary=A", PART % (b"other", b"; name*=utf-8''seconds", b"12") + END, {"other"}),
        (b"; boundary=A", PART % (b"size", b"\r\nContent-Transfer-Encoding: base64", b"MTI=") + END, {"size"}),
    ],
)
def test_what_readers_differ_over_does_not_go_on(kind: bytes, body: bytes, members: set[str]) -> None:
    found, sent, kind = forms.read(body, b"multipart/form-data" + kind)
    assert members <= found.keys()
    boundary = kind.partition(b"boundary=")[2]
    assert boundary not in body
    head, *parts, end = sent.split(b"--" + boundary)
    assert (head, end) == (b"", b"--\r\n")
    for name, part in zip(found, parts, strict=True):
        assert part.startswith(b'\r\nContent-Disposition: form-data; name="%b"\r\n\r\n' % name.encode())


@pytest.mark.parametrize("name", [rb"x\\", rb"x\\\\", rb"\\\""])
def test_no_name_ends_where_a_backslash_before_its_quote_would_have_it_go_on(name: bytes) -> None:
    # Read with escapes, `name="x\"; filename="; name=model; z="` is a second `model`, and no file.
    body = PART % (b"model", b"", b"sora-2") + PART % (name, b'; filename="; name=model; z="', b"sora-2-pro") + END
    members, sent, _ = forms.read(body, b"multipart/form-data; boundary=A")
    assert members["model"] == "sora-2"
    assert b"\\" not in sent


@pytest.mark.parametrize("kind", [b"image/png\nX: y", b"image/png\rX: y", b"image/png\r\n X: y", b"image", b"a/b\0"])
@pytest.mark.parametrize("more", [b"", b'; filename="a.png"'])
def test_a_parts_type_is_one_and_no_further_line_of_its_head(kind: bytes, more: bytes) -> None:
    body = PART % (b"seconds", more + b"\r\nContent-Type: " + kind, b"=34") + END
    with pytest.raises(BadRequest, match="`seconds`") as refused:
        forms.read(body, b"multipart/form-data; boundary=A")
    assert refused.value.code == "invalid_multipart_form"


@pytest.mark.parametrize(
    "name", [b" model", b"model ", b"model\0x", b"model\t", b"model\xc2\xa0", b"mo\xe2\x80\xaedel"]
)
def test_a_name_that_some_readers_shorten_is_refused(name: bytes) -> None:
    body = PART % (b"model", b"", b"sora-2") + PART % (name, b"", b"sora-2-pro") + END
    with pytest.raises(BadRequest, match="not a valid name"):
        forms.read(body, b"multipart/form-data; boundary=A")


def test_a_change_leaves_the_files_what_they_are() -> None:
    fields = ("prompt", "x"), ("model", "ours"), ("group", "g"), ("video", ('a".mp4', FILM, "video/mp4"))
    body, kind = form(*fields)
    before, _, _ = forms.read(body, kind)
    after = {**before, "model": "theirs", "n": 1, "a": {"b": [{"c": True}]}, "none": None}
    del after["group"]
    sent = forms.changed(body, kind, before, after)
    assert FILM in sent
    assert forms.read(sent, kind)[0] == {
        "prompt": "x",
        "video": before["video"],
        "model": "theirs",
        "n": "1",
        "a": {"b": [{"c": "true"}]},
    }


def test_a_channels_overrides_hold_for_forms_too() -> None:
    body, kind = form(("prompt", "x"), ("seconds", "4"), ("user", "u"))
    raw = {name: msgspec.Raw(value) for name, value in (("seconds", b'"8"'), ("size", b'"1280x720"'))}
    channel = Channel(
        id=1,
        name="c",
        family="openai",
        base_url="https://x.test",
        keys=(),
        models=(),
        param_set={"seconds": raw["seconds"]},
        param_default={"size": raw["size"], "prompt": msgspec.Raw(b'"y"')},
        param_remove=("user",),
    )
    sent = forms.overridden(body, kind, channel)
    assert forms.read(sent, kind)[0] == {"prompt": "x", "seconds": "8", "size": "1280x720"}
