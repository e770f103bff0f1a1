"""From scored groups to samples: zero-variance groups and unscorable answers give none, and are counted."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ovt_ray.core.config.stages import Advantage
from ovt_ray.core.types import AnswerKind, Completion, Failure, Outcome, Problem, RolloutGroup, Score, ScoredGroup, TrainSample, VersionSpan
from ovt_ray.rl.samples import advantages_of, group_stats, part_means, split_evenly, train_samples

PROBLEM = Problem(id="p", question="?", images=(), answer="1", kind=AnswerKind.NUMBER)
VALUES = {Outcome.CORRECT: 1.0, Outcome.WRONG: 0.0, Outcome.UNPARSEABLE: 0.0, Outcome.UNSCORABLE: 0.0}


def scored(*outcomes: Outcome) -> ScoredGroup:
    completions = tuple(
        Completion(
            token_ids=(5,) * (i + 1),
            rollout_logprobs=(-0.5,) * (i + 1),
            text="",
            finish_reason="stop",
            versions=(VersionSpan(version=0, num_tokens=i + 1),),
        )
        for i in range(len(outcomes))
    )
    scores = tuple(Score(value=VALUES[outcome], outcome=outcome, extracted=None) for outcome in outcomes)
    return ScoredGroup(group=RolloutGroup(problem=PROBLEM, prompt_ids=(1, 2), completions=completions), scores=scores)


def samples_of(groups: Sequence[ScoredGroup], advantage: Advantage, *, mask_truncated: bool) -> list[TrainSample]:
    return train_samples(groups, advantages_of(groups, advantage), mask_truncated=mask_truncated)


def test_advantages_of_a_group_are_centred_and_scaled() -> None:
    group = scored(Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG, Outcome.WRONG)
    # mean 1/4, population standard deviation sqrt(3)/4
    assert [sample.advantage for sample in samples_of([group], "grpo", mask_truncated=False)] == pytest.approx([3**0.5, *[-(3**-0.5)] * 3])
    centred = samples_of([group], "dr_grpo", mask_truncated=False)
    assert [sample.advantage for sample in centred] == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_a_truncated_answer_counts_in_its_group_but_is_masked_if_asked() -> None:
    whole = scored(Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG)
    first, second, third = whole.group.completions
    cut = replace(whole, group=replace(whole.group, completions=(first, replace(second, finish_reason="length"), third)))
    found = samples_of([cut], "dr_grpo", mask_truncated=True)
    assert [(len(sample.completion_ids), sample.advantage) for sample in found] == [(1, pytest.approx(2 / 3)), (3, pytest.approx(-1 / 3))]
    assert len(samples_of([cut], "dr_grpo", mask_truncated=False)) == 3
    assert group_stats([cut]).flat_groups == 0


def test_an_unscorable_answer_is_left_out_of_its_group() -> None:
    group = scored(Outcome.CORRECT, Outcome.UNSCORABLE, Outcome.WRONG)
    assert advantages_of([scored(Outcome.UNSCORABLE), group], "grpo") == [[None], [1.0, None, -1.0]]
    samples = samples_of([group], "grpo", mask_truncated=False)
    assert [(len(sample.completion_ids), sample.advantage) for sample in samples] == [(1, 1.0), (3, -1.0)]


def test_zero_variance_groups_give_no_samples_even_if_an_unscorable_answer_makes_values_differ() -> None:
    groups = [scored(Outcome.CORRECT, Outcome.CORRECT), scored(Outcome.CORRECT, Outcome.UNSCORABLE)]
    assert samples_of(groups, "grpo", mask_truncated=False) == []


def test_zero_variance_groups_count_in_the_deviation_over_all_groups() -> None:
    groups = [scored(Outcome.CORRECT, Outcome.WRONG), scored(Outcome.WRONG, Outcome.WRONG), scored(Outcome.UNSCORABLE, Outcome.UNSCORABLE)]
    # centred rewards are 1/2, -1/2, 0, 0: their deviation is sqrt(1/8)
    found = [sample.advantage for sample in samples_of(groups, "reinforce_pp", mask_truncated=False)]
    assert found == pytest.approx([2**0.5, -(2**0.5)])


def test_the_statistics_count_what_was_seen() -> None:
    stats = group_stats([scored(Outcome.CORRECT, Outcome.UNPARSEABLE), scored(Outcome.WRONG, Outcome.UNSCORABLE)])
    assert (stats.accuracy, stats.unparseable) == pytest.approx((1 / 3, 1 / 3))
    assert (stats.flat_groups, stats.num_unscorable, stats.num_completions, stats.response_tokens) == (0.5, 1, 4, 1.5)
    assert stats.longest_response_tokens == 2


def test_a_split_keeps_order_and_sizes_even() -> None:
    assert split_evenly([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert split_evenly([1], 3) == [[1]]
    assert split_evenly([], 2) == []


def test_failures_are_counted_by_what_happened_and_parts_by_their_mean() -> None:
    ok = [Score(value=v, outcome=Outcome.CORRECT, extracted="1", parts={"a": 1.0, "b": v}) for v in (1.0, 0.5)]
    failed = [
        Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, parts={"a": 9.0}, failure=failure)
        for failure in (Failure.DEADLINE, Failure.DEADLINE, Failure.MEMORY, Failure.CRASH, Failure.ERROR, None)
    ]
    group = ScoredGroup(group=scored(*[Outcome.WRONG] * 8).group, scores=tuple(ok + failed))
    stats = group_stats([group])
    assert (stats.num_unscorable, stats.num_late, stats.num_out_of_memory, stats.num_crashed, stats.num_raised) == (6, 2, 1, 1, 1)
    assert part_means([group]) == {"reward/a": 1.0, "reward/b": 0.75}
    assert part_means([scored(Outcome.CORRECT)]) == {}
