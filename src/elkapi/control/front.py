"""The page at `/`, an introduction with first calls to try, and the page at `/console`; pure."""

from __future__ import annotations

import json
import re
from html import escape
from textwrap import dedent

from elkapi.control.html import page, sample
from elkapi.control.status import LocalModels

# Host headers that are safe to show in a command that somebody will paste.
_HOST = re.compile(r"\A(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")

SAMPLE_TEXT = "The food was delicious and the waiter was kind."

COMMANDS = (
    ("elkapi key create --name NAME --balance 5", "create a key with 5 US dollars and print it once"),
    ("elkapi key list", "list the keys with their group, state and balance"),
    ("elkapi channel add --family openai --base-url URL --key KEY --models A,B", "add a channel to an upstream"),
    ("elkapi channel list", "list the channels and how many of their keys are in service"),
    ("elkapi channel test CHANNEL", "send the upstream a free request with each key"),
    ("elkapi price set --model M --input-per-1m USD", "set a price; a model without one is refused"),
    ("elkapi request list", "list the newest calls with channel, attempts and cost"),
    ("elkapi ledger check", "recompute every balance and compare"),
    ("elkapi backup FILE", "write a consistent copy while the gateway runs"),
    ("elkapi doctor", "print the effective settings, secrets masked"),
)


def origin(host: str, scheme: str, fallback: str) -> str:
    """The origin the browser requested, with `fallback` (host:port) if the header is invalid."""
    return f"{'https' if scheme == 'https' else 'http'}://{host if _HOST.match(host) else fallback}"


def shell_sample(base: str, model: str) -> str:
    """A call with curl; the key comes from the environment."""
    return dedent(
        f"""\
        curl {base}/v1/embeddings \\
          -H "Authorization: Bearer $ELKAPI_KEY" \\
          -H "Content-Type: application/json" \\
          -d '{{"model": {json.dumps(model)},
               "input": {json.dumps(SAMPLE_TEXT)}}}'"""
    )


def python_sample(base: str, model: str) -> str:
    """The same call with the official SDK."""
    return dedent(
        f"""\
        # pip install openai
        import os
        from openai import OpenAI

        client = OpenAI(
            base_url="{base}/v1",
            api_key=os.environ["ELKAPI_KEY"],
        )
        reply = client.embeddings.create(
            model={json.dumps(model)},
            input={json.dumps(SAMPLE_TEXT)},
        )
        print(len(reply.data[0].embedding), "numbers")"""
    )


def front_page(base: str, models: LocalModels) -> str:
    """The front page; `base` is the origin that the browser requested."""
    model = models.sample_model
    own = "an embedding model and a small chat model" if models.chat_model else "an embedding model"
    body = f"""
      <h1>One address and one key for all your AI providers</h1>
      <p class="lead">elkapi is a self-hosted AI API gateway. It speaks the OpenAI format at
      <code>{escape(base)}/v1</code>, comes with {own}, relays other models to the
      upstreams you add, and accounts for every call to the nano-dollar.</p>
      <p class="actions"><a class="button main" href="/docs/quick-start">Quick start</a>
      <a class="button" href="/docs">Docs</a><a class="button" href="/console">Console</a></p>
      <div class="front"><div>
      <section><h2>Make a key and call it</h2>
      <p>On the gateway's machine, <code>elkapi key create --name me</code> prints a key once (in a clone the command
      is <code>.venv/bin/elkapi</code>). Put it into <code>ELKAPI_KEY</code>, then:</p>
      {sample("Shell", "sh", shell_sample(base, model))}</section>
      <section>{sample("Python", "python", python_sample(base, model))}</section>
      </div><aside>{_models_card(models)}{_links_card()}</aside></div>"""
    return page("elkapi, a self-hosted AI API gateway", body)


def _models_card(models: LocalModels) -> str:
    rows = "".join(
        f"<li><code>{escape(m.id)}</code><small>{m.dimensions} dimensions</small></li>" for m in models.models
    )
    if models.chat_model:
        rows += f"<li><code>{escape(models.chat_model)}</code><small>chat, small; its first call starts it</small></li>"
    if models.ready:
        state = '<p class="state good">Ready on this machine</p>' if rows else '<p class="state">None installed</p>'
    else:
        state = '<p class="state bad">Starting, or not running on this machine</p>'
    return f'<div class="card"><h2>Local models</h2>{state}<ul>{rows}</ul></div>'


def _links_card() -> str:
    return (
        '<div class="card"><h2>Good to know</h2><ul>'
        '<li><a href="/docs/errors">Errors</a><small>every status and code, and what to do</small></li>'
        '<li><a href="/docs/money">Money</a><small>what is charged, when, and who bears what</small></li>'
        '<li><a href="/docs/operate">Operate</a><small>channels, keys, prices, backup</small></li>'
        '<li><a href="/api/status">Status</a><small>the same as JSON</small></li></ul></div>'
    )


def console_page() -> str:
    """The page in place of the web console."""
    rows = "".join(
        f"<tr><td><code>{escape(command)}</code></td><td>{escape(what)}</td></tr>" for command, what in COMMANDS
    )
    body = f"""
      <h1>The web console is not in this release</h1>
      <p class="lead">It comes with a later one. Until then, use the <code>elkapi</code> command on the gateway's
      machine; changes take effect in every process within a second.</p>
      <div class="scroll" tabindex="0"><table><thead><tr><th>Command</th><th>What it does</th></tr></thead>
      <tbody>{rows}</tbody></table></div>
      <p>Every listing command takes <code>--json</code>. See
      <a href="/docs/operate">how to operate a gateway</a>.</p>"""
    return page("Console · elkapi", body, at="/console")
