"""LoRA (arXiv 2106.09685, section 4.1) through peft: adapters in the model, the model without them, and the weights with them merged.

Exported folders hold W + (alpha / rank) B A. The learner publishes W once, and B and A with every version.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learner.parts import part_of
from ovt_ray.core.config.run import LoraConfig
from ovt_ray.core.config.section import ModelPart
from ovt_ray.core.errors import LearnerError
from ovt_ray.core.weights.adapters import merged

ADAPTER = "default"


def add_adapters(model: nn.Module, section: LoraConfig, seed: int) -> None:
    """Freeze the model and give every linear layer of the section's parts an adapter, which begins as zero.

    The seed alone decides the adapters' first weights, so that a stage that begins again has the same ones. Raises LearnerError for a
    part without linear layers.
    """
    import peft

    targets = _linear_layers(model, section.parts)
    settings = peft.LoraConfig(r=section.rank, lora_alpha=section.alpha, lora_dropout=0.0, bias="none", target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model, ADAPTER)  # in place: the model keeps its class, and all other layers keep their names


def _linear_layers(model: nn.Module, parts: tuple[ModelPart, ...]) -> list[str]:
    """Return the names of the linear layers of some parts. The output head is left out: it may be the embedding."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    place = {name: part_of(name) for name in linear}
    if missing := sorted(set(parts) - set(place.values())):
        found = ", ".join(sorted(set(place.values())))
        raise LearnerError(f"learner.lora.parts: this model has no linear layers in {missing[0]!r}, only in {found}: leave it out")
    return [name for name in linear if place[name] in parts]


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Let the model compute as it did before it had adapters.

    Not to be used between a forward pass and its backward pass: ZeRO-3 counts the passes of each layer.
    """
    layers = _adapted(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class BasePolicy:
    """The policy without its adapters. It is the stage's first model, so that LoRA's reference costs no memory."""

    def __init__(self, policy: nn.Module, model: nn.Module) -> None:
        self._policy = policy
        self._model = model

    def __call__(self, *inputs: Any) -> Any:
        """Return the output of the policy without adapters."""
        with without_adapters(self._model):
            return self._policy(*inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainWeight:
    """A weight under the name that it has in a model without adapters, and its parameters."""

    name: str
    base: nn.Parameter
    adapter: tuple[nn.Parameter, nn.Parameter] | None
    """B (out, rank) and A (rank, in); None where the layer has none."""
    scale: float
    """alpha / rank; 0 without adapter."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters that `merged` needs whole."""
        return (self.base, *(self.adapter or ()))

    def merged(self) -> Tensor:
        """Return W + scale B A; W itself, not a copy, where there is no adapter."""
        if self.adapter is None:
            return self.base.detach()
        up, down = self.adapter
        return merged(self.base.detach(), up.detach(), down.detach(), self.scale)


def plain_weights(model: nn.Module) -> Iterator[PlainWeight]:
    """Yield the model's weights in order, adapters with the weight that they belong to. Tied weights come once."""
    factors: set[nn.Parameter] = set()
    layers: dict[nn.Parameter, Any] = {}
    for layer in _adapted(model):
        layers[layer.get_base_layer().weight] = layer
        factors |= {layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight}
    for name, parameter in model.named_parameters():
        if parameter in factors:
            continue
        layer = layers.get(parameter)
        yield PlainWeight(
            name=name.replace(".base_layer.", "."),
            base=parameter,
            adapter=(layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight) if layer else None,
            scale=layer.scaling[ADAPTER] if layer else 0.0,
        )


def _adapted(model: nn.Module) -> list[Any]:
    """Return the layers with adapters."""
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]
