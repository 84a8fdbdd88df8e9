"""Present a video task as a chat completion: progress as text, then the link; no I/O.

The relay submits, waits and pings. Contracts: veo.md (veo.chat), openai.md ("Veo3-chat format"), sora.md (sora.chat). A
client uses the last link of the text, and sends the text back to continue from that video, so its first line has the
task's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.errors import GatewayError, TaskFailed
from elkapi.translate.estimate import quarter
from elkapi.types import State, TaskView

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_TASK_ID = re.compile(r"\btask_[0-9a-f]{32}\b")
_WORDS = {State.QUEUED: "queued", State.RUNNING: "running", State.SUCCEEDED: "done"}
_encode = msgspec.json.Encoder().encode


def continued(body: Mapping[str, Any]) -> str:
    """The id of the task to continue from: the last one in the latest assistant message; "" if there is none."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "assistant":
            found = _TASK_ID.findall(_text_of(message.get("content")))
            return found[-1] if found else ""
    return ""


def failure(view: TaskView) -> GatewayError:
    """The error for a task that ended without a video, before anything was sent to the caller."""
    return TaskFailed(_reason(view), code=_code(view))


def whole(view: TaskView, completion_id: str, prompt: str) -> dict[str, Any]:
    """The `chat.completion` of a successful task."""
    text = _opening(view) + _line(view) + _links(view)
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": view.created_ns // 1_000_000_000,
        "model": view.model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": _usage(prompt, text),
    }


class Telling:
    """One streamed answer, which turns successive views of the task into frames.

    `with_usage`: the caller asked for a last chunk with the usage (`stream_options.include_usage`).
    """

    def __init__(self, completion_id: str, prompt: str, *, with_usage: bool = False) -> None:
        self._id = completion_id
        self._prompt = prompt
        self._with_usage = with_usage
        self._said = ""
        self._line = ""

    def told(self, view: TaskView) -> bytes:
        """The frames for what changed, or b""; those of a final state close the answer."""
        frames = b""
        if not self._said:
            frames += self._delta(view, _opening(view), role="assistant")
        # The progress of a provider may go back; an unchanged line is not repeated.
        if not view.state.is_failure and (line := _line(view)) != self._line:
            frames += self._delta(view, line)
            self._line = line
        if not view.state.is_end:
            return frames
        return frames + (self._broken(view) if view.state.is_failure else self._finished(view))

    def _finished(self, view: TaskView) -> bytes:
        frames = self._delta(view, _links(view)) + self._chunk(view, {}, "stop")
        if self._with_usage:
            usage = self._head(view) | {"choices": [], "usage": _usage(self._prompt, self._said)}
            frames += b"data: %b\n\n" % _encode(usage)
        return frames + DONE

    def _broken(self, view: TaskView) -> bytes:
        """A readable line, then the error that SDKs raise."""
        error = {"message": _reason(view), "type": TaskFailed.type, "param": None, "code": _code(view)}
        return self._delta(view, f"> failed: {_reason(view)}\n") + b"data: %b\n\n" % _encode({"error": error}) + DONE

    def _delta(self, view: TaskView, text: str, **more: str) -> bytes:
        self._said += text
        return self._chunk(view, {**more, "content": text}, None)

    def _chunk(self, view: TaskView, delta: dict[str, str], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return b"data: %b\n\n" % _encode(self._head(view) | {"choices": [choice]})

    def _head(self, view: TaskView) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": view.created_ns // 1_000_000_000,
            "model": view.model,
        }


def _opening(view: TaskView) -> str:
    return f"> task: `{view.id}`\n"


def _line(view: TaskView) -> str:
    if view.state is State.RUNNING and view.progress:
        return f"> {view.progress}%\n"
    return f"> {_WORDS[view.state]}\n"


def _links(view: TaskView) -> str:
    """One link per line, the video last, since clients use the last link."""
    linked = [asset for asset in view.assets if asset.url]
    assets = sorted(linked, key=lambda asset: asset.kind == "video" and not asset.beside)
    return "".join(f"\n[{asset.kind}]({asset.url})" for asset in assets)


def _reason(view: TaskView) -> str:
    """Why there is no video, in one line."""
    return " ".join(view.error.split()) or f"The video was not made: the task is {view.state.value}."


def _code(view: TaskView) -> str:
    return view.error_code or TaskFailed.code


def _usage(prompt: str, text: str) -> dict[str, int]:
    """Estimated counts for clients that expect them; the price depends on the task instead."""
    asked, told = (quarter(len(said.encode())) for said in (prompt, text))
    return {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
