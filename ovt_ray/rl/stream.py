"""The groups of one step after another, generated ahead of the loop that learns from them.

A step takes the next P problems of the stage's stream. With `grpo.dynamic_sampling` it takes another problem for each zero-variance group.
At `max_staleness` 0 a step therefore uses the first N problems from its place in the stream, and the order in which they end does not
matter. N is P plus the number of zero-variance groups among them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Self

from ovt_ray.core.errors import StageError
from ovt_ray.core.types import Problem, ScoredGroup
from ovt_ray.rl.checkpoint import BegunStep, StreamState
from ovt_ray.rl.samples import has_signal, oldest_version, versions_behind, why_no_signal
from ovt_ray.rl.services import GrpoServices
from ovt_ray.rl.stage import GrpoStage

POLL_S = 0.05
"""Longest time for which the end of a piece of work goes unnoticed, unless a worker is replaced or the reward service is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """All groups of a step."""

    by_position: Mapping[int, ScoredGroup]
    """Each group by the position of its problem in the stream, ascending."""
    versions_behind: Sequence[int]
    """Number of versions by which the oldest token of each completion is older than the learner's weights."""
    rollout_is_proximal: bool
    """Whether the rollout's log-probabilities equal those of the learner's policy to the rounding of float32."""
    num_stale: int
    """Number of groups that were too old to be learnt from and were generated again."""

    @property
    def groups(self) -> list[ScoredGroup]:
        """The groups, in the order of their problems in the stream."""
        return list(self.by_position.values())


@dataclass
class _Batch:
    """One step's groups, as far as they are known. Positions are positions of their problems in the stream."""

    step: int
    problems: dict[int, Problem] = field(default_factory=dict)
    """Problems by position, ascending; their ids differ."""
    generated: dict[int, int] = field(default_factory=dict)
    """Request of each generated group whose scores were not taken yet, by position."""
    finished: dict[int, ScoredGroup] = field(default_factory=dict)
    """Scored groups by position."""
    without_signal: set[int] = field(default_factory=set)
    """Positions of finished zero-variance groups."""
    stale: set[int] = field(default_factory=set)
    """Positions of groups that were too old and are, or were, generated again."""

    @property
    def is_generated(self) -> bool:
        return len(self.generated) + len(self.finished) == len(self.problems)

    @property
    def is_finished(self) -> bool:
        return len(self.finished) == len(self.problems)

    def finish(self, position: int, group: ScoredGroup) -> None:
        """Take in a group with its scores."""
        self.finished[position] = group
        if not has_signal(group):
            self.without_signal.add(position)

    def run_without_signal(self) -> list[int]:
        """Return the longest run of consecutive problems whose groups are all known to have zero variance."""
        runs = [list(run) for has_none, run in groupby(self.problems, self.without_signal.__contains__) if has_none]
        return max(runs, key=len, default=[])


class GroupStream:
    """Generates each step's groups at most `max_staleness` steps before they are asked for.

    The rollout workers therefore served the weights of step s - max_staleness before a group of step s was begun. A group from a
    checkpoint may be older, and is then generated again. With 0 a step's groups are begun when they are asked for. Steps are asked for
    in their order, after their weights are loaded. Use it in a `with` statement.
    """

    def __init__(self, stage: GrpoStage, services: GrpoServices, state: StreamState) -> None:
        """Go on from a state. Its finished groups are not generated again, and its other groups are begun again."""
        self._stage = stage
        self._groups = services.groups
        self._learner = services.learner
        self._position = state.position
        self._rollout_is_exact = state.rollout_is_exact
        self._batches: dict[int, _Batch] = {}
        """Begun steps whose groups were not taken yet."""
        self._places: dict[int, tuple[_Batch, int]] = {}
        """Batch and position of each request in work."""
        self._next_step = state.step
        section = stage.section
        self._max_run = section.max_flat_steps * section.problems_per_step if section.dynamic_sampling else 0
        """Zero-variance groups in a row after which no other problem is tried; 0 replaces none."""
        # In order: each moves `_next_step` to the step after it.
        for begun in state.begun:
            self._resume(begun)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # Or workers would go on with groups that nobody takes, in front of the next stage's.
        self._groups.abandon()

    def generate(self, step: int) -> None:
        """Return when the step's groups are generated.

        Replacements of zero-variance groups are generated later, as scores come in.
        """
        section = self._stage.section
        # Earlier steps first: the queue keeps this order, and the loop waits for them first.
        while self._next_step <= min(step + section.max_staleness, section.num_steps - 1):
            batch = self._batches[self._next_step] = _Batch(self._next_step)
            self._ask(batch, section.problems_per_step)
            self._next_step += 1
        batch = self._batches[step]
        # Before the wait: groups of a checkpoint may be too old from the start.
        self._renew_stale(batch)
        while not batch.is_generated:
            self._listen(batch)

    def take(self, step: int) -> StepGroups:
        """Return the step's groups once all are scored; none with a signal is older than `max_staleness` versions.

        Raises StageError if too many problems in a row gave zero-variance groups.
        """
        batch = self._batches[step]
        while True:
            # Each time: only a group whose scores are there is known to have a signal, and only such a group is worth a second try.
            self._renew_stale(batch)
            # Before `is_finished`: a run this long is not replaced, so the step can be finished without hope.
            if self._max_run and len(run := batch.run_without_signal()) >= self._max_run:
                groups = [batch.finished[position] for position in run]
                where = f"{len(run)} problems in a row of step {step}"
                raise StageError(why_no_signal(where, groups, mask_truncated=self._stage.section.mask_truncated))
            if batch.is_finished:
                break
            if batch.is_generated:
                # Waits for the first score only, and takes the others that are there: a replacement is begun as early as possible.
                self._take_scores(batch, {min(batch.generated), *self._scored(batch)})
            else:
                self._listen(batch)
        # Not before all scores are in: until then a score may still call for a replacement.
        del self._batches[step]
        by_position = {position: batch.finished[position] for position in batch.problems}  # whatever order they ended in
        behind = versions_behind(by_position.values(), self._learner.version)
        return StepGroups(
            by_position=by_position,
            versions_behind=behind,
            rollout_is_proximal=self._rollout_is_exact and not any(behind),
            num_stale=len(batch.stale),
        )

    def work_until(self, done: "Future[Any]") -> None:
        """Take in generated groups and their scores until something else is done."""
        while not done.done():
            # `poll` of an idle source returns at once, so the loop would spin.
            if self._groups.is_idle:
                wait([done], timeout=POLL_S if self._replaces_later() else None)
            else:
                self._poll(POLL_S)
            self._take_known_scores()

    def state(self, step: int, num_without_signal: int) -> StreamState:
        """Return the state from which to go on with a step. None of the step's groups may have been taken."""
        # Before `position` is read, as replacements move it. A saved score is not computed again.
        for batch in self._batches.values():
            self._take_scores(batch, self._scored(batch))
        return StreamState(
            step=step,
            position=self._position,
            version=self._learner.version,
            num_without_signal=num_without_signal,
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
        self._submit(batch, [position for position in problems if position not in batch.finished])
        self._next_step = begun.step + 1

    def _ask(self, batch: _Batch, num: int) -> None:
        """Submit the next problems of the stream, except problems that the step had before. The same weights would answer them alike.

        A step that had every problem gets no more.
        """
        had = {problem.id for problem in batch.problems.values()}
        fresh: dict[int, Problem] = {}
        while len(fresh) < num and len(had) < len(self._stage.problems):
            problem = self._stage.problems[self._position]
            if problem.id not in had:
                had.add(problem.id)
                fresh[self._position] = problem
            # Skipped problems are used up too: the position alone says where a resumed run goes on.
            self._position += 1
        replaces = bool(batch.problems)
        batch.problems |= fresh
        self._submit(batch, list(fresh), are_awaited=replaces)  # before the steps begun ahead, which would be waited for first

    def _submit(self, batch: _Batch, positions: list[int], *, are_awaited: bool = False) -> None:
        if positions:
            problems = [batch.problems[position] for position in positions]
            requests = self._groups.submit(problems, self._stage.sampling(batch.step), are_awaited=are_awaited)
            self._places |= {request: (batch, position) for request, position in zip(requests, positions, strict=True)}

    def _poll(self, timeout_s: float = math.inf) -> None:
        """Wait for generated groups of any step, and put each in its batch."""
        for request in self._groups.poll(timeout_s):
            batch, position = self._places.pop(request)
            batch.generated[position] = request

    def _listen(self, batch: _Batch) -> None:
        """Wait for groups, and take in scores that may call for other problems."""
        if self._max_run and batch.generated:
            self._poll(POLL_S)  # not longer: a score may call for a replacement, and it comes without an event
        else:
            self._poll()
        self._take_known_scores()

    def _take_known_scores(self) -> None:
        """Take in scores that may call for other problems. Without replacements, scores are taken when their step is asked for."""
        for batch in self._batches.values() if self._max_run else ():
            self._take_scores(batch, self._scored(batch))

    def _replaces_later(self) -> bool:
        return bool(self._max_run) and any(batch.generated for batch in self._batches.values())

    def _scored(self, batch: _Batch) -> list[int]:
        return [position for position, request in batch.generated.items() if self._groups.are_scored(request)]

    def _take_scores(self, batch: _Batch, positions: Iterable[int]) -> None:
        """Take in the scores of generated groups, waiting if necessary. Replace zero-variance groups if the config says so."""
        num_without_signal = 0
        for position in sorted(positions):
            batch.finish(position, self._groups.scored(batch.generated.pop(position)))
            num_without_signal += position in batch.without_signal
        # Not beyond a run that ends the stage: more problems would only delay the error.
        if num_without_signal and len(batch.run_without_signal()) < self._max_run:
            self._ask(batch, num_without_signal)

    def _renew_stale(self, batch: _Batch) -> None:
        """Begin groups again that are too old to learn from. Zero-variance groups teach nothing at any age."""
        oldest = self._learner.version - self._stage.section.max_staleness
        stale = {position for position in batch.finished.keys() - batch.without_signal if oldest_version(batch.finished[position]) < oldest}
        assert not stale & batch.stale, f"step {batch.step}: groups begun with the newest weights say that they are older than {oldest}"
        batch.stale |= stale
        for position in stale:
            del batch.finished[position]
        self._submit(batch, sorted(stale), are_awaited=True)
