"""The user documentation: finds, orders and renders the Markdown files; `site` serves them."""

from __future__ import annotations

import re
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import msgspec
from markdown_it import MarkdownIt
from markdown_it.token import Token

import elkapi
from elkapi.control import operations

PICTURE_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
# Code blocks in these languages get a copy button.
COPIED = frozenset({"sh", "shell", "bash", "python", "toml"})
FILE_BYTES_MAX = 4 * 1024 * 1024

_LINK_TO_PAGE = re.compile(r"\A(?!/|[a-z][a-z0-9+.-]*:)([a-z0-9-]+)\.md(#.*)?\Z", re.IGNORECASE)
_NOT_SLUG = re.compile(r"[^a-z0-9]+")


class Page(msgspec.Struct, frozen=True):
    """One page: `name` is its path below /docs, `title` its first heading, `links` the pages it links to, in order."""

    name: str
    title: str
    markdown: str
    html: str
    links: tuple[str, ...]

    @property
    def path(self) -> str:
        return page_path(self.name)


def page_path(name: str) -> str:
    """The URL path of a page."""
    return "/docs" if name == "index" else f"/docs/{name}"


class Library:
    """Every page and image of one folder, read and rendered once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def pages(self) -> dict[str, Page]:
        """Pages by name in reading order: the index, the pages in the order of its links, then the others by name."""
        found = {path.stem: _read_page(path) for path in sorted(self._folder.glob("*.md"))}
        index = found.get("index")
        order = ["index", *(index.links if index else ()), *found]
        return {name: found[name] for name in dict.fromkeys(order) if name in found}

    def page(self, name: str) -> Page | None:
        """A page of the folder, or one generated from the catalog: the index of task operations, or one of them."""
        if (found := self.pages.get(name)) is not None:
            return found
        if name == operations.INDEX:
            return _made_page(name, operations.index_markdown())
        operation = operations.task_operations().get(name.removeprefix(operations.INDEX + "/"))
        return None if operation is None else _made_page(name, operations.markdown(operation))

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """Images by their path below the folder."""
        paths = (path for path in sorted(self._folder.rglob("*")) if path.suffix in PICTURE_TYPES and path.is_file())
        return {
            path.relative_to(self._folder).as_posix(): path.read_bytes()
            for path in paths
            if path.stat().st_size <= FILE_BYTES_MAX
        }

    def picture(self, name: str) -> tuple[bytes, str] | None:
        """An image and its media type, or None; only names listed from the folder exist, so no path can escape it."""
        content = self.pictures.get(name)
        return None if content is None else (content, PICTURE_TYPES[Path(name).suffix])


def docs_folder() -> Path:
    """The docs in the installed package or, in a clone, next to `src`."""
    package = Path(elkapi.__file__).parent
    shipped = package / "data" / "docs"
    return shipped if shipped.is_dir() else package.parents[1] / "docs"


def _read_page(path: Path) -> Page:
    return _made_page(path.stem, path.read_text("utf-8"))


def _made_page(name: str, markdown: str) -> Page:
    tokens = _parser.parse(markdown)
    links = _rewrite(tokens)
    title = next((token.content for token in _after_headings(tokens)), name)
    html = _parser.renderer.render(tokens, _parser.options, {})
    return Page(name=name, title=_plain(title), markdown=markdown, html=html, links=tuple(links))


def _after_headings(tokens: list[Token]) -> list[Token]:
    return [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open"]


def _plain(inline: str) -> str:
    return inline.replace("`", "").replace("*", "").strip()


def _rewrite(tokens: list[Token]) -> list[str]:
    """Give headings anchors and turn links between files into links between pages; returns the pages linked to."""
    anchors: dict[str, int] = {}
    linked: list[str] = []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(tokens[i + 1].content, anchors))
        for child in token.children or ():
            if child.type == "link_open" and (found := _LINK_TO_PAGE.match(str(child.attrs.get("href", "")))):
                name = found[1]
                child.attrSet("href", page_path(name) + (found[2] or ""))
                linked.append(name)
            elif child.type == "image" and not str(child.attrs.get("src", "")).startswith("/"):
                child.attrSet("src", f"/docs/{child.attrs['src']}")
    return linked


def _anchor(heading: str, taken: dict[str, int]) -> str:
    slug = _NOT_SLUG.sub("-", heading.lower()).strip("-") or "section"
    taken[slug] = taken.get(slug, 0) + 1
    return slug if taken[slug] == 1 else f"{slug}-{taken[slug]}"


def _render_block(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    """Render a fenced block, or an indented one, which has no language."""
    token = tokens[index]
    language = escape(token.info.split(maxsplit=1)[0]) if token.info.strip() else "text"
    code = f'<code class="language-{language}">{escape(token.content)}</code>'
    kind = "sample" if language in COPIED else "block"
    return f'<div class="{kind}"><pre tabindex="0">{code}</pre></div>\n'


def _render_code(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    # Allow line breaks in a long name only after underscores.
    return f"<code>{escape(tokens[index].content).replace('_', '_<wbr>')}</code>"


def _open_table(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return '<div class="scroll" tabindex="0"><table>\n'


def _close_table(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


def _make_parser() -> MarkdownIt:
    # Raw HTML in a page is shown as text, so a page can never contain a script (CVE-2025-3801).
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("fence", _render_block)
    parser.add_render_rule("code_block", _render_block)
    parser.add_render_rule("code_inline", _render_code)
    parser.add_render_rule("table_open", _open_table)
    parser.add_render_rule("table_close", _close_table)
    return parser


_parser = _make_parser()
