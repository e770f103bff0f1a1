"""Weights for engines under test, as a learner publishes them and as transformers computes with them."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import ray
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

from learner.adapters import add_adapters
from learner.model import load_model
from learner.rank_actor import put_buckets
from learner.weights import adapter_buckets, base_buckets, checksums, on_the_wire, weight_buckets
from ovt_ray.core.config.run import LoraConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import Completion, RolloutGroup
from ovt_ray.core.weights.broadcast import Group
from ovt_ray.core.weights.meeting import Meeting, new_meeting
from ovt_ray.core.weights.version import Weights


def as_weights(version: int, tensors: dict[str, torch.Tensor]) -> Weights:
    published = on_the_wire(tensors)
    half = len(published) // 2
    return Weights(version=version, buckets=(ray.put(published[:half]), ray.put(published[half:])), checksums=checksums(published))


class ProcessSender:
    """A learner that is this process, and may stop in the middle of a version."""

    num_changes = 0

    def __init__(self, tensors: dict[str, torch.Tensor], stops_after: str = "") -> None:
        self._tensors = tensors
        self._stops_after = stops_after

    def check_open(self) -> None: ...

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        self._meeting, self._store = new_meeting("127.0.0.1", num_members, deadline_s)
        return self._meeting

    def send(self, calls: Sequence[ray.ObjectRef], *, is_checked: bool) -> str:
        group = Group(self._meeting, self._store, 0, torch.device("cpu"))
        names = list(self._tensors)
        num_sent = names.index(self._stops_after) + 1 if self._stops_after else len(names)
        for bucket in (names[: num_sent // 2], names[num_sent // 2 : num_sent]):
            group.send({name: self._tensors[name] for name in bucket}, with_checksums=is_checked)
        if self._stops_after:
            return str(group.ended("the sender stops here"))
        group.send({}, with_checksums=is_checked)
        group.close()
        return ""

    def stored(self, version: int, num_changes: int) -> Weights:
        return as_weights(version, self._tensors)


def ended_within(seconds: float, processes: list[psutil.Process]) -> bool:
    """Whether all processes end in time; nobody need have asked how."""
    deadline = time.monotonic() + seconds
    while (alive := any(lives(process) for process in processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Adapted:
    """A learner's model with adapters, which publishes as a learner does."""

    def __init__(self, model: Path) -> None:
        self.model = load_model(str(model), "float32", "padded", None)
        add_adapters(self.model, LoraConfig(rank=4, alpha=12, parts=("vision_tower", "projector", "language_model")), seed=0)
        self.base = put_buckets(map(on_the_wire, base_buckets(self.model, True)), with_checksums=True)

    def move(self, seed: int) -> None:
        """Put noise into all B."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.02, generator=generator)

    def publish(self, version: int) -> Weights:
        adapters, sums = put_buckets(adapter_buckets(self.model, True), with_checksums=True)
        return Weights(version=version, buckets=tuple(self.base[0]), adapters=tuple(adapters), checksums=self.base[1] | sums)

    def publish_whole(self, version: int) -> Weights:
        references, sums = put_buckets(map(on_the_wire, weight_buckets(self.model, True)), with_checksums=True)
        return Weights(version=version, buckets=tuple(references), checksums=sums)


def jittered(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """Return the tensors with noise on those whose name holds `part`."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator) if part in name else tensor for name, tensor in tensors.items()
    }


def transformers_model(like: Path, tensors: dict[str, torch.Tensor], folder: Path) -> torch.nn.Module:
    shutil.copytree(like, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def transformers_logprobs(model: torch.nn.Module, prompts: Prompts, group: RolloutGroup, completion: Completion) -> list[float]:
    """Return the log-probabilities of a completion's tokens by transformers, image placeholders excluded from the vocabulary."""
    inputs = prompts.inputs(group.problem)
    assert inputs.prompt_ids == group.prompt_ids
    ids = torch.tensor([[*inputs.prompt_ids, *completion.token_ids]])
    image_token = prompts.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **inputs.images,
            mm_token_type_ids=(ids == image_token).long(),
        ).logits[0]
    logits[:, list(prompts.placeholder_ids)] = -torch.inf
    logprobs = logits.log_softmax(-1)[len(inputs.prompt_ids) - 1 : -1]
    return logprobs.gather(1, ids[0, len(inputs.prompt_ids) :, None])[:, 0].tolist()
