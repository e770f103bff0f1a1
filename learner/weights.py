"""The policy's weights outside the learner: gathered from all ranks, named as in a Hugging Face folder, written and checked."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from learner.adapters import PlainWeight, plain_weights
from learner.parts import num_elements

GATHER_ELEMENTS = 200_000_000
"""Elements of ZeRO-3 parameters made whole at a time."""
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def gather_weights(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Return all parameters, whole, adapters merged, in host memory, by their Hugging Face names; empty unless `keep`.

    Every rank has to call it. The model stays as it is. Tied parameters come once. Names are those that `save_pretrained` writes.
    """
    import deepspeed

    gathered = {}
    for bucket in _buckets(plain_weights(model)):
        sharded = [parameter for weight in bucket for parameter in weight.parameters if hasattr(parameter, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded):
            if keep:
                gathered.update({weight.name: weight.merged() for weight in bucket})
    return _as_in_folder(model, gathered) if keep else {}


def _as_in_folder(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the names of the folder that the model was loaded from."""
    from transformers.core_model_loading import revert_weight_conversion

    if hasattr(model, "_weight_conversions"):
        # What was not needed to read the folder must not be undone; transformers 5.19 forgets to leave it out under ZeRO-3.
        model._weight_conversions = [conversion for conversion in model._weight_conversions if conversion.was_used()]
    return revert_weight_conversion(model, weights)


def _buckets(weights: Iterable[PlainWeight]) -> Iterator[list[PlainWeight]]:
    """Yield the weights in runs of about `GATHER_ELEMENTS`."""
    bucket: list[PlainWeight] = []
    size = 0
    for weight in weights:
        bucket.append(weight)
        size += sum(num_elements(parameter) for parameter in weight.parameters)
        if size >= GATHER_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def checksums(weights: dict[str, Tensor]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's bytes."""
    return {name: hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy()).hexdigest() for name, tensor in weights.items()}


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
