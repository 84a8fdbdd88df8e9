"""The address that a provider is given to say that a task moved: only its own token opens it, whatever else comes."""

from __future__ import annotations

import pytest

from elkapi.clock import ManualClock
from elkapi.settings import Settings
from elkapi.storage.secrets import Sealer
from elkapi.tasks.addresses import CALLBACKS, Addresses

TASK_ID = bytes(range(16))


def addresses(key: bytes = b"k" * 32, public_url: str = "https://gateway.test/") -> Addresses:
    return Addresses(Settings(public_url=public_url), Sealer(key), ManualClock())


def test_a_token_names_its_task_and_no_other_key_makes_it() -> None:
    url = addresses().callback(TASK_ID)
    assert url.startswith(f"https://gateway.test{CALLBACKS}")
    token = url.rpartition("/")[2]
    assert addresses().task_of(token) == TASK_ID
    assert addresses(b"x" * 32).task_of(token) is None
    assert addresses(public_url="").callback(TASK_ID) == ""


@pytest.mark.parametrize(
    "change", ["", "0" * 64, "short", "ü" * 64, "0" * 32 + "ü" * 32, "\0", "g" * 64, "0" * 32 + "\udcff"]
)
def test_what_is_no_token_of_ours_names_no_task(change: str) -> None:
    assert addresses().task_of(change) is None


def test_a_changed_token_names_no_task() -> None:
    token = addresses().callback(TASK_ID).rpartition("/")[2]
    for at in (0, 31, 32, len(token) - 1):
        changed = token[:at] + ("0" if token[at] != "0" else "1") + token[at + 1 :]
        assert addresses().task_of(changed) is None
    assert addresses().task_of(token + "0") is None
    assert addresses().task_of(token[:-1]) is None
