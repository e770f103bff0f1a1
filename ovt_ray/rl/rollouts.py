"""The rollouts of a step on the disk, as the learner received them. People read them, and `ovt-ray replay` repeats the step."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from learner.checkpoints import tag
from ovt_ray.core.errors import DataError
from ovt_ray.core.files import read_json_lines, write_json_lines_atomically
from ovt_ray.core.types import Problem, ScoredGroup
from ovt_ray.data.stream import ItemStream
from ovt_ray.rl.group_rows import group_row, read_group


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRollouts:
    """The groups that one step learnt from."""

    groups: tuple[ScoredGroup, ...]
    """Groups in the order of the step."""
    rollout_is_proximal: bool
    """Value of `rollout_is_proximal` in the step's `Minibatches`."""


def rollouts_path(stage_folder: Path, step: int) -> Path:
    """Return the file of a step. Its first line says how the step learnt from the groups; a line for each group follows."""
    return stage_folder / "rollouts" / f"{tag(step)}.jsonl"


def forget_rollouts(stage_folder: Path) -> None:
    """Remove the rollouts of an attempt that was given up."""
    shutil.rmtree(stage_folder / "rollouts", ignore_errors=True)


def write_rollouts(stage_folder: Path, step: int, groups: Mapping[int, ScoredGroup], *, rollout_is_proximal: bool) -> None:
    """Write a step's groups. `groups` has each by the position of its problem in the stream."""
    rows = [group_row(step, position, group) for position, group in groups.items()]
    first = {"step": step, "num_groups": len(rows), "rollout_is_proximal": rollout_is_proximal}
    write_json_lines_atomically(rollouts_path(stage_folder, step), [first, *rows])


def read_rollouts(stage_folder: Path, step: int, problems: ItemStream[Problem]) -> KeptRollouts:
    """Return the rollouts of a step. Raises DataError naming the file if it is missing or damaged."""
    path = rollouts_path(stage_folder, step)
    if not path.exists():
        raise DataError(f"{path}: no such file; a run keeps the rollouts of its steps with grpo.keep_rollouts=true")
    rows = read_json_lines(path)
    if not rows or rows[0].get("num_groups") != len(rows) - 1:
        raise DataError(f"{path}: damaged, as it does not hold the groups that its first line counts; replay another step")
    try:
        groups = tuple(read_group(row, problems)[1] for row in rows[1:])
    except DataError as error:
        raise DataError(f"{path}: {error}; replay another step") from error
    return KeptRollouts(groups=groups, rollout_is_proximal=rows[0]["rollout_is_proximal"])
