"""Google's Veo: long-running predictions, polled by name; the Gemini API returns URLs, Vertex the bytes.

Each generated video is billed by the second; a filtered one is free.
"""

from __future__ import annotations

import base64
from typing import Any

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import veo_read
from elkapi.sandbox.providers.gemini_read import fields_of, json_object
from elkapi.sandbox.providers.gemini_schema import invalid
from elkapi.sandbox.providers.veo_read import VeoAsked
from elkapi.sandbox.tasks import VIDEO_TYPE, Film, Task

SHELF = "veo.operations"
# Longest name in Google's file store; names have lower-case letters and digits.
FILE_CHARS = 12
INTERNAL = 13
DEADLINE_EXCEEDED = 4
FAILURES = {
    "failed": (INTERNAL, "Video generation failed due to an internal server issue. Please try again in a few minutes."),
    "expired": (DEADLINE_EXCEEDED, "Video generation took too long. Please try again."),
}
FILTERED = (
    "The model could not generate the video since the prompt or the result violates the usage guidelines. You will not "
    "be charged for blocked videos. Try rephrasing the prompt."
)
RESPONSE_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
VERTEX_TYPE = "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"


def predict_long_running(request: Request) -> Answer:
    """`POST models/{model}:predictLongRunning`."""
    model = request.params["model"]
    return _started(request, f"models/{model}", veo_read.read(request.body, model))


def operation(request: Request) -> Answer:
    """`GET models/{model}/operations/{id}`."""
    task = _found(request, f"models/{request.params['model']}/operations/{request.params['id']}")
    body = _shown(task, request.now_s)
    if task.state(request.now_s) in ("succeeded", "moderated"):
        body["response"] = {"@type": RESPONSE_TYPE, "generateVideoResponse": _samples(task, request)}
    return json_answer(body)


def download(request: Request) -> Answer:
    """`GET files/{id}:download`: the video's bytes, only for the key that created it."""
    file_id = request.params["id"]
    for task in tasks.owned(request, SHELF):
        if task.state(request.now_s) == "succeeded" and file_id in _files(task) and not task.is_lost(request.now_s):
            return tasks.ranged(request, task.video(), VIDEO_TYPE)
    message = "You do not have permission to access the File " + file_id + " or it may not exist."
    raise Problem(403, message)


def vertex_predict_long_running(request: Request) -> Answer:
    """`POST publishers/google/models/{model}:predictLongRunning`."""
    model = request.params["model"]
    return _started(request, _vertex_place(request), veo_read.read(request.body, model, vertex=True))


def fetch_predict_operation(request: Request) -> Answer:
    """`POST publishers/google/models/{model}:fetchPredictOperation`."""
    name = fields_of(json_object(request.body), "", {"operationName"}).get("operationName")
    if not isinstance(name, str) or not name.startswith(_vertex_place(request) + "/operations/"):
        raise invalid("Invalid operation name: it does not belong to the model.")
    task = _found(request, name)
    body = _shown(task, request.now_s)
    if task.state(request.now_s) in ("succeeded", "moderated"):
        made = {"bytesBase64Encoded": base64.b64encode(task.video()).decode("ascii"), "mimeType": VIDEO_TYPE}
        samples = [made] * len(_files(task)) if task.state(request.now_s) == "succeeded" else []
        body["response"] = {"@type": VERTEX_TYPE, "videos": samples, **_filtered(task, request)}
    return json_answer(body)


def _started(request: Request, place: str, asked: VeoAsked) -> Answer:
    name = f"{place}/operations/{request.upstream_request_id[:16]}"
    cost = asked.nano_usd_per_second * asked.seconds * asked.samples
    charge = Charge(request.params["model"], 0, cost)
    tasks.start(
        request,
        SHELF,
        name,
        asked,
        charge,
        Film(asked.width, asked.height, asked.seconds * 1000),
        refusal=invalid(FILTERED),
    )
    return json_answer({"name": name})


def _shown(task: Task, now_s: float) -> dict[str, Any]:
    """An operation without its response; a running one has only a name."""
    body: dict[str, Any] = {"name": task.id}
    if not task.ended(now_s):
        return body
    body["done"] = True
    failure = FAILURES.get(task.state(now_s))
    if failure is not None:
        body["error"] = {"code": failure[0], "message": failure[1]}
    return body


def _samples(task: Task, request: Request) -> dict[str, Any]:
    if task.state(request.now_s) != "succeeded":
        return _filtered(task, request)
    place = f"{task.origin}/v1beta/files/"
    return {"generatedSamples": [{"video": {"uri": f"{place}{name}:download?alt=media"}} for name in _files(task)]}


def _filtered(task: Task, request: Request) -> dict[str, Any]:
    if task.state(request.now_s) != "moderated":
        return {}
    asked: VeoAsked = task.asked
    return {"raiMediaFilteredCount": asked.samples, "raiMediaFilteredReasons": [FILTERED] * asked.samples}


def _files(task: Task) -> list[str]:
    asked: VeoAsked = task.asked
    name = task.id.rpartition("/")[2][: FILE_CHARS - 1]
    return [f"{name}{number}" for number in range(asked.samples)]


def _found(request: Request, name: str) -> Task:
    return tasks.found(request, SHELF, name, Problem(404, f"Operation {name} not found."))


def _vertex_place(request: Request) -> str:
    """The model's resource name: the path without the version and the verb."""
    return request.path.rpartition(":")[0].partition("/v1")[2].partition("/")[2]


VERTEX_VERBS = (
    ("predictLongRunning", vertex_predict_long_running),
    ("fetchPredictOperation", fetch_predict_operation),
)
# Google's Python SDK extracts a file's name only from https URLs. From any other it builds a path that contains the
# whole URL, so a sandbox on plain HTTP answers there too.
DOWNLOADS = ("files/{id}:download", "files/http://{host}/v1beta/files/{id}:download")
ROUTES = (
    ("POST", "models/{model}:predictLongRunning", predict_long_running),
    ("GET", "models/{model}/operations/{id}", operation),
    *(("GET", path, download) for path in DOWNLOADS),
)
