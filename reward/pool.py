"""The handle of the reward service: Ray actors, each with a scoring process that can be killed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from ovt_ray.config import RewardConfig
from ovt_ray.errors import RewardError
from ovt_ray.types import Outcome, Problem, RolloutGroup, Score
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
class _Pending:
    """What was submitted and not yet collected."""

    place: int
    """Index of the actor that scores it."""
    problem_id: str
    num_texts: int


class RewardPool:
    """Reward actors, restarted by Ray when they die; a group goes to the one with the fewest groups in flight.

    Scoring overlaps with generation: `submit` each group as it finishes, `ray.wait` on the references beside those of the
    rollout, and `collect` what is ready.
    """

    def __init__(self, config: RewardConfig) -> None:
        """Start the actors and load the reward in each.

        Raises RewardError if the reward cannot be loaded, with the loader's message, or if Ray does not place the actors.
        """
        self._config = config
        self._in_flight: dict[ray.ObjectRef, _Pending] = {}
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

    def submit(self, group: RolloutGroup) -> "ray.ObjectRef[tuple[Score, ...]]":
        """Return at once a reference to one score per completion, to be waited for and handed to `collect`."""
        return self.submit_texts(group.problem, tuple(completion.text for completion in group.completions))

    def submit_texts(self, problem: Problem, texts: Sequence[str]) -> "ray.ObjectRef[tuple[Score, ...]]":
        """Return what `submit` does, for texts that no rollout worker wrote."""
        loads = Counter(pending.place for pending in self._in_flight.values())
        place = min(range(len(self._actors)), key=lambda place: loads[place])
        scores: ray.ObjectRef[tuple[Score, ...]] = self._actors[place].score.remote(problem, tuple(texts))
        self._in_flight[scores] = _Pending(place=place, problem_id=problem.id, num_texts=len(texts))
        return scores

    def collect(self, scores: "ray.ObjectRef[tuple[Score, ...]]") -> tuple[Score, ...]:
        """Return the scores of what was submitted, waiting for them; one per text whatever dies.

        Raises RewardError if the reward can no longer be loaded, or if even hanging on every text in flight would not have
        taken so long.
        """
        num_texts = sum(pending.num_texts for pending in self._in_flight.values())
        pending = self._in_flight.pop(scores)
        limit_s = num_texts * (self._config.deadline_s + RESTART_S) + PLACEMENT_DEADLINE_S + START_DEADLINE_S
        late = f"problem {pending.problem_id}: no scores after {limit_s:g} s; is its reward actor placed? see `ray list actors`"
        try:
            return _get(scores, limit_s, late)
        except RayActorError as error:
            reason = f"the reward actor died {MAX_RETRIES + 1} times on problem {pending.problem_id}: {error}"
            return (Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=reason),) * pending.num_texts

    def score(self, group: RolloutGroup) -> tuple[Score, ...]:
        """Return one score per completion, in order."""
        return self.collect(self.submit(group))

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
