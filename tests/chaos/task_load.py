"""Callers that begin tasks of several providers through several gateways; what each was told is kept for the books.

A provider does with a task what stands in its prompt: it fails, its answer to the submit is cut, it takes so long.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from tests.cluster import Cluster, answered_in_time, set_price, usd

KLING_NANO, PICTURE_NANO, LUMA_NANO, MINIMAX_NANO = 280_000_000, 3_500_000, 532_500_000, 280_000_000
RUNWAY_NANO_PER_S, ARK_NANO_PER_TOKEN = 50_000_000, 1_000
ARK_MODEL = "doubao-seedance-1-0-pro-fast-251015"
REPEATS_MAX = 4
IDEMPOTENT_SHARE = 0.3
CALLBACK_SHARE = 0.7


class Kind(msgspec.Struct, frozen=True):
    """How a task of one provider is asked for, and where the answer names it: "" for a refusal inside a success."""

    path: str
    body: Callable[[str], dict[str, Any]]
    name: Callable[[Any], str]
    callback: bool = True


KINDS = {
    "kling": Kind(
        "/kling/v1/videos/text2video",
        lambda prompt: {"model_name": "kling-v1-6", "prompt": prompt, "duration": "5", "mode": "std"},
        lambda reply: str(reply["data"]["task_id"]),
    ),
    "picture": Kind(
        "/kling/v1/images/generations",
        lambda prompt: {"model_name": "kling-v1", "prompt": prompt, "n": 1},
        lambda reply: str(reply["data"]["task_id"]),
    ),
    "luma": Kind(
        "/dream-machine/v1/generations",
        lambda prompt: {"model": "ray-2", "prompt": prompt, "resolution": "540p", "duration": "5s"},
        lambda reply: str(reply["id"]),
    ),
    "minimax": Kind(
        "/minimax/v1/video_generation",
        lambda prompt: {"model": "MiniMax-Hailuo-02", "prompt": prompt, "duration": 6, "resolution": "768P"},
        lambda reply: str(reply.get("task_id") or ""),
    ),
    "runway": Kind(
        "/runwayml/v1/image_to_video",
        lambda prompt: {
            "model": "gen4_turbo",
            "promptText": prompt,
            "promptImage": "https://pictures.example/a.png",
            "ratio": "1280:720",
            "duration": 5,
        },
        lambda reply: str(reply["id"]),
        callback=False,
    ),
    "ark": Kind(
        "/volc/v3/contents/generations/tasks",
        lambda prompt: {
            "model": ARK_MODEL,
            "content": [{"type": "text", "text": prompt}],
            "resolution": "480p",
            "duration": 5,
        },
        lambda reply: str(reply["id"]),
    ),
}

# What a provider does wrong with a submit or a task, and how often in relation to each other.
FAULTS: tuple[tuple[int, str], ...] = (
    (80, ""),
    (5, "task-fails"),
    (3, "task-moderated"),
    (2, "task-refused"),
    (2, "status=503,times=1"),
    (2, "status=500,times=1"),
    (2, "delay=300ms"),
    (4, "task-odd=3s"),
    (1, "task-odd=3s,task-fails"),
    # Its files come late, or never: then it is free, and what it cost is the operator's loss.
    (3, "file-lost=5s"),
    (3, "file-lost"),
    (1, "task-odd=3s,file-lost"),
    # A refusal inside a success, where the provider has such.
    (1, "code=1102"),
    # The task is under way, and the answer that names it is lost.
    (2, "cut-after=20b"),
    (2, "reset-after=1"),
    (1, "status=504"),
    (1, "invalid-json"),
)


def configure(gate: Cluster, base_url: str) -> None:
    """Two channels of each provider, and prices that are the providers' own."""
    rows = (
        ("kling", "/kling", ("kling-v1-6", "kling-v1"), "AKSANDBOX|sandbox-secret"),
        ("luma", "", ("ray-2",), "luma-key"),
        ("minimax", "/minimax", ("MiniMax-Hailuo-02",), "minimax-key"),
        ("runway", "/runway", ("gen4_turbo",), "key_runway"),
        ("ark", "/api/v3", (ARK_MODEL,), "ark-key"),
    )
    for family, path, models, secret in rows:
        for number in range(2):
            own = secret if family == "kling" else f"{secret}-{number}"
            gate.channel(f"{family}-{number}", base_url + path, models, family=family, secrets=(own,))
    set_price(gate.admin, "kling-v1-6", per_call=usd(KLING_NANO))
    set_price(gate.admin, "kling-v1", per_image=usd(PICTURE_NANO))
    set_price(gate.admin, "ray-2", per_call=usd(LUMA_NANO))
    set_price(gate.admin, "MiniMax-Hailuo-02", per_call=usd(MINIMAX_NANO))
    set_price(gate.admin, "gen4_turbo", per_second=usd(RUNWAY_NANO_PER_S))
    set_price(gate.admin, ARK_MODEL, input_per_1m="0", output_per_1m=usd(ARK_NANO_PER_TOKEN * 1_000_000))


class Begun(msgspec.Struct, frozen=True):
    """A task that a caller was told of; `key` is the caller's place among the keys."""

    name: str
    kind: str
    key: int
    fault: str
    callback: bool


class TaskLoad:
    """`callers` loops of submits until `stop`; `takes_s` gives how long the next task takes."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        gates: list[Cluster],
        keys: list[str],
        hooks: Callable[[int], str],
        seed: int,
        takes_s: Callable[[random.Random], float],
    ) -> None:
        self._http = http
        self._gates = gates
        self._keys = keys
        self._hooks = hooks
        self._random = random.Random(seed)
        self._made = 0
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self.takes_s = takes_s
        self.think_s = 0.0
        self.supervisor_is_up = True
        self.begun: dict[str, Begun] = {}
        self.statuses: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.replayed = 0
        self.fresh: defaultdict[str, set[str]] = defaultdict(set)
        self.of_gate: Counter[int] = Counter()

    @property
    def successes(self) -> int:
        return len(self.begun)

    def summary(self) -> str:
        """What became of the submits, in figures."""
        told = f"told of {len(self.begun)} tasks, {self.replayed} of them by a repeated answer"
        return f"{self._made} submits: answers {dict(self.statuses)}, broken {dict(self.broken)}; {told}"

    def start(self, callers: int) -> None:
        self._loops = [asyncio.create_task(self._caller(number)) for number in range(callers)]

    async def stop(self) -> None:
        """No new tasks; raises what a caller failed with."""
        self._stopping = True
        await asyncio.gather(*self._loops)

    def raise_failures(self) -> None:
        for one in self._loops:
            if one.done():
                one.result()

    async def _caller(self, number: int) -> None:
        while not self._stopping:
            await self._one(number % len(self._gates))
            await asyncio.sleep(self.think_s * 2 * self._random.random())

    async def _one(self, gate: int) -> None:
        draw = self._random
        self._made += 1
        kind_name = draw.choice(list(KINDS))
        kind, key = KINDS[kind_name], draw.randrange(len(self._keys))
        fault = draw.choices([text for _, text in FAULTS], [weight for weight, _ in FAULTS])[0]
        directive = ",".join(filter(None, (f"task-takes={self.takes_s(draw):.2f}s", fault)))
        body = kind.body(f"take {self._made} [sandbox:{directive}]")
        callback = kind.callback and draw.random() < CALLBACK_SHARE
        if callback:
            body["callback_url"] = self._hooks(key)
        headers = {"authorization": f"Bearer {self._keys[key]}"}
        repeats = draw.random() < IDEMPOTENT_SHARE
        if repeats:
            headers["idempotency-key"] = f"idem-{draw.getrandbits(64):x}"
        for attempt in range(REPEATS_MAX if repeats else 1):
            where = (gate + attempt) % len(self._gates)
            answer = await self._ask(where, kind.path, body, headers)
            if answer is None:
                continue
            status, replayed, reply = answer
            self.statuses[_shown(status, reply)] += 1
            if status < 300 and (name := kind.name(reply)):
                self.of_gate[where] += 1
                self.replayed += replayed
                self.begun[name] = Begun(name, kind_name, key, fault, callback)
                if repeats:
                    self.fresh[headers["idempotency-key"]].add(name)
                if not repeats or draw.random() < 0.7:
                    return
            elif status < 500:
                return

    async def _ask(self, gate: int, path: str, body: Any, headers: dict[str, str]) -> tuple[int, bool, Any] | None:
        """(status, whether it is a repeated answer, the answer); None when the connection broke."""
        try:
            async with answered_in_time(f"POST {path}, {headers}"):
                async with self._http.post(self._gates[gate].origin + path, json=body, headers=headers) as reply:
                    read = await reply.read()
            return reply.status, "idempotent-replayed" in reply.headers, msgspec.json.decode(read)
        except aiohttp.ClientError as error:
            self.broken[type(error).__name__] += 1
            await asyncio.sleep(0.05)
            return None


def _shown(status: int, reply: Any) -> str:
    error = reply.get("error") if isinstance(reply, dict) else None
    code = error.get("code") if isinstance(error, dict) else ""
    return f"{status} {code}".strip() if status >= 300 else str(status)
