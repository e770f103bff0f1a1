"""Who may import what: core is the ground floor, services know only it, and importing it costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed", "datasets", "numpy", "pyarrow"}
SERVICES = ("actors", "learner", "reward")
OURS = (*SERVICES, "ovt_ray", "benchmarks", "tests", "scripts", "workloads")
LIGHT = (
    "ovt_ray",
    "ovt_ray.cli",
    *sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("core", "commands")
        for path in (ROOT / "ovt_ray" / folder).rglob("[a-z]*.py")
    ),
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_itself_and_core_alone(service: str) -> None:
    assert breaches(service, allowed=(service, "ovt_ray.core")) == set()


def test_core_imports_core_alone() -> None:
    assert breaches("ovt_ray/core", allowed=("ovt_ray.core",)) == set()


@pytest.mark.parametrize(
    ("folder", "other"), [("tests", "benchmarks"), ("benchmarks", "tests"), ("workloads", "tests"), ("workloads", "benchmarks")]
)
def test_tests_and_benchmarks_share_workloads_and_import_nothing_of_each_other(folder: str, other: str) -> None:
    assert breaches(folder, allowed=tuple(package for package in OURS if package != other)) == set()


def breaches(folder: str, allowed: tuple[str, ...]) -> set[str]:
    """Return each import of one of our packages, in any depth of the folder, that is not allowed there."""
    return {
        f"{imported} in {path.relative_to(ROOT)}"
        for path in (ROOT / folder).rglob("*.py")
        for imported in imports_of(path)
        if imported.split(".")[0] in OURS and not any(f"{imported}.".startswith(f"{name}.") for name in allowed)
    }


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
