"""Names keep to the rules: a test is a sentence that is read at a glance."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_LENGTH = 90


def test_no_test_name_is_longer_than_is_read_at_a_glance() -> None:
    files = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("test_*.py")]
    names = {node.name for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert len(names) > 900 and [name for name in names if len(name) > MAX_LENGTH] == []
