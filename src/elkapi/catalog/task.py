"""How a family's tasks are declared: where ids, states, results and errors stand in its replies; no behaviour here.

Paths such as `data.task_result.videos[*].url` are compiled by `catalog.jsonpath`. A word that `states` does not know
counts as running, raises a metric and never charges or refunds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from elkapi.types import AssetKind, NoticeForm, State


class Poll(msgspec.Struct, frozen=True):
    """When an open task is asked about: `first_s` after its submit, then every `every_s`, later up to `every_max_s`.

    After `limit_s` the operator is told and it is asked rarely; giving up waiting is no verdict.
    """

    first_s: float = 3.0
    every_s: float = 5.0
    every_max_s: float = 30.0
    limit_s: float = 24 * 3600.0


class Made(msgspec.Struct, frozen=True):
    """Files of a finished task: `path` finds their addresses in the last reply, one or many.

    `via` is a further request for what `path` found, with the channel's credential; `then` the path of the address in
    its answer, "" when the answer is the file itself. `auth`: the address wants the channel's credential.
    `optional`: the task succeeds without it (posters, thumbnails); such files are not billed.
    """

    path: str
    kind: AssetKind = "video"
    via: str = ""
    then: str = ""
    auth: bool = False
    optional: bool = False


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of task of one provider.

    `id` stands in the answer to the submit, all other paths in the answer to `fetch`. Requests are a method and a path
    below the channel's base: `{id}` is the provider's id, `{submit}` the path of the submit. `error` are the paths of a
    failure's text, the first found counts; `error_code` its code. `progress` may be a percent, a share up to 1 or text
    such as "37%". `refs` are paths of further ids by which later calls name what this task made. `blank` is what a
    native fetch answers before the provider was asked: {id}, {model}, {created_s}, {created_ms}, {created_iso} are
    filled in. `callback` is the member of the submit that names an address to call, `notice` the shape in which it is
    called, `challenge`: the provider first asks the address whether it wants to be called. `calls_back`: the provider
    takes an address itself; else it is told to nobody, and the gateway alone calls. `mark` is the member that carries
    our own id, `recall` the request that finds a task by it (`{mark}`), where the provider has such a thing; a submit
    of unknown outcome is asked about with it and never repeated. `keeps_cancelled`: a task that was cancelled can still
    be read. `deleted` answers a DELETE, None is a 204 without a body. `done` is the path of a truth that says whether
    it ended. `model` are the paths at which answers name the model. `address` is where this provider's clients fetch a
    file from, with their key, where not every address would do; `{asset}` is the file's id. `sync` is the member of the
    submit by which its caller waits for the end, `{sync}_timeout` how many seconds. `link` is the path at which a
    finished task tells our address of its file, where the provider itself tells none. `estimate` and `cost` are the
    paths at which an open task tells what it may cost and an ended one what it did, in credits of a cent: the caller
    reads what is held and charged here. `at_once`: the answer to the submit is all there is, and ends it.
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
    """What a submit may cost, from the request alone: `unit` a video's second, an image, a call or a token.

    `seconds` are the paths of its length in the request (first found; numbers, "5", "5s"), `seconds_default` where it
    says none. `count` is the path of how many are made. `features` name what price variants go by: a feature and the
    paths where it stands, the last entry may be "=word", the provider's default. `frames_s` are the seconds of the
    frames that a request counts in, 0 where it names none; the longer of both lengths is held. `tokens_max` bounds what
    is metered in tokens, from seconds and resolution, by a function of the features and milliseconds. `extends`: the
    file is an earlier video and what was added to it, so its length says nothing of what was made. `sound`: the seconds
    are those of sound, which may have a price of their own.
    """

    unit: Literal["second", "image", "call", "token"] = "call"
    seconds: tuple[str, ...] = ()
    seconds_default: float = 5.0
    count: str = ""
    features: Mapping[str, tuple[str, ...]] = {}
    extends: bool = False
    sound: bool = False
    frames_s: Callable[[Mapping[str, Any]], float] | None = None
    tokens_max: Callable[[Mapping[str, str], int], int] | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's list of tasks as the gateway gives it, from its own tables.

    `items` is the path of the list in the answer, `item` the path of a task in its own native answer, "" for all of it.
    `limit` and `page` (from 1) or `offset` are the query's names, `limit_default` and `limit_max` its bounds; `total`
    and `more` are paths of how many there are and of whether more follow, `request_id` of the call's own id. `filters`
    are the query's names by what they ask for. `envelope` is the rest of the answer.
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
    """A provider that reports failure inside a success: `path` is `good` in a good answer.

    `also_good` is another value of a good answer, None for none. `message` is the path of the words; a value among
    `elsewhere` means that another channel may do better, one of `busy` too, for this one has too much to do: what a 429
    says. `fetched`: the rule holds for answers that tell of a task too.
    """

    path: str
    good: object
    message: str
    elsewhere: frozenset[object] = frozenset()
    busy: frozenset[object] = frozenset()
    also_good: object = None
    fetched: bool = True
