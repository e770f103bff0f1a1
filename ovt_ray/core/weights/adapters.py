"""The maths of adapters (LoRA): how one is merged into the tensor of its base."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MERGED_ROWS = 128
"""Rows summed at a time. They stay in a processor's cache in float32, which is three times as fast as all rows at once."""


def merged(base: "Tensor", up: "Tensor", down: "Tensor", scale: float) -> "Tensor":
    """Return W + scale B A, summed in float32 and rounded once to the type of W.

    Learner and engines merge by this function alone, so that their weights agree to the bit.
    """
    whole = base.new_empty(base.shape)
    up, down = scale * up.float(), down.float()
    for start in range(0, len(base), MERGED_ROWS):
        rows = slice(start, start + MERGED_ROWS)
        whole[rows] = (up[rows] @ down).add_(base[rows])
    return whole
