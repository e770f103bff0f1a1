"""The way users run it: a cluster started by `ray start`, the checkout shipped by `ray job submit`, a job that is stopped."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from test_recipe import SHORT, assert_all_end, eventually, of_a_turn, one_turn

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    address: str
    process: psutil.Process

    def submit(self, runs: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), "job", "submit", "--address", self.address, "--working-dir", ".", *options, "--"]
        run = ["python", "-m", "ovt_ray", "run", one_turn(runs), f"runs_dir={runs}", f"name={name}", *SHORT, *of_a_turn(0)]
        return subprocess.run([*command, *run], cwd=ROOT, env=client(), capture_output=True, text=True, timeout=400)

    def job(self, verb: str, job: str) -> str:
        done = subprocess.run([str(RAY), "job", verb, "--address", self.address, job], env=client(), capture_output=True, text=True)
        return done.stdout + done.stderr


def client() -> dict[str, str]:
    """Return the environment of an activated `.venv`, as the README has it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}  # of a Ray session in this process
    return {**inherited, "RAY_AUTH_MODE": "token", "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    port, dashboard, agent = free_port(), free_port(), free_port()
    folder = tmp_path_factory.mktemp("ray")
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=6", f"--port={port}", f"--dashboard-port={dashboard}"]
    command.append(f"--dashboard-agent-listen-port={agent}")  # else two clusters on one machine fight for it, and one takes no jobs
    with (folder / "head.log").open("w") as log:
        started = subprocess.Popen([*command, f"--temp-dir={folder}"], env=client(), stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"
    process = psutil.Process(started.pid)
    try:
        wait_until_it_takes_jobs(address, started, folder)
        yield Head(address=address, process=process)
    finally:
        family = process.children(recursive=True)
        started.terminate()
        started.wait(timeout=60)
        for left in family:
            if left.is_running():
                left.kill()


def wait_until_it_takes_jobs(address: str, started: subprocess.Popen[bytes], folder: Path) -> None:
    """Return when a job is accepted, which takes the node's agent; that comes some seconds after the head."""
    deadline = time.monotonic() + 90
    nothing = [str(RAY), "job", "submit", "--address", address, "--", "true"]
    while subprocess.run(nothing, env=client(), cwd=folder, capture_output=True).returncode:
        assert started.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()[-2000:]
        time.sleep(1)


def services_of(head: Head) -> list[psutil.Process]:
    """Return the processes of actors and engines below the head."""
    names = ("ray::RolloutWorker", "ray::RankActor", "ray::RewardActor", "VLLM::")
    return [process for process in head.process.children(recursive=True) if command_of(process).startswith(names)]


def command_of(process: psutil.Process) -> str:
    """Return a process's command line; empty if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def test_a_submitted_job_runs_to_its_end_with_a_readable_log(head: Head, tmp_path: Path) -> None:
    done = head.submit(tmp_path, "job")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert (tmp_path / "job" / "result.json").exists()
    assert "[iter1/grpo 3/3] reward" in done.stdout
    assert "\x1b[2K" not in done.stdout, "a log is no terminal"
    assert_all_end(services_of(head))


def test_a_stopped_job_leaves_no_process_no_memory_and_no_placement_group(head: Head, tmp_path: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    head.submit(tmp_path, "stopped", "--no-wait", "--submission-id=stopped")
    deadline = time.monotonic() + 200
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not (metrics.exists() and "iter1/sft" in metrics.read_text()):
        assert time.monotonic() < deadline, head.job("logs", "stopped")[-2000:]
        time.sleep(0.5)
    family = services_of(head)
    assert len(family) >= 4
    assert "was stopped" in head.job("stop", "stopped")
    assert_all_end(family)
    assert eventually(lambda: not services_of(head))
    assert eventually(lambda: set(Path("/dev/shm").iterdir()) <= before)
    state = [
        sys.executable,
        "-c",
        "import ray; ray.init(logging_level='ERROR'); print(ray.available_resources()['CPU'], *[g['state'] for g in "
        "ray.util.placement_group_table().values()])",
    ]
    environment = {**client(), "RAY_ADDRESS": gcs_address(head)}
    seen = subprocess.run(state, env=environment, capture_output=True, text=True, cwd=tmp_path).stdout.split()
    assert float(seen[0]) == 6.0 and set(seen[1:]) <= {"REMOVED"}, seen


def gcs_address(head: Head) -> str:
    port = next(part.split("=")[1] for part in head.process.cmdline() if part.startswith("--port="))
    return f"127.0.0.1:{port}"
