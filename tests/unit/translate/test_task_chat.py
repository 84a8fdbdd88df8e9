"""A task told as a chat completion: the id first, progress once a step, the link last; errors as the contract says."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from elkapi.translate.sse import SseDecoder
from elkapi.translate.task_chat import DONE, KEEP_ALIVE, Telling, continued, failure, whole
from elkapi.types import State, TaskAsset, TaskView

ID = "task_" + "0f" * 16
URL = "https://gateway.test/v1/assets/a1/video.mp4?exp=1&sig=x"
VIDEO = TaskAsset(id=b"a" * 16, kind="video", content_type="video/mp4", size_bytes=9, url=URL)
POSTER = TaskAsset(
    id=b"b" * 16, kind="image", content_type="image/png", size_bytes=9, url="https://gateway.test/v1/assets/b/p.png"
)
BEGUN = TaskView(
    id=ID,
    native_id="n1",
    operation="veo.predict",
    wire="veo",
    model="veo3-fast",
    state=State.QUEUED,
    progress=0,
    created_ns=1_790_000_000_123_456_789,
)
DONE_VIEW = msgspec.structs.replace(BEGUN, state=State.SUCCEEDED, progress=100, assets=(VIDEO, POSTER))


def at(state: State, progress: int = 0, **more: Any) -> TaskView:
    return msgspec.structs.replace(BEGUN, state=state, progress=progress, **more)


def frames(raw: bytes) -> list[Any]:
    found = SseDecoder().feed(raw)
    return [None if frame.data == b"[DONE]" else json.loads(frame.data) for frame in found if frame.data is not None]


def text(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks if chunk for choice in chunk.get("choices", ())
    )


def test_a_whole_answer_ends_with_the_link_of_the_video() -> None:
    body = whole(DONE_VIEW, "chatcmpl-1", "a kite")
    choice = body["choices"][0]
    assert (body["id"], body["object"], body["created"], body["model"]) == (
        "chatcmpl-1",
        "chat.completion",
        1_790_000_000,
        "veo3-fast",
    )
    assert choice["finish_reason"] == "stop"
    said = choice["message"]["content"]
    assert said.startswith(f"> task: `{ID}`\n")
    assert re.findall(r"\((https?://[^)]+)\)", said)[-1] == URL
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": -(-len(said) // 4)} | {
        "total_tokens": 2 + -(-len(said) // 4)
    }


def test_what_came_beside_the_video_is_never_the_last_link() -> None:
    marked = msgspec.structs.replace(VIDEO, id=b"c" * 16, url="https://gateway.test/v1/assets/c/w.mp4", beside=True)
    view = msgspec.structs.replace(DONE_VIEW, assets=(VIDEO, POSTER, marked))
    said = whole(view, "chatcmpl-1", "a kite")["choices"][0]["message"]["content"]
    assert re.findall(r"\((https?://[^)]+)\)", said) == [POSTER.url, marked.url, URL]


def test_a_stream_says_each_step_once_and_closes() -> None:
    telling = Telling("chatcmpl-1", "a kite")
    raw = telling.told(BEGUN)
    assert telling.told(BEGUN) == b""
    raw += telling.told(at(State.RUNNING)) + telling.told(at(State.RUNNING, 37))
    assert telling.told(at(State.RUNNING, 37)) == b""
    raw += KEEP_ALIVE + telling.told(DONE_VIEW)
    chunks = frames(raw)
    assert raw.endswith(DONE)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in chunks if chunk} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk][-1] == "stop"
    assert text(chunks).startswith(f"> task: `{ID}`\n> queued\n> running\n> 37%\n> done\n")
    assert text(chunks).endswith(f"[video]({URL})")


def test_a_stream_has_the_usage_where_it_was_asked_for() -> None:
    chunks = frames(Telling("chatcmpl-1", "a kite", with_usage=True).told(DONE_VIEW))
    assert chunks[-1] is None
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == -(-len(text(chunks)) // 4)


def test_whole_and_streamed_answers_say_the_same() -> None:
    streamed = text(frames(Telling("chatcmpl-1", "").told(DONE_VIEW)))
    assert streamed == whole(DONE_VIEW, "chatcmpl-1", "")["choices"][0]["message"]["content"]


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_a_failure_is_an_error_before_and_in_a_stream(state: State) -> None:
    view = at(state, error="The prompt\nis not allowed.", error_code="moderation_blocked")
    error = failure(view)
    assert (error.status, error.code, error.message) == (502, "moderation_blocked", "The prompt is not allowed.")
    telling = Telling("chatcmpl-1", "a kite")
    telling.told(BEGUN)
    raw = telling.told(view)
    line, said, end = frames(raw)
    assert text([line]) == "> failed: The prompt is not allowed.\n"
    assert said == {
        "error": {
            "message": "The prompt is not allowed.",
            "type": "upstream_error",
            "param": None,
            "code": "moderation_blocked",
        }
    }
    assert end is None


def test_a_failure_without_words_says_what_became_of_it() -> None:
    assert failure(at(State.EXPIRED)).message == "The video was not made: the task is expired."
    assert failure(at(State.EXPIRED)).code == "task_failed"


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([{"role": "user", "content": "a kite"}], ""),
        ([{"role": "assistant", "content": f"> task: `{ID}`\n"}, {"role": "user", "content": "higher"}], ID),
        ([{"role": "assistant", "content": [{"type": "text", "text": f"> task: `{ID}`"}]}], ID),
        ([{"role": "assistant", "content": f"`{ID}`"}, {"role": "assistant", "content": "hello"}], ""),
        ([{"role": "user", "content": ID}], ""),
        ([{"role": "assistant", "content": None}, 7], ""),
        (None, ""),
    ],
)
def test_an_answer_sent_back_names_its_task(messages: Any, found: str) -> None:
    assert continued({"messages": messages}) == found
