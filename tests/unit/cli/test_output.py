"""What the command prints cannot move the cursor of whoever reads it, as JSON no more than as a table."""

from __future__ import annotations

import json

import pytest

from elkapi.cli.output import print_facts, print_json, print_table

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


def test_columns_stand_below_each_other_whatever_script_a_name_is_in(capsys: pytest.CaptureFixture[str]) -> None:
    # Two columns a sign, one, none (a mark on the sign before it).
    print_table(["name", "state"], [["名前", "1"], ["ada", "2"], ["e\u0301a", "3"], ["😀", "4"]], none="")
    assert capsys.readouterr().out.splitlines() == [
        "NAME  STATE",
        "名前  1",
        "ada   2",
        "e\u0301a    3",
        "😀    4",
    ]


def test_a_cell_that_is_cut_off_is_no_wider_than_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "state"], [["名" * 40, "1"], ["a" * 61, "2"], ["b" * 60, "3"]], none="")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "名" * 29 + "…   1",
        "a" * 59 + "…  2",
        "b" * 60 + "  3",
    ]


def test_nothing_is_shown_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"flags": (), "features": {}, "usage": "", "channel": None, "left": 0})
    assert capsys.readouterr().out.split() == ["flags", "-", "features", "-", "usage", "-", "channel", "-", "left", "0"]
