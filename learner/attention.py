"""Attention within a pack: a completion sees its prompt and itself, a prompt sees itself, and nothing else is seen.

A pack is one row of tokens made of blocks, each a prompt followed by the completions that go on from it. No mask of the whole row
is ever made. So work and memory grow with the samples and not with the square of the pack.

transformers calls `packed_attention` by its name in the language model's layers and hands it the keyword `spans`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from ovt_ray.core.errors import LearnerError

PACKED_ATTENTION = "ovt_ray_packed"
OTHER_ATTENTION = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments of attention in other families: a window, capped scores, sinks, a bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpan:
    """Lengths of a block's parts: the prompt first, then the completions, one after the other."""

    num_prompt: int
    """Token count of the prompt."""
    num_completion: tuple[int, ...]
    """Token count of each completion; some may be 0."""

    @property
    def num_tokens(self) -> int:
        """Token count of the whole block."""
        return self.num_prompt + sum(self.num_completion)


def register() -> None:
    """Make the attention known to transformers; doing so twice is fine."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    spans: Sequence[BlockSpan],
    scaling: float,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention's output at each token, (1, T, heads, D), from queries (1, heads, T, D), keys and values (1, key heads, T, D).

    The signature is that of transformers' attention functions. Raises LearnerError for a layer that asks for another attention.
    """
    if asked := [name for name in OTHER_ATTENTION if others.get(name) is not None]:
        raise LearnerError(
            f"{type(module).__name__} asks for attention with {asked[0]}, which a pack does not have: set learner.layout=padded for a "
            "sliding window, use another model otherwise"
        )
    lengths = [span.num_tokens for span in spans]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    blocks = [_block_attention(*part, scaling=scaling) for part in zip(queries, keys, values, spans, strict=True)]
    return torch.cat(blocks, dim=2).transpose(1, 2), None


def _block_attention(query: Tensor, key: Tensor, value: Tensor, span: BlockSpan, *, scaling: float) -> Tensor:
    """Return (1, heads, T, D) of one block."""
    at = span.num_prompt
    if len(span.num_completion) < 2 or at == span.num_tokens:  # one sequence
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    prompt = scaled_dot_product_attention(
        query[:, :, :at], key[:, :, :at], value[:, :, :at], is_causal=True, scale=scaling, enable_gqa=True
    )
    heads_per_key = query.shape[1] // key.shape[1]
    own_keys, own_values = (_rows(tensor[:, :, at:], span).repeat_interleave(heads_per_key, dim=1) for tensor in (key, value))
    prompt_keys, prompt_values = (tensor[:, :, :at].repeat_interleave(heads_per_key, dim=1) for tensor in (key, value))
    shape = (len(span.num_completion), -1, -1, -1)
    keys = torch.cat([prompt_keys.expand(shape), own_keys], dim=2)
    values = torch.cat([prompt_values.expand(shape), own_values], dim=2)
    longest = max(span.num_completion)
    # Rows are padded at their ends, which nothing before them sees: one mask is right for all.
    mask = torch.ones(longest, at + longest, dtype=torch.bool, device=query.device).tril(at)
    rows = scaled_dot_product_attention(_rows(query[:, :, at:], span), keys, values, attn_mask=mask, scale=scaling)
    completions = [row[:, :length] for row, length in zip(rows, span.num_completion, strict=True)]
    return torch.cat([prompt, torch.cat(completions, dim=1)[None]], dim=2)


def _rows(tensor: Tensor, span: BlockSpan) -> Tensor:
    """Return the completions of a block, (1, heads, T, D), as rows, (G, heads, longest, D), padded with zeros."""
    sequences = tensor[0].transpose(0, 1).split(list(span.num_completion))
    return pad_sequence(sequences, batch_first=True).transpose(1, 2)
