"""The policy: loading it, and the forward pass that gives completion tokens their log-probabilities."""

from typing import Any

import torch
from torch import Tensor, nn

from learner.batching import MicroBatch
from ovt_ray.config import Dtype

NEVER = -1e9
"""Logit of an id that cannot be sampled; finite, so that its share of the entropy is 0 and not NaN."""


def load_model(path: str, dtype: Dtype, zero3_config: dict[str, Any] | None) -> nn.Module:
    """Return the model of a Hugging Face folder; with DeepSpeed's ZeRO-3 configuration each rank holds only its share from the start."""
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import HfDeepSpeedConfig

    # transformers holds this object by a weak reference and partitions while loading as long as it lives.
    _alive = HfDeepSpeedConfig(zero3_config) if zero3_config else None
    return AutoModelForImageTextToText.from_pretrained(path, dtype=getattr(torch, dtype))


def empty_model(path: str) -> nn.Module:
    """Return the model of a Hugging Face folder or hub name without its weights: shapes and names alone."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def checkpoint_gradients(model: nn.Module) -> None:
    """Recompute activations in the backward pass.

    transformers does so in layers that are in training mode only; no module below them is put there, whose dropout would come alive.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


class RopePositions:
    """The model's own rule of where the tokens of a prompt stand (M-RoPE)."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, ids: Tensor, image_grid_thw: Tensor | None) -> Tensor:
        """Return (3, T) positions of a prompt's ids, (T,)."""
        is_image = (ids == self._model.config.image_token_id).long()
        positions, _ = self._model.model.get_rope_index(ids[None], mm_token_type_ids=is_image[None], image_grid_thw=image_grid_thw)
        return positions[:, 0]


class TokenScorer(nn.Module):
    """The model with a forward pass from a micro-batch to one log-probability per completion token."""

    def __init__(self, model: nn.Module, forbidden_ids: frozenset[int], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.forbidden_ids = sorted(forbidden_ids)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of the completion tokens, (N,) float32, nats; no gradient through the entropies.

        Both are of the distribution that the rollout engine samples from: at the stage's temperature, without forbidden ids.
        The vision tower always runs first, on a blank image if need be, so that all ranks gather ZeRO-3's parameters in one order.
        """
        hidden, unused_image = self._hidden(batch)
        logits = self.model.lm_head(hidden[batch.logit_index]).float() / self.temperature  # (N, V)
        forbidden = torch.tensor(self.forbidden_ids, device=logits.device)
        logprobs = logits.index_fill(-1, forbidden, NEVER).log_softmax(-1)
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(-1, batch.target_ids[:, None])[:, 0] + unused_image, entropy

    def _hidden(self, batch: MicroBatch) -> tuple[Tensor, Tensor | float]:
        """Return the last hidden states, (B * T, H), and 0, which ties a blank image's features to the graph."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        vision = self.model.get_image_features(batch.pixel_values, batch.image_grid_thw, return_dict=True)
        shown = tuple(vision.pooler_output[number] for number in batch.image_index.tolist())
        output = self.model.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=shown)} if shown else None,
            use_cache=False,
        )
        unused_image = 0.0 if shown else 0.0 * vision.pooler_output[0].float().sum()
        return output.last_hidden_state.flatten(0, 1), unused_image
