"""The documents name what is there: the picture of the folders equals the tree, and every path that they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ovt_ray", "actors", "learner", "reward")
NOT_OURS = {"build", "dist", "runs", "shared"}
"""Folders that may lie in a checkout and are not part of it."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HISTORY = ROOT / "docs" / "log.md"
"""Its entries name files by the names of their time."""
PATH_IN_CODE_FONT = re.compile(r"`((?:[a-z_]+/)+[a-z0-9_.-]*)`")


def test_the_picture_of_the_folders_is_the_tree() -> None:
    [block] = re.findall(r"```\n(ovt_ray/ .*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)
    lines = [re.fullmatch(r"(\S+)/ +\S.*", line) for line in block.splitlines()]
    assert all(lines), "each line is a folder, a slash and its purpose"
    pictured = [line[1] for line in lines if line]
    assert len(set(pictured)) == len(pictured)
    assert set(pictured) == folders_of_python() | top_folders()


def folders_of_python() -> set[str]:
    """Return the folders of the packages that hold Python files, in any depth."""
    return {str(path.parent.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def top_folders() -> set[str]:
    """Return the folders at the top of the checkout."""
    return {path.name for path in ROOT.iterdir() if path.is_dir() and re.fullmatch(r"[a-z_]+", path.name)} - NOT_OURS


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=lambda page: page.name)
def test_a_page_names_files_that_are_there(page: Path) -> None:
    named = {path for path in PATH_IN_CODE_FONT.findall(page.read_text()) if path.split("/")[0] in top_folders()}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
