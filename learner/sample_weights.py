"""The part of each sample in the loss of an update: RL samples, and traces that are mixed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from learner.grpo import PolicyLoss, mixed_loss_weights
from ovt_ray.core.errors import LearnerError
from ovt_ray.core.types import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleWeights:
    """Weights of the samples of an update over all ranks, in their order."""

    is_trace: Sequence[bool]
    """Whether each sample is a trace mixed into an RL update; False for all samples of an SFT stage."""
    of_tokens: Sequence[float]
    """Weight of each sample's tokens in the loss."""
    num_loss_tokens: int
    """Count of the tokens with a loss, those of traces included."""
    num_trace_tokens: int
    """Count of the loss tokens of traces."""


def sample_weights(samples: Sequence[TrainSample], num_tokens: Sequence[int], variant: PolicyLoss | None) -> SampleWeights:
    """Return the weights of samples from the count of loss tokens of each. Without a variant of the policy loss the stage is SFT.

    In a stage with a policy loss, samples without rollout log-probabilities are traces: they get the cross entropy, times `sft_coef`.
    Raises LearnerError if no token but those of traces has a loss.
    """
    is_trace = [variant is not None and sample.rollout_logprobs is None for sample in samples]
    num_trace_tokens = sum(compress(num_tokens, is_trace))
    if sum(num_tokens) == num_trace_tokens:
        aside = ", traces aside" if num_trace_tokens else ""
        raise LearnerError(f"an update of {len(samples)} samples has no token with a loss{aside}: hand it samples with completions")
    ids = [sample.problem.id for sample in samples]
    kind, sft_coef = (variant.normalisation, variant.sft_coef) if variant else ("token", 0.0)
    return SampleWeights(
        is_trace=is_trace,
        of_tokens=mixed_loss_weights(num_tokens, ids, is_trace, kind=kind, sft_coef=sft_coef),
        num_loss_tokens=sum(num_tokens),
        num_trace_tokens=num_trace_tokens,
    )
