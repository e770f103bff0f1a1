"""Supervised fine-tuning: one optimizer step after another on traces."""

import time
from collections.abc import Sequence
from pathlib import Path

from learner.group import LearnerGroup
from ovt_ray.config import SftConfig
from ovt_ray.order import batch_at
from ovt_ray.track import Track
from ovt_ray.types import TrainSample


def train_sft(
    section: SftConfig,
    samples: Sequence[TrainSample],
    learner: LearnerGroup,
    track: Track,
    *,
    checkpoints: Path,
    checkpoint_every: int,
    first_step: int,
    seed: int,
) -> None:
    """Train the learner's model on the samples, from `first_step` on; which samples a step sees follows from the seed."""
    for step in range(first_step, section.num_steps):
        began = time.monotonic()
        stats = learner.update(batch_at(samples, step, section.batch_size, seed))
        seconds = time.monotonic() - began
        track.step(
            step,
            {
                "loss": stats.loss,
                "grad_norm": stats.grad_norm,
                "learning_rate": stats.learning_rate,
                "num_loss_tokens": stats.num_loss_tokens,
                "seconds_update": seconds,
            },
        )
        if (step + 1) % checkpoint_every == 0 and step + 1 < section.num_steps:
            learner.save(checkpoints, step + 1)
