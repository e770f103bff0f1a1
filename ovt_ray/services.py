"""The three services of a run, on one Ray cluster: started together, closed together."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.pool import RolloutPool
from actors.worker import Ended
from learner.group import LearnerGroup
from ovt_ray.cluster import cluster
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.spans import ActorSpans, Span
from ovt_ray.core.types import Problem, RolloutGroup, Sampling, Score, ScoredGroup
from reward.pool import RewardPool
from reward.protocol import Answer

SPANS_S = 1.0
"""Longest wait for what the actors did: they answer in milliseconds, but for one that is being replaced."""
Scores: TypeAlias = "ray.ObjectRef[tuple[Score, ...]]"
"""What the reward pool gives for completions that it was handed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Completions of a group that are scored together."""

    indices: tuple[int, ...]
    """Their places in the group."""
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingGroup:
    """A finished group, and the scores that it will have."""

    group: RolloutGroup
    scoring: tuple[Scoring, ...]
    """Each of the G completions is in one of them."""


class Services:
    """Rollout pool, reward pool and learner group; closing it leaves no process behind."""

    def __init__(self, config: RunConfig, engine_model: str) -> None:
        """Start every service and wait until the engines, which take longest, answer with the weights of `engine_model`."""
        with ExitStack() as started:
            started.enter_context(cluster(config))
            self._config = config
            self._engine_model = engine_model
            self._rollout: RolloutPool | None = None
            started.callback(self.end_rollout, engine_model)
            self.start_rollout()
            self.learner = LearnerGroup(config.learner, config.model, config.seed)
            started.callback(self.learner.close)
            self.reward = RewardPool(config.reward)
            started.callback(self.reward.close)
            self.rollout.wait_until_ready()
            self._started = started.pop_all()

    def __enter__(self) -> "Services":
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    @property
    def rollout(self) -> RolloutPool:
        """The policy's workers, started if none are there."""
        return self._rollout or self.start_rollout()

    def start_rollout(self) -> RolloutPool:
        """Return the policy's workers, which start in the background."""
        self._rollout = RolloutPool(self._config.rollout, self._config.model, self._engine_model)
        return self._rollout

    def end_rollout(self, next_model: str) -> None:
        """Close the policy's workers, whose place other models may then have; the next ones start with `next_model`."""
        self._engine_model = next_model
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None

    def submit(
        self, problems: Sequence[Problem], sampling: Sampling, on_group: Callable[[PendingGroup], None], *, are_awaited: bool = False
    ) -> None:
        """Take in problems to answer, before all others if they are awaited.

        `on_group` hears of each group as it finishes, while `rollout.poll` is being called. Each completion is on its way to the reward as
        soon as it ends, together with those of its group that end close to it.
        """
        scoring: dict[str, list[Scoring]] = {problem.id: [] for problem in problems}

        def score(problem: Problem, ended: Sequence[Ended]) -> None:
            answers = [Answer(index=one.index, text=one.completion.text, num_tokens=len(one.completion.token_ids)) for one in ended]
            indices = tuple(one.index for one in ended)
            scoring[problem.id].append(Scoring(indices=indices, scores=self.reward.submit(problem, answers)))

        def finish(group: RolloutGroup) -> None:
            newest, outdated = of_last_generation(scoring.pop(group.problem.id), sampling.num_completions)
            for one in outdated:  # of a worker that died: the group was generated again
                self.reward.discard(one.scores)
            on_group(PendingGroup(group=group, scoring=tuple(newest)))

        self.rollout.submit(problems, sampling, finish, score, are_awaited=are_awaited)

    def scores(self, pending: Sequence[PendingGroup]) -> list[ScoredGroup]:
        """Return the groups with their scores, waiting for those that are not scored yet."""
        return [self._scored(group) for group in pending]

    def are_scored(self, pending: PendingGroup) -> bool:
        """Return whether `scores` would not wait for the group."""
        return self.reward.are_ready([one.scores for one in pending.scoring])

    def answers(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[ScoredGroup]:
        """Yield each problem's group once it is finished and scored, in any order."""
        waiting: deque[PendingGroup] = deque()
        try:
            self.submit(problems, sampling, waiting.append)
            while not self.rollout.is_idle:
                self.rollout.poll()
                while waiting and self.are_scored(waiting[0]):
                    yield self._scored(waiting.popleft())
        finally:
            self.rollout.abandon()
        yield from map(self._scored, waiting)

    def take_spans(self) -> list[ActorSpans]:
        """Return what each actor did since it was last asked, in the same order each time; nothing of one that does not answer."""
        asked = {"reward actor": self.reward.take_spans(), "learner rank": self.learner.ranks.take_spans()}
        kinds = {"rollout worker": self.rollout.take_spans(SPANS_S)}
        refs = [ref for its_refs in asked.values() for ref in its_refs]
        ray.wait(refs, num_returns=len(refs), timeout=SPANS_S)
        kinds |= {kind: [_spans_of(ref) for ref in its_refs] for kind, its_refs in asked.items()}
        return [
            ActorSpans(kind=kind, number=number, spans=spans) for kind, its_spans in kinds.items() for number, spans in enumerate(its_spans)
        ]

    def _scored(self, pending: PendingGroup) -> ScoredGroup:
        scores: dict[int, Score] = {}
        for one in pending.scoring:
            scores.update(zip(one.indices, self.reward.collect(one.scores), strict=True))
        return ScoredGroup(group=pending.group, scores=tuple(scores[index] for index in range(len(scores))))


def of_last_generation(scoring: Sequence[Scoring], num_completions: int) -> tuple[Sequence[Scoring], Sequence[Scoring]]:
    """Return the last ones, which hold each completion once, and those before, of a worker that died before it had generated all."""
    first, num_found = len(scoring), 0
    while num_found < num_completions:
        first -= 1
        num_found += len(scoring[first].indices)
    return scoring[first:], scoring[:first]


def _spans_of(asked: "ray.ObjectRef[tuple[Span, ...]]") -> tuple[Span, ...]:
    try:
        return ray.get(asked, timeout=0)
    except (GetTimeoutError, RayError):  # it died, and its spans with it, or is being replaced: whoever needs it will say so
        return ()
