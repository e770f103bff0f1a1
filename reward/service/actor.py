"""The reward actor: scores answers in its own processes and at the replicas of Ray actors, and sums the parts."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property

import ray

from ovt_ray.core.config.run import RewardConfig
from ovt_ray.core.spans import Span, SpanLog
from ovt_ray.core.types import Problem, Score
from reward.protocol import Answer, Part
from reward.service.combine import combine
from reward.service.replicas import ReplicaCaller, Replicas
from reward.service.scoring import ScoringPool


def parts_of(config: RewardConfig) -> tuple[Part, ...]:
    """Return the config's parts as plain values, the form that scoring processes take."""
    return tuple(Part(name=part.name, weight=part.weight, options=part.options) for part in config.parts)


class RewardActor:
    """Scores answers. Its processes start at the first call, so that Ray can restart the actor at any time."""

    def __init__(self, config: RewardConfig, pickled_replicas: bytes) -> None:
        """`pickled_replicas` maps the position of each part that runs in Ray actors to its replicas. All other parts run in processes.

        They are pickled because Ray warns that an actor with handles among its arguments may fail to restart. The pool keeps them alive.
        """
        replicas: Mapping[int, Replicas] = ray.cloudpickle.loads(pickled_replicas)
        self._config = config
        self._parts = parts_of(config)
        self._in_processes = [place for place in range(len(self._parts)) if place not in replicas]
        self._callers = {place: ReplicaCaller(actors, config.deadline_s) for place, actors in replicas.items()}
        self._num_in_work = 0
        self._spans = SpanLog()

    @cached_property
    def _processes(self) -> ScoringPool:
        return ScoringPool(
            [self._parts[place] for place in self._in_processes],
            num_processes=self._config.num_processes,
            deadline_s=self._config.deadline_s,
            memory_gb=self._config.memory_gb,
        )

    async def ready(self) -> list[int]:
        """Return the ids of the scoring processes once they have loaded their parts. Raises RewardError if a part cannot be loaded."""
        return self._processes.process_ids() if self._in_processes else []

    async def score(self, problem: Problem, answers: tuple[Answer, ...]) -> tuple[Score, ...]:
        """Return a score per answer, in order."""
        self._count(1)
        try:
            return await self._score(problem, answers)
        finally:
            # Even for a cancelled call: the timeline would show the actor busy until the end of the run.
            self._count(-1)

    async def take_spans(self) -> tuple[Span, ...]:
        """Return the spans of scoring since the last call."""
        return self._spans.take()

    def _count(self, change: int) -> None:
        self._num_in_work += change
        self._spans.switch("score" if self._num_in_work else None)

    async def _score(self, problem: Problem, answers: tuple[Answer, ...]) -> tuple[Score, ...]:
        # Started first: replicas work while the processes score.
        calls = asyncio.gather(*(caller.score(problem, answers) for caller in self._callers.values()))
        own, others = await asyncio.gather(self._score_in_processes(problem, answers), calls)
        columns = dict(zip(self._callers, others, strict=True))
        for column, place in enumerate(self._in_processes):
            columns[place] = [row[column] for row in own]
        # In the order of the config: weights belong to parts by position.
        ordered = [columns[place] for place in range(len(self._parts))]
        return tuple(combine(self._parts, scores) for scores in zip(*ordered, strict=True))

    async def _score_in_processes(self, problem: Problem, answers: tuple[Answer, ...]) -> list[list[Score]]:
        """Return each answer's scores by the parts that run in processes. Each process takes a share of the answers."""
        if not self._in_processes:
            return []
        bounds = [len(answers) * share // self._config.num_processes for share in range(self._config.num_processes + 1)]
        shares: list[Sequence[Answer]] = [answers[low:high] for low, high in zip(bounds, bounds[1:], strict=False) if high > low]
        rows = await asyncio.gather(*(asyncio.wrap_future(self._processes.submit(problem, share)) for share in shares))
        # Consecutive shares in their order: scores belong to answers by position.
        return [row for share in rows for row in share]
