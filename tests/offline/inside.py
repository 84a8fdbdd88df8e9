"""What a user does, on a machine without a network: run by test_offline.py inside a network namespace of its own.

Starts the gateway, runs the `curl` it prints, the semantic search of examples/, and a chat in every dialect; prints one
JSON object of what came of it. It judges nothing.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.isolation import bring_loopback_up, reaches_out  # noqa: E402 - the path above is where it lies.
from tests.live import LiveGateway, running_gateway  # noqa: E402
from tests.text_calls import CLIENTS, ask  # noqa: E402

EXAMPLE = ROOT / "examples/semantic_search.py"
COMMAND_S = 60
SEARCH_S = 120
CHAT_MODEL = "smollm2-135m-instruct"
CHAT_S = 60
_PRINTED = re.compile(r"^curl .*?[^\\]$", re.MULTILINE | re.DOTALL)


def chat(gateway: LiveGateway, client: str, stream: bool) -> dict[str, object]:
    """What the bundled chat model answers in one dialect."""
    asked = ask(client, CHAT_MODEL, "Say hello.", stream=stream, max_tokens=5)
    headers = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json", **asked.headers}
    request = urllib.request.Request(gateway.base_url + asked.path, json.dumps(asked.body).encode(), headers)
    with urllib.request.urlopen(request, timeout=CHAT_S) as answer:
        return {"client": client, "stream": stream, "answer": answer.read().decode()}


def main() -> None:
    bring_loopback_up()
    found: dict[str, object] = {"interfaces": [name for _, name in socket.if_nameindex()], "outside": reaches_out()}
    with running_gateway() as gateway:
        printed = _PRINTED.search(gateway.log_path.read_text("utf-8"))
        if printed is None:
            raise SystemExit(f"no curl was printed:\n{gateway.log_tail()}")
        found["printed"] = printed[0]
        # -sS: the answer alone on standard output, as the reader sees it without a progress bar.
        command = printed[0].replace("curl ", "curl -sS ", 1)
        asked = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=COMMAND_S)
        found["curl"] = {"status": asked.returncode, "answer": asked.stdout, "complaint": asked.stderr}
        environment = gateway.environment | {
            "ELKAPI_KEY": gateway.key,
            "OPENAI_BASE_URL": f"{gateway.base_url}/v1",
        }
        search = subprocess.run(
            [sys.executable, str(EXAMPLE), "--self-test"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SEARCH_S,
        )
        found["search"] = {"status": search.returncode, "answer": search.stdout, "complaint": search.stderr}
        found["embed"] = gateway.run("embed", "The food was delicious and the waiter...", "--json").stdout
        found["chats"] = [chat(gateway, client, stream) for client in CLIENTS for stream in (False, True)]
        found["log"] = gateway.log_path.read_text("utf-8", "replace")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
