"""The maths of the losses: pure torch, one value per completion token, shape (N,).

N runs over all completion tokens of a micro-batch. The caller sums over the loss mask and divides by the number of loss tokens
of the whole batch (all ranks, all micro-batches), so that no split of the batch changes the gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this size before exp: e^20 is far outside every clip range, e^89 would overflow float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """One micro-batch's loss and what is reported of it, each (N,). Only `loss` carries a gradient."""

    loss: Tensor
    clipped: Tensor
    """1 where the clip range cuts the token's gradient off."""
    kl_rollout: Tensor
    """k3 estimate of KL(rollout || policy)."""
    kl_ref: Tensor
    """k3 estimate of KL(policy || reference); 0 without a reference."""


def group_advantages(rewards: Sequence[float], normalise: bool) -> list[float]:
    """Return the advantages of one group's completions, (G,); all 0 for a flat group.

    Rewards less their mean (Dr. GRPO, arXiv 2503.20783, section 3.2), divided by their standard deviation if `normalise` (GRPO,
    arXiv 2402.03300, section 4.1.2). The deviation is the population's; without an epsilon, since flat groups are 0 anyway.
    """
    mean, deviation = fmean(rewards), pstdev(rewards)
    if deviation == 0:
        return [0.0] * len(rewards)
    return [(reward - mean) / (deviation if normalise else 1.0) for reward in rewards]


def sft_loss(policy_logprobs: Tensor, weights: Tensor) -> TokenLosses:
    """Return the cross entropy of each token times its sample's weight (the advantage, 1 for plain SFT)."""
    zeros = torch.zeros_like(policy_logprobs)
    return TokenLosses(loss=-policy_logprobs * weights, clipped=zeros, kl_rollout=zeros, kl_ref=zeros)


def grpo_loss(
    policy_logprobs: Tensor,
    rollout_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
) -> TokenLosses:
    """Return the clipped surrogate plus the KL term (GRPO, arXiv 2402.03300, eq. 3) of each token.

    The behaviour policy is the rollout engine itself: the ratio is taken to its log-probabilities, not to the learner's own at the
    start of the step. The lower and upper clip may differ (DAPO, arXiv 2503.14476, eq. 8). All arguments are (N,).
    """
    surrogate, clipped = clipped_surrogate(policy_logprobs, rollout_logprobs, advantages, clip_low, clip_high)
    kl_ref = torch.zeros_like(surrogate) if ref_logprobs is None else k3_kl(policy_logprobs, ref_logprobs)
    return TokenLosses(
        loss=surrogate + kl_coef * kl_ref,
        clipped=clipped,
        kl_rollout=k3_kl(rollout_logprobs, policy_logprobs).detach(),
        kl_ref=kl_ref.detach(),
    )


def clipped_surrogate(
    policy_logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return -min(r A, clip(r, 1 - low, 1 + high) A) with r = policy / rollout, and 1 where the clip took the gradient away."""
    ratio = torch.exp((policy_logprobs - rollout_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    clipped = clipped_ratio * advantages < ratio * advantages
    return loss, clipped.to(loss.dtype)


def k3_kl(sampled_logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Return the k3 estimate of KL(p || q) for tokens sampled from p: q/p - 1 - log(q/p), never negative.

    Schulman, "Approximating KL divergence" (2020); GRPO, arXiv 2402.03300, eq. 4. The gradient flows through both arguments.
    """
    log_ratio = (other_logprobs - sampled_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio
