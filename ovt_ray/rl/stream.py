"""The groups of one step after another, generated ahead of the loop that learns from them.

A step takes the next problems of the stage's stream. With `grpo.dynamic_sampling` it takes one more for each of its groups that turns out
flat, so at `max_staleness` 0 its groups are those of the first N problems from where it began, N being P plus the flat ones among them,
whatever order they end in.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Self

from ovt_ray.core.errors import StageError
from ovt_ray.core.types import Problem, ScoredGroup
from ovt_ray.rl.checkpoint import BegunStep, StreamState
from ovt_ray.rl.samples import oldest_version, teaches, why_flat
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.services import PendingGroup, Services

POLL_S = 0.05
"""How long the end of a piece of work goes unnoticed, as a rule: a worker that has to be replaced takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """All groups of a step."""

    groups: Mapping[int, ScoredGroup]
    """By the position of their problem in the stream, ascending."""
    num_stale: int
    """Groups that were too old to be learnt from and were generated again."""


@dataclass
class _Batch:
    """One step's groups, as far as they are known; positions are those of their problems."""

    step: int
    problems: dict[int, Problem] = field(default_factory=dict)
    """Ascending; their ids differ."""
    generated: dict[int, PendingGroup] = field(default_factory=dict)
    """Not scored yet, as far as is known."""
    finished: dict[int, ScoredGroup] = field(default_factory=dict)
    flat: set[int] = field(default_factory=set)
    """Finished, and nothing can be learnt from them."""
    stale: set[int] = field(default_factory=set)
    """Generated again, or being so, as they were too old."""

    @property
    def is_generated(self) -> bool:
        return len(self.generated) + len(self.finished) == len(self.problems)

    @property
    def is_finished(self) -> bool:
        return len(self.finished) == len(self.problems)

    def finish(self, position: int, group: ScoredGroup) -> None:
        """Take in a group with its scores."""
        self.finished[position] = group
        if not teaches(group):
            self.flat.add(position)

    def flat_run(self) -> list[int]:
        """Return the longest run of problems one after the other whose groups are all known to be flat."""
        runs = [list(run) for is_flat, run in groupby(self.problems, self.flat.__contains__) if is_flat]
        return max(runs, key=len, default=[])


class GroupStream:
    """Generates each step's groups at most `max_staleness` steps before they are asked for.

    So a group that step s learns from was begun when the rollout workers already served the weights of step s - max_staleness. One that
    is older all the same, as those of another run's checkpoint may be, is generated again. With 0 a step's groups are begun when they are
    asked for. Steps are asked for in their order, after their weights are loaded. Use it in a `with` statement.
    """

    def __init__(self, stage: GrpoStage, services: Services, state: StreamState) -> None:
        """Go on from a state: what is finished there is not generated again, what is not is begun anew."""
        self._stage = stage
        self._services = services
        self._position = state.position
        self._rollout_is_exact = state.rollout_is_exact
        self._batches: dict[int, _Batch] = {}
        self._next_step = state.step
        section = stage.section
        self._max_flat_run = section.max_flat_steps * section.problems_per_step if section.dynamic_sampling else 0
        """Flat groups in a row after which no other problem is tried; 0 replaces none."""
        for begun in state.begun:
            self._resume(begun)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._services.rollout.abandon()

    def generate(self, step: int) -> None:
        """Return when the step's groups are generated, but for the replacements of those that are not known to be flat yet."""
        section = self._stage.section
        while self._next_step <= min(step + section.max_staleness, section.num_steps - 1):
            batch = self._batches[self._next_step] = _Batch(self._next_step)
            self._ask(batch, section.problems_per_step)
            self._next_step += 1
        batch = self._batches[step]
        self._renew_stale(batch)
        while not batch.is_generated:
            self._listen(batch)

    def take(self, step: int) -> StepGroups:
        """Return the step's groups once all are scored; none that teaches is older than `max_staleness` versions.

        Raises StageError if too many problems in a row gave flat groups.
        """
        batch = self._batches[step]
        while True:
            self._renew_stale(batch)
            if self._max_flat_run and len(run := batch.flat_run()) >= self._max_flat_run:
                groups = [batch.finished[position] for position in run]
                what = f"{len(run)} problems in a row of step {step}"
                raise StageError(why_flat(what, groups, mask_truncated=self._stage.section.mask_truncated))
            if batch.is_finished:
                break
            if batch.is_generated:
                self._take_scores(batch, {min(batch.generated), *self._scored(batch)})
            else:
                self._listen(batch)
        del self._batches[step]
        return StepGroups(groups={position: batch.finished[position] for position in batch.problems}, num_stale=len(batch.stale))

    def work_until(self, done: "Future[Any]") -> None:
        """Take in what is generated and scored until something else is done."""
        while not done.done():
            if self._services.rollout.is_idle:
                wait([done], timeout=POLL_S if self._replaces_later() else None)
            else:
                self._services.rollout.poll(POLL_S)
            self._take_known_scores()

    def state(self, step: int, num_flat: int) -> StreamState:
        """Return what is needed to go on with a step none of whose groups was taken yet."""
        for batch in self._batches.values():
            self._take_scores(batch, self._scored(batch))
        return StreamState(
            step=step,
            position=self._position,
            version=self._services.learner.version,
            num_flat=num_flat,
            rollout_is_exact=self._rollout_is_exact,
            begun=tuple(
                BegunStep(step=batch.step, positions=tuple(batch.problems), finished=dict(batch.finished))
                for batch in self._batches.values()
            ),
        )

    def _resume(self, begun: BegunStep) -> None:
        problems = {position: self._stage.problems[position] for position in begun.positions}
        batch = self._batches[begun.step] = _Batch(begun.step, problems)
        for position, group in begun.finished.items():
            batch.finish(position, group)
        self._submit(batch, {position: problem for position, problem in problems.items() if position not in batch.finished})
        self._next_step = begun.step + 1

    def _ask(self, batch: _Batch, num: int) -> None:
        """Submit the next problems of the stream, without those that the step has had: the same weights would answer them alike.

        A step that has had all problems there are gets no more.
        """
        had = {problem.id for problem in batch.problems.values()}
        fresh: dict[int, Problem] = {}
        while len(fresh) < num and len(had) < len(self._stage.problems):
            problem = self._stage.problems[self._position]
            if problem.id not in had:
                had.add(problem.id)
                fresh[self._position] = problem
            self._position += 1
        replaces = bool(batch.problems)
        batch.problems |= fresh
        self._submit(batch, fresh, are_awaited=replaces)  # before the steps begun ahead, which would be waited for first

    def _submit(self, batch: _Batch, problems: Mapping[int, Problem], *, are_awaited: bool = False) -> None:
        place_of = {problem.id: position for position, problem in problems.items()}

        def take_in(pending: PendingGroup) -> None:
            batch.generated[place_of[pending.group.problem.id]] = pending

        if problems:
            self._services.submit(list(problems.values()), self._stage.sampling(batch.step), take_in, are_awaited=are_awaited)

    def _listen(self, batch: _Batch) -> None:
        """Wait for news of the rollout workers, and hear of scores, which may call for other problems."""
        if self._max_flat_run and batch.generated:
            self._services.rollout.poll(POLL_S)
        else:
            self._services.rollout.poll()
        self._take_known_scores()

    def _take_known_scores(self) -> None:
        """Take in scores that may call for other problems; where none can, a step's scores are soon enough when it is asked for."""
        for batch in self._batches.values() if self._max_flat_run else ():
            self._take_scores(batch, self._scored(batch))

    def _replaces_later(self) -> bool:
        return bool(self._max_flat_run) and any(batch.generated for batch in self._batches.values())

    def _scored(self, batch: _Batch) -> list[int]:
        return [position for position, pending in batch.generated.items() if self._services.are_scored(pending)]

    def _take_scores(self, batch: _Batch, positions: Iterable[int]) -> None:
        """Take in the scores of generated groups, waiting for them if need be; flat groups are replaced if the config says so."""
        num_flat = 0
        for position in sorted(positions):
            (group,) = self._services.scores([batch.generated.pop(position)])
            batch.finish(position, group)
            num_flat += position in batch.flat
        if num_flat and len(batch.flat_run()) < self._max_flat_run:
            self._ask(batch, num_flat)

    def _renew_stale(self, batch: _Batch) -> None:
        """Begin groups again that are too old to be learnt from; flat ones are not learnt from."""
        oldest = self._services.learner.version - self._stage.section.max_staleness
        stale = {position for position in batch.finished.keys() - batch.flat if oldest_version(batch.finished[position]) < oldest}
        assert not stale & batch.stale, f"step {batch.step}: groups begun with the newest weights say that they are older than {oldest}"
        batch.stale |= stale
        for position in stale:
            del batch.finished[position]
        self._submit(batch, {position: batch.problems[position] for position in sorted(stale)}, are_awaited=True)
