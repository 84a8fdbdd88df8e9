"""What the page of an operation shows as its call is taken by the gateway and by the provider behind it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from elkapi.catalog import Body, Operation, Role
from elkapi.control.operation_samples import BODIES, IN_PATHS
from elkapi.control.operations import sample_body, task_operations
from tests.tasks.rows import FILE, ONCE, SUBMITS, Once, Submit
from tests.tasks.test_rows import AT_ONCE, FAULT, Asking, Served, serving

ROWS: dict[str, Submit | Once] = {**ONCE, **SUBMITS}
SUBMITTED = {name: one for name, one in task_operations().items() if one.role is Role.SUBMIT}
SENT = {name: one for name, one in SUBMITTED.items() if name in ROWS}


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("samples")) as one:
        yield one
        assert one.gate.books().loss_nano == 0


@pytest.mark.parametrize("operation", SENT.values(), ids=SENT)
def test_a_sample_is_taken_once_what_it_refers_to_is_there(gateways: Served, operation: Operation) -> None:
    body = dict(sample_body(operation))
    as_form = any(str(value).startswith("@") for value in body.values())
    assert not as_form or operation.body is Body.FORM
    files = {name: FILE for name, value in body.items() if str(value).startswith("@")}
    case = msgspec.structs.replace(ROWS[operation.id], body={**body, **files}, sends="form" if as_form else "json")
    sent = Asking(gateways, operation.id).send(case, IN_PATHS.get(operation.id, {}), **{FAULT: AT_ONCE})
    assert sent.status_code in (200, 201), sent.text
    # Some refuse inside of a success.
    refusal = sent.json().get("code", 0)
    assert refusal in (0, 200, "success"), sent.text


def test_every_body_belongs_to_an_operation_that_has_a_page() -> None:
    assert BODIES.keys() == SUBMITTED.keys()
    assert IN_PATHS.keys() <= task_operations().keys()
