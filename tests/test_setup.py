"""The set-up refuses what cannot work with one line, and does nothing when nothing is to be done. Nothing is installed here."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from install import GIB, disk_problem, index_options, latest_line, missing, torch_build  # noqa: E402
from repair_torchvision import install_hook, is_broken, needs_repair  # noqa: E402

SYSTEM_COMMANDS = ("bash", "dirname", "env", "make", "sh", "touch")
SET_UP_FILES = (
    "Makefile",
    "pyproject.toml",
    "requirements-cpu.lock",
    "scripts/setup.sh",
    "scripts/install.py",
    "scripts/repair_torchvision.py",
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that decide about the set-up, alone in a folder; a bug here cannot touch the checkout's environment."""
    for name in SET_UP_FILES:
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return tmp_path / "clone"


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for PATH that holds a shell and make, but neither Python nor compiler."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in SYSTEM_COMMANDS:
        found = shutil.which(name)
        assert found is not None, f"{name} is needed by this test"
        (folder / name).symlink_to(found)
    return folder


def write_command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def set_up(clone: Path, commands: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "scripts/setup.sh"],
        cwd=clone,
        env={"PATH": str(commands), "STACK": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_old_python_gets_one_line_and_nothing_is_written(clone: Path, commands: Path) -> None:
    write_command(commands, "python3", "exit 1  # as an old Python answers the question for its version")
    done = set_up(clone, commands)
    assert done.returncode == 1
    assert done.stderr.startswith("set-up: no Python from 3.11 to 3.14")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not (clone / ".venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(clone: Path, commands: Path) -> None:
    write_command(commands, "python3", "exit 1")
    write_command(commands, "python3.12", 'case "$1" in -c) exit 0;; *) echo "ran $1";; esac')
    done = set_up(clone, commands)
    assert (done.returncode, done.stdout) == (0, "ran scripts/install.py\n")


def test_the_python_that_is_named_is_the_only_one_tried(clone: Path, commands: Path) -> None:
    write_command(commands, "python3", "exit 0")
    done = set_up(clone, commands, PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "among '/no/such/python'" in done.stderr


def test_a_machine_without_compiler_gets_one_line_and_nothing_is_written(clone: Path, commands: Path) -> None:
    done = set_up(clone, commands, PYTHON=sys.executable)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "C++ compiler" in line] == done.stderr.splitlines()
    assert "apt-get install g++" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_stack_of_another_name_gets_one_line(clone: Path, commands: Path) -> None:
    write_command(commands, "c++", "exit 0")
    done = set_up(clone, commands, PYTHON=sys.executable, STACK="tpu")
    assert done.returncode == 1
    assert done.stderr == "set-up: STACK=tpu is neither cpu nor gpu; leave it out to take what the machine has\n"


def test_too_little_disk_names_what_is_there_and_what_is_needed() -> None:
    problem = disk_problem(int(2.5 * GIB), 6 * GIB, Path("/work"))
    assert problem == "2.5 GB free in /work, the set-up needs 6 GB; free some or clone to another disk"
    assert disk_problem(6 * GIB, 6 * GIB, Path("/work")) is None


def test_what_is_found_is_no_problem() -> None:
    assert missing("libnuma.so.1", found=True, need="vLLM's CPU kernels", package="libnuma1") is None
    line = missing("libnuma.so.1", found=False, need="vLLM's CPU kernels", package="libnuma1")
    assert line == "no libnuma.so.1, needed by vLLM's CPU kernels; install it (Debian, Ubuntu: sudo apt-get install libnuma1)"


@pytest.mark.parametrize("target", ["test", "demo", "check"])
def test_a_second_call_installs_nothing(clone: Path, commands: Path, target: str) -> None:
    write_command(commands, "python3", 'echo "set-up ran"; exit 1')
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    write_command(python.parent, "python", "exit 0")
    (clone / ".venv" / ".installed").touch()
    done = subprocess.run(["make", target], cwd=clone, env={"PATH": str(commands)}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "set-up" not in done.stdout + done.stderr


def test_a_changed_lock_sets_up_again(clone: Path, commands: Path) -> None:
    write_command(commands, "python3", "exit 1")
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".installed").touch()
    os.utime(clone / ".venv" / ".installed", (0, 0))
    done = subprocess.run(["make", "test"], cwd=clone, env={"PATH": str(commands)}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "set-up: no Python" in done.stderr


def test_the_cpu_index_is_asked_only_where_pip_does_not_find_the_build() -> None:
    assert index_options("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cpu, 2.13.0\n", "2.13.0+cpu") == []
    assert (
        index_options("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0\n  INSTALLED: 2.13.0+cpu\n", "2.13.0+cpu")[0]
        == "--extra-index-url"
    )


def test_the_lock_pins_the_torch_that_vllm_pins_and_names_no_address() -> None:
    lock = (ROOT / "requirements-cpu.lock").read_text()
    assert torch_build(lock) == "2.13.0+cpu"
    assert all(line.count("==") == 1 and "/" not in line and "+" not in line for line in lock.splitlines())


def test_progress_shows_the_last_line_that_is_no_warning() -> None:
    assert (
        latest_line("Collecting ray\n  Downloading ray.whl\nWARNING: an index is away\n  Successfully uninstalled x\n")
        == "Downloading ray.whl"
    )
    assert latest_line("") == ""


def test_only_the_missing_operator_is_repaired() -> None:
    assert needs_repair("RuntimeError: operator torchvision::nms does not exist")
    assert not needs_repair("ModuleNotFoundError: No module named 'torchvision'")


def test_an_absent_package_is_not_a_broken_one() -> None:
    def attempt(status: int, error: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(args=[], returncode=status, stdout="", stderr=error)

    assert is_broken(attempt(1, "OSError: Could not load this library: _torchaudio.abi3.so"), "torchaudio")
    assert not is_broken(attempt(1, "ModuleNotFoundError: No module named 'torchaudio'"), "torchaudio")
    assert not is_broken(attempt(0, ""), "torchaudio")


FAKE_TORCHVISION = "\n".join(
    ["import torch.library"] + [f"@torch.library.register_fake('torchvision::{name}')\ndef {name}(*_): pass" for name in ("nms", "qnms")]
)


def import_fake_torchvision(folder: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Import a torchvision that only registers its kernels, in an environment whose `.pth` files are not read (-S)."""
    (folder / "torchvision").mkdir(exist_ok=True)
    (folder / "torchvision" / "__init__.py").write_text("from torchvision import _meta_registrations")
    (folder / "torchvision" / "_meta_registrations.py").write_text(FAKE_TORCHVISION)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    code = (
        f"import site, sys\nsys.path[:0] = [{str(folder)!r}, {packages!r}]\n{before}\nassert 'torch' not in sys.modules\nimport torchvision"
    )
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_without_the_hook_the_operators_are_missing(tmp_path: Path) -> None:
    assert needs_repair(import_fake_torchvision(tmp_path, before="").stderr)


@pytest.mark.heavy
def test_the_hook_declares_the_operators_when_torchvision_needs_them_and_not_before(tmp_path: Path) -> None:
    install_hook(tmp_path)
    done = import_fake_torchvision(tmp_path, before=f"site.addsitedir({str(tmp_path)!r})")
    assert done.returncode == 0, done.stderr


OWNERS = packages_distributions()


def imported_packages(folder: Path) -> set[str]:
    """Top-level names imported anywhere below the folder, without the standard library's and the project's own."""
    own = {"ovt_ray", "actors", "learner", "reward", "benchmarks", "tests", "workloads", "install", "repair_torchvision"}
    names: set[str] = set()
    for node in (node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - own - sys.stdlib_module_names


@pytest.mark.parametrize("folder", ["ovt_ray", "actors", "learner", "reward", "benchmarks", "tests", "workloads"])
def test_every_imported_package_is_declared(folder: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.split(r"[\[=]", line)[0].lower() for line in requirements}
    # A peer is not installed here: its package has the name of its module.
    undeclared = [name for name in imported_packages(ROOT / folder) if not declared & {owner.lower() for owner in OWNERS.get(name, [name])}]
    assert undeclared == []
