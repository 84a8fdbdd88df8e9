"""The store of generated files: URLs have a signature and an expiry instead of a key; errors are S3's."""

from __future__ import annotations

from xml.sax.saxutils import escape

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Problem, Request
from elkapi.sandbox.routes import Provider, Route


def take(request: Request) -> Answer:
    """`POST /_files/uploads/{token}`: an upload announced by a provider; its content is discarded."""
    return Answer(204, (b"",))


def refusal(problem: Problem) -> Answer:
    """A problem in S3's error format."""
    code = problem.code or "InvalidRequest"
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(problem.message)}</Message></Error>"
    )
    return Answer(problem.status, (body.encode(),), "application/xml")


def _nobody(request: Request, keys: frozenset[str] | None) -> None:
    """No key is needed: the URL is signed."""


PROVIDER = Provider(
    name="files",
    mounts=(tasks.FILES_PATH,),
    key=lambda request: None,
    check=_nobody,
    refusal=refusal,
    dress=lambda request, answer, took_s: answer,
    routes=(
        Route("GET", "/{token}/{name}", tasks.file),
        Route("POST", "/uploads/{token}", take),
    ),
)
