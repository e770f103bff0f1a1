"""Who may import what: light modules stay light, services never import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "ray", "vllm", "transformers", "deepspeed", "datasets", "numpy"}
LIGHT = (
    "ovt_ray.types",
    "ovt_ray.section",
    "ovt_ray.formats",
    "ovt_ray.stage_config",
    "ovt_ray.config",
    "ovt_ray.errors",
    "ovt_ray.broadcast",
    "ovt_ray.prompts",
    "ovt_ray.spans",
)
SERVICES = ("actors", "learner", "reward")


@pytest.mark.parametrize("module", [*LIGHT, "ovt_ray.cli"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_only_itself_and_what_all_share(service: str) -> None:
    ours = {
        f"{imported} in {path.name}"
        for path in (ROOT / service).glob("*.py")
        for imported in imports_of(path)
        if forbidden(imported, service)
    }
    assert ours == set()


def forbidden(imported: str, service: str) -> bool:
    package = imported.split(".")[0]
    if package == "ovt_ray":
        return imported not in LIGHT
    return package in SERVICES and package != service


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found
