"""Scored groups: the policy's workers generate them, and the reward scores each completion as it ends."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from actors.events import CompletionsEnded, GroupFinished
from actors.pool import RolloutPool
from ovt_ray.core.types import Problem, RolloutGroup, Sampling, Score, ScoredGroup
from ovt_ray.core.weights.transport import PublishedVersion
from reward.pool import RewardPool
from reward.protocol import Answer

if TYPE_CHECKING:
    import ray

Scores: TypeAlias = "ray.ObjectRef[tuple[Score, ...]]"
"""The reward pool's reference to the scores of completions that it received together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Completions of a group that are scored together."""

    indices: tuple[int, ...]
    """Places of the completions in the group."""
    scores: Scores


class ScoredRollouts:
    """Generates groups and has them scored. The number of its request identifies a group and its scores."""

    def __init__(self, pool: RolloutPool, reward: RewardPool) -> None:
        self._pool = pool
        self._reward = reward
        self._scoring: dict[int, list[Scoring]] = {}
        """Scorings of each group that `scored` has not returned, in the order in which its completions ended."""
        self._generated: dict[int, RolloutGroup] = {}
        """Groups whose completions have all ended, and that `scored` has not returned."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being generated or waits to be."""
        return self._pool.is_idle

    def submit(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool = False) -> list[int]:
        """Take in problems, before all others if they are awaited; return the number of each problem's request."""
        requests = self._pool.submit(problems, sampling, are_awaited=are_awaited)
        self._scoring |= {request: [] for request in requests}
        return requests

    def poll(self, timeout_s: float = math.inf) -> list[int]:
        """Wait for events, at most so long, and return the requests whose groups were generated. Errors are those of `RolloutPool.poll`.

        Each completion goes to the reward as soon as it ends, together with others of its group that end close to it.
        """
        generated = []
        # In order: a group's last completions go to the reward before its end is noted.
        for event in self._pool.poll(timeout_s):
            match event:
                case CompletionsEnded():
                    self._score(event)
                case GroupFinished(request=request, group=group):
                    self._finish(request, group)
                    generated.append(request)
        return generated

    def are_scored(self, request: int) -> bool:
        """Return whether `scored` would not wait for a generated group."""
        return self._reward.are_ready([one.scores for one in self._scoring[request]])

    def scored(self, request: int) -> ScoredGroup:
        """Return a generated group with its scores, once; wait for the scores if necessary."""
        group, scores = self._generated.pop(request), dict[int, Score]()
        for one in self._scoring.pop(request):
            scores.update(zip(one.indices, self._reward.collect(one.scores), strict=True))
        return ScoredGroup(group=group, scores=tuple(scores[index] for index in range(len(scores))))

    def answers(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[ScoredGroup]:
        """Yield each problem's group once it is finished and scored, in any order; nothing else may be in work."""
        assert not self._scoring, "the groups of another caller would be yielded, and abandoned, as well"
        waiting: deque[int] = deque()
        try:
            self.submit(problems, sampling)
            while not self.is_idle:
                waiting += self.poll()
                # In the order in which groups ended: a slow score holds up the others' return, not their scoring.
                while waiting and self.are_scored(waiting[0]):
                    yield self.scored(waiting.popleft())
            yield from map(self.scored, waiting)
        finally:
            # The consumer may stop early: its groups must not stay in front of the next caller's.
            self.abandon()

    def abandon(self) -> None:
        """Give up all that was submitted and not returned by `scored`."""
        # The pool first: then no event of these requests can follow.
        self._pool.abandon()
        for scoring in self._scoring.values():
            self._discard(scoring)
        self._scoring.clear()
        self._generated.clear()

    def load_weights(self, published: PublishedVersion) -> None:
        """Return when every worker generates with this version of the weights; groups in work go on under them."""
        self._pool.load_weights(published)

    def _score(self, event: CompletionsEnded) -> None:
        answers = [Answer(index=one.index, text=one.completion.text, num_tokens=len(one.completion.token_ids)) for one in event.ended]
        indices = tuple(one.index for one in event.ended)
        self._scoring[event.request].append(Scoring(indices=indices, scores=self._reward.submit(event.problem, answers)))

    def _finish(self, request: int, group: RolloutGroup) -> None:
        # A worker that died may have ended some completions: the group was generated again, and these are not in it.
        newest, outdated = of_last_generation(self._scoring[request], len(group.completions))
        self._discard(outdated)
        self._scoring[request] = list(newest)
        self._generated[request] = group

    def _discard(self, scoring: Sequence[Scoring]) -> None:
        for one in scoring:
            self._reward.discard(one.scores)


def of_last_generation(scoring: Sequence[Scoring], num_completions: int) -> tuple[Sequence[Scoring], Sequence[Scoring]]:
    """Return the last scorings, which hold each completion once, and the earlier scorings of workers that died."""
    # From the end: the completions of a dead worker were reported before those of its successor.
    first, num_found = len(scoring), 0
    while num_found < num_completions:
        first -= 1
        num_found += len(scoring[first].indices)
    return scoring[first:], scoring[:first]
