"""The figures of an update: sums over a rank's micro-batches, put together over all ranks at the end."""

import torch
from torch import Tensor, distributed

from learner.grpo import TokenLosses, kl_estimate
from ovt_ray.core.types import UpdateStats

QUANTILES = (0.01, 0.5, 0.99)


class UpdateFigures:
    """Gathers one update's figures. `add` sees each micro-batch once; `stats` is called on all ranks at once."""

    def __init__(self, device: torch.device) -> None:
        # float64: in float32 the figures would depend on how tokens are split over passes and ranks.
        self._sums = torch.zeros(10, dtype=torch.float64, device=device)
        self._log_ratios: list[Tensor] = []

    def add(self, losses: TokenLosses, *, entropy: Tensor, mask: Tensor, loss_weights: Tensor, is_trace: Tensor) -> None:
        """Count a micro-batch's tokens, all (N,), where the mask is 1. Tokens of traces count in the two losses alone."""
        rl_mask = mask * ~is_trace
        loss = losses.loss.detach()
        rows = torch.stack(
            [
                entropy,
                losses.clipped_low,
                losses.clipped_high,
                kl_estimate("k3", -losses.log_ratio, torch.zeros_like(mask)),
                -losses.log_ratio,
                losses.kl_ref,
                losses.rollout_weights,
                losses.rollout_weights.square(),
            ]
        )  # (8, N)
        whole = torch.stack([loss * loss_weights, loss * is_trace])  # (2, N)
        # To float64 before the sum; after it, the digits would be lost already.
        self._sums += torch.cat([whole.double() * mask, rows.double() * rl_mask]).sum(-1)
        self._log_ratios.append(losses.log_ratio[rl_mask > 0])

    def stats(
        self, *, grad_norm: float, learning_rate: float, num_samples: int, num_loss_tokens: int, num_trace_tokens: int
    ) -> UpdateStats:
        """Return the figures of all ranks, the same on each. `num_trace_tokens` of the loss tokens are of traces."""
        # Collectives: every rank calls this one and those of the quantiles, in the same order.
        distributed.all_reduce(self._sums)
        loss, sft_sum, *sums = self._sums.tolist()
        num_rl_tokens = num_loss_tokens - num_trace_tokens
        entropy, clip_low, clip_high, kl_k3, kl_k1, kl_ref, weights, square_weights = (value / num_rl_tokens for value in sums)
        ratio_p01, ratio_p50, ratio_p99 = quantiles(_of_all_ranks(torch.cat(self._log_ratios))).exp().tolist()
        return UpdateStats(
            loss=loss,
            sft_loss=sft_sum / num_trace_tokens if num_trace_tokens else 0.0,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            num_samples=num_samples,
            num_loss_tokens=num_loss_tokens,
            entropy=entropy,
            ratio_p01=ratio_p01,
            ratio_p50=ratio_p50,
            ratio_p99=ratio_p99,
            clip_low=clip_low,
            clip_high=clip_high,
            kl_rollout=kl_k3,
            kl_rollout_k1=kl_k1,
            effective_share=weights**2 / square_weights if square_weights else 0.0,
            kl_ref=kl_ref,
        )


def quantiles(values: Tensor) -> Tensor:
    """Return the 1 %, 50 % and 99 % quantiles of some values, (3,), each one of them (nearest rank), so that no split changes it."""
    ranks = torch.tensor([max(0, -int(-share * len(values) // 1) - 1) for share in QUANTILES], device=values.device)
    return values.sort().values[ranks]


def _of_all_ranks(values: Tensor) -> Tensor:
    """Return the ranks' values one after the other. They take 4 bytes a token, far less than its logits."""
    lengths = values.new_zeros(distributed.get_world_size(), dtype=torch.long)
    lengths[distributed.get_rank()] = len(values)
    distributed.all_reduce(lengths)
    # `all_gather` takes tensors of one size, so the lengths travel first.
    padded = values.new_zeros(int(lengths.max()))
    padded[: len(values)] = values
    gathered = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(gathered, padded)
    return torch.cat([row[:length] for row, length in zip(gathered, lengths.tolist(), strict=True)])
