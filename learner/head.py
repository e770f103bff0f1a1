"""From hidden states to log-probabilities without ever holding the logits of a batch: a vocabulary of 152,000 makes them 0.6 MB a token."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NEVER = -1e9
"""Logit of an id that cannot be sampled; finite, so that its share of the entropy is 0 and not NaN."""
CHUNK_LOGITS = 2**26
"""Logits held at a time, in float32: 256 MB, and as much again for their softmax."""


def rows_of(hidden: Tensor, places: Tensor) -> Tensor:
    """Return rows of (T, H), some of them several times, as (N, H); on a CPU their gradients add up in one order.

    The gradients of `hidden[places]` do not: threads race, and a run would not give the same bits twice.
    """
    return hidden.index_select(0, places)


class LogprobHead(nn.Module):
    """The output layer of a language model, which gives chosen tokens their log-probabilities."""

    def __init__(self, weight: nn.Parameter, forbidden_ids: frozenset[int], temperature: float, chunk_logits: int = CHUNK_LOGITS) -> None:
        """Share `weight`, (V, H), with the model. Ids that are forbidden have probability 0."""
        super().__init__()
        self.weight = weight
        self.temperature = temperature
        self.forbidden_ids = sorted(forbidden_ids)
        self.chunk_logits = chunk_logits

    def _save_to_state_dict(self, *unused: Any) -> None:
        """Save nothing: the weight is the model's, which saves it, or leaves it out where it is frozen."""

    def _load_from_state_dict(self, *unused: Any) -> None:
        """Load nothing, for the same reason."""

    def forward(self, hidden: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the targets and entropies of their distributions, each (N,) float32, nats, from (N, H).

        No gradient flows through the entropies.
        """
        num_rows = max(1, self.chunk_logits // len(self.weight))
        asked = _Asked(target_ids=target_ids, forbidden=self.forbidden_ids, temperature=self.temperature, num_rows=num_rows)
        return _Logprobs.apply(hidden, self.weight, asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Arguments of the head that have no gradient."""

    target_ids: Tensor
    """(N,) int64"""
    forbidden: list[int]
    temperature: float
    num_rows: int
    """Rows of hidden states whose logits are held at a time."""


class _Logprobs(torch.autograd.Function):
    """log softmax(h W^T / temperature) at the targets. The backward pass computes the logits again, chunk by chunk.

    `backward` returns one gradient for each argument of `forward`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, asked: _Asked) -> tuple[Tensor, Tensor]:
        logprobs, entropies, log_sums = [], [], []
        for rows, targets in zip(hidden.split(asked.num_rows), asked.target_ids.split(asked.num_rows), strict=True):
            logits = _logits(rows, weight, asked)  # (n, V)
            log_sum = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, targets[:, None])[:, 0] - log_sum)
            probabilities = torch.exp(logits - log_sum[:, None])
            entropies.append(log_sum - probabilities.mul_(logits).sum(-1))
            log_sums.append(log_sum)
        ctx.save_for_backward(hidden, weight, torch.cat(log_sums))
        ctx.asked = asked
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient of a target's log-probability is 1 at its logit, less the softmax at all of them."""
        hidden, weight, log_sums = ctx.saved_tensors
        asked: _Asked = ctx.asked
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros(weight.shape, device=weight.device) if ctx.needs_input_grad[1] else None
        chunks = [tensor.split(asked.num_rows) for tensor in (hidden, of_hidden, asked.target_ids, log_sums, gradients[0])]
        for rows, of_rows, targets, log_sum, gradient in zip(*chunks, strict=True):
            logits = _logits(rows, weight, asked)
            of_logits = logits.sub_(log_sum[:, None]).exp_().mul_(-gradient[:, None])
            of_logits.scatter_add_(-1, targets[:, None], gradient[:, None])
            of_logits = of_logits.div_(asked.temperature).to(weight.dtype)
            of_rows.copy_(of_logits @ weight)
            if of_weight is not None:
                of_weight += of_logits.T @ rows
        return of_hidden, None if of_weight is None else of_weight.to(weight.dtype), None


def _logits(rows: Tensor, weight: Tensor, asked: _Asked) -> Tensor:
    logits = (rows @ weight.T).float().div_(asked.temperature)
    logits[:, asked.forbidden] = NEVER
    return logits
