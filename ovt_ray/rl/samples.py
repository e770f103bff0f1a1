"""From scored groups to samples to learn from. All functions are pure.

A group whose scorable completions all have the same score is a zero-variance group. It has no learning signal: every advantage is 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from learner.grpo import group_advantages
from ovt_ray.core.config.stages import Advantage, GrpoConfig
from ovt_ray.core.errors import StageError
from ovt_ray.core.types import Failure, Outcome, Score, ScoredGroup, TrainSample

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStats:
    """Statistics of one step's groups. Means are over scorable completions."""

    reward: float
    accuracy: float
    response_tokens: float
    longest_response_tokens: int
    truncated: float
    """Share of completions that ran into the token limit."""
    unparseable: float
    """Share of completions without a final answer."""
    flat_groups: float
    """Share of zero-variance groups, which give no samples."""
    num_unscorable: int
    num_late: int
    """Unscorable completions whose reward took too long and was killed."""
    num_out_of_memory: int
    """Unscorable completions whose reward needed more memory than it may have."""
    num_crashed: int
    """Unscorable completions whose reward's process or actor died."""
    num_raised: int
    """Unscorable completions whose reward raised."""
    num_completions: int


def group_stats(groups: Sequence[ScoredGroup]) -> GroupStats:
    """Return the statistics of one step's groups."""
    pairs = [pair for group in groups for pair in zip(group.group.completions, group.scores, strict=True)]
    scored = [(completion, score) for completion, score in pairs if _is_scorable(score)]
    failures = [score.failure for _, score in pairs]
    return GroupStats(
        reward=_mean([score.value for _, score in scored]),
        accuracy=_mean([score.outcome is Outcome.CORRECT for _, score in scored]),
        response_tokens=_mean([len(completion.token_ids) for completion, _ in pairs]),
        longest_response_tokens=max((len(completion.token_ids) for completion, _ in pairs), default=0),
        truncated=_mean([completion.finish_reason == "length" for completion, _ in pairs]),
        unparseable=_mean([score.outcome is Outcome.UNPARSEABLE for _, score in scored]),
        flat_groups=_mean([not has_signal(group) for group in groups]),
        num_unscorable=len(pairs) - len(scored),
        num_late=failures.count(Failure.DEADLINE),
        num_out_of_memory=failures.count(Failure.MEMORY),
        num_crashed=failures.count(Failure.CRASH),
        num_raised=failures.count(Failure.ERROR),
        num_completions=len(pairs),
    )


def versions_behind(groups: Iterable[ScoredGroup], version: int) -> list[int]:
    """Return the number of versions by which the oldest tokens of each completion are behind `version`."""
    return [version - completion.oldest_version for group in groups for completion in group.group.completions]


def oldest_version(group: ScoredGroup) -> int:
    """Return the version of the oldest weights that sampled any token of the group."""
    return min(completion.oldest_version for completion in group.group.completions)


def part_means(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Return the mean of each part of the reward, before weighting, as figures `reward/NAME`; no figures for a reward of one part."""
    scores = [score for group in groups for score in group.scores if _is_scorable(score)]
    names = {name: None for score in scores for name in score.parts}
    if len(names) < 2:
        return {}
    return {f"reward/{name}": _mean([score.parts[name] for score in scores if name in score.parts]) for name in names}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def advantages_of(groups: Sequence[ScoredGroup], kind: Advantage) -> list[list[float | None]]:
    """Return the advantage of each completion, group by group; None for a completion that could not be scored.

    An unscorable completion is left out of its group. The others are compared with each other alone.
    """
    rewards = [[score.value for score in group.scores if _is_scorable(score)] for group in groups]
    known = iter(group_advantages([values for values in rewards if values], kind))
    in_order = [iter(next(known) if values else []) for values in rewards]
    return [
        [next(values) if _is_scorable(score) else None for score in group.scores] for group, values in zip(groups, in_order, strict=True)
    ]


def train_samples(
    groups: Sequence[ScoredGroup], advantages: Sequence[Sequence[float | None]], *, mask_truncated: bool
) -> list[TrainSample]:
    """Return one sample per scorable completion of each group with a signal, in order.

    With `mask_truncated`, completions cut by their length give no sample, but count in the advantages of the others.
    """
    return [
        TrainSample(
            problem=scored.group.problem,
            prompt_ids=scored.group.prompt_ids,
            completion_ids=completion.token_ids,
            rollout_logprobs=completion.rollout_logprobs,
            advantage=advantage,
        )
        for scored, values in zip(groups, advantages, strict=True)
        for completion, advantage in zip(scored.group.completions, values, strict=True)
        if advantage is not None and has_signal(scored) and not (mask_truncated and completion.finish_reason == "length")
    ]


def has_signal(group: ScoredGroup) -> bool:
    """Return whether scores differ within the group, so that there is something to learn."""
    return len({score.value for score in group.scores if _is_scorable(score)}) > 1


def _is_scorable(score: Score) -> bool:
    return score.outcome is not Outcome.UNSCORABLE


def check_signal(section: GrpoConfig, groups: Sequence[ScoredGroup], steps_without_update: int) -> None:
    """Raise StageError if `max_flat_steps` steps in a row had no update; `groups` are the groups of the last step."""
    if steps_without_update == section.max_flat_steps:
        where = f"{steps_without_update} steps in a row"
        raise StageError(why_no_signal(where, groups, mask_truncated=section.mask_truncated))


def why_no_signal(where: str, groups: Sequence[ScoredGroup], *, mask_truncated: bool) -> str:
    """Return the reason why some groups teach nothing, and the remedies; `where` says which groups they are."""
    stats = group_stats(groups)
    return (
        f"grpo: {where} had only groups whose answers all score alike"
        f"{' or ran into max_completion_tokens (mask_truncated)' if mask_truncated else ''}, so there is nothing to learn from. "
        f"Of the last {len(groups)} groups' answers {stats.accuracy:.0%} were correct, {stats.unparseable:.0%} had no final answer, "
        f"{stats.truncated:.0%} ran into max_completion_tokens, {stats.num_unscorable} of {stats.num_completions} could not be scored. "
        "Use easier or harder problems, more completions per problem, or a better SFT model"
    )


def split_evenly(items: Sequence[Item], num_parts: int) -> list[Sequence[Item]]:
    """Return the items in at most `num_parts` consecutive, non-empty parts whose sizes differ by at most one."""
    bounds = [len(items) * part // num_parts for part in range(num_parts + 1)]
    return [items[low:high] for low, high in zip(bounds, bounds[1:], strict=False) if high > low]
