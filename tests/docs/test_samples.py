"""Every Shell, Python and Node sample of the documentation, run as a reader would paste it, against docs_gateway.

A sample is a fenced `sh`, `python` or `js` block whose first line is `# sample: NAME` (`// sample: NAME` in `js`).
Addresses in it are replaced by those of the gateway under test; nothing else is.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from elkapi.sandbox.server import running
from examples import semantic_search
from tests.clients.client_stage import NODE_PACKAGES, from_npm
from tests.live import LiveGateway, free_port

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLE_S = 60
# It embeds the whole documentation, which takes a busy machine minutes.
SEARCH_S = 400
_FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"\A(?:#|//) sample: (?P<name>.+)\n")
# Blocks in these languages are commands or programs; each must be a sample, or be listed here with the reason.
RUNNABLE = {"sh", "python", "js"}
# What a sample must show, where anything at all is not enough.
SHOWN = {
    "claude-code: Claude Code says hello": "Hello from the sandbox.",
    "retry: the SDK waits and asks again": "Are you there? after 1 retry",
    "retry: the SDK for Node waits and asks again": "Are you there? as req_",
    "retry: the gateway first, then the provider itself": "the provider: You said: Are you there?",
    "apps: what an application asks": "data: [DONE]",
    "batches: a batch of two": "Lima - Lima is old.",
    "webhooks: a receiver": "task.succeeded",
    "webhooks: the secret of a key": "whsec_",
    "stored: a conversation goes on with another model": "You are Ada.",
}
# Programs' own variables of whoever runs the tests; a sample sets what it needs.
FOREIGN = ("ANTHROPIC_", "CLAUDE", "CODEX_", "OPENAI_")


def samples() -> list[tuple[str, str, str]]:
    """(name, language, code) of every sample, in the order of the pages."""
    found = []
    for page in PAGES:
        for block in _FENCE.finditer(page.read_text("utf-8")):
            if named := _NAMED.match(block["code"]):
                found.append((f"{page.stem}: {named['name']}", block["language"], block["code"]))
    return found


def test_sample_names_are_unique() -> None:
    names = [name for name, _, _ in samples()]
    assert len(names) == len(set(names))
    assert len(names) >= 8


@pytest.mark.parametrize(
    "name",
    [
        "quick-start",
        "embeddings",
        "money",
        "operate",
        "errors",
        "settings",
        "claude-code",
        "retry",
        "apps",
        "batches",
        "stored",
        "webhooks",
    ],
)
def test_every_command_of_a_page_is_a_sample(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text("utf-8")
    loose = [
        block["code"]
        for block in _FENCE.finditer(text)
        if block["language"] in RUNNABLE and not _NAMED.match(block["code"])
    ]
    assert loose == []


def test_semantic_search_cuts_pages_into_pieces_under_their_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n\nintro\n\n## Two `x`\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n"
        "```sh\n# no heading\n\nrun\n```\n\n# Three\n" + "word " * 200
    )
    pieces = list(semantic_search.pieces_of(page))
    assert [(piece.heading, piece.text) for piece in pieces[:3]] == [
        ("One", "intro"),
        ("One > Two x", "a, b"),
        ("One > Two x", "1, 2"),
    ]
    assert pieces[3].text == "```sh # no heading run ```"
    long = [piece.text for piece in pieces if piece.heading == "Three"]
    assert len(long) > 1
    assert " ".join(long) == ("word " * 200).strip()
    assert all(len(text) <= semantic_search.PIECE_CHARACTERS_MAX for text in long)


@pytest.mark.timeout(SEARCH_S + 30)
def test_semantic_search_finds_the_right_pages(docs_gateway: LiveGateway) -> None:
    environment = docs_gateway.environment | {
        "ELKAPI_KEY": docs_gateway.key,
        "OPENAI_BASE_URL": f"{docs_gateway.base_url}/v1",
    }
    done = subprocess.run(
        [sys.executable, semantic_search.__file__, "--self-test"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SEARCH_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 5


def needs(language: str, code: str) -> None:
    """Skip a sample, or fail where every suite is to run, when the program it starts is not installed."""
    if re.search(r"^claude ", code, re.MULTILINE):
        from_npm(".bin/claude", "Claude Code")
    if language == "js":
        from_npm("openai", "openai for Node")


def arguments_for(language: str, code: str, node: Path) -> list[str]:
    """The command that runs the code. The options of bash: a failure in the middle would pass unseen without them."""
    match language:
        case "sh":
            return ["bash", "-euo", "pipefail", "-c", code]
        case "js":
            return [str(node), "--input-type=module", "-e", code]
    return [sys.executable, "-c", code]


def run_sample(gateway: LiveGateway, folder: Path, language: str, code: str, node: Path, **more: str) -> str:
    """What the code says, run as a reader would paste it; fails unless it ends well."""
    environment = {k: v for k, v in gateway.environment.items() if not k.startswith(FOREIGN)} | more
    environment |= {"ELKAPI_KEY": gateway.key, "OPENAI_API_KEY": gateway.key, "HOME": str(folder)}
    environment["PATH"] = os.pathsep.join([str(NODE_PACKAGES / ".bin"), str(node.parent), environment["PATH"]])
    folder.mkdir(exist_ok=True)
    (folder / "node_modules").symlink_to(NODE_PACKAGES)
    arguments = arguments_for(language, code, node)
    with (folder / "out").open("w+", encoding="utf-8") as out:
        # A group of its own: a sample may leave a process running, as a reader's shell would.
        process = subprocess.Popen(
            arguments,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(SAMPLE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = (folder / "out").read_text("utf-8")
    assert status == 0, said
    assert '"error"' not in said, said
    assert "Traceback" not in said, said
    assert said.strip(), "the sample shows nothing"
    return said


@pytest.mark.parametrize(("language", "code"), [pytest.param(lang, code, id=name) for name, lang, code in samples()])
def test_sample_runs_as_it_stands(
    request: pytest.FixtureRequest, docs_gateway: LiveGateway, tmp_path: Path, node: Path, language: str, code: str
) -> None:
    assert language in RUNNABLE
    needs(language, code)
    code = code.replace("http://127.0.0.1:8000", docs_gateway.base_url).replace("8100", str(free_port()))
    with contextlib.ExitStack() as stack:
        more: dict[str, str] = {}
        if "ELKAPI_TEST_KEY" in code:
            more["ELKAPI_TEST_KEY"] = docs_gateway.make_key(f"samples-{tmp_path.name}", "--test")
        if "OPENAI_BASE_URL" in code:
            more["OPENAI_BASE_URL"] = f"{stack.enter_context(running()).base_url}/v1"
        said = run_sample(docs_gateway, tmp_path, language, code, node, **more)
    assert SHOWN.get(request.node.callspec.id, "") in said


def test_every_expected_text_belongs_to_a_sample() -> None:
    assert SHOWN.keys() <= {name for name, _, _ in samples()}


def test_examples_on_the_front_page_run_as_they_stand(docs_gateway: LiveGateway, tmp_path: Path, node: Path) -> None:
    with urllib.request.urlopen(f"{docs_gateway.base_url}/", timeout=10) as answer:
        page = answer.read().decode()
    found = re.findall(r'<pre tabindex="0"><code class="language-(\w+)">(.*?)</code></pre>', page, re.DOTALL)
    said = {
        language: run_sample(docs_gateway, tmp_path / language, language, html.unescape(code), node)
        for language, code in found
    }
    assert '"object":"embedding"' in said["sh"]
    assert said["python"].strip() == "384 numbers"
