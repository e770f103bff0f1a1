"""Supervised fine-tuning: one optimizer step after another on traces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ovt_ray.core.config.stages import SftConfig
from ovt_ray.core.errors import StageError
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Trace, TrainSample, UpdateStats
from ovt_ray.data.order import batch_at, batches_of_epochs, shuffled
from ovt_ray.run.recorder import Recorder


class SftLearner(Protocol):
    """The part of the learner that the loop of SFT uses."""

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples."""

    def validation_loss(self, samples: Sequence[TrainSample]) -> float:
        """Return the mean cross entropy of the samples' loss tokens, in nats."""

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint from which the stage can go on with the step."""


def train_sft(
    section: SftConfig,
    samples: Sequence[TrainSample],
    learner: SftLearner,
    recorder: Recorder,
    *,
    held_out: Sequence[TrainSample] = (),
    checkpoints: Path,
    checkpoint_every: int,
    first_step: int,
    seed: int,
) -> None:
    """Train the learner's model on the samples, from `first_step` on. The seed decides the samples of each step.

    The loss on held-out samples, if any, is measured at each checkpoint and at the end.
    """
    num_steps = num_sft_steps(section, len(samples))
    for step in range(first_step, num_steps):
        recorder.begin("update")
        stats = learner.update(batch_at(samples, step, section.batch_size, seed, drop_last=section.num_epochs is None))
        figures = {
            "loss": stats.loss,
            "grad_norm": stats.grad_norm,
            "learning_rate": stats.learning_rate,
            "num_loss_tokens": stats.num_loss_tokens,
            "seconds_update": recorder.end_phases()["update"],
        }
        is_last, is_due = step + 1 == num_steps, (step + 1) % checkpoint_every == 0
        if held_out and (is_last or is_due):
            recorder.begin("validation")
            figures["validation_loss"] = learner.validation_loss(held_out)
        recorder.step(step, figures)
        if is_due and not is_last:
            learner.save(checkpoints, step + 1)


def trace_samples(traces: Sequence[Trace], prompts: Prompts) -> list[TrainSample]:
    """Return the traces as training samples, with the loss on the response and its end-of-turn token."""
    return [TrainSample(problem=trace.problem, completion_ids=prompts.response_ids(trace.response)) for trace in traces]


def num_sft_steps(section: SftConfig, num_samples: int) -> int:
    """Return the number of optimizer steps of a stage with this number of samples."""
    if section.num_steps is not None:
        return section.num_steps
    assert section.num_epochs is not None, "the config wants one of the two"
    return batches_of_epochs(section.num_epochs, num_samples, section.batch_size)


def hold_out(samples: Sequence[TrainSample], share: float, seed: int) -> tuple[list[TrainSample], list[TrainSample]]:
    """Return the samples to train on and the held-out samples, both in order.

    The share counts problems: all samples of a problem are on one side. A share above 0 holds out at least one problem.
    Raises StageError if no problem is left to train on.
    """
    if share == 0:
        return list(samples), []
    problems = sorted({sample.problem.id for sample in samples})
    chosen = set(shuffled(problems, stable_seed(seed, "validation"))[: max(1, round(share * len(problems)))])
    if len(chosen) == len(problems):
        raise StageError(
            f"validation_share={share:g} leaves none of {len(problems)} problems with traces to train on: lower it, or distil more problems"
        )
    parts: tuple[list[TrainSample], list[TrainSample]] = ([], [])
    for sample in samples:
        parts[sample.problem.id in chosen].append(sample)
    return parts
