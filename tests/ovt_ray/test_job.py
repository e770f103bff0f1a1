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
from omegaconf import OmegaConf

from tests.engine_processes import command_of, engines_of
from tests.ovt_ray.test_recipe import SHORT, accuracies, assert_all_end, eventually, figures, of_a_turn

pytestmark = [pytest.mark.heavy, pytest.mark.long]
ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    address: str
    process: psutil.Process

    def submit(self, runs: Path, name: str, *overrides: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), "job", "submit", "--address", self.address, "--working-dir", ".", *options, "--"]
        run = ["python", "-m", "ovt_ray", "run", one_turn(runs), f"runs_dir={runs}", f"name={name}", *SHORT, *of_a_turn(0), *overrides]
        return subprocess.run([*command, *run], cwd=ROOT, env=client(), capture_output=True, text=True, timeout=400)

    def job(self, verb: str, job: str) -> str:
        done = subprocess.run([str(RAY), "job", verb, "--address", self.address, job], env=client(), capture_output=True, text=True)
        return done.stdout + done.stderr


def one_turn(folder: Path) -> str:
    """Return the path of the demo's recipe without its second iteration."""
    config = OmegaConf.load(ROOT / "configs/tiny.yaml")
    config.iterations = config.iterations[:1]
    OmegaConf.save(config, folder / "one_turn.yaml")
    return str(folder / "one_turn.yaml")


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
    names = ("ray::RolloutWorker", "ray::RankActor", "ray::RewardActor")
    actors = [process for process in head.process.children(recursive=True) if command_of(process).startswith(names)]
    return actors + [engine for actor in actors for engine in engines_of(actor)]


@pytest.fixture(scope="module")
def job(head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder and the log of a submitted job of two workers and two ranks with ZeRO 3, whose RL has a learning rate of 0."""
    runs = tmp_path_factory.mktemp("runs")
    sizes = ["rollout.num_workers=2", "rollout.cpus_per_worker=1", "learner.num_ranks=2", "learner.cpus_per_rank=1", "learner.zero_stage=3"]
    done = head.submit(runs, "job", *sizes, "reward.num_actors=2", "iterations[0].grpo.optimizer.learning_rate=0")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return runs / "job", done.stdout


def test_a_submitted_job_runs_to_its_end_with_a_readable_log(head: Head, job: tuple[Path, str]) -> None:
    run, log = job
    assert (run / "result.json").exists()
    assert "[iter1/sft] accuracy" in log and "[iter1/grpo 3/3] reward" in log
    assert "\x1b[2K" not in log, "a log is no terminal"
    assert_all_end(services_of(head))


def test_two_workers_and_two_ranks_with_zero_3_agree_and_stay_put_at_learning_rate_zero(job: tuple[Path, str]) -> None:
    run, log = job
    assert "log-probabilities agree within" in log
    base, sft, grpo = accuracies(run)
    assert sft[2:] == grpo[2:] and (base[1], sft[1], grpo[1]) == ("base", "sft", "grpo")
    rl = [row for row in figures(run) if "kl_rollout" in row]
    assert rl and all(row["kl_rollout"] < 1e-9 and row["clip_low"] == row["clip_high"] == 0 for row in rl)


def test_a_stopped_job_leaves_no_process_no_memory_and_no_placement_group(head: Head, tmp_path: Path) -> None:
    """Its traces are those of the two teachers, which have the workers' place until the policy learns from them."""
    before = set(Path("/dev/shm").iterdir())
    turn = ["iterations[0].distil={source: caption, num_problems: 60}", "iterations[0].grpo.num_steps=500"]
    head.submit(tmp_path, "stopped", *turn, options=("--no-wait", "--submission-id=stopped"))
    deadline = time.monotonic() + 200
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not (metrics.exists() and "iter1/grpo" in metrics.read_text()):
        assert time.monotonic() < deadline, head.job("logs", "stopped")[-2000:]
        time.sleep(0.5)
    family = services_of(head)
    assert len(family) >= 4
    log = head.job("logs", "stopped")
    assert "[iter1/distil captions" in log and "traces" in log.partition("[iter1/distil captions")[2]
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
