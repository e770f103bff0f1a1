"""From the pool's events to scored groups: which completions are scored, and which scores count."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from actors.events import CompletionsEnded, GroupFinished, PoolEvent
from actors.pool import RolloutPool
from actors.worker import Ended
from ovt_ray.core.types import AnswerKind, Completion, Outcome, Problem, RolloutGroup, Sampling, Score, VersionSpan
from ovt_ray.rl.scored_rollouts import ScoredRollouts, Scoring, of_last_generation
from reward.pool import RewardPool
from reward.protocol import Answer

PROBLEMS = [Problem(id=name, question="?", images=(), answer="1", kind=AnswerKind.NUMBER) for name in "ab"]
SAMPLING = Sampling(num_completions=2, temperature=1.0, max_tokens=8, seed=0)


def completion(text: str) -> Completion:
    versions = (VersionSpan(version=0, num_tokens=1),)
    return Completion(token_ids=(1,), rollout_logprobs=(-1.0,), text=text, finish_reason="stop", versions=versions)


def ended(request: int, **texts: str) -> CompletionsEnded:
    """Return the event of completions with these texts, by `i` and their index."""
    problem = PROBLEMS[request]
    parts = [
        Ended(problem_id=problem.id, prompt_ids=(9,), index=int(name[1:]), completion=completion(text)) for name, text in texts.items()
    ]
    return CompletionsEnded(request=request, problem=problem, ended=tuple(parts))


def finished(request: int, *texts: str) -> GroupFinished:
    group = RolloutGroup(problem=PROBLEMS[request], prompt_ids=(9,), completions=tuple(map(completion, texts)))
    return GroupFinished(request=request, group=group)


@dataclass
class Pool:
    """Returns these events, one batch a poll."""

    batches: list[list[PoolEvent]]
    num_abandoned: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.batches

    def submit(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool = False) -> list[int]:
        return list(range(len(problems)))

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        return self.batches.pop(0)

    def abandon(self) -> None:
        self.num_abandoned += 1


@dataclass
class Reward:
    """Scores a text by its length, and keeps a receipt of each submission until its scores are collected or discarded."""

    kept: dict[int, Sequence[Answer]] = field(default_factory=dict)
    submitted: list[list[str]] = field(default_factory=list)

    def submit(self, problem: Problem, answers: Sequence[Answer]) -> int:
        self.submitted.append([answer.text for answer in answers])
        self.kept[len(self.submitted)] = answers
        return len(self.submitted)

    def are_ready(self, receipts: Sequence[int]) -> bool:
        return all(receipt in self.kept for receipt in receipts)

    def collect(self, receipt: int) -> list[Score]:
        return [Score(value=float(len(answer.text)), outcome=Outcome.WRONG, extracted=None) for answer in self.kept.pop(receipt)]

    def discard(self, receipt: int) -> None:
        del self.kept[receipt]


def rollouts(*batches: list[PoolEvent]) -> tuple[ScoredRollouts, Pool, Reward]:
    pool, reward = Pool(list(batches)), Reward()
    return ScoredRollouts(cast(RolloutPool, pool), cast(RewardPool, reward)), pool, reward


def test_each_completion_is_submitted_as_it_ends_and_the_scores_are_in_the_order_of_the_group() -> None:
    source, _, reward = rollouts([ended(0, i1="four"), ended(1, i0="x")], [ended(0, i0="a"), finished(0, "a", "four")])
    assert source.submit(PROBLEMS, SAMPLING) == [0, 1]
    assert source.poll() == [] and reward.submitted == [["four"], ["x"]]
    assert source.poll() == [0] and source.are_scored(0)
    assert [score.value for score in source.scored(0).scores] == [1.0, 4.0]


def test_scores_of_a_dead_worker_s_completions_are_discarded_when_the_group_is_whole_again() -> None:
    source, _, reward = rollouts([ended(0, i0="dead")], [ended(0, i1="bb", i0="a"), finished(0, "a", "bb")])
    source.submit(PROBLEMS[:1], SAMPLING)
    assert [*source.poll(), *source.poll()] == [0]
    assert list(reward.kept) == [2]
    assert [score.value for score in source.scored(0).scores] == [1.0, 2.0] and not reward.kept


def test_nothing_is_kept_of_groups_that_are_abandoned() -> None:
    source, pool, reward = rollouts([ended(0, i0="a", i1="b"), finished(0, "a", "b"), ended(1, i0="c")])
    source.submit(PROBLEMS, SAMPLING)
    assert source.poll() == [0] and len(reward.kept) == 2
    source.abandon()
    assert not reward.kept and pool.num_abandoned == 1


def test_answers_are_all_yielded_and_the_pool_is_free_after_them() -> None:
    source, pool, reward = rollouts([ended(1, i0="c", i1="d"), finished(1, "c", "d")], [ended(0, i0="a", i1="b"), finished(0, "a", "b")])
    assert [group.group.problem.id for group in source.answers(PROBLEMS, SAMPLING)] == ["b", "a"]
    assert not reward.kept and pool.num_abandoned == 1


def scoring(*indices: int, scores: str) -> Scoring:
    return Scoring(indices=indices, scores=scores)


def test_scores_of_what_a_dead_worker_had_generated_are_told_from_those_of_its_successor() -> None:
    parts = [scoring(0, 2, scores="dead"), scoring(1, scores="dead too"), scoring(1, 2, 3, scores="alive"), scoring(0, scores="alive too")]
    assert of_last_generation(parts, 4) == (parts[2:], parts[:2])
    assert of_last_generation(parts[2:], 4) == (parts[2:], [])
