"""Names keep to the rules: a class name has one meaning, and a test is a sentence that is read at a glance."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("ovt_ray", "actors", "learner", "reward", "benchmarks", "scripts", "workloads")


def test_no_two_top_level_classes_share_a_name() -> None:
    files_of: defaultdict[str, list[str]] = defaultdict(list)
    for file in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for name in class_names(file.read_text(encoding="utf-8")):
            files_of[name].append(str(file.relative_to(ROOT)))
    assert len(files_of) > 100, "a folder has moved: its classes are no longer compared"
    assert {name: files for name, files in files_of.items() if len(files) > 1} == {}


def test_nested_classes_and_classes_inside_functions_do_not_count() -> None:
    assert class_names("class A:\n    class B: ...\n\ndef f():\n    class C: ...\n\nif True:\n    class D: ...\n") == ["A", "D"]


def class_names(source: str) -> list[str]:
    """Return the names of the classes that a module defines at its top level, also under a condition."""
    return _names(ast.parse(source).body)


def _names(statements: list[ast.stmt]) -> list[str]:
    names: list[str] = []
    for statement in statements:
        if isinstance(statement, ast.ClassDef):
            names.append(statement.name)
        elif isinstance(statement, ast.If | ast.Try):
            names += _names([*statement.body, *statement.orelse])
    return names


def test_no_test_name_is_longer_than_is_read_at_a_glance() -> None:
    files = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("test_*.py")]
    names = {node.name for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert len(names) > 900 and [name for name in names if len(name) > 90] == []
