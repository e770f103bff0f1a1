"""The minibatches of a step: one for each of its updates."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean

from ovt_ray.core.types import TrainSample, UpdateStats
from ovt_ray.rl.samples import split_evenly
from ovt_ray.rl.services import PolicyLearner
from ovt_ray.rl.stage import GrpoStage

AVERAGED = [field.name for field in fields(UpdateStats) if not field.name.startswith("num_")]
"""Names of the figures that are averaged over the updates of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Minibatches:
    """The samples of one step, split into its updates; empty where no group has a signal."""

    rollouts: Sequence[Sequence[TrainSample]]
    """Samples of each update that the rollout workers drew."""
    traces: Sequence[Sequence[TrainSample]]
    """Samples of each update that come from the iteration's traces."""
    rollout_is_proximal: bool
    """Whether the rollout's log-probabilities equal the learner's at the start of the step, which are then not computed again."""


def split_into_minibatches(stage: GrpoStage, step: int, samples: Sequence[TrainSample], *, rollout_is_proximal: bool) -> Minibatches:
    """Return a step's samples split into `grpo.updates_per_step` minibatches, with traces mixed in if the stage says so."""
    rollouts = split_evenly(samples, stage.section.updates_per_step)
    traces = [stage.traces_of(step, number) for number in range(len(rollouts))]
    return Minibatches(rollouts=rollouts, traces=traces, rollout_is_proximal=rollout_is_proximal)


def run_updates(learner: PolicyLearner, minibatches: Minibatches) -> list[UpdateStats]:
    """Take one update on each minibatch.

    The clip range of all updates is around the policy before the first update. The first update starts at this policy, so it needs no
    log-probabilities of it.
    """
    first, rest = minibatches.rollouts[:1], minibatches.rollouts[1:]
    later = [sample for samples in rest for sample in samples]
    # Before the first update: after it, the learner could not say any more how probable the tokens were.
    known = [sample.rollout_logprobs for sample in later] if minibatches.rollout_is_proximal or not later else learner.logprobs(later)
    proximal = iter(known)
    rollouts = [*first, *([replace(sample, proximal_logprobs=next(proximal)) for sample in samples] for samples in rest)]
    # One after the other: each update begins from the weights that the last one left.
    return [learner.update([*samples, *traces]) for samples, traces in zip(rollouts, minibatches.traces, strict=True)]


def update_figures(updates: Sequence[UpdateStats]) -> dict[str, float]:
    """Return the figures of a step's updates, averaged; none without an update."""
    return {name: fmean(asdict(update)[name] for update in updates) for name in AVERAGED if updates}
