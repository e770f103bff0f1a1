"""The accuracy of each trained stage on the held-out problems: `result.json`, and the table that ends a run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ovt_ray.core.config.stages import IterationConfig
from ovt_ray.core.files import write_json_atomically
from ovt_ray.run.statistics import wilson_interval

RESULT_FILE = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One model of the run, evaluated greedily. The fields are the keys of a row of `result.json`."""

    iteration: int
    """Number of the iteration, from 1; 0 for the base model."""
    stage: str
    """Name of the stage: `base`, `sft` or `grpo`."""
    accuracy: float
    """Share of the held-out problems answered correctly, 0 to 1."""
    ci_low: float
    ci_high: float
    """Upper end of the 95 % Wilson interval of `accuracy`, which begins at `ci_low`."""
    num_problems: int
    response_tokens: float
    """Mean length of an answer in tokens."""
    seconds: float
    """Wall-clock time of the stage with its evaluation."""


def stage_key(iteration: int, stage: str) -> str:
    """Return the name of a stage within its run, `iter1/grpo`: its folder, and its name in ledger, metrics and samples."""
    return f"iter{iteration}/{stage}"


def stage_keys(iterations: Sequence[IterationConfig]) -> list[str]:
    """Return the names of all stages of a run, in the order in which they are done."""
    keys = [stage_key(0, "base")]
    for number, turn in enumerate(iterations, start=1):
        keys += [stage_key(number, name) for name in (("distil", "sft", "grpo") if turn.distil and turn.sft else ("grpo",))]
    return keys


def measured(iteration: int, stage: str, *, num_correct: int, num_problems: int, response_tokens: float, seconds: float) -> StageResult:
    """Return the result of a stage with its accuracy and interval."""
    low, high = wilson_interval(num_correct, num_problems)
    return StageResult(
        iteration=iteration,
        stage=stage,
        accuracy=num_correct / num_problems,
        ci_low=low,
        ci_high=high,
        num_problems=num_problems,
        response_tokens=response_tokens,
        seconds=seconds,
    )


def write_results(run_dir: Path, results: Sequence[StageResult]) -> Path:
    """Write `result.json`, a list with one object per stage in the order they ran, and return its path."""
    path = run_dir / RESULT_FILE
    write_json_atomically(path, [asdict(result) for result in results])
    return path


def read_results(run_dir: Path) -> list[StageResult]:
    """Return the stages of `result.json`; none if the run has not written it yet."""
    path = run_dir / RESULT_FILE
    if not path.exists():
        return []
    return [StageResult(**row) for row in json.loads(path.read_text())]


def stage_table(results: Sequence[StageResult]) -> str:
    """Return the stages as aligned plain text, a heading and a line for each stage."""
    heading = ("stage", "accuracy", "95 % interval", "problems", "tokens", "time")
    rows = [heading, *(_cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def clock_time(seconds: float) -> str:
    """Return a duration as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cells(result: StageResult) -> tuple[str, ...]:
    return (
        stage_key(result.iteration, result.stage),
        f"{result.accuracy:.1%}",
        f"{result.ci_low:.1%} - {result.ci_high:.1%}",
        f"{result.num_problems:,}",
        f"{result.response_tokens:.1f}",
        clock_time(result.seconds),
    )
