"""Coding agents at work against a gateway, on a machine whose only interface is loopback; run by `agents.watched`.

Reads a plan on standard input, starts one sandbox and one gateway, runs each of the plan's tasks with the agent in an
empty home and an environment that holds only what the plan names, and prints what came of them. It judges nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from elkapi.sandbox.server import Running, running  # noqa: E402 - the path above is where these lie.
from tests.gateway import Gateway, gateway  # noqa: E402
from tests.isolation import bring_loopback_up, reaches_out  # noqa: E402
from tests.text_calls import UPSTREAMS  # noqa: E402

TASK_S = 60
QUESTION = "What is seven times six?\n"


async def _task(gate: Gateway, sandbox: Running, plan: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Run the agent once; `{origin}`, `{key}`, `{work}` and `{model}` in the plan's texts are filled in."""
    with tempfile.TemporaryDirectory(prefix="elk-agent-", ignore_cleanup_errors=True) as name:
        home, work = Path(name, "home"), Path(name, "work")
        home.mkdir()
        work.mkdir()
        (work / "question.txt").write_text(QUESTION)
        words = {
            "origin": gate.origin,
            "key": await gate.key(task.get("balance", "10")),
            "work": str(work),
            "model": task["model"],
        }
        for path, text in {**plan["files"], **task.get("files", {})}.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(_filled(text, words))
        environment = {"HOME": str(home), **{k: _filled(v, words) for k, v in plan["environment"].items()}}
        environment |= {k: _filled(v, words) for k, v in task.get("environment", {}).items()}
        process = await asyncio.create_subprocess_exec(
            *(_filled(word, words) for word in [*plan["command"], task["prompt"]]),
            cwd=work,
            env={k: v for k, v in environment.items() if v},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said, complaint = await asyncio.wait_for(process.communicate(), TASK_S)
        except TimeoutError:
            process.kill()
            said, complaint = await process.communicate()
        received = [
            {"target": row.target, "headers": dict(row.headers), "body": json.loads(body)}
            for row in sandbox.sandbox.recorder.shown()
            if name.encode() in (body := base64.b64decode(row.body_base64))
        ]
        return {
            "status": process.returncode,
            "said": said.decode("utf-8", "replace"),
            "complaint": complaint.decode("utf-8", "replace"),
            "files": {path.name: path.read_text("utf-8", "replace") for path in work.iterdir() if path.is_file()},
            "received": received,
        }


def _filled(text: str, words: dict[str, str]) -> str:
    # By hand: the script words of a prompt are full of braces.
    for name, word in words.items():
        text = text.replace("{" + name + "}", word)
    return text


async def _found(plan: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="elk-gate-") as folder, running() as sandbox:
        async with gateway(Path(folder)) as gate:
            for model, (family, theirs) in plan["models"].items():
                secret, options = UPSTREAMS[family]
                spec: dict[str, Any] = {"secrets": (secret,), "options": options, "model_map": {model: theirs}}
                await gate.channel(sandbox.base_url, (model,), family=family, **spec)
                await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")
            one_at_a_time = asyncio.Semaphore(os.cpu_count() or 1)

            async def run(task: dict[str, Any]) -> dict[str, Any]:
                async with one_at_a_time:
                    return await _task(gate, sandbox, plan, task)

            tasks = await asyncio.gather(*map(run, plan["tasks"].values()))
            targets = Counter(row.target for row in sandbox.sandbox.recorder.shown())
            held, posted = gate.sql("select sum(held_nano), sum(posted_nano) from accounts where kind = 'customer'")[0]
            charged = gate.sql("select coalesce(sum(charge_nano), 0) from requests")[0][0]
        log = [json.loads(line) for line in Path(folder, "gateway.log").read_text("utf-8").splitlines()]
    given = sum(int(task.get("balance", "10")) for task in plan["tasks"].values())
    spent = given * 10**9 - int(posted)
    money = {"held_nano": int(held), "spent_nano": spent, "charged_nano": int(charged)}
    return {"targets": targets, "tasks": dict(zip(plan["tasks"], tasks, strict=True)), "log": log, "money": money}


def main() -> None:
    plan = json.load(sys.stdin)
    if plan["isolated"]:
        bring_loopback_up()
    found: dict[str, Any] = {"interfaces": [name for _, name in socket.if_nameindex()] if plan["isolated"] else []}
    found |= {"outside": reaches_out()} if plan["isolated"] else {}
    print(json.dumps({**found, **asyncio.run(_found(plan))}))


if __name__ == "__main__":
    main()
