"""The recorder of an RL stage: phases, pass rates, kept rollouts and the figures of each step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Protocol

from ovt_ray.core.types import UpdateStats
from ovt_ray.data.difficulty import add_pass_rates, begin_pass_rates
from ovt_ray.rl.minibatches import update_figures
from ovt_ray.rl.rollouts import write_rollouts
from ovt_ray.rl.samples import group_stats, part_means
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.rl.stream import StepGroups


class StepRecorder(Protocol):
    """Records the steps of any stage, as `ovt_ray.run.recorder.Recorder` does."""

    def begin(self, phase: str) -> None:
        """Note that the driver begins a phase of the step; it ends with the next phase or with the step."""

    def end_phases(self) -> Mapping[str, float]:
        """End the phase that runs, and return the seconds of each phase of this step."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of one finished step, counted from 0."""


class GrpoRecorder:
    """Records the steps of an RL stage, and leaves pass rates and rollouts in the stage's folder."""

    def __init__(self, stage: GrpoStage, steps: StepRecorder, first_step: int) -> None:
        self._stage = stage
        self._steps = steps
        begin_pass_rates(stage.folder, goes_on=first_step > 0)

    def begin(self, phase: str) -> None:
        """Note that the driver begins a phase of the step."""
        self._steps.begin(phase)

    def keep_groups(self, step: int, taken: StepGroups) -> None:
        """Write the pass rates of a step's problems, and its groups if the config says so."""
        add_pass_rates(self._stage.folder, [(group.group.problem, group.scores) for group in taken.groups])
        if self._stage.section.keep_rollouts:
            write_rollouts(self._stage.folder, step, taken.by_position, rollout_is_proximal=taken.rollout_is_proximal)

    def step(self, step: int, taken: StepGroups, updates: Sequence[UpdateStats]) -> None:
        """Record the figures of a finished step; figures of several updates are averaged."""
        groups, seconds = taken.groups, self._steps.end_phases()
        num_tokens = sum(len(completion.token_ids) for group in groups for completion in group.group.completions)
        figures = asdict(group_stats(groups)) | part_means(groups) | update_figures(updates)
        figures |= {f"seconds_{phase}": length for phase, length in seconds.items()}
        figures |= {
            "seconds_sync": sum(seconds[phase] for phase in ("publish", "load") if phase in seconds),
            "num_tokens": num_tokens,
            "tokens_per_s": num_tokens / sum(seconds.values()),
            "staleness": fmean(taken.versions_behind),
            "staleness_max": max(taken.versions_behind),
            "num_replaced": max(0, len(groups) - self._stage.section.problems_per_step),
            "num_stale": taken.num_stale,
        }
        self._steps.step(step, figures)
