"""Search a folder of Markdown by meaning, with the official OpenAI client against a gateway.

    export ELKAPI_KEY=sk-...
    python examples/semantic_search.py "may I repeat a call that failed?"
    python examples/semantic_search.py --self-test

Each page is cut at its headings, into paragraphs and table rows; every piece is embedded with the titles above it, and
a question is compared with each piece by cosine. A page counts as much as its best piece.
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
HEADING = re.compile(r"(#{1,4}) (.*)")
RULE = re.compile(r"\|[-| :]+\|$")

# What a reader may ask, and the page of this project's documentation that answers it.
QUESTIONS = (
    ("which HTTP status tells me that my API key is wrong, and should I retry?", "errors"),
    ("am I charged when I disconnect before the answer is complete?", "money"),
    ("how do I make a backup and restore it on another server?", "operate"),
    ("how do I change the port that the gateway listens on?", "settings"),
    ("what is the longest text the local model can turn into a vector?", "embeddings"),
)


class Piece(NamedTuple):
    """A part of a page that fits into the model's window, under the headings above it."""

    page: str
    heading: str
    text: str


def pieces_of(path: Path) -> Iterator[Piece]:
    """The paragraphs of a Markdown file; each row of a table is one, and so is a block of code."""
    titles: list[str] = []
    paragraph: list[str] = []
    in_code = False
    for line in [*path.read_text("utf-8").splitlines(), ""]:
        heading = None if in_code else HEADING.match(line)
        is_row = not in_code and line.startswith("|")
        if line.startswith("```"):
            in_code = not in_code
        if (heading or is_row or not line.strip()) and not in_code:
            for text in split_long(" ".join(paragraph)):
                yield Piece(path.stem, " > ".join(titles), text)
            paragraph = []
        if heading:
            titles = [*titles[: len(heading[1]) - 1], heading[2].replace("`", "")]
        elif is_row and not RULE.match(line):
            yield from (Piece(path.stem, " > ".join(titles), text) for text in split_long(cells_of(line)))
        elif not is_row and line.strip():
            paragraph.append(line.strip())


def cells_of(row: str) -> str:
    """A table's row as a reader would say it."""
    return ", ".join(cell for cell in (cell.strip(" `") for cell in row.split("|")) if cell)


def split_long(text: str) -> Iterator[str]:
    """The text in pieces of at most PIECE_CHARACTERS_MAX, cut between words."""
    piece = ""
    for word in text.split():
        if piece and len(piece) + 1 + len(word) > PIECE_CHARACTERS_MAX:
            yield piece
            piece = ""
        piece = f"{piece} {word}".lstrip()
    if piece:
        yield piece


def embed(client: OpenAI, model: str, texts: list[str]) -> numpy.ndarray:
    """A row of length 1 for each text."""
    rows: list[list[float]] = []
    for start in range(0, len(texts), BATCH_TEXTS):
        # Cut what is over the window rather than fail on one odd piece; upstream models would refuse the field.
        extra = {"truncate": True} if model == MODEL else None
        reply = client.embeddings.create(model=model, input=texts[start : start + BATCH_TEXTS], extra_body=extra)
        rows += [item.embedding for item in reply.data]
    matrix = numpy.array(rows, dtype=numpy.float32)
    unit: numpy.ndarray = matrix / numpy.linalg.norm(matrix, axis=1, keepdims=True)
    return unit


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
