"""Every weight of a vision-language model belongs to exactly one part, in all the layouts that transformers has."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from learner.parts import freeze, part_of, part_sizes
from ovt_ray.core.errors import LearnerError


def from_config(name: str) -> nn.Module:
    """A model of a family's default shape, without memory."""
    with torch.device("meta"):
        return transformers.AutoModelForImageTextToText.from_config(getattr(transformers, name)())


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("name", ["Qwen2VLConfig", "Qwen2_5_VLConfig", "Qwen3VLConfig", "Glm4vConfig"])
def test_a_projector_inside_the_vision_tower_is_told_from_it(name: str) -> None:
    model = from_config(name)
    visual = model.model.visual
    projector = [module for child, module in visual.named_children() if "merger" in child]
    assert len(projector) == (2 if name == "Qwen3VLConfig" else 1)
    assert part_sizes(model) == {
        "vision_tower": count(visual) - count(*projector),
        "projector": count(*projector),
        "language_model": count(model.model.language_model, model.lm_head),
    }


@pytest.mark.parametrize("name", ["LlavaConfig", "LlavaOnevisionConfig", "InternVLConfig", "Gemma3Config", "Mistral3Config"])
def test_a_projector_beside_the_vision_tower_is_told_from_it(name: str) -> None:
    model = from_config(name)
    tied = name in ("InternVLConfig", "Gemma3Config", "Mistral3Config")  # the output head is the embedding
    newline = model.model.image_newline.numel() if name == "LlavaOnevisionConfig" else 0
    assert part_sizes(model) == {
        "vision_tower": count(model.model.vision_tower),
        "projector": count(model.model.multi_modal_projector) + newline,
        "language_model": count(model.model.language_model) + (0 if tied else count(model.lm_head)),
    }


def test_what_is_frozen_is_the_named_parts_and_no_more(tiny_model: Path) -> None:
    for frozen in [("projector",), ("language_model",), ("vision_tower", "projector")]:
        model = transformers.AutoModelForImageTextToText.from_pretrained(tiny_model)
        freeze(model, frozen)
        merger, visual = set(model.model.visual.merger.parameters()), set(model.model.visual.parameters())
        parts = {"projector": merger, "vision_tower": visual - merger, "language_model": set(model.parameters()) - visual}
        expected = set().union(*(parts[part] for part in frozen))
        assert {parameter for parameter in model.parameters() if not parameter.requires_grad} == expected


def test_a_part_that_is_not_there_and_all_parts_at_once_are_refused() -> None:
    model = nn.ModuleDict({"visual": nn.Linear(2, 2), "lm_head": nn.Linear(2, 2)})
    with pytest.raises(LearnerError, match="'projector' is no part of this model, which has language_model, vision_tower"):
        freeze(model, ["projector"])
    with pytest.raises(LearnerError, match="language_model, vision_tower are all that this model has"):
        freeze(model, ["language_model", "vision_tower"])
    with pytest.raises(LearnerError, match="audio_tower.weight is in none of the known places"):
        part_of("audio_tower.weight")
