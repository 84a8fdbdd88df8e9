"""`elkapi embed`: one vector, from the running model process if there is one, else computed here."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import click
import msgspec

from elkapi.cli.output import print_json
from elkapi.settings import Settings, load_settings

ANSWER_WAIT_S = 30.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the model process's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_WAIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_WAIT_S)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


@click.command()
@click.argument("text")
@click.option("--model", default="", help="a bundled model; default: the first one")
@click.option("--json", "as_json", is_flag=True, help="print model, dimensions and vector instead of the bare vector")
def embed(text: str, model: str, as_json: bool) -> None:
    """Print the vector of TEXT from a bundled model. Needs no key and no network."""
    if not text:
        raise click.UsageError("the text is empty")
    settings = load_settings()
    name, vector = _from_process(settings, text, model) or _in_process(settings, text, model)
    if as_json:
        print_json({"model": name, "dimensions": len(vector), "embedding": vector})
    else:
        click.echo(msgspec.json.encode(vector))


def _from_process(settings: Settings, text: str, model: str) -> tuple[str, list[float]] | None:
    """The running process's answer, or None without one. Raises ClickException with its error."""
    connection = _UnixConnection(settings.socket_path("models"))
    try:
        name = model or str(_ask(connection, "GET", "/v1/models", None)["data"][0]["id"])
        body = msgspec.json.encode({"model": name, "input": text})
        return name, _ask(connection, "POST", "/v1/embeddings", body)["data"][0]["embedding"]
    except (OSError, http.client.HTTPException, LookupError):
        return None
    finally:
        connection.close()


def _ask(connection: _UnixConnection, method: str, path: str, body: bytes | None) -> Any:
    connection.request(method, path, body, {"content-type": "application/json"})
    reply = connection.getresponse()
    answer = msgspec.json.decode(reply.read())
    if reply.status >= 500:
        raise http.client.HTTPException(f"status {reply.status}")
    if reply.status >= 400:
        raise click.ClickException(answer["error"]["message"])
    return answer


def _in_process(settings: Settings, text: str, model: str) -> tuple[str, list[float]]:
    from elkapi.local.engine import embed_texts
    from elkapi.local.models import INSTALL_HINT, ModelUnusable, read_rows

    try:
        vector = embed_texts([text], model, settings.models_dir)[0]
    except ModelUnusable as error:
        raise click.ClickException(f"{error}; {INSTALL_HINT}") from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    return model or read_rows(settings.models_dir)[0][0].id, vector
