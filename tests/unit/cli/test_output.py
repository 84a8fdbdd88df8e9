"""What the command prints cannot move the cursor of whoever reads it, as JSON no more than as a table."""

from __future__ import annotations

import json

import pytest

from elkapi.cli.output import print_json, print_table

# U+009B begins a terminal's control sequence as ESC [ does; the others delete, turn the line around or begin another.
SAID = "no \u009b31m model\x7f \u202eledom \u2028 \u0085 \x1b[31m, but größer 模型 😀"


def test_json_for_scripts_holds_no_control_characters_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({SAID: [SAID]})
    printed = capsys.readouterr().out
    assert all(sign.isprintable() or sign == "\n" for sign in printed)
    assert "größer 模型 😀" in printed
    assert json.loads(printed) == {SAID: [SAID]}


def test_a_table_holds_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["said"], [[SAID[:40]]], none="")
    assert all(sign.isprintable() or sign == "\n" for sign in capsys.readouterr().out)
