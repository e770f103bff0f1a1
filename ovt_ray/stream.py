"""The groups of one step after another, generated ahead of the loop that learns from them."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from ovt_ray.services import PendingGroup, Services
from ovt_ray.types import Problem, Sampling

POLL_S = 0.05
"""How long the end of a piece of work goes unnoticed, as a rule: a worker that has to be replaced takes longer."""

BatchOf = Callable[[int], tuple[Sequence[Problem], Sampling]]
"""The problems of a step, whose ids differ, and how they are answered."""


@dataclass
class _Batch:
    """One step's groups."""

    problems: Sequence[Problem]
    finished: dict[str, PendingGroup] = field(default_factory=dict)
    """By the id of the problem."""


class GroupStream:
    """Generates each step's groups at most `max_staleness` steps before they are asked for.

    So a group that step s learns from was begun when the rollout workers already served the weights of step s - max_staleness: none is
    ever staler, and none has to be thrown away. With 0 a step's groups are begun when they are asked for. Use it in a `with` statement.
    """

    def __init__(self, services: Services, batch_of: BatchOf, steps: range, max_staleness: int) -> None:
        self._services = services
        self._batch_of = batch_of
        self._to_begin = list(reversed(steps))
        self._max_staleness = max_staleness
        self._batches: dict[int, _Batch] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._services.rollout.abandon()

    def next_batch(self, step: int) -> list[PendingGroup]:
        """Return the step's groups in the order of its problems; steps are asked for in their order, after their weights are loaded."""
        while self._to_begin and self._to_begin[-1] <= step + self._max_staleness:
            self._begin(self._to_begin.pop())
        batch = self._batches.pop(step)
        while len(batch.finished) < len(batch.problems):
            self._services.rollout.poll()
        return [batch.finished[problem.id] for problem in batch.problems]

    def work_until(self, done: "Future[Any]") -> None:
        """Take in what is generated until something else is done."""
        while not done.done() and not self._services.rollout.is_idle:
            self._services.rollout.poll(POLL_S)

    def _begin(self, step: int) -> None:
        problems, sampling = self._batch_of(step)
        batch = self._batches[step] = _Batch(problems)

        def take(pending: PendingGroup) -> None:
            batch.finished[pending.group.problem.id] = pending

        self._services.submit(problems, sampling, take)
