"""Declarations of a family's tasks: the paths of ids, states, results and errors in its replies. Data only.

Paths such as `data.task_result.videos[*].url` are compiled by `catalog.jsonpath`. A state missing from `states` counts
as running, raises a metric and never charges or refunds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from elkapi.types import AssetKind, NoticeForm, State


class Poll(msgspec.Struct, frozen=True):
    """When an open task is polled: `first_s` after its submit, then every `every_s`, slowing down to `every_max_s`.

    After `limit_s` the operator is alerted and polls become rare; the task is not counted as failed.
    """

    first_s: float = 3.0
    every_s: float = 5.0
    every_max_s: float = 30.0
    limit_s: float = 24 * 3600.0


class Made(msgspec.Struct, frozen=True):
    """Files of a finished task: `path` finds their URLs in the last reply, one or many.

    `via` is a further request for what `path` found, sent with the channel's credential; `then` is the path of the URL
    in its answer, "" if the answer is the file itself. `auth`: the URL requires the channel's credential. `optional`:
    the task succeeds without the file (posters, thumbnails); such files are not billed.
    """

    path: str
    kind: AssetKind = "video"
    via: str = ""
    then: str = ""
    auth: bool = False
    optional: bool = False


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of task of one provider.

    `id` is a path in the answer to the submit, all other paths are in the answer to `fetch`. Requests are a method and
    a path below the channel's base URL: `{id}` is the provider's id, `{submit}` the path of the submit. `error` are the
    paths of a failure's message, the first found counts; `error_code` is its code. `progress` may be a percentage, a
    fraction up to 1 or text such as "37%". `refs` are paths of further ids by which later calls refer to the result.
    `blank` is the answer to a native fetch before the provider is polled: {id}, {model}, {created_s}, {created_ms},
    {created_iso} are filled in. `callback` is the submit's field for a callback URL, `notice` the format of the
    callback, `challenge`: the provider first verifies the URL. `calls_back`: the provider accepts a callback URL;
    otherwise it is not forwarded, and only the gateway calls it. `mark` is the field that carries our own id, `recall`
    the request that finds a task by it (`{mark}`), if the provider has one; a submit of unknown outcome is looked up
    with it and never repeated. `keeps_cancelled`: a cancelled task can still be read. `deleted` answers a DELETE, None
    is a 204 without a body. `done` is the path of a boolean that says whether the task ended. `model` are the paths of
    the model's name in answers. `address` is where this provider's clients download a file with their key, if they
    require a fixed path; `{asset}` is the file's id. `sync` is the submit's field that makes it wait for the end,
    `{sync}_timeout` the limit in seconds. `link` is the path at which a finished task shows our URL of its file, where
    the provider shows none. `estimate` and `cost` are the paths of an open task's expected cost and an ended one's
    cost, in credits of one cent: the caller sees the amounts held and charged here. `at_once`: the answer to the submit
    is complete and ends the task.
    """

    id: str
    state: str
    states: Mapping[str, State]
    made: tuple[Made, ...]
    fetch: str
    error: tuple[str, ...] = ()
    error_code: str = ""
    progress: str = ""
    cancel: str = ""
    refs: tuple[str, ...] = ()
    blank: Mapping[str, Any] = {}
    callback: str = ""
    notice: NoticeForm = "standard"
    challenge: bool = False
    calls_back: bool = True
    mark: str = ""
    recall: str = ""
    keeps_cancelled: bool = False
    deleted: Mapping[str, Any] | None = None
    done: str = ""
    model: tuple[str, ...] = ()
    address: str = ""
    link: str = ""
    estimate: str = ""
    cost: str = ""
    sync: str = ""
    poll: Poll = Poll()
    at_once: bool = False


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """The upper bound of a submit's cost, from the request alone; `unit` is a second of video, image, call or token.

    `seconds` are the paths of the duration in the request (first found; numbers, "5", "5s"), `seconds_default` applies
    if there is none. `count` is the path of the number of results. `features` map each feature that price variants
    depend on to its paths; the last entry may be "=word", the provider's default. `judged` are further features, "true"
    or "false" by a function of the request. `frames_s` returns a duration in seconds that a request states otherwise
    (by its frames or its shots) or leaves to the model, 0 if it has none; the longer of both durations is held.
    `input_s` returns the most seconds of the caller's own videos that are billed besides the result, in tokens.
    `tokens_max` bounds the tokens of token-metered tasks from the features and the duration in milliseconds. `extends`:
    the file is an earlier video plus the addition, so its duration does not measure the result. `sound`: the seconds
    are of audio, which may have its own price. `resolution_told` is the path of the resolution in the answer about a
    finished task.
    """

    unit: Literal["second", "image", "call", "token"] = "call"
    seconds: tuple[str, ...] = ()
    seconds_default: float = 5.0
    count: str = ""
    features: Mapping[str, tuple[str, ...]] = {}
    judged: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {}
    resolution_told: str = ""
    extends: bool = False
    sound: bool = False
    frames_s: Callable[[Mapping[str, Any]], float] | None = None
    input_s: Callable[[Mapping[str, Any]], float] | None = None
    tokens_max: Callable[[Mapping[str, str], int], int] | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's task list, answered from the gateway's own tables.

    `items` is the path of the list in the answer, `item` the path of a task in its native answer, "" for all of it.
    `limit` and `page` (from 1) or `offset` are query parameters, `limit_default` and `limit_max` the bounds; `total`
    and `more` are the paths of the total count and of whether more follow, `request_id` of the call's id. `filters`
    maps query parameters to what they filter by. `envelope` is the rest of the answer.
    """

    items: str
    item: str = ""
    limit: str = "limit"
    limit_default: int = 20
    limit_max: int = 100
    page: str = ""
    offset: str = ""
    total: str = ""
    more: str = ""
    request_id: str = ""
    filters: Mapping[str, Literal["state", "ids", "model"]] = {}
    envelope: Mapping[str, Any] = {}


class InBand(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that reports failures with a success status: the value at `path` is `good` if the call succeeded.

    `also_good` is another success value, None for none. `message` is the path of the error message. With a value in
    `elsewhere` another channel may succeed, as with one in `busy`, which means overload, like a 429. `fetched`: the
    rule also applies to answers to a fetch of a task.
    """

    path: str
    good: object
    message: str
    elsewhere: frozenset[object] = frozenset()
    busy: frozenset[object] = frozenset()
    also_good: object = None
    fetched: bool = True
