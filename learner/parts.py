"""The part of a vision-language model that a parameter belongs to, and the freezing of whole parts. Names alone decide the part."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import get_args

from torch import nn

from ovt_ray.core.config.section import ModelPart
from ovt_ray.core.errors import LearnerError

PLACES: dict[ModelPart, re.Pattern[str]] = {
    # Qwen-VL models keep the projector inside the vision tower, other models next to it.
    "projector": re.compile(r"(model\.)?(multi_modal_projector|image_newline|visual\.(merger|deepstack_merger_list))(\.|$)"),
    "vision_tower": re.compile(r"(model\.)?(visual|vision_tower|vision_model)\."),
    "language_model": re.compile(r"(model\.)?(language_model|lm_head)\."),
}
"""Names of the parts in transformers' models (Qwen-VL, LLaVA, InternVL, Gemma 3, ...); the first pattern that fits counts."""


def part_of(name: str) -> ModelPart:
    """Return the part that a parameter or module of this dotted name belongs to; raises LearnerError for an unknown place."""
    for part, place in PLACES.items():
        if place.match(name):
            return part
    raise LearnerError(f"{name} is in none of the known places of {', '.join(get_args(ModelPart))}: add its place to learner/parts.py")


def part_sizes(model: nn.Module) -> dict[ModelPart, int]:
    """Return the count of weights in each part of the model; raises LearnerError if a weight belongs to no part."""
    sizes: Counter[ModelPart] = Counter()
    for name, parameter in model.named_parameters():
        sizes[part_of(name)] += num_elements(parameter)
    return dict(sizes)


def num_elements(parameter: nn.Parameter) -> int:
    """Return the size of a whole parameter; under ZeRO-3 `numel()` counts only the share that this rank has gathered."""
    return parameter.ds_numel if hasattr(parameter, "ds_id") else parameter.numel()


def freeze(model: nn.Module, parts: Iterable[ModelPart]) -> None:
    """Take whole parts out of training.

    Raises LearnerError for a part that the model does not have, and where nothing would be left to train.
    """
    frozen = set(parts)
    if not frozen:
        return
    found = set(part_sizes(model))
    if unknown := sorted(frozen - found):
        raise LearnerError(f"optimizer.freeze: {unknown[0]!r} is no part of this model, which has {', '.join(sorted(found))}: leave it out")
    if frozen == found:
        raise LearnerError(f"optimizer.freeze: {', '.join(sorted(found))} are all that this model has: leave a part to train")
    for name, parameter in model.named_parameters():
        if part_of(name) in frozen:
            parameter.requires_grad_(False)
