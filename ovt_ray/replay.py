"""`ovt-ray replay`: a kept step of GRPO again, its learning or its generation alone, beside what was recorded.

Both begin from the stage's first model. That is the one step 0 had, whose figures and answers have to come out again to the last bit; a
later step had weights that are gone, and what is shown of it is not compared.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray.config import RunConfig
from ovt_ray.config_file import stored_config
from ovt_ray.distil import read_traces
from ovt_ray.errors import ConfigError, DataError
from ovt_ray.grpo_stage import GrpoStage, grpo_stage
from ovt_ray.lesson import learn, lesson_of, update_figures
from ovt_ray.metrics import read_metrics
from ovt_ray.progress import phase
from ovt_ray.prompts import Prompts, model_path
from ovt_ray.rollouts import Rollouts, read_rollouts
from ovt_ray.services import cluster
from ovt_ray.sft import trace_samples
from ovt_ray.tasks import load_tasks
from ovt_ray.types import Completion, RolloutGroup, ScoredGroup, TrainSample

Half = Literal["learn", "generate"]


def replay(run_dir: Path, stage_name: str, step: int, halves: Sequence[Half]) -> bool:
    """Learn from a step's kept groups again, generate them again, or both, and print what came out; no record of the run is changed.

    Returns whether all that can be compared is the same.
    """
    run_dir = run_dir.resolve()
    iteration, config = _iteration_of(stage_name), stored_config(run_dir / "config.json")
    model = run_dir / f"iter{iteration}" / "sft" / "model"
    if not model.is_dir() or iteration > len(config.iterations):
        raise DataError(
            f"{model}: no such folder; {stage_name} begins from it, so it cannot be replayed: give a stage that the run has done"
        )
    stage = _stage_of(config, iteration, run_dir, model)
    kept = read_rollouts(stage.folder, step, stage.problems)
    recorded = {row.step: row.values for row in read_metrics(run_dir) if row.stage == stage_name}.get(step, {})
    num_completions = sum(len(group.scores) for group in kept.groups)
    print(f"{stage_name} step {step}: {len(kept.groups)} groups, {num_completions} completions", flush=True)
    if step > 0:
        print(f"the weights of step {step} are gone: this begins from {model}, so nothing is compared with what was recorded", flush=True)
    same = True
    with cluster(config):
        if "learn" in halves:
            same &= _learn_again(config, stage, model, step, kept, recorded)
        if "generate" in halves:
            same &= _generate_again(config, stage, model, step, kept, recorded)
    return same or step > 0


def _learn_again(config: RunConfig, stage: GrpoStage, model: str, step: int, kept: Rollouts, recorded: Mapping[str, float]) -> bool:
    """Take the step's updates on a learner alone; return whether their figures are those recorded."""
    lesson = lesson_of(stage, step, kept.groups, rollout_is_proximal=kept.rollout_is_proximal)
    learner = LearnerGroup(config.learner, config.model, config.seed)
    try:
        with phase("loading the learner"):
            learner.begin(stage.for_learner(model))
        began = time.monotonic()
        updates = learn(learner, lesson)
        seconds = time.monotonic() - began
    finally:
        learner.close()
    figures = update_figures(updates)
    print(f"\nlearn: {len(updates)} updates in {seconds:.3f} s, recorded {recorded.get('seconds_update', math.nan):.3f} s", flush=True)
    print(f"{'figure':<18}{'recorded':>26}{'again':>26}")
    differing = [name for name, value in figures.items() if not _same(recorded.get(name, math.nan), value)]
    for name, value in figures.items():
        mark = "  differs" if name in differing and step == 0 else ""
        print(f"{name:<18}{recorded.get(name, math.nan):>26.17g}{value:>26.17g}{mark}")
    if step == 0:
        print(f"{len(figures) - len(differing)} of {len(figures)} figures are the recorded ones", flush=True)
    return not differing


def _generate_again(config: RunConfig, stage: GrpoStage, model: str, step: int, kept: Rollouts, recorded: Mapping[str, float]) -> bool:
    """Draw the step's completions on the rollout workers alone; return whether they are the kept ones."""
    with phase("starting the rollout workers"):
        pool = RolloutPool(config.rollout, config.model, model)
    try:
        with phase("waiting for their engines"):
            pool.wait_until_ready()
        began = time.monotonic()
        again = list(pool.generate([group.group.problem for group in kept.groups], stage.sampling(step)))
        seconds = time.monotonic() - began
    finally:
        pool.close()
    num_tokens = sum(len(completion.token_ids) for group in again for completion in group.completions)
    num_same, num_all = count_same(kept.groups, again)
    print(
        f"\ngenerate: {num_tokens} tokens in {seconds:.3f} s, {num_tokens / seconds:,.0f} tokens/s, recorded "
        f"{recorded.get('seconds_generate', math.nan):.3f} s\n{num_same} of {num_all} completions are token for token the kept ones",
        flush=True,
    )
    return num_same == num_all


def count_same(kept: Sequence[ScoredGroup], again: Sequence[RolloutGroup]) -> tuple[int, int]:
    """Return how many completions have the tokens of the one with their place in their problem's kept group, and how many there are."""
    completions: dict[str, Sequence[Completion]] = {group.problem.id: group.completions for group in again}
    pairs = [
        (before.token_ids, after.token_ids)
        for scored in kept
        for before, after in zip(scored.group.completions, completions[scored.group.problem.id], strict=True)
    ]
    return sum(before == after for before, after in pairs), len(pairs)


def _same(recorded: float, value: float) -> bool:
    return recorded == value or (math.isnan(recorded) and not math.isfinite(value))  # what is not finite is recorded as null


def _iteration_of(stage_name: str) -> int:
    found = re.fullmatch(r"iter([1-9]\d*)/grpo", stage_name)
    if found is None:
        raise ConfigError(f"{stage_name!r}: no stage of reinforcement learning; give iter1/grpo, iter2/grpo, ...")
    return int(found[1])


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
    folder = run_dir / key / "model"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, and the stage begins from it: give a stage that the run has begun")
    return str(folder)


def _stage_of(config: RunConfig, iteration: int, run_dir: Path, model: str) -> GrpoStage:
    """Return the stage as the run had it."""
    traces: list[TrainSample] = []
    if config.iterations[iteration - 1].grpo.sft_coef:
        with_traces = max(number for number, turn in enumerate(config.iterations[:iteration], start=1) if turn.distil)
        traces = trace_samples(read_traces(run_dir / f"iter{with_traces}" / "distil" / "traces.jsonl"), Prompts(model, config.model))
    return grpo_stage(config, iteration, load_tasks(config.data, config.seed, run_dir / "images"), traces, run_dir)
