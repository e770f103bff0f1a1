"""The policy's weights outside the learner: gathered from all ranks, named as in a Hugging Face folder, written and checked."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ovt_ray.types import WeightTensor

GATHER_ELEMENTS = 200_000_000
"""Elements of ZeRO-3 parameters made whole at a time."""
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def gather_weights(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Return all parameters, whole and in host memory, by their Hugging Face names; empty unless `keep`.

    Every rank has to call it. Tied parameters come once.
    """
    gathered = {}
    for bucket in weight_buckets(model, keep):
        gathered.update({name: tensor.to("cpu", copy=True).contiguous() for name, tensor in bucket.items()})
    return gathered


def weight_buckets(model: nn.Module, keep: bool) -> Iterator[dict[str, Tensor]]:
    """Yield all parameters, whole, bucket by bucket, by the names that `save_pretrained` writes; empty buckets unless `keep`.

    The tensors are the parameters themselves, not copies: they hold until the next bucket is asked for. Every rank has to
    take every bucket.
    """
    import deepspeed
    from transformers.core_model_loading import revert_weight_conversion

    for bucket in _buckets(list(model.named_parameters())):
        sharded = [parameter for _, parameter in bucket if hasattr(parameter, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded):
            yield revert_weight_conversion(model, {name: parameter.detach() for name, parameter in bucket}) if keep else {}


def _buckets(parameters: list[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Yield the parameters in runs of about `GATHER_ELEMENTS`. A ZeRO-3 parameter's `numel()` is 0; `ds_numel` is its size."""
    bucket: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in parameters:
        bucket.append((name, parameter))
        size += parameter.ds_numel if hasattr(parameter, "ds_id") else parameter.numel()
        if size >= GATHER_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def on_the_wire(bucket: dict[str, Tensor]) -> list[WeightTensor]:
    """Return the tensors as they are published; what lies in host memory in one piece is not copied."""
    return [
        WeightTensor(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            content=tensor.to("cpu").contiguous().view(-1).view(torch.uint8).numpy(),
        )
        for name, tensor in bucket.items()
    ]


def checksums(tensors: Sequence[WeightTensor]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's bytes by its name."""
    return {tensor.name: hashlib.sha256(tensor.content).hexdigest() for tensor in tensors}


def write_model_folder(weights: dict[str, Tensor], base: str, folder: Path) -> None:
    """Write a plain Hugging Face folder: these weights, everything else copied from the base model. It appears whole or not at all."""
    scratch = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(_local_folder(base), scratch, ignore=shutil.ignore_patterns(*WEIGHT_FILES, ".*"))
    safetensors.torch.save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(scratch, folder)


def _local_folder(base: str) -> str:
    if Path(base).is_dir():
        return base
    from huggingface_hub import snapshot_download

    return snapshot_download(base, ignore_patterns=list(WEIGHT_FILES))
