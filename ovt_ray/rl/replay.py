"""`ovt-ray replay`: repeats the learning or the generation of a kept step of GRPO, and compares it with the record.

Both begin from the stage's first model. Step 0 had the same model, so its figures and answers have to come out again to the last bit. The
weights of a later step are gone, so its figures are shown without a comparison.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray.cluster import cluster
from ovt_ray.core.config.file import stored_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.errors import ConfigError, DataError
from ovt_ray.core.prompts import Prompts, model_path
from ovt_ray.core.types import Completion, RolloutGroup, ScoredGroup, TrainSample
from ovt_ray.data.tasks import load_tasks
from ovt_ray.distil import read_traces
from ovt_ray.rl.minibatches import run_updates, split_into_minibatches, update_figures
from ovt_ray.rl.rollouts import KeptRollouts, read_rollouts
from ovt_ray.rl.samples import advantages_of, group_stats, train_samples
from ovt_ray.rl.services import PolicyLearner
from ovt_ray.rl.stage import GrpoStage, grpo_stage
from ovt_ray.run.ledger import model_folder
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.progress import phase
from ovt_ray.sft import trace_samples

Half = Literal["learn", "generate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStep:
    """A kept step and its record in the run folder."""

    config: RunConfig
    stage: GrpoStage
    model: str
    """Folder or hub name of the stage's first model."""
    step: int
    rollouts: KeptRollouts
    figures: Mapping[str, float]
    """Figures of the step's row in metrics.jsonl; none if the step did not come to its end."""


def replay(run_dir: Path, stage_name: str, step: int, halves: Sequence[Half]) -> bool:
    """Learn from a step's kept groups again, generate them again, or both, and print the figures. The run's records stay unchanged.

    Returns whether all figures and answers that can be compared are the same.
    """
    kept = _kept_step(run_dir.resolve(), stage_name, step)
    stats = group_stats(kept.rollouts.groups)
    print(
        f"{stage_name} step {step}: {len(kept.rollouts.groups)} groups, {stats.flat_groups:.0%} without a signal, {stats.num_completions} "
        f"completions, {stats.accuracy:.0%} correct, {stats.truncated:.0%} cut at max_completion_tokens"
    )
    if step > 0:
        print(f"the weights of step {step} are gone: the replay begins from {kept.model}, and is not compared with the record")
    if not kept.figures:
        print("the step did not come to its end: metrics.jsonl has no figures of it")
    same = True
    with cluster(kept.config):
        if "learn" in halves:
            with closing(LearnerGroup(kept.config.learner, kept.config.model, kept.config.seed)) as learner:
                with phase("loading the learner"):
                    learner.begin(kept.stage.for_learner(kept.model))
                same &= learn_again(kept, learner)
        if "generate" in halves:
            with closing(RolloutPool(kept.config.rollout, EngineLauncher(kept.config.model, kept.model))) as pool:
                with phase("starting the rollout workers"):
                    pool.wait_until_ready()
                same &= generate_again(kept, pool)
    return same or step > 0


def learn_again(kept: KeptStep, learner: PolicyLearner) -> bool:
    """Take the step's updates on a learner that has begun the stage; return whether the figures equal the recorded figures, if any."""
    rollouts, section = kept.rollouts, kept.stage.section
    advantages = advantages_of(rollouts.groups, section.advantage)
    samples = train_samples(rollouts.groups, advantages, mask_truncated=section.mask_truncated)
    minibatches = split_into_minibatches(kept.stage, kept.step, samples, rollout_is_proximal=rollouts.rollout_is_proximal)
    began = time.monotonic()
    updates = run_updates(learner, minibatches)
    seconds = time.monotonic() - began
    print(f"\nlearn: {len(updates)} updates in {seconds:.3f} s, recorded {kept.figures.get('seconds_update', math.nan):.3f} s")
    print(f"{'figure':<18}{'recorded':>26}{'again':>26}")
    figures = update_figures(updates)
    differing = [name for name, value in figures.items() if not _same(kept.figures.get(name, math.nan), value=value)]
    for name, value in figures.items():
        mark = "  differs" if name in differing and kept.step == 0 and kept.figures else ""
        print(f"{name:<18}{kept.figures.get(name, math.nan):>26.17g}{value:>26.17g}{mark}")
    if kept.step == 0 and kept.figures:
        print(f"{len(figures) - len(differing)} of {len(figures)} figures are the recorded ones", flush=True)
    return not (differing and kept.figures)


def generate_again(kept: KeptStep, pool: RolloutPool) -> bool:
    """Draw the step's completions on workers that serve the stage's first model; return whether they equal the kept completions."""
    groups = kept.rollouts.groups
    began = time.monotonic()
    again = list(pool.generate([scored.group.problem for scored in groups], kept.stage.sampling(kept.step)))
    seconds = time.monotonic() - began
    num_tokens = sum(len(completion.token_ids) for group in again for completion in group.completions)
    num_same, num_all = count_same(groups, again)
    print(
        f"\ngenerate: {num_tokens} tokens in {seconds:.3f} s, {num_tokens / seconds:,.0f} tokens/s, recorded "
        f"{kept.figures.get('seconds_generate', math.nan):.3f} s\n{num_same} of {num_all} completions are token for token the kept ones",
        flush=True,
    )
    return num_same == num_all


def count_same(kept: Sequence[ScoredGroup], again: Sequence[RolloutGroup]) -> tuple[int, int]:
    """Return the number of completions with the tokens of the kept completion in the same place, and the number of all completions."""
    completions: dict[str, Sequence[Completion]] = {group.problem.id: group.completions for group in again}
    pairs = [
        (before.token_ids, after.token_ids)
        for scored in kept
        for before, after in zip(scored.group.completions, completions[scored.group.problem.id], strict=True)
    ]
    return sum(before == after for before, after in pairs), len(pairs)


def _same(recorded: float, *, value: float) -> bool:
    return recorded == value or (math.isnan(recorded) and not math.isfinite(value))  # a figure that is not finite is recorded as null


def _first_model(config: RunConfig, iteration: int, run_dir: Path) -> str:
    """Return the folder or hub name of the model that an iteration's RL stage begins from."""
    if config.iterations[iteration - 1].sft:
        key = f"iter{iteration}/sft"
    elif iteration > 1:
        key = f"iter{iteration - 1}/grpo"
    elif config.base:
        key = "iter0/base"
    else:
        return model_path(config.model)
    folder = model_folder(run_dir / key)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, and the stage begins from it: give a stage that the run has begun")
    return str(folder)


def _kept_step(run_dir: Path, stage_name: str, step: int) -> KeptStep:
    """Return a step of a stage; raises ConfigError or DataError where there is none."""
    found = re.fullmatch(r"iter([1-9]\d*)/grpo", stage_name)
    if found is None:
        raise ConfigError(f"{stage_name!r}: no stage of reinforcement learning; give iter1/grpo, iter2/grpo, ...")
    config, iteration = stored_config(run_dir / "config.json"), int(found[1])
    if iteration > len(config.iterations):
        raise ConfigError(f"{stage_name!r}: the run has {len(config.iterations)} iterations; give one of them")
    model = _first_model(config, iteration, run_dir)
    traces: list[TrainSample] = []
    if config.iterations[iteration - 1].grpo.sft_coef:
        with_traces = max(number for number, turn in enumerate(config.iterations[:iteration], start=1) if turn.distil)
        traces = trace_samples(read_traces(run_dir / f"iter{with_traces}" / "distil" / "traces.jsonl"), Prompts(model, config.model))
    tasks = load_tasks(config.data, config.seed, run_dir / "images", config.problem_folder)
    stage = grpo_stage(config, iteration, tasks, traces=traces, run_dir=run_dir)
    rows = {row.step: row.values for row in read_metrics(run_dir) if row.stage == stage_name}
    rollouts = read_rollouts(stage.folder, step, stage.problems)
    return KeptStep(config=config, stage=stage, model=model, step=step, rollouts=rollouts, figures=rows.get(step, {}))
