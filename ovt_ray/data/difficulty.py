"""The pass rate of each problem. Stages that ask for several answers measure it, and later stages choose problems by it.

A stage leaves `difficulty.jsonl` in its folder: rows of `Problem` with `num_correct` and `num_scored`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovt_ray.core.config.stages import Tier
from ovt_ray.core.files import append_json_lines, drop_torn_end, read_json_lines, write_json_lines_atomically
from ovt_ray.core.types import Outcome, Problem, Score
from ovt_ray.data.rows import ProblemRow, problem_row, stored_problem
from ovt_ray.run.results import stage_key

FILE = "difficulty.jsonl"
EASY_FROM = 0.8
"""Pass rate from which a problem is easy."""
MEDIUM_FROM = 0.4
"""Pass rate from which a problem is medium. Below, it is hard, and unsolved if no answer was correct."""
Answered = tuple[Problem, Sequence[Score]]
"""A problem and the verdicts on the answers to it."""
TIERS: tuple[Tier, ...] = ("easy", "medium", "hard", "unsolved")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """The answers to one problem."""

    num_correct: int
    num_scored: int
    """Number of answers with a verdict; at least 1."""

    @property
    def tier(self) -> Tier:
        """Difficulty of the problem for the model that answered."""
        if self.num_correct == 0:
            return "unsolved"
        rate = self.num_correct / self.num_scored
        return "easy" if rate >= EASY_FROM else "medium" if rate >= MEDIUM_FROM else "hard"


def measured_before(run_dir: Path, iteration: int, stage: Literal["distil", "grpo"]) -> tuple[Path, ...]:
    """Return the folders of a run's stages before one that may have measured pass rates, in the order of the run."""
    stages = [(number, name) for number in range(1, iteration + 1) for name in ("distil", "grpo")]
    return tuple(run_dir / stage_key(*before) for before in stages[: stages.index((iteration, stage))])


def write_pass_rates(folder: Path, answered: Iterable[Answered]) -> None:
    """Replace the pass rates of a stage."""
    write_json_lines_atomically(folder / FILE, [_row(problem, scores, folder) for problem, scores in answered])


def begin_pass_rates(folder: Path, *, goes_on: bool) -> None:
    """Prepare the file for `add_pass_rates`: a stage that begins empties it, a stage that goes on drops a half-written row."""
    folder.mkdir(parents=True, exist_ok=True)
    if goes_on:
        drop_torn_end(folder / FILE)
    else:
        write_pass_rates(folder, [])


def add_pass_rates(folder: Path, answered: Iterable[Answered]) -> None:
    """Add to the pass rates of a stage that measures step by step. A repeated step is written again."""
    append_json_lines(folder / FILE, [_row(problem, scores, folder) for problem, scores in answered])


def read_pass_rates(folders: Sequence[Path]) -> dict[str, PassRate]:
    """Return the last pass rate of each measured problem by its id."""
    rows = [row for folder in folders for row in read_json_lines(folder / FILE)]
    return {row["id"]: PassRate(num_correct=row["num_correct"], num_scored=row["num_scored"]) for row in rows if row["num_scored"]}


def read_measured_problems(folders: Sequence[Path]) -> list[Problem]:
    """Return each measured problem once, as the stages kept it."""
    rows = {row["id"]: (folder, row) for folder in folders for row in read_json_lines(folder / FILE)}
    names = ProblemRow.model_fields
    return [stored_problem({name: row[name] for name in names}, folder) for folder, row in rows.values()]


def _row(problem: Problem, scores: Sequence[Score], folder: Path) -> dict[str, object]:
    outcomes = [score.outcome for score in scores]
    return problem_row(problem, folder) | {
        "num_correct": outcomes.count(Outcome.CORRECT),
        "num_scored": len(outcomes) - outcomes.count(Outcome.UNSCORABLE),
    }
