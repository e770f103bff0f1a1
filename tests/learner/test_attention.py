"""Contract: attention in a pack is that of one dense mask over it, gradients included; no token sees another sample."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.attention import BlockSpan, packed_attention
from ovt_ray.core.errors import LearnerError

SPANS = {
    "one sequence": [BlockSpan(num_prompt=4, num_completion=(3,))],
    "a prompt alone": [BlockSpan(num_prompt=4, num_completion=())],
    "completions of different lengths": [BlockSpan(num_prompt=5, num_completion=(3, 1, 4))],
    "one of them empty": [BlockSpan(num_prompt=2, num_completion=(0, 2, 0))],
    "all of them empty": [BlockSpan(num_prompt=3, num_completion=(0, 0))],
    "blocks of every kind": [
        BlockSpan(num_prompt=5, num_completion=(3, 1, 4)),
        BlockSpan(num_prompt=1, num_completion=(2,)),
        BlockSpan(num_prompt=3, num_completion=()),
        BlockSpan(num_prompt=2, num_completion=(1, 6)),
    ],
}


def may_see(spans: list[BlockSpan]) -> Tensor:
    """(T, T) by the definition: earlier or equal, and in the same completion or in the prompt of the own block."""
    owners = [
        (block, part)
        for block, span in enumerate(spans)
        for part, length in enumerate((span.num_prompt, *span.num_completion))
        for _ in range(length)
    ]
    return torch.tensor(
        [[j <= i and a[0] == b[0] and b[1] in (0, a[1]) for j, b in enumerate(owners)] for i, a in enumerate(owners)], dtype=torch.bool
    )


def dense_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """(1, T, heads, D) by softmax over everything; each key head serves a run of query heads."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (torch.stack([head for head in tensor[0] for _ in range(repeats)])[None] for tensor in (key, value))
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * scaling
    return torch.einsum("bhij,bhjd->bihd", scores.masked_fill(~mask, -torch.inf).softmax(-1), value)


@pytest.mark.parametrize("key_heads", [1, 4])
@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS.keys())
def test_a_pack_attends_as_under_one_dense_mask(spans: list[BlockSpan], key_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int) -> Tensor:
        length = sum(span.num_tokens for span in spans)
        return torch.randn(1, heads, length, 8, dtype=torch.float64, generator=generator, requires_grad=True)

    inputs = (draw(4), draw(key_heads), draw(key_heads))
    module: Any = SimpleNamespace()
    packed, _ = packed_attention(module, *inputs, None, spans=spans, scaling=0.3)
    dense = dense_attention(*inputs, may_see(spans), 0.3)
    torch.testing.assert_close(packed, dense, rtol=1e-12, atol=1e-12)
    towards = torch.randn(dense.shape, dtype=torch.float64, generator=generator)
    for found, expected in zip(*(torch.autograd.grad((out * towards).sum(), inputs) for out in (packed, dense)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("other", ["sliding_window", "softcap", "s_aux"])
def test_a_layer_that_asks_for_another_attention_is_refused(other: str) -> None:
    tensor = torch.zeros(1, 1, 7, 8)
    with pytest.raises(LearnerError, match=f"Linear asks for attention with {other}"):
        packed_attention(torch.nn.Linear(1, 1), tensor, tensor, tensor, None, spans=SPANS["one sequence"], scaling=0.3, **{other: 5})
