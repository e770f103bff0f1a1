"""What one stage of the recipe asks of the learner."""

from dataclasses import dataclass

from ovt_ray.core.config.stages import GrpoConfig, Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training stage: it begins from a model with a fresh optimizer."""

    model_path: str
    """Hugging Face folder or hub name of the stage's first model."""
    optimizer: Optimizer
    num_updates: int
    """Optimizer steps of the whole stage; the learning rate follows from it."""
    policy_loss: GrpoConfig | None
    """Ratio, clip range, KL, correction, normalisation and temperature of the policy loss; None trains with cross entropy (SFT)."""

    @property
    def temperature(self) -> float:
        """Temperature of the distribution whose log-probabilities the stage works with."""
        return self.policy_loss.temperature if self.policy_loss else 1.0
