"""The frame of every page: escaping, inline style and script, and the content security policy; pure."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files

from elkapi import __version__

STYLE = files("elkapi.control").joinpath("assets/site.css").read_text("utf-8")
SCRIPT = files("elkapi.control").joinpath("assets/site.js").read_text("utf-8")

ICON = files("elkapi.control").joinpath("assets/icon.svg").read_bytes()

LINKS = (("/docs", "Docs"), ("/console", "Console"), ("/api/status", "Status"))


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# One style and one script, both inline and allowed by hash: nothing else may run, load, frame or submit.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_source(STYLE)}",
        f"script-src {_source(SCRIPT)}",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def page(title: str, body: str, *, at: str = "") -> str:
    """A whole document. `title` is escaped here, `body` is HTML; `at` is the current entry of LINKS."""
    links = "".join(
        f'<a href="{href}"{" aria-current=page" if href == at else ""}>{escape(text)}</a>' for href, text in LINKS
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="/favicon.svg" type="image/svg+xml">'
        f"<style>{STYLE}</style></head><body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        '<header class="bar"><div><a class="brand" href="/">elkapi</a>'
        f'<nav aria-label="Site">{links}</nav></div></header>'
        f'<main id="content">{body}</main>'
        f"<footer>elkapi {escape(__version__)}, self-hosted AI API gateway, Apache-2.0</footer>"
        f"<script>{SCRIPT}</script></body></html>"
    )


def sample(label: str, language: str, code: str) -> str:
    """A labelled block of code with a copy button."""
    return (
        f'<div class="sample"><div class="label"><span>{escape(label)}</span></div>'
        f'<pre tabindex="0"><code class="language-{escape(language)}">{escape(code)}</code></pre></div>'
    )


def error_page(status: int, title: str, text: str) -> str:
    """The page for an error; never contains a trace."""
    body = (
        f'<h1>{escape(title)}</h1><p class="lead">{escape(text)}</p>'
        '<p class="actions"><a class="button" href="/">Front page</a><a class="button" href="/docs">Docs</a></p>'
    )
    return page(f"{status} {title}", body)
