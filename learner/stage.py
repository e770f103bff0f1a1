"""One stage of the recipe, as the learner knows it."""

from dataclasses import dataclass

from learner.grpo import PolicyLoss
from ovt_ray.core.config.stages import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training stage: it begins from a model with a fresh optimizer."""

    model_path: str
    """Hugging Face folder or hub name of the stage's first model."""
    optimizer: Optimizer
    num_updates: int
    """Count of the stage's optimizer steps; the learning rate follows from it."""
    policy_loss: PolicyLoss | None
    """Variant of the policy loss; None trains with cross entropy (SFT)."""
    temperature: float
    """Temperature of the distribution whose log-probabilities the stage works with; 1 for SFT."""


def sft_stage(model_path: str, optimizer: Optimizer, num_updates: int) -> Stage:
    """Return a stage that trains with the cross entropy of traces."""
    return Stage(model_path=model_path, optimizer=optimizer, num_updates=num_updates, policy_loss=None, temperature=1.0)
