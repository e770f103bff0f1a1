"""The maths of the losses: pure torch, one value per completion token, shape (N,).

N runs over all completion tokens of a micro-batch, sequence after sequence. The caller multiplies by `loss_weights` and sums.
These weights are known for a whole minibatch (all ranks, all its micro-batches) before any pass. So no split of it changes the gradient.

Three policies meet at a token:
- The *rollout* policy sampled it in an engine, perhaps with weights of earlier steps.
- The *proximal* policy is the learner's as it stood when the step began.
- The *policy* is being trained.

Two ratios compare them:
- policy / proximal is the ratio of PPO. The clip range is around the proximal policy (decoupled PPO, arXiv 2110.00641, section 2; AReaL,
  arXiv 2505.24298, eq. 5).
- proximal / rollout is the gap between two implementations of one model, or between new and stale weights. The
  clip range does not apply to it; `rollout_weights` turns it into a capped or masked weight.

In the first update of a step the proximal policy is the policy itself: `proximal_logprobs` is None, and no pass of its own is needed. The
ratio then has the value 1 and the gradient of the log-probability.

The driver computes the advantages of a whole step before any update: `ovt_ray/rl/samples.py` calls `group_advantages` below. In a
zero-variance group all rewards are equal. Its advantages are 0, and the driver sends none of its completions to the learner. So it does not
count in `loss_weights` either.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Literal

import torch
from torch import Tensor

from ovt_ray.core.config.stages import Advantage, KlEstimator, Normalisation, Ratio, RolloutCorrection

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this size before exp: e^20 is far outside every clip range, e^89 would overflow float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRange:
    """Range around 1 to which the ratio policy / proximal is clipped."""

    low: float
    """The lower end is 1 - low."""
    high: float
    """The upper end is 1 + high."""
    dual: float | None
    """Largest ratio that counts for a negative advantage; None is without bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """The variant of the loss that a stage asks for; `ovt_ray/core/config/stages.py` describes the choices."""

    ratio: Ratio
    clip: ClipRange
    kl_coef: float
    """Weight of the KL to the reference; 0 keeps no reference."""
    kl_estimator: KlEstimator
    kl_in: Literal["loss", "reward"]
    rollout_correction: RolloutCorrection
    rollout_cap: float
    """Cap of the rollout correction."""
    normalisation: Normalisation
    sft_coef: float
    """Weight of the cross entropy of traces in the loss; 0 where none are mixed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """A micro-batch's loss and its figures, each (N,). Only `loss` carries a gradient."""

    loss: Tensor
    clipped_low: Tensor
    """1 where the lower end of the clip range is active for the token."""
    clipped_high: Tensor
    """1 where the upper end of the clip range, or the dual clip, is active for it."""
    log_ratio: Tensor
    """log(policy / rollout); 0 for SFT."""
    rollout_weights: Tensor
    """Correction for the rollout engine's gap; 1 without."""
    kl_ref: Tensor
    """k3 estimate of KL(policy || reference); 0 without a reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The sequence that each token belongs to. Sums are taken in float64, so that the order of summation does not change them."""

    index: Tensor
    """(N,) int64, ascending from 0."""
    mask: Tensor
    """(N,) 1 on tokens with a loss; all other tokens count in no sum."""

    def sums(self, values: Tensor) -> Tensor:
        """Return, at each token, the sum of the values over its sequence, (N,)."""
        return self._totals(self._kept(values))[self.index].to(values.dtype)

    def means(self, values: Tensor) -> Tensor:
        """Return, at each token, the mean of the values over its sequence, (N,)."""
        return self.sums(values) / self.sums(torch.ones_like(values)).clamp(min=1)

    def sums_from(self, values: Tensor) -> Tensor:
        """Return, at each token, the sum of the values from it to the end of its sequence, (N,)."""
        kept = self._kept(values)
        until_sequence_end = self._totals(kept).cumsum(0)[self.index]
        return (until_sequence_end - (kept.cumsum(0) - kept)).to(values.dtype)

    def _kept(self, values: Tensor) -> Tensor:
        return torch.where(self.mask > 0, values.double(), 0.0)

    def _totals(self, kept: Tensor) -> Tensor:
        num_sequences = int(self.index[-1]) + 1 if len(self.index) else 0
        return kept.new_zeros(num_sequences).index_add(0, self.index, kept)


def group_advantages(groups: Sequence[Sequence[float]], kind: Advantage) -> list[list[float]]:
    """Return the advantages of the completions of all groups of a step, from their rewards; 0 in a zero-variance group.

    With R the rewards of one group of G completions, and deviations those of the population:
    `grpo`          (R - mean R) / std R: GRPO, arXiv 2402.03300, section 4.1.2.
    `dr_grpo`       R - mean R: Dr. GRPO, arXiv 2503.20783, section 3.2. Its loss is also divided by a constant, not by a number of
                    tokens. The nearest choice in `loss_weights` is `token`.
    `rloo`          R_i less the mean of the others, which is G / (G - 1) (R_i - mean R): RLOO, arXiv 2402.14740, section 2.3.
    `reinforce_pp`  (R - mean R) / std of R - mean R over all groups: REINFORCE++ with baseline, arXiv 2501.03262v9, eq. 6 and 7.
                    Each completion counts once there, however long it is; the mean over all groups is 0 already.
    No kind adds an epsilon to a deviation: zero-variance groups are 0 anyway. They still count in the deviation over all groups.
    """
    centred = [[reward - fmean(group) for reward in group] for group in groups]
    whole = pstdev([value for group in centred for value in group]) if groups else 0.0
    scales = {
        "grpo": [pstdev(group) for group in groups],
        "dr_grpo": [1.0] * len(groups),
        "rloo": [(len(group) - 1) / len(group) for group in groups],
        "reinforce_pp": [whole] * len(groups),
    }[kind]
    return [
        [0.0 if pstdev(group) == 0 else value / scale for value in values]
        for group, values, scale in zip(groups, centred, scales, strict=True)
    ]


def loss_weights(num_tokens: Sequence[int], group_ids: Sequence[str], kind: Normalisation) -> list[float]:
    """Return the weight of each sample's tokens in the loss of an update, (B,), from the loss tokens of all its samples.

    The sum over all loss tokens of all samples is 1.
    `token`     1 / all tokens, so that a long answer counts more than a short one.
    `sequence`  1 / (tokens of the sequence * sequences): GRPO, arXiv 2402.03300, eq. 3; GSPO, arXiv 2507.18071, eq. 5.
    `group`     1 / (tokens of the group * groups): DAPO, arXiv 2503.14476, eq. 8; CISPO, arXiv 2506.13585, eq. 4.
    """
    choices: dict[Normalisation, list[int | str]] = {
        "token": [0] * len(num_tokens),
        "sequence": [*range(len(num_tokens))],
        "group": [*group_ids],
    }
    owners = choices[kind]
    owned: Counter[int | str] = Counter()
    for owner, number in zip(owners, num_tokens, strict=True):
        owned[owner] += number
    num_owners = sum(number > 0 for number in owned.values())
    return [1 / (owned[owner] * num_owners) if owned[owner] else 0.0 for owner in owners]


def mixed_loss_weights(
    num_tokens: Sequence[int], group_ids: Sequence[str], is_sft: Sequence[bool], *, kind: Normalisation, sft_coef: float
) -> list[float]:
    """Return the weight of each sample's tokens in a loss of two terms, (B,): L_RL + c L_SFT, c being `sft_coef`.

    It is the sum of InstructGPT, arXiv 2203.02155, section 3.5, eq. 2, with the cross entropy of verified traces in place of that of
    pretraining text. L_RL is normalised by `kind` among the RL samples, L_SFT by token among the traces: neither changes with the size of
    the other.
    """
    terms: tuple[tuple[bool, Normalisation, float], ...] = ((False, kind, 1.0), (True, "token", sft_coef))
    weights = [0.0] * len(num_tokens)
    for of_sft, normalisation, coef in terms:
        places = [place for place, sft in enumerate(is_sft) if sft == of_sft]
        own = loss_weights([num_tokens[place] for place in places], [group_ids[place] for place in places], normalisation)
        for place, weight in zip(places, own, strict=True):
            weights[place] = coef * weight
    return weights


def sft_loss(policy_logprobs: Tensor, weights: Tensor) -> TokenLosses:
    """Return the cross entropy of each token times its sample's weight (the advantage, 1 for plain SFT)."""
    zeros, ones = torch.zeros_like(policy_logprobs), torch.ones_like(policy_logprobs)
    loss = -policy_logprobs * weights
    return TokenLosses(loss=loss, clipped_low=zeros, clipped_high=zeros, log_ratio=zeros, rollout_weights=ones, kl_ref=zeros)


def policy_loss(
    policy_logprobs: Tensor,
    *,
    rollout_logprobs: Tensor,
    proximal_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    sequences: Sequences,
    variant: PolicyLoss,
) -> TokenLosses:
    """Return the surrogate and the KL term of each token: GRPO, arXiv 2402.03300, eq. 3, or a variant of it.

    All tensors are (N,). Without `proximal_logprobs` the proximal policy is the policy itself. Without `ref_logprobs` there is no
    KL term.

    A KL in the loss is added to it, without rollout correction. With a KL in the reward, a token's KL is subtracted from the advantages of
    that token and of all earlier tokens, as in REINFORCE++, arXiv 2501.03262v9, eq. 4. We deviate from the paper: baseline and scale of the
    group come from the verifier's rewards alone. The driver knows these before any pass of the reference. A baseline leaves the expected
    gradient as it is.
    """
    proximal_logprobs = policy_logprobs.detach() if proximal_logprobs is None else proximal_logprobs
    correction = rollout_weights(proximal_logprobs - rollout_logprobs, sequences, kind=variant.rollout_correction, cap=variant.rollout_cap)
    if ref_logprobs is not None and variant.kl_in == "reward":
        penalties = variant.kl_coef * kl_estimate(variant.kl_estimator, proximal_logprobs, ref_logprobs)
        advantages = advantages - sequences.sums_from(penalties)
    ratio = policy_ratio(policy_logprobs, proximal_logprobs, sequences, variant.ratio)
    if variant.ratio == "clipped_weight":
        loss = clipped_weight_loss(policy_logprobs, ratio, advantages, weights=correction, clip=variant.clip)
    else:
        loss = clipped_surrogate(ratio, advantages, correction, variant.clip)
    clipped_low, clipped_high = _held_by_clip(ratio, advantages, variant)
    if ref_logprobs is not None and variant.kl_in == "loss":
        loss = loss + variant.kl_coef * kl_estimate(variant.kl_estimator, policy_logprobs, ref_logprobs)
    kl_ref = torch.zeros_like(loss) if ref_logprobs is None else kl_estimate("k3", policy_logprobs, ref_logprobs)
    return TokenLosses(
        loss=loss,
        clipped_low=clipped_low,
        clipped_high=clipped_high,
        log_ratio=(policy_logprobs - rollout_logprobs).detach(),
        rollout_weights=correction,
        kl_ref=kl_ref.detach(),
    )


def policy_ratio(policy_logprobs: Tensor, proximal_logprobs: Tensor, sequences: Sequences, kind: Ratio) -> Tensor:
    """Return policy / proximal at each token, (N,), clamped to e^-20 .. e^20.

    `token` and `clipped_weight`: of the token itself (PPO, arXiv 1707.06347, section 3).
    `sequence`: the geometric mean over its sequence, GSPO, arXiv 2507.18071, eq. 7. Its gradient is that of the token's own
    log-probability times the mean (GSPO-token, eq. 14). These sum to GSPO's gradient where the advantages of a sequence are equal.
    """
    log_ratio = policy_logprobs - proximal_logprobs
    if kind == "sequence":
        log_ratio = sequences.means(log_ratio.detach()) + (policy_logprobs - policy_logprobs.detach())
    return _exp(log_ratio)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, weights: Tensor, clip: ClipRange) -> Tensor:
    """Return -w min(r A, clip(r, 1 - low, 1 + high) A), (N,): PPO, arXiv 1707.06347, eq. 7, times the rollout weight w.

    The two ends of the range may differ (DAPO, arXiv 2503.14476, eq. 10). With a dual clip c > 1 the minimum is at least c A where
    A < 0 (arXiv 1912.09729, eq. 5). A token that became far likelier then does not push without bound.
    """
    clipped_ratio = ratio.clamp(1 - clip.low, 1 + clip.high)
    gain = torch.minimum(ratio * weights * advantages, clipped_ratio * weights * advantages)
    if clip.dual is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, clip.dual * weights * advantages), gain)
    return -gain


def clipped_weight_loss(policy_logprobs: Tensor, ratio: Tensor, advantages: Tensor, *, weights: Tensor, clip: ClipRange) -> Tensor:
    """Return -w sg(clip(r, 1 - low, 1 + high)) A log(policy), (N,): CISPO, arXiv 2506.13585, eq. 4 and 5, sg stopping the gradient.

    Every token keeps a gradient, only its weight is clipped. The paper sets no lower bound, which is `low` 1.
    """
    return -(ratio.detach().clamp(1 - clip.low, 1 + clip.high) * weights * advantages * policy_logprobs)


def rollout_weights(log_gap: Tensor, sequences: Sequences, *, kind: RolloutCorrection, cap: float) -> Tensor:
    """Return the factor of the surrogate that corrects the gap log(proximal / rollout) of each token, (N,), without a gradient.

    With rho = proximal / rollout and C the cap:
    `token`      min(rho, C): truncated importance sampling (Ionides, JCGS 17(2), 2008; Yao et al., "Your efficient RL framework
                 secretly brings you off-policy RL training", 2025). Biased by the cut, and by weighing a token without its prefix.
    `sequence`   P, the product of rho over the sequence, where P <= C, else 0: Seq-MIS (Liu, Li et al., "When speed kills
                 stability", 2025, part 3).
    `geometric`  1 where the geometric mean of rho over the sequence is in 1/C .. C, else 0: Geo-RS (the same). This mask judges
                 long sequences like short ones; a product leaves its range with length. A useful C is close to 1.
    `none`       1.
    Tokens whose rollout weight is 0 still count in `loss_weights`, which are known before any pass.
    """
    if kind == "none":
        return torch.ones_like(log_gap)
    if kind == "token":
        return _exp(log_gap).clamp(max=cap)
    if kind == "sequence":
        product = _exp(sequences.sums(log_gap))
        return torch.where(product <= cap, product, 0.0)
    mean = _exp(sequences.means(log_gap))
    return ((mean >= 1 / cap) & (mean <= cap)).to(log_gap.dtype)


def kl_estimate(kind: KlEstimator, sampled_logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Return an estimate of KL(p || q) at each token sampled from p, (N,). The gradient flows through both arguments.

    Schulman, "Approximating KL divergence" (2020), with r = q / p:
    `k1`  -log r: unbiased, of either sign.
    `k2`  (log r)^2 / 2: biased, low variance.
    `k3`  r - 1 - log r: unbiased, never negative (GRPO, arXiv 2402.03300, eq. 4). The log-ratio is clamped before exp.
    Their expected gradients are another matter (REINFORCE++, arXiv 2501.03262v9, appendix B.1). As a loss, `k1` has the gradient 0, `k2`
    that of KL(p || q), `k3` that of KL(q || p). In a reward, only `k1` leads to the gradient of KL(p || q).
    """
    log_ratio = other_logprobs - sampled_logprobs
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    clamped = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(clamped) - clamped


def _held_by_clip(ratio: Tensor, advantages: Tensor, variant: PolicyLoss) -> tuple[Tensor, Tensor]:
    """Return 1 where the lower, and where the upper end of the clip range (or the dual clip) holds the token, each (N,)."""
    clip = variant.clip
    below, above = ratio < 1 - clip.low, ratio > 1 + clip.high
    if variant.ratio != "clipped_weight":  # the clip is active only where the surrogate would grow without it
        below, above = below & (advantages < 0), above & (advantages > 0)
    if clip.dual is not None:
        above = above | ((advantages < 0) & (ratio > clip.dual))
    return below.to(ratio.dtype), above.to(ratio.dtype)


def _exp(log_ratio: Tensor) -> Tensor:
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
