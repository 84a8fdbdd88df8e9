"""Conversations that other upstreams took part in: what Claude would refuse is taken out, everything else stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.translate.anthropic_history import has_foreign_turns, with_own_thoughts

THINKS = {"type": "enabled", "budget_tokens": 1024}
FOREIGN = {"type": "thinking", "thinking": "hm", "signature": ""}
OWN = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "b3Bh"}


def use(id_: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": "f", "input": {"n": 1.0}}


def loop(*said: dict[str, Any], id_: str = "call_1", **more: Any) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": id_, "content": "5"}
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [*said, use(id_)]},
        {"role": "user", "content": [result]},
    ]
    return {"model": "m", "max_tokens": 2000, "thinking": THINKS, "messages": turns, **more}


def mended(body: dict[str, Any], spaces: bool = False) -> dict[str, Any]:
    data = json.dumps(body, separators=None if spaces else (",", ":")).encode()
    made: dict[str, Any] = json.loads(with_own_thoughts(data) if has_foreign_turns(data) else data)
    return made


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("said", [(), (FOREIGN,)], ids=["without a thought", "with an unsigned one"])
def test_a_tool_loop_that_another_model_began_goes_on_without_thinking(said: Any, spaces: bool) -> None:
    made = mended(loop(*said), spaces)
    assert "thinking" not in made
    assert made["messages"][1]["content"] == [use("call_1")]


def test_unsigned_thoughts_of_earlier_turns_are_left_out_and_it_thinks_on() -> None:
    body = loop(FOREIGN)
    body["messages"] += [{"role": "assistant", "content": [FOREIGN]}, {"role": "user", "content": "and?"}]
    made = mended(body)
    assert made["thinking"] == THINKS
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant", "user", "user"]
    assert "hm" not in json.dumps(made)


DREW = "![image](data:image/png;base64,iVBORw0KGgo=)"


def test_pictures_that_another_model_drew_are_no_text_for_claude() -> None:
    turns = [
        {"role": "user", "content": f"like {DREW}"},
        {"role": "assistant", "content": [{"type": "text", "text": f"Here: {DREW}"}, {"type": "text", "text": DREW}]},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": DREW},
    ]
    made = mended({"model": "m", "max_tokens": 9, "messages": turns})
    here = {"role": "assistant", "content": [{"type": "text", "text": "Here: "}]}
    assert made["messages"] == [turns[0], here, turns[2]]


@pytest.mark.parametrize("thought", [OWN, HIDDEN])
def test_a_loop_that_claude_began_thinks_on_whatever_came_before(thought: dict[str, Any]) -> None:
    body = loop(FOREIGN)
    body["messages"] += loop(thought, id_="toolu_1")["messages"][1:]
    made = mended(body)
    assert made["thinking"] == THINKS
    assert made["messages"][-2]["content"][0] == thought


def test_a_conversation_of_claudes_own_is_not_even_read() -> None:
    bodies = [
        loop(OWN, id_="toolu_1"),
        {**loop(id_="call_1"), "thinking": {"type": "adaptive"}},
        {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
    ]
    for body in bodies:
        assert not has_foreign_turns(json.dumps(body).encode())


@pytest.mark.parametrize("messages", [None, "x", [], [1], [{"role": "assistant", "content": [1, FOREIGN]}], [{}]])
def test_bodies_of_any_shape_are_left_to_the_upstream(messages: Any) -> None:
    body = {"messages": messages, "thinking": THINKS, "x": FOREIGN}
    made = json.loads(with_own_thoughts(json.dumps(body).encode()))
    assert made["thinking"] == THINKS
