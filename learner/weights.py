"""The policy's weights outside the learner: gathered from all ranks, named as in a Hugging Face folder, written and checked."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from learner.adapters import PlainWeight, plain_weights
from learner.parts import num_elements
from ovt_ray.core.errors import LearnerError
from ovt_ray.core.weights.version import Adapter, WeightTensor

GATHER_ELEMENTS = 200_000_000
"""Elements of ZeRO-3 parameters made whole at a time."""
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def gather_weights(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Return all parameters, whole, adapters merged, in host memory, by their Hugging Face names; empty unless `keep`.

    Every rank has to call it. The model stays as it is. Tied parameters come once.
    """
    gathered = {}
    for bucket in weight_buckets(model, keep):
        # Copied: the bucket's tensors are the parameters themselves, which the next bucket or update changes.
        gathered.update({name: tensor.to("cpu", copy=True).contiguous() for name, tensor in bucket.items()})
    return gathered


def weight_buckets(model: nn.Module, keep: bool) -> Iterator[dict[str, Tensor]]:
    """Yield all parameters, whole, adapters merged, bucket by bucket, by the names that `save_pretrained` writes; empty unless `keep`.

    Where no adapter is merged the tensors are the parameters themselves, not copies. They are valid until the next bucket is asked for.
    Every rank has to take every bucket.
    """
    return _gathered_buckets(model, plain_weights(model), keep)


def base_buckets(model: nn.Module, keep: bool) -> Iterator[dict[str, Tensor]]:
    """Yield the buckets of `weight_buckets` for the model without its adapters."""
    return _gathered_buckets(model, (replace(weight, adapter=None) for weight in plain_weights(model)), keep)


def _gathered_buckets(model: nn.Module, weights: Iterable[PlainWeight], keep: bool) -> Iterator[dict[str, Tensor]]:
    for bucket in _buckets(weights):
        with _whole(parameter for weight in bucket for parameter in weight.parameters):
            # Inside the context, outside of which ZeRO-3 shards the weights again; all ranks enter, as it is a collective.
            yield _as_in_folder(model, {weight.name: weight.merged() for weight in bucket}) if keep else {}


def adapter_buckets(model: nn.Module, keep: bool) -> Iterator[list[Adapter]]:
    """Yield all adapters, whole, as they are published, bucket by bucket; empty unless `keep`.

    Their contents are valid until the next bucket is asked for; every rank has to take every bucket. Raises LearnerError where a weight
    has another form in the model's folder than in the model: an adapter could not be added to it.
    """
    for bucket in _buckets(weight for weight in plain_weights(model) if weight.adapter):
        with _whole(factor for weight in bucket for factor in weight.adapter or ()):
            yield [_adapter(model, weight) for weight in bucket] if keep else []


def _adapter(model: nn.Module, weight: PlainWeight) -> Adapter:
    assert weight.adapter
    base = weight.base.detach()
    [(name, in_folder), *others] = _as_in_folder(model, {weight.name: base}).items()
    if others or in_folder is not base:
        raise LearnerError(
            f"learner.lora: {weight.name} is kept as {name!r}, in another form: train all weights of this model, without lora"
        )
    up, down = on_the_wire({f"{name}.lora_B": weight.adapter[0].detach(), f"{name}.lora_A": weight.adapter[1].detach()})
    return Adapter(name=name, scale=weight.scale, up=up, down=down)


def _whole(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[None]:
    """Make ZeRO-3's parameters whole until the context ends; every rank has to enter it."""
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter for parameter in parameters if hasattr(parameter, "ds_id")])


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


def on_the_wire(bucket: dict[str, Tensor]) -> list[WeightTensor]:
    """Return the tensors as they are published; a tensor that lies in host memory in one piece is not copied."""
    return [
        WeightTensor(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            content=tensor.to("cpu").contiguous().view(-1).view(torch.uint8).numpy(),
        )
        for name, tensor in bucket.items()
    ]


def checksums(bucket: Sequence[WeightTensor | Adapter]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's bytes by its name."""
    tensors = [tensor for one in bucket for tensor in ((one.up, one.down) if isinstance(one, Adapter) else (one,))]
    return {tensor.name: hashlib.sha256(tensor.content).hexdigest() for tensor in tensors}


def write_model_folder(weights: dict[str, Tensor], base: str, folder: Path) -> None:
    """Write a plain Hugging Face folder: these weights, everything else copied from the base model. It appears whole or not at all."""
    scratch = folder.with_name(f".{folder.name}.incomplete")
    # Left by a process that died here.
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(_local_folder(base), scratch, ignore=shutil.ignore_patterns(*WEIGHT_FILES, ".*"))
    safetensors.torch.save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
    # No rename replaces a folder with files. A death in between costs an export, which the stage then repeats.
    if folder.exists():
        shutil.rmtree(folder)
    # Last: a death before leaves no folder that looks like a model.
    os.replace(scratch, folder)


def _local_folder(base: str) -> str:
    if Path(base).is_dir():
        return base
    from huggingface_hub import snapshot_download

    return snapshot_download(base, ignore_patterns=list(WEIGHT_FILES))
