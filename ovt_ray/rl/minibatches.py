"""What the learner makes of one step's groups: the updates it takes, and their figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean

from learner.group import LearnerGroup
from ovt_ray.core.types import ScoredGroup, TrainSample, UpdateStats
from ovt_ray.rl.samples import split_evenly, to_train_samples
from ovt_ray.rl.stage import GrpoStage

AVERAGED = [field.name for field in fields(UpdateStats) if not field.name.startswith("num_")]
"""Figures of the updates of a step that are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The updates of one step, each on a part of its samples; none where nothing teaches."""

    parts: Sequence[Sequence[TrainSample]]
    traces: Sequence[Sequence[TrainSample]]
    """Of each update, what it learns from beside its part."""
    rollout_is_proximal: bool
    """Whether the rollout's log-probabilities are the learner's at the start of the step, and not computed again."""


def lesson_of(stage: GrpoStage, step: int, groups: Sequence[ScoredGroup], *, rollout_is_proximal: bool) -> Lesson:
    """Return what a step learns from its groups."""
    section = stage.section
    samples = to_train_samples(groups, section.advantage, mask_truncated=section.mask_truncated)
    parts = split_evenly(samples, section.updates_per_step)
    traces = [stage.traces_of(step, number) for number in range(len(parts))]
    return Lesson(parts=parts, traces=traces, rollout_is_proximal=rollout_is_proximal)


def learn(learner: LearnerGroup, lesson: Lesson) -> list[UpdateStats]:
    """Take the updates. Parts after the first need the log-probabilities of the policy before the first."""
    later = [sample for part in lesson.parts[1:] for sample in part]
    known = [sample.rollout_logprobs for sample in later] if lesson.rollout_is_proximal or not later else learner.logprobs(later)
    proximal = iter(known)
    parts = [*lesson.parts[:1], *([replace(sample, proximal_logprobs=next(proximal)) for sample in part] for part in lesson.parts[1:])]
    return [learner.update([*part, *traces]) for part, traces in zip(parts, lesson.traces, strict=True)]


def update_figures(updates: Sequence[UpdateStats]) -> dict[str, float]:
    """Return the figures of a step's updates, averaged; none without an update."""
    return {name: fmean(asdict(update)[name] for update in updates) for name in AVERAGED if updates}
