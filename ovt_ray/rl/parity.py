"""The gate before each RL stage: rollout and learner must give the same tokens the same log-probabilities.

It catches faults that raise nothing: stale image features, pixels lost on the way, wrong positions, weights that did not arrive.

The gate takes the mean over an answer's tokens, and the worst answer decides. In float32 both sides agree to 1e-6 on almost every token.
A single token can be 5e-5 apart where a trained model's attention is close to a tie. There transformers in float32 is as far from float64
as vLLM is. Any of the faults above moves whole answers by more than 1e-2.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ovt_ray.core.errors import ParityError
from ovt_ray.core.types import RolloutGroup, TrainSample

EXACT_GAP = 1e-5
"""Largest gap that the rounding of float32 alone explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityGap:
    """Differences of log-probabilities between rollout and learner, in nats."""

    mean: float
    """Mean difference over the tokens of the worst answer."""
    worst: float
    """Largest difference on a token of any answer."""

    @property
    def is_exact(self) -> bool:
        """Whether log-probabilities of the rollout engine can stand for the learner's own of the same weights."""
        return self.mean <= EXACT_GAP


def parity_samples(groups: Iterable[RolloutGroup]) -> list[TrainSample]:
    """Return a sample for each completion of some groups, with the log-probabilities of the rollout."""
    return [
        TrainSample(
            problem=group.problem,
            prompt_ids=group.prompt_ids,
            completion_ids=completion.token_ids,
            rollout_logprobs=completion.rollout_logprobs,
        )
        for group in groups
        for completion in group.completions
    ]


def check_parity(samples: Sequence[TrainSample], learner_logprobs: Sequence[Sequence[float]], max_gap: float) -> ParityGap:
    """Return the gap between rollout and learner on the tokens of a few completions. `learner_logprobs` has a row for each sample.

    Raises ParityError with the problem of the worst answer if its mean is above `max_gap`.
    """
    gaps = [
        [abs(rollout - policy) for rollout, policy in zip(sample.rollout_logprobs or (), row, strict=True)]
        for sample, row in zip(samples, learner_logprobs, strict=True)
    ]
    means = [fmean(answer) for answer in gaps]
    place = max(range(len(means)), key=lambda place: math.inf if math.isnan(means[place]) else means[place])
    gap = ParityGap(mean=means[place], worst=max(max(answer) for answer in gaps))
    if not gap.mean <= max_gap:
        raise ParityError(
            f"rollout and learner differ by {gap.mean:.2g} nats a token on an answer to problem {samples[place].problem.id}, allowed is "
            f"{max_gap:g} (max_parity_gap of the stage's grpo section); the worst token is {gap.worst:.2g} apart. Look at: the dtypes "
            "of rollout and learner (bfloat16 needs about 0.05), whether the learner's weights reached the engine, and image size limits"
        )
    return gap
