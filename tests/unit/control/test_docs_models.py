"""The example of a model row in docs/embeddings.md is one the model process reads."""

from __future__ import annotations

import re
from pathlib import Path

from elkapi.control.library import docs_folder
from elkapi.local.chat import request, schema
from elkapi.local.chat.rows import BUNDLED_CHAT
from elkapi.local.models import BUNDLED, read_rows
from elkapi.settings import Settings


def test_documented_model_row_is_read(tmp_path: Path) -> None:
    text = (docs_folder() / "embeddings.md").read_text("utf-8")
    (row,) = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"kind"' in block]
    folder = tmp_path / "my-encoder"
    folder.mkdir()
    (folder / "model.json").write_text(row)
    found = {model.id: where for model, where in read_rows(tmp_path)}
    assert found["my-encoder"] == folder


def test_documented_facts_of_the_bundled_model_are_true() -> None:
    text = (docs_folder() / "embeddings.md").read_text("utf-8")
    model = BUNDLED[0]
    assert f"| name | `{model.id}` |" in text
    assert f"| dimensions | {model.dimensions}, of length 1 |" in text
    assert f"| window | {model.window} tokens" in text


def test_documented_facts_of_the_bundled_chat_model_are_true() -> None:
    text = (docs_folder() / "local-chat.md").read_text("utf-8")
    chat, settings = BUNDLED_CHAT, Settings()
    assert f"| name | `{chat.id}` |" in text
    assert f"| window | {settings.chat_context_tokens} tokens" in text
    assert f"at most {chat.window_max})" in text
    assert f"{chat.output_default} where you set no limit" in text
    assert f"`temperature` ({chat.temperature} where you set none), `top_p` ({chat.top_p})" in text
    assert f"up to {request.STOPS_MAX} texts" in text
    assert f"up to {request.TOP_LOGPROBS_MAX} alternatives" in text
    assert f"`json_schema` up to {schema.BYTES_MAX} bytes" in text
    assert f"{settings.chat_queue_max} callers may wait" in text
