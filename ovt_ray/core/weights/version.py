"""A published version of the policy: its tensors, its adapters, and where they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ovt_ray.core.weights.broadcast import Meeting


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTensor:
    """One tensor of a published version."""

    name: str
    """As in a Hugging Face folder."""
    dtype: str
    """Its name in torch."""
    shape: tuple[int, ...]
    content: Any
    """Its bytes in row-major order, a `numpy.uint8` array of shape (num_bytes,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What a version adds to one tensor of its base: scale B A (LoRA)."""

    name: str
    """Of that tensor."""
    scale: float
    """alpha / rank."""
    up: WeightTensor
    """B, (out, rank)."""
    down: WeightTensor
    """A, (rank, in)."""


MERGED_ROWS = 128
"""Rows summed at a time: as many as stay in a processor's cache in float32, which makes it three times as fast as all at once."""


def merged(base: "Tensor", up: "Tensor", down: "Tensor", scale: float) -> "Tensor":
    """Return W + scale B A, summed in float32 and rounded once to the type of W; whoever merges an adapter does it so, to the bit."""
    whole = base.new_empty(base.shape)
    up, down = scale * up.float(), down.float()
    for start in range(0, len(base), MERGED_ROWS):
        rows = slice(start, start + MERGED_ROWS)
        whole[rows] = (up[rows] @ down).add_(base[rows])
    return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A version of the policy and where to pull it."""

    version: int
    """Grows by one with each publication."""
    buckets: tuple[Any, ...]
    """Ray object references, each to a list of `WeightTensor`; a tensor is in exactly one. With adapters, the version's base: the same
    references in every version of a stage."""
    adapters: tuple[Any, ...] = ()
    """Ray object references, each to a list of `Adapter`: what the version adds to its base; none where `buckets` are all of it."""
    checksums: Mapping[str, str]
    """SHA-256 of each tensor's bytes by its name, the adapters' among them; empty for a version that is not checked."""

    def stored(self) -> "Weights":
        """Return itself: it lies in the object store, and `Broadcast` may have to be put there."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """A version of the policy that the learner itself sends to all engines at once; for the driver alone."""

    version: int
    """Grows by one with each publication."""
    call_group: "Callable[[int, float], Meeting]"
    """Returns where the learner awaits so many members, itself among them, each wait lasting at most so many seconds; the group before it
    is of no use any more."""
    send: Callable[[Sequence[Any]], str]
    """Returns when the version has been sent to the group, or why it could not be, empty if it was. Takes references to what the receivers
    were called for, whose failures it watches."""
    stored: Callable[[], Weights | None]
    """Returns the version once the learner has put it into the object store; None where it has other weights by now."""
