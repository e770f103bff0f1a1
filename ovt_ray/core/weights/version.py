"""A version of the policy's weights as data: its tensors, its adapters, and where to pull them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTensor:
    """One tensor of a published version."""

    name: str
    """Name of the tensor in a Hugging Face folder."""
    dtype: str
    """Name of the dtype in torch."""
    shape: tuple[int, ...]
    content: Any
    """Bytes of the tensor in row-major order, a `numpy.uint8` array of shape (num_bytes,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The change that a version makes to one tensor of its base: scale B A (LoRA)."""

    name: str
    """Name of the base's tensor."""
    scale: float
    """alpha / rank."""
    up: WeightTensor
    """B, (out, rank)."""
    down: WeightTensor
    """A, (rank, in)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A version of the policy in Ray's object store."""

    version: int
    """Number of the version; it grows by one with each publication."""
    buckets: tuple[Any, ...]
    """Ray object references, each to a list of `WeightTensor`; a tensor is in exactly one. With adapters, the buckets of the base: the
    same references in every version of a stage."""
    adapters: tuple[Any, ...] = ()
    """Ray object references, each to a list of `Adapter`; empty where `buckets` hold the whole version."""
    checksums: Mapping[str, str]
    """SHA-256 of each tensor's bytes by its name, adapters included; empty for a version that is not checked."""
