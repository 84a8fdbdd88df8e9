"""The official openai package, unmodified: videos of every provider asked for as chats, through a whole gateway."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.clients.video_origins import Origin

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")]

_LINK = re.compile(r"\[video\]\((\S+)\)")


@pytest.fixture
def client(gateway_origin: Origin) -> Iterator[OpenAI]:
    key, url = gateway_origin.keys["openai"], gateway_origin.base_url + "/v1"
    with OpenAI(api_key=key, base_url=url, max_retries=0, timeout=60) as client:
        yield client


def asked(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize(
    "model", ["sora-2", "veo-3.0-generate-001", "doubao-seedance-1-0-pro-250528", "kling-v1-6", "MiniMax-Hailuo-02"]
)
def test_a_chat_with_a_video_model_streams_to_a_link_that_plays(client: OpenAI, model: str) -> None:
    told = ""
    for chunk in client.chat.completions.create(model=model, messages=asked("paper boats"), stream=True):
        told += chunk.choices[0].delta.content or ""
    with urllib.request.urlopen(_LINK.findall(told)[-1], timeout=20) as answer:
        assert answer.read(12)[4:8] == b"ftyp"


def test_who_sends_the_answer_back_has_that_video_remixed(client: OpenAI) -> None:
    first = client.chat.completions.create(model="sora-2", messages=asked("paper boats"))
    said: Any = {"role": "assistant", "content": first.choices[0].message.content}
    further = [*asked("paper boats"), said, *asked("at night")]
    raw = client.chat.completions.with_raw_response.create(model="sora-2", messages=further)
    assert _LINK.search(raw.parse().choices[0].message.content or "")
    video = client.videos.retrieve(raw.headers["x-request-id"].replace("req_", "task_"))
    earlier = re.search(r"task_[0-9a-f]{32}", first.choices[0].message.content or "")
    assert earlier is not None
    assert video.remixed_from_video_id == earlier[0]
