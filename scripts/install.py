"""Make `.venv` with the tested versions. Uses the standard library only; setup.sh runs it with a suitable Python.

It first reports everything that the machine lacks, a line each with the fix, before it writes anything. `.venv/.installed` marks a finished
set-up. The Makefile runs this again only when the files that the set-up depends on are newer.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import repair_torchvision

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements-cpu.lock"
GIB = 2**30
NEEDED_BYTES = 6 * GIB
HEARTBEAT_S = 4.0
PIP_ASIDES = ("WARNING", "Attempting uninstall", "Found existing", "Uninstalling", "Successfully uninstalled")
# The only address outside the package registry: CPU builds of torch. It is used only where pip does not find the build otherwise.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def disk_problem(free_bytes: int, needed_bytes: int, folder: Path) -> str | None:
    if free_bytes >= needed_bytes:
        return None
    return f"{free_bytes / GIB:.1f} GB free in {folder}, the set-up needs {needed_bytes / GIB:.0f} GB; free some or clone to another disk"


def missing(what: str, *, found: bool, need: str, package: str) -> str | None:
    """The line about a missing part of the system, with the package that brings it."""
    return None if found else f"no {what}, needed by {need}; install it (Debian, Ubuntu: sudo apt-get install {package})"


def stack_problem(stack: str) -> str | None:
    if stack in ("cpu", "gpu"):
        return None
    return f"STACK={stack} is neither cpu nor gpu; leave it out to take what the machine has"


def library_loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def module_found(name: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


def gpu_works() -> bool:
    return shutil.which("nvidia-smi") is not None and subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0


def machine_problems(stack: str) -> Iterator[str]:
    """Everything that this machine lacks, a line each; nothing when the set-up can start."""
    compiler = os.environ.get("CXX", "c++")
    needed_bytes = 0 if VENV.exists() else NEEDED_BYTES
    include = Path(sysconfig.get_path("include"))
    python = f"python3.{sys.version_info.minor}"
    numa_is_found = stack == "gpu" or library_loads("libnuma.so.1")
    found = [
        stack_problem(stack),
        disk_problem(shutil.disk_usage(ROOT).free, needed_bytes, ROOT),
        missing(
            f"C++ compiler '{compiler}'",
            found=shutil.which(compiler) is not None,
            need="DeepSpeed and torch, which build operators",
            package="g++",
        ),
        missing(
            f"{include}/Python.h",
            found=(include / "Python.h").is_file(),
            need="DeepSpeed and torch, which build operators",
            package=f"{python}-dev",
        ),
        missing(f"ensurepip in {sys.executable}", found=module_found("ensurepip"), need="virtual environments", package=f"{python}-venv"),
        missing("libnuma.so.1", found=numa_is_found, need="vLLM's CPU kernels", package="libnuma1"),
    ]
    return (problem for problem in found if problem is not None)


def torch_build(lock: str) -> str:
    """The CPU build of the lock's torch version, for example "2.13.0+cpu"."""
    version = next(line.removeprefix("torch==") for line in lock.splitlines() if line.startswith("torch=="))
    return f"{version}+cpu"


def index_options(listing: str, torch_version: str) -> list[str]:
    """pip's options to find `torch_version`, given the output of `pip index versions torch`."""
    available = next((line for line in listing.splitlines() if line.startswith("Available versions:")), "")
    return [] if torch_version in available.replace(",", " ").split() else ["--extra-index-url", TORCH_CPU_INDEX]


def venv_python() -> str:
    return str(VENV / "bin" / "python")


def pip_options(stack: str) -> list[str]:
    if stack == "gpu":
        return []  # the lock holds the CPU versions; on a GPU pyproject.toml's pins and vLLM's own decide
    pip = [venv_python(), "-m", "pip"]
    listing = subprocess.run([*pip, "index", "versions", "torch"], capture_output=True, text=True, check=False).stdout
    return ["-c", str(LOCK), *index_options(listing, torch_build(LOCK.read_text()))]


def latest_line(log: str) -> str:
    """The last line about the current activity, without warnings about an index and the removal of packages."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.strip().startswith(PIP_ASIDES)]
    return lines[-1][:100] if lines else ""


def run_step(title: str, command: list[str]) -> None:
    """Run `command` with its output in .venv/install.log and a line every few seconds. Exits with the end of the log if it fails."""
    print(f"set-up: {title}", flush=True)
    log = VENV / "install.log"
    environment = {**os.environ, "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    started_s = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        while True:
            try:
                status = process.wait(timeout=HEARTBEAT_S)
                break
            except subprocess.TimeoutExpired:
                print(f"  {time.monotonic() - started_s:4.0f} s  {latest_line(log.read_text(errors='replace'))}", flush=True)
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        sys.exit(f"{tail}\nset-up: '{title}' failed; the whole output is in {log}")


def make_venv() -> None:
    """Make a `.venv` whose pip answers. A half-made `.venv` is made again."""
    pip = [venv_python(), "-m", "pip", "--version"]
    if Path(venv_python()).exists() and subprocess.run(pip, capture_output=True, check=False).returncode == 0:
        return
    VENV.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)


def install(stack: str) -> None:
    print(f"set-up: virtual environment .venv, Python {sys.version.split()[0]}, {stack} stack", flush=True)
    make_venv()
    pip = [venv_python(), "-m", "pip", "install", "--progress-bar", "off", "--no-warn-script-location"]
    run_step(
        "installing the tested versions (about 2 minutes and 4 GB the first time)", [*pip, *pip_options(stack), "-e", f".[{stack},dev]"]
    )
    status, line = repair_torchvision.repair(venv_python())
    print(f"set-up: {line}", flush=True)
    if status != 0:
        sys.exit(status)
    (VENV / ".installed").write_text(f"{stack}\n")


def main() -> int:
    started_s = time.monotonic()
    stack = os.environ.get("STACK") or ("gpu" if gpu_works() else "cpu")
    problems = list(machine_problems(stack))
    for problem in problems:
        print(f"set-up: {problem}", file=sys.stderr)
    if problems:
        return 1
    install(stack)
    print(f"set-up: done in {time.monotonic() - started_s:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nset-up: stopped; the same command continues from here")
