"""One reinforcement learning stage as values: its problems, its traces and its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.grpo import ClipRange, PolicyLoss
from learner.stage import Stage
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.stages import GrpoConfig
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Problem, Sampling, TrainSample
from ovt_ray.data.difficulty import measured_before
from ovt_ray.data.order import batch_at
from ovt_ray.data.stream import ItemStream
from ovt_ray.data.tasks import Tasks, Wanted
from ovt_ray.run.results import stage_key


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoStage:
    """Values of the stage that follow from the configuration and from the stages before."""

    section: GrpoConfig
    problems: ItemStream[Problem]
    """Stream of the stage's problems, whose ids differ within an epoch."""
    traces: Sequence[TrainSample]
    """Traces of the iteration, mixed in if `section.sft_coef` is above 0."""
    max_tokens: int
    """Largest token count of an answer."""
    seed: int
    """Seed of the stage alone."""
    folder: Path
    """Folder of the stage's files."""
    checkpoint_every: int
    """Steps between two checkpoints."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, which exists while the stage runs."""
        return self.folder / "checkpoints"

    def is_saved_after(self, step: int) -> bool:
        """Return whether a checkpoint follows the step; the last step's model is exported instead."""
        return (step + 1) % self.checkpoint_every == 0 and step + 1 < self.section.num_steps

    def for_learner(self, model: str) -> Stage:
        """Return the learner's part of the stage; `model` is the model that it begins with."""
        num_updates = self.section.num_steps * self.section.updates_per_step
        return learner_stage(self.section, model, num_updates)

    def sampling(self, step: int) -> Sampling:
        """Return the sampling of a step's completions. Its seed follows from the stage's seed and the step."""
        return Sampling(
            num_completions=self.section.num_completions,
            temperature=self.section.temperature,
            top_p=self.section.top_p,
            top_k=self.section.top_k,
            bad_words=self.section.bad_words,
            max_tokens=self.max_tokens,
            seed=stable_seed(self.seed, "step", step),
        )

    def traces_of(self, step: int, update: int) -> list[TrainSample]:
        """Return the traces that are mixed into an update of a step. The choice follows from the stage's seed."""
        if self.section.sft_coef == 0:
            return []
        place = step * self.section.updates_per_step + update
        return batch_at(self.traces, place, self.section.sft_batch_size, stable_seed(self.seed, "traces"))


def learner_stage(section: GrpoConfig, model: str, num_updates: int) -> Stage:
    """Return the learner's part of a stage with this number of updates; `model` is its first model."""
    return Stage(
        model_path=model,
        optimizer=section.optimizer,
        num_updates=num_updates,
        policy_loss=policy_loss_of(section),
        temperature=section.temperature,
    )


def policy_loss_of(section: GrpoConfig) -> PolicyLoss:
    """Return the variant of the policy loss that a section asks for."""
    return PolicyLoss(
        ratio=section.ratio,
        clip=ClipRange(low=section.clip_low, high=section.clip_high, dual=section.clip_dual),
        kl_coef=section.kl_coef,
        kl_estimator=section.kl_estimator,
        kl_in=section.kl_in,
        rollout_correction=section.rollout_correction,
        rollout_cap=section.rollout_cap,
        normalisation=section.normalisation,
        sft_coef=section.sft_coef,
    )


def grpo_stage(config: RunConfig, iteration: int, tasks: Tasks, *, traces: Sequence[TrainSample], run_dir: Path) -> GrpoStage:
    """Return an iteration's stage."""
    key, section = stage_key(iteration, "grpo"), config.iterations[iteration - 1].grpo
    seed = stable_seed(config.seed, key)
    num_problems = section.num_steps * section.problems_per_step
    if section.dynamic_sampling:
        num_problems *= 2  # room for as many replaced groups as there are others, before any problem is seen again
    wanted = Wanted(
        purpose=key,
        num=num_problems,
        choice=section.problems,
        num_per_step=section.problems_per_step,
        measured_by=measured_before(run_dir, iteration, "grpo"),
    )
    return GrpoStage(
        section=section,
        problems=tasks.stream(wanted),
        traces=traces,
        max_tokens=config.max_completion_tokens,
        seed=seed,
        folder=run_dir / key,
        checkpoint_every=config.learner.checkpoint_every,
    )
