"""The fragments of changelog.d/ have one form, and a release joins them under its version."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from scripts import changelog

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 1, 31)


def a_tree(root: Path, **fragments: str) -> Path:
    (root / "changelog.d").mkdir(exist_ok=True)
    (root / "changelog.d" / "README.md").write_text("# Changelog fragments\n")
    for name, text in fragments.items():
        (root / "changelog.d" / f"{name}.md").write_text(text)
    return root


@pytest.mark.parametrize("path", changelog.fragments(ROOT), ids=lambda path: path.stem)
def test_a_fragment_is_a_list_that_a_release_can_join(path: Path) -> None:
    assert changelog.FRAGMENT.fullmatch(path.read_text("utf-8")), "changelog.d/README.md says how it is written"


def test_a_release_joins_the_fragments_above_the_earlier_ones_and_removes_them(tmp_path: Path) -> None:
    assert changelog.join(a_tree(tmp_path, b="- Third.\n", a="- First,\n  in two lines.\n- Second.\n"), "1.0", TODAY)
    changelog.join(a_tree(tmp_path, c="- Fourth.\n"), "1.1", TODAY)
    assert (tmp_path / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## 1.1 (2026-01-31)\n\n- Fourth.\n"
        "\n## 1.0 (2026-01-31)\n\n- First,\n  in two lines.\n- Second.\n- Third.\n"
    )
    assert [path.name for path in (tmp_path / "changelog.d").iterdir()] == ["README.md"]


@pytest.mark.parametrize("text", ["A sentence.\n", "- One.\n\n- Two.\n", "- One.\nTwo.\n", "- No end", ""])
def test_a_fragment_in_another_form_ends_the_release_before_it_begins(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"changelog.d/b.md"):
        changelog.join(a_tree(tmp_path, a="- First.\n", b=text), "1.0", TODAY)
    assert not (tmp_path / "CHANGELOG.md").exists()
    assert len(changelog.fragments(tmp_path)) == 2


def test_a_version_is_released_once(tmp_path: Path) -> None:
    changelog.join(a_tree(tmp_path, a="- First.\n"), "1.0", TODAY)
    with pytest.raises(ValueError, match=r"has 1.0 already"):
        changelog.join(a_tree(tmp_path, b="- Late.\n"), "1.0", TODAY)
    assert (tmp_path / "changelog.d" / "b.md").exists()
