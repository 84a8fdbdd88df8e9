"""Validators of the streams of each client dialect, as bytes that a caller gets (guarantee 59).

They follow the dialects' contracts and SDKs, not our writers. Each raises AssertionError with the invalid frame.
`broken` streams end in an explicit error, without the mark of a clean end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

Row = dict[str, Any]
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
}
GEMINI_REASONS = {
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "RECITATION",
    "OTHER",
    "PROHIBITED_CONTENT",
    "IMAGE_SAFETY",
    "MALFORMED_FUNCTION_CALL",
}
DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "redacted_thinking": set(),
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
}


def check_stream(client: str, stream: bytes | str, *, broken: bool = False) -> None:
    """Raise AssertionError if the stream violates the client's dialect."""
    data = stream.encode() if isinstance(stream, str) else stream
    if client == "gemini" and broken:
        # The error is repeated outside the events: Google's Go SDK looks for it only there.
        data, end, bare = data.rpartition(b"\r\n\r\n")
        assert bare
        assert data.endswith(b"data: " + bare), data[-80:]
        data += end
    _CHECKS[client](frames_in(data), broken)


def frames_in(data: bytes) -> list[tuple[str, str]]:
    """(event, data) of every frame except comments. Raises AssertionError for an invalid line."""
    # Google ends lines with CRLF, and its frames may be passed on unchanged.
    data = data.replace(b"\r\n", b"\n")
    assert data.endswith(b"\n\n"), data[-80:]
    frames = []
    for raw in data.decode().split("\n\n"):
        lines = [line for line in raw.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        assert all(line.startswith(("event: ", "data: ")) for line in lines), raw
        event = "".join(line[7:] for line in lines if line.startswith("event: "))
        said = [line[6:] for line in lines if line.startswith("data: ")]
        # One data line per frame: not every client's parser joins several.
        assert len(said) == 1, raw
        frames.append((event, said[0]))
    assert frames
    return frames


def _rows(frames: list[tuple[str, str]]) -> list[Row]:
    rows = [msgspec.json.decode(data) for _, data in frames]
    assert all(isinstance(row, dict) for row in rows)
    return rows


def _check_chunks(frames: list[tuple[str, str]], broken: bool, object_: str) -> list[Row]:
    """Check the chunks of an OpenAI-like stream; returns them without the end."""
    assert not any(event for event, _ in frames)
    if broken:
        error = msgspec.json.decode(frames[-1][1])["error"]
        assert error["message"]
        assert error["type"]
    else:
        assert frames[-1][1] == "[DONE]"
    # Azure's first chunk, on the prompt, has no id; it is passed on unchanged to callers that asked for usage.
    chunks = [row for row in _rows(frames[:-1]) if row.get("choices") or "prompt_filter_results" not in row]
    for chunk in chunks:
        assert chunk["object"] == object_
        assert not chunk.get("error")
        assert {name: chunk[name] for name in ("id", "created", "model")} == {
            name: chunks[0][name] for name in ("id", "created", "model")
        }
        if chunk.get("usage"):
            usage = chunk["usage"]
            assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
        if not chunk["choices"]:
            assert chunk.get("usage")
    return chunks


def check_chat(frames: list[tuple[str, str]], broken: bool) -> None:
    finished: dict[int, bool] = {}
    calls: dict[tuple[int, int], str] = {}
    for chunk in _check_chunks(frames, broken, "chat.completion.chunk"):
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            assert not finished.get(index), chunk
            assert ("role" in delta) is (index not in finished), chunk
            for call in delta.get("tool_calls") or ():
                place = (index, call["index"])
                if place not in calls:
                    assert call["index"] == len([one for one in calls if one[0] == index]), chunk
                    assert call["id"], chunk
                    assert call["type"] in ("function", "custom"), chunk
                    assert call[call["type"]]["name"], chunk
                    calls[place] = call["type"]
                inner = call.get(calls[place]) or {}
                assert isinstance(inner.get("arguments", inner.get("input", "")), str), chunk
            finished[index] = choice["finish_reason"] is not None
            assert choice["finish_reason"] is None or choice["finish_reason"] in FINISH_REASONS, chunk
    assert broken or (finished and all(finished.values()))


def check_completions(frames: list[tuple[str, str]], broken: bool) -> None:
    finished = False
    for chunk in _check_chunks(frames, broken, "text_completion"):
        for choice in chunk["choices"]:
            assert not finished
            assert isinstance(choice["text"], str)
            finished = choice["finish_reason"] is not None
    assert broken or finished


def check_anthropic(frames: list[tuple[str, str]], broken: bool) -> None:
    rows = _rows(frames)
    assert [event for event, _ in frames] == [row["type"] for row in rows]
    rows = [row for row in rows if row["type"] != "ping"]
    if broken:
        error = rows.pop()
        assert error["type"] == "error"
        assert error["error"]["type"]
        assert error["error"]["message"]
    if not rows:
        return
    start = rows.pop(0)
    assert start["type"] == "message_start"
    message = start["message"]
    assert (message["role"], message["content"], message["stop_reason"]) == ("assistant", [], None)
    assert isinstance(message["usage"]["input_tokens"], int)
    if not broken:
        assert rows.pop()["type"] == "message_stop"
        last = rows.pop()
        assert last["type"] == "message_delta"
        assert last["delta"]["stop_reason"] in STOP_REASONS, last
        assert isinstance(last["usage"]["output_tokens"], int)
    _check_blocks(rows, broken)


def _check_blocks(rows: list[Row], broken: bool) -> None:
    block: Row | None = None
    count, arguments = 0, ""
    for row in rows:
        assert row["index"] == count - (row["type"] != "content_block_start"), row
        match row["type"]:
            case "content_block_start":
                assert block is None, row
                block, arguments, count = row["content_block"], "", count + 1
                if block["type"] == "tool_use":
                    assert block["id"], row
                    assert block["name"], row
                    assert block["input"] == {}, row
            case "content_block_delta":
                assert block is not None, row
                assert row["delta"]["type"] in DELTAS.get(block["type"], set()), (block, row)
                arguments += row["delta"].get("partial_json", "")
            case "content_block_stop":
                assert block is not None, row
                if block["type"] == "tool_use" and arguments and not broken:
                    assert isinstance(msgspec.json.decode(arguments), dict), arguments
                block = None
            case other:
                raise AssertionError(other)
    assert block is None or broken


def check_responses(frames: list[tuple[str, str]], broken: bool) -> None:
    rows = _rows(frames)
    assert [event for event, _ in frames] == [row["type"] for row in rows]
    numbers = [row["sequence_number"] for row in rows]
    # Events that were passed on have their upstream's numbers; the gateway's follow the last.
    ours = numbers[-3:] if broken else numbers
    assert ours == list(range(ours[0] if broken else 0, ours[0] + len(ours)))
    if broken and rows[-1]["type"] == "error" and len(rows) > 1:
        # The gateway sends both: some clients know only one of them.
        assert rows.pop()["message"]
    last = rows[-1]
    if broken:
        if last["type"] == "error":
            # It follows nothing.
            assert last["message"]
            return
        assert last["type"] == "response.failed", last
        assert last["response"]["error"]["message"], last
        assert last["response"]["id"] == rows[0]["response"]["id"]
        if numbers != list(range(len(numbers))):
            # What the upstream sent twice was passed on unchanged.
            return
    else:
        assert last["type"] in ("response.completed", "response.incomplete"), last
        assert last["response"]["status"] == last["type"].removeprefix("response.")
        assert (last["response"]["usage"] or {"total_tokens": 0})["total_tokens"] >= 0
    assert rows[0]["type"] == "response.created"
    assert rows[0]["response"]["status"] in ("in_progress", "queued")
    ids = {row["response"]["id"] for row in rows if isinstance(row.get("response"), dict)}
    assert len(ids) == 1
    _check_items(rows[1:-1], None if broken else last["response"]["output"])


def _check_items(rows: list[Row], output: list[Row] | None) -> None:
    added: dict[int, Row] = {}
    done: dict[int, Row] = {}
    parts: dict[tuple[Any, ...], str] = {}
    for row in rows:
        kind, index = row["type"], row.get("output_index")
        if index is None:
            assert kind in ("response.in_progress", "response.queued"), row
            continue
        if kind == "response.output_item.added":
            assert index == len(added), row
            added[index] = row["item"]
            continue
        assert index in added, row
        assert index not in done, row
        assert row.get("item_id", added[index]["id"]) == added[index]["id"], row
        place = (index, row.get("content_index"), row.get("summary_index"))
        if kind == "response.output_item.done":
            assert row["item"]["type"] == added[index]["type"], row
            assert row["item"]["id"] == added[index]["id"], row
            done[index] = row["item"]
        elif kind.endswith("part.added"):
            assert place not in parts, row
            parts[place] = ""
        elif kind.endswith("part.done"):
            assert parts[place] == row["part"].get("text", row["part"].get("refusal", "")), row
        elif kind.endswith(".delta"):
            assert place in parts or "call" in kind, row
            parts[place] = parts.get(place, "") + row["delta"]
        elif kind.endswith(".done") and "item" not in row and "call" in kind:
            assert parts.get(place, "") == row.get("arguments", row.get("input", row.get("code", ""))), row
    if output is not None:
        assert [done[index] for index in added] == output


def check_gemini(frames: list[tuple[str, str]], broken: bool) -> None:
    assert not any(event for event, _ in frames)
    rows = _rows(frames)
    if broken:
        error = rows.pop()["error"]
        assert isinstance(error["code"], int)
        assert error["message"]
        assert error["status"]
    finished = False
    for row in rows:
        assert "error" not in row, row
        assert row.get("candidates") or "usageMetadata" in row or "promptFeedback" in row, row
        for candidate in row.get("candidates", ()):
            assert not finished, row
            for part in candidate.get("content", {}).get("parts", ()):
                kinds = part.keys() - {"thought", "thoughtSignature"}
                assert len(kinds) <= 1, part
                if call := part.get("functionCall"):
                    assert call["name"], part
                    assert isinstance(call.get("args", {}), dict), part
            if (reason := candidate.get("finishReason")) is not None:
                assert reason in GEMINI_REASONS, row
                finished = True
        if usage := row.get("usageMetadata"):
            assert all(count >= 0 for count in usage.values() if isinstance(count, int)), row
    assert broken or finished or "promptFeedback" in rows[-1]


_CHECKS: dict[str, Callable[[list[tuple[str, str]], bool], None]] = {
    "chat": check_chat,
    "completions": check_completions,
    "anthropic": check_anthropic,
    "responses": check_responses,
    "gemini": check_gemini,
}
