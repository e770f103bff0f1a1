"""The whole job on the real stack, shortened: it runs, repeats itself, goes on after a kill, and leaves nothing behind."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]
SHORT = ["data.num_eval=20", "learner.checkpoint_every=2"]
"""With `of_a_turn`: a recipe of seconds. The model learns next to nothing in it, but every stage runs on the real parts."""


def of_a_turn(turn: int) -> list[str]:
    """Return overrides. The first turn is fine-tuned by epochs, with traces held out, the second by steps; both mix traces into GRPO.

    GRPO keeps its rollouts in the first turn, and replaces flat groups in the second. The first
    learns from worked solutions: the teachers' engines would take longer to start than all else.
    """
    by_epochs = ["sft.num_steps=null", "sft.num_epochs=3.5", "sft.batch_size=8", "sft.validation_share=0.1"]
    sft = ["sft.num_steps=30", "sft.batch_size=8"] if turn else by_epochs
    grpo = ["grpo.num_steps=3", "grpo.problems_per_step=8", "grpo.num_completions=4", "grpo.sft_coef=0.1", "grpo.sft_batch_size=4"]
    grpo += ["grpo.dynamic_sampling=true"] if turn else ["grpo.keep_rollouts=true"]
    distil = "distil.num_problems=60" if turn else "distil={source: dataset, num_problems: 60}"
    return [f"iterations[{turn}].{key}" for key in (distil, *sft, *grpo)]


def start(runs: Path, name: str, *overrides: str) -> subprocess.Popen[str]:
    options = [f"runs_dir={runs}", f"name={name}", *SHORT, *of_a_turn(0), *of_a_turn(1), *overrides]
    command = [sys.executable, "-m", "ovt_ray", "run", "configs/tiny.yaml", *options]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    # A shell gives what it starts in the background an ignored SIGINT, which would be the run's too.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, preexec_fn=heed, **streams)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    return output


def figures(run: Path) -> list[dict[str, float]]:
    """Return the run's metrics without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    of_the_clock = ("time", "tokens_per_s", "rollout_busy", "learner_busy")
    return [{key: value for key, value in row.items() if "second" not in key and key not in of_the_clock} for row in rows]


def accuracies(run: Path) -> list[tuple[int, str, float, float]]:
    rows = json.loads((run / "result.json").read_text())
    return [(row["iteration"], row["stage"], row["accuracy"], row["response_tokens"]) for row in rows]


def wait_for(path: Path, text: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, f"{text!r} never came: {process.communicate()[0][-2000:]}"
        time.sleep(0.05)


def alive(processes: list[psutil.Process]) -> list[str]:
    return [str(process) for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def is_ours(process: psutil.Process) -> bool:
    """Return whether a process is not one of Ray's two agents, which take minutes to notice that their killed cluster is gone."""
    return not " ".join(process.cmdline()).startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether the condition comes true within half a minute."""
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    return condition()


def assert_all_end(processes: list[psutil.Process]) -> None:
    assert eventually(lambda: not alive(processes)), alive(processes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unbroken(runs: Path) -> Path:
    """A finished run of two iterations."""
    finish(start(runs, "unbroken"))
    return runs / "unbroken"


def test_a_run_leaves_what_it_promises(unbroken: Path) -> None:
    rows = json.loads((unbroken / "result.json").read_text())
    assert [(row["iteration"], row["stage"]) for row in rows] == [(0, "base"), (1, "sft"), (1, "grpo"), (2, "sft"), (2, "grpo")]
    assert all(row["ci_low"] <= row["accuracy"] <= row["ci_high"] and row["num_problems"] == 20 for row in rows)
    for stage in ("iter1/sft", "iter1/grpo", "iter2/sft", "iter2/grpo"):
        assert (unbroken / stage / "model" / "model.safetensors").exists() and (unbroken / stage / "model" / "config.json").exists()
        assert not (unbroken / stage / "checkpoints").exists(), "checkpoints of a finished stage are only in the way"
    assert "<img" in (unbroken / "report.html").read_text()
    assert json.loads((unbroken / "config.json").read_text())["iterations"][1]["sft"]["num_steps"] == 30


def test_a_stage_trained_by_epochs_sees_its_traces_as_often_and_measures_those_held_out(unbroken: Path) -> None:
    rows = [row for row in figures(unbroken) if row["stage"] == "iter1/sft"]
    num_traces = len((unbroken / "iter1/distil/traces.jsonl").read_text().splitlines())
    num_held_out = round(0.1 * num_traces)
    assert len(rows) == math.ceil(3.5 * math.ceil((num_traces - num_held_out) / 8))
    measured = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert len(measured) == math.ceil(len(rows) / 2) and 0 < measured[-1] < measured[0]
    assert all(row["sft_loss"] > 0 for row in figures(unbroken) if row["stage"] == "iter1/grpo" and "sft_loss" in row)


def test_the_timeline_shows_every_actor_and_that_nothing_is_learnt_while_a_step_is_generated(unbroken: Path) -> None:
    events = json.loads((unbroken / "timeline.json").read_text().rstrip(",\n") + "]")
    actors = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    spans = [event for event in events if event["ph"] == "X" and event["args"]["stage"] == "iter2/grpo" and event["args"]["step"] == 2]
    seen: dict[str, set[str]] = {actor: set() for actor in actors.values()}
    for span in spans:
        seen[actors[span["pid"]]].add(span["name"])
    assert seen == {
        "driver 0": {"generate", "score", "update", "publish", "load"},
        "rollout worker 0": {"generate", "load"},
        "reward actor 0": {"score"},
        "learner rank 0": {"update", "prepare", "forward", "backward", "optimizer", "publish", "save"},
    }
    generated = [span for span in spans if span["name"] == "generate"]
    updates = [span for span in spans if span["name"] == "update"]
    assert all(one["ts"] + one["dur"] <= update["ts"] for one in generated for update in updates)
    rows = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["learner_busy"] < 1 for row in rows)
    assert all(0 < row["rollout_busy"] < 1 for row in rows if row["stage"].endswith("/grpo"))


def test_a_stage_model_loads_in_transformers_without_our_code(unbroken: Path) -> None:
    code = (
        "from transformers import AutoModelForImageTextToText, AutoProcessor; import sys; path = sys.argv[1];"
        "AutoProcessor.from_pretrained(path); AutoModelForImageTextToText.from_pretrained(path); print('ovt_ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(unbroken / "iter2/grpo/model")], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "False", done.stderr[-2000:]


def test_a_finished_run_is_not_run_again(unbroken: Path) -> None:
    before = (unbroken / "metrics.jsonl").read_bytes()
    output = finish(start(unbroken.parent, "unbroken"))
    assert output.count("finished before, kept") == 7 and "starting the services" not in output
    assert (unbroken / "metrics.jsonl").read_bytes() == before


@pytest.mark.long
def test_a_kept_step_is_learnt_from_again_alone_and_gives_the_recorded_figures(unbroken: Path) -> None:
    command = [sys.executable, "-m", "ovt_ray", "replay", str(unbroken), "iter1/grpo", "0", "--only", "learn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 of 14 figures are the recorded ones" in done.stdout and "rollout workers" not in done.stdout


@pytest.mark.long
def test_a_run_stopped_in_each_kind_of_stage_ends_with_the_numbers_of_an_unbroken_one(unbroken: Path, runs: Path) -> None:
    """Interrupted once, killed twice. Also: the same seed gives the same numbers twice, whichever way the weights travel."""
    run, start_again = runs / "stopped", partial(start, runs, "stopped", "learner.weight_transport=broadcast")
    before = set(Path("/dev/shm").iterdir())
    process = start_again()
    wait_for(run / "metrics.jsonl", '"stage": "iter1/sft", "step": 13', process)
    assert "goes on from here" in interrupt(process)
    assert eventually(lambda: set(Path("/dev/shm").iterdir()) <= before), "no shared memory is left behind"
    for file, row in (
        (run / "iter2/distil/checkpoints/chains.jsonl", '"id": '),
        (run / "metrics.jsonl", '"stage": "iter2/grpo", "step": 2'),
    ):
        process = start_again()
        wait_for(file, row, process)
        kill(process)
    finish(start_again())
    assert figures(run) == figures(unbroken)
    assert accuracies(run) == accuracies(unbroken)


def interrupt(process: subprocess.Popen[str]) -> str:
    """Return what a run says when it is interrupted; all its processes end with it. SIGTERM goes the same way: see tests/test_job.py."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 5
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in output
    assert_all_end(family)
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a run's driver; all its processes end on their own."""
    family = [child for child in psutil.Process(process.pid).children(recursive=True) if is_ours(child)]
    assert len(family) >= 5
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert_all_end(family)
