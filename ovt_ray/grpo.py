"""Group relative policy optimisation (GRPO, arXiv 2402.03300): the loop. Its maths is in learner/grpo.py and samples.py.

A step answers fresh problems G times each, verifies the answers, learns from the groups that are not all alike and hands
the new weights to the rollout workers. With `max_staleness` 0 every step begins strictly on-policy; with more, the problems of later
steps are being answered while the learner learns, and new weights are loaded under them. If the config says so, each update also
learns from some of the iteration's traces.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import fmean

from learner.group import LearnerGroup
from ovt_ray.errors import StageError
from ovt_ray.order import batch_at, stable_seed
from ovt_ray.problem_stream import ItemStream
from ovt_ray.samples import group_stats, part_means, split_evenly, staleness, to_train_samples
from ovt_ray.services import Services
from ovt_ray.stage_config import GrpoConfig
from ovt_ray.stream import GroupStream
from ovt_ray.track import Track
from ovt_ray.types import Problem, Sampling, ScoredGroup, TrainSample, UpdateStats

AVERAGED = [field.name for field in fields(UpdateStats) if not field.name.startswith("num_")]
"""Figures of the updates of a step that are averaged."""


def train_grpo(
    section: GrpoConfig,
    problems: ItemStream[Problem],
    traces: Sequence[TrainSample],
    services: Services,
    track: Track,
    *,
    max_tokens: int,
    checkpoints: Path,
    checkpoint_every: int,
    first_step: int,
    seed: int,
    rollout_is_exact: bool,
) -> None:
    """Improve the learner's model, which the rollout workers already serve, from `first_step` on; `traces` are for `section.sft_coef`.

    If the rollout is exact, its log-probabilities of answers by the newest weights are the learner's too, and not computed again.

    Raises StageError when no group of several steps in a row had anything to teach.
    """

    def batch_of(step: int) -> tuple[Sequence[Problem], Sampling]:
        taken = problems.take(step * section.problems_per_step, section.problems_per_step)
        return without_repeats(taken), sampling(section, max_tokens, seed, step)

    num_flat = 0
    steps = range(first_step, section.num_steps)
    with GroupStream(services, batch_of, steps, section.max_staleness) as stream, _background() as background:
        for step in steps:
            clock = [time.monotonic()]
            pending = stream.next_batch(step)
            clock.append(time.monotonic())
            groups = services.scores(pending)
            behind = staleness(groups, services.learner.version)
            assert max(behind) <= section.max_staleness, f"step {step} would learn from answers begun {max(behind)} versions ago"
            clock.append(time.monotonic())
            samples = to_train_samples(groups, section.advantage, mask_truncated=section.mask_truncated)
            parts = split_evenly(samples, section.updates_per_step)
            beside = [traces_of(section, traces, step, number, seed) for number in range(len(parts))]
            learning = background.submit(_learn, services.learner, parts, beside, rollout_is_exact and not any(behind))
            stream.work_until(learning)
            updates = learning.result()
            clock.append(time.monotonic())
            if updates:
                services.rollout.load_weights(services.learner.publish())
            clock.append(time.monotonic())
            track.step(step, _figures(groups, behind, updates, clock))
            num_flat = 0 if updates else num_flat + 1
            if num_flat == section.max_flat_steps:
                raise StageError(_why_flat(num_flat, groups, section.mask_truncated))
            if (step + 1) % checkpoint_every == 0 and step + 1 < section.num_steps:
                services.learner.save(checkpoints, step + 1)


@contextmanager
def _background() -> Iterator[ThreadPoolExecutor]:
    """Give a thread beside this one. What it waits for when an error ends the loop ends with the services, so nobody waits for it."""
    background = ThreadPoolExecutor(1)
    try:
        yield background
    finally:
        background.shutdown(wait=False)


def without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    """Return each problem once: where an epoch ends within a step, its first problems may be those of the epoch before."""
    return list({problem.id: problem for problem in problems}.values())


def traces_of(section: GrpoConfig, traces: Sequence[TrainSample], step: int, update: int, seed: int) -> list[TrainSample]:
    """Return the traces that one update of a step learns from too; which they are follows from the stage's seed."""
    if section.sft_coef == 0:
        return []
    return batch_at(traces, step * section.updates_per_step + update, section.sft_batch_size, stable_seed(seed, "traces"))


def _learn(
    learner: LearnerGroup, parts: Sequence[Sequence[TrainSample]], traces: Sequence[Sequence[TrainSample]], rollout_is_proximal: bool
) -> list[UpdateStats]:
    """Take one update on each part with its traces. Parts after the first need the log-probabilities of the policy before the first."""
    later = [sample for part in parts[1:] for sample in part]
    proximal = iter([sample.rollout_logprobs for sample in later] if rollout_is_proximal or not later else learner.logprobs(later))
    prepared = [*parts[:1], *([replace(sample, proximal_logprobs=next(proximal)) for sample in part] for part in parts[1:])]
    return [learner.update([*part, *own_traces]) for part, own_traces in zip(prepared, traces, strict=True)]


def sampling(section: GrpoConfig, max_tokens: int, seed: int, step: int) -> Sampling:
    """Return how the completions of one step are drawn; their seed follows from the stage's seed and the step."""
    return Sampling(
        num_completions=section.num_completions,
        temperature=section.temperature,
        top_p=section.top_p,
        max_tokens=max_tokens,
        seed=stable_seed(seed, "step", step),
    )


def _figures(
    groups: Sequence[ScoredGroup], behind: Sequence[int], updates: Sequence[UpdateStats], clock: Sequence[float]
) -> dict[str, float]:
    """Return a step's figures; those of several updates are averaged. `clock` holds the bounds of the step's phases."""
    figures = asdict(group_stats(groups)) | part_means(groups)
    for name in AVERAGED if updates else ():
        figures[name] = fmean(asdict(update)[name] for update in updates)
    generate_s, score_s, update_s, sync_s = (after - before for before, after in zip(clock, clock[1:], strict=False))
    num_tokens = sum(len(completion.token_ids) for group in groups for completion in group.group.completions)
    return figures | {
        "seconds_generate": generate_s,
        "seconds_score": score_s,
        "seconds_update": update_s,
        "seconds_sync": sync_s,
        "num_tokens": num_tokens,
        "tokens_per_s": num_tokens / (clock[-1] - clock[0]),
        "staleness": fmean(behind),
        "staleness_max": max(behind),
    }


def _why_flat(num_steps: int, groups: Sequence[ScoredGroup], mask_truncated: bool) -> str:
    stats = group_stats(groups)
    return (
        f"grpo: {num_steps} steps in a row had only groups whose answers all score alike"
        f"{' or ran into max_completion_tokens (mask_truncated)' if mask_truncated else ''}, so there is nothing to learn from. "
        f"In the last one {stats.accuracy:.0%} were correct, {stats.unparseable:.0%} had no final answer, {stats.truncated:.0%} ran into "
        f"max_completion_tokens, {stats.num_unscorable} of {stats.num_completions} could not be scored. "
        "Use easier or harder problems, more completions per problem, or a better SFT model"
    )
