"""Search a folder of Markdown by meaning, with the official OpenAI client against a gateway.

    export ELKAPI_KEY=sk-...
    python examples/semantic_search.py "may I repeat a call that failed?"
    python examples/semantic_search.py --self-test

Each page is cut at its headings and, where a section is long, between its paragraphs; every piece is embedded with the
titles above it, and a question is compared with each piece by cosine. A page counts as much as its best piece.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
from openai import OpenAI

MODEL = "all-MiniLM-L6-v2"
BASE_URL = "http://127.0.0.1:8000/v1"
BATCH_TEXTS = 64
# The bundled model reads 256 tokens; English prose and Markdown stay below that at this length.
PIECE_CHARACTERS_MAX = 600
PAGES_SHOWN = 3

# What a reader may ask, and the page of this project's documentation that answers it.
QUESTIONS = (
    ("which HTTP status tells me that my API key is wrong, and should I retry?", "errors"),
    ("am I charged when I disconnect before the answer is complete?", "money"),
    ("how do I make a backup and restore it on another server?", "operate"),
    ("which environment variable changes the port that the gateway listens on?", "settings"),
    ("what is the longest text the local model can turn into a vector?", "embeddings"),
)


class Piece(NamedTuple):
    """A part of a page that fits into the model's window, under the headings above it."""

    page: str
    heading: str
    text: str


def pieces_of(path: Path) -> Iterator[Piece]:
    """Sections of a Markdown file; a long one in several pieces."""
    titles: list[str] = []
    for section in re.split(r"(?m)^(?=#{1,4} )", path.read_text("utf-8")):
        found = re.match(r"(#{1,4}) (.*)\n?", section)
        body = section
        if found:
            level = len(found[1])
            titles = [*titles[: level - 1], found[2].strip("` ")]
            body = section[found.end() :]
        heading = " > ".join(titles)
        for text in split_long(body):
            yield Piece(path.stem, heading, text)


def split_long(body: str) -> Iterator[str]:
    """The body in pieces of at most PIECE_CHARACTERS_MAX, cut between lines; a longer line is cut where it must be."""
    piece = ""
    for line in body.splitlines(keepends=True):
        while len(line) > PIECE_CHARACTERS_MAX:
            yield from (text for text in (piece.strip(), line[:PIECE_CHARACTERS_MAX].strip()) if text)
            piece, line = "", line[PIECE_CHARACTERS_MAX:]
        if len(piece) + len(line) > PIECE_CHARACTERS_MAX and piece.strip():
            yield piece.strip()
            piece = ""
        piece += line
    if piece.strip():
        yield piece.strip()


def embed(client: OpenAI, model: str, texts: list[str]) -> numpy.ndarray:
    """A row of length 1 for each text."""
    rows: list[list[float]] = []
    for start in range(0, len(texts), BATCH_TEXTS):
        # Cut what is over the window rather than fail on one odd piece; upstream models would refuse the field.
        extra = {"truncate": True} if model == MODEL else None
        reply = client.embeddings.create(model=model, input=texts[start : start + BATCH_TEXTS], extra_body=extra)
        rows += [item.embedding for item in reply.data]
    matrix = numpy.array(rows, dtype=numpy.float32)
    return matrix / numpy.linalg.norm(matrix, axis=1, keepdims=True)


class Index:
    """The pieces of a folder and their vectors."""

    def __init__(self, client: OpenAI, model: str, folder: Path) -> None:
        self._client = client
        self._model = model
        self.pieces = [piece for path in sorted(folder.glob("*.md")) for piece in pieces_of(path)]
        if not self.pieces:
            raise SystemExit(f"there is no Markdown in {folder}")
        self._vectors = embed(client, model, [f"{piece.heading}\n{piece.text}" for piece in self.pieces])

    def search(self, question: str) -> list[tuple[float, Piece]]:
        """Each page's best piece with its cosine, best first."""
        scores = self._vectors @ embed(self._client, self._model, [question])[0]
        best: dict[str, tuple[float, Piece]] = {}
        for score, piece in sorted(zip(scores.tolist(), self.pieces, strict=True), key=lambda found: -found[0]):
            best.setdefault(piece.page, (score, piece))
        return list(best.values())


def self_test(index: Index) -> int:
    """Ask what is known; returns how many answers were wrong."""
    wrong = 0
    for question, page in QUESTIONS:
        (score, piece), *_ = index.search(question)
        wrong += piece.page != page
        print(f"{'ok   ' if piece.page == page else 'WRONG'} {score:.3f} {piece.page:12} {question}")
        if piece.page != page:
            print(f"      expected {page}, found under: {piece.heading}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Search a folder of Markdown by meaning.")
    parser.add_argument("question", nargs="?", help="what to look for")
    parser.add_argument(
        "--docs", type=Path, default=Path(__file__).parents[1] / "docs", help="folder of Markdown files"
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--self-test", action="store_true", help="ask five questions whose page is known")
    options = parser.parse_args()
    if not options.question and not options.self_test:
        parser.error("give a question, or --self-test")
    key = os.environ.get("ELKAPI_KEY")
    if not key:
        parser.error("set ELKAPI_KEY to a key of the gateway")
    client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", BASE_URL), api_key=key)
    index = Index(client, options.model, options.docs)
    if options.self_test:
        return 1 if self_test(index) else 0
    for score, piece in index.search(options.question)[:PAGES_SHOWN]:
        print(f"{score:.3f}  {piece.page}  {piece.heading}")
        print("       " + " ".join(piece.text.split())[:110])
    return 0


if __name__ == "__main__":
    sys.exit(main())
