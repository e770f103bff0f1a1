"""The log of figures: what is read back, what a resumed stage forgets, what TensorBoard sees."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ovt_ray.run.metrics import MetricsLog, read_metrics


def log_steps(run_dir: Path, stage: str, steps: range, reward: float) -> None:
    with MetricsLog(run_dir, stage, steps.start) as log:
        for step in steps:
            log.log(step, {"reward": reward})


def test_rows_are_read_back_as_they_were_logged(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, "iter1/grpo", 0) as log:
        log.log(0, {"reward": 0.5, "tokens_per_s": 5210.0})
    (row,) = read_metrics(tmp_path)
    assert (row.stage, row.step, row.values) == ("iter1/grpo", 0, {"reward": 0.5, "tokens_per_s": 5210.0})
    flat = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert flat["reward"] == 0.5


def test_a_resumed_stage_repeats_no_row_and_keeps_other_stages(tmp_path: Path) -> None:
    log_steps(tmp_path, "iter1/sft", range(3), reward=0.0)
    log_steps(tmp_path, "iter1/grpo", range(4), reward=0.1)
    log_steps(tmp_path, "iter1/grpo", range(2, 5), reward=0.9)
    rows = [(row.stage, row.step, row.values["reward"]) for row in read_metrics(tmp_path)]
    assert rows == [("iter1/sft", step, 0.0) for step in range(3)] + [
        ("iter1/grpo", 0, 0.1),
        ("iter1/grpo", 1, 0.1),
        ("iter1/grpo", 2, 0.9),
        ("iter1/grpo", 3, 0.9),
        ("iter1/grpo", 4, 0.9),
    ]


def test_a_row_torn_by_a_crash_is_forgotten(tmp_path: Path) -> None:
    log_steps(tmp_path, "iter1/grpo", range(2), reward=0.1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1.0, "stage": "iter1/gr')
    log_steps(tmp_path, "iter1/grpo", range(2, 3), reward=0.9)
    assert [row.values["reward"] for row in read_metrics(tmp_path)] == [0.1, 0.1, 0.9]


def test_tensorboard_shows_each_step_of_a_resumed_stage_once(tmp_path: Path) -> None:
    log_steps(tmp_path, "iter1/grpo", range(4), reward=0.25)
    log_steps(tmp_path, "iter1/grpo", range(2, 5), reward=0.75)
    events = EventAccumulator(str(tmp_path / "tensorboard/iter1/grpo"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("reward")]
    assert seen == [(0, 0.25), (1, 0.25), (2, 0.75), (3, 0.75), (4, 0.75)]


def test_a_loss_that_is_not_finite_is_stored_as_valid_json(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, "iter1/sft", 0) as log:
        log.log(0, {"loss": math.inf})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    assert math.isnan(read_metrics(tmp_path)[0].values["loss"])


def test_a_figure_cannot_overwrite_the_step(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, "iter1/sft", 0) as log, pytest.raises(ValueError, match="step"):
        log.log(0, {"step": 3.0})


def test_logging_imports_no_torch(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from ovt_ray.run.metrics import MetricsLog
with MetricsLog(Path({str(tmp_path)!r}), "iter1/sft", 0) as log:
    log.log(0, {{"loss": 1.0}})
assert "torch" not in sys.modules and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])
