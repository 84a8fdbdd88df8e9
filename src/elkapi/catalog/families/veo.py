"""Veo as Google's clients call it: long-running predictions. Contract: veo.md ("Upstream")."""

from __future__ import annotations

from typing import Any

from elkapi.catalog.declare import Tasks
from elkapi.catalog.jsonpath import first
from elkapi.catalog.operation import Family, Hooks, ModelSource, Operation, Role
from elkapi.catalog.task import Made, Meter, TaskSpec
from elkapi.types import State

_ANSWER = "response.generateVideoResponse"
TASK = TaskSpec(
    id="name",
    state="state",
    states={"running": State.RUNNING, "succeeded": State.SUCCEEDED, "failed": State.FAILED},
    made=(Made(f"{_ANSWER}.generatedSamples[*].video.uri", auth=True),),
    error=("error.message", f"{_ANSWER}.raiMediaFilteredReasons[0]"),
    error_code="error.code",
    fetch="GET /v1beta/{+id}",
    done="done",
    address="/v1beta/files/{asset}:download?alt=media",
)
_METER = Meter(
    unit="second",
    seconds=("parameters.durationSeconds",),
    seconds_default=8.0,
    count="parameters.sampleCount",
    features={"resolution": ("parameters.resolution", "=720p"), "audio": ("parameters.generateAudio", "=true")},
)
_tasks = Tasks(family="veo", wire="veo", task=TASK, meter=_METER, model=ModelSource("path"))


def _accept(body: Any) -> Any:
    """Add the state: an operation reports only whether it is done; done without a sample is a failure."""
    if not isinstance(body, dict) or not body.get("done"):
        return body | {"state": "running"} if isinstance(body, dict) else body
    samples = first(f"{_ANSWER}.generatedSamples", body)
    return body | {"state": "succeeded" if samples and "error" not in body else "failed"}


FAMILY = Family(
    name="veo",
    dialect="gemini",
    hooks=Hooks(accept=_accept),
    operations=(
        _tasks.submit("predict", "/v1beta/models/{model}:predictLongRunning"),
        _tasks.fetch(
            "operation",
            "/v1beta/models/{model}/operations/{id}",
            kind="task",
            names="models/{model}/operations/{id}",
        ),
        Operation(
            id="veo.download",
            method="GET",
            # The id may be a file's whole URL: Google's client extracts the name only if the URL begins with https.
            path="/v1beta/files/{model}:download",
            family="veo",
            role=Role.GATEWAY,
            kind="file",
        ),
    ),
)
