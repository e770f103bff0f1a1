"""The handle of the reward service: Ray actors, each with a scoring process that can be killed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from ovt_ray.config import RewardConfig
from ovt_ray.errors import RewardError
from ovt_ray.types import Outcome, Problem, Score
from reward.worker import START_DEADLINE_S, ScoringProcess

CPUS_PER_ACTOR = 0.1
"""Logical CPUs asked of Ray. Scoring is light and fits beside the engines, also on a machine whose CPUs are all given out."""
PLACEMENT_DEADLINE_S = 60.0
"""Longest wait for Ray to place an actor."""
RESTART_S = 5.0
"""Allowance for a new scoring process after one was killed."""
MAX_RETRIES = 3
"""How often the scoring of a group is begun again because its actor died."""


class RewardActor:
    """Scores groups in a process of its own, which starts with the first call, so that Ray can restart the actor at any time."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config

    @cached_property
    def _process(self) -> ScoringProcess:
        return ScoringProcess(self._config.name)

    def process_id(self) -> int:
        """Return the id of the scoring process, which has loaded the reward. Raises RewardError if it cannot."""
        return self._process.pid

    def score(self, problem: Problem, texts: tuple[str, ...]) -> tuple[Score, ...]:
        """Return one score per text, in order."""
        return self._process.score(problem, texts, self._config.deadline_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Some completions of a problem on their way to their scores."""

    place: int
    """Index of the actor that scores it."""
    problem_id: str
    num_texts: int
    scores: "ray.ObjectRef[tuple[Score, ...]]"


class RewardPool:
    """Reward actors, restarted by Ray when they die; a completion goes to the one with the fewest in flight.

    Scoring overlaps with generation: `submit` each completion as it ends, and `collect` its score when it is needed.
    """

    def __init__(self, config: RewardConfig) -> None:
        """Start the actors and load the reward in each.

        Raises RewardError if the reward cannot be loaded, with the loader's message, or if Ray does not place the actors.
        """
        self._config = config
        self._loads = [0] * config.num_actors
        remote = ray.remote(num_cpus=CPUS_PER_ACTOR, max_restarts=-1, max_task_retries=MAX_RETRIES)(RewardActor)
        self._actors: list[Any] = [remote.remote(config) for _ in range(config.num_actors)]
        limit_s = PLACEMENT_DEADLINE_S + START_DEADLINE_S
        asked = f"reward.num_actors={config.num_actors}, {CPUS_PER_ACTOR} CPU each"
        late = f"{asked}: not all answered in {limit_s:g} s; `ray status` says what the cluster has"
        try:
            for actor in self._actors:
                _get(actor.process_id.remote(), limit_s, late)
        except BaseException:
            self.close()
            raise

    def submit(self, problem: Problem, texts: Sequence[str]) -> Scoring:
        """Return at once what `collect` takes for the scores of some completions of a problem."""
        place = self._loads.index(min(self._loads))
        self._loads[place] += len(texts)
        scores = self._actors[place].score.remote(problem, tuple(texts))
        return Scoring(place=place, problem_id=problem.id, num_texts=len(texts), scores=scores)

    def are_ready(self, scoring: Sequence[Scoring]) -> bool:
        """Return whether `collect` would not wait for any of these."""
        refs = [one.scores for one in scoring]
        return len(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) == len(refs)

    def collect(self, scoring: Scoring) -> tuple[Score, ...]:
        """Return the scores of what was submitted, in order, waiting for them; one per text whatever dies. To be called once.

        Raises RewardError if the reward can no longer be loaded, or if even hanging on every text in flight would not have
        taken so long.
        """
        limit_s = sum(self._loads) * (self._config.deadline_s + RESTART_S) + PLACEMENT_DEADLINE_S + START_DEADLINE_S
        self._loads[scoring.place] -= scoring.num_texts
        late = f"problem {scoring.problem_id}: no score after {limit_s:g} s; is its reward actor placed? see `ray list actors`"
        try:
            return _get(scoring.scores, limit_s, late)
        except RayActorError as error:
            reason = f"the reward actor died {MAX_RETRIES + 1} times on problem {scoring.problem_id}: {error}"
            return (Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=reason),) * scoring.num_texts

    def close(self) -> None:
        """End the actors and, with them, their processes."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _get(scores: "ray.ObjectRef[Any]", timeout_s: float, late: str) -> Any:
    """Return what the reference holds. Raises the far side's own RewardError, and one that says `late` past the deadline."""
    try:
        return ray.get(scores, timeout=timeout_s)
    except GetTimeoutError as error:
        raise RewardError(late) from error
    except RayTaskError as error:
        if isinstance(error.cause, RewardError):
            raise error.cause from None
        raise
