"""The SFT stage: the base model, fine-tuned on an iteration's traces."""

from collections.abc import Sequence
from pathlib import Path

from learner.stage import sft_stage
from ovt_ray.core.config.stages import SftConfig
from ovt_ray.core.types import Trace
from ovt_ray.distil import read_traces
from ovt_ray.sft import hold_out, num_sft_steps, trace_samples, train_sft
from ovt_ray.stages.session import Session, StageRun
from ovt_ray.stages.training import begin_training, finish_training, record_steps


def run_sft(session: Session, iteration: int, section: SftConfig, *, base: str, traces: Path) -> str:
    """Return the model that an iteration's traces make of the base model, measured."""
    if kept := session.kept(iteration, "sft"):
        return str(kept.model)
    stage = session.start(iteration, "sft", [traces])
    return fine_tune(session, stage, section, model=base, traces=read_traces(traces))


def fine_tune(session: Session, stage: StageRun, section: SftConfig, *, model: str, traces: Sequence[Trace]) -> str:
    """Return the model fine-tuned on the traces, measured; part of the traces is held out if the section says so."""
    samples, held_out = hold_out(trace_samples(traces, session.prompts), section.validation_share, stage.seed)
    num_steps = num_sft_steps(section, len(samples))
    plan = sft_stage(model, section.optimizer, num_steps)
    first_step = begin_training(session, stage, plan)
    with record_steps(session, stage, num_steps=num_steps, first_step=first_step) as recorder:
        train_sft(
            section,
            samples,
            session.services.learner,
            recorder,
            held_out=held_out,
            checkpoints=stage.checkpoints,
            checkpoint_every=session.config.learner.checkpoint_every,
            first_step=first_step,
            seed=stage.seed,
        )
    return finish_training(session, stage, num_steps)
