"""The policy: loading it, and the forward pass that gives completion tokens their log-probabilities."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from learner import attention
from learner.batching import MicroBatch
from learner.head import LogprobHead, rows_of
from ovt_ray.core.config.run import Layout
from ovt_ray.core.config.section import Dtype
from ovt_ray.core.errors import ConfigError

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""Arguments for the kind of each token, by family; 1 is an image's token."""


def load_model(path: str, dtype: Dtype, layout: Layout, zero3_config: dict[str, Any] | None) -> nn.Module:
    """Return the model of a Hugging Face folder; with DeepSpeed's ZeRO-3 configuration each rank holds only its share from the start."""
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import HfDeepSpeedConfig

    # transformers holds this object by a weak reference and partitions while loading as long as it lives.
    _alive = HfDeepSpeedConfig(zero3_config) if zero3_config else None
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=getattr(torch, dtype))
    if layout != "padded":
        attention.register()
        model.set_attn_implementation({"text_config": attention.PACKED_ATTENTION})
    return model


def empty_model(path: str) -> nn.Module:
    """Return the model of a Hugging Face folder or hub name without its weights: shapes and names alone."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def checkpoint_gradients(model: nn.Module) -> None:
    """Recompute activations in the backward pass.

    transformers does so in layers that are in training mode only. The modules below them stay in evaluation mode, without dropout.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


class TokenPositions:
    """The model's own rule for the positions of a prompt's tokens."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, ids: Tensor, images: Mapping[str, Tensor]) -> Tensor:
        """Return (A, T) positions of a prompt's ids, (T,): three rows where the model has M-RoPE, one where it counts tokens."""
        if not hasattr(self._model.model, "get_rope_index"):
            return torch.arange(len(ids))[None]
        is_image = (ids == self._model.config.image_token_id).long()
        grid = images.get("image_grid_thw")
        positions, _ = self._model.model.get_rope_index(ids[None], mm_token_type_ids=is_image[None], image_grid_thw=grid)
        return positions[:, 0]


class TokenScorer(nn.Module):
    """The model with a forward pass from a micro-batch to one log-probability per completion token."""

    def __init__(self, model: nn.Module, forbidden_ids: frozenset[int], temperature: float) -> None:
        super().__init__()
        self.model = model
        head = model.get_output_embeddings()
        if head.bias is not None:
            raise ConfigError(
                f"model.path: the output layer of {type(model).__name__} has a bias, which the learner lacks; use another model"
            )
        self.head = LogprobHead(head.weight, forbidden_ids, temperature)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of the completion tokens, (N,) float32, nats; no gradient through the entropies.

        Both are of the distribution that the rollout engine samples from: at the stage's temperature, without forbidden ids.
        """
        attention = self._padded_attention(batch) if batch.spans is None else {"spans": batch.spans}
        positions = batch.position_ids if len(batch.position_ids) > 1 else batch.position_ids[0]
        output = self.model.model(input_ids=batch.input_ids, position_ids=positions, use_cache=False, **batch.images, **attention)
        return self.head(rows_of(output.last_hidden_state.flatten(0, 1), batch.logit_index), batch.target_ids)

    def _padded_attention(self, batch: MicroBatch) -> dict[str, Tensor | None]:
        """Return the arguments of the model's own mask: which places hold tokens, and for some families which of them are an image's."""
        accepted = inspect.signature(type(self.model.model).forward).parameters
        is_image = (batch.input_ids == self.model.config.image_token_id).long()
        return {"attention_mask": batch.attention_mask, **{name: is_image for name in TOKEN_TYPES if name in accepted}}
