"""Streams whose answers are stored: frames with the gateway's object ids, and the whole answer of a stream; no I/O.

The terminal event of a response has the whole object. A chat completion is assembled from the chunks that its caller
was sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from elkapi.catalog.jsonedit import with_raw
from elkapi.errors import NOT_JSON
from elkapi.translate.crossing import Numbered, Relayed, Translated
from elkapi.translate.dialect import Unreadable
from elkapi.translate.ir import Event
from elkapi.translate.sse import Frame, FrameTooLarge, SseDecoder
from elkapi.translate.usage import chat_usage_object
from elkapi.types import Usage

_LIFE = frozenset(
    f"response.{state}".encode() for state in ("created", "queued", "in_progress", "completed", "incomplete", "failed")
)
_FINAL = (b"response.completed", b"response.incomplete")
# The maximum number of tool calls per stored answer; pieces of calls with a higher index are dropped.
CALLS_MAX = 1024
_TRUE, _FALSE = msgspec.Raw(b"true"), msgspec.Raw(b"false")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.encode


class Ours(msgspec.Struct, frozen=True):
    """The fields of a stored response that the gateway sets, whatever the upstream reports."""

    id: str
    previous: str | None = None
    background: bool = False


def with_ours(response: bytes, ours: Ours) -> bytes:
    """The response object with the gateway's id, previous id, `store` and `background`."""
    members = _members.decode(response)
    members["id"] = msgspec.Raw(_encode(ours.id))
    members["previous_response_id"] = msgspec.Raw(_encode(ours.previous))
    members["store"] = _TRUE
    members["background"] = _TRUE if ours.background else _FALSE
    return _encode(members)


class KeptResponses(Numbered):
    """Frames of the responses dialect pass unchanged, except that response objects get the gateway's fields."""

    ours: Ours

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        data = frame.data
        if data is not None and (frame.event in _LIFE or (not frame.event and b'"response"' in data)):
            frame = self._renamed(frame, data)
        return super().feed(frame)

    def _renamed(self, frame: Frame, data: bytes) -> Frame:
        try:
            members = _members.decode(data)
            members["response"] = msgspec.Raw(with_ours(members["response"], self.ours))
        except (msgspec.ValidationError, KeyError):
            return frame  # The reader handles it.
        except NOT_JSON as error:
            raise Unreadable from error
        data = _encode(members)
        head = b"event: " + frame.event + b"\n" if frame.event else b""
        return Frame(head + b"data: " + data + b"\n\n", frame.event, data)


class _Recorded:
    """Records what the caller was sent, up to `recorded_bytes_max`; beyond that `recorded` becomes None."""

    recorded: list[bytes] | None
    recorded_bytes_max = 0
    _recorded_bytes = 0

    def record(self, piece: bytes) -> bytes:
        if piece and self.recorded is not None:
            self._recorded_bytes += len(piece)
            self.recorded.append(piece)
            if self._recorded_bytes > self.recorded_bytes_max:
                self.recorded = None
        return piece


class KeptChat(_Recorded, Relayed):
    """Chunks of a chat pass unchanged, except for the gateway's id, and are recorded."""

    ours: Ours

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        data = frame.data
        if data is not None and data[:1] == b"{":
            try:
                data = with_raw(data, "id", _encode(self.ours.id))
            except NOT_JSON as error:
                raise Unreadable from error
            frame = Frame(b"data: " + data + b"\n\n", frame.event, data)
        return self.record(super().feed(frame))

    def whole_answer(self, events: list[Event]) -> bytes:
        """As `Relayed.whole_answer`."""
        return self.record(super().whole_answer(events))


class KeptTranslated(_Recorded, Translated):
    """Rewritten chunks of a chat are recorded."""

    def feed(self, frame: Frame) -> bytes:
        """What the caller gets for one frame now. Raises Unreadable."""
        return self.record(super().feed(frame))

    def whole_answer(self, events: list[Event]) -> bytes:
        """As `Metered.whole_answer`."""
        return self.record(super().whole_answer(events))


def final_response(body: bytes) -> bytes | None:
    """The response object of a whole answer or of a stream's last frames; None if there is none."""
    if body[:1] == b"{":
        return body
    for frame in reversed(_frames(body)):
        if frame.event in _FINAL or (not frame.event and frame.data is not None and b'"response"' in frame.data):
            members = _members.decode(frame.data or b"{}")
            if "response" in members:
                return bytes(members["response"])
    return None


def final_completion(pieces: Iterable[bytes], usage: Usage | None) -> bytes | None:
    """The chat completion assembled from the chunks of a stream; None if there are no chunks."""
    chunks = [
        _object.decode(frame.data)
        for frame in _frames(b"".join(pieces))
        if frame.data is not None and frame.data[:1] == b"{"
    ]
    if not chunks:
        return None
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        rows = chunk.pop("choices", None)
        whole |= {name: value for name, value in chunk.items() if value is not None and name != "obfuscation"}
        for row in rows if isinstance(rows, list) else ():
            _add(choices.setdefault(row.get("index") or 0, _blank(row.get("index") or 0)), row)
    whole["object"] = "chat.completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    if not isinstance(whole.get("usage"), dict) and usage is not None:
        whole["usage"] = chat_usage_object(usage)
    return _encode(whole)


def _blank(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _add(choice: dict[str, Any], row: dict[str, Any]) -> None:
    """Merge a chunk's choice into the choice so far: texts and lists are joined, tool calls merged by index."""
    message = choice["message"]
    for name, value in (row.get("delta") or {}).items():
        if name == "tool_calls":
            _add_calls(message.setdefault("tool_calls", []), value or [])
        elif name == "images" and isinstance(value, list):
            _add_images(message.setdefault("images", []), value)
        elif name == "role":
            message["role"] = value or "assistant"
        elif value is not None:
            message[name] = _joined(message.get(name), value)
    if (reason := row.get("finish_reason")) is not None:
        choice["finish_reason"] = reason
    if (logprobs := row.get("logprobs")) is not None:
        choice["logprobs"] = _joined(choice["logprobs"], logprobs)


def _add_images(images: list[Any], pieces: list[Any]) -> None:
    """Append images; a piece without one, such as Gemini's signature, is merged into the last image of its index."""
    for piece in pieces:
        signs = isinstance(piece, dict) and "image_url" not in piece
        if signs and images and isinstance(images[-1], dict) and images[-1].get("index") == piece.get("index"):
            images[-1].update(piece)
        else:
            images.append(piece)


def _add_calls(calls: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    for piece in pieces:
        index = piece.get("index", len(calls))
        if not isinstance(index, int) or not 0 <= index < CALLS_MAX:
            continue
        calls += [{} for _ in range(index + 1 - len(calls))]
        call = calls[index]
        for name, value in piece.items():
            if isinstance(value, dict):
                _add_piece(call.setdefault(name, {}), value)
            elif name != "index" and value is not None:
                call.setdefault(name, value)


def _add_piece(inner: dict[str, Any], piece: dict[str, Any]) -> None:
    for member, text in piece.items():
        # Only the arguments of a call (`input` for a custom tool) come in pieces.
        pieced = member in ("arguments", "input")
        inner[member] = _joined(inner.get(member), text) if pieced else inner.get(member) or text


def _joined(before: Any, more: Any) -> Any:
    if before is None:
        return more
    if isinstance(before, str) and isinstance(more, str):
        return before + more
    if isinstance(before, list) and isinstance(more, list):
        return before + more
    if isinstance(before, dict) and isinstance(more, dict):
        return before | {name: _joined(before.get(name), value) for name, value in more.items() if value is not None}
    return more


def _frames(stream: bytes) -> list[Frame]:
    decoder = SseDecoder()
    try:
        return [*decoder.feed(stream), *decoder.close()]
    except FrameTooLarge:
        return []
